"""Pictures that come as arrays: from Python, .npz, .npy and MNIST idx files, or embedded in scikit-learn."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files import ENTRY_LIMIT, RATIO_LIMIT, Source

EMBEDDED = ("digits",)
ARRAY_LIMIT = 8 << 30  # bytes of one array after decompression
IDX = re.compile(r"(images|labels)[-.]idx([13])-ubyte(\.gz)?$")


class Arrays(NamedTuple):
    """x: uint8 [N, H, W] or [N, H, W, 1, 3 or 4]; y: N class names, or None; splits: N of "train" or "test"."""

    x: np.ndarray
    y: list[str] | None
    splits: list[str]


def is_array(source: Any) -> bool:
    """Is it a numpy array, a torch tensor, or a pair (x, y) of them?"""
    if isinstance(source, tuple) and len(source) == 2:
        source = source[0]
    return hasattr(source, "__array__") and hasattr(source, "shape")


def looks_like_pictures(source: Any) -> bool:
    shape = tuple((source[0] if isinstance(source, tuple) else source).shape)
    return len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3, 4) or shape[1] in (1, 3, 4)))


def is_array_file(path: str) -> bool:
    name = os.path.basename(path).lower()
    return name.endswith((".npz", ".npy")) or IDX.search(name) is not None


def file_holds_pictures(path: str) -> bool:
    """Cheap: reads no more than the headers of an array file."""
    try:
        if path.lower().endswith(".npz"):
            with zipfile.ZipFile(path) as archive:
                return any(_pictures_header(archive.open(name)) for name in archive.namelist()[:16])
        if path.lower().endswith(".npy"):
            with open(path, "rb") as file:
                return _pictures_header(file)
    except Exception:  # damaged: whoever is asked to scan it will say so
        return False
    return True


def _pictures_header(file: Any) -> bool:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return not dtype.hasobject and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4)))


# ---- loading --------------------------------------------------------------------------------------------------------
def embedded(name: str) -> Arrays:
    """ "digits": 1,797 handwritten digits of 8 x 8, from scikit-learn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return Arrays(x, [str(y) for y in data.target], ["train"] * len(x))


def from_python(source: Any) -> Arrays:
    """uint8, or floats in [0, 1], [N, H, W] or [N, H, W, C] (torch also [N, C, H, W]); or a tuple (x, y)."""
    x, y = source if isinstance(source, tuple) else (source, None)
    x = as_numpy(x)
    return _arrays([(x, y, "train")], "the array")


