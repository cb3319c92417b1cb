"""Pieces that several networks share: conditioning, heads, output limits, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..base import Spec
from ..errors import UsageError

Condition = Literal["projection", "concat", "none"]
Output = Literal["clamp", "tanh", "linear"]
Pair = tuple[int, int]


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


class _Convolve(torch.autograd.Function):
    """Convolution in a pass with `ones`, whose slope is differentiated again: the input's gradient is a transposed
    convolution, whose own derivatives are one convolution and one weight gradient. (Torch's general double backward
    copies, and takes the groups one by one.) The weight gets no gradient from the output, only through the slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
        sides = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
        rest = [(n + 2 * p - k) % s for n, k, s, p in sides]  # what no window reaches
        ctx.save_for_backward(weight)
        ctx.how, ctx.dtype = (stride, padding, rest, groups), x.dtype
        return F.conv2d(x, weight, None, stride, padding, 1, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):  # the gradient comes in the precision of the forward pass
            back = F.conv_transpose2d(grad, weight.to(grad.dtype), None, *ctx.how)
        return back.to(ctx.dtype), None, None, None, None


def biased(x: Tensor, bias: Tensor | None, ones: Tensor) -> Tensor:
    """x [B, C, ...] + bias [C] times ones [B]."""
    if bias is None:
        return x
    return x + torch.outer(ones, bias).to(x.dtype).view(*x.shape[:2], *[1] * (x.dim() - 2))


def convolve(x: Tensor, layer: nn.Conv2d, weight: Tensor, stride: Pair, padding: Pair, ones: Tensor | None) -> Tensor:
    """A layer's convolution, in the ordinary way or, with ones, homogeneous in (x, ones) together."""
    if ones is None:
        return F.conv2d(x, weight, layer.bias, stride, padding, 1, layer.groups)
    return biased(torch.as_tensor(_Convolve.apply(x, weight, stride, padding, layer.groups)), layer.bias, ones)


