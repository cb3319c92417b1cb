"""Frechet distance between Gaussians that were fitted to features, and its limit for endless samples.

|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6). It is biased upwards by
about C / N: compare at equal counts and beside the floor. Covariances want N >= 50 d; with N <= d there is no figure.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..registry import register
from ._resample import around, redrawn
from .evidence import Estimate, Evidence

BLOCK = 1 << 23  # float64 numbers held at once, beside the covariances
GROUPS = 100
HELD = 1 << 25  # float64 numbers that the groups of one sample may hold
DRAWS = 10, 100  # of an interval: fewer where covariances are large
COST = 1 << 30
SIZES = 15  # sample sizes of fd_inf (Chong & Forsyth 2020)
SHARE, SPAN = 0.1, 2.4  # the smallest of them: a tenth of all, as theirs, at least as many a dimension as theirs


@dataclass(frozen=True)
class Moments:
    """Count, mean [d] and scatter [d, d] (summed products of deviations), float64. Sums are moments of both together."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Moments of rows [n, d]. Raises DataError if there are none, or values that are not finite."""
        x = checked(features)
        rows = max(1, BLOCK // x.shape[1])
        return functools.reduce(operator.add, (cls._block(x[at : at + rows]) for at in range(0, len(x), rows)))

    @classmethod
    def _block(cls, rows: np.ndarray) -> Moments:
        x = rows.astype(np.float64)
        mean = x.mean(0)
        x -= mean
        return cls(len(x), mean, x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub & LeVeque 1979, eq. 2.1: no large sums of squares are subtracted."""
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """[d, d], divided by n - 1."""
        return self.scatter / max(self.n - 1, 1)


def checked(features: np.ndarray) -> np.ndarray:
    """Rows [n, d]. Raises DataError for another shape, no rows, or values that are not finite."""
    if features.ndim != 2 or not features.size:
        raise DataError(f"Features must be rows of numbers, [examples, columns]; got shape {list(features.shape)}.")
    if not np.isfinite(features).all():
        raise DataError(
            "Features must be finite; some are NaN or infinite. Look for broken examples or a diverged model."
        )
    return features


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance, squared as is usual, >= 0. Raises DataError if the dimensions differ.

    tr (S1 S2)^(1/2) comes from the eigenvalues of the symmetric L' S2 L with L L' = S1, the same as those of S1 S2;
    rounding may leave some below 0, which count as 0.
    """
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"Features of {len(a.mean)} and of {len(b.mean)} columns cannot be compared: extract both alike."
        )
    one, two = a.covariance, b.covariance
    try:
        root = np.linalg.cholesky(one)
    except np.linalg.LinAlgError:  # singular: constant or dependent columns, or too few rows
        values, vectors = np.linalg.eigh(one)
        root = vectors * np.sqrt(values.clip(0))
    between = np.sqrt(np.linalg.eigvalsh(root.T @ two @ root).clip(0)).sum()
    gap = a.mean - b.mean
    return max(float(gap @ gap + one.trace() + two.trace() - 2 * between), 0.0)


class Groups:
    """Sums over random groups of rows [n, d], from which the moments of any choice of groups are had at once."""

    def __init__(self, features: np.ndarray, rng: np.random.Generator):
        x = checked(features)
        d = x.shape[1]
        count = min(GROUPS, max(SIZES, HELD // d**2), len(x))
        self.centre = x.mean(axis=0, dtype=np.float64)
        self.sizes, self.sums, products = np.empty(count), np.empty((count, d)), np.empty((count, d, d))
        for g, rows in enumerate(np.array_split(rng.permutation(len(x)), count)):
            part = x[rows] - self.centre
            self.sizes[g], self.sums[g], products[g] = len(rows), part.sum(0), part.T @ part
        self.products = products.reshape(count, -1)

    def __len__(self) -> int:
        return len(self.sizes)

    def pick(self, weights: np.ndarray) -> Iterator[Moments]:
        """Moments of the groups, each counted as often as its weight says, for every row of weights [k, groups]."""
        counts = weights @ self.sizes
        steps = weights @ self.sums / counts[:, None]
        for n, step, flat in zip(counts, steps, weights @ self.products, strict=True):
            scatter = flat.reshape(len(step), -1) - n * np.outer(step, step)
            yield Moments(int(n), self.centre + step, scatter)


def fd_inf(fake: Groups, reference: Groups, rng: np.random.Generator) -> tuple[float, float]:
    """Frechet distance of endless samples, which may fall a little below 0, and the standard error of the fit alone.

    Chong & Forsyth 2020, sec. 3: distances at 15 evenly spaced sizes, a line in 1 / size, its intercept. They keep the
    reference whole, 50,000 pictures; held-out sets are smaller than that, so here both sides shrink together, which takes
    the reference's own error out as well. nan where the smaller side has fewer than about 5 examples a dimension.
    """
    n, d = min(fake.sizes.sum(), reference.sizes.sum()), fake.sums.shape[1]
    least = max(SHARE, SPAN * d / n)
    if least > 0.5 or min(len(fake), len(reference)) < SIZES:
        return math.nan, math.nan
    shares = np.linspace(least, 1, SIZES)
    ones, twos = (groups.pick(_subsets(len(groups), shares, rng)) for groups in (fake, reference))
    inverse, values = np.array([(1 / a.n, frechet(a, b)) for a, b in zip(ones, twos, strict=True)]).T
    fit, error = np.polyfit(inverse, values, 1, cov=True)
    return float(fit[1]), float(np.sqrt(error[1, 1]))


def _subsets(groups: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which groups are in random subsets of these shares of them: 0 or 1, [shares, groups]."""
    ranks = rng.permuted(np.tile(np.arange(groups), (len(shares), 1)), axis=1)
    return (ranks < np.round(shares * groups)[:, None]).astype(np.float64)


@register("metric", "fd")
def distances(evidence: Evidence) -> dict[str, Estimate]:
    """fd and fd_inf against H, fd_train against T, fd_test against the test folder, each with all the examples of both.

    fd_inf is against H, not the larger T, which a copier is at distance 0 of. nan where a side has no more examples than
    dimensions: the figure would tell of their number. Intervals cover the chance in both sides.
    """
    rng = np.random.default_rng(evidence.seed)
    fake = Groups(evidence.fake.features, rng)
    found: dict[str, Estimate] = {}
    sides = ("fd", "H", evidence.held), ("fd_train", "T", evidence.train), ("fd_test", "test", evidence.test)
    for name, mark, sample in sides:
        if sample is None:
            continue
        n = min(len(evidence.fake), len(sample))
        if n <= sample.features.shape[1]:
            found[name] = Estimate(math.nan, n=n, reference=mark)
            continue
        reference = Groups(sample.features, rng)
        value, spread = _with_spread(fake, reference, rng)
        found[name] = Estimate(value, *around(value, spread, 0.0), n, reference=mark)
        if name == "fd":
            limit, error = fd_inf(fake, reference, rng)
            found["fd_inf"] = Estimate(limit, *around(limit, math.hypot(spread, error)), n)
    return found


def _with_spread(fake: Groups, reference: Groups, rng: np.random.Generator) -> tuple[float, float]:
    """Frechet distance of two samples and its standard error, by drawing the groups of both anew."""
    weights = [np.ones((1, len(groups))) for groups in (fake, reference)]
    d = fake.sums.shape[1]
    draws = int(np.clip(COST // d**3, *DRAWS))
    weights = [np.vstack([w, redrawn(rng, w.shape[1], draws)]) for w in weights]
    pairs = zip(fake.pick(weights[0]), reference.pick(weights[1]), strict=True)
    value, *again = (frechet(a, b) for a, b in pairs)
    return value, float(np.std(again, ddof=1))
