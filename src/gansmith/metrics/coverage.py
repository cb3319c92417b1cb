"""Precision, recall, density and coverage: whether fakes are among the reals, and reals among the fakes.

B(x) is the ball around an example that reaches its 5th neighbour in its own set (Kynkaanniemi et al. 2019; Naeem et al.
2020, eq. 1-6). All four depend on the counts, so both sides have the same. Identical distributions give coverage
1 - 2^-5 = .969 and density 1, at high dimensions and large counts precision and recall about .5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..registry import register
from ._neighbours import blocks, centred, nearest
from .evidence import Estimate, Evidence, interval

NEIGHBOURS = 5
DRAWS = 200
ROUNDING = 1e-6  # of squared lengths in float32


class Insides(NamedTuple):
    """Of each fake [m]: precision 0 or 1, density (balls it is in over k). Of each real [n]: recall, coverage, 0 or 1."""

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def prdc(fake: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> Insides:
    """What each example contributes to the four figures, which are the means; features [m, d] and [n, d].

    precision: the fake is in the ball of some real; recall: the real is in the ball of some fake; density: in how many
    balls of reals the fake is, over k; coverage: some fake is in the real's ball. Balls leave their own centre out and
    include their surface. Raises DataError for columns that differ, values that are not finite, or k examples or fewer.
    """
    y, x = centred(fake, real)
    reach, fake_reach = _reach(real, x, k), _reach(fake, y, k)
    own = y.square().sum(1)
    balls, closest, deepest = torch.empty(len(y)), torch.full((len(x),), torch.inf), torch.full((len(x),), torch.inf)
    for start, far in blocks(y, x):
        rows = slice(start, start + len(far))
        far += own[rows, None]
        torch.minimum(closest, far.amin(0), out=closest)
        torch.minimum(deepest, far.sub(fake_reach[rows, None]).amin(0), out=deepest)
        balls[rows] = torch.le(far, reach, out=far).sum(1)  # 1 inside, 0 outside; floats are faster than truth values
    parts = balls > 0, deepest <= 0, balls.double() / k, closest <= reach
    return Insides(*(part.double().numpy() for part in parts))


def _reach(rows: np.ndarray, moved: Tensor, k: int) -> Tensor:
    """Squared radius of each row's ball [n]. One of 0 holds copies alone, and must not lose them to rounding."""
    radius = torch.from_numpy(nearest(rows, rows, k, exclude_self=True)[0][:, -1]).square()
    return torch.where(radius > 0, radius, ROUNDING * moved.square().sum(1))


@register("metric", "prdc")
def coverage(evidence: Evidence) -> dict[str, Estimate]:
    """precision, recall, density and coverage against H, with as many fakes as reals.

    The intervals draw examples anew but keep the balls: they say how far the means may be off, not what other balls would
    do, and are somewhat too narrow for that reason. nan with too few examples for 5 neighbours, and where all
    reals are alike.
    """
    n = min(len(evidence.fake), len(evidence.held))
    if n <= NEIGHBOURS or not np.ptp(evidence.held.features, axis=0).any():
        return {name: Estimate(math.nan, n=n) for name in Insides._fields}
    rng = np.random.default_rng(evidence.seed)
    fake, real = (side.features[rng.permutation(len(side))[:n]] for side in (evidence.fake, evidence.held))
    chosen = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    return {
        name: Estimate(float(each.mean()), *interval(chosen @ each), n)
        for name, each in prdc(fake, real)._asdict().items()
    }
