"""`train`: from data to a trained model. Finds out kind, recipe and cost, says so, then trains, or goes on training."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import __version__, checkpoint, files, registry, soap
from .config import Run
from .data import Data, LiveRows, Rows, check_strict, load_rows, open_data
from .display import Bar, Board, Display, Silent, duration
from .engine import Training
from .errors import CheckpointError, GansmithError, RunError, UsageError
from .files import RunFolder
from .loop import Interrupted, Look, loop, trim_log
from .model import Model, check_size, load
from .plan import is_plan, make_plan, plan_text
from .probe import Probe
from .resolve import Request, continued, default_out, first_run, load_plugins, resolve
from .runtime import Runtime, keep_freed_memory, threads


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

    def look(self) -> Look | None:
        """What scores checkpoints, in runs long enough for a choice among them."""
        minutes = self.run.train.minutes
        probe = Probe.wanted(self.data, 60 * minutes if minutes is not None else self.state["plan"]["seconds"])
        return probe.look if probe else None

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
            loop(t, self.folder, self.state["plan"]["rate"], show, self.display.say, self.look())
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
            f"Done: {t.clock.seen:,} examples in {duration(t.seconds)}. Samples: {self.folder.samples / 'latest.png'}\n"
            f"Next: gansmith sample {self.folder.path} -n 64 --grid grid.png"
        )


SLOTS = {"adam": ("step", "exp_avg", "exp_avg_sq"), "rmsprop": ("step", "square_avg"), "sgd": ("momentum_buffer",)}


def slots(optimiser: str, p: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of what an optimiser keeps of a weight."""
    if optimiser == "soap":
        return soap.slots(p)
    return {k: () if k == "step" else tuple(p.shape) for k in SLOTS[optimiser]}


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
            held = player.optimiser.state[p]
            shapes = {k: tuple(v.shape) for k, v in held.items()}
            if held and (shapes != slots(player.config.name, p) or any(v.dtype != p.dtype for v in held.values())):
                raise ValueError(f"the optimiser of {player.name} does not fit")
