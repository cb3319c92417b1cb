"""R3GAN's networks (Huang et al. 2024, sec. 3): residual, grouped, bilinear, no normalisation; made lean for a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import Spec
from ..registry import register
from .blocks import (
    Blur,
    Condition,
    Conv,
    Discriminator,
    Halve,
    Latent,
    Levels,
    Output,
    Pointwise,
    crop,
    follow,
    halvings,
    leaky,
    limit,
    pictures,
    pool,
    reduced,
    start_at,
    total,
    wide,
)

BASE = 8  # the smallest map is at most this wide
GROUP = 16  # channels of a group
LOUD = 0.25  # of D's sum of a channel over a map, divided by the root of the map's size, where it sees texture


def he(layer: Any, gain: float = 1.0) -> None:
    """He's normal initial weights for leaky ReLU .2, times a gain; zero bias."""
    with torch.no_grad():
        nn.init.kaiming_normal_(layer.weight, a=0.2)
        layer.weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.zero_()


def conv(c_in: int, c_out: int, size: int, gain: float = 1.0, groups: int = 1) -> Conv:
    layer = Conv(c_in, c_out, size, groups)
    he(layer, gain)
    return layer


def pointwise(c_in: int, c_out: int, gain: float = 1.0) -> Pointwise:
    layer = Pointwise(c_in, c_out)
    he(layer, gain)
    return layer


