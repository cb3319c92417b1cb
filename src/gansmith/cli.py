"""The commands. Each imports what it needs when it runs, so that help and completion start at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from . import __version__
from .errors import UsageError

LISTED = 12  # values of a list that are shown in a line

app = App(
    name="gansmith",
    version=__version__,
    help="Generative adversarial networks from your own data. Start with: gansmith train DATA",
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(add_to_startup=False)

Plugin = Annotated[
    list[Path],
    Parameter("--plugin", negative=(), help="Python file of your own that registers parts; may be repeated."),
]
Json = Annotated[
    bool,
    Parameter("--json", negative=(), help="One JSON object on standard output, everything else on standard error."),
]


@app.command
def train(
    data: str,
    *,
    recipe: str = "auto",
    out: Path | None = None,
    minutes: float | None = None,
    images: str | None = None,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    unconditional: Annotated[bool, Parameter(negative=())] = False,
    kind: str = "",
    plugin: Plugin = [],  # noqa: B006
    set: Annotated[list[str], Parameter("--set", negative=())] = [],  # noqa: B006
    fresh: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Train a generator on DATA. The same command again resumes; with a larger budget it goes on.

    Parameters
    ----------
    data
        A folder, zip, npz, idx or CSV file, or an embedded set: digits, ring8, grid25, spiral, moons, pinwheel.
        Sub-folders are classes; train/ and test/ above them are splits.
    recipe
        What to train: auto picks one; gansmith list shows all.
    out
        The run folder; runs/<data>-<recipe> unless given.
    minutes
        Budget in minutes of training. Every schedule follows the budget.
    images
        Budget in examples seen, say 200k or 2M.
    size
        Side of square pictures; others are scaled to cover it and cropped.
    seed
        Seed of the split, the first weights and every draw.
    device
        auto, cpu, cuda, mps or xpu.
    unconditional
        Ignore the classes.
    kind
        Kind of data, image or points, where it is not found out.
    set
        Change a setting: path=value, say train.batch=64; may be repeated. gansmith show RECIPE lists them.
    fresh
        Move an old run of the same name aside and start anew.
    dry_run
        Time a few steps, print the plan, and stop.
    """
    from .loop import Interrupted
    from .session import train as run

    try:
        done = run(
            data, recipe, out=out, minutes=minutes, images=count(images), size=size, seed=seed, device=device,
            unconditional=unconditional, kind=kind, plugin=plugin, set=set, fresh=fresh, dry_run=dry_run,
        )  # fmt: skip
    except Interrupted:
        raise KeyboardInterrupt from None
    if json and os.environ.get("RANK", "0") == "0":
        from .resolve import default_out

        emit(
            done if isinstance(done, dict) else {"run": str(out or default_out(data, recipe)), "checkpoint": done.name}
        )


def count(text: str | None) -> int | None:
    """200k, 2M or a plain number of examples."""
    if text is None:
        return None
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}.get(text[-1:].lower(), 0)
    try:
        number = float(text[:-1] if factor else text) * (factor or 1)
        if not 1 <= number < 1e15 or number != int(number):
            raise ValueError
    except ValueError:
        raise UsageError(f"--images takes a number of examples such as 50000, 200k or 2M; got {text!r}.") from None
    return int(number)


