"""Kernel distances between features: KID with a cubic kernel, and the form of CMMD with a Gaussian one.

Both are squared maximum mean discrepancies (Gretton et al. 2012): KID is unbiased, so that equal distributions give 0 at
any count, now and then less; CMMD is biased by about 2 (1 - mean kernel) / n.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..registry import register
from ._resample import around, redrawn
from .evidence import Estimate, Evidence
from .frechet import checked

SUBSETS, SUBSET = 100, 1000  # Binkowski et al. 2018, and every public implementation since
FEWEST = 8  # examples of a side below which there is no interval worth the name
GROUPS = 50
DRAWS = 100
BLOCK = 1 << 22  # kernel values held at once
PAIRS = 1000  # examples whose distances set the width of the Gaussian kernel


def cubic_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared discrepancy of rows [m, d] and [n, d] under k(a, b) = (a.b / d + 1)^3 (Binkowski et al. 2018).

    Gretton et al. 2012, eq. 3: no example is compared with itself. float32 kernel values, float64 sums of their rows.
    """
    return _apart(x) + _apart(y) - 2 * _cubes(x, y) / (len(x) * len(y))


def _apart(x: Tensor) -> float:
    """Mean kernel value of two different rows."""
    itself = float((x.double().square().sum(1) / x.shape[1] + 1).pow(3).sum())
    return (_cubes(x, x) - itself) / (len(x) * (len(x) - 1))


def _cubes(x: Tensor, y: Tensor) -> float:
    """Sum of all kernel values."""
    inner = torch.addmm(torch.ones(()), x, y.T, alpha=1 / x.shape[1])
    return float(inner.pow_(3).sum(1).double().sum())


def kid(fake: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Mean over 100 random subsets of 1,000 examples, and its standard error; features [n, d] and [m, d].

    With fewer than 4,000 examples of a side, subsets are a quarter of it. Subsets overlap: the error is their spread over the
    root of how many fit into the data without overlap, which is right far from 0 and too large near it. Raises DataError
    for fewer than 8 examples, for columns that differ, and for values that are not finite.
    """
    sides = _tensors(fake, real)
    n = min(map(len, sides))
    if n < FEWEST:
        raise DataError(f"A kernel distance needs at least {FEWEST} examples of each side; got {n}.")
    size = min(SUBSET, n // 4)
    found = []
    for _ in range(SUBSETS):
        x, y = (side[torch.from_numpy(rng.choice(len(side), size, replace=False))] for side in sides)
        found.append(cubic_mmd(x, y))
    return float(np.mean(found)), float(np.std(found, ddof=1)) / math.sqrt(n / size)


def cmmd(fake: np.ndarray, real: np.ndarray, sigma: float, rng: np.random.Generator) -> tuple[float, float]:
    """1000 x biased squared discrepancy of rows of unit length under exp(-|a - b|^2 / 2 sigma^2), and its standard error.

    Jayasumana et al. 2024, eq. 4, with local features in place of CLIP's and their sigma of 10 replaced by `sigma`.
    fake [n, d], real [m, d]. Kernel values are kept as sums over pairs of random groups, from which examples are drawn
    anew without another pass.
    """
    sides = [side[torch.from_numpy(rng.permutation(len(side)))] for side in _unit(fake, real)]
    groups = [min(GROUPS, len(side)) for side in sides]
    sizes = [
        len(part) for side, g in zip(sides, groups, strict=True) for part in np.array_split(np.arange(len(side)), g)
    ]
    sums = _group_sums(torch.cat(sides), sizes, sigma)
    weights = np.hstack([redrawn(rng, g, DRAWS) for g in groups])
    counts = np.array(sizes, np.float64)
    fakes = np.arange(len(sizes)) < groups[0]
    value, *again = (_discrepancy(sums, counts, fakes, w) for w in (np.ones(len(sizes)), *weights))
    return 1000 * value, 1000 * float(np.std(again, ddof=1))


def _group_sums(rows: Tensor, sizes: list[int], sigma: float) -> np.ndarray:
    """Kernel values summed over each pair of groups: consecutive rows, of these sizes, of unit length."""
    starts = np.cumsum([0, *sizes])
    most = max(1, BLOCK // len(rows))
    sums = np.zeros((len(sizes), len(sizes)))
    for g, start in enumerate(starts[:-1]):
        for some in rows[start : starts[g + 1]].split(most):
            near = torch.addmm(torch.ones(()), some, rows[start:].T, beta=-1).div_(sigma**2).exp_()
            sums[g, g:] += np.add.reduceat(near.sum(0).double().numpy(), starts[g:-1] - start)
    return sums + np.triu(sums, 1).T


def _discrepancy(sums: np.ndarray, counts: np.ndarray, fakes: np.ndarray, weights: np.ndarray) -> float:
    """Squared length of the difference of the two mean embeddings, each group counted by its weight."""
    total = weights * counts
    signed = np.where(fakes, weights / total[fakes].sum(), -weights / total[~fakes].sum())
    return float(signed @ sums @ signed)


def median_distance(features: np.ndarray, rng: np.random.Generator) -> float:
    """Median distance of two rows [n, d] of unit length, among 1,000 of them at most."""
    (rows,) = _unit(features[rng.permutation(len(features))[:PAIRS]])
    return float(torch.pdist(rows).median())


def _unit(*sides: np.ndarray) -> list[Tensor]:
    return [torch.nn.functional.normalize(side) for side in _tensors(*sides)]


def _tensors(*sides: np.ndarray) -> list[Tensor]:
    """float32 rows. Raises DataError for columns that differ, no rows, or values that are not finite."""
    if len({side.shape[1:] for side in sides}) > 1:
        raise DataError(f"Features must have the same columns; got shapes {[side.shape for side in sides]}.")
    return [torch.from_numpy(checked(side).astype(np.float32)) for side in sides]


@register("metric", "kid")
def kernel_distance(evidence: Evidence) -> dict[str, Estimate]:
    """kid against H; nan with fewer than 8 examples of a side."""
    fake, held = evidence.fake.features, evidence.held.features
    n = min(len(fake), len(held))
    if n < FEWEST:
        return {"kid": Estimate(math.nan, n=n)}
    value, error = kid(fake, held, np.random.default_rng(evidence.seed))
    return {"kid": Estimate(value, *around(value, error), n)}


@register("metric", "cmmd")
def gaussian_distance(evidence: Evidence) -> dict[str, Estimate]:
    """cmmd against H, the kernel as wide as the median distance of T (of H where there is no T).

    Not for points: of few columns, unit length leaves little.
    """
    fake, held, train = evidence.fake.features, evidence.held.features, evidence.train
    n = min(len(fake), len(held))
    if evidence.kind == "points" or n < FEWEST:
        return {}
    rng = np.random.default_rng(evidence.seed)
    sigma = median_distance(train.features if train else held, rng)
    if not sigma:  # most examples are alike: no width fits
        return {"cmmd": Estimate(math.nan, n=n)}
    value, error = cmmd(fake, held, sigma, rng)
    return {"cmmd": Estimate(value, *around(value, error, 0.0), n)}
