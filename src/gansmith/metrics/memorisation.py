"""Copy checks: are the fakes nearer to the training examples than held-out real ones are?

They find copies; they prove no privacy (arXiv 2505.01524). All need T, what the players saw, and work on features. The
floors come with the estimates: held-out examples put through the same check, never training ones, which are copies.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np

from ..errors import DataError
from ..registry import register
from ._likelihood import distances, divergence
from ._neighbours import nearest
from .evidence import Estimate, Evidence, interval

DIMENSIONS = 64  # principal components of T that distances are taken in
CELLS = 3
NAMES = (
    "c_t",
    "authenticity",
    "nn_ratio",
    "fld",
    "fld_gap",
    "birthday",
    "near_copies",
    "near_copies_p",
    "exact_copies",
)
LEAST = 100  # fewer fakes, held-out or training examples than this say nothing
DRAWS = 200
TWIN = 1e-3  # suspicion below which a real example is a copy: features of equal pictures may differ by rounding
BIRTHDAY = 4_000  # fakes that are compared with each other


# ---- C_T ------------------------------------------------------------------------------------------------------------
def data_copying(fake: np.ndarray, held: np.ndarray, fake_cells: np.ndarray, held_cells: np.ndarray) -> float:
    """C_T of Meehan et al. 2020: far below 0 where fakes copy, above where they miss the data.

    fake [m], held [n]: distances to the nearest training example; cells: which part of the space each lies in. A cell
    counts if more than 20/m of the fakes are in it. Two real samples give about N(0, 1) or narrower. nan if none counts.
    """
    total = weight = 0.0
    for cell in np.unique(held_cells):
        a, b = fake[fake_cells == cell], held[held_cells == cell]
        if len(a) > 20:
            total += len(b) * rank_sum(a, b)
            weight += len(b)
    return total / weight if weight else math.nan


def rank_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Mann-Whitney z of a [n] against b [m]: below 0 where a is smaller. Ties count half."""
    n, m, ordered = len(a), len(b), np.sort(b)
    u = (np.searchsorted(ordered, a, "left") + np.searchsorted(ordered, a, "right")).sum() / 2
    return float((u - (n * m / 2 - 0.5)) / math.sqrt(n * m * (n + m + 1) / 12))