class Block(nn.Module):
    """x + 1x1(3x3 grouped(1x1 x)), widened twofold inside; the last convolution starts at zero, so a block starts as
    the identity. The first two weights are scaled by 4^-.25, as a fixed-update start without normalisation asks."""

    def __init__(self, width: int):
        super().__init__()
        wide = 2 * width
        self.open = pointwise(width, wide, gain=4**-0.25)
        self.mix = conv(wide, wide, 3, gain=4**-0.25, groups=wide // GROUP)
        self.close = Pointwise(wide, width, bias=False)
        nn.init.zeros_(self.close.weight)

    def forward(self, x: Tensor, ones: Tensor | None = None) -> Tensor:
        return x + self.close(leaky(self.mix(leaky(self.open(x, ones)), ones)))


def widths(stages: int, width: int) -> list[int]:
    """Channels from the smallest map up: halved at each doubling, at least a third of the first, in whole groups."""
    return [max(width // 3, width >> i, GROUP) // GROUP * GROUP for i in range(stages)]


def thin(width: int) -> int:
    """Channels next to the picture: a third of width, in whole groups."""
    return max(GROUP, width // 3 // GROUP * GROUP)


@register("generator", "r3")
class Generator(nn.Module):
    """z [B, z_dim] -> pictures [B, C, H, W] in [-1, 1].

    A learned basis weighted by the latent, two blocks a stage (one above the smallest), bilinear doubling, and a
    pixel-shuffle head for the last doubling. width: channels of the smallest map, in groups of 16; head: channels at
    full size (0: a third of width); blur: what the pixel shuffle makes is smoothed; fine: convolutions at full size before
    the last; levels: the output is exact levels of the storage format, found on the spread scale of `Levels`.
    """

    def __init__(
        self,
        spec: Spec,
        z_dim: int = 64,
        width: int = 96,
        embed: int = 64,
        output: Output = "clamp",
        head: int = 0,
        fine: int = 0,
        levels: bool = False,
        blur: bool = False,
    ):
        super().__init__()
        channels, self.height, self.width = pictures(spec, "r3")
        n = halvings(self.height, self.width, BASE)
        wide = widths(n, width)
        self.z_dim, self.output = z_dim, output
        self.latent = Latent(z_dim, len(spec.classes), embed)
        if self.latent.embed is not None:  # louder from the start, the class drowns z, and variety within it is lost
            nn.init.zeros_(self.latent.embed.weight)
        self.project = nn.Linear(self.latent.width, wide[0], bias=False)
        he(self.project, math.sqrt(0.52))  # fan-in variance 1: the basis carries the scale
        self.basis = nn.Parameter(torch.randn(wide[0], reduced(self.height, n), reduced(self.width, n)))
        self.first = nn.Sequential(Block(wide[0]), Block(wide[0]))
        self.stages: Any = nn.ModuleList(
            nn.ModuleList([pointwise(c_in, c_out), Block(c_out)]) for c_in, c_out in zip(wide, wide[1:], strict=False)
        )
        head = head or thin(width)
        self.expand = conv(wide[-1], 4 * head, 3)
        self.blur = Blur(head) if blur else nn.Identity()
        self.fine = nn.ModuleList(conv(head, head, 3) for _ in range(fine))
        self.last = conv(head, channels, 3, gain=0.3)
        self.levels = Levels(spec.room) if levels and spec.room else None
        assert self.last.bias is not None
        start_at(self.last.bias, spec, output)
        if self.levels is not None:
            self.last.bias.data = self.levels.spread(self.last.bias.data)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.project(self.latent(z, y))[:, :, None, None] * self.basis
        x = self.first(follow(x, self.last.weight))
        for shrink, block in self.stages:
            x = block(F.interpolate(shrink(x), scale_factor=2, mode="bilinear"))  # 1x1 before: a quarter of the work
        x = self.blur(F.pixel_shuffle(leaky(self.expand(x)), 2))
        for layer in self.fine:
            x = leaky(layer(x))
        x = crop(self.last(x), self.height, self.width)
        return limit(x, self.output) if self.levels is None else self.levels.snap(wide(x))


class Trunk(nn.Module):
    """Pictures [B, C, H, W] -> features [B, out]: a strided convolution to `head` channels (after one of `fine` at
    full size, if not 0), blocks, mean pooling, a depthwise layer: `width` features of the whole. texture: behind them
    come the sums over the picture of each layer before the blocks."""

    homogeneous = True  # linear pieces through zero, but for biases: `Discriminator`

    def __init__(self, channels: int, height: int, side: int, width: int, head: int, fine: int, texture: bool):
        super().__init__()
        n = halvings(height, side, BASE)
        wide = widths(n, width)[::-1]
        self.fine = conv(channels, fine, 3) if fine else None
        self.first = Halve(fine or channels, head)
        he(self.first)
        self.widen = conv(head, wide[0], 3)
        self.stages: Any = nn.ModuleList(
            nn.ModuleList([Block(c_in), pointwise(c_in, c_out)]) for c_in, c_out in zip(wide, wide[1:], strict=False)
        )
        self.blocks = nn.Sequential(Block(wide[-1]), Block(wide[-1]))
        size = height // 2, side // 2
        for _ in range(n - 1):
            size = size[0] // 2, size[1] // 2
        fan_in = math.prod(size)  # a depthwise layer as large as the map
        self.gather = nn.Parameter(torch.randn(wide[-1], *size) * math.sqrt(2 / 1.04 / fan_in))
        self.whole, self.texture = wide[-1], texture
        self.out = self.whole + (fine + head + wide[0] if texture else 0)

    def forward(self, x: Tensor, ones: Tensor | None = None) -> Tensor:
        near = []
        for layer in (self.fine, self.first, self.widen):
            if layer is not None:
                x = leaky(layer(x, ones))
                if self.texture:
                    near.append(total(x) * (LOUD / math.sqrt(x[0, 0].numel())))
        for block, widen in self.stages:
            x = widen(pool(block(x, ones)), ones)  # pooled before the 1x1: a quarter of the work
        for block in self.blocks:
            x = block(x, ones)
        whole = (x * self.gather).sum((2, 3))
        return torch.cat([whole, *near], 1) if near else whole


@register("discriminator", "r3")
def discriminator(
    spec: Spec,
    width: int = 96,
    condition: Condition = "projection",
    classify: bool = False,
    head: int = 0,
    fine: int = 0,
    levels: bool = False,
    texture: bool = False,
) -> Discriminator:
    """Pictures -> logits [B]; no normalisation anywhere, so gradient penalties are exact per example.

    head: channels after the first halving (0: a third of width); fine: channels of a first convolution at full size (0:
    none); levels: see pictures on the spread scale of `Levels`; texture: the layers next to the picture also reach the
    logit directly, as sums over the picture, so that slight but general faults of edges and surfaces are soon found.
    """

    def trunk(extra: int) -> tuple[nn.Module, int]:
        channels, height, side = pictures(spec, "r3")
        made = Trunk(channels + extra, height, side, width, head or thin(width), fine, texture)
        return made, made.out

    made = Discriminator(trunk, spec, condition, classify, levels, bias=False)
    he(made.head.logit)
    layers: list[Any] = [made.head.logit, made.head.project]
    for layer in filter(None, layers):  # texture starts silent
        nn.init.zeros_(layer.weight[:, made.trunk.whole :])
    return made
