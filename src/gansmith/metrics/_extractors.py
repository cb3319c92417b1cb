"""Small networks whose last layer but one are features, and how they learn from a few thousand pictures on a CPU.

With labels a classifier; without, views of one picture are told from views of all others (NT-Xent; Chen et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime import threads

MAP = 32  # pictures larger than about MAP x MAP are strided down to it by the first layer
ROOM = 1 << 17  # pixels of a batch that is only looked at
PROJECTED = 64  # what the contrastive loss compares
SMOOTHING = 0.05
TEMPERATURE = 0.2
NOISE = 0.03  # at most, of a view, in [-1, 1]: 4 grey levels
SYMMETRIC = 2.0  # about 1 where mirrored pictures are alike; digits 64, photographs of any thing .9


class Net(nn.Module):
    """Pictures [B, C, H, W] in [-1, 1] -> logits [B, outputs]; `features` gives the layer before, [B, dims].

    Three convolutions with batch statistics, maps of 8 and more halved between them; a 4x4 map; a linear layer.
    """

    def __init__(self, shape: tuple[int, ...], dims: int, outputs: int):
        super().__init__()
        channels, height, width = shape
        stride = max(1, round(math.sqrt(height * width) / MAP))
        wide = (16, 32, 64) if channels == 1 and stride == 1 else (32, 64, 128)
        layers = self._block(channels, wide[0], stride)
        height, width = max(1, height // stride), max(1, width // stride)
        for c_in, c_out in zip(wide, wide[1:], strict=False):
            if min(height, width) >= 8:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers += self._block(c_in, c_out, 1)
        side = min(height, 4), min(width, 4)
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(side), nn.Flatten())
        self.embed = nn.Linear(wide[-1] * side[0] * side[1], dims)
        self.norm = nn.BatchNorm1d(dims)
        self.head = nn.Linear(dims, outputs)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    @staticmethod
    def _block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(c_in, c_out, stride + 2, stride, 1, bias=False)
        return [conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]

    def features(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.embed(self.body(x.contiguous(memory_format=torch.channels_last))))
        return embedded

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.features(x)))
        return logits


def to_model(x: Tensor) -> Tensor:
    """Pictures uint8 as float32 in [-1, 1]."""
    return x.float().div_(127.5).sub_(1)


@torch.no_grad()
def look(net: Net, x: np.ndarray, part: Callable[[Tensor], Tensor]) -> np.ndarray:
    """`part` (the net or its features) of pictures [n, C, H, W], in batches of about ROOM pixels."""
    return torch.cat([part(to_model(torch.from_numpy(some))) for some in _blocks(x)]).numpy()


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    size = max(1, ROOM // (x.shape[2] * x.shape[3]))
    return (np.ascontiguousarray(x[at : at + size]) for at in range(0, len(x), size))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights from a seed, and the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def random_net(shape: tuple[int, ...], dims: int, seed: int) -> Net:
    """Weights by He et al. 2015 from numpy's generator, whose numbers are the same on every machine."""
    rng = np.random.default_rng(seed)
    net = Net(shape, dims, 1).eval()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                drawn = rng.standard_normal(tuple(layer.weight.shape)) * math.sqrt(2 / layer.weight[0].numel())
                layer.weight.copy_(torch.from_numpy(drawn))
                if layer.bias is not None:
                    layer.bias.zero_()
    return net


def classifier(x: np.ndarray, y: np.ndarray, classes: int, dims: int, steps: int, seed: int) -> Net:
    """A net that names the class of pictures that are moved, turned and scaled a little."""
    flip = symmetric(x, y)
    rng = torch.Generator().manual_seed(seed)
    pictures, labels = torch.tensor(x), torch.tensor(y, dtype=torch.int64)
    with seeded(seed):
        net = Net(x.shape[1:], dims, classes)

    def loss(rows: Tensor) -> Tensor:
        seen = moved(to_model(pictures[rows]), rng, flip, zoom=(0.88, 1.12))
        return F.cross_entropy(net(seen), labels[rows], label_smoothing=SMOOTHING)

    return _train(net, loss, len(x), batch=64, steps=steps, rate=4e-3, rng=rng)


def contrastive(x: np.ndarray, dims: int, steps: int, seed: int) -> Net:
    """A net for which two views of one picture (crop, shift, turn, light noise) are closer than views of two.

    Measured on digits and photographs: with noise of up to 13 grey levels among the views, features of photographs no
    longer see 4 grey levels; without any, 4 weigh a fourth of a lost class, which a classifier takes for a tenth.
    """
    flip = symmetric(x, np.zeros(len(x), np.int64))
    rng = torch.Generator().manual_seed(seed)
    pictures, batch = torch.tensor(x), min(128, len(x))
    with seeded(seed):
        net = Net(x.shape[1:], dims, PROJECTED)
    partner, itself = torch.arange(2 * batch).roll(batch), torch.eye(2 * batch, dtype=torch.bool)

    def view(seen: Tensor) -> Tensor:
        seen = moved(seen, rng, flip, zoom=(0.7, 1.1))
        level = NOISE * torch.rand(len(seen), 1, 1, 1, generator=rng)
        return seen + level * torch.randn(seen.shape, generator=rng)

    def loss(rows: Tensor) -> Tensor:
        seen = to_model(pictures[rows])
        z = F.normalize(net(torch.cat([view(seen), view(seen)])))
        return F.cross_entropy((z @ z.T / TEMPERATURE).masked_fill(itself, -torch.inf), partner)

    return _train(net, loss, len(x), batch=batch, steps=steps, rate=3e-3, rng=rng)


def _train(
    net: Net, loss: Callable[[Tensor], Tensor], n: int, *, batch: int, steps: int, rate: float, rng: torch.Generator
) -> Net:
    """AdamW with one warm cycle of the learning rate (Smith & Topin 2018), over shuffled whole batches."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    batch = min(batch, n)
    epoch = n // batch * batch
    order = torch.cat([torch.randperm(n, generator=rng)[:epoch] for _ in range(-(-steps * batch // epoch))])
    with threads(1):  # the same weights on any number of cores; two gain little, and lose much on a busy machine
        for step in range(steps):
            value = loss(order[step * batch : (step + 1) * batch])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def moved(x: Tensor, rng: torch.Generator, flip: bool, zoom: tuple[float, float]) -> Tensor:
    """Every picture shifted (by up to 7% of its side), turned (10 degrees), scaled, and mirrored half of the time."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), generator=rng)

    angle, scale, right, down = uniform(-0.17, 0.17), uniform(*zoom), uniform(-0.14, 0.14), uniform(-0.14, 0.14)
    mirror = 1 - 2 * torch.randint(2, (len(x),), generator=rng) if flip else torch.ones(len(x))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([torch.stack([cos * mirror, -sin, right], 1), torch.stack([sin * mirror, cos, down], 1)], 1)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def symmetric(x: np.ndarray, y: np.ndarray) -> bool:
    """May pictures be mirrored? Not where a class's mean differs from its mirror image by more than chance would do."""
    found = expected = 0.0
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        total, squares = np.zeros(x.shape[1:]), 0.0
        for part in _blocks(x[rows]):
            gap = part.astype(np.float32) - part[..., ::-1]
            total += gap.sum(0)
            squares += float(np.square(gap).sum())
        found += float(np.square(total).sum()) / len(rows)
        expected += squares / len(rows)
    return found <= SYMMETRIC * expected