class Conv(nn.Conv2d):
    """k x k convolution that keeps the size."""

    def __init__(self, c_in: int, c_out: int, size: int, groups: int = 1):
        super().__init__(c_in, c_out, size, padding=size // 2, groups=groups)

    def forward(self, x: Tensor, ones: Tensor | None = None) -> Tensor:
        around = self.kernel_size[0] // 2
        return convolve(x, self, self.weight, (1, 1), (around, around), ones)


class Halve(nn.Conv2d):
    """4x4 convolution of stride 2, padding 1. With few input channels it is computed as a 2x2 one on pixels taken in
    fours: the same sum in larger pieces, about twice as fast."""

    def __init__(self, c_in: int, c_out: int, bias: bool = True):
        super().__init__(c_in, c_out, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor, ones: Tensor | None = None) -> Tensor:
        if self.in_channels > 8:
            return convolve(x, self, self.weight, (2, 2), (1, 1), ones)
        odd_height, odd_width = x.shape[2] % 2, x.shape[3] % 2  # an odd side's last row is out of every window's reach
        fours = F.pixel_unshuffle(F.pad(x, (1, 1 - odd_width, 1, 1 - odd_height)), 2)
        weight = F.pixel_unshuffle(self.weight, 2)
        return convolve(follow(fours, self.weight), self, weight, (1, 1), (0, 0), ones)


class Pointwise(nn.Linear):
    """1x1 convolution as one matrix product over positions: faster than a convolution where channels come last, twice
    so through the double backward of a gradient penalty."""

    def forward(self, x: Tensor, ones: Tensor | None = None) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        if ones is None:
            return super().forward(x).permute(0, 3, 1, 2)
        return biased(F.linear(x, self.weight).permute(0, 3, 1, 2), self.bias, ones)


class Blur(nn.Module):
    """[B, C, H, W] -> the same, each channel through [1 2 1] / 4 in both directions: nothing is left at the highest
    frequency, where doubling makes its artefacts (StyleGAN's filter: Karras et al. 2019)."""

    def __init__(self, channels: int):
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.kernel = nn.Buffer(torch.outer(taps, taps).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=x.shape[1])


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
    (Odena et al. 2017). homogeneous: forward takes `ones` [B] that multiply every constant it adds, so that
    D(t x, t ones) = t D(x, ones) for t > 0; such a pass is for `losses.penalties.sloped`, which hands it what `see` has
    made of x. A trunk says whether it can. levels: see pictures on the spread scale of `Levels`. projects: features do not
    know the class, so that one pass does for several.
    """

    def __init__(
        self,
        trunk: Callable[[int], tuple[nn.Module, int]],
        spec: Spec,
        condition: Condition,
        classify: bool,
        levels: bool = False,
        **head: Any,
    ):
        super().__init__()
        n = len(spec.classes)
        concat = bool(n) and condition == "concat"
        self.trunk, width = trunk(self._extra(spec, n) if concat else 0)
        self.beside = nn.Embedding(n, math.prod(spec.shape[1:]) if len(spec.shape) == 3 else n) if concat else None
        self.head = Head(width, n, condition, **head)
        self.projects = self.head.project is not None
        self.classes = nn.Linear(width, n) if n and classify else None
        self.levels = Levels(spec.room) if levels and spec.room else None
        self.homogeneous = getattr(self.trunk, "homogeneous", False) and self.head.logit.bias is None

    @staticmethod
    def _extra(spec: Spec, n: int) -> int:
        return 1 if len(spec.shape) == 3 else n

    def see(self, x: Tensor) -> Tensor:
        """What the trunk is given of x."""
        return x if self.levels is None else self.levels.spread(x)

    def features(self, x: Tensor, y: Tensor | None = None, ones: Tensor | None = None) -> Tensor:
        x = self.see(x) if ones is None else x
        if self.beside is not None and y is not None:
            beside = self.beside(y) if ones is None else self.beside(y) * ones[:, None]
            x = torch.cat([x, beside.view(x.shape[0], -1, *x.shape[2:])], 1)
        return self.trunk(x) if ones is None else self.trunk(x, ones)

    def classify(self, h: Tensor) -> Tensor:
        assert self.classes is not None, "made without classify=True"
        return self.classes(h)

    def forward(self, x: Tensor, y: Tensor | None = None, ones: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, y, ones), y)


class _Through(torch.autograd.Function):
    """Gives `out` for x. The gradient passes as it comes (straight through: Bengio et al. 2013, sec. 2) and stops only
    where it would push x further out of [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        outward = ((x > 1) & (grad < 0)) | ((x < -1) & (grad > 0))  # a descent step moves against the gradient
        return grad.masked_fill(outward, 0), None


class Levels(nn.Module):
    """The 256 levels that pictures are stored in, on two scales of [-1, 1]: even, as tensors of pictures have them, and
    spread, where each has the room that the data gives it (`Spec.room`).

    Where many pixels share a level exactly (paper, ink, a flat colour), a generator that works on the spread scale hits
    it instead of coming near, and a critic that sees it there can tell a near miss.
    """

    BINS = 4096  # of the spread scale, each with its nearest level

    def __init__(self, room: Sequence[int]):
        super().__init__()
        share = torch.tensor(room, dtype=torch.float64)
        start, end = share[0] / 2, share.sum() - share[-1] / 2  # the outermost levels lie on the limits
        edges, places = share.cumsum(0), share.cumsum(0) - share / 2
        bins = torch.linspace(start, end, self.BINS, dtype=torch.float64)
        self.places = nn.Buffer(((places - start) / (end - start) * 2 - 1).float())
        self.nearest = nn.Buffer((torch.bucketize(bins, edges[:-1]) / 127.5 - 1).float())

    def spread(self, x: Tensor) -> Tensor:
        """Even to spread."""
        return self._look_up(self.places, x)

    def snap(self, x: Tensor) -> Tensor:
        """Spread to even, each value to the nearest level."""
        return self._look_up(self.nearest, x)

    @staticmethod
    def _look_up(table: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            row = x.clamp(-1, 1).add_(1).mul_((len(table) - 1) / 2).round_()
            out = table[row.nan_to_num_().long()] + 0 * x  # what is not finite stays so, and is noticed
        return torch.as_tensor(_Through.apply(x, out))


def limit(x: Tensor, output: Output) -> Tensor:
    """Bring a generator's last layer into the range of pictures, [-1, 1].

    clamp reaches the storage format's exact limits, which tanh cannot: white paper is exactly white.
    """
    x = wide(x)
    if output == "clamp":
        return torch.as_tensor(_Through.apply(x, x.detach().clamp(-1, 1)))
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
        (y,) = ctx.saved_tensors  # a flattening layer behind sends its gradient in the other layout: five times as slow
        return torch.ops.aten.leaky_relu_backward(follow(grad, y), y.detach(), 0.2, True)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU, slope .2."""
    return torch.as_tensor(_Leaky.apply(x))


class Leaky(nn.Module):
    """Leaky ReLU, slope .2, as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x)


class _Pool(torch.autograd.Function):
    """Mean of 2x2 whose gradient, like `_Leaky`'s, is a function of the incoming one alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.avg_pool2d_backward(grad, x.detach(), [2, 2], [2, 2], [0, 0], False, True, None)


def pool(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H // 2, W // 2]: means of 2x2."""
    return torch.as_tensor(_Pool.apply(x))


class _Total(torch.autograd.Function):
    """Sum over positions whose gradient is laid out as x is: added to another one while still one number for all
    positions, it takes fifteen times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sum((2, 3))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return follow(grad[:, :, None, None].expand(x.shape), x.detach())


def total(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C]: sums over positions."""
    return torch.as_tensor(_Total.apply(x))
