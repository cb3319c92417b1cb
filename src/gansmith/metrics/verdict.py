"""From a judge's scores to a statement: intervals, p-values, and the three-valued verdict.

Classifier two-sample test (Lopez-Paz & Oquab, ICLR 2017): a judge fitted on one part of the examples scores another
part; where real and fake have one distribution its hits are Binomial(n, 1/2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

DELTA, ALPHA = 0.05, 0.01
POWER = 0.80  # of the numbers of examples that are asked for
CONFIDENCE = 0.95
C1_LEAST = 0.90  # what known-bad fakes must score
SHUFFLES = 1000
_quantile = NormalDist().inv_cdf


@dataclass(frozen=True)
class Ruling:
    """What one judge found on held-out examples, as many fake as real.

    accuracy with its 95% Wilson interval; auc; bits: cross-entropy, so that the Jensen-Shannon divergence is at least
    1 - bits; p: that accuracy or auc came by chance; n: real and fake examples scored; seeds: fits to choose from;
    real, fake: probability of being fake of each example that was given, in their order.
    """

    accuracy: float
    low: float
    high: float
    auc: float
    bits: float
    p: float
    n: int
    seeds: int = 1
    real: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    fake: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    def to_json(self) -> dict[str, float | int]:
        names = ("accuracy", "low", "high", "auc", "bits", "p", "n")
        return {name: getattr(self, name) for name in names}


Control = Ruling | Mapping[str, Any]  # a ruling, or rulings by name; each may be a Ruling or its JSON


@dataclass(frozen=True)
class Verdict:
    """name: EQUILIBRIUM, DISTINGUISHABLE or UNDECIDED; need_n: real and fake examples to score for a decision."""

    name: str
    reason: str
    need_n: int | None = None


# ---- one judge --------------------------------------------------------------------------------------------------
def ruling(real: np.ndarray, fake: np.ndarray, seeds: int = 1) -> Ruling:
    """The ruling that follows from probabilities of being fake [n] of as many real as fake examples.

    p is twice the smaller of the exact binomial p of the accuracy and the permutation p of the auc, both one-sided:
    a judge that is right less often than a coin has found a fault of the protocol, not a difference.
    """
    n = len(real) + len(fake)
    hits = int((fake > 0.5).sum() + (real <= 0.5).sum())
    truth = np.concatenate([1 - real, fake]).clip(1e-7, 1)
    low, high = wilson(hits, n)
    p = min(1.0, 2 * min(binomial_p(hits, n), auc_p(real, fake)))
    bits = float(np.log2(1 / truth).mean())
    return Ruling(hits / n, low, high, auc(real, fake), bits, p, n, seeds, real, fake)


def wilson(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a share (Wilson 1927)."""
    z = _quantile(0.5 + confidence / 2)
    middle, half = hits + z * z / 2, z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, (middle - half) / (n + z * z)), min(1.0, (middle + half) / (n + z * z))


def binomial_p(hits: int, n: int) -> float:
    """Probability that n throws of a coin show `hits` heads or more."""
    k = np.arange(hits, n + 1)
    terms = np.array([-math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k]) + math.lgamma(n + 1) - n * math.log(2)
    top = terms.max()
    return min(1.0, math.exp(top) * float(np.exp(terms - top).sum()))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 [n]; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[index])


def auc(real: np.ndarray, fake: np.ndarray) -> float:
    """Probability that a fake scores above a real example, a tie counting half."""
    total = _ranks(np.concatenate([fake, real]))[: len(fake)].sum()
    return float((total - len(fake) * (len(fake) + 1) / 2) / (len(fake) * len(real)))


def auc_p(real: np.ndarray, fake: np.ndarray) -> float:
    """Share of SHUFFLES permutations of the labels, scores fixed, whose auc is as high as the one found."""
    ranks, rng = _ranks(np.concatenate([fake, real])), np.random.default_rng(0)
    found, as_high = ranks[: len(fake)].sum(), 1
    for _ in range(SHUFFLES):
        as_high += rng.permutation(ranks)[: len(fake)].sum() >= found
    return float(as_high / (SHUFFLES + 1))


# ---- how many examples ------------------------------------------------------------------------------------------
def n_to_detect(edge: float, alpha: float = 0.05, power: float = POWER) -> int:
    """Examples, real and fake, that show an accuracy of .5 + edge to be above .5 (one-sided)."""
    spread = _quantile(1 - alpha) / 2 + _quantile(power) * math.sqrt(max(0.0, 0.25 - edge * edge))
    return math.ceil((spread / edge) ** 2)


def n_to_certify(margin: float, alpha: float = 0.05, power: float = POWER) -> int:
    """Examples, real and fake, that show an accuracy to be below one that lies `margin` above it (one-sided)."""
    return math.ceil(((_quantile(1 - alpha) + _quantile(power)) / (2 * margin)) ** 2)


