"""Checkpoints: complete or absent, hashed, pruned; loading falls back to the newest good one."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from . import files
from .errors import CheckpointError, GansmithError
from .files import RunFolder

SCHEMA = 1
NAME = re.compile(r"[0-9]{12}")
STATE, EMA, FACTS, MANIFEST = "state.safetensors", "ema.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint folder holds. state: all players, optimisers and buffers; ema: averaged weights; facts: JSON."""

    name: str
    facts: dict[str, Any]
    state: dict[str, Tensor]
    ema: dict[str, Tensor]


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; layouts become contiguous."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def save(
    folder: RunFolder, seen: int, facts: dict[str, Any], state: dict[str, Tensor], ema: dict[str, Tensor], keep: int
) -> str:
    """Write checkpoints/<seen>/, make it the latest, and remove older ones beyond `keep` and the best.

    Every file is hashed into manifest.json, which is written last, in a temporary folder that one rename makes visible.
    Raises CheckpointError, with the space needed and free, where the disk is full; earlier checkpoints stay.
    """
    name = f"{seen:012d}"
    parts = {STATE: pack(state), EMA: pack(ema), FACTS: files.to_json({"schema": SCHEMA, **facts})}
    manifest = {"schema": SCHEMA, "files": {k: {"sha256": files.sha256(v), "bytes": len(v)} for k, v in parts.items()}}
    temporary = folder.checkpoints / f".{name}.{os.getpid()}.tmp"
    try:
        clean(folder)
        os.makedirs(temporary)
        for file, data in (*parts.items(), (MANIFEST, files.to_json(manifest))):
            files.write_new(temporary / file, data)
        files.sync_folder(temporary)
        target = folder.checkpoints / name
        if target.exists():  # of an earlier attempt, past the one that was rolled back to
            os.rename(target, folder.checkpoints / f".{name}.old.tmp")
        os.rename(temporary, target)
        files.sync_folder(folder.checkpoints)
        files.write_json(folder.pointer("latest"), {"checkpoint": name})
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        need, free = sum(map(len, parts.values())), files.free_space(folder.path)
        raise CheckpointError(
            f"The checkpoint cannot be written to {folder.checkpoints}: {error.strerror} ({need / 1e6:.1f} MB needed, "
            f"{free / 1e6:.1f} MB free). The last good checkpoint is intact; free some space and give the same command again."
        ) from None
    prune(folder, keep)
    return name


def clean(folder: RunFolder) -> None:
    """Remove what a crash left half-written. Call it with the run folder locked."""
    patterns = (
        "checkpoints/.*.tmp",
        "samples/.*.tmp",
        ".log.jsonl.*.tmp",
        *(f".{n}.json.*.tmp" for n in ("run", "latest", "best")),
    )
    for orphan in (path for pattern in patterns for path in folder.path.glob(pattern)):
        if orphan.is_dir() and not orphan.is_symlink():
            shutil.rmtree(orphan, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(orphan)


def prune(folder: RunFolder, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and those that best.json and latest.json name."""
    kept = {pointed(folder, "best"), pointed(folder, "latest"), *listed(folder)[:keep]}
    for name in listed(folder):
        if name not in kept:
            hidden = folder.checkpoints / f".{name}.old.tmp"
            with suppress(OSError):  # what cannot be removed now is an orphan for `clean`
                os.rename(folder.checkpoints / name, hidden)
                shutil.rmtree(hidden)


def drop_after(folder: RunFolder, name: str) -> None:
    """Remove checkpoints newer than the one that training goes on from: damaged, or of an attempt that was given up."""
    for newer in listed(folder):
        if newer > name:
            shutil.rmtree(folder.checkpoints / newer, ignore_errors=True)
    if (pointed(folder, "best") or "") > name:
        folder.pointer("best").unlink(missing_ok=True)


def listed(folder: RunFolder) -> list[str]:
    """Names of visible checkpoints, newest first."""
    if not folder.checkpoints.is_dir():
        return []
    return sorted((p.name for p in folder.checkpoints.iterdir() if NAME.fullmatch(p.name) and p.is_dir()), reverse=True)


def pointed(folder: RunFolder, which: str) -> str | None:
    """The checkpoint that best.json or latest.json names, if it does."""
    with suppress(GansmithError, AttributeError):
        return str(files.read_json(folder.pointer(which)).get("checkpoint"))
    return None


def _read(folder: RunFolder, name: str, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Verified bytes of a checkpoint's files: what was hashed is what will be parsed."""
    place = folder.checkpoints / name
    try:
        facts = files.read_json(place / MANIFEST)["files"]
        expected = {file: (int(facts[file]["bytes"]), facts[file]["sha256"]) for file in wanted}
    except (GansmithError, KeyError, TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{place / MANIFEST} is missing or damaged") from None
    data = {}
    for file, (size, digest) in expected.items():
        path = place / file
        try:
            right = path.is_file() and path.stat().st_size == size
            data[file] = path.read_bytes() if right else b""
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        if not right or files.sha256(data[file]) != digest:
            raise CheckpointError(
                f"{path} is {'damaged: it differs from its manifest' if path.exists() else 'missing'}"
            )
    return data


def read(folder: RunFolder, name: str, *, state: bool = True, ema: bool = True) -> Checkpoint:
    """One checkpoint, verified. Raises CheckpointError or RunError naming the file that is missing or damaged."""
    if name not in listed(folder):
        known = ", ".join(n.lstrip("0") or "0" for n in listed(folder))
        raise CheckpointError(f"{folder.path} has no checkpoint {name.lstrip('0')!r}; it has {known or 'none yet'}.")
    data = _read(folder, name, (FACTS, *([STATE] if state else []), *([EMA] if ema else [])))
    try:
        facts = dict(json.loads(data[FACTS]))
        tensors = {file: safetensors.torch.load(data[file]) for file in data if file != FACTS}
    except (ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder.checkpoints / name} is not a checkpoint that gansmith wrote: {error}") from None
    if facts.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{folder.checkpoints / name} has schema {facts.get('schema')}; this gansmith reads {SCHEMA}."
        )
    return Checkpoint(name, facts, tensors.get(STATE, {}), tensors.get(EMA, {}))


def newest(folder: RunFolder, first: str | None = None, **parts: bool) -> tuple[Checkpoint, list[str]]:
    """The newest good checkpoint, `first` before all others, and a sentence for each that was passed over."""
    passed: list[str] = []
    for name in dict.fromkeys([*([first] if first in listed(folder) else []), *listed(folder)]):
        assert name is not None
        try:
            return read(folder, name, **parts), passed
        except GansmithError as error:
            passed.append(f"{str(error).rstrip('.')}; falling back to another checkpoint.")
    why = f": {passed[0].partition(';')[0]}" if passed else ""
    raise CheckpointError(f"{folder.path} holds no good checkpoint{why}. Train it anew with --fresh.")
