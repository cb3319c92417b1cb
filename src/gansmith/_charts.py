"""Small inline SVG charts. Places are percentages of the width and sizes are pixels, so a chart fits any screen
without its text shrinking. Colours come from the page's style; missing numbers draw nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EDGE = 1.5  # percent kept free at either end, so that marks on the edge are whole


@dataclass(frozen=True)
class Axis:
    """Numbers to places. low, high: ends of the scale, both above 0 where log."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Percent of the width; numbers beyond an end stay on it."""
        low, high, value = self.low, self.high, min(self.high, max(self.low, value))
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(EDGE + (100 - 2 * EDGE) * (value - low) / (high - low), 2)


def svg(height: int, *parts: str) -> str:
    """One lane of a chart. The numbers stand beside it as text, so screen readers pass over it."""
    return f'<svg width="100%" height="{height}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'


def band(axis: Axis, low: float, high: float, look: str) -> str:
    """A stripe from top to bottom."""
    left = axis.at(low)
    return f'<rect class="{look}" x="{left}%" width="{axis.at(high) - left:.2f}%" y="0" height="100%"/>'


def line(axis: Axis, value: float, look: str) -> str:
    """A line from top to bottom."""
    return f'<line class="{look}" x1="{axis.at(value)}%" x2="{axis.at(value)}%" y1="0" y2="100%"/>'


def bar(axis: Axis, start: float, end: float | None, y: int, height: int, look: str) -> str:
    if end is None:
        return ""
    left, right = sorted((axis.at(start), axis.at(end)))
    return (
        f'<rect class="{look}" x="{left}%" width="{max(0.4, right - left):.2f}%" y="{y}" height="{height}" rx="1.5"/>'
    )


def whisker(axis: Axis, entry: Mapping[str, Any], y: float, look: str = "whisker") -> str:
    """The interval of an estimate, low to high, with caps."""
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    left, right = axis.at(entry["low"]), axis.at(entry["high"])
    ends = "".join(f'<line class="{look}" x1="{x}%" x2="{x}%" y1="{y - 3}" y2="{y + 3}"/>' for x in (left, right))
    return f'<line class="{look}" x1="{left}%" x2="{right}%" y1="{y}" y2="{y}"/>{ends}'


def tick(axis: Axis, value: float | None, y: int, height: int, look: str) -> str:
    """A short upright mark."""
    if value is None:
        return ""
    return f'<line class="{look}" x1="{axis.at(value)}%" x2="{axis.at(value)}%" y1="{y}" y2="{y + height}"/>'


def dot(axis: Axis, value: float, y: float, look: str, radius: float) -> str:
    return f'<circle class="{look}" cx="{axis.at(value)}%" cy="{y}" r="{radius}"/>'


def scale(axis: Axis, labels: Mapping[float, str]) -> str:
    """The numbers under a chart."""
    parts = []
    for value, label in labels.items():
        x = axis.at(value)
        anchor = "start" if x < 5 else "end" if x > 95 else "middle"
        parts.append(f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="4"/>')
        parts.append(f'<text class="scale" x="{x}%" y="17" text-anchor="{anchor}">{label}</text>')
    return svg(20, *parts)


def decades(values: list[float]) -> Axis:
    """A log axis that holds all positive numbers of a list with some room."""
    some = [v for v in values if v > 0] or [1.0]
    return Axis(min(some) / 1.4, max(some) * 1.4, log=True)
