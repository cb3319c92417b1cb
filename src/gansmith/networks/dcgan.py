"""DCGAN (Radford, Metz & Chintala 2016): strided convolutions, batch norm, no pooling."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..base import Spec
from ..registry import register
from .blocks import (
    Condition,
    Discriminator,
    Halve,
    Latent,
    Leaky,
    Output,
    crop,
    follow,
    halvings,
    init_normal,
    limit,
    normed,
    pictures,
    reduced,
)

BASE = 7  # the smallest map is at most this wide


@register("generator", "dcgan")
class Generator(nn.Module):
    """z [B, z_dim] -> pictures [B, C, H, W] in [-1, 1]: a projection, then transposed 4x4 convolutions, stride 2.

    width: channels of the last hidden map, doubled at each halving before it (64 gives 512-256-128-64 at 64 px).
    """

    def __init__(self, spec: Spec, z_dim: int = 100, width: int = 64, embed: int = 50, output: Output = "tanh"):
        super().__init__()
        channels, self.height, self.width = pictures(spec, "dcgan")
        n = halvings(self.height, self.width, BASE)
        wide = [width * 2**i for i in reversed(range(n))]
        self.z_dim, self.output = z_dim, output
        self.latent = Latent(z_dim, len(spec.classes), embed)
        self.base = (wide[0], reduced(self.height, n), reduced(self.width, n))
        self.project = nn.Linear(self.latent.width, wide[0] * self.base[1] * self.base[2], bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(wide[0]), nn.ReLU()]
        for c_in, c_out in zip(wide, wide[1:], strict=False):
            layers += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.ConvTranspose2d(wide[-1], channels, 4, 2, 1)
        init_normal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = follow(self.project(self.latent(z, y)).view(-1, *self.base), self.last.weight)
        return limit(crop(self.last(self.layers(x)), self.height, self.width), self.output)


@register("discriminator", "dcgan")
def discriminator(
    spec: Spec,
    width: int = 64,
    norm: Literal["batch", "none"] = "batch",
    spectral: bool = False,
    condition: Condition = "projection",
    classify: bool = False,
) -> Discriminator:
    """Pictures -> logits [B]: 4x4 convolutions of stride 2, leaky ReLU .2; batch norm but in the first layer.

    norm "none" for critics with a gradient penalty (Gulrajani et al. 2017, sec. 4); spectral: SNGAN's weights.
    """

    def trunk(extra: int) -> tuple[nn.Module, int]:
        channels, height, side = pictures(spec, "dcgan")
        n = halvings(height, side, BASE)
        layers: list[nn.Module] = []
        c_in = channels + extra
        for i in range(n):
            c_out = width * 2**i
            plain = i == 0 or norm == "none"
            layers.append(normed(Halve(c_in, c_out, bias=plain), spectral))
            layers += [nn.Identity() if plain else nn.BatchNorm2d(c_out), Leaky()]
            height, side, c_in = height // 2, side // 2, c_out
        return nn.Sequential(*layers, nn.Flatten()), c_in * height * side

    made = Discriminator(trunk, spec, condition, classify, spectral=spectral)
    init_normal(made)
    return made
