"""Even batches: real examples of every kind in their share, latents in pairs of opposites.

Ten kinds of digits, sixty-four drawn: by luck a batch holds 3 or 10 of one kind, and both players learn from the surplus. Here
each example and each latent is as likely as ever, but those of a batch spread over all there is (stratified batches: Zhao &
Zhang 2014; orthogonal draws: Yu et al. 2016; opposites are as old as Monte Carlo). Gradients keep their mean and lose noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 7  # of the small pictures by which kinds are told
COLUMNS = 64  # the same for rows of numbers
CHUNK = 4096  # rows made small at once
FIT = 20_000  # rows that a direction is fitted on


def coarse(x: Tensor) -> np.ndarray:
    """x [n, ...] -> float32 [n, k]: means over SIDE x SIDE patches of pictures; of longer rows, over COLUMNS stretches."""

    def small(part: Tensor) -> Tensor:
        part = part.float()
        if part.dim() == 4:
            return F.adaptive_avg_pool2d(part, (min(SIDE, part.shape[2]), min(SIDE, part.shape[3]))).flatten(1)
        part = part.flatten(1)
        return part if part.shape[1] <= COLUMNS else F.adaptive_avg_pool1d(part, COLUMNS)

    return torch.cat([small(part).cpu() for part in x.split(CHUNK)]).numpy()


def strata(x: Tensor, n: int) -> np.ndarray:
    """x [rows, ...] -> int64 [rows]: which of n kinds each row is, n rounded down to a power of two.

    Halves of halves: a set is cut at the median of the direction in which it varies most, so kinds are equally large.
    """
    seen = coarse(x)
    kinds = np.empty(len(seen), dtype=np.int64)

    def cut(rows: np.ndarray, depth: int, kind: int) -> None:
        if not depth or len(rows) < 2:
            kinds[rows] = kind
            return
        some = seen[rows[:: -(-len(rows) // FIT)]].astype(np.float64)
        axis = np.linalg.eigh(np.atleast_2d(np.cov(some.T)))[1][:, -1]
        lined = rows[np.argsort(seen[rows] @ axis, kind="stable")]
        cut(lined[: len(rows) // 2], depth - 1, 2 * kind)
        cut(lined[len(rows) // 2 :], depth - 1, 2 * kind + 1)

    cut(np.arange(len(seen)), n.bit_length() - 1, 0)
    return kinds


def evenly(indices: np.ndarray, kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same indices in an order of which any stretch holds every kind in its share; within a kind as they came.

    kinds: int64 [rows], as `strata` tells them. The i-th of a kind's m comes at (i + a draw of that kind) / m of the way.
    """
    held = kinds[indices]
    by_kind = np.argsort(held, kind="stable")
    counts, kind = np.bincount(held), held[by_kind]
    place = np.arange(len(indices)) - (np.cumsum(counts) - counts)[kind]
    when = (place + rng.random(len(counts))[kind]) / counts[kind]
    return indices[by_kind[np.argsort(when, kind="stable")]]


def opposites(n: int, z_dim: int, rng: torch.Generator) -> Tensor:
    """n latents [n, z_dim], each normal: a first half z, then -z; z comes in blocks of up to z_dim, orthogonal within a block."""
    pairs = -(-n // 2)
    each = min(pairs, z_dim)
    normal = torch.randn(2, -(-pairs // each), z_dim, each, generator=rng, device=rng.device)
    length = normal[1].norm(dim=1, keepdim=True) * normal[1, :, :1].sign()  # LAPACK chooses signs by the first row
    z = torch.linalg.qr(normal[0])[0] * length  # columns: a direction times a length
    z = z.mT.flatten(0, 1)[:pairs]
    return torch.cat([z, -z])[:n]
