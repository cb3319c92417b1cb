"""Points in the plane or in space: CSV files of two or three numeric columns, arrays, and toy distributions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..base import Batch, Codec, Raw, Spec
from ..errors import DataError
from ..files import Source, sha256
from ..registry import register
from . import _columns, _plot, _toys
from ._columns import LARGEST
from ._toys import modes

__all__ = ["PointsCodec", "Point", "Points", "modes"]

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PEEK = 16 << 10  # bytes read to tell points from a table


@dataclass(frozen=True, slots=True)
class Point:
    """One example. values: float64 [d]."""

    values: np.ndarray
    label: None = None
    split: str = "train"


class Points(Sequence[Point]):
    """N points over one array, float64 [N, d], with column names."""

    def __init__(self, array: np.ndarray, names: list[str]):
        self.array, self.names = array, names

    def __len__(self) -> int:
        return len(self.array)

    @property
    def labels(self) -> list[str | None]:
        return [None] * len(self)

    @property
    def splits(self) -> list[str]:
        return ["train"] * len(self)

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> Points: ...
    def __getitem__(self, index: int | slice) -> Point | Points:
        return Points(self.array[index], self.names) if isinstance(index, slice) else Point(self.array[index])

    def take(self, indices: Iterable[int]) -> Points:
        """The points of the given integer indices, in that order."""
        return Points(self.array[np.fromiter(indices, np.int64)], self.names)


@register("codec", "points")
class PointsCodec(Codec):
    """Points <-> float32 [d]; networks see (x - centre) / scale.

    centre: mean of the training points; scale: the largest standard deviation of a coordinate, the same for all, so that
    shapes stay what they are. unconditional: accepted as by every codec; points have no classes.
    """

    kind = "points"

    def __init__(self, unconditional: bool = False):
        super().__init__()
        self._state: dict[str, Any] = {}
        self._toy: str | None = None

    # ---- sources ----------------------------------------------------------------------------------------------------
    @classmethod
    def claims(cls, source: Any) -> int:
        if hasattr(source, "__array__") and hasattr(source, "shape"):
            shape = tuple(source.shape)
            return 50 if len(shape) == 2 and shape[1] in (2, 3) else 0
        if not isinstance(source, str | os.PathLike):
            return 0
        path = os.path.expanduser(os.fspath(source))
        if not os.path.exists(path):
            return 100 if source in _toys.TOYS else 0
        return 60 if os.path.isfile(path) and path.lower().endswith(SUFFIXES) and _peek(path) else 0

    def scan(self, source: Any) -> Points:
        """All points, in memory. Rows that are not two or three finite numbers are skipped. Raises DataError."""
        if hasattr(source, "__array__") and hasattr(source, "shape"):
            return self._from_array(_as_numpy(source))
        path = Path(source).expanduser()
        if not os.path.exists(path) and source in _toys.TOYS:
            self._toy = str(source)
            return Points(_toys.draw(self._toy), ["x", "y"])
        if path.is_dir():
            raise DataError(f"{path} is a folder; points come as one CSV file.")
        content = Source(path)
        try:
            text = _columns.text(_columns.unpack(content.read(content.entries[0].name)))
            values, names = _columns.parse(text, self._skip)
        except (DataError, IndexError) as error:
            raise DataError(f"{path} {error}; points are a CSV file of two or three columns of numbers.") from None
        return Points(values, names)

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.append((name, reason))

    def _from_array(self, array: np.ndarray) -> Points:
        if array.ndim != 2 or array.shape[1] not in (2, 3) or array.dtype.kind not in "fiu":
            raise DataError(f"The array is {array.dtype} {array.shape}; points are floats [N, 2] or [N, 3].")
        values = array.astype(np.float64)
        good = (np.abs(values) <= LARGEST).all(1)  # False for NaN
        for row in np.flatnonzero(~good).tolist():
            self._skip(f"row {row}", "holds a value that is not finite, or is beyond 1e30")
        if not good.any():
            raise DataError("The array has no row of finite numbers; give at least one.")
        return Points(values[good], list(_columns.NAMES[: array.shape[1]]))

    def fingerprint(self, source: Any) -> str:
        """Of name, size and time for files, of the bytes for arrays."""
        if hasattr(source, "__array__") and hasattr(source, "shape"):
            array = _as_numpy(source)
            return sha256(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        path = Path(source).expanduser()
        if not os.path.exists(path) and source in _toys.TOYS:
            return sha256(f"embedded {source} 1".encode())
        return Source(path).fingerprint()

    def modes(self) -> tuple[np.ndarray, float] | None:
        """Means [K, 2] and standard deviation of the mixture that the data was drawn from, if that is known."""
        toy = self._state.get("toy") or self._toy
        return modes(toy) if toy else None

    # ---- fitting ----------------------------------------------------------------------------------------------------
    def fit(self, raws: Sequence[Raw]) -> None:
        """Centre, scale, bounds and decimals from the training points. Raises DataError if there are none."""
        if not len(raws):
            raise DataError("There are no training points.")
        values = _stack(raws)
        low, high = np.quantile(values, (0.001, 0.999), axis=0)
        margin = 0.08 * (high - low)
        margin = np.where(margin > 1e-9 * np.maximum(1, np.abs(low)), margin, np.maximum(1, np.abs(low)) * 0.5)
        self._state = {
            "kind": self.kind,
            "columns": raws.names if isinstance(raws, Points) else list(_columns.NAMES[: values.shape[1]]),
            "centre": values.mean(0).tolist(),
            "scale": float(values.std(0).max()) or 1.0,
            "bounds": np.stack([low - margin, high + margin], 1).tolist(),
            "decimals": [_columns.decimals(column) for column in values.T],
            "toy": self._toy,
        }

    # ---- both directions --------------------------------------------------------------------------------------------
    def encode(self, raws: Sequence[Raw]) -> Batch:
        """float32 "x" [B, d] of Points, or a list of Point or arrays [d], or one array [B, d]."""
        return {"x": torch.from_numpy(_stack(raws).astype(np.float32).reshape(len(raws), -1))}

    def to_model(self, batch: Batch, rng: torch.Generator | None = None) -> Batch:
        """Centred and scaled to about unit spread."""
        state = self._fitted()
        return {**batch, "x": (batch["x"] - batch["x"].new_tensor(state["centre"])) / state["scale"]}

    def decode(self, x: Tensor) -> list[Raw]:
        """Points float32 [d] in the data's own units, rounded to its decimals."""
        state = self._fitted()
        values = x.detach().cpu().double().numpy() * state["scale"] + np.array(state["centre"])
        for column, places in enumerate(state["decimals"]):
            if places is not None:
                values[:, column] = np.round(values[:, column], places) + 0.0  # no negative zero
        return list(values.astype(np.float32))

    # ---- files ------------------------------------------------------------------------------------------------------
    def write(self, raws: Sequence[Raw], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
        """`samples.csv` with the data's own column names; `samples-1.csv` and so on where it exists."""
        folder.mkdir(parents=True, exist_ok=True)
        names = (folder / (f"samples-{n}.csv" if n else "samples.csv") for n in count())
        path = next(name for name in names if not name.exists())
        files.write(path, _columns.to_csv(_stack(raws), self._fitted()["columns"]))
        return [path]

    def preview(self, raws: Sequence[Raw]) -> bytes:
        """PNG, a scatter plot within the bounds of the training points."""
        state = self._fitted()
        return _plot.scatter(_stack(raws), state["bounds"], state["columns"])

    # ---- state ------------------------------------------------------------------------------------------------------
    def _fitted(self) -> dict[str, Any]:
        if not self._state:
            raise DataError("The codec has seen no points yet: call fit or load_state first.")
        return self._state

    def spec(self) -> Spec:
        dimensions = len(self._fitted()["centre"])
        return Spec(self.kind, (dimensions,), mean=(0.0,) * dimensions)

    def state(self) -> dict[str, Any]:
        return dict(self._fitted())

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`. Raises DataError on anything that `state` would not have written."""
        try:
            good = _sound(state)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            good = False
        if not good:
            raise DataError("The saved description of the points is damaged; restore the run from a copy.")
        self._state = dict(state)


def _sound(state: dict[str, Any]) -> bool:
    """May a stranger's state be used? Raises TypeError and the like, or returns False, where not."""
    d = len(state["centre"])
    numbers = [*state["centre"], state["scale"], *(edge for pair in state["bounds"] for edge in pair)]
    return (
        state["kind"] == "points"
        and d in (2, 3)
        and all(type(n) in (int, float) and math.isfinite(n) and abs(n) <= 10 * LARGEST for n in numbers)
        and state["scale"] > 0
        and [len(pair) for pair in state["bounds"]] == [2] * d
        and all(low < high for low, high in state["bounds"])
        and isinstance(state["columns"], list)
        and len(state["columns"]) == len(state["decimals"]) == d
        and all(isinstance(name, str) and len(name) <= 200 for name in state["columns"])
        and all(places is None or (type(places) is int and 0 <= places <= 6) for places in state["decimals"])
        and state["toy"] in (None, *_toys.TOYS)
    )


def _peek(path: str) -> bool:
    """Do the first kilobytes read as rows of two or three numbers?"""
    try:
        with open(path, "rb") as file:
            head = file.read(PEEK)
    except OSError:
        return False
    content = _columns.text(_columns.beginning(head))
    whole = content[: content.rfind("\n") + 1] or content  # the last line may be cut off
    return _columns.looks_like_points(whole)


def _stack(raws: Sequence[Raw] | np.ndarray) -> np.ndarray:
    """float64 [N, d] of whatever holds points."""
    if isinstance(raws, Points):
        return raws.array
    if isinstance(raws, np.ndarray):
        return raws.astype(np.float64)
    return np.array([raw.values if isinstance(raw, Point) else raw for raw in raws], np.float64)


def _as_numpy(source: Any) -> np.ndarray:
    return np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
