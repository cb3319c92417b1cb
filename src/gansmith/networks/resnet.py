"""Residual networks of WGAN-GP (Gulrajani et al. 2017, app. C) and SNGAN (Miyato et al. 2018, tab. 4-6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import Spec
from ..registry import register
from .blocks import Condition, Discriminator, Latent, Output, crop, follow, halvings, limit, normed, pictures, reduced

BASE = 7


class Up(nn.Module):
    """Batch norm, ReLU, nearest x2, two 3x3 convolutions; the shortcut is x2 and 1x1."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.short = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(self.norm1(x).relu(), scale_factor=2))
        h = self.conv2(self.norm2(h).relu())
        return h + F.interpolate(self.short(x), scale_factor=2)  # 1x1 and nearest commute: a quarter of the work


class Down(nn.Module):
    """Two 3x3 convolutions after ReLU, then a 2x2 mean where `down`; `first` leaves out the ReLU on raw pictures."""

    def __init__(self, c_in: int, width: int, *, down: bool, first: bool, spectral: bool):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = normed(nn.Conv2d(c_in, width, 3, padding=1), spectral)
        self.conv2 = normed(nn.Conv2d(width, width, 3, padding=1), spectral)
        self.short = normed(nn.Conv2d(c_in, width, 1), spectral) if down or c_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x if self.first else x.relu()).relu())
        if not self.down:
            return h + self.short(x)
        return F.avg_pool2d(h, 2) + self.short(F.avg_pool2d(x, 2))


@torch.no_grad()
def init_xavier(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()


@register("generator", "resnet")
class Generator(nn.Module):
    """z [B, z_dim] -> pictures [B, C, H, W]: residual blocks that double, batch norm, ReLU, 3x3, tanh."""

    def __init__(self, spec: Spec, z_dim: int = 128, width: int = 128, embed: int = 64, output: Output = "tanh"):
        super().__init__()
        channels, self.height, self.width = pictures(spec, "resnet")
        n = halvings(self.height, self.width, BASE)
        self.z_dim, self.output = z_dim, output
        self.latent = Latent(z_dim, len(spec.classes), embed)
        self.base = (width, reduced(self.height, n), reduced(self.width, n))
        self.project = nn.Linear(self.latent.width, width * self.base[1] * self.base[2])
        self.blocks = nn.Sequential(*(Up(width) for _ in range(n)), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        init_xavier(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = follow(self.project(self.latent(z, y)).view(-1, *self.base), self.last.weight)
        return limit(crop(self.last(self.blocks(x)), self.height, self.width), self.output)


class Pool(nn.Module):
    """Sum over positions after ReLU: [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().sum((2, 3))


@register("discriminator", "resnet")
def discriminator(
    spec: Spec, width: int = 128, spectral: bool = True, condition: Condition = "projection", classify: bool = False
) -> Discriminator:
    """Pictures -> logits [B]: two halving blocks, two of constant size, a sum over positions."""

    def trunk(extra: int) -> tuple[nn.Module, int]:
        channels, *_ = pictures(spec, "resnet", least=4)  # halved twice
        blocks = [Down(channels + extra, width, down=True, first=True, spectral=spectral)]
        blocks += [Down(width, width, down=i == 0, first=False, spectral=spectral) for i in range(3)]
        return nn.Sequential(*blocks, Pool()), width

    made = Discriminator(trunk, spec, condition, classify, spectral=spectral)
    init_xavier(made)
    return made
