"""Stacked pictures: three random grey pictures of a source as the channels of one (Stacked MNIST, Metz et al. 2017).

Ten kinds of digits make a thousand kinds of triples: a set whose modes can be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..base import Batch, Codec, Raw, Spec
from ..errors import DataError
from ..registry import register
from ._album import Picture, Pictures
from .image import ImageCodec


@dataclass(frozen=True, slots=True)
class Triple:
    """One example. parts: references to the three pictures, red first; split: theirs."""

    parts: tuple[Picture, Picture, Picture]
    split: str
    label: None = None


class Triples(Sequence[Triple]):
    """As many triples as there are pictures, each picture once a channel.

    parts: int [N, 3], places in `pictures`. drawn=False: those that `take` chooses are stacked anew among themselves, so
    that the roles of a split share no picture; drawn=True: these triples stay, and `take` chooses among them.
    """

    def __init__(self, pictures: Pictures, parts: np.ndarray, drawn: bool):
        self.pictures, self.parts, self.drawn = pictures, parts, drawn

    @classmethod
    def of(cls, pictures: Pictures) -> Triples:
        splits = np.asarray(pictures.splits)
        parts = np.empty((len(pictures), 3), np.int64)
        for name in np.unique(splits):
            parts[splits == name] = _draw(np.flatnonzero(splits == name))
        return cls(pictures, parts, drawn=False)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def labels(self) -> list[str | None]:
        return [None] * len(self)

    @property
    def splits(self) -> list[str]:
        return [self.pictures.splits[i] for i in self.parts[:, 0].tolist()]

    @overload
    def __getitem__(self, index: int) -> Triple: ...
    @overload
    def __getitem__(self, index: slice) -> Triples: ...
    def __getitem__(self, index: int | slice) -> Triple | Triples:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        red, green, blue = (self.pictures[i] for i in self.parts[index].tolist())
        return Triple((red, green, blue), red.split)

    def take(self, indices: Iterable[int]) -> Triples:
        """The triples of the given integer indices, in that order; of a scan, new ones of these pictures alone."""
        at = np.fromiter(indices, np.int64)
        return Triples(self.pictures, self.parts[at] if self.drawn else _draw(self.parts[at, 0]), drawn=True)

    def channel(self, c: int) -> Pictures:
        """The pictures that one channel is made of."""
        return self.pictures.take(self.parts[:, c])


def _draw(indices: np.ndarray) -> np.ndarray:
    """[n, 3]: the indices beside two shuffles of them; the same for the same number of indices."""
    rng = np.random.default_rng(0)
    return np.stack([indices, rng.permutation(indices), rng.permutation(indices)], 1)


@register("codec", "stacked")
class StackedCodec(Codec):
    """Three grey pictures <-> uint8 [3, H, W]; read by --kind stacked alone, from whatever the image codec reads.

    size: as of the image codec. unconditional: accepted as by every codec; stacked pictures have no classes.
    """

    kind = "stacked"

    def __init__(self, size: int | None = None, unconditional: bool = False):
        super().__init__()
        self.grey = ImageCodec(size)
        self.skipped, self.notes = self.grey.skipped, self.grey.notes

    @classmethod
    def claims(cls, source: Any) -> int:
        return 0

    def scan(self, source: Any) -> Triples:
        return Triples.of(self.grey.scan(source))

    def fingerprint(self, source: Any) -> str:
        return self.grey.fingerprint(source)

    def fit(self, raws: Triples) -> None:
        """Size, mean and the classes of single pictures. Raises DataError where a picture has colours."""
        if len(raws) and (colours := np.flatnonzero(raws.channel(0).facts[:, 2] != 1)).size:
            name = raws[int(colours[0])].parts[0].name
            raise DataError(f"Stacked pictures are made of grey ones; {name!r} has colours. Leave out --kind stacked.")
        self.grey.fit(raws.channel(0))

    def encode(self, raws: Sequence[Raw]) -> Batch:
        """uint8 "x" [B, 3, H, W]; triples with a broken picture are left out.

        raws: Triples, or a list of Triple or of uint8 arrays [H, W, 3].
        """
        planes = [self.grey.encode(channel)["x"] for channel in _channels(raws)]
        if {len(plane) for plane in planes} == {len(raws)}:
            return {"x": torch.cat(planes, 1)}
        alone = [torch.cat(one, 1) for raw in raws if all(map(len, one := self._planes(raw)))]
        return {"x": torch.cat(alone) if alone else torch.empty(0, *self.spec().shape, dtype=torch.uint8)}

    def _planes(self, raw: Raw) -> list[Tensor]:
        return [self.grey.encode(channel)["x"] for channel in _channels([raw])]

    def singles(self, raws: Triples) -> Batch:
        """The pictures that the triples are made of, each once: uint8 "x" [B, 1, H, W], and "y" [B] where they have
        classes; what a classifier that counts modes is fitted on."""
        return self.grey.encode(raws.channel(0))

    def to_model(self, batch: Batch, rng: torch.Generator | None = None) -> Batch:
        return self.grey.to_model(batch, rng)

    def decode(self, x: Tensor) -> list[Raw]:
        return self.grey.decode(x)

    def write(self, raws: Sequence[Raw], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
        return self.grey.write(self._arrays(raws), folder, labels)

    def preview(self, raws: Sequence[Raw]) -> bytes:
        return self.grey.preview(self._arrays(raws))

    def _arrays(self, raws: Sequence[Raw]) -> list[np.ndarray]:
        """uint8 [H, W, 3] of each."""
        return list(self.encode(raws)["x"].permute(0, 2, 3, 1).contiguous().numpy())

    def spec(self) -> Spec:
        grey = self.grey.spec()
        return Spec("image", (3, *grey.shape[1:]), mean=grey.mean * 3, room=grey.room)

    def state(self) -> dict[str, Any]:
        """That of the image codec for single pictures."""
        return self.grey.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`. Raises DataError on anything that `state` would not have written."""
        self.grey.load_state(state)
        if self.grey.spec().shape[0] != 1:
            raise DataError("The saved description of the pictures is damaged; restore the run from a copy.")


def _channels(raws: Sequence[Raw]) -> list[Sequence[Raw]]:
    """Three sequences of single pictures."""
    if isinstance(raws, Triples):
        return [raws.channel(c) for c in range(3)]
    return [[raw.parts[c] if isinstance(raw, Triple) else raw[..., c] for raw in raws] for c in range(3)]
