"""Canaries: training examples repeated so often that a generator which memorises must give some of them back.

chosen, order = plant(len(x), np.random.default_rng(0))
model = gansmith.train(x[order], minutes=10)
...
canary_recall(features of fakes, features of x, chosen)
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ._neighbours import nearest
from .evidence import Estimate, interval

CHANCE = 0.05
OTHERS = 2_000  # training examples that the canaries are compared with


def plant(count: int, rng: np.random.Generator, items: int = 20, copies: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the canaries [items], and the indices to train on: all of `count` once, each canary `copies` times.

    Raises DataError where canaries would be more than a tenth of the examples, for then there is nothing ordinary left
    to compare them with.
    """
    if not 1 <= items <= count // 10 or copies < 2:
        raise DataError(
            f"{items} canaries of {copies} copies need at least {10 * max(1, items)} examples; got {count}."
        )
    chosen = np.sort(rng.choice(count, items, replace=False))
    return chosen, np.concatenate([np.arange(count), np.repeat(chosen, copies - 1)])


def canary_recall(fake: np.ndarray, train: np.ndarray, canaries: np.ndarray, seed: int = 0) -> Estimate:
    """Share of the canaries that fakes come nearer to than to 95% of other training examples; .05 is chance, the floor.

    fake [n, f], train [m, f]: features, each training example once; canaries: indices into `train`. Distances are in
    units of the example's own distance to its nearest other, so that typical and odd ones compare.
    """
    rng = np.random.default_rng(seed)
    others = rng.permutation(np.setdiff1d(np.arange(len(train)), canaries))[:OTHERS]
    if len(others) < 1 / CHANCE:
        raise DataError(f"Canaries are compared with at least {round(1 / CHANCE)} other examples; got {len(others)}.")
    ours, theirs = (_approached(fake, train, some) for some in (canaries, others))
    found = ours < np.quantile(theirs, CHANCE)
    draws = found[rng.integers(len(found), size=(1000, len(found)))].mean(1)
    return Estimate(float(found.mean()), *interval(draws), len(found), CHANCE, "T")


def _approached(fake: np.ndarray, train: np.ndarray, items: np.ndarray) -> np.ndarray:
    own = nearest(train[items], train, 2)[0][:, 1]
    distances: np.ndarray = nearest(train[items], fake)[0][:, 0] / np.maximum(own, np.finfo(np.float32).tiny)
    return distances
