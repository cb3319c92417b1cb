"""Multi-layer perceptrons, for points and for any flattened picture (Goodfellow et al. 2014)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ..base import Spec
from ..registry import register
from .blocks import Condition, Discriminator, Latent, Leaky, Output, limit

Activation = Literal["relu", "leaky", "maxout"]


class Maxout(nn.Module):
    """Largest of k affine maps (Goodfellow et al. 2013, eq. 1). [B, c_in] -> [B, c_out]"""

    def __init__(self, c_in: int, c_out: int, k: int = 5):
        super().__init__()
        self.k = k
        self.affine = nn.Linear(c_in, c_out * k)

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x).unflatten(1, (-1, self.k)).amax(2)


def hidden(c_in: int, width: int, depth: int, activation: Activation, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        if activation == "maxout":
            layers.append(Maxout(c_in if i == 0 else width, width))
        else:
            layers += [
                nn.Linear(c_in if i == 0 else width, width),
                nn.ReLU() if activation == "relu" else Leaky(),
            ]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class Cuts(nn.Module):
    """z [B, z_dim] -> [B, z_dim + k]: z, and k learned cuts of it, tanh(a (W z + b)), ever steeper as training goes on.

    A continuous map cannot tear the one blob of z into separate modes: bridges of stray examples remain between them
    (Khayatkhoei et al. 2018, sec. 2). Soft cuts let gradients balance the modes; steep ones at the end leave no bridge.
    """

    START, END = 2.0, 1000.0

    def __init__(self, z_dim: int, k: int):
        super().__init__()
        self.affine = nn.Linear(z_dim, k)
        nn.init.normal_(self.affine.weight, 0, z_dim**-0.5)
        nn.init.normal_(self.affine.bias)
        self.steepness = nn.Buffer(torch.tensor(self.START))

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, (self.affine(z) * self.steepness).tanh()], 1)

    def anneal(self, progress: float) -> None:
        self.steepness.fill_(self.START * (self.END / self.START) ** progress)


class Waves(nn.Module):
    """x [B, c_in] -> [B, c_in + k]: x, and k sine waves of it, sin(W x + b), whose frequencies are spread evenly in their
    logarithm from 1 to 64 a unit and learned from there.

    A perceptron of x alone is too smooth to see how wide a narrow mode is, and the generator then makes it a point
    (Tancik et al. 2020 on why such features are learned quickly).
    """

    LOWEST, HIGHEST = 1.0, 64.0

    def __init__(self, c_in: int, k: int):
        super().__init__()
        frequency = torch.logspace(math.log10(self.LOWEST), math.log10(self.HIGHEST), k)
        self.weight = nn.Parameter(frequency[:, None] * normalize(torch.randn(k, c_in), dim=1))
        self.bias = nn.Parameter(2 * math.pi * torch.rand(k))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, linear(x, self.weight, self.bias).sin()], 1)


def init_he(module: nn.Module) -> None:
    """He's normal weights for leaky ReLU .2, zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)


def init_last(layer: Any) -> None:
    """A last layer: normal weights that keep the variance, zero bias."""
    nn.init.normal_(layer.weight, 0, layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)


@register("generator", "mlp")
class Generator(nn.Module):
    """z [B, z_dim] -> examples [B, *shape]; pictures end in `output`, points are linear.

    cuts: learned cuts of the latent, for data in separate pieces; a game anneals them with `anneal(progress)`.
    """

    def __init__(
        self,
        spec: Spec,
        z_dim: int = 64,
        width: int = 256,
        depth: int = 3,
        activation: Activation = "leaky",
        embed: int = 16,
        output: Output = "tanh",
        cuts: int = 0,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.output: Output = output if spec.kind == "image" else "linear"
        self.latent = Latent(z_dim, len(spec.classes), embed)
        self.hidden = hidden(self.latent.width + cuts, width, depth, activation)
        self.last = nn.Linear(width, math.prod(spec.shape))
        self.shape = spec.shape
        if activation == "leaky":
            init_he(self.hidden)
            init_last(self.last)
        self.cuts = Cuts(self.latent.width, cuts) if cuts else None

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.latent(z, y)
        if self.cuts is not None:
            h = self.cuts(h)
        return limit(self.last(self.hidden(h)).view(-1, *self.shape), self.output)

    def anneal(self, progress: float) -> None:
        """Steepen the cuts by the share of the budget that is done."""
        if self.cuts is not None:
            self.cuts.anneal(progress)


@register("discriminator", "mlp")
def discriminator(
    spec: Spec,
    width: int = 256,
    depth: int = 3,
    activation: Activation = "leaky",
    dropout: float = 0.0,
    condition: Condition = "projection",
    classify: bool = False,
    waves: int = 0,
) -> Discriminator:
    """Examples [B, *shape] -> logits [B].

    waves: sine waves of the input beside it, for details far smaller than the whole.
    """

    def trunk(extra: int) -> tuple[nn.Module, int]:
        extra *= math.prod(spec.shape[1:]) if len(spec.shape) == 3 else 1  # a whole plane beside a picture
        c_in = math.prod(spec.shape) + extra
        ahead = [Waves(c_in, waves)] if waves else []
        return nn.Sequential(nn.Flatten(), *ahead, hidden(c_in + waves, width, depth, activation, dropout)), width

    made = Discriminator(trunk, spec, condition, classify)
    if activation == "leaky":
        init_he(made.trunk)
        init_last(made.head.logit)
    return made
