"""Checkpoints: complete or absent, hashed, pruned; loading falls back to the newest good one."""

from __future__ import annotations

import json
import os
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


def save(folder: RunFolder, seen: int, facts: dict[str, Any], state: dict[str, Tensor], ema: dict[str, Tensor], keep: int) -> str:
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
    """Remove what a crash left half-written."""
    if folder.checkpoints.is_dir():
        for orphan in folder.checkpoints.glob(".*.tmp"):
            shutil.rmtree(orphan, ignore_errors=True)


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
    """Remove checkpoints newer than one that training rolled back to."""
    for newer in listed(folder):
        if newer > name:
            shutil.rmtree(folder.checkpoints / newer, ignore_errors=True)


def listed(folder: RunFolder) -> list[str]:
    """Names of visible checkpoints, newest first."""
    if not folder.checkpoints.is_dir():
        return []
    return sorted((p.name for p in folder.checkpoints.iterdir() if p.name.isdigit() and p.is_dir()), reverse=True)


def pointed(folder: RunFolder, which: str) -> str | None:
    """The checkpoint that best.json or latest.json names, if it does."""
    with suppress(GansmithError, AttributeError):
        return str(files.read_json(folder.pointer(which)).get("checkpoint"))
    return None


def _read(folder: RunFolder, name: str, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Verified bytes of a checkpoint's files: what was hashed is what will be parsed."""
    place = folder.checkpoints / name
    manifest = files.read_json(place / MANIFEST)
    data = {}
    for file in wanted:
        try:
            facts = manifest["files"][file]
            data[file] = (place / file).read_bytes()
        except (OSError, KeyError, TypeError):
            raise CheckpointError(f"{place / file} is missing") from None
        if len(data[file]) != facts["bytes"] or files.sha256(data[file]) != facts["sha256"]:
            raise CheckpointError(f"{place / file} is damaged: its hash differs from the manifest's")
    return data


def read(folder: RunFolder, name: str, *, state: bool = True, ema: bool = True) -> Checkpoint:
    """One checkpoint, verified. Raises CheckpointError or RunError naming the file that is missing or damaged."""
    if not name.isdigit() or not (folder.checkpoints / name).is_dir():
        known = ", ".join(n.lstrip("0") or "0" for n in listed(folder))
        raise CheckpointError(f"{folder.path} has no checkpoint {name!r}; it has {known or 'none yet'}.")
    data = _read(folder, name, (FACTS, *([STATE] if state else []), *([EMA] if ema else [])))
    try:
        facts = json.loads(data[FACTS])
        tensors = {file: safetensors.torch.load(data[file]) for file in data if file != FACTS}
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder.checkpoints / name} is not a checkpoint that gansmith wrote: {error}") from None
    if facts.get("schema") != SCHEMA:
        raise CheckpointError(f"{folder.checkpoints / name} has schema {facts.get('schema')}; this gansmith reads {SCHEMA}.")
    return Checkpoint(name, facts, tensors.get(STATE, {}), tensors.get(EMA, {}))


def newest(folder: RunFolder, first: str | None = None, **parts: bool) -> tuple[Checkpoint, list[str]]:
    """The newest good checkpoint, `first` before all others, and a sentence for each that was passed over."""
    passed = []
    for name in dict.fromkeys([*([first] if first in listed(folder) else []), *listed(folder)]):
        assert name is not None
        try:
            return read(folder, name, **parts), passed
        except GansmithError as error:
            passed.append(f"{str(error).rstrip('.')}; falling back to an earlier checkpoint.")
    raise CheckpointError(f"{folder.path} holds no good checkpoint. " + " ".join(passed))
