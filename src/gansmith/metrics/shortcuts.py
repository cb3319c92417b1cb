"""What gives pictures away before anyone looks at them: exact background, grey values, last bits, sharpness.

Statistics of pixels that a conv judge reads within its first steps; they tell why it wins (science of C2ST pitfalls).
"""

from __future__ import annotations

import math

import numpy as np

from ..registry import register
from ._resample import around
from .evidence import Estimate, Evidence

DRAWS = 200  # bootstrap
BLOCK = 512  # pictures worked on at once


@register("metric", "shortcuts")
def shortcuts(evidence: Evidence) -> dict[str, Estimate]:
    """Five numbers of pictures; {} for other kinds of data. Intervals are bootstrapped over pictures.

    zero_share, max_share: pixels that are exactly 0 or 255; last_bit: entropy of the last bit of the others, in bits;
    spectrum_slope: of log power over log frequency. Their floor is the value of the real examples themselves.
    histogram_tv: total variation, 0..1, between the shares of the 256 grey values of fake and real pictures.
    """
    if evidence.kind != "image":
        return {}
    rng = np.random.default_rng(evidence.seed)
    fake, real = evidence.fake.x, evidence.held.x
    found = {}
    grey = [_drawn(histograms(x), rng) for x in (fake, real)]
    for name, statistic in (("zero_share", zero_share), ("max_share", max_share), ("last_bit", last_bit)):
        found[name] = _estimate(statistic(grey[0]), len(fake), float(statistic(grey[1])[0]))
    found["histogram_tv"] = _estimate(total_variation(*grey), len(fake))
    slopes = [slope(_drawn(spectra(x), rng)) for x in (fake, real)]
    found["spectrum_slope"] = _estimate(slopes[0], len(fake), float(slopes[1][0]))
    return found


def _drawn(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean row, and means of DRAWS bootstrap samples of the rows: [n, k] -> [1 + DRAWS, k]."""
    n = len(rows)
    counts = np.stack([np.full(n, 1.0), *(np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(DRAWS))])
    return np.asarray(counts @ rows / n)


def _estimate(values: np.ndarray, n: int, floor: float = math.nan) -> Estimate:
    low, high = around(float(values[0]), float(values[1:].std()))
    return Estimate(float(values[0]), low, high, n, floor)


# ---- of grey values: shares [..., 256] -> [...] ---------------------------------------------------------------------
def histograms(x: np.ndarray) -> np.ndarray:
    """Share of each grey value in each picture, all channels together: uint8 [n, C, H, W] -> float64 [n, 256]."""
    flat = x.reshape(len(x), -1)
    return np.stack([np.bincount(picture, minlength=256) for picture in flat]) / flat.shape[1]


def zero_share(shares: np.ndarray) -> np.ndarray:
    return np.asarray(shares[..., 0])


def max_share(shares: np.ndarray) -> np.ndarray:
    return np.asarray(shares[..., 255])


def last_bit(shares: np.ndarray) -> np.ndarray:
    """Entropy in bits of the last bit of values that are neither 0 nor 255; NaN where there are none."""
    inner = shares[..., 1:255]
    total = inner.sum(-1)
    odd = np.divide(inner[..., ::2].sum(-1), total, out=np.full(total.shape, np.nan), where=total > 0)
    share = np.stack([odd, 1 - odd]).clip(0, 1)  # a sum of floats may end beyond 1
    return np.asarray(-(share * np.log2(np.where(share > 0, share, 1))).sum(0))


def total_variation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Half the sum of absolute differences of two distributions."""
    return np.asarray(np.abs(one - other).sum(-1) / 2)


# ---- of frequencies -------------------------------------------------------------------------------------------------
def spectra(x: np.ndarray) -> np.ndarray:
    """Power of each picture on rings of frequency 1 to half the short side: uint8 [n, C, H, W] -> float64 [n, rings]."""
    height, width = x.shape[2:]
    short = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) * short
    ring = np.rint(radius).astype(int)
    masks = np.stack([(ring == r) / max(1, (ring == r).sum()) for r in range(1, short // 2 + 1)] or [0.0 * radius])
    found = np.empty((len(x), len(masks)))
    for i in range(0, len(x), BLOCK):
        power = np.abs(np.fft.rfft2(x[i : i + BLOCK] / 255)) ** 2
        found[i : i + BLOCK] = power.mean(1).reshape(len(power), -1) @ masks.reshape(len(masks), -1).T
    return found


def slope(power: np.ndarray) -> np.ndarray:
    """Least-squares slope of log power over log frequency: [..., rings] -> [...]; NaN without power on two rings."""
    if power.shape[-1] < 2:
        return np.full(power.shape[:-1], np.nan)
    log = np.log(np.where(power > 0, power, np.nan))
    frequency = np.log(np.arange(1, power.shape[-1] + 1))
    frequency -= frequency.mean()
    return np.asarray(log @ frequency / (frequency @ frequency))
