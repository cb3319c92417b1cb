"""A cheap look at quality during training: the distance to held-out V under fixed random features keeps the best checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import checkpoint, files
from .data import Data, encode_all
from .engine import Training
from .errors import GansmithError
from .files import RunFolder
from .metrics.features import Extractor, random_features
from .metrics.frechet import Moments, frechet
from .model import draw_samples

SHARE = 0.02  # of the time spent so far that looks may take
FROM_SECONDS = 300  # shorter runs are over before a choice of checkpoints would pay
LOOKED_AT = 2000  # samples of each side
FEWEST = 200
SLACK = 1.5  # times the lowest score: up to there a later checkpoint is kept, as rates fall (docs/decisions.md)


@dataclass
class Probe:
    """Scores checkpoints as they are saved. data: what V is read from, at the first look."""

    data: Data
    spent: float = 0.0
    cost: float = 0.0
    real: Moments | None = None
    features: Extractor = field(init=False)

    @classmethod
    def wanted(cls, data: Data, seconds: float) -> Probe | None:
        """A probe for a run of so many seconds, where it is long enough and V has enough examples."""
        return cls(data) if seconds >= FROM_SECONDS and len(data.parts["V"]) >= FEWEST else None

    def look(self, t: Training, folder: RunFolder, name: str) -> float | None:
        """Score the checkpoint just saved, if time allows; best.json names it if it is the best so far."""
        over = t.clock.progress >= 1
        if not t.clock.seen or (not over and self.spent + max(self.cost, 1.0) > SHARE * t.seconds):
            return None
        began = time.perf_counter()
        score = self.score(t)
        held = lowest(folder)
        if held is None or score <= SLACK * held:
            least = score if held is None else min(score, held)
            files.write_json(folder.pointer("best"), {"checkpoint": name, "fd": score, "lowest": least, "n": LOOKED_AT})
        files.append_line(
            folder.log,
            {"seen": t.clock.seen, "round": t.clock.round, "event": "score", "checkpoint": name, "fd": score},
        )
        self.cost = time.perf_counter() - began
        self.spent += self.cost
        return score

    def score(self, t: Training) -> float:
        """Frechet distance of the averaged generator's samples, always of the same latents, to V."""
        if self.real is None:
            self.features = random_features(self.data.spec.shape)
            chosen = np.random.default_rng(0).permutation(self.data.parts["V"])[:LOOKED_AT]
            held = encode_all(self.data.codec, self.data.raws.take(np.sort(chosen)), least=0)
            self.real = Moments.of(self.features(held["x"].numpy()))
        x = draw_samples(t.game, t.ema.state(), LOOKED_AT, seed=t.run.train.seed, device=t.runtime.device)
        made: Any = t.codec.encode(t.codec.decode(x))["x"].numpy()
        return frechet(Moments.of(self.features(made)), self.real)


def lowest(folder: RunFolder) -> float | None:
    """The lowest score so far, of best.json, if the checkpoint that it names is there."""
    try:
        held = files.read_json(folder.pointer("best"))
        return float(held["lowest"]) if held["checkpoint"] in checkpoint.listed(folder) else None
    except (GansmithError, KeyError, TypeError, ValueError):
        return None
