"""Multi-layer perceptrons, for points and for any flattened picture (Goodfellow et al. 2014)."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from ..base import Spec
from ..registry import register
from .blocks import Condition, Discriminator, Latent, Output, limit

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
            layers += [nn.Linear(c_in if i == 0 else width, width), nn.ReLU() if activation == "relu" else nn.LeakyReLU(0.2)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


@register("generator", "mlp")
class Generator(nn.Module):
    """z [B, z_dim] -> examples [B, *shape]; pictures end in `output`, points are linear."""

    def __init__(
        self,
        spec: Spec,
        z_dim: int = 64,
        width: int = 256,
        depth: int = 3,
        activation: Activation = "leaky",
        embed: int = 16,
        output: Output = "tanh",
    ):
        super().__init__()
        self.z_dim = z_dim
        self.output: Output = output if spec.kind == "image" else "linear"
        self.latent = Latent(z_dim, len(spec.classes), embed)
        self.hidden = hidden(self.latent.width, width, depth, activation)
        self.last = nn.Linear(width, math.prod(spec.shape))
        self.shape = spec.shape

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.last(self.hidden(self.latent(z, y))).view(-1, *self.shape)
        return limit(x, self.output)


@register("discriminator", "mlp")
def discriminator(
    spec: Spec,
    width: int = 256,
    depth: int = 3,
    activation: Activation = "leaky",
    dropout: float = 0.0,
    condition: Condition = "projection",
    classify: bool = False,
) -> Discriminator:
    """Examples [B, *shape] -> logits [B]."""

    def trunk(extra: int) -> tuple[nn.Module, int]:
        extra *= math.prod(spec.shape[1:]) if len(spec.shape) == 3 else 1  # a whole plane beside a picture
        return nn.Sequential(nn.Flatten(), hidden(math.prod(spec.shape) + extra, width, depth, activation, dropout)), width

    return Discriminator(trunk, spec, condition, classify)
