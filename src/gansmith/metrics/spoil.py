"""Known-bad fakes made from real examples: the corruption ladder that gives distances a scale, and the control C1."""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from ._neighbours import nearest

BLOCK = 1024  # pictures worked on at once
WAYS = dict.fromkeys(("points", "table"), ("noise", "drop_mode", "one_mode")) | {"image": ("noise", "blur")}
CELLS = 8  # k-means cells that stand in for modes where those are unknown


def spoil(x: np.ndarray, how: str, rng: np.random.Generator, modes: np.ndarray | None = None) -> np.ndarray:
    """Real examples made bad in one of the ways of `WAYS`; a judge worth its name tells them from real ones.

    x: uint8 [n, C, H, W] or float [n, d]; modes: centres [K, d] of a known mixture, else k-means cells are used.
    noise: Gaussian, of 8 grey levels or of twice the median distance between nearest neighbours; blur: 3x3 mean;
    drop_mode: the best-filled mode is missing; one_mode: all the others are; so fewer examples come back.
    Spoil before splitting: noise and cells are chosen for the set that is given. Raises UsageError.
    """
    if how == "noise":
        return noise(x, 8.0 if x.dtype == np.uint8 else 2 * neighbour_distance(x), rng)
    if how == "blur" and x.dtype == np.uint8:
        return blur(x)
    if how in ("drop_mode", "one_mode") and x.dtype != np.uint8:
        fullest = fullest_mode(x, rng, modes)
        return x[fullest if how == "one_mode" else ~fullest]
    raise UsageError(f"Examples of type {x.dtype} cannot be spoilt by {how!r}.")


def noise(x: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation sd, in grey levels for pictures uint8, which are rounded and clipped."""
    if x.dtype != np.uint8:
        return (x + sd * rng.standard_normal(x.shape)).astype(x.dtype)
    out = np.empty_like(x)
    for i in range(0, len(x), BLOCK):
        part = x[i : i + BLOCK]
        noisy = part + np.float32(sd) * rng.standard_normal(part.shape, dtype=np.float32)
        out[i : i + BLOCK] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return out


def blur(x: np.ndarray) -> np.ndarray:
    """The mean of each pixel's 3x3 neighbourhood, edges repeated, rounded: uint8 [n, C, H, W]."""
    out, (height, width) = np.empty_like(x), x.shape[2:]
    for i in range(0, len(x), BLOCK):
        padded = np.pad(x[i : i + BLOCK], ((0, 0), (0, 0), (1, 1), (1, 1)), "edge").astype(np.uint16)
        total = sum(padded[:, :, a : a + height, b : b + width] for a in range(3) for b in range(3))
        out[i : i + BLOCK] = (2 * total + 9) // 18
    return out


def drop_class(y: np.ndarray, label: int) -> np.ndarray:
    """Indices of the examples of every other class; y: class indices [n]."""
    return np.flatnonzero(y != label)


def double_class(y: np.ndarray, label: int) -> np.ndarray:
    """Indices of all examples and, a second time, of those of one class; y: class indices [n]."""
    return np.concatenate([np.arange(len(y)), np.flatnonzero(y == label)])


def neighbour_distance(x: np.ndarray) -> float:
    """The median distance from an example to its nearest other one; x: [n, d]."""
    return float(np.median(nearest(x, x, exclude_self=True)[0]))


def fullest_mode(x: np.ndarray, rng: np.random.Generator, modes: np.ndarray | None = None) -> np.ndarray:
    """Which examples belong to the best-filled mode, bool [n]; x: [n, d], modes: centres [K, d] or None for k-means."""
    if modes is None:
        from sklearn.cluster import KMeans

        cells = KMeans(min(CELLS, len(x)), n_init=1, random_state=int(rng.integers(2**31))).fit_predict(x)
    else:
        cells = nearest(x, modes, 1)[1][:, 0]
    return np.asarray(cells == np.bincount(cells).argmax())
