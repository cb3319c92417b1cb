"""What metrics are given and what they give back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Say = Callable[[str], None]  # told of progress


def silent(text: str) -> None:
    """Progress that nobody wants."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    low, high: 95% bootstrap interval; n: examples of each side; floor: the same number of real examples of the same
    size; reference: the real examples it was taken against, "T" (training), "H" (held out) or "test".
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    floor: float = math.nan
    reference: str = "H"


@dataclass(frozen=True)
class Sample:
    """Examples of one origin, decoded to the data's storage form.

    x: uint8 [n, C, H, W] or float32 [n, d]; features: float32 [n, f], each column centred and scaled by the real
    examples' statistics; y: class indices int64 [n] where there are classes.
    """

    x: np.ndarray
    features: np.ndarray
    y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | np.ndarray) -> Sample:
        return Sample(self.x[index], self.features[index], None if self.y is None else self.y[index])


@dataclass(frozen=True)
class Evidence:
    """What a metric may look at. None where there is none.

    fake: made examples; held: H, touched by the final report alone; judge: V, for fitting judges; train: T, what the
    players saw; test: the data's own test folder; classes: names; modes: means [K, d] and standard deviation of a
    mixture that the data is known to be drawn from.
    """

    kind: str
    fake: Sample
    held: Sample
    judge: Sample | None = None
    train: Sample | None = None
    test: Sample | None = None
    classes: tuple[str, ...] = ()
    modes: tuple[np.ndarray, float] | None = None
    seed: int = 0

    def swap(self, fake: Sample) -> Evidence:
        """The same evidence about other fakes: real ones for a floor, spoilt ones for a control."""
        return replace(self, fake=fake)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95% of bootstrap draws [k]."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
