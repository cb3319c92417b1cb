"""Looking without training: what a source holds, where a run stands, what a recipe starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import checkpoint, files, registry
from .base import Spec
from .config import Brief, Run
from .data import encode_all, open_data
from .files import RunFolder
from .model import restore
from .resolve import Request, first_run


def inspect(source: Any, kind: str = "", size: int | None = None, unconditional: bool = False) -> dict[str, Any]:
    """Read everything a source holds: what training would see, and each item it would skip with the reason."""
    request = Request(kind=kind, size=size, unconditional=unconditional)
    data = open_data(source, first_run(source, request))
    for role, indices in data.parts.items():
        if len(indices):
            encode_all(data.codec, data.raws.take(indices), least=0 if role != "T" else 2)
    spec = data.spec
    return {
        "kind": spec.kind, "shape": list(spec.shape), "classes": list(spec.classes), "frequencies": list(spec.frequencies),
        "examples": {role: len(indices) for role, indices in data.parts.items()}, "fingerprint": data.fingerprint,
        "skipped": [list(item) for item in dict.fromkeys(data.codec.skipped)], "notes": data.codec.notes,
    }  # fmt: skip


def show_run(path: Path) -> dict[str, Any]:
    """A run folder's state in a few fields."""
    folder = RunFolder(path)
    state, rows = folder.read_run(), [row for row in files.read_lines(folder.log) if "terms" in row]
    run, _ = restore(state, folder)
    last = rows[-1] if rows else {}
    return {
        "status": state.get("status"), "recipe": run.recipe.name, "data": run.data.path,
        "spec": state.get("spec"), "plan": state.get("plan"), "seen": last.get("seen"), "seconds": last.get("seconds"),
        "progress": last.get("progress"), "terms": last.get("terms"), "checkpoints": checkpoint.listed(folder),
        "run": run.model_dump(mode="json"), "versions": state.get("versions"),
    }  # fmt: skip


def show_recipe(name: str) -> dict[str, Any]:
    """The settings that a recipe starts from, on ten thousand 32-px colour pictures with ten classes."""
    spec = Spec("image", (3, 32, 32), tuple("0123456789"), (0.1,) * 10, (0.0,) * 3)
    run: Run = registry.build("recipe", name, spec, Brief(10_000))
    about = " ".join((registry.get("recipe", name).__doc__ or "").split())
    return {"recipe": name, "about": about} | flat(run.model_dump(mode="json", exclude={"recipe", "data"}))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree as path -> leaf, the paths that --set takes."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return leaves
