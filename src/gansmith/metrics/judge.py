"""The fresh judge: classifiers that never met the generator, fitted on V and asked about H.

Each judge of the ladder gets as many real as fake examples, keeps a tenth of V to itself to stop at, to choose among
seeds and to calibrate its probabilities on, and scores every example of H by itself (classifier two-sample test,
Lopez-Paz & Oquab, ICLR 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..errors import DataError, UsageError, unknown
from ._convjudge import fit_conv
from ._neighbours import nearest
from .evidence import Sample, Say, silent
from .memorisation import same_pixels
from .verdict import Ruling as Ruling
from .verdict import ruling

LADDERS = {
    "image": ("knn", "linear", "conv"),
    "points": ("knn", "linear", "trees"),
    "table": ("knn", "linear", "trees"),
}
LEAST = 20  # examples of a side, to fit on and to score
RIDGES = (1.0, 30.0, 1000.0)  # of the linear judge; its own validation picks one
SCALES = np.exp(np.linspace(-4, 3, 71))  # of a judge's logits, to calibrate them

Scorer = Callable[[np.ndarray], np.ndarray]  # examples [m, ...] -> logits of being fake [m]


def ladder(kind: str) -> tuple[str, ...]:
    """Names of the judges for a kind of data, cheap to strong. Raises UsageError for a kind that has none."""
    if kind not in LADDERS:
        raise UsageError(unknown("kind of data to judge", kind, LADDERS))
    return LADDERS[kind]


def rule(
    name: str, fit_real: Sample, fit_fake: Sample, test_real: Sample, test_fake: Sample, *, seeds: Sequence[int] = (0,),
    say: Say = silent,
) -> Ruling:  # fmt: skip
    """What the judge `name` says about held-out examples, fitted on others.

    Of several seeds the fit with the lowest loss on the judge's own tenth of V is used: H picks nothing, so that its
    p needs no correction for them. Larger sides are cut at random to the smaller one's size, after exact copies of
    real examples to fit on have been dropped from both sides of H.
    Raises DataError where examples are too few or not finite, UsageError for an unknown judge.
    """
    if name not in FITS:
        raise UsageError(unknown("judge", name, FITS))
    fit, field = FITS[name]
    rng = np.random.default_rng(0)
    v_real, v_fake = _matched(getattr(fit_real, field), getattr(fit_fake, field), "to fit", rng)
    tests = [getattr(side, field) for side in (test_real, test_fake)]
    # a judge knows by heart what it was fitted on; one rule for both sides of H, so that equal distributions stay equal
    kept = [~same_pixels(side.x, fit_real.x) for side in (test_real, test_fake)]
    _check(tests[0][kept[0]], tests[1][kept[1]], "to score")
    own = math.ceil(len(v_real) / 10)
    x, label = _joined(v_real[own:], v_fake[own:])
    own_x, own_label = _joined(v_real[:own], v_fake[:own])
    found: list[tuple[float, int, float, Scorer]] = []
    for seed in seeds:
        score = fit(x, label, own_x, own_label, seed, say)
        loss, scale = _calibrated(score(own_x), own_label)
        found.append((loss, len(found), scale, score))
    _, _, scale, score = min(found)
    scores = [_sigmoid(scale * score(x)) for x in tests]
    counted = _matched(scores[0][kept[0]], scores[1][kept[1]], "to score", rng)
    return replace(ruling(*counted, len(seeds)), real=scores[0], fake=scores[1])


def _check(real: np.ndarray, fake: np.ndarray, use: str) -> int:
    """How many of each side there are. Raises DataError where they cannot be judged."""
    if real.shape[1:] != fake.shape[1:]:
        raise DataError(f"Real examples have the shape {real.shape[1:]}, fakes {fake.shape[1:]}; make them equal.")
    n = min(len(real), len(fake))
    if n < LEAST:
        raise DataError(
            f"A judge needs at least {LEAST} different real examples and as many fakes {use}; there are {len(real)} "
            f"and {len(fake)}. Give more of them."
        )
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise DataError("A judge needs finite numbers; some examples or their features are NaN or infinite.")
    return n


def _matched(real: np.ndarray, fake: np.ndarray, use: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Equally many of both, in random order."""
    n = _check(real, fake, use)
    return real[rng.permutation(len(real))[:n]], fake[rng.permutation(len(fake))[:n]]


