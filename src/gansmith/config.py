"""The Run: the whole configuration tree, typed, JSON both ways. Imports no torch, so that help stays quick."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from . import registry
from .errors import UsageError, unknown

INT_LIMIT = 1 << 16  # no width, depth or size of a part may exceed it: a run.json from a stranger cannot ask for more


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Ramp(Tree):
    """A value that follows the budget from `start` to `end`.

    cosine: half a cosine; log: half a cosine in the logarithm; linear: a straight line.
    """

    start: float
    end: float
    shape: Literal["cosine", "log", "linear"] = "cosine"

    @model_validator(mode="after")
    def _positive(self) -> Ramp:
        if self.shape == "log" and min(self.start, self.end) <= 0:
            raise ValueError("a log ramp starts and ends above zero")
        return self

    def at(self, progress: float) -> float:
        if self.shape == "linear":
            return self.start + (self.end - self.start) * progress
        weight = 0.5 + 0.5 * math.cos(math.pi * progress)
        if self.shape == "log":
            return math.exp(math.log(self.start) * weight + math.log(self.end) * (1 - weight))
        return self.start * weight + self.end * (1 - weight)


Scheduled = float | Ramp
"""A number, or a Ramp over the budget. In JSON: 0.001, or {"start": .002, "end": .0002}."""


def at(value: Scheduled | dict[str, Any], progress: float) -> float:
    """The value of a schedule at a share `progress` in [0, 1] of the budget."""
    if isinstance(value, dict):
        value = Ramp(**value)
    return value.at(progress) if isinstance(value, Ramp) else float(value)


class Part(Tree):
    """A registered part and the keyword arguments it is built with."""

    name: str
    args: dict[str, Any] = {}

    @field_validator("args")
    @classmethod
    def _bounded(cls, args: dict[str, Any]) -> dict[str, Any]:
        for key, value in args.items():
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, int) and abs(number) > INT_LIMIT:
                    raise ValueError(f"{key} = {number} is beyond the limit of {INT_LIMIT}")
        return args


class Optimiser(Tree):
    """One player's optimiser: Adam, SOAP (`soap.py`), RMSprop or SGD, with schedules over the budget."""

    name: Literal["adam", "soap", "rmsprop", "sgd"] = "adam"
    lr: Scheduled = 2e-4
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: Scheduled = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0


class Data(Tree):
    """What is read and how.

    codec: its options, say size; cache: bytes of encoded examples that may be held in memory, more are read as they
    come; strict: stop at the first item that cannot be used.
    """

    path: str = ""
    kind: str = ""
    codec: dict[str, Any] = {}
    cache: int = Field(2 << 30, ge=0)
    strict: bool = False


class Train(Tree):
    """How training goes.

    batch: examples a round, over all devices; early: examples at the start that are seen in quarters of a batch, at half
    the rates; micro: batches it is split into to spare memory; images, minutes: the budget; ema_cap: the longest half-life
    of the weights' average, in examples; share: spend memory on speed, by keeping the generator's forward for both turns and
    judging real and fake in one pass; even: batches hold every kind of example in its share, and latents in pairs of
    opposites; precision: auto, fp32 or bf16; threads: of a CPU, 0 for all of them; keep: checkpoints kept beside the best.
    """

    seed: int = Field(0, ge=0, lt=1 << 32)
    batch: int = Field(64, ge=1, le=1 << 20)
    early: int = Field(0, ge=0)
    micro: int = Field(1, ge=1)
    images: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    ema_cap: float = Field(10_000, gt=0)
    ema_share: float = Field(0.05, gt=0, le=1)
    share: bool = True
    even: bool = False
    channels_last: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    keep: int = Field(2, ge=1)
    device: str = "auto"
    threads: int = Field(0, ge=0, le=1024)
    tensorboard: bool = False
    optimisers: dict[str, Optimiser] = {}


