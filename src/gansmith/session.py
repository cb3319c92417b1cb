"""`train`: from data to a trained model. Finds out kind, recipe and cost, says so, then trains, or goes on training."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch

from . import __version__, checkpoint, files, registry
from .base import Spec
from .config import Brief, Run, parse
from .data import Data, LiveRows, Rows, check_strict, encode_all, load_rows, open_data
from .display import Bar, Board, Display, Silent, duration
from .engine import Training, parameters, trial
from .errors import CheckpointError, GansmithError, RunError, UsageError
from .files import RunFolder
from .loop import Interrupted, loop, trim_log
from .model import Model, check_size, load, restore
from .runtime import Runtime, keep_freed_memory, pick_device, threads

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


# ---- resolving ------------------------------------------------------------------------------------------------------
def first_run(source: Any, request: Request) -> Run:
    """A Run with what reading the data needs: its path, kind and codec options, and the seed of the split."""
    codec = {"unconditional": request.unconditional} | ({} if request.size is None else {"size": request.size})
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
    brief = Brief(data.count, device, minutes, images)
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


# ---- the plan -------------------------------------------------------------------------------------------------------
def make_plan(run: Run, runtime: Runtime, data: Data, rows: Rows | LiveRows, chosen: bool) -> dict[str, Any]:
    """Time some rounds of a game that is thrown away: what training will be, and cost."""
    t = Training.start(run, runtime, data, rows)
    rate = trial(t)
    checkpoint_bytes = sum(
        tensor.numel() * tensor.element_size() for tensor in (*t.tensors().values(), *t.ema.weights.values())
    )
    t.stream.close()
    counts = {role: len(indices) for role, indices in data.parts.items() if len(indices)}
    seconds = run.train.minutes * 60 if run.train.minutes else (run.train.images or 0) / rate
    return {
        "kind": data.spec.kind, "shape": list(data.spec.shape), "classes": len(data.spec.classes), "examples": counts,
        "skipped": len(data.codec.skipped), "recipe": run.recipe.name, "game": run.game.name,
        "parameters": parameters(t.game), "batch": run.train.batch, "device": str(runtime.device),
        "devices": runtime.world, "precision": "bf16" if runtime.bf16 else "fp32", "rate": rate, "seconds": seconds,
        "images": run.train.images or rate * seconds, "memory": memory(runtime), "checkpoint_bytes": checkpoint_bytes,
        "minutes": run.train.minutes, "budget_chosen": chosen,
    }  # fmt: skip


PLAN = {
    "kind": str, "shape": list, "classes": int, "examples": dict, "skipped": int, "recipe": str, "game": str,
    "parameters": dict, "batch": int, "device": str, "devices": int, "precision": str, "rate": float,
    "seconds": int | float, "images": int | float, "memory": int, "checkpoint_bytes": int,
}  # fmt: skip


def is_plan(found: Any) -> TypeGuard[dict[str, Any]]:
    """Is it a plan that `make_plan` made, as far as it will be used?"""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in PLAN.items()):
        return False
    return all(isinstance(n, int) for n in (*found["examples"].values(), *found["parameters"].values()))


def memory(runtime: Runtime) -> int:
    """Peak bytes so far: of the device where it has its own memory, else of this process."""
    if runtime.kind == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plan_text(plan: dict[str, Any], run: Run, folder: RunFolder) -> str:
    """The plan as a person reads it."""
    examples = ", ".join(f"{n:,} {role}" for role, n in plan["examples"].items())
    classes = f", {plan['classes']} classes" if plan["classes"] else ""
    sizes = ", ".join(f"{name} {n:,}" for name, n in plan["parameters"].items())
    where = plan["device"] if plan["devices"] == 1 else f"{plan['devices']} devices"
    chosen = "; chosen, as none was given: --minutes or --images sets another" if plan["budget_chosen"] else ""
    goal = (
        f"{plan['minutes']:g} min, about {plan['images']:,.0f} examples" if plan["minutes"]
        else f"{plan['images']:,} examples, about {duration(plan['seconds'])}"
    )  # fmt: skip
    skipped = f"\n  skipped   {plan['skipped']} (gansmith check names them)" if plan["skipped"] else ""
    return (
        f"  data      {plan['kind']} {' x '.join(map(str, plan['shape']))}{classes}: {examples}{skipped}\n"
        f"  recipe    {plan['recipe']} (game {plan['game']}); parameters {sizes}; batch {plan['batch']}\n"
        f"  device    {where}, {plan['precision']}; memory about {plan['memory'] / 1e6:,.0f} MB\n"
        f"  budget    {goal} at {plan['rate']:,.0f} a second{chosen}\n"
        f"  run       {folder.path}"
    )


# ---- train ----------------------------------------------------------------------------------------------------------
def default_out(source: Any, recipe: str) -> Path:
    name = Path(os.fspath(source)).name.split(".")[0] if isinstance(source, str | os.PathLike) else "data"
    return Path("runs") / f"{name or 'data'}-{recipe}"


def train(
    data: Any,
    recipe: str = "auto",
    *,
    out: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    images: int | None = None,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    unconditional: bool = False,
    kind: str = "",
    plugin: Sequence[str | os.PathLike[str]] = (),
    set: Sequence[str] = (),
    fresh: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> Model | dict[str, Any]:
    """Train a generator on data and return it as a Model; the same call again resumes. dry_run: return the plan instead.

    data: a path (folder, zip, npz, idx, CSV), an embedded set's name, or an array [N, ...] or (x, y).
    out: the run folder, else runs/<data>-<recipe>. minutes, images: the budget, wall-clock or examples seen.
    size: side of square pictures. set: "path=value" changes of the run's settings. Raises GansmithError.
    """
    request = Request(recipe, size, seed, unconditional, kind, tuple(set), minutes, images, device)
    if minutes is not None and images is not None:
        raise UsageError("A budget is either --images or --minutes; both were given.")
    load_plugins(plugin)
    registry.get("recipe", recipe)
    runtime = Runtime(device)
    folder = RunFolder(Path(out) if out is not None else default_out(data, recipe))
    display: Bar | Silent = Silent() if quiet or runtime.rank else Bar(minutes)
    with display if isinstance(display, Bar) else nullcontext():
        return _train(data, request, runtime, folder, display, fresh, dry_run)


def _train(
    source: Any, request: Request, runtime: Runtime, folder: RunFolder, display: Display, fresh: bool, dry_run: bool
) -> Model | dict[str, Any]:
    keep_freed_memory()
    first = first_run(source, request)
    data = open_data(source, first)
    for note in data.codec.notes:
        display.say(f"Note: {note}.")
    old = folder.read_run() if folder.run.exists() and not fresh else None
    run = continued(folder, request, data, old) if old else resolve(first, request, data)
    runtime.set_precision(run.train.precision)
    rows = load_rows(data, run.data.cache, display.say)
    check_strict(data.codec, run)
    if isinstance(rows, Rows) and runtime.kind != "cpu":
        rows = rows.to(runtime.device)
    chosen = run.train.minutes is not None and request.minutes is None and not old
    with ExitStack() as stack:
        stack.enter_context(threads(run.train.threads))
        if dry_run:
            plan = make_plan(run, runtime, data, rows, chosen)
            display.say(plan_text(plan, run, folder))
            return plan
        if runtime.rank == 0:
            if fresh and folder.path.exists():
                with folder.locked():  # nobody trains in it
                    display.say(f"The old run is now {folder.set_aside()}.")
            stack.enter_context(folder.locked())
            if (folder.read_run() if folder.run.exists() else None) != old:
                raise RunError(
                    f"{folder.path} was trained by another process meanwhile; give the same command again to go on."
                )
        runtime.barrier()
        session = Session(run, runtime, folder, data, rows, request, display)
        try:
            session.begin(old, chosen)
            session.go()
        except OSError as error:
            raise session.unwritable(error) from None
    return load(folder.path)


@dataclass
class Session:
    """One call of `train` on a locked run folder: begin writes run.json, go runs the loop and records how it ended."""

    run: Run
    runtime: Runtime
    folder: RunFolder
    data: Data
    rows: Rows | LiveRows
    request: Request
    display: Display
    state: dict[str, Any] = None  # type: ignore[assignment]
    saved: checkpoint.Checkpoint | None = None

    def begin(self, old: dict[str, Any] | None, chosen: bool) -> None:
        self.find()
        known = (old or {}).get("plan")
        place = (str(self.runtime.device), self.runtime.world)
        if is_plan(known) and (known["device"], known["devices"]) == place:
            plan = known
        else:
            plan = make_plan(self.run, self.runtime, self.data, self.rows, chosen)
        self.display.say(plan_text(plan | {"minutes": self.run.train.minutes}, self.run, self.folder))
        need, free = 2 * plan["checkpoint_bytes"], files.free_space(self.folder.path)
        if free < need:
            raise RunError(
                f"{self.folder.path} is on a disk with {free / 1e6:.0f} MB free; checkpoints need {need / 1e6:.0f} MB. "
                "Free some space or choose another --out."
            )
        self.state = {
            "schema": 1,
            "run": self.run.model_dump(mode="json"),
            "request": self.request.record(),
            "codec": {"name": self.data.codec.kind, "state": self.data.codec.state()},
            "spec": self.data.spec.to_json(),
            "fingerprint": self.data.fingerprint,
            "split": self.data.split_record(),
            "plan": plan,
            "versions": {"gansmith": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "status": "training",
        }
        if old and old.get("split") != self.state["split"]:
            raise RunError(f"{self.folder.path} was trained on another split of this data; use --fresh.")
        self.write()

    def write(self, **changes: Any) -> None:
        self.state |= changes
        if self.runtime.rank == 0:
            files.write_json(self.folder.run, self.state)

    def find(self) -> None:
        """The newest good checkpoint where there is one, checked against the networks before any are made."""
        if checkpoint.listed(self.folder):
            self.saved, passed = checkpoint.newest(self.folder, checkpoint.pointed(self.folder, "latest"))
            for sentence in passed:
                self.display.say(sentence)
            weights = {key: tensor for key, tensor in self.saved.state.items() if key.startswith("game/")}
            check_size(self.run, self.data.spec, weights)

    def ready(self) -> Training:
        """The training, taken up from the checkpoint that was found; what lies past it is dropped."""
        t = Training.start(self.run, self.runtime, self.data, self.rows)
        t.images = self.run.train.images or self.state["plan"]["images"]
        if self.saved is not None:
            try:
                t.load(self.saved)
                self.renew(t, self.saved)
                check_facts(t)
            except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
                raise CheckpointError(
                    f"Checkpoint {self.saved.name} is not one that gansmith wrote: {error}."
                ) from None
        if self.runtime.rank == 0:
            checkpoint.drop_after(self.folder, self.saved.name if self.saved else "")
            trim_log(self.folder, t.clock.seen if self.saved else -1)
        self.saved = None
        return t

    def unwritable(self, error: OSError) -> RunError:
        """The sentence for a run folder that cannot be written to."""
        need = self.state["plan"]["checkpoint_bytes"] if self.state else 0
        free = files.free_space(self.folder.path)
        return RunError(
            f"{error.filename or self.folder.path} cannot be written: {error.strerror} ({need / 1e6:.1f} MB needed for a "
            f"checkpoint, {free / 1e6:.1f} MB free). The last good checkpoint is intact; give the same command again."
        )

    def renew(self, t: Training, saved: checkpoint.Checkpoint) -> None:
        """Set progress by the budget: kept where it is the same one, else by what was seen of the new one."""
        train = self.run.train
        if train.images is not None:
            t.images = train.images
        if saved.facts.get("budget") == {"images": train.images, "minutes": train.minutes}:
            return
        share = t.clock.seen / train.images if train.images is not None else t.seconds / (60 * (train.minutes or 1))
        if train.minutes is not None and t.clock.seen:
            t.images = t.clock.seen / max(share, 1e-9)
        t.clock = replace(t.clock, progress=min(1.0, share))

    def go(self) -> None:
        t = self.ready()
        if t.clock.progress >= 1:
            self.write(status="finished")
            self.display.say(
                f"This run is already finished: {t.clock.seen:,} examples in {duration(t.seconds)}. "
                "Continue it with a larger --minutes or --images, or sample from it."
            )
            return
        if t.clock.seen:
            self.display.say(f"Resuming at {t.clock.seen:,} examples, {t.clock.progress:.0%} of the budget.")
        show = (
            Board(self.display, self.folder).show
            if self.run.train.tensorboard and self.runtime.rank == 0
            else self.display.show
        )
        try:
            loop(t, self.folder, self.state["plan"]["rate"], show, self.display.say)
        except Interrupted:
            self.write(status="interrupted")
            self.display.say(
                f"Interrupted and saved at {t.clock.seen:,} examples; the same command goes on from there."
            )
            raise
        except KeyboardInterrupt:  # a second signal: at once
            self.write(status="interrupted")
            raise
        except (GansmithError, OSError):
            with suppress(OSError):
                self.write(status="failed")
            raise
        finally:
            t.stream.close()
        self.write(status="finished")
        self.display.say(
            f"Done: {t.clock.seen:,} examples in {duration(t.seconds)}. Samples: {self.folder.samples / 'latest.png'}"
        )


SLOTS = {"adam": {"step", "exp_avg", "exp_avg_sq"}, "rmsprop": {"step", "square_avg"}, "sgd": {"momentum_buffer"}}


def check_facts(t: Training) -> None:
    """Raise ValueError unless training can go on from what a checkpoint said: a stranger may have written it."""
    clock = t.clock
    whole = (clock.round, clock.seen, t.attempt)
    if not all(type(n) is int and 0 <= n < 10**12 for n in whole) or not 0 <= clock.progress <= 1:
        raise ValueError("its clock is out of range")
    if not 0 <= t.seconds < math.inf or not t.images > 0:
        raise ValueError("its seconds or images are out of range")
    for player in t.players.values():
        for p in player.params:  # fused kernels trust shapes: a wrong one would write past the end of memory
            slots = player.optimiser.state[p]
            wrong = [k for k, v in slots.items() if v.shape != (() if k == "step" else p.shape) or v.dtype != p.dtype]
            if wrong or (slots and slots.keys() != SLOTS[player.config.name]):
                raise ValueError(f"the optimiser of {player.name} does not fit")


# ---- looking --------------------------------------------------------------------------------------------------------
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
