"""Tiny whole trainings, what they end as, and processes to kill: for the tests of faults and of run folders."""

from __future__ import annotations

import errno
import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import gansmith
from gansmith import checkpoint, files, loop, plan, registry
from gansmith.__main__ import main
from gansmith.files import RunFolder
from gansmith.runtime import Runtime

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), RNG.integers(0, 3, 60)
POINTS = RNG.standard_normal((120, 2)).astype(np.float32)
NET = ("parts.G.args.width=8", "parts.D.args.width=8", "train.batch=8")
IMAGES = 240  # 30 rounds
RECIPES = {  # recipe -> its data
    "auto": PICTURES, "dcgan": PICTURES, "acgan": PICTURES, "wgan": PICTURES, "lsgan": PICTURES, "cgan": PICTURES,
    "wgan-gp": POINTS, "gan": POINTS, "r3": POINTS,
}  # fmt: skip


@functools.cache
def warm() -> None:
    """Import and start all that forked processes would otherwise each wait for; one thread, so that forks are safe."""
    torch.set_num_threads(1)
    Runtime("cpu")
    for kind in registry.FOLDERS:
        registry.names(kind)


def quicken(patch: pytest.MonkeyPatch) -> None:
    """No time trial, six ticks a training, a checkpoint at each."""
    warm()
    patch.setattr(plan, "trial", lambda t: 1e4)
    patch.setattr(loop, "TICKS", 6)
    patch.setattr(loop, "SAVE_SHARE", 0)


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def fit(out: Path, recipe: str = "gan", images: int | None = IMAGES, data: Any = None, **options: Any) -> Any:
    """Train tiny networks in `out`, or go on there."""
    data = RECIPES[recipe] if data is None else data
    return gansmith.train(data, recipe, out=out, images=images, set=NET, **{"quiet": True, **options})


def ending(out: Path) -> dict[str, Any]:
    """All that a training leaves behind, but for times: the last checkpoint, the log and the pictures."""
    folder = RunFolder(out)
    saved = checkpoint.read(folder, checkpoint.listed(folder)[0])
    facts = {k: v for k, v in saved.facts.items() if k != "seconds"}
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "rate")} for row in files.read_lines(folder.log)]
    sheets = {path.name: path.read_bytes() for path in folder.samples.iterdir() if not path.name.startswith(".")}
    return {"name": saved.name, "facts": facts, "rows": rows, "sheets": sheets, **flat(saved.state), **flat(saved.ema)}


def flat(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: f"{t.dtype}{tuple(t.shape)}".encode() + t.numpy().tobytes() for name, t in tensors.items()}


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal to the last bit? Names what is not."""
    assert found.keys() == expected.keys()
    assert [key for key in found if found[key] != expected[key]] == []
    return True


def final(out: Path) -> dict[str, bytes]:
    """The last checkpoint's tensors."""
    place = RunFolder(out).checkpoints / checkpoint.listed(RunFolder(out))[0]
    return {f"{path.name}/{k}": v for path in place.glob("*.safetensors") for k, v in flat(load_file(path)).items()}


def status(out: Path) -> Any:
    return RunFolder(out).read_run()["status"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def table(path: Path) -> Path:
    """The points as a CSV file."""
    np.savetxt(path, POINTS, delimiter=",", header="x,y", comments="")
    return path


# ---- processes ------------------------------------------------------------------------------------------------------
def fork(action: Callable[[], Any]) -> int:
    """A copy of this warm process that does one thing and exits: 0, the action's int, or 70 if it raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.stdout = sys.stderr = io.TextIOWrapper(io.BytesIO())
        done = action()
        code = done if isinstance(done, int) else 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())  # pytest shows it where the test fails
    finally:
        with suppress(BaseException):
            os._exit(code)
    return 0


def wait(pid: int) -> int:
    """Exit status of a forked process; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(*arguments: object) -> int:
    """The command line, in this process."""
    return main([str(argument) for argument in arguments])


# ---- file operations ------------------------------------------------------------------------------------------------
OPERATIONS = ("open", "write", "pwrite", "ftruncate", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Call `before(name, arguments)` ahead of every file operation that changes or opens something."""

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            before(name, args)
            return real(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, wrapped(name))


WRITE = os.write


def full_after(patch: pytest.MonkeyPatch, room: int, code: int = errno.ENOSPC) -> None:
    """The disk takes `room` more bytes: a write that does not fit is cut short, the next one fails."""
    left = room

    def write(fd: int, data: Any) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(code, os.strerror(code))
        part = bytes(data)[:left]
        left -= len(part)
        return WRITE(fd, part)

    patch.setattr(os, "write", write)
