"""Toy distributions in the plane whose truth is known: the places to look when a GAN misbehaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

COUNT = 115_000  # 100,000 to train on remain when the largest hold-out is taken
GRID_SD, RING_SD = 0.05, 0.02


def _grid_modes() -> np.ndarray:
    side = np.arange(-4.0, 5.0, 2.0)
    return np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)


def _ring_modes() -> np.ndarray:
    angle = np.arange(8) * (2 * np.pi / 8)
    return 2 * np.stack([np.cos(angle), np.sin(angle)], 1)


def modes(name: str) -> tuple[np.ndarray, float] | None:
    """Means [K, 2] and standard deviation of a mixture of equal round Gaussians; None for the other shapes."""
    if name == "grid25":
        return _grid_modes(), GRID_SD
    return (_ring_modes(), RING_SD) if name == "ring8" else None


def _mixture(n: int, rng: np.random.Generator, means: np.ndarray, sd: float) -> np.ndarray:
    return means[rng.integers(len(means), size=n)] + sd * rng.standard_normal((n, 2))


def grid25(n: int, rng: np.random.Generator) -> np.ndarray:
    """25 Gaussians, means {-4, -2, 0, 2, 4}^2, standard deviation 0.05."""
    return _mixture(n, rng, _grid_modes(), GRID_SD)


def ring8(n: int, rng: np.random.Generator) -> np.ndarray:
    """8 Gaussians on a circle of radius 2, standard deviation 0.02."""
    return _mixture(n, rng, _ring_modes(), RING_SD)


def spiral(n: int, rng: np.random.Generator) -> np.ndarray:
    """One arm of one and a half turns, evenly filled, out to radius 2; Gaussian noise of 0.05."""
    turn = 3 * np.pi * np.sqrt(rng.random(n))
    arm = turn[:, None] / (1.5 * np.pi) * np.stack([np.cos(turn), np.sin(turn)], 1)
    return arm + 0.05 * rng.standard_normal((n, 2))


def moons(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two half circles of radius 1 that reach into each other; Gaussian noise of 0.05."""
    angle, lower = np.pi * rng.random(n), rng.random(n) < 0.5
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle)) - 0.5
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle)) - 0.25
    return np.stack([x, y], 1) + 0.05 * rng.standard_normal((n, 2))


def pinwheel(n: int, rng: np.random.Generator) -> np.ndarray:
    """Five Gaussian blades, 0.3 long and 0.1 wide at radius 1, twisted by exp(radius) / 4; all times 2."""
    blade = rng.standard_normal((n, 2)) * (0.3, 0.1) + (1, 0)
    angle = 2 * np.pi / 5 * rng.integers(5, size=n) + 0.25 * np.exp(blade[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack([cos * blade[:, 0] - sin * blade[:, 1], sin * blade[:, 0] + cos * blade[:, 1]], 1)


TOYS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    toy.__name__: toy for toy in (grid25, ring8, spiral, moons, pinwheel)
}


def draw(name: str, n: int = COUNT, seed: int = 0) -> np.ndarray:
    """float64 [n, 2] from a toy distribution; the same for the same seed."""
    return TOYS[name](n, np.random.default_rng(seed))
