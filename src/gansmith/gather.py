"""What an evaluation compares: made and real examples by role, decoded to the form they are stored in."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checkpoint, files, registry
from .base import Codec, Raws
from .data import CHUNK, THIRDS_FROM, Data, encode_all, load_rows, pick_codec, split
from .engine import Training, rounds
from .errors import DataError, RunError, UsageError
from .files import RunFolder
from .model import Model, draw_samples, load_model
from .runtime import Runtime, threads

EARLY = 30  # batches: later fakes of points are told less surely (100: .89, 400: .80 on pinwheel), for they are better
TRAIN_LIMIT = 50_000  # training examples that distances are taken to; more are sampled, so that memory stays flat
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pool:
    """Decoded examples of one role. x: uint8 [n, C, H, W] or float32 [n, d]; y: class indices [n] where there are classes."""

    x: np.ndarray
    y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | np.ndarray) -> Pool:
        return Pool(self.x[index], None if self.y is None else self.y[index])

    def mixed(self, seed: int = 0) -> Pool:
        """In random order: files lie in order of their classes, makers and times."""
        return self[np.random.default_rng(seed).permutation(len(self))]


@dataclass
class Exhibits:
    """All that an evaluation looks at, each part in random order.

    fake: made examples; parts: real ones by role, T, E, V, H and test; codec: the data's, with its classes, whether or not
    the generator has them; conditional: does it; data, made: what the real and the made examples depend on, for caches.
    """

    codec: Codec
    fake: Pool
    parts: dict[str, Pool]
    conditional: bool
    data: list[Any]
    made: list[Any]
    name: str = ""
    model: Model | None = None
    notes: list[str] = field(default_factory=list)
    singles: Pool | None = None  # of stacked pictures: single labelled ones of E
    early: Callable[[int], np.ndarray] | None = None  # n fakes that the run made when it had hardly learned

    @property
    def classes(self) -> tuple[str, ...]:
        return self.codec.spec().classes

    @property
    def modes(self) -> tuple[np.ndarray, float] | None:
        known = getattr(self.codec, "modes", None)
        return known() if known else None


# ---- a run and its data ---------------------------------------------------------------------------------------------
def from_run(folder: RunFolder, source: Any, n: int, seed: int, name: str | None, device: str, say: Say) -> Exhibits:
    """n fakes of a run, and its data in the roles that its training gave them.

    source: the data where the run does not remember a path to it. Raises RunError where it is not the same data.
    """
    state = folder.read_run()
    model, passed = load_model(folder, name, device)
    data = same_data(folder, state, model, source)
    real = {role: encoded(data, role, say) for role in ("E", "V", "H", "test")}
    say(f"drawing {n:,} samples from checkpoint {int(model.name):,}")
    fake = made(model, data.codec, n, seed)
    manifest = files.sha256((folder.checkpoints / model.name / checkpoint.MANIFEST).read_bytes())
    return Exhibits(
        data.codec, fake, {"T": seen(model, data, say), **real}, bool(model.spec.classes),
        data.identity(), [manifest, n, seed],
        Path(model.run.data.path).name or "arrays", model, [*passed, *skips(data.codec)], alone(data),
        partial(early, model, data),
    )  # fmt: skip


def same_data(folder: RunFolder, state: dict[str, Any], model: Model, source: Any) -> Data:
    """The run's data with its split and with its classes, even where the generator ignores them."""
    run = model.run
    source = run.data.path if source is None else source
    if isinstance(source, str) and not source:
        raise UsageError(f"{folder.path} was trained on arrays; name the data with --data, or data= from Python.")
    for labelled in (True, False):
        args = run.data.codec | ({"unconditional": False} if labelled and run.data.codec.get("unconditional") else {})
        codec = pick_codec(source, run.data.kind, args)
        raws = codec.scan(source)
        labels = [None] * len(raws) if run.data.codec.get("unconditional") else raws.labels
        data = Data(codec, raws, split(labels, raws.splits, run.train.seed), codec.fingerprint(source))
        if data.fingerprint != state.get("fingerprint"):
            raise RunError(
                f"{run.data.path or 'The data'} is not what {folder.path} was trained on, or has changed since; "
                "name the right data with --data."
            )
        if data.split_record() == state.get("split"):
            codec.fit(raws.take(data.parts["T"]))
            return data
    raise RunError(f"The split that {folder.path} recorded cannot be drawn again from its data; train it anew.")


def encoded(data: Data, role: str, say: Say) -> Pool:
    raws = data.raws.take(data.parts[role])
    if not len(raws):
        return Pool(np.empty((0, *data.spec.shape), np.float32))
    return pool(encode_all(data.codec, raws, say, least=0)).mixed()


def pool(batch: dict[str, Any]) -> Pool:
    return Pool(batch["x"].numpy(), batch["y"].numpy() if "y" in batch else None)


def seen(model: Model, data: Data, say: Say) -> Pool:
    """What the players saw, at most TRAIN_LIMIT of it."""
    rows = load_rows(Data(model.codec, data.raws, data.parts, data.fingerprint), model.run.data.cache, say)
    chosen = np.random.default_rng(0).permutation(rows.count)[:TRAIN_LIMIT]
    return pool(rows.take(torch.from_numpy(chosen)))


def alone(data: Data) -> Pool | None:
    """Single pictures with their classes, where the codec stacks several into one."""
    singles = getattr(data.codec, "singles", None)
    return pool(singles(data.raws.take(data.parts["E"]))) if singles and len(data.parts["E"]) else None


