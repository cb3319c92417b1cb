"""Intervals of distances by resampling whole groups of examples, of which only sums are kept.

Examples are put into groups at random, so groups are as independent as examples are; drawing groups anew costs no
further pass over the data. With g groups the width of an interval is known to about one part in sqrt(2 g).
"""

from __future__ import annotations

import math

import numpy as np


def redrawn(rng: np.random.Generator, groups: int, draws: int) -> np.ndarray:
    """How often each group comes up when as many are drawn with replacement: int64 [draws, groups]."""
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)


def around(value: float, error: float, least: float = -math.inf) -> tuple[float, float]:
    """95% interval of a value with this standard error, not below `least`.

    Quantiles of bootstrap draws would not do for distances: examples drawn twice add what small counts add, so that the
    draws lie above the value, often all of them.
    """
    return max(value - 1.96 * error, least), value + 1.96 * error
