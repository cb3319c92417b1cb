"""Path + codec -> endless batches, each addressed by its step; and the split that is taken before training."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from . import files, registry
from .base import Batch, Codec, Spec
from .config import Run
from .errors import DataError, UsageError, unknown
from .runtime import Runtime, seed_of
from .strata import evenly, opposites, strata

CHUNK = 256  # raws encoded at once
SMALL_SIDE = 64
HOLDOUT_LIMIT = 15_000
SMALLEST_POOL = 100  # fewer items than this: nothing is held out
THIRDS_FROM = 900  # fewer held-out items than this: no extractor part E


def pick_codec(source: Any, kind: str, args: dict[str, Any]) -> Codec:
    """The codec that reads a source: the kind asked for, or the one that claims it most surely."""
    if not kind:
        codecs: dict[str, Any] = {name: registry.get("codec", name) for name in registry.names("codec")}
        claims = {name: codec.claims(source) for name, codec in codecs.items()}
        kind = max(claims, key=lambda name: claims[name])
        if claims[kind] <= 0:
            raise DataError(_unclaimed(source))
    made: Codec = registry.build("codec", kind, args=args)
    return made


def _unclaimed(source: Any) -> str:
    if isinstance(source, str | os.PathLike) and not Path(source).exists():
        sets = ["digits", "grid25", "moons", "pinwheel", "ring8", "spiral"]
        return f"There is no file or folder {os.fspath(source)!r}. " + unknown("embedded set", os.fspath(source), sets)
    return (
        f"{source if isinstance(source, str | os.PathLike) else type(source).__name__} holds nothing that gansmith can learn "
        f"from; expected pictures or points ({', '.join(registry.names('codec'))}); name the kind with --kind."
    )


def split(labels: Sequence[str | None], splits: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Indices of T (training), E (extractor), V (judging), H (final verdict), val and test; stratified by class.

    The rule of formats 2: one fifth of the training pool is held out, at most 15,000, in equal thirds; under 900 E is
    empty; under 100 items in all nothing is held out. A test or val folder is never trained on.
    """
    where = np.asarray(splits)
    pool = np.flatnonzero(where == "train")
    rng = np.random.default_rng(seed_of(seed, "split"))
    pool = pool[rng.permutation(len(pool))]
    names = np.asarray(["" if labels[i] is None else str(labels[i]) for i in pool.tolist()])
    _, classes, counts = np.unique(names, return_inverse=True, return_counts=True)
    lined = np.argsort(classes, kind="stable")  # class after class, shuffled within
    lined = lined[counts[classes[lined]] > 1]  # a class's only example is trained on
    held = 0 if len(where) < SMALLEST_POOL else min(len(pool) // 5, HOLDOUT_LIMIT, len(lined) // 2)
    start = int(rng.integers(max(1, len(lined))))
    out = pool[
        lined[(np.arange(held) * len(lined) + start) // max(1, held)]
    ]  # every fifth or so: a share of each class
    roles = ("E", "V", "H") if held >= THIRDS_FROM else ("V", "H")
    parts = {role: np.sort(out[i :: len(roles)]) for i, role in enumerate(roles)}
    return {"T": np.setdiff1d(pool, out), "E": parts.get("E", out[:0]), "V": parts["V"], "H": parts["H"]} | {
        role: np.flatnonzero(where == role) for role in ("val", "test")
    }


@dataclass
class Data:
    """A source that was read: its codec (fitted), its raws, and which of them training may see."""

    codec: Codec
    raws: Any
    parts: dict[str, np.ndarray]
    fingerprint: str

    @property
    def spec(self) -> Spec:
        return self.codec.spec()

    @property
    def count(self) -> int:
        """Examples that training sees."""
        return len(self.parts["T"])

    def identity(self) -> list[Any]:
        """All that its encoded examples and their roles depend on, for keys of caches: codecs may read one file in two ways."""
        return [self.codec.kind, self.fingerprint, self.codec.state(), self.split_record()["sha256"]]

    def split_record(self) -> dict[str, Any]:
        """What run.json keeps of the split: the rule's outcome, and a hash that later commands check."""
        digest = hashlib.sha256()
        for role in ("T", "E", "V", "H"):
            digest.update(self.parts[role].astype("<i8").tobytes() + role.encode())
        return {
            "rule": "stratified-1",
            "counts": {k: len(v) for k, v in self.parts.items()},
            "sha256": digest.hexdigest(),
        }


def open_data(source: Any, run: Run) -> Data:
    """Scan, split and fit. Raises DataError where nothing can be learned from the source."""
    codec = pick_codec(source, run.data.kind, run.data.codec)
    raws = codec.scan(source)
    parts = split(raws.labels, raws.splits, run.train.seed)
    if len(parts["T"]) < 2:
        raise DataError(
            f"{run.data.path or 'The data'} has {len(parts['T'])} usable training example; at least 2 are needed."
        )
    check_strict(codec, run)
    codec.fit(raws.take(parts["T"]))
    return Data(codec, raws, parts, codec.fingerprint(source))


def check_strict(codec: Codec, run: Run) -> None:
    if run.data.strict and codec.skipped:
        name, reason = codec.skipped[0]
        raise DataError(
            f"{name}: {reason} ({len(codec.skipped)} such in all; leave out --set data.strict=true to skip them)."
        )


# ---- rows: encoded examples by index --------------------------------------------------------------------------------
def workers() -> int:
    return min(16, os.cpu_count() or 1)


class Rows:
    """Encoded training examples by index, all in memory, on the device where it has room."""

    def __init__(self, batch: Batch):
        self.batch = batch
        self.count = len(batch["x"])
        self._kinds: dict[int, np.ndarray] = {}

    def to(self, device: torch.device) -> Rows:
        return Rows({k: v.to(device) for k, v in self.batch.items()})

    def kinds(self, n: int) -> np.ndarray:
        """Which of about n equally large kinds each row is (`strata`); told once."""
        if n not in self._kinds:
            self._kinds[n] = strata(self.batch["x"], n)
        return self._kinds[n]

    def take(self, indices: Tensor) -> Batch:
        if self.batch["x"].device.type != "cpu":
            indices = indices.to(self.batch["x"].device, non_blocking=True)
        return {k: v.index_select(0, indices) for k, v in self.batch.items()}


class LiveRows:
    """Encoded training examples by index, read as they come; a broken one is replaced by the next good one."""

    def __init__(self, codec: Codec, raws: Any):
        self.codec, self.raws, self.count = codec, raws, len(raws)
        self.pool = ThreadPoolExecutor(workers())

    def _one(self, index: int) -> Batch:
        for step in range(self.count):
            batch = self.codec.encode(self.raws.take(np.array([(index + step) % self.count])))
            if len(batch["x"]):
                return batch
        raise DataError("No example of the data can be read any more.")

    def take(self, indices: Tensor) -> Batch:
        ones = list(self.pool.map(self._one, indices.tolist()))
        return {k: torch.cat([one[k] for one in ones]) for k in ones[0]}


def load_rows(data: Data, cache: int, say: Callable[[str], None] = lambda text: None) -> Rows | LiveRows:
    """The training examples in memory if they fit into `cache` bytes, else read as they come."""
    raws = data.raws.take(data.parts["T"])
    example = data.codec.encode(raws.take(np.arange(min(4, len(raws)))))
    each = sum(v[0].numel() * v.element_size() for v in example.values() if len(v))
    if each * len(raws) > cache:
        say(
            f"{len(raws):,} examples need {each * len(raws) / 1e6:,.0f} MB encoded, more than data.cache: "
            "they are read as they come"
        )
        return LiveRows(data.codec, raws)
    return Rows(_cached(data, raws, say))


def _cached(data: Data, raws: Any, say: Callable[[str], None]) -> Batch:
    """Encoded examples from the cache folder, else encoded now and put there. The cache may fail; it is only a cache."""
    facts = [*data.identity(), 1]
    path = files.cache_folder() / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.safetensors"
    with suppress(Exception):
        with safetensors.safe_open(path, "pt") as stored:
            data.codec.skipped += [tuple(item) for item in json.loads(stored.metadata()["skipped"])]
        return safetensors.torch.load_file(path)
    before = len(data.codec.skipped)
    batch = encode_all(data.codec, raws, say)
    if len(raws) > 5000:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {"skipped": json.dumps(data.codec.skipped[before:])}
            files.write(path, safetensors.torch.save(batch, metadata=found))
    return batch


def encode_all(codec: Codec, raws: Any, say: Callable[[str], None] = lambda text: None, least: int = 2) -> Batch:
    """Encode every raw in order, several at a time; broken ones are left out and named in `codec.skipped`."""
    if len(raws) > 5000:
        say(f"reading {len(raws):,} examples (kept for the next time)")
    chunks = [raws.take(np.arange(i, min(i + CHUNK, len(raws)))) for i in range(0, len(raws), CHUNK)]
    small = (
        codec.spec().shape[-1] <= SMALL_SIDE
    )  # decoding them is mostly Python: threads would only wait for each other
    with ThreadPoolExecutor(1 if small else workers()) as pool:
        done = [batch for batch in pool.map(codec.encode, chunks) if len(batch["x"])]
    if sum(len(batch["x"]) for batch in done) < least:
        name, reason = codec.skipped[-1] if codec.skipped else ("the data", "nothing in it can be read")
        raise DataError(f"Fewer than 2 training examples can be read; for one, {name}: {reason}.")
    return {k: torch.cat([batch[k] for batch in done]) for k in (done[0] if done else ())}


# ---- batches --------------------------------------------------------------------------------------------------------
class Stream:
    """Endless batches: what a (round, play) sees is a function of (seed, attempt) and that address alone.

    round: the number of a batch, however many rounds the engine plays it in. Order, latents and noise are drawn for the
    global batch and sliced by rank, so two ranks of B see what one of 2B does.
    plays: the largest number of plays a round. even: batches hold every kind of example in its share, as far as these are in
    memory, and latents in pairs of opposites (`strata`).
    """

    def __init__(
        self,
        codec: Codec,
        rows: Rows | LiveRows,
        runtime: Runtime,
        batch: int,
        plays: int,
        z_dim: int,
        *seed: int,
        even: bool = False,
    ):
        self.codec, self.rows, self.runtime, self.size, self.plays, self.z_dim, self.seed = (
            codec, rows, runtime, batch, plays, z_dim, seed,
        )  # fmt: skip
        if batch % runtime.world:
            raise UsageError(f"train.batch = {batch} cannot be shared by {runtime.world} devices; choose a multiple.")
        self.mine, self.even = runtime.slice(batch), even
        self.kinds = rows.kinds(batch) if even and isinstance(rows, Rows) else None
        self.noise = torch.Generator(runtime.device)
        self.augment = torch.Generator(runtime.device)
        self.order = lru_cache(maxsize=2)(self._order)
        self.ahead: dict[tuple[int, int], Future[Batch]] = {}
        self.reader = ThreadPoolExecutor(1) if isinstance(rows, LiveRows) else None

    def _order(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        rng = np.random.default_rng(seed_of(*self.seed, "order", epoch))
        indices, y = self.codec.order(rng, self.rows.count)
        if self.kinds is not None and y is None:
            indices = evenly(indices, self.kinds, rng)
        return torch.from_numpy(indices), None if y is None else torch.from_numpy(y)

    def _rows(self, round: int, play: int) -> Batch:
        start = (round * self.plays + play) * self.size + self.mine.start
        left, indices, ys = self.mine.stop - self.mine.start, [], []
        while left:
            epoch, at = divmod(start, self.rows.count)
            order, y = self.order(epoch)
            part = slice(at, at + left)
            indices.append(order[part])
            if y is not None:
                ys.append(y[part])
            left -= len(indices[-1])
            start += len(indices[-1])
        batch = self.rows.take(indices[0] if len(indices) == 1 else torch.cat(indices))
        return batch | {"y": torch.cat(ys)} if ys else batch

    def _read(self, round: int, play: int) -> Batch:
        if self.reader is None:
            return self._rows(round, play)
        after = (round, play + 1) if play + 1 < self.plays else (round + 1, 0)
        future = self.ahead.pop((round, play), None) or self.reader.submit(self._rows, round, play)
        self.ahead = {after: self.ahead.get(after) or self.reader.submit(self._rows, *after)}
        return future.result()

    def batch(self, round: int, play: int) -> Batch:
        """This rank's share of the batch of a play: "x", "y" where there are classes, "z", "u"."""
        device = self.runtime.device
        batch = self._read(round, play)
        if batch["x"].device != device:
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        self.noise.manual_seed(seed_of(*self.seed, "noise", round, play))
        self.augment.manual_seed(seed_of(*self.seed, "augment", round, play, self.runtime.rank))
        batch = self.codec.to_model(batch, self.augment)
        batch["z"] = self.latents()[self.mine]
        batch["u"] = torch.rand(self.size, generator=self.noise, device=device)[self.mine]
        return batch

    def latents(self) -> Tensor:
        if self.even:
            return opposites(self.size, self.z_dim, self.noise)
        return torch.randn(self.size, self.z_dim, generator=self.noise, device=self.noise.device)

    def close(self) -> None:
        if self.reader is not None:
            self.reader.shutdown(wait=False, cancel_futures=True)
