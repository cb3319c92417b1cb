"""A scatter plot drawn with Pillow."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN, ZOOM = 800, 56, 3  # drawn ZOOM times as large, then reduced: that smooths every edge
SHOWN = 10_000
PAPER, FRAME, TEXT, DOT = (255, 255, 255), (205, 210, 218), (90, 98, 110), (38, 98, 188)
NEAR, FAR = np.array([222, 108, 36]), np.array([38, 98, 188])  # colours of the third coordinate's ends


def ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers within a range."""
    raw = (high - low) / 6
    base = 10 ** math.floor(math.log10(raw))
    step = base * min((1, 2, 5, 10), key=lambda m: abs(m * base - raw))
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def scatter(points: np.ndarray, bounds: list[list[float]], columns: list[str]) -> bytes:
    """PNG, 800 x 800, of points [N, 2 or 3] within bounds [[low, high], ...]; a third coordinate shows as colour."""
    paper = Image.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), PAPER)
    draw = ImageDraw.Draw(paper, "RGBA")
    low, high = np.array(bounds, np.float64).T
    shown = points[:SHOWN]
    radius = ZOOM * min(4.0, max(1.8, 60 / math.sqrt(max(1, len(shown)))))
    alpha = int(min(220, max(70, 7000 / math.sqrt(max(1, len(shown))))))
    places = _places(shown[:, :2], low[:2], high[:2])
    inside = np.isfinite(places).all(1) & (places >= MARGIN * ZOOM).all(1) & (places <= (SIDE - MARGIN) * ZOOM).all(1)
    for (x, y), colour in zip(places[inside].tolist(), _colours(shown[inside], low, high), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*colour, alpha))
    _axes(draw, low, high, columns)
    file = io.BytesIO()
    paper.reduce(ZOOM).save(file, "PNG")
    return file.getvalue()


def _places(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Pixels [N, 2] of coordinates [N, 2]; up is up."""
    share = (values - low) / (high - low)
    share = np.stack([share[:, 0], 1 - share[:, 1]], 1)
    return (MARGIN + share * (SIDE - 2 * MARGIN)) * ZOOM


def _colours(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[int, int, int]]:
    if points.shape[1] < 3:
        return [DOT] * len(points)
    share = ((points[:, 2] - low[2]) / (high[2] - low[2])).clip(0, 1)[:, None]
    return [(r, g, b) for r, g, b in np.rint(FAR + share * (NEAR - FAR)).astype(int).tolist()]


def _axes(draw: ImageDraw.ImageDraw, low: np.ndarray, high: np.ndarray, columns: list[str]) -> None:
    font = ImageFont.load_default(size=13 * ZOOM)
    near, far = MARGIN * ZOOM, (SIDE - MARGIN) * ZOOM
    draw.rectangle((near, near, far, far), outline=FRAME, width=ZOOM)
    for value in ticks(low[0], high[0]):
        x = near + (value - low[0]) / (high[0] - low[0]) * (far - near)
        draw.line((x, far, x, far + 5 * ZOOM), fill=FRAME, width=ZOOM)
        draw.text((x, far + 8 * ZOOM), f"{value:g}", TEXT, font, anchor="mt")
    for value in ticks(low[1], high[1]):
        y = far - (value - low[1]) / (high[1] - low[1]) * (far - near)
        draw.line((near - 5 * ZOOM, y, near, y), fill=FRAME, width=ZOOM)
        draw.text((near - 8 * ZOOM, y), f"{value:g}", TEXT, font, anchor="rm")
    draw.text(((near + far) / 2, far + 30 * ZOOM), _short(columns[0]), TEXT, font, anchor="mt")
    draw.text((near, near - 12 * ZOOM), _short(columns[1]), TEXT, font, anchor="ls")
    if len(columns) > 2:
        note = f"{_short(columns[2])}: blue {low[2]:.3g} to orange {high[2]:.3g}"
        draw.text((far, near - 12 * ZOOM), note, TEXT, font, anchor="rs")


def _short(name: str) -> str:
    return " ".join(name.split())[:40]