@dataclass(frozen=True)
class Brief:
    """What a recipe may size itself by. count: training examples; device: its type; the budget, if one was given; bf16:
    the device multiplies it in hardware."""

    count: int
    device: str = "cpu"
    minutes: float | None = None
    images: int | None = None
    bf16: bool = False


class Run(Tree):
    """The whole configuration: a recipe returns one, run.json keeps one."""

    recipe: Part = Part(name="auto")
    game: Part = Part(name="gan")
    parts: dict[str, Part] = {}
    data: Data = Data()
    train: Train = Train()

    def set(self, *changes: str) -> Run:
        """A copy with `path=value` changes, say "train.batch=64" or "parts.penalty.args.gamma=0.5".

        Values are JSON (.5 is 0.5), or plain text where they are not. Raises UsageError for a path or value that does not fit.
        """
        tree = self.model_dump(mode="json")
        for change in changes:
            path, eq, text = change.partition("=")
            if not eq or not path:
                raise UsageError(f"--set takes path=value, for example train.batch=64; got {change!r}.")
            try:
                value = json.loads(f"0{text}" if text.startswith(".") else text)  # .5, as people write it
            except ValueError:
                value = text
            _put(tree, path.split("."), value, path)
        return parse(Run, tree)


def parse(kind: type[Tree], tree: Any) -> Any:
    """Validate a tree; the first mistake becomes a UsageError that names its path, what came and what was expected."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, reason = registry.mistake(error)
        path = ".".join(str(step) for step in first["loc"] if step not in ("float", "Ramp"))
        if first["type"] == "extra_forbidden":
            raise UsageError(unknown("setting", path, _keys(tree, kind))) from None
        raise UsageError(f"{path or kind.__name__}: {reason}; got {first['input']!r}.") from None


def _keys(tree: Any, kind: type[Tree], prefix: str = "") -> list[str]:
    """Every settable path of a tree: its model's fields and the keys it already has."""
    found = []
    for name, field in kind.model_fields.items():
        found.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Tree):
            found += _keys(tree.get(name, {}) if isinstance(tree, dict) else {}, inner, f"{prefix}{name}.")
    return found


def _put(tree: dict[str, Any], steps: list[str], value: Any, path: str) -> None:
    node = tree
    for i, step in enumerate(steps[:-1]):
        inner = node.get(step)
        if isinstance(inner, float | int) or inner is None:  # a number becomes a Ramp, a missing branch a new one
            free = i > 0 and (inner is not None or steps[0] in ("parts", "data", "train"))
            if not free:
                raise UsageError(unknown("setting", path, _keys(tree, Run)))
            inner = {"start": inner, "end": inner} if inner is not None and i + 2 == len(steps) else {}
        node[step] = dict(inner) if isinstance(inner, dict) else {}
        node = node[step]
    node[steps[-1]] = value


def build_game(run: Run, spec: Any) -> Any:
    """The game a run names, with its parts built from the spec.

    A role that starts with G is a generator, with D a discriminator; other roles are kinds of their own (loss,
    penalty). A role the run leaves out falls back to the game's default, else to None. Raises UsageError for a part
    that the game never asks for.
    """
    defaults = getattr(registry.get("game", run.game.name), "parts", {})
    asked = set()

    def make(role: str, **fixed: Any) -> Any:
        asked.add(role)
        part = run.parts.get(role) or (Part(name=defaults[role]) if role in defaults else None)
        if part is None:
            return None
        kind = {"G": "generator", "D": "discriminator"}.get(role[0], role)
        facts = (spec,) if role[0] in "GD" else ()
        return registry.build(kind, part.name, *facts, args={**part.args, **fixed})

    game = registry.build("game", run.game.name, spec, make, args=run.game.args)
    if extra := run.parts.keys() - asked:
        raise UsageError(
            f"The game {run.game.name!r} has no part {sorted(extra)[0]!r}; it has {', '.join(sorted(asked))}."
        )
    return game