def as_numpy(x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
        if x.ndim == 4 and x.shape[3] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
    return np.asarray(x)


def from_file(path: Path) -> Arrays:
    """.npz, .npy or one idx file (labels beside it are found by name). Raises DataError."""
    try:
        if path.suffix.lower() == ".npz":
            return _from_npz(path)
        if path.suffix.lower() == ".npy":
            return _arrays([(np.load(path, mmap_mode="r", allow_pickle=False), None, "train")], str(path))
    except DataError:
        raise
    except Exception as error:
        why = f"{path} cannot be read as numpy arrays ({error}); save it again without pickling."
        raise DataError(why) from None
    folder = Source(path.parent)
    labels = re.sub("images(.)idx3", r"labels\1idx1", path.name)
    return from_idx(folder, [path.name] + [e.name for e in folder.entries if e.name == labels])


def _from_npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            bomb = info.file_size > ENTRY_LIMIT and info.file_size > RATIO_LIMIT * max(1, info.compress_size)
            if info.file_size > ARRAY_LIMIT or bomb:
                raise DataError(f"{path} is refused: {info.filename!r} unpacks to {info.file_size >> 20} MB.")
    with np.load(path, allow_pickle=False) as file:
        if "x_train" in file:  # as Keras keeps its data sets
            splits = [s for s in ("train", "test") if f"x_{s}" in file]
            return _arrays([(file[f"x_{s}"], _get(file, f"y_{s}"), s) for s in splits], str(path))
        keys = [k for k in ("x", "images") if k in file] or [k for k in file.files if file[k].dtype == np.uint8]
        if not keys:
            raise DataError(f"{path} holds no array of pictures: one named 'x' of type uint8 [N, H, W] is expected.")
        y, classes = _get(file, "y", "labels"), _get(file, "classes")
        if y is not None and classes is not None:
            y = _named(y, classes, path)
        return _arrays([(file[keys[0]], y, "train")], str(path))


def _get(file: Any, *keys: str) -> np.ndarray | None:
    return next((file[key] for key in keys if key in file), None)


def _named(y: np.ndarray, classes: np.ndarray, path: Path) -> np.ndarray:
    if not np.issubdtype(y.dtype, np.integer) or (y.size and not 0 <= y.min() <= y.max() < len(classes)):
        raise DataError(f"{path}: y must hold indices into its {len(classes)} classes.")
    return classes.astype(str)[y]


def find_idx(source: Source) -> list[str]:
    """Names of the idx files of a folder or archive, if there are pictures among them."""
    names = [e.name for e in source.entries if IDX.search(e.name.lower())]
    return names if any("idx3" in name for name in names) else []


def from_idx(source: Source, names: Iterable[str]) -> Arrays:
    """MNIST's own files: images with labels; "t10k" or "test" in the name makes the test split."""
    names = list(names)
    sets = []
    for name in (n for n in names if "idx3" in n.lower()):
        labels = [n for n in names if "idx1" in n.lower() and _stem(n) == _stem(name)]
        split = "test" if re.search("t10k|test", os.path.basename(name).lower()) else "train"
        sets.append((_idx(source, name, 3), _idx(source, labels[0], 1) if labels else None, split))
    if not sets:
        raise DataError(f"{source.path} holds labels only; give the file of images.")
    return _arrays(sets, str(source.path))


def _stem(name: str) -> str:
    return IDX.sub("", name.lower())


def _idx(source: Source, name: str, dimensions: int) -> np.ndarray:
    try:
        data = source.read(name)
        packed = len(data)
        file = gzip.GzipFile(fileobj=io.BytesIO(data)) if data[:2] == b"\x1f\x8b" else io.BytesIO(data)
        head = file.read(4 + 4 * dimensions)
        if head[:4] != bytes([0, 0, 8, dimensions]) or len(head) < 4 + 4 * dimensions:
            raise DataError(f"is not an idx file of {dimensions}-dimensional bytes")
        shape = struct.unpack(f">{dimensions}I", head[4:])
        size = math.prod(shape)
        if size > ARRAY_LIMIT or (size > 1 << 20 and size > RATIO_LIMIT * packed):
            raise DataError(f"claims to hold {size >> 20} MB in a file of {packed} bytes")
        body = file.read(size)
        if len(body) != size:
            raise DataError("is shorter than its header says")
    except DataError as error:
        raise DataError(f"{source.path}: {name!r} {error}; copy or download it again.") from None
    except Exception as error:
        raise DataError(f"{source.path}: {name!r} is damaged ({error}); copy or download it again.") from None
    return np.frombuffer(body, np.uint8).reshape(shape)


# ---- making sense of them -------------------------------------------------------------------------------------------
def _arrays(sets: list[tuple[np.ndarray, Any, str]], what: str) -> Arrays:
    """Join the splits of a data set, checked and as uint8."""
    xs = [_bytes(x, what) for x, _, _ in sets]
    if len({x.shape[1:] for x in xs}) > 1:
        shapes = f"{xs[0].shape} and {xs[1].shape}"
        raise DataError(f"The training and test pictures of {what} differ in shape: {shapes}.")
    ys = [None if y is None else _labels(y, len(x), what) for x, (_, y, _) in zip(xs, sets, strict=True)]
    splits = [s for x, (_, _, s) in zip(xs, sets, strict=True) for _ in range(len(x))]
    labelled = None if any(y is None for y in ys) else [label for y in ys for label in y or ()]
    return Arrays(xs[0] if len(xs) == 1 else np.concatenate(xs), labelled, splits)


def _bytes(x: np.ndarray, what: str) -> np.ndarray:
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3, 4)) or 0 in x.shape[1:]:
        expected = "pictures are [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels"
        raise DataError(f"{what} has shape {x.shape}; {expected}.")
    if len(x) == 0:
        raise DataError(f"{what} is empty; give at least one picture.")
    if x.dtype == np.uint8:
        return x
    if not (x.dtype == bool or np.issubdtype(x.dtype, np.integer) or np.issubdtype(x.dtype, np.floating)):
        raise DataError(f"{what} holds {x.dtype}; pictures are uint8, or floats from 0 to 1.")
    return _scaled(x, what)


def _scaled(x: np.ndarray, what: str) -> np.ndarray:
    low, high = x.min(), x.max()
    whole = np.issubdtype(x.dtype, np.integer)
    if x.dtype == np.uint16 and high > 255:
        factor = 1 / 257
    elif low >= 0 and high <= (255 if whole else 1):  # False for NaN
        factor = 1.0 if whole else 255.0
    else:
        raise DataError(f"{what} goes from {low} to {high}; pictures are uint8 from 0 to 255, or floats from 0 to 1.")
    out = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), 1024):
        out[start : start + 1024] = np.rint(x[start : start + 1024] * np.float64(factor))
    return out


def _labels(y: Any, n: int, what: str) -> list[str]:
    y = as_numpy(y)
    if y.shape != (n,):
        raise DataError(f"The labels of {what} have shape {y.shape}; one for each of the {n} pictures is expected.")
    if np.issubdtype(y.dtype, np.floating) and np.array_equal(y, np.rint(y)):
        y = y.astype(np.int64)
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in y.tolist()]
