"""Many pictures: the slim sequence that `scan` returns, and the index of a folder or zip archive, kept between runs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from ..errors import DataError, GansmithError
from ..files import Entry, Source, cache_folder, read_json, sha256, write_json
from ._arrays import Arrays
from ._pictures import FOREIGN, READABLE, SUFFIXES, Facts, Limits, facts

INDEX_VERSION = 1  # raise it when what `facts` says of a file changes
KEPT = 64  # indices that stay in the cache
SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val"}
HIDDEN = re.compile(r"(^|/)(\.(?!\./)|__MACOSX/)")  # a part that starts with a dot, but not ".."
Skip = Callable[[str, str], None]
Note = Callable[[str], None]
Found = tuple[str, Facts]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Picture:
    """A reference to one picture. store: the Source that `name` is read from, or the array whose `row` it is."""

    name: str
    label: str | None
    split: str
    width: int
    height: int
    channels: int
    row: int = 0
    store: Any = field(default=None, repr=False, compare=False)


class Pictures(Sequence[Picture]):
    """References to N pictures, kept as columns. facts: int [N, 3], width, height and channels."""

    def __init__(
        self,
        store: Any,
        names: list[str],
        facts: np.ndarray,
        labels: list[str | None],
        splits: list[str],
        rows: np.ndarray,
    ):
        self.store, self.names, self.facts, self.rows = store, names, facts, rows
        self.labels, self.splits = labels, splits

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        width, height, channels = self.facts[index].tolist()
        name, label, split, row = self.names[index], self.labels[index], self.splits[index], int(self.rows[index])
        return Picture(name, label, split, width, height, channels, row, self.store)

    def take(self, indices: Iterable[int]) -> Pictures:
        """The pictures of the given integer indices, in that order."""
        at = np.fromiter(indices, np.int64)
        pick = at.tolist()
        names, labels, splits = ([column[i] for i in pick] for column in (self.names, self.labels, self.splits))
        return Pictures(self.store, names, self.facts[at], labels, splits, self.rows[at])


def from_arrays(arrays: Arrays, unconditional: bool) -> Pictures:
    n, height, width = arrays.x.shape[:3]
    channels = arrays.x.shape[3] if arrays.x.ndim == 4 else 1
    labels: list[str | None] = [None] * n if arrays.y is None or unconditional else list(arrays.y)
    if len(set(labels)) == 1:
        labels = [None] * n
    same = np.broadcast_to(np.array([width, height, channels], np.int32), (n, 3))
    return Pictures(arrays.x, [f"picture {i}" for i in range(n)], same, labels, arrays.splits, np.arange(n))


def in_threads(task: Callable[[Sequence[T]], list[R]], items: Sequence[T], chunk: int = 256) -> Iterator[R]:
    """task over chunks of the items, in order, on as many threads as there are processors."""
    chunks = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    if len(chunks) < 2:
        yield from task(items)
        return
    with ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 1))) as pool:
        for done in pool.map(task, chunks):
            yield from done


# ---- folders and archives -------------------------------------------------------------------------------------------
def is_hidden(name: str) -> bool:
    return HIDDEN.search(name) is not None


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def claims_to_be_picture(name: str) -> bool:
    return suffix(name) in SUFFIXES and not is_hidden(name)


def from_source(source: Source, limits: Limits, unconditional: bool, skip: Skip, note: Note) -> Pictures:
    """Index a folder, zip archive or file. Raises DataError if no picture is left."""
    for name, reason in source.refused:
        if not is_hidden(name):
            skip(name, reason)
    entries = [e for e in source.entries if not is_hidden(e.name)]
    for entry in entries:
        if suffix(entry.name) in FOREIGN:
            skip(entry.name, f"is of a format that is not read; save it as {READABLE}")
    candidates = [e.name for e in entries if suffix(e.name) in SUFFIXES or not suffix(e.name)]
    found, broken = _readable(source, candidates, limits, skip)
    if not found:
        raise DataError(_nothing(source, entries, broken))
    animated = sum(f.animated for _, f in found)
    if animated:
        note(f"{animated} animated pictures: the first frame is used")
    return _classified(source, found, unconditional, skip, note)


def _readable(
    source: Source, names: list[str], limits: Limits, skip: Skip
) -> tuple[list[Found], tuple[str, str] | None]:
    """Names and facts of what can be read, and the first that cannot; a name without suffix need not be a picture."""
    found, broken = [], None
    for name, fact in zip(names, _index(source, names, limits), strict=True):
        if isinstance(fact, Facts):
            found.append((name, fact))
        elif suffix(name) in SUFFIXES:
            broken = broken or (name, fact)
            skip(name, fact)
    return found, broken


def _nothing(source: Source, entries: list[Entry], broken: tuple[str, str] | None) -> str:
    if broken:
        return f"No picture in {source.path} can be read; the first, {broken[0]!r}, {broken[1]}."
    if entries:
        held = f"holds {len(entries)} other files, such as {entries[0].name!r}"
    elif source.refused:
        held = f"could not be read ({source.refused[0][0]!r}: {source.refused[0][1]})"
    else:
        held = "is empty"
    remedy = f"put {READABLE} files in it, or in one sub-folder a class"
    return f"There are no pictures in {source.path}, which {held}; {remedy}."


def _classified(source: Source, found: list[Found], unconditional: bool, skip: Skip, note: Note) -> Pictures:
    """Labels and splits from the folders' names."""
    places = _places([name for name, _ in found])
    labels = [places[_folder(name)][1] for name, _ in found]
    splits = [places[_folder(name)][0] for name, _ in found]
    keep = list(range(len(found)))
    inside = Counter(label is not None for label, split in zip(labels, splits, strict=True) if split == "train")
    classes = {label for label in labels if label is not None}
    if not unconditional and inside[False] > inside[True] > 0:
        note("most pictures lie outside the sub-folders, so these are not taken as classes")
    if unconditional or len(classes) < 2 or inside[False] > inside[True]:
        labels = [None] * len(found)
    elif None in labels:
        for i in keep:
            if labels[i] is None:
                skip(found[i][0], "lies outside the class folders; with --unconditional it would be used")
        keep = [i for i in keep if labels[i] is not None]
    columns = np.array([fact[:3] for _, fact in found], np.int32)
    return Pictures(source, [n for n, _ in found], columns, labels, splits, np.zeros(len(found), np.int64)).take(keep)


