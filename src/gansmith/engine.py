"""What moves during training: the players, their optimisers, the average; one update, one round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from .base import Batch, Clock, Game, Turn
from .checkpoint import Checkpoint
from .config import Optimiser, Run, at, build_game
from .data import Data, LiveRows, Rows, Stream
from .ema import Ema
from .errors import CheckpointError, UsageError
from .runtime import Runtime, seed_of
from .soap import Soap

QUARTERS = 4  # of a batch, each a round of its own while `early` examples have not been seen


class NonFinite(Exception):
    """A loss or gradient that is not finite: which player, which terms, which round. Its update was not applied."""


class Player:
    """One player's parameters and optimiser."""

    def __init__(self, name: str, module: nn.Module, config: Optimiser, device: str):
        self.name, self.config = name, config
        self.params = list(module.parameters())
        self.names = [key for key, _ in module.named_parameters()]
        options: dict[str, Any] = {"lr": at(config.lr, 0), "weight_decay": config.weight_decay}
        fused = {"fused": True} if device in ("cpu", "cuda") and all(p.is_floating_point() for p in self.params) else {}
        betas = (config.beta1, at(config.beta2, 0))
        if config.name == "soap":
            self.optimiser: torch.optim.Optimizer = Soap(self.params, betas=betas, eps=config.eps, **options)
        elif config.name == "adam":
            self.optimiser = torch.optim.Adam(self.params, betas=betas, eps=config.eps, **options, **fused)
        elif config.name == "rmsprop":
            self.optimiser = torch.optim.RMSprop(self.params, alpha=at(config.beta2, 0), eps=config.eps, **options)
        else:
            self.optimiser = torch.optim.SGD(self.params, momentum=config.beta1, **options, **fused)
        # fused kernels skip an update by a flag on the device; RMSprop and SOAP have none
        self.masks = device == "cuda" and bool(self.optimiser.defaults.get("fused"))

    def prepare(self, rate: float, progress: float) -> None:
        """Set what follows the budget, and drop the last gradients."""
        group = self.optimiser.param_groups[0]
        group["lr"] = at(self.config.lr, progress) * rate
        if "betas" in group:
            group["betas"] = (self.config.beta1, at(self.config.beta2, progress))
        for p in self.params:
            p.grad = None

    def step(self, good: Tensor) -> None:
        """Update unless the flag `good` (a scalar on the device) is False."""
        if self.masks:
            self.optimiser.grad_scale, self.optimiser.found_inf = None, (~good).float()  # type: ignore[attr-defined]
            self.optimiser.step()
        elif good:
            self.optimiser.step()

    def state(self) -> dict[str, Tensor]:
        held = self.optimiser.state
        return {
            f"{self.name}/{n}/{k}": v
            for n, p in zip(self.names, self.params, strict=True)
            for k, v in held[p].items()
            if v is not None
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        by_name = dict(zip(self.names, self.params, strict=True))
        for key, value in state.items():
            player, rest = key.split("/", 1)
            if player == self.name:
                name, slot = rest.rsplit("/", 1)
                p = by_name[name]
                if value.shape == p.shape:  # a moment: in the weight's layout and place
                    value = torch.empty_like(p).copy_(value)
                elif self.masks:  # a fused optimiser counts its steps on the device
                    value = value.to(p.device)
                self.optimiser.state[p][slot] = value.clone()


@dataclass
class Meter:
    """Sums of what turns report, on the device until a tick reads them."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        held = self.sums.get(name)
        self.sums[name] = value if held is None else held + value
        self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: total.item() / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


@dataclass
class Training:
    """Everything that moves during training.

    images: real examples that the budget will come to; under a budget in minutes an estimate, renewed at each tick.
    seconds: wall-clock from the first update on, saves and samples included. attempt: rises when training rolls back.
    """

    run: Run
    runtime: Runtime
    game: Game
    players: dict[str, Player]
    ema: Ema
    rows: Rows | LiveRows
    codec: Any
    clock: Clock = Clock()
    attempt: int = 0
    seconds: float = 0.0
    images: float = math.inf
    stream: Stream = None  # type: ignore[assignment]
    meter: Meter = field(default_factory=Meter)

    @classmethod
    def start(cls, run: Run, runtime: Runtime, data: Data, rows: Rows | LiveRows) -> Training:
        """Build the game from the seed, the same on every rank."""
        torch.manual_seed(seed_of(run.train.seed, "weights"))
        game = build_game(run, data.spec).to(runtime.device)
        if run.train.channels_last and len(data.spec.shape) == 3:
            game = game.to(memory_format=torch.channels_last)
        game.joint = run.train.share
        runtime.same(game)
        pieces = run.train.micro * runtime.world * (QUARTERS if run.train.early else 1)
        if run.train.batch % pieces:
            quarters = f", in quarters (train.early = {run.train.early})" if run.train.early else ""
            raise UsageError(
                f"train.batch = {run.train.batch} cannot be split into {run.train.micro} micro-batches "
                f"on {runtime.world} devices{quarters}; choose a multiple of {pieces}."
            )
        players = {
            name: Player(name, module, run.train.optimisers.get(name, Optimiser()), runtime.kind)
            for name, module in game.players().items()
        }
        if extra := run.train.optimisers.keys() - players.keys():
            raise UsageError(f"train.optimisers names {sorted(extra)[0]!r}; the players are {', '.join(players)}.")
        if run.train.compile:
            compile_players(game)
        ema = Ema(game, run.train.ema_cap, run.train.ema_share)
        training = cls(run, runtime, game, players, ema, rows, data.codec)
        training.restream()
        return training

    def restream(self) -> None:
        if self.stream is not None:
            self.stream.close()
        plays = max(turn.repeat for turn in self.game.turns())
        train = self.run.train
        self.stream = Stream(
            self.codec, self.rows, self.runtime, train.batch, plays, self.game.z_dim, train.seed, self.attempt,
            even=train.even,
        )  # fmt: skip

    @property
    def parts(self) -> int:
        """Rounds that a batch is played in: updates matter most at first, and small batches give more of them."""
        begun = self.clock.seen // self.run.train.batch * self.run.train.batch
        return QUARTERS if begun < self.run.train.early else 1

    def facts(self) -> dict[str, Any]:
        return {
            "clock": asdict(self.clock), "attempt": self.attempt, "seconds": self.seconds,
            "images": self.images, "budget": budget(self.run),
        }  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        state = {f"game/{name}": tensor for name, tensor in self.game.state_dict().items()}
        for player in self.players.values():
            state |= {f"optimiser/{name}": tensor for name, tensor in player.state().items()}
        return state

    def load(self, saved: Checkpoint) -> None:
        """Become what was saved. Raises CheckpointError if it does not fit the networks."""
        game = {name[5:]: tensor for name, tensor in saved.state.items() if name.startswith("game/")}
        try:
            self.game.load_state_dict(game)
            for player in self.players.values():
                player.load_state({name[10:]: t for name, t in saved.state.items() if name.startswith("optimiser/")})
            self.ema.load_state(saved.ema)
            facts = saved.facts
            self.clock, self.attempt = Clock(**facts["clock"]), facts["attempt"]
            self.seconds, self.images = facts["seconds"], facts["images"] or math.inf
        except (RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(f"Checkpoint {saved.name} does not fit this run's networks: {error}") from None
        self.restream()


def compile_players(game: Game) -> None:
    """Compile what no penalty differentiates twice: all players of a game without one, else those that sample."""
    twice = getattr(game, "penalty", None) is not None or hasattr(game, "lazy")
    for name, module in game.players().items():
        if name in game.sampled or not twice:
            module.compile()


def budget(run: Run) -> dict[str, Any]:
    return {"images": run.train.images, "minutes": run.train.minutes}


# ---- one round ------------------------------------------------------------------------------------------------------
def play(t: Training, turn: Turn, micros: list[Batch]) -> None:
    """One update of one player."""
    player = t.players[turn.player]
    player.prepare(turn.rate / math.sqrt(t.parts), t.clock.progress)
    sums: dict[str, Tensor] = {}
    for micro in micros:
        with t.runtime.autocast():
            terms = turn.loss(micro, t.clock)
        loss = torch.stack([*terms.values()]).sum() if len(terms) > 1 else next(iter(terms.values()))
        (loss / len(micros) if len(micros) > 1 else loss).backward(inputs=player.params)
        for name, value in terms.items():
            value = value.detach().float() / len(micros)
            sums[name] = sums[name] + value if name in sums else value
    if t.runtime.world > 1:
        for p in player.params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        t.runtime.average([*(p.grad for p in player.params if p.grad is not None), *sums.values()])
    grads = [p.grad for p in player.params if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    good = (norm + sum(sums.values())).isfinite()
    player.step(good)
    record(t, turn, sums, norm, good)
    with torch.no_grad():
        t.game.after(turn, t.clock, sums)


def record(t: Training, turn: Turn, terms: dict[str, Tensor], norm: Tensor, good: Tensor) -> None:
    """Count the update; on a CPU, where looking is free, stop at once if it was not finite."""
    for name, value in terms.items():
        t.meter.add(f"{turn.player}/{name}", value)
    t.meter.add(f"{turn.player}/gradient", norm)
    if t.runtime.kind == "cpu" and not good:
        raise NonFinite(blame(turn.player, {k: v.item() for k, v in terms.items()}, f"in round {t.clock.round}"))


def blame(player: str, terms: dict[str, float], where: str) -> str:
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    what = f"the {' and '.join(bad)} loss" if bad else "the gradient"
    return f"{what} of player {player} is not finite {where}"


def rounds(t: Training) -> None:
    """The rounds of one batch: one, or one for each part of it."""
    parts, draw = t.parts, partial(t.stream.batch, t.clock.seen // t.run.train.batch)
    whole: Callable[[int], Batch] = cache(draw) if parts > 1 else draw
    for first in range(parts):
        one_round(t, whole, slice(first, None, parts))


def one_round(t: Training, whole: Callable[[int], Batch], part: slice) -> None:
    """Every turn that is due, on parts of batches that its turns share; then the average and the clock."""
    turns = [turn for turn in t.game.turns() if turn.due(t.clock)]
    batches: dict[int, list[Batch]] = {}
    for i, turn in enumerate(turns):
        for number in range(turn.repeat):
            if number not in batches:
                batch = {key: value[part] for key, value in whole(number).items()}
                if not i and not number:
                    t.runtime.seed(seed_of(*t.stream.seed, "nets", t.clock.round, t.runtime.rank))
                batches[number] = [batch] if t.run.train.micro == 1 else micro_batches(batch, t.run.train.micro)
            wanted = any(later.repeat > number for later in turns[i + 1 :])  # does a later turn use this batch?
            t.game.share = wanted and t.run.train.share and t.run.train.micro == 1
            play(t, turn, batches[number])
            if not wanted:
                del batches[number]
    size = t.run.train.batch // t.parts
    seen = t.clock.seen + size
    t.ema.update(size, seen)
    t.clock = Clock(t.clock.round + 1, seen, advance(t, seen))


def micro_batches(batch: Batch, n: int) -> list[Batch]:
    parts = {k: v.chunk(n) for k, v in batch.items()}
    return [{k: v[i] for k, v in parts.items()} for i in range(n)]


def advance(t: Training, seen: int) -> float:
    """Progress after a round: exact under a budget in examples, else its share of what they will come to; never beyond 1."""
    if t.run.train.minutes is None:
        return min(1.0, seen / t.images)
    return min(1.0, t.clock.progress + (seen - t.clock.seen) / t.images)


def trial(t: Training, seconds: float = 3.0) -> float:
    """Examples a second of a training that will be thrown away: blocks of 4 rounds (a lazy penalty's period) for some
    seconds, the first block left out as warm-up unless it alone took that long."""
    t.game.train()
    t.images = math.inf
    took: list[float] = []
    while not took or (took[0] < seconds and sum(took[1:]) < seconds):
        began = time.perf_counter()
        for _ in range(4):
            rounds(t)
        t.runtime.wait()
        took.append(t.runtime.agree(time.perf_counter() - began))
    counted = took[1:] or took
    return 4 * t.run.train.batch * len(counted) / sum(counted)


def parameters(game: Game) -> dict[str, int]:
    return {name: sum(p.numel() for p in module.parameters()) for name, module in game.players().items()}
