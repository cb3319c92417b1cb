"""The judge that looks at pixels: a small convolutional net fitted from scratch until it gets no better."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..runtime import generator

WIDTH = 16  # channels at full resolution
FULL = 64  # larger pictures are halved by the first layer until they fit
BATCH = 64
RATES = (8e-3, 1.6e-3)  # one after the other, each until validation stops improving
PATIENCE = 3  # epochs that did not lower the validation loss to GAIN times the best
GAIN = 0.99
START = 8  # epochs before patience counts: some starts find nothing for six, and then almost everything (docs/lab.md)
EPOCHS = 40  # at most
SURE = 0.02  # a validation loss in nats below which nothing is left to learn
LEAST = 25  # updates an epoch
MEMORY = 0.99  # of the running mean of the weights, which is what judges
DECAY = 1e-4
CALM = 2048  # pictures from which the statistics of the normalisation are taken


def fit_conv(
    x: np.ndarray, label: np.ndarray, own_x: np.ndarray, own_label: np.ndarray, seed: int, say: Callable[[str], None]
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the net to pictures uint8 [n, C, H, W] and labels [n], 1 for fakes; returns pictures -> logits [m].

    Each of RATES runs until the running mean of the weights has not lowered the loss on own_x for PATIENCE epochs, the
    first for START at least; the next goes on from the best so far, which is what is returned. Pictures are not
    augmented: that would hide what gives fakes away.
    """
    judge, own = _Judge(x, label, seed), torch.from_numpy(own_label).float()
    best, weights, epoch = math.inf, judge.weights(), 0
    for rate in RATES:
        judge.start(weights, rate)
        since = 0
        while (since < PATIENCE or epoch < START) and epoch < EPOCHS and best > SURE:
            judge.practise()
            logits = torch.from_numpy(judge.score(own_x))
            loss = float(binary_cross_entropy_with_logits(logits, own))
            epoch, since = epoch + 1, since + 1
            if loss < GAIN * best:
                since = 0
            if loss < best:
                best, weights = loss, judge.weights()
            right = ((logits > 0) == (own > 0.5)).float().mean().item()
            say(f"conv judge, seed {seed}, epoch {epoch}: {right:.1%} right")
    judge.mean_net.load_state_dict(weights)
    return judge.score


class _Judge:
    """The net, the running mean of its weights, and the pictures that it practises on."""

    def __init__(self, x: np.ndarray, label: np.ndarray, seed: int):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.rng = generator("cpu", "conv judge", seed)
        self.x, self.label = torch.from_numpy(x), torch.from_numpy(label).float()
        self.calm = torch.randperm(len(x), generator=self.rng)[:CALM].split(4 * BATCH)
        some = self.x[torch.cat(self.calm)].float()
        self.mean, self.sd = some.mean().item(), max(1.0, some.std().item())
        self.batch = min(BATCH, len(x))
        self.updates = max(LEAST, len(x) // self.batch)
        self.net = net(x.shape[1:], self.rng).to(self.device)
        self.mean_net = copy.deepcopy(self.net)

    def start(self, weights: dict[str, Tensor], rate: float) -> None:
        """Go on from these weights."""
        self.net.load_state_dict(weights)
        self.mean_net.load_state_dict(weights)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), rate, betas=(0.9, 0.99), weight_decay=DECAY)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights that judge."""
        return {name: value.clone() for name, value in self.mean_net.state_dict().items()}

    def practise(self) -> None:
        """An epoch of updates, then the normalisation's statistics for the running mean of the weights.

        Statistics gathered on the way lag behind weights that move fast: a net that is right while it is fitted would
        judge at random.
        """
        self.net.train()
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.updates):
            if len(order) < self.batch:
                order = torch.randperm(len(self.x), generator=self.rng)
            rows, order = order[: self.batch], order[self.batch :]
            logits = self.net(self._ready(self.x[rows])).flatten()
            loss = binary_cross_entropy_with_logits(logits, self.label[rows].to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for mean, new in zip(self.mean_net.parameters(), self.net.parameters(), strict=True):
                    mean.lerp_(new, 1 - MEMORY)
        self._calm()

    @torch.no_grad()
    def _calm(self) -> None:
        self.mean_net.train()
        for module in self.mean_net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        for rows in self.calm:
            self.mean_net(self._ready(self.x[rows]))
        self.mean_net.eval()

    def _ready(self, x: Tensor) -> Tensor:
        """Pictures uint8 on the device, centred and scaled in full precision."""
        scaled = (x.to(self.device).float() - self.mean) / self.sd
        return scaled.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def score(self, x: np.ndarray) -> np.ndarray:
        """Logits float32 [m] of being fake, of each picture by itself."""
        logits = [self.mean_net(self._ready(some)).flatten().cpu() for some in torch.from_numpy(x).split(4 * BATCH)]
        return np.asarray(torch.cat(logits).numpy())


def net(shape: tuple[int, ...], rng: torch.Generator) -> nn.Sequential:
    """Logits [B, 1] of being fake from pictures [B, C, H, W]; every pixel reaches the first layer."""
    channels, height, width = shape
    stride = 2 ** max(0, math.ceil(math.log2(max(height, width) / FULL)))
    sizes = [(channels, WIDTH, stride), (WIDTH, 2 * WIDTH, 2), (2 * WIDTH, 4 * WIDTH, 2), (4 * WIDTH, 4 * WIDTH, 2)]
    layers: list[nn.Module] = []
    for wide, out, step in sizes:
        kernel = 3 if step < 4 else step + 2
        conv = nn.Conv2d(wide, out, kernel, step, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, generator=rng)
        # momentum None: statistics are plain means over the passes since they were last reset
        layers += [conv, nn.BatchNorm2d(out, momentum=None), nn.ReLU(inplace=True)]
    last = nn.Linear(4 * WIDTH, 1)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
    whole = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    return whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