def _joined(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples and their labels: 1 for fakes."""
    return np.concatenate([real, fake]), np.repeat([0.0, 1.0], [len(real), len(fake)])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(logits / 2)


def _loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean cross-entropy in nats."""
    return float(np.logaddexp(0, np.where(label > 0.5, -logits, logits)).mean())


def _calibrated(logits: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """The loss at the best of SCALES, and that scale (temperature scaling, Guo et al. 2017)."""
    return min((_loss(scale * logits, label), float(scale)) for scale in SCALES)


# ---- the judges: fit(x, label, own_x, own_label, seed, say) -> scorer -------------------------------------------------
def fit_knn(
    x: np.ndarray, label: np.ndarray, own_x: np.ndarray, own_label: np.ndarray, seed: int, say: Say
) -> Scorer:  # fmt: skip
    """The share of fakes among the floor(sqrt(n)) nearest examples (Lopez-Paz & Oquab 2017)."""
    k = math.isqrt(len(x))

    def score(queries: np.ndarray) -> np.ndarray:
        fakes = label[nearest(queries, x, k)[1]].sum(1)
        return np.asarray(np.log((fakes + 0.5) / (k - fakes + 0.5)))

    return score


def fit_linear(
    x: np.ndarray, label: np.ndarray, own_x: np.ndarray, own_label: np.ndarray, seed: int, say: Say
) -> Scorer:  # fmt: skip
    """Logistic regression; its own validation picks the ridge."""
    weights = [logistic(x, label, ridge) for ridge in RIDGES]
    best = min(weights, key=lambda w: _loss(own_x @ w[:-1] + w[-1], own_label))
    return lambda queries: np.asarray(queries @ best[:-1] + best[-1])


def logistic(x: np.ndarray, label: np.ndarray, ridge: float) -> np.ndarray:
    """Weights [d + 1], the constant last, that minimise the summed cross-entropy + ridge / 2 |w|^2, by Newton's method.

    The constant is not penalised. A step that does not lower the loss is halved.
    """
    design = np.concatenate([x, np.ones((len(x), 1))], 1, dtype=np.float64)
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 1e-8

    def loss(w: np.ndarray) -> float:
        return len(x) * _loss(design @ w, label) + 0.5 * float(penalty @ w**2)

    weights = np.zeros(design.shape[1])
    now = loss(weights)
    for _ in range(30):
        share = _sigmoid(design @ weights)
        gradient = design.T @ (share - label) + penalty * weights
        hessian = (design * (share * (1 - share))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        while (then := loss(weights - step)) > now and np.abs(step).max() > 1e-9:
            step = step / 2
        weights, gain, now = weights - step, now - then, then
        if gain < 1e-6 * len(x):
            break
    return weights


def fit_trees(
    x: np.ndarray, label: np.ndarray, own_x: np.ndarray, own_label: np.ndarray, seed: int, say: Say
) -> Scorer:  # fmt: skip
    """Gradient-boosted trees on histograms, which stop by themselves."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(
        max_iter=500, early_stopping=True, validation_fraction=0.1, n_iter_no_change=15, random_state=seed
    )
    trees.fit(x, label)
    return lambda queries: np.asarray(trees.decision_function(queries))


FITS: dict[str, tuple[Callable[..., Scorer], str]] = {
    "knn": (fit_knn, "features"),
    "linear": (fit_linear, "features"),
    "trees": (fit_trees, "x"),
    "conv": (fit_conv, "x"),
}
