"""Run by torchrun in test_distributed: trains every case and saves what this rank ends with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import tiny
from gansmith import registry
from gansmith.base import Spec
from gansmith.checkpoint import pack
from gansmith.config import Run, build_game
from gansmith.errors import UsageError

DATA = {"points": ((2,), 0, "mlp"), "classes": ((2,), 3, "mlp"), "pictures": ((1, 8, 8), 3, "r3")}
ROUNDS = 4


def cases() -> dict[str, tuple[Run, Spec]]:
    """Games whose networks have neither batch statistics nor noise: two ranks are to equal one process.

    The last ones are only to agree between ranks: Adam, and dropout.
    """
    found = {}
    for name in registry.names("game"):
        for kind, (shape, classes, nets) in DATA.items():
            of, run = tiny.spec(shape, classes), tiny.game_run(name, nets, sgd=True)
            try:
                build_game(run, of)
            except UsageError:
                continue
            found[f"{name}-{kind}"] = run, of
    points = tiny.spec((2,), 3)
    found["micro"] = tiny.game_run("r3", sgd=True, micro=2), points
    found["early"] = tiny.game_run("r3", sgd=True, even=True, early=16), points
    found["agree-adam"] = tiny.game_run("gan", "dcgan"), tiny.spec((1, 8, 8), 3)
    found["agree-dropout"] = tiny.game_run("gan").set("parts.D.args.dropout=0.5"), points
    return found


def result(run: Run, of: Spec) -> dict[str, torch.Tensor]:
    """All that a training ends with, in double precision: sums in another order are no difference then."""
    torch.set_default_dtype(torch.float64)
    try:
        t = tiny.trained(run, of, ROUNDS)
    finally:
        torch.set_default_dtype(torch.float32)
    terms = {f"terms/{name}": torch.tensor(value) for name, value in t.meter.read().items()}
    return t.tensors() | {f"ema/{name}": tensor.clone() for name, tensor in t.ema.state().items()} | terms


if __name__ == "__main__":
    for key, (run, of) in cases().items():
        (Path(sys.argv[1]) / f"{key}.{tiny.runtime().rank}.safetensors").write_bytes(pack(result(run, of)))
