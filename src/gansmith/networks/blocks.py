"""Pieces that several networks share: conditioning, heads, output limits, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..base import Spec
from ..errors import UsageError

Condition = Literal["projection", "concat", "none"]
Output = Literal["clamp", "tanh", "linear"]


def pictures(spec: Spec, name: str, least: int = 2) -> tuple[int, int, int]:
    """(C, H, W) of a picture spec. Raises UsageError for another kind of data, or a side under `least`."""
    if len(spec.shape) != 3:
        raise UsageError(
            f"The network {name!r} makes pictures [C, H, W]; this data is {spec.kind} of shape {list(spec.shape)}."
        )
    if min(spec.shape[1:]) < least:
        size = f"{spec.shape[1]} x {spec.shape[2]}"
        raise UsageError(f"The network {name!r} needs pictures of {least} x {least} or more; these are {size}.")
    return spec.shape[0], spec.shape[1], spec.shape[2]


def halvings(height: int, width: int, base: int) -> int:
    """How often a picture is halved until its shorter side is at most `base`; at least once."""
    return max(1, math.ceil(math.log2(min(height, width) / base)))


def reduced(side: int, halvings: int) -> int:
    """A side after halvings, rounded up: networks make the next multiple of 2^halvings and crop."""
    return -(-side // 2**halvings)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Centre crop of [B, C, H, W]."""
    if x.shape[-2:] == (height, width):
        return x
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def normed(layer: nn.Module, spectral: bool) -> nn.Module:
    """Spectral normalisation (Miyato et al. 2018, sec. 2.1) of a layer where asked for."""
    return spectral_norm(layer) if spectral else layer


class Halve(nn.Conv2d):
    """4x4 convolution of stride 2, padding 1. With few input channels it is computed as a 2x2 one on pixels taken in
    fours: the same sum in larger pieces, about twice as fast."""

    def __init__(self, c_in: int, c_out: int, bias: bool = True):
        super().__init__(c_in, c_out, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels > 8:
            return super().forward(x)
        odd_height, odd_width = x.shape[2] % 2, x.shape[3] % 2  # an odd side's last row is out of every window's reach
        fours = F.pixel_unshuffle(F.pad(x, (1, 1 - odd_width, 1, 1 - odd_height)), 2)
        return F.conv2d(follow(fours, self.weight), F.pixel_unshuffle(self.weight, 2), self.bias)


class Pointwise(nn.Linear):
    """1x1 convolution as one matrix product over positions: faster than a convolution where channels come last, twice
    so through the double backward of a gradient penalty."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def follow(x: Tensor, weight: Tensor) -> Tensor:
    """x in the memory layout of a convolution's weight, so that a network runs in one layout from end to end."""
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def wide(x: Tensor) -> Tensor:
    """bf16 as fp32: what leaves a network is compared, summed and clamped in full precision."""
    return x.float() if x.dtype == torch.bfloat16 else x


class Latent(nn.Module):
    """z [B, z_dim], and the class where there is one, as one vector: an embedding is concatenated (Mirza & Osindero 2014)."""

    def __init__(self, z_dim: int, classes: int, embed: int):
        super().__init__()
        self.embed = nn.Embedding(classes, embed) if classes else None
        self.width = z_dim + (embed if classes else 0)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        if self.embed is None:
            return z
        return torch.cat([z, self.embed(y)], 1)


class Head(nn.Module):
    """Features [B, width] -> logits [B]; projection of the class adds e_y . h (Miyato & Koyama 2018, eq. 3)."""

    def __init__(self, width: int, classes: int, condition: Condition, *, spectral: bool = False, bias: bool = True):
        super().__init__()
        self.logit = normed(nn.Linear(width, 1, bias=bias), spectral)
        self.project = normed(nn.Embedding(classes, width), spectral) if classes and condition == "projection" else None

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        logit = wide(self.logit(h)[:, 0])
        return logit if self.project is None else logit + wide(self.project(y) * h).sum(1)


class Discriminator(nn.Module):
    """Shared face of every discriminator: forward(x, y) -> logits [B], `features` [B, F], `classify` [B, classes].

    condition: projection, concat (the class enters beside x), or none. classes: also an auxiliary classifier
    (Odena et al. 2017).
    """

    def __init__(
        self,
        trunk: Callable[[int], tuple[nn.Module, int]],
        spec: Spec,
        condition: Condition,
        classify: bool,
        **head: Any,
    ):
        super().__init__()
        n = len(spec.classes)
        concat = bool(n) and condition == "concat"
        self.trunk, width = trunk(self._extra(spec, n) if concat else 0)
        self.beside = nn.Embedding(n, math.prod(spec.shape[1:]) if len(spec.shape) == 3 else n) if concat else None
        self.head = Head(width, n, condition, **head)
        self.classes = nn.Linear(width, n) if n and classify else None

    @staticmethod
    def _extra(spec: Spec, n: int) -> int:
        return 1 if len(spec.shape) == 3 else n

    def features(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self.beside is not None and y is not None:
            x = torch.cat([x, self.beside(y).view(x.shape[0], -1, *x.shape[2:])], 1)
        return self.trunk(x)

    def classify(self, h: Tensor) -> Tensor:
        assert self.classes is not None, "made without classify=True"
        return self.classes(h)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, y), y)


class _Clamp(torch.autograd.Function):
    """clamp(o, -1, 1) whose gradient stops only where it would push an already clamped value further out."""

    @staticmethod
    def forward(ctx: Any, o: Tensor) -> Tensor:
        ctx.save_for_backward(o)
        return o.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (o,) = ctx.saved_tensors
        outward = ((o > 1) & (grad < 0)) | ((o < -1) & (grad > 0))  # a descent step moves against the gradient
        return grad.masked_fill(outward, 0)


def limit(x: Tensor, output: Output) -> Tensor:
    """Bring a generator's last layer into the range of pictures, [-1, 1].

    clamp reaches the storage format's exact limits, which tanh cannot: white paper is exactly white.
    """
    x = wide(x)
    if output == "clamp":
        return torch.as_tensor(_Clamp.apply(x))
    return x.tanh() if output == "tanh" else x


@torch.no_grad()
def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """N(0, .02) weights, zero biases, norm gains N(1, .02) (Radford et al. 2016, sec. 4)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            layer.weight.normal_(0, std)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.weight.normal_(1, std)
        if getattr(layer, "bias", None) is not None and isinstance(layer.bias, Tensor):
            layer.bias.zero_()


def start_at(bias: Tensor, spec: Spec, output: Output) -> None:
    """Start a last layer's bias [C] at the data's mean, kept inside (-1, 1)."""
    with torch.no_grad():
        mean = torch.tensor(spec.mean or [0.0] * bias.numel()).clamp(-0.9, 0.9)
        bias.copy_(mean.atanh() if output == "tanh" else mean)


class _Leaky(torch.autograd.Function):
    """Leaky ReLU .2 that keeps its output alone, which the next layer keeps anyway, and whose gradient is a function of
    the incoming one alone: a gradient penalty then sends no zeros back through the whole forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, 0.2)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(grad, y.detach(), 0.2, True)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU, slope .2."""
    return torch.as_tensor(_Leaky.apply(x))


class Leaky(nn.Module):
    """Leaky ReLU, slope .2, as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x)
