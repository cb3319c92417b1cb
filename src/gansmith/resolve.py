"""From what a user asks for to a whole Run: requests, plug-ins, recipes, budgets, and what may change when going on."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import registry
from .config import Brief, Run, parse
from .data import Data
from .errors import RunError, UsageError
from .files import RunFolder
from .model import restore
from .runtime import has_bf16, pick_device

DEFAULT_MINUTES = {"points": 1.0, "cpu": 10.0, "other": 25.0}


@dataclass(frozen=True)
class Request:
    """What was asked for. All but budget, device and display must be the same when a run is continued."""

    recipe: str = "auto"
    size: int | None = None
    seed: int = 0
    unconditional: bool = False
    kind: str = ""
    changes: tuple[str, ...] = ()
    minutes: float | None = None
    images: int | None = None
    device: str = "auto"

    FREE = (
        "train.device",
        "train.tensorboard",
        "train.images",
        "train.minutes",
        "train.keep",
        "data.cache",
        "data.strict",
    )

    def record(self) -> dict[str, Any]:
        """The part that may not differ, for run.json."""
        fixed = sorted(c for c in self.changes if c.partition("=")[0] not in self.FREE)
        return {
            "recipe": self.recipe, "size": self.size, "seed": self.seed,
            "unconditional": self.unconditional, "kind": self.kind, "set": fixed,
        }  # fmt: skip

    def free(self) -> list[str]:
        """The changes that may differ."""
        return [c for c in self.changes if c.partition("=")[0] in self.FREE]


def load_plugins(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Run files of the user's own, which register parts. They are code: only what the user names is ever run."""
    for path in map(Path, paths):
        if not path.is_file():
            raise UsageError(f"There is no plug-in file {path}.")
        name = "gansmith_plugin_" + re.sub(r"\W", "_", os.fspath(path.resolve()))
        if name in sys.modules:
            continue
        found = importlib.util.spec_from_file_location(name, path)
        if found is None or found.loader is None:
            raise UsageError(f"{path} is not a Python file.")
        module = sys.modules[name] = importlib.util.module_from_spec(found)
        try:
            found.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UsageError(f"The plug-in {path} failed while it was read: {type(error).__name__}: {error}") from error


def first_run(source: Any, request: Request) -> Run:
    """A Run with what reading the data needs: its path, kind and codec options, and the seed of the split."""
    asked = {"unconditional": request.unconditional or None, "size": request.size}
    codec = {key: value for key, value in asked.items() if value is not None}
    data = {
        "path": os.fspath(source) if isinstance(source, str | os.PathLike) else "",
        "kind": request.kind,
        "codec": codec,
    }
    run: Run = parse(Run, {"data": data, "train": {"seed": request.seed}})
    return run.set(*(c for c in request.changes if c.startswith(("data.", "train.seed=", "recipe."))))


def resolve(first: Run, request: Request, data: Data) -> Run:
    """The whole Run: the recipe's, with the data's, the budget's and the user's settings over it."""
    device = pick_device(request.device)
    minutes, images = request.minutes, request.images
    if (
        minutes is None
        and images is None
        and not any(c.startswith(("train.images=", "train.minutes=")) for c in request.changes)
    ):
        minutes = DEFAULT_MINUTES["points" if data.codec.kind == "points" else "cpu" if device == "cpu" else "other"]
    brief = Brief(data.count, device, minutes, images, has_bf16(device))
    name = request.recipe
    made: Run = registry.build("recipe", name, data.spec, brief, args=first.recipe.args)
    tree = made.model_dump(mode="json")
    tree["recipe"] = {"name": name, "args": first.recipe.args}
    tree["data"] = first.data.model_dump(mode="json") | {"kind": data.codec.kind}
    tree["train"] |= {"seed": first.train.seed, "minutes": minutes, "images": images, "device": request.device}
    run: Run = parse(Run, tree)
    return one_budget(run.set(*(c for c in request.changes if not c.startswith("recipe."))))


def one_budget(run: Run) -> Run:
    if run.train.images is not None and run.train.minutes is not None:
        raise UsageError("A budget is either --images or --minutes; both were given.")
    return run


def continued(folder: RunFolder, request: Request, data: Data, state: dict[str, Any]) -> Run:
    """The Run of an existing folder with the new budget. Raises RunError listing what differs."""
    run, _ = restore(state, folder)
    if state.get("fingerprint") != data.fingerprint:
        raise RunError(
            f"{folder.path} was trained on other data ({run.data.path or 'arrays'}); "
            "choose another --out, or --fresh to move the old run aside."
        )
    asked, had = request.record(), state.get("request")
    had = had if isinstance(had, dict) else {}
    if differ := [f"{k} ({had.get(k)!r} then, {v!r} now)" for k, v in asked.items() if had.get(k) != v]:
        raise RunError(
            f"{folder.path} holds a run with other settings: {', '.join(differ)}. Give the same settings to continue it, "
            "choose another --out, or --fresh to move it aside."
        )
    train: dict[str, Any] = {"device": request.device}
    if request.minutes is not None or request.images is not None:
        train |= {"minutes": request.minutes, "images": request.images}
    tree = run.model_dump(mode="json")
    tree["train"] |= train
    return one_budget(parse(Run, tree).set(*request.free()))


def default_out(source: Any, recipe: str) -> Path:
    name = Path(os.fspath(source)).name.split(".")[0] if isinstance(source, str | os.PathLike) else "data"
    return Path("runs") / f"{name or 'data'}-{recipe}"
