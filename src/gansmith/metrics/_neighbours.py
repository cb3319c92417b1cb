"""Exact nearest neighbours between two sets of rows, in blocks: memory does not grow with the number of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

BLOCK = 1 << 21  # distances held at once
SPARE = 3  # candidates kept beyond k: rounding may swap neighbours that are almost equally far


def nearest(
    queries: np.ndarray, base: np.ndarray, k: int = 1, exclude_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances float32 [n, k], nearest first, and the rows of `base` they lead to, int64 [n, k].

    queries: [n, d]; base: [m, d]. With exclude_self the queries are the base, and row i is no neighbour of row i (its
    copies elsewhere are). Candidates come from |b|^2 - 2 q.b; their distances are then taken from differences, so that
    copies are at exactly 0. Raises DataError for rows of another width, values that are not finite, or fewer than k
    rows to find.
    """
    if exclude_self and len(queries) != len(base):
        raise DataError(f"Neighbours within one set need that set twice; got {len(queries)} and {len(base)} rows.")
    if len(base) - exclude_self < k:
        raise DataError(f"The {k} nearest neighbours need at least {k + exclude_self} examples; got {len(base)}.")
    q, b = centred(queries, base)
    keep = min(k + SPARE, len(base) - exclude_self)
    distances, indices = torch.empty(len(q), k), torch.empty(len(q), k, dtype=torch.int64)
    for start, far in blocks(q, b):
        rows = slice(start, start + len(far))
        if exclude_self:
            far.diagonal(start).fill_(torch.inf)
        found = far.topk(keep, largest=False).indices
        exact = (b[found] - q[rows, None]).norm(dim=2)
        distances[rows], order = exact.topk(k, largest=False)
        indices[rows] = found.gather(1, order)
    return distances.numpy(), indices.numpy()


def centred(queries: np.ndarray, base: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both sets float32, moved by the mean of `base`: float32 squares lose the small distances of data far from 0.

    Raises DataError for rows of another width and for values that are not finite.
    """
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1]:
        raise DataError(f"Distances need two sets of rows of one width; got shapes {queries.shape} and {base.shape}.")
    mean = base.mean(axis=0, dtype=np.float64)
    b = torch.from_numpy((base - mean.astype(base.dtype)).astype(np.float32, copy=False))
    q = b if queries is base else torch.from_numpy((queries - mean.astype(base.dtype)).astype(np.float32, copy=False))
    if not (torch.isfinite(q).all() and torch.isfinite(b).all()):
        raise DataError("Distances need finite numbers; some of the features are NaN or infinite.")
    return q, b


def blocks(q: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First row of each block of q, and |b|^2 - 2 q.b [rows, m]: squared distances but for the |q|^2 of each row.

    A block is overwritten by the next.
    """
    squares, columns = b.square().sum(1), b.T
    rows = max(1, BLOCK // len(b))
    held = torch.empty(min(rows, len(q)), len(b))
    for start in range(0, len(q), rows):
        some = q[start : start + rows]
        yield start, torch.addmm(squares, some, columns, alpha=-2, out=held[: len(some)])
