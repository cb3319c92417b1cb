"""Pictures: folders, zip archives, numpy and MNIST idx files, arrays, and the embedded digits.

Stored as uint8 [C, H, W], transparency premultiplied; to networks as float32 in [-1, 1].
"""

from __future__ import annotations

import math
import os
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..base import Batch, Codec, Raw, Spec
from ..errors import DataError
from ..files import Source, sha256
from ..registry import register
from . import _album, _arrays, _pictures
from ._album import Pictures

SIDE_LIMIT = 16384
COMMON_LIMIT = 1024  # pictures of one size keep it up to this side; larger ones are made smaller unless a size is given
SHRUNK = 256  # largest side chosen for pictures of mixed or very large sizes
SAMPLED = 2000  # training examples that statistics are taken from
ROOM = 64  # at most, for a level: see Spec.room


@register("codec", "image")
class ImageCodec(Codec):
    """Pictures <-> uint8 [C, H, W].

    size: side of a square that every picture is cut to (cover and centre-crop); None keeps a common size, else takes
    the largest power of two that half of the pictures reach, at most 256. unconditional: ignore classes.
    max_side, max_pixels: larger pictures are skipped, judged by their header.
    """

    kind = "image"
    formats: ClassVar[tuple[str, ...]] = _pictures.FORMATS

    def __init__(
        self,
        size: int | None = None,
        unconditional: bool = False,
        max_side: int = SIDE_LIMIT,
        max_pixels: int = 64 << 20,
    ):
        super().__init__()
        if size is not None and not 1 <= size <= SIDE_LIMIT:
            raise ValueError(f"size = {size}; it must be from 1 to {SIDE_LIMIT}")
        self.size, self.unconditional = size, unconditional
        self.limits = _pictures.Limits(max_side, max_pixels)
        self._spec: Spec | None = None
        self._lock, self._seen = threading.Lock(), set[tuple[str, str]]()  # of skipped
        self._scanned: tuple[str, str] | None = None  # a path and the fingerprint it had when it was scanned

    # ---- sources ----------------------------------------------------------------------------------------------------
    @classmethod
    def claims(cls, source: Any) -> int:
        if _arrays.is_array(source):
            return 50 if _arrays.looks_like_pictures(source) else 0
        if not isinstance(source, str | os.PathLike):
            return 0
        path = os.path.expanduser(os.fspath(source))
        if os.path.isfile(path) and not path.lower().endswith(".zip"):
            if _arrays.is_array_file(path):
                return 50 if _arrays.file_holds_pictures(path) else 0
            return 50 if _album.claims_to_be_picture(os.path.basename(path)) else 0
        if os.path.exists(path):
            return _share(list(islice(_names(path), 2000)))
        return 100 if source in _arrays.EMBEDDED else 0

    def scan(self, source: Any) -> Pictures:
        """Index pictures by their headers; numpy and idx files are read whole. Raises DataError if none can be read."""
        if _arrays.is_array(source):
            return self._from_arrays(_arrays.from_python(source))
        path = Path(source).expanduser()
        if not os.path.exists(path) and source in _arrays.EMBEDDED:
            return self._from_arrays(_arrays.embedded(source))
        if path.is_file() and _arrays.is_array_file(path.name):
            return self._from_arrays(_arrays.from_file(path))
        files = Source(path)
        self._scanned = (str(path), files.fingerprint())
        if idx := _arrays.find_idx(files):
            return self._from_arrays(_arrays.from_idx(files, idx))
        return _album.from_source(files, self.limits, self.unconditional, self._skip, self.notes.append)

    def _from_arrays(self, arrays: _arrays.Arrays) -> Pictures:
        height, width = arrays.x.shape[1:3]
        try:
            self.limits.check(width, height)
        except DataError as error:
            raise DataError(f"Each picture {error}.") from None
        return _album.from_arrays(arrays, self.unconditional)

    def fingerprint(self, source: Any) -> str:
        """Of names, sizes and stamps for files, of the bytes for arrays; as it was at `scan`, where that has run."""
        if _arrays.is_array(source):
            parts = [_arrays.as_numpy(part) for part in (source if isinstance(source, tuple) else (source,))]
            hashes = [sha256(f"{p.dtype} {p.shape}".encode() + _bytes(p)) for p in parts]
            return sha256(" ".join(hashes).encode())
        path = Path(source).expanduser()
        if self._scanned and self._scanned[0] == str(path):
            return self._scanned[1]
        if not os.path.exists(path) and source in _arrays.EMBEDDED:
            return sha256(f"embedded {source} 1".encode())
        return Source(path).fingerprint()

    def _skip(self, name: str, reason: str) -> None:
        item = (_album.printable(name), reason)
        with self._lock:
            if item not in self._seen:
                self._seen.add(item)
                self.skipped.append(item)

    # ---- fitting ----------------------------------------------------------------------------------------------------
    def fit(self, raws: Sequence[Raw]) -> None:
        """Shape, classes with frequencies, mean and levels, from the training examples. Raises DataError if none is good."""
        if not len(raws):
            raise DataError("There are no training pictures: all of them are in test or val folders.")
        sizes = np.array([(r.width, r.height, r.channels) for r in raws])
        shape = (_channels(sizes[:, 2]), *self._choose_size(sizes[:, :2]))
        counts = Counter(raw.label for raw in raws if raw.label is not None)
        classes = tuple(_ordered(counts)) if len(counts) > 1 and not self.unconditional else ()
        frequencies = tuple(counts[c] / counts.total() for c in classes)
        self._spec = Spec(self.kind, shape, classes, frequencies)
        self._spec = Spec(self.kind, shape, classes, frequencies, *self._statistics(raws))

    def _choose_size(self, sizes: np.ndarray) -> tuple[int, int]:
        """Height and width from the pictures' [N, 2] widths and heights."""
        if self.size:
            return self.size, self.size
        width, height = sizes[0].tolist()
        if (sizes == sizes[0]).all():
            if max(width, height) <= COMMON_LIMIT:
                return height, width
            self.notes.append(f"the pictures are {width}x{height}; they are made smaller, choose how small with --size")
        reached = np.sort(sizes.min(1))[len(sizes) // 2]  # by half of the pictures, on the short side
        side = min(SHRUNK, 1 << int(math.log2(float(reached))))
        return side, side

    def _statistics(self, raws: Sequence[Raw]) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Mean a channel in model range, and the room of each level (`Spec`), of a fixed random sample."""
        chosen = np.random.default_rng(0).permutation(len(raws))[:SAMPLED]
        sample = [raws[int(i)] for i in np.sort(chosen)]
        totals, used, n = np.zeros(self.spec().shape[0]), np.zeros(256), 0
        for batch in _album.in_threads(lambda some: [self.encode(some)["x"]], sample, 128):
            totals += batch.double().mean((2, 3)).sum(0).numpy()
            used += np.bincount(batch.numpy().ravel(), minlength=256)
            n += len(batch)
        if not n:
            name, reason = self.skipped[-1] if self.skipped else ("", "cannot be read")
            raise DataError(f"None of {len(sample)} training pictures tried can be used; the last, {name!r}, {reason}.")
        room = np.rint(used / max(1.0, float(np.median(used)))).clip(1, ROOM).astype(int)
        return tuple(float(v) for v in totals / n / 127.5 - 1), tuple(room.tolist()) if room.max() > 1 else ()

    # ---- both directions --------------------------------------------------------------------------------------------
    def encode(self, raws: Sequence[Raw]) -> Batch:
        """uint8 "x" [B, C, H, W], int64 "y" [B] if all have a class; broken pictures are left out and go to `skipped`.

        raws: pictures that `scan` found, or uint8 arrays [H, W] or [H, W, C].
        """
        spec = self.spec()
        channels, height, width = spec.shape
        x = np.empty((len(raws), *spec.shape), np.uint8)
        y: list[int] = []
        index = {name: i for i, name in enumerate(spec.classes)}
        for raw in raws:
            label = getattr(raw, "label", None)
            try:
                if index and label is not None and label not in index:
                    raise DataError(f"its class {label!r} is not among the training classes")
                x[len(y)] = _pictures.cut(self._picture(raw), height, width, channels).transpose(2, 0, 1)
                y.append(index.get(label or "", -1))
            except DataError as error:
                self._skip(getattr(raw, "name", "array"), str(error))
        batch = {"x": torch.from_numpy(x[: len(y)])}
        if index and -1 not in y:
            batch["y"] = torch.tensor(y, dtype=torch.int64)
        return batch

    def _picture(self, raw: Raw) -> Any:
        """The Pillow picture of a raw; raises DataError with the reason."""
        if isinstance(raw, np.ndarray):
            return _pictures.from_array(raw)
        if isinstance(raw.store, Source):
            wanted = max(self._spec.shape[1:]) if self._spec else None
            return _pictures.pixels(raw.store.read(raw.name), self.limits, wanted)
        return _pictures.from_array(raw.store[raw.row])

    def to_model(self, batch: Batch, rng: torch.Generator | None = None) -> Batch:
        """uint8 "x" to float32 in [-1, 1], on whatever device it is."""
        return {**batch, "x": batch["x"].float().div_(127.5).sub_(1)}

    def decode(self, x: Tensor) -> list[Raw]:
        """float [B, C, H, W] in [-1, 1], clamped and rounded, to uint8 arrays [H, W], [H, W, 3] or [H, W, 4]."""
        values = x.detach().cpu().float().nan_to_num(-1.0).add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
        arrays = values.permute(0, 2, 3, 1).contiguous().numpy()
        if arrays.shape[3] == 4:
            return [_pictures.unpremultiply(array) for array in arrays]
        return list(arrays[..., 0] if arrays.shape[3] == 1 else arrays)

    # ---- files ------------------------------------------------------------------------------------------------------
    def write(self, raws: Sequence[Raw], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
        """PNG files `<folder>/<class>/000000.png`, or `<folder>/000000.png` without labels, numbered on."""
        paths: list[Path] = []
        numbers: dict[Path, int] = {}
        for i, raw in enumerate(raws):
            into = folder / _folder_name(labels[i]) if labels is not None else folder
            if into not in numbers:
                into.mkdir(parents=True, exist_ok=True)
                numbers[into] = _next_number(into)
            path = into / f"{numbers[into]:06d}.png"
            numbers[into] += 1
            _replace(path, _pictures.png(self._picture(raw)))
            paths.append(path)
        return paths

    def preview(self, raws: Sequence[Raw]) -> bytes:
        """PNG of a near-square contact sheet, small pictures enlarged, transparency on a checkerboard."""
        return _pictures.sheet([r if isinstance(r, np.ndarray) else np.asarray(self._picture(r)) for r in raws])

    # ---- state ------------------------------------------------------------------------------------------------------
    def spec(self) -> Spec:
        if self._spec is None:
            raise DataError("The codec has seen no pictures yet: call fit or load_state first.")
        return self._spec

    def state(self) -> dict[str, Any]:
        return self.spec().to_json()

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`. Raises DataError on anything that `state` would not have written."""
        try:
            spec = Spec.from_json(state)
            good = spec.kind == self.kind and _sound(spec)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            good = False
        if not good:
            raise DataError("The saved description of the pictures is damaged; restore the run from a copy.")
        self._spec = spec


def _sound(spec: Spec) -> bool:
    """May a stranger's spec be used? Sizes are bounded, and every field is of its type."""
    if not (isinstance(spec.shape, tuple) and len(spec.shape) == 3 and all(type(n) is int for n in spec.shape)):
        return False
    channels, height, width = spec.shape
    named = isinstance(spec.classes, tuple) and all(isinstance(c, str) and len(c) < 1000 for c in spec.classes)
    return (
        channels in (1, 3, 4)
        and 0 < height <= SIDE_LIMIT
        and 0 < width <= SIDE_LIMIT
        and named
        and len(set(spec.classes)) == len(spec.classes) == len(spec.frequencies) != 1
        and all(0 <= f <= 1 for f in spec.frequencies)
        and len(spec.mean) == channels
        and all(-1 <= m <= 1 for m in spec.mean)
        and len(spec.room) in (0, 256)
        and all(type(n) is int and 1 <= n <= ROOM for n in spec.room)
    )


def _names(path: str) -> Iterator[str]:
    """Names in a folder or zip archive, as far as they are asked for."""
    if not os.path.isdir(path):
        try:
            with zipfile.ZipFile(path) as archive:
                yield from (name for name in archive.namelist() if not name.endswith("/"))
        except Exception:  # damaged: whoever is asked to scan it will say so
            return
    for folder, _, names in os.walk(path):
        relative = os.path.relpath(folder, path)
        yield from (name if relative == "." else f"{relative}/{name}" for name in names)


def _share(names: list[str]) -> int:
    """How surely these are the files of a picture data set: 50 if most are pictures, 20 if some are."""
    shown = [name for name in names if not _album.is_hidden(name)]
    if any(_arrays.IDX.search(name.lower()) for name in shown):
        return 50
    pictures = sum(_album.claims_to_be_picture(name) for name in shown)
    return 0 if not pictures else 50 if 2 * pictures > len(shown) else 20


def _channels(channels: np.ndarray) -> int:
    """What all the pictures fit into: 4 if any has transparency, 1 if all are grey, else 3."""
    return int(channels.max())


def _ordered(labels: Iterable[str]) -> list[str]:
    """Class names in order: by number if all are numbers, else as text."""
    labels = list(labels)
    numbers = all(re.fullmatch("[0-9]{1,18}", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label) if numbers else (0, label))


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array.tolist()).encode()


def _folder_name(label: str) -> str:
    """A class name as one harmless folder name, on any file system."""
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", label).encode(errors="replace")[:200].decode(errors="ignore")
    name = name.rstrip(". ")
    return "_" + name[1:] if name[:1] in ("", ".") else name


def _next_number(folder: Path) -> int:
    numbers = [int(m[1]) for name in os.listdir(folder) if (m := re.fullmatch(r"([0-9]{6,18})\.png", name))]
    return max(numbers, default=-1) + 1


def _replace(path: Path, data: bytes) -> None:
    """Complete or absent, but without the fsync of `files.write`: a thousand samples are made again in a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