def _folder(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[0]


def _places(names: list[str]) -> dict[str, tuple[str, str | None]]:
    """Folder -> (split, class). A folder that all share, as archives have it, means nothing unless it names a split."""
    folders = sorted({_folder(name) for name in names})
    parts = {folder: folder.split("/") if folder else [] for folder in folders}
    while all(parts.values()) and len({p[0] for p in parts.values()}) == 1:
        if next(iter(parts.values()))[0].lower() in SPLITS:
            break
        parts = {folder: p[1:] for folder, p in parts.items()}
    return {folder: _place(p) for folder, p in parts.items()}


def _place(parts: list[str]) -> tuple[str, str | None]:
    split = SPLITS.get(parts[0].lower()) if parts else None
    rest = parts[1:] if split else parts
    return split or "train", printable(rest[0]) if rest else None


def printable(name: str) -> str:
    """A file name as text that can be written as JSON or to a terminal: bytes that are not UTF-8 become \\xNN."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\x{ord(m[0]):02x}", text)


# ---- the index ------------------------------------------------------------------------------------------------------
def _index(source: Source, names: list[str], limits: Limits) -> list[Facts | str]:
    """Facts of every name, or the reason why there are none; from the cache where the source is as it was."""
    key = sha256(f"{INDEX_VERSION} {tuple(limits)} {len(names)} {source.fingerprint()}".encode())
    known = _recall(key, len(names))
    if known is None:
        # headers of an archive in memory are Python's own work, which threads would only slow down
        chunk = 256 if source.zip is None else max(1, len(names))
        known = list(in_threads(lambda some: [_facts(source, name, limits) for name in some], names, chunk))
        if not any(isinstance(fact, str) and fact.startswith("cannot be read") for fact in known):
            _remember(key, known)
    return known


def _facts(source: Source, name: str, limits: Limits) -> Facts | str:
    try:
        return facts(source.read(name), limits)
    except DataError as error:
        return str(error)


def _recall(key: str, n: int) -> list[Facts | str] | None:
    """The index kept under a key; None if there is none, or it is damaged."""
    try:
        rows = read_json(cache_folder() / "index" / f"{key}.json")
        known = [row if isinstance(row, str) else Facts._make(row) for row in rows]
    except (GansmithError, OSError, RuntimeError, TypeError, ValueError):
        return None
    return known if len(known) == n and all(isinstance(f, str) or _sound(f) for f in known) else None


def _sound(fact: Facts) -> bool:
    return type(fact.width) is type(fact.height) is int and min(fact[:2]) > 0 and fact.channels in (1, 3, 4)


def _remember(key: str, known: list[Facts | str]) -> None:
    """Keep an index, and only the newest KEPT; a cache that cannot be written costs time, nothing else."""
    with suppress(OSError, RuntimeError, ValueError):
        folder = cache_folder() / "index"
        os.makedirs(folder, exist_ok=True)
        write_json(folder / f"{key}.json", known)
        for old in sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)[KEPT:]:
            Path.unlink(old)
