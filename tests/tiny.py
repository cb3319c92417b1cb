"""Small everything, for tests that go through the registry: specs, shrunken parts, examples, trainings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gansmith import registry
from gansmith.base import Batch, Codec, Game, Raw, Spec
from gansmith.checkpoint import Checkpoint
from gansmith.config import Optimiser, Part, Run, Train
from gansmith.data import Data, Rows
from gansmith.engine import Training, rounds
from gansmith.errors import UsageError
from gansmith.files import to_json
from gansmith.runtime import Runtime

SMALL = {"width": 16, "depth": 2, "z_dim": 6, "embed": 4}
POINTS, PICTURES = (2,), (1, 8, 8)


def spec(shape: Sequence[int], classes: int = 0) -> Spec:
    kind = "image" if len(shape) == 3 else "points"
    mean = tuple(0.1 * i - 0.2 for i in range(shape[0]))
    room = (64, *(1,) * 252, 5, 30, 20) if kind == "image" else ()
    names, shares = tuple("abcdefghijkl"[:classes]), (1 / classes,) * classes if classes else ()
    return Spec(kind, tuple(shape), names, shares, mean, room)


def shrunk(kind: str, name: str) -> dict[str, int]:
    """The sizes that a network takes, made small."""
    return {k: v for k, v in SMALL.items() if k in inspect.signature(registry.get(kind, name)).parameters}


def network(kind: str, name: str, of: Spec, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = registry.build(kind, name, of, args={**shrunk(kind, name), **args})
    return net


def examples(of: Spec, n: int, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *of.shape, generator=rng)
    batch = {"x": x.tanh() if of.kind == "image" else x}
    return batch | ({"y": torch.arange(n) % len(of.classes)} if of.classes else {})


def batch_norms(net: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())


class Plain(Codec):
    """Examples that are in model range already."""

    kind = "plain"

    def __init__(self, of: Spec):
        super().__init__()
        self.of = of

    @classmethod
    def claims(cls, source: Any) -> int:
        return 0

    def scan(self, source: Any) -> Sequence[Raw]:
        return list(source)

    def fit(self, raws: Sequence[Raw]) -> None:
        pass

    def encode(self, raws: Sequence[Raw]) -> Batch:
        return {"x": torch.stack(list(raws))}

    def decode(self, x: Tensor) -> list[Raw]:
        return list(x)

    def write(self, raws: Sequence[Raw], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
        return []

    def preview(self, raws: Sequence[Raw]) -> bytes:
        return b""

    def spec(self) -> Spec:
        return self.of

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


@cache
def runtime() -> Runtime:
    return Runtime("cpu")


def game_run(name: str, nets: str = "mlp", seed: int = 0, sgd: bool = False, **train: Any) -> Run:
    """A Run of a game with small networks; sgd: updates that do not magnify rounding, as Adam's do."""
    roles = registry.get("game", name).parts  # type: ignore[attr-defined]
    kinds = {"G": "generator", "D": "discriminator"}
    parts = {r: Part(name=nets, args=shrunk(kinds[r[0]], nets)) for r in roles if r[0] in kinds}
    optimiser = Optimiser(name="sgd", lr=1e-3, beta1=0.5) if sgd else Optimiser(lr=1e-3, beta1=0.5)
    train = {"batch": 8, "images": 800, "optimisers": {"G": optimiser, "D": optimiser}} | train
    return Run(game=Part(name=name), parts=parts, train=Train(seed=seed, **train))


def start(run: Run, of: Spec, n: int = 40, on: Runtime | None = None) -> Training:
    """A Training on n made-up examples."""
    codec, rows = Plain(of), Rows(examples(of, n))
    data = Data(codec, rows.batch["x"], {"T": np.arange(n)}, "made up")
    training = Training.start(run, on or runtime(), data, rows)
    training.images = float(run.train.images or 800)
    training.game.train()
    return training


def trained(run: Run, of: Spec, n_rounds: int = 3) -> Training:
    training = start(run, of)
    for _ in range(n_rounds):
        rounds(training)
    return training


def weights(game: Game) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in game.named_parameters()}


def snapshot(training: Training) -> Checkpoint:
    """What a checkpoint holds, by way of the files' formats."""
    facts = json.loads(to_json(training.facts()))
    state, ema = ({k: v.clone() for k, v in t.items()} for t in (training.tensors(), training.ema.state()))
    return Checkpoint("0", facts, state, ema)


def refuses(error: UsageError) -> bool:
    """Does a part say in plain words which data it is for?"""
    return any(word in str(error) for word in ("pictures", "classes", "points"))