def made(model: Model, codec: Codec, n: int, seed: int) -> Pool:
    """n fakes as they would be read back from the files that they would be written to."""
    names, index = model.classes_of(n, None, seed), {name: i for i, name in enumerate(codec.spec().classes)}
    y = None if names is None else np.array([index[name] for name in names])
    return Pool(as_stored(codec, model.decode(model.sample(n, seed=seed))), y)


def as_stored(codec: Codec, raws: list[Any]) -> np.ndarray:
    """Artefacts in storage form, as if they had been read from files."""
    return np.concatenate([codec.encode(raws[i : i + CHUNK])["x"].numpy() for i in range(0, len(raws), CHUNK)])


def early(model: Model, data: Data, n: int) -> np.ndarray:
    """n fakes of the same run EARLY batches after its start, in storage form: known to be bad."""
    own = Data(model.codec, data.raws, data.parts, data.fingerprint)
    runtime = Runtime("cpu")
    with torch.random.fork_rng([]), threads(model.run.train.threads):
        t = Training.start(model.run, runtime, own, load_rows(own, model.run.data.cache))
        t.game.train()
        for _ in range(EARLY):
            rounds(t)
        t.stream.close()
        x = draw_samples(t.game, t.ema.state(), n, seed=0, device=runtime.device)
    return as_stored(data.codec, model.decode(x))


# ---- files that others made -----------------------------------------------------------------------------------------
def from_files(fakes: Any, reals: Any, train: Any, kind: str, size: int | None, seed: int, say: Say) -> Exhibits:
    """Fakes and reals from files or arrays; reals are cut into E, V and H in equal thirds, E empty under 900.

    Raises DataError where they are of different kinds or sizes, or the same.
    """
    args = {"size": size} if size is not None else {}
    codec = pick_codec(reals, kind, args)
    raws = codec.scan(reals)
    codec.fit(raws)
    real = pool(encode_all(codec, raws, say, least=0))
    fake = like(codec, fakes, "fakes", args, say).mixed()
    parts = {}
    if train is not None:
        parts["T"] = like(codec, train, "training examples", args, say)
        parts["T"] = parts["T"].mixed()[:TRAIN_LIMIT]
    notes = skips(codec)
    if twice := known(real, parts.get("T")):
        real = real[~twice[0]]
        notes.append(f"{int(twice[0].sum()):,} real examples are training examples too, and were left out")
    if both := known(fake, real):
        if both[0].all():
            raise DataError(
                f"All {len(fake):,} fakes are also among the real examples; name two different sets, "
                "the made examples first, the real ones second."
            )
        notes.append(f"{int(both[0].sum()):,} fakes are also among the real examples")
    roles = ("E", "V", "H") if len(real) >= THIRDS_FROM else ("V", "H")
    order = np.random.default_rng(seed).permutation(len(real))
    if real.y is not None:
        order = order[np.argsort(real.y[order], kind="stable")]  # class after class, so that thirds are alike
    cut = {role: real[order[i :: len(roles)]].mixed() for i, role in enumerate(roles)}
    other = None if train is None else codec.fingerprint(train)
    ids = [codec.kind, codec.fingerprint(reals), seed, codec.state(), other]
    return Exhibits(
        codec, fake, {"E": real[:0], "test": real[:0], **parts, **cut}, fake.y is not None, ids,
        [codec.fingerprint(fakes), len(fake)], title(reals), None, notes,
    )  # fmt: skip


def title(source: Any) -> str:
    return Path(os.fspath(source)).name if isinstance(source, str | os.PathLike) else "arrays"


def like(codec: Codec, source: Any, what: str, args: dict[str, Any], say: Say) -> Pool:
    """Another source, read as a fitted codec reads its own. Raises DataError where kind or size differ."""
    own: Codec = registry.build("codec", codec.kind, args=args)
    try:
        raws: Raws = own.scan(source)
        own.fit(raws)
    except DataError as error:
        raise DataError(f"The {what} cannot be read as {codec.kind}, as the real examples are: {error}") from None
    here, there = own.spec().shape, codec.spec().shape
    if here != there:
        raise DataError(
            f"The {what} are {' x '.join(map(str, here))}, the real examples {' x '.join(map(str, there))}; "
            + (
                "give --size to bring both to one size."
                if len(here) == 3 and here[0] == there[0]
                else "they must match."
            )
        )
    known_classes = set(own.spec().classes) <= set(codec.spec().classes)
    batch = encode_all(codec if known_classes else own, raws, say, least=0)
    return pool(batch if known_classes else {"x": batch["x"]})


def known(pool: Pool, others: Pool | None) -> tuple[np.ndarray] | None:
    """Which examples are equal, to the last bit, to one of the others; None if none is."""
    if others is None or not len(others):
        return None
    prints = set(map(bytes, others.x.reshape(len(others), -1)))
    found = np.array([bytes(row) in prints for row in pool.x.reshape(len(pool), -1)])
    return (found,) if found.any() else None


def skips(codec: Codec) -> list[str]:
    items: Sequence[tuple[str, str]] = list(dict.fromkeys(codec.skipped))
    shown = [f"left out {name!r}: {reason}" for name, reason in items[:5]]
    return shown + ([f"and {len(items) - 5:,} more were left out"] if len(items) > 5 else [])