@app.command
def sample(
    run: Path,
    *,
    n: Annotated[int, Parameter(["-n", "--number"])] = 64,
    seed: int = 0,
    class_: Annotated[str | None, Parameter("--class")] = None,
    out: Path | None = None,
    grid: Path | None = None,
    npz: Path | None = None,
    checkpoint: str | None = None,
    raw: Annotated[bool, Parameter(negative=())] = False,
    device: str = "cpu",
    force: Annotated[bool, Parameter(negative=())] = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Make new examples with a trained run, in its data's own format.

    Parameters
    ----------
    run
        A run folder.
    n
        How many. The first ten of a hundred are the same as ten alone.
    seed
        Another seed gives other examples.
    class_
        One class only, by name.
    out
        Folder to add files to; <run>/generated unless --grid or --npz is given.
    grid
        One contact sheet, a PNG.
    npz
        One NumPy archive: x uint8 [n, H, W] or [n, H, W, C] (points float32), y, classes.
    checkpoint
        Examples seen at the checkpoint to use; the best or latest unless given.
    raw
        The weights of the last update, not their average.
    device
        auto, cpu, cuda, mps or xpu.
    force
        Overwrite --grid and --npz files that exist.
    """
    from .files import RunFolder
    from .model import load_model
    from .resolve import load_plugins

    load_plugins(plugin)
    model, passed = load_model(RunFolder(run), checkpoint, device)
    for sentence in passed:
        say(sentence)
    targets = {"out": out if out or grid or npz else RunFolder(run).generated, "grid": grid, "npz": npz}
    written = model.export(n, class_, seed, raw, force=force, **targets)
    if json:
        emit({"checkpoint": model.name, "n": n, "files": [str(path) for path in written]})
    for path in written[:1] if len(written) > 3 else written:
        say(f"{path}" + (f" and {len(written) - 1} more" if len(written) > 3 else ""))


@app.command
def evaluate(
    run: Path,
    reals: Path | None = None,
    *,
    train: Path | None = None,
    data: str | None = None,
    n: Annotated[int, Parameter(["-n", "--number"])] = 10_000,
    seed: int = 0,
    delta: float = 0.05,
    full: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    checkpoint: str | None = None,
    kind: str = "",
    size: int | None = None,
    device: str = "cpu",
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
) -> None:
    """How good is it? Can a fresh judge tell fakes from real ones, what do they miss, are they copies?

    evaluate RUN judges a run by its own held-out data; evaluate FAKES REALS any two sets of files.
    Writes index.html and report.json.

    Parameters
    ----------
    run
        A run folder, or made examples: a folder, zip or CSV file.
    reals
        Real examples to judge made ones by; cut into parts for features, judges and the verdict.
    train
        What the made examples' generator was trained on: adds the copy checks.
    data
        The run's data, where it has moved since training.
    n
        How many fakes to draw from a run.
    seed
        Of the fakes and of every draw.
    delta
        How far above guessing the best judge may be for EQUILIBRIUM: .05 is 55%.
    full
        More fits of the strongest judge, all controls and the duality gap: several times slower.
    out
        Folder of the report; <run>/report unless given.
    checkpoint
        Examples seen at the checkpoint to judge; the best or latest unless given.
    kind
        image or points, where it is not found out.
    size
        Side of square pictures, where the two sets differ.
    device
        auto, cpu, cuda, mps or xpu.
    """
    from .evaluation import evaluate as judge
    from .report import summary

    found = judge(
        run, reals, train=train, data=data, n=n, seed=seed, delta=delta, full=full, out=out, checkpoint=checkpoint,
        kind=kind, size=size, device=device, plugin=plugin,
    )  # fmt: skip
    if json:
        emit(found)
    else:
        print(summary(found))


@app.command
def check(
    data: str,
    *,
    kind: str = "",
    size: int | None = None,
    unconditional: Annotated[bool, Parameter(negative=())] = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Read all of DATA and say what training would see, and every item it would skip, with the reason.

    Parameters
    ----------
    data
        As for train.
    kind
        image or points, where it is not found out.
    size
        Side of square pictures.
    unconditional
        Ignore the classes.
    """
    from .look import inspect
    from .resolve import load_plugins

    load_plugins(plugin)
    found = inspect(data, kind=kind, size=size, unconditional=unconditional)
    if json:
        emit(found)
        return
    counts = ", ".join(f"{n:,} {part}" for part, n in found["examples"].items() if n)
    print(f"{found['kind']} {' x '.join(map(str, found['shape']))}: {counts}")
    for name, share in zip(found["classes"], found["frequencies"], strict=True):
        print(f"  class {name!r}: {share:.1%}")
    for note in found["notes"]:
        print(f"  note: {note}")
    for name, reason in found["skipped"]:
        print(f"  skipped {name!r}: {reason}")


@app.command(name="list")
def list_(*, plugin: Plugin = [], json: Json = False) -> None:  # noqa: B006
    """List recipes, networks, losses and the other parts by name."""
    from .listing import parts

    if plugin:
        from .resolve import load_plugins

        load_plugins(plugin)
    found = parts()
    if json:
        emit(found)
        return
    for group, names in found.items():
        print(f"{group}:")
        for name, text in names.items():
            print(f"  {name:<16} {text}")


@app.command
def show(what: str, *, plugin: Plugin = [], json: Json = False) -> None:  # noqa: B006
    """Show a run folder's state, or the settings that a recipe starts from.

    Parameters
    ----------
    what
        A run folder or a recipe's name.
    """
    from .look import flat, show_recipe, show_run
    from .resolve import load_plugins

    load_plugins(plugin)
    path = Path(what)
    found = show_run(path) if path.is_dir() else show_recipe(what)
    if json:
        emit(found)
        return
    settings = flat(found.pop("run", {}))
    rows = {name: plain(value) for name, value in (flat(found) | settings).items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def plain(value: Any) -> str:
    """A value in a line; of a long list its beginning."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) > LISTED:
        return f"{json.dumps(value[:LISTED], ensure_ascii=False)[:-1]}, ... {len(value)} in all]"
    return json.dumps(value, ensure_ascii=False)


def emit(value: Any) -> None:
    from .files import to_json

    sys.stdout.buffer.write(to_json(value))
    sys.stdout.flush()


def say(text: str) -> None:
    print(text, file=sys.stderr)
