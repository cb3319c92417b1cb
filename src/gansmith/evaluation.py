"""`evaluate`: how far from equilibrium? A fresh judge, distances, coverage, copies, the game; one report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import files, gather, report
from .errors import RunError, UsageError
from .files import RunFolder
from .gather import Say
from .inquiry import Inquiry
from .resolve import load_plugins


def evaluate(
    run: Any,
    reals: Any = None,
    *,
    train: Any = None,
    data: Any = None,
    n: int = 10_000,
    seed: int = 0,
    delta: float = 0.05,
    full: bool = False,
    out: str | os.PathLike[str] | None = None,
    checkpoint: str | None = None,
    kind: str = "",
    size: int | None = None,
    device: str = "cpu",
    plugin: Sequence[str | os.PathLike[str]] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge a run, or made examples against real ones, and return the report that is written beside.

    run: a run folder; or, with `reals`, fakes as a folder, zip, CSV or array. train: what the fakes' generator was trained
    on, for the copy checks. data: a run's data where it has moved. n: fakes drawn from a run. delta: the margin of
    EQUILIBRIUM, in accuracy. full: more judges' seeds, all controls and the duality gap (points always have them).
    out: folder of the report, else <run>/report. An evaluation that was interrupted goes on where it stopped.
    Raises GansmithError.
    """
    if not 0 < delta < 0.5:
        raise UsageError(f"delta is a margin of accuracy between 0 and 0.5; got {delta}.")
    if n < 1:
        raise UsageError(f"-n is the number of fakes to draw; got {n}.")
    load_plugins(plugin)
    say: Say = (lambda text: None) if quiet else tell
    began = time.perf_counter()
    if reals is None:
        folder = RunFolder(Path(run))
        exhibits = gather.from_run(folder, data, n, seed, checkpoint, device, say)
        target = Path(out) if out is not None else folder.path / "report"
    else:
        exhibits = gather.from_files(run, reals, train, kind, size, seed, say)
        target = (
            Path(out)
            if out is not None
            else Path("runs") / f"{gather.title(run)}-against-{gather.title(reals)}" / "report"
        )
    try:
        with RunFolder(target).locked("evaluated"):
            inquiry = Inquiry(exhibits, target, seed, delta, full or exhibits.codec.kind == "points", say)
            found, figures = inquiry.run()
            found = json.loads(files.to_json(found | {"seconds": round(time.perf_counter() - began, 1)}))
            write(target, found, figures)
            inquiry.notebook.close()
    except OSError as error:
        raise RunError(
            f"{error.filename or target} cannot be written: {error.strerror} ({files.free_space(target) / 1e6:.1f} MB free). "
            "Give the same command again once there is room, or choose another --out: what was found out is kept."
        ) from None
    return found


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write(folder: Path, found: dict[str, Any], figures: dict[str, bytes]) -> None:
    """report.json and index.html, each complete or absent."""
    files.write(folder / "index.html", report.page(found, figures).encode())
    files.write_json(folder / "report.json", found)