def _need(edge: float, delta: float, alpha: float, judges: int) -> int:
    """Examples for either decision, if the accuracy really is .5 + edge."""
    ways = []
    if edge > 0:
        ways.append(n_to_detect(edge, alpha / judges))
    if edge < delta:
        ways.append(n_to_certify(delta - max(edge, 0.0), (1 - CONFIDENCE) / judges))
    return min(ways)


# ---- all judges -------------------------------------------------------------------------------------------------
def verdict(
    rulings: Mapping[str, Ruling], controls: Mapping[str, Control] | None = None, *, delta: float = DELTA,
    alpha: float = ALPHA,
) -> Verdict:  # fmt: skip
    """EQUILIBRIUM (every judge below .5 + delta with 95% confidence), DISTINGUISHABLE (p < alpha / judges) or UNDECIDED.

    Tested in this order, once the controls hold: c0, real against real, whose accuracy may not differ from .5 (level
    alpha over all its judges); c1, known-bad fakes, of which the strongest judge must know C1_LEAST. Where no judge is right
    more often than a coin, none may be right less often. All levels are divided by the number of judges (Bonferroni).
    """
    if not rulings:
        need = n_to_certify(delta)
        return Verdict("UNDECIDED", f"no judge could be fitted; {need:,} examples, real and fake, are needed", need)
    fault = _fault(rulings, controls or {}, alpha)
    if fault:
        return Verdict("UNDECIDED", fault)
    judges = len(rulings)
    name, best = strongest(rulings)
    # a one-sided bound of level a is the upper end of a two-sided interval of confidence 1 - 2a
    confidence = 1 - 2 * (1 - CONFIDENCE) / judges
    upper = max(wilson(_hits(r.accuracy, r.n), r.n, confidence)[1] for r in rulings.values())
    if upper < 0.5 + delta:
        return Verdict("EQUILIBRIUM", f"no judge can be right more than {upper:.1%} of the time (95% confidence)")
    caught = min(rulings, key=lambda key: rulings[key].p)
    if (p := rulings[caught].p) < alpha / judges:
        return Verdict("DISTINGUISHABLE", f"{caught} is right {rulings[caught].accuracy:.1%} of the time, p = {p:.2g}")
    need = max(best.n + 1, _need(best.accuracy - 0.5, delta, alpha, judges))
    reason = (
        f"{name} is right {best.accuracy:.1%} of {best.n:,} times, which may be chance; about {need:,} would decide"
    )
    return Verdict("UNDECIDED", reason, need)


def strongest(rulings: Mapping[str, Ruling]) -> tuple[str, Ruling]:
    """The judge that is right most often, and its name."""
    return max(rulings.items(), key=lambda item: item[1].accuracy)


def _hits(accuracy: float, n: int) -> int:
    return round(accuracy * n)


def _tests(control: Control, name: str = "a judge") -> Iterator[tuple[str, float, int]]:
    """(judge, accuracy, n) of everything in a control."""
    if isinstance(control, Ruling):
        yield name, control.accuracy, control.n
    elif "accuracy" in control:
        yield name, control["accuracy"], control["n"]
    else:
        for key, part in control.items():
            yield from _tests(part, key)


def _fault(rulings: Mapping[str, Ruling], controls: Mapping[str, Control], alpha: float) -> str:
    """Why the judges' numbers are void; empty if they are not."""
    c0 = list(_tests(controls["c0"])) if "c0" in controls else []
    for name, accuracy, n in c0:
        low, high = wilson(_hits(accuracy, n), n, 1 - alpha / len(c0))
        if not low <= 0.5 <= high:
            excess = strongest(rulings)[1].accuracy - max(a for _, a, _ in c0)
            return (
                f"control C0 failed: {name} tells real examples from other real ones with {accuracy:.1%}, so the "
                f"held-out part differs from the rest; only the excess of {100 * excess:+.1f} points may be quoted"
            )
    c1 = list(_tests(controls["c1"])) if "c1" in controls else []
    if c1 and max(a for _, a, _ in c1) < C1_LEAST:
        name, accuracy, _ = max(c1, key=lambda test: test[1])
        return (
            f"control C1 failed: {name} knows only {accuracy:.1%} of known-bad fakes, not {C1_LEAST:.0%}; more "
            "examples to fit the judges on are needed"
        )
    if min(r.p for r in rulings.values()) < alpha / len(rulings):
        return ""  # somebody tells them apart; a judge too simple for the difference may well be wrong more often than right
    for name, r in rulings.items():
        if wilson(_hits(r.accuracy, r.n), r.n, 1 - 2 * alpha / len(rulings))[1] < 0.5:
            return (
                f"{name} is right only {r.accuracy:.1%} of the time, less often than a coin: the same examples are "
                "probably among the real ones and among the fakes; remove them"
            )
    return ""
