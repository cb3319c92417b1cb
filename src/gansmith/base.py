"""The contracts: Spec, Batch, Clock, Turn, Game, Codec. No behaviour beyond shared lines every game would repeat."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Batch-first tensors. "x" real examples, "y" class indices [B], "z" latents [B, z_dim] ~ N(0, 1), "u" one uniform
number an example [B] for penalties that need one; a turn may add keys (say "fake") for later turns of its round."""

Raw = Any
"""One artefact as its codec knows it: a reference into a folder or archive, or a decoded array."""


class Raws(Protocol):
    """What `Codec.scan` returns: an index of raw items, light however many there are.

    labels: class name or None of each; splits: "train", "test" or "val" of each; take: the items at some indices.
    """

    @property
    def labels(self) -> Sequence[str | None]: ...

    @property
    def splits(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Raw: ...

    def take(self, indices: np.ndarray) -> Raws: ...


Make = Callable[..., Any]
"""make(role) builds the part a run names for a role: "G", "D", "loss", "penalty"."""


@dataclass(frozen=True)
class Spec:
    """Frozen facts about one encoded example; JSON both ways.

    kind: "image", "points", ...; shape: of `x` without the batch, pictures [C, H, W];
    classes and frequencies: names and shares of the classes, empty if unconditional;
    mean: of the training examples in model range, one number a channel (pictures) or coordinate;
    room: how often each of a picture's 256 levels is used, in units of a middling one, cut to 1..64; empty if all are 1.
    """

    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    room: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Spec:
        state = {"room": (), **state}  # runs made before there was one
        values: dict[str, Any] = {f.name: state[f.name] for f in fields(cls)}
        tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**tuples)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Clock:
    """Where training stands. round: rounds played; seen: real examples seen; progress: share of the budget, in [0, 1]."""

    round: int = 0
    seen: int = 0
    progress: float = 0.0


@dataclass(frozen=True)
class Turn:
    """One optimiser update of one player.

    loss: named scalar terms, summed by the loop; every: rounds between plays; repeat: plays a round, each on a new
    batch; after, until: examples seen when first and no longer played; rate: scales the player's learning rate.
    """

    player: str
    loss: Callable[[Batch, Clock], dict[str, Tensor]]
    every: int = 1
    repeat: int = 1
    after: float = 0
    until: float = math.inf
    rate: float = 1.0

    def due(self, clock: Clock) -> bool:
        return clock.round % self.every == 0 and self.after <= clock.seen < self.until


class Game(nn.Module, ABC):
    """One GAN variant: owns the networks, lists the turns, samples. Concrete games are final.

    `parts` are the defaults (role -> part name) that let a game be built from a Spec alone.
    Buffers that steer training change only in `after`; they are saved with everything else.
    """

    sampled: ClassVar[tuple[str, ...]] = ("G",)
    parts: ClassVar[dict[str, str]] = {}
    z_dim: int = 0
    joint = True  # the run's word: may real and fake examples share a pass?
    share = True  # the loop's word: may a turn keep the generator's forward for the next turn of its round?

    def __init__(self, spec: Spec, make: Make):
        super().__init__()
        self.spec = spec

    @abstractmethod
    def players(self) -> dict[str, nn.Module]:
        """The players by name; each has one optimiser over its parameters."""

    @abstractmethod
    def turns(self) -> tuple[Turn, ...]:
        """What a round consists of, in order."""

    @abstractmethod
    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Examples in model range from latents [B, z_dim] and class indices [B] (or whatever the game conditions on)."""

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.sample(z, y)

    def after(self, turn: Turn, clock: Clock, terms: dict[str, Tensor]) -> None:
        """Called under no_grad after every update, with terms averaged over micro-batches and ranks."""

    def logits(self, critic: nn.Module, real: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The critic's logits [B] of real and of fake examples of the same classes: in one pass, unless it keeps
        statistics (batch norm, spectral iterations), which must not mix, or memory is to be spared."""
        if not self.joint or next(critic.buffers(), None) is not None:
            return critic(real, y), critic(fake, y)
        both = critic(torch.cat([real, fake]), None if y is None else torch.cat([y, y]))
        return both[: len(real)], both[len(real) :]

    def fake(self, batch: Batch, *, graph: bool) -> Tensor:
        """`sample` on the batch's latents, computed once a round where sharing is on.

        graph: False for the critic's turn (the result is detached), True where the generator learns.
        """
        fake = batch.get("fake")
        if fake is None:
            with torch.set_grad_enabled(graph or self.share):
                fake = self.sample(batch["z"], batch.get("y"))
            if self.share and not graph:
                batch["fake"] = fake
        return fake if graph else fake.detach()


class Codec(ABC):
    """Artefacts <-> tensors, one per kind of data. Batches in, batches out; fitted state is JSON.

    `kind` is the name it is registered under.
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def claims(cls, source: Any) -> int:
        """How surely this codec reads the source: 0 not at all; the highest claim wins. Cheap: names, not contents."""

    @abstractmethod
    def scan(self, source: Any) -> Raws:
        """Cheap index of the raw items. What cannot be used goes to `skipped` by name. Raises DataError if none is left."""

    @abstractmethod
    def fit(self, raws: Any) -> None:
        """Learn sizes, class names, scales from the training examples."""

    @abstractmethod
    def encode(self, raws: Any) -> Batch:
        """Storage form: pictures uint8 [B, C, H, W], points float32 [B, d]; "y" int64 [B] where there are classes."""

    @abstractmethod
    def decode(self, x: Tensor) -> list[Raw]:
        """Inverts `encode` and `to_model`, rounding as the file format does."""

    @abstractmethod
    def write(self, raws: Sequence[Raw], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
        """Write artefacts in the data's own format, numbered on from what is there."""

    @abstractmethod
    def preview(self, raws: Sequence[Raw]) -> bytes:
        """Many artefacts on one PNG contact sheet."""

    @abstractmethod
    def spec(self) -> Spec:
        """Facts for networks and game; after `fit` or `load_state`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Fitted state, JSON only."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; raises DataError on a malformed one."""

    def to_model(self, batch: Batch, rng: torch.Generator | None = None) -> Batch:
        """On the device: cast and scale; with a generator also augment."""
        return batch

    def order(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Indices of the next n examples out of n, and their conditions where the codec draws those itself."""
        return rng.permutation(n), None

    def fingerprint(self, source: Any) -> str:
        """Hash of what the source holds, by names, sizes and times or checksums, never by reading it all."""
        raise NotImplementedError

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str]] = []  # items left out, with the reason
        self.notes: list[str] = []  # harmless facts that a user should hear of
