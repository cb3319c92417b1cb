"""How likely real examples are under a mixture around the fakes (Jiralerspong et al. 2023, feature likelihood divergence)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CENTRES = 2_000  # fakes that carry a component
FITTED = 3_000  # training examples that the variances are fitted on, and held-out ones that are scored
STEPS = 10
PRIOR = 1e-3  # examples that each centre is given at the start


class Divergence(NamedTuple):
    """In hundredths of a nat a dimension. fld [h]: of each held-out example, beyond what real centres give, lower is
    better; train [t], held [h]: negative log-likelihoods under the fakes' mixture; gap: train minus held of the real."""

    fld: np.ndarray
    train: np.ndarray
    held: np.ndarray
    gap: float


def divergence(fake: np.ndarray, held: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> Divergence:
    """FLD of features [., d]. Fakes that copy training examples make those likely and others not: the
    mean of `train` falls far below that of `held`.

    Half of the training examples take no part in the fit: as many of them as there are fakes are the real mixture's
    centres, which pins the paper's constant, and makes 0 the value of a perfect generator.
    """
    train = train[rng.permutation(len(train))]
    n = min(len(fake), len(train) // 2, CENTRES)
    fake, held = (part[rng.permutation(len(part))] for part in (fake, held))
    some, fitted, scored = fake[:n], train[n : n + FITTED], held[:FITTED]
    mean = fitted.mean(0)
    one = _scores(*(torch.from_numpy(part - mean) for part in (some, fitted, scored)))
    two = _scores(*(torch.from_numpy(part - mean) for part in (train[:n], fitted, scored)))
    return Divergence(one[1] - two[1], one[0], one[1], float(two[0].mean() - two[1].mean()))


def _scores(centres: Tensor, fitted: Tensor, scored: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """100/d times the negative log-likelihood of the fitted [t] and of other examples [h]."""
    square, d = distances(fitted, centres).square_(), fitted.shape[1]
    variance = _variances(square, d)
    other = distances(scored, centres).square_()
    train, held = (-100 / d * _joint(s, variance, d).logsumexp(1).double() for s in (square, other))
    return train.numpy(), held.numpy()


def _variances(square: Tensor, d: int) -> Tensor:
    """Each centre's variance [c] of greatest likelihood for squared distances [t, c], by expectation-maximisation.

    They start at what a median example is away from its nearest centre; a hundredth of that is the least, which keeps
    the likelihood of copies finite. A centre that no example belongs to stays where it started.
    """
    start = square.min(1).values.median().clamp_min(1e-12) / d
    variance = start.expand(square.shape[1])
    for _ in range(STEPS):
        weights = _joint(square, variance, d).softmax(1)
        belonging = weights.sum(0) + PRIOR
        variance = ((weights.mul_(square).sum(0) / d + PRIOR * start) / belonging).clamp_min(start / 100)
    return variance


def _joint(square: Tensor, variance: Tensor, d: int) -> Tensor:
    """Log of each centre's share of the density, [t, c]."""
    constant = -d / 2 * torch.log(2 * math.pi * variance) - math.log(len(variance))
    return torch.addcmul(constant, square, -0.5 / variance)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean, [n, m]; from differences in few dimensions, where points lie too dense for |x|^2 + |y|^2 - 2xy."""
    return torch.cdist(x, y, compute_mode=f"{'use_mm' if x.shape[1] > 8 else 'donot_use_mm'}_for_euclid_dist")