def principal(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The projection onto the 64 leading principal components of training features [n, f]; none is needed for f <= 64."""
    if train.shape[1] <= DIMENSIONS:
        return lambda features: features
    axes = np.linalg.eigh(np.cov(train.T, dtype=np.float64))[1][:, -DIMENSIONS:].astype(np.float32)
    return lambda features: features @ axes


def cells(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Three k-means cells of training features: a function from features [n, f] to cells [n]."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct examples than cells: some stay empty
        fitted = KMeans(CELLS, n_init=1, random_state=seed).fit(_some(train, 5_000, np.random.default_rng(seed)))
    return lambda features: nearest(features, fitted.cluster_centers_)[1][:, 0]


# ---- single copies --------------------------------------------------------------------------------------------------
def suspicion(near: np.ndarray) -> np.ndarray:
    """Distances to the two nearest training examples [n, 2] -> how much nearer the first is, in [0, 1]; 0 is a copy.

    The ratio by which Lowe (2004) matches key points. Fakes that are merely few of kind, or smooth, are near to several
    examples alike.
    """
    ratio: np.ndarray = near[:, 0] / np.maximum(near[:, 1], np.finfo(np.float32).tiny)
    return ratio


def precedence(fake: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Which fakes are nearer to a single training example than real ones are, what share of real ones is, and the p of
    finding so many (Nelson 1963).

    fake [n], held [m]: `suspicion` of each. Fakes below the r-th smallest held value, r/m, and the p of their number if
    fakes were real; r is a thousandth of m and more than there are copies in `held` itself. p is 1 where most of it are.
    """
    n, m = len(fake), len(held)
    r = min(max(1, m // 1000) + int((held < TWIN).sum()), m)
    single: np.ndarray = fake < np.partition(held, r - 1)[r - 1]
    return single, r / m, _tail(int(single.sum()), r, n, m) if r <= m // 2 else 1.0


def _tail(k: int, r: int, n: int, m: int) -> float:
    """P(at least k of n lie below the r-th smallest of m others), all n + m being alike: of the k + r - 1 smallest of
    all, fewer than r are of the m."""

    def choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    drawn, logs = k + r - 1, []
    for j in range(max(0, drawn - n), r):
        logs.append(choose(m, j) + choose(n, drawn - j) - choose(n + m, drawn))
    return min(1.0, math.fsum(map(math.exp, logs)))


def same_pixels(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of x [n, ...] equal one of the others to the last bit: bool [n]."""
    known = set(_prints(others))
    return np.array([row in known for row in _prints(x)], bool)


def distinct(x: np.ndarray) -> np.ndarray:
    """Indices of the first of each group of equal examples of x [n, ...]: twins would hide each other's copies."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(_prints(x)):
        first.setdefault(row, i)
    return np.fromiter(first.values(), np.int64, len(first))


def _prints(x: np.ndarray) -> Iterator[bytes]:
    """A short hash of each example of x [n, ...], so that large pictures are not held twice."""
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x)


def closest(fake: np.ndarray, train: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The n most suspicious fakes, most suspicious first: their indices, those of their nearest training examples, and
    the distances between, each [n].

    fake, train: features [., f]; for the report's pairs of pictures.
    """
    distances, indices = nearest(fake, train, 2)
    order = np.argsort(suspicion(distances), kind="stable")[:n]
    return order, indices[order, 0], distances[order, 0]


# ---- birthday -------------------------------------------------------------------------------------------------------
def birthday(fake: np.ndarray, threshold: float, rng: np.random.Generator) -> tuple[float, float, float]:
    """Smallest batch that holds a near-duplicate pair in half of the draws, with its interval (Arora & Zhang 2017).

    fake: features [n, f]; threshold: pairs nearer than this are near-duplicates. The number of different fakes is about
    the square of it. inf where no pair is near: more than n.
    """
    fake = _some(fake, BIRTHDAY, rng)
    pairs = _near_pairs(fake, threshold)
    while len(pairs) > 100_000:  # so many that fewer fakes tell as much
        fake = fake[: len(fake) // 2]
        pairs = pairs[(pairs < len(fake)).all(1)]
    value = _first_pair(pairs, len(fake), DRAWS, rng)
    halves = []
    for _ in range(40):  # drawing with replacement would make duplicates: halves without it
        chosen = rng.permutation(len(fake)) < len(fake) // 2
        halves.append(_first_pair(pairs[chosen[pairs].all(1)], len(fake), 50, rng, chosen))
    low, high = np.quantile(halves, (0.025, 0.975), method="nearest")
    return value, float(low), float(high)


def _first_pair(
    pairs: np.ndarray, n: int, draws: int, rng: np.random.Generator, chosen: np.ndarray | None = None
) -> float:
    """Median over random orders of the (chosen) n of how many are drawn until a pair is complete."""
    if not len(pairs):
        return math.inf
    members = np.arange(n) if chosen is None else np.flatnonzero(chosen)
    rank, found = np.empty(n, np.int64), []
    for _ in range(draws):
        rank[members] = rng.permutation(len(members))
        found.append(rank[pairs].max(1).min() + 1)
    return float(np.median(found))


def _near_pairs(x: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs i < j of rows nearer than the threshold, [p, 2]."""
    import torch

    rows, found = torch.from_numpy(np.ascontiguousarray(x, np.float32)), []
    for start in range(0, len(rows), 500):
        i, j = (distances(rows[start : start + 500], rows) < threshold).nonzero(as_tuple=True)
        found.append(torch.stack([i + start, j], 1)[i + start < j].numpy())
    return np.concatenate(found)


def near_duplicate(held: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> float:
    """The distance below which two are called near-duplicates: 1% of held-out examples have one that near among 1,000
    training examples. Two real examples are then one pair in about 100,000; a batch of some 370 holds one."""
    return float(np.quantile(nearest(held, _some(train, 1_000, rng))[0], 0.01))


# ---- the metric -----------------------------------------------------------------------------------------------------
@register("metric", "memorisation")
def memorisation(evidence: Evidence) -> dict[str, Estimate]:
    """c_t, authenticity, nn_ratio, fld, fld_gap, birthday; near_copies, near_copies_p and exact_copies; floors of H.

    authenticity (Alaa et al. 2022): share of fakes whose distance to their nearest training example t exceeds that of t
    to its own nearest. nn_ratio: median distance of fakes to T over that of H. near_copies: share of fakes that are far
    nearer to one training example than to any other, beyond that of H. exact_copies: share equal to the last bit.
    {} without T, or where fakes, T or H are fewer than 100.
    """
    t = evidence.train
    if t is None or min(len(evidence.fake), len(evidence.held), len(t)) < LEAST:
        return {}
    t = t[distinct(t.x)]
    if len(t) < LEAST:
        raise DataError(f"Only {len(t)} of the training examples differ; copies of so few cannot be told from luck.")
    project = principal(t.features)
    fake, held, train = (project(sample.features) for sample in (evidence.fake, evidence.held, t))
    rng = np.random.default_rng(evidence.seed)
    near, theirs = nearest(fake, train, 2), nearest(held, train, 2)
    single, share, p = precedence(suspicion(near[0]), suspicion(theirs[0]))
    exact, known = (same_pixels(sample.x, t.x) for sample in (evidence.fake, evidence.held))
    return {
        **_distances(near, theirs, fake, held, train, evidence.seed),
        **_diversity(fake, held, train, rng),
        "near_copies": _share(single, share, rng),
        "near_copies_p": Estimate(p, n=len(fake), floor=0.5, reference="T"),
        "exact_copies": _share(exact, float(known.mean()), rng),
    }


Found = tuple[np.ndarray, np.ndarray]


def _distances(
    near: Found, theirs: Found, fake: np.ndarray, held: np.ndarray, train: np.ndarray, seed: int
) -> dict[str, Estimate]:
    """What the distances to the nearest training example tell."""
    rng, cell = np.random.default_rng(seed), cells(train, seed)
    a, b, a_cell, b_cell = near[0][:, 0], theirs[0][:, 0], cell(fake), cell(held)
    draws = []
    for _ in range(DRAWS):
        i, j = rng.integers(len(a), size=len(a)), rng.integers(len(b), size=len(b))
        draws.append((data_copying(a[i], b[j], a_cell[i], b_cell[j]), _ratio(np.median(a[i]), np.median(b[j]))))
    c_t, ratio = (interval(column) for column in np.array(draws).T)
    hits = np.unique(np.concatenate([near[1][:, 0], theirs[1][:, 0]]))
    own = np.empty(len(train), np.float32)
    own[hits] = nearest(train[hits], train, 2)[0][:, 1]  # the nearest of all is itself
    authentic, real = (found[0][:, 0] > own[found[1][:, 0]] for found in (near, theirs))
    return {
        "c_t": Estimate(data_copying(a, b, a_cell, b_cell), *c_t, len(a), 0.0, "T"),
        "authenticity": _share(authentic, float(real.mean()), rng),
        "nn_ratio": Estimate(_ratio(np.median(a), np.median(b)), *ratio, len(a), 1.0, "T"),
    }


def _diversity(fake: np.ndarray, held: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> dict[str, Estimate]:
    """How likely real examples are around the fakes, and duplicates among fakes."""
    found, n = divergence(fake, held, train, rng), len(fake)
    fld, seen, unseen = (_means(values, rng) for values in found[:3])
    gap = float(found.train.mean() - found.held.mean())
    threshold = near_duplicate(held, train, rng)
    born, real = birthday(fake, threshold, rng), birthday(held, threshold, rng)
    return {
        "fld": Estimate(float(found.fld.mean()), *interval(fld), n, 0.0, "T"),
        "fld_gap": Estimate(gap, *interval(seen - unseen), n, found.gap, "T"),
        "birthday": Estimate(*born, n, real[0], "T"),
    }


def _share(which: np.ndarray, floor: float, rng: np.random.Generator) -> Estimate:
    """The share of a bool [n] that holds."""
    return Estimate(float(which.mean()), *interval(_means(which, rng)), len(which), floor, "T")


def _means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of the mean of [n]."""
    return np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(DRAWS)])


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else math.nan


def _some(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most n rows, at random."""
    return x[rng.permutation(len(x))[:n]]


# ---- the verdict ----------------------------------------------------------------------------------------------------
Verdict = Literal["copies", "clean", "unknown"]


def copies_verdict(estimates: Mapping[str, Estimate], evidence: Evidence) -> tuple[Verdict, str]:
    """Does the generator copy? A verdict and its sentence, from what `memorisation` estimated of the evidence.

    "copies": single training examples are copied, or most fakes lie nearer to training examples than these to each other.
    "unknown": nothing was estimated; or fakes lie near to training examples, yet to no single ones, as those of a
    generator that makes few or smooth kinds also do.
    """
    if "c_t" not in estimates:
        return "unknown", _untold(evidence)
    c_t, authentic, ratio, near = (estimates[k] for k in ("c_t", "authenticity", "nn_ratio", "near_copies"))
    if estimates["near_copies_p"].value < 1e-3 and near.value > 3 * near.floor:
        return "copies", (
            f"{near.value:.1%} of the fakes are each far nearer to one training example than to any other "
            f"({near.floor:.1%} of held-out real ones are): training examples are copied."
        )
    alarms = [f"C_T is {c_t.value:.1f}, under -3"] if c_t.value < -3 else []
    noise = 3 * math.sqrt(authentic.floor * (1 - authentic.floor) * (1 / authentic.n + 1 / len(evidence.held)))
    if few := authentic.value < authentic.floor - max(0.1, noise):
        alarms.append(f"{authentic.value:.0%} are authentic, {authentic.floor:.0%} of held-out ones")
    if ratio.value < 0.8 and ratio.high < 1:
        alarms.append(f"the median distance is {ratio.value:.2f} of the held-out one, under 0.8")
    if few and c_t.value < -3 and authentic.value < authentic.floor / 3:
        return "copies", f"The fakes lie too near to the training examples: {'; '.join(alarms)}."
    if alarms:
        return "unknown", (
            f"The fakes lie nearer to the training examples than held-out ones do ({'; '.join(alarms)}), but to no single "
            "ones: they may be few or smooth kinds rather than copies; look at the pairs."
        )
    return "clean", "The fakes are no nearer to the training examples than held-out real ones are."


def _untold(evidence: Evidence) -> str:
    if evidence.train is None:
        return "Copies were not looked for: the training examples are not known; name them with --train."
    sides = {"fakes": evidence.fake, "held-out": evidence.held, "training": evidence.train}
    counts = ", ".join(f"{len(sample):,} {side}" for side, sample in sides.items())
    return f"Copies were not looked for: that needs {LEAST} examples of each kind; there are {counts}."
