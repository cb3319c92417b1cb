"""Points: modes of a known mixture, and the Wasserstein-2 distance between clouds.

Protocol of PacGAN (Lin et al. 2018, sec. 4.1): 2,500 samples; high quality is within 3 standard deviations of the nearest
mode; a mode is found with one such sample. On the 25-grid a true sampler scores 98.9% high quality, 25 modes, KL .0052.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..registry import register
from .evidence import Estimate, Evidence, interval

PROTOCOL = 2_500  # samples: the figures depend on their number
EXACT = 2_000  # points that are assigned one to one; beyond, projections are sorted
PROJECTIONS = 256
DRAWS = 200


class Modes(NamedTuple):
    """modes: found; high_quality: share of the samples; kl: of the high-quality samples' shares of modes to uniform, in
    nats; core: median distance of high-quality samples to their mode's centre; nan where there are none."""

    modes: int
    high_quality: float
    kl: float
    core: float


def nearest_modes(x: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [n, d], means [K, d] -> distance [n] to the nearest mean, and its index [n]. Raises DataError if d differs."""
    if x.ndim != 2 or x.shape[1] != means.shape[1]:
        raise DataError(f"The modes are in {means.shape[1]} dimensions; the points are {list(x.shape)}.")
    distance = np.linalg.norm(x[:, None].astype(np.float64) - means[None], axis=2)
    return distance.min(1), distance.argmin(1)


def count_modes(x: np.ndarray, means: np.ndarray, sd: float) -> Modes:
    """The four figures of points [n, d] against a mixture of equal round Gaussians, means [K, d]."""
    return _count(*nearest_modes(x, means), len(means), sd)


def _count(distance: np.ndarray, mode: np.ndarray, k: int, sd: float) -> Modes:
    good = distance < 3 * sd  # False for NaN
    if not good.any():
        return Modes(0, 0.0 if len(distance) else np.nan, np.nan, np.nan)
    share = np.bincount(mode[good], minlength=k) / good.sum()
    found = share[share > 0]
    kl = float((found * np.log(found * k)).sum())
    return Modes(len(found), float(good.mean()), kl, float(np.median(distance[good])))


@register("metric", "modes")
def modes(evidence: Evidence) -> dict[str, Estimate]:
    """modes, high_quality, mode_kl and core_width (fakes' over held-out points': below 1 the modes are too narrow)."""
    if evidence.modes is None:
        return {}
    means, sd = evidence.modes
    rng = np.random.default_rng(evidence.seed)
    near, where = nearest_modes(rng.permutation(evidence.fake.x)[:PROTOCOL], means)
    real = nearest_modes(evidence.held.x, means)
    found, core = _count(near, where, len(means), sd), _count(*real, len(means), sd).core
    draws = []
    for _ in range(DRAWS):
        one, two = rng.integers(len(near), size=len(near)), rng.integers(len(real[0]), size=len(real[0]))
        again = _count(near[one], where[one], len(means), sd)
        draws.append(
            (again.high_quality, again.kl, again.core / _count(real[0][two], real[1][two], len(means), sd).core)
        )
    columns = np.array(draws).T
    columns[1] = (columns[1] - columns[1].mean() + found.kl).clip(0)  # counting twice adds its bias twice
    quality, kl, width = map(interval, columns)
    n = len(near)
    return {
        "modes": Estimate(found.modes, n=n),
        "high_quality": Estimate(found.high_quality, *quality, n),
        "mode_kl": Estimate(found.kl, *kl, n),
        "core_width": Estimate(found.core / core, *width, n),
    }


# ---- transport ------------------------------------------------------------------------------------------------------
def transport_costs(x: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
    """Squared distance [n] that each point of x travels when x is moved onto y, both [n, d]; W2 is the root of its mean.

    Up to 2,000 points by optimal assignment, exactly; else sliced (Rabin et al. 2011): the mean over 256 random
    directions, along each of which points are matched by rank. Raises DataError where the clouds differ in shape.
    """
    if x.shape != y.shape or x.ndim != 2 or not len(x):
        raise DataError(f"Transport needs as many points on both sides; got {list(x.shape)} and {list(y.shape)}.")
    x, y = x.astype(np.float64), y.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.full(len(x), np.nan)
    return _assigned(x, y) if len(x) <= EXACT else _sliced(x, y, np.random.default_rng(seed))


def _assigned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(x, y, "sqeuclidean")
    moved: np.ndarray = cost[linear_sum_assignment(cost)]
    return moved


def _sliced(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    total = np.zeros(len(x))
    for direction in rng.standard_normal((PROJECTIONS, x.shape[1])):
        a, b = x @ (unit := direction / np.linalg.norm(direction)), y @ unit
        order = np.argsort(a)
        total[order] += (a[order] - np.sort(b)) ** 2
    return total / PROJECTIONS


@register("metric", "w2")
def w2(evidence: Evidence) -> dict[str, Estimate]:
    """Wasserstein-2 distance of points to held-out ones, in the data's units: "w2", or "sliced_w2" beyond 2,000.

    A finite sample is some way from another of the same distribution: read it beside its floor. The interval takes the
    matching as given.
    """
    if evidence.kind != "points":
        return {}
    n = min(len(evidence.fake), len(evidence.held))
    rng = np.random.default_rng(evidence.seed)  # files may be sorted
    costs = transport_costs(rng.permutation(evidence.fake.x)[:n], rng.permutation(evidence.held.x)[:n], evidence.seed)
    draws = np.array([np.sqrt(costs[rng.integers(n, size=n)].mean()) for _ in range(DRAWS)])
    return {"w2" if n <= EXACT else "sliced_w2": Estimate(float(np.sqrt(costs.mean())), *interval(draws), n)}
