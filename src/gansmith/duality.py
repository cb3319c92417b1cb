"""The game itself: what each player of a trained pair could still gain, and what D knows that it should not.

Duality gap (Grnarova et al. 2019, sec. 3): DG(u, v) = max_v' M(u, v') - min_u' M(u', v) >= 0, zero only where neither
player can gain. Three sets: the players learned on T, adversaries are sought on V, M is taken on H.

M(u, v) = E log D(x) + E log(1 - D(G(z))), D = sigmoid(logit), whatever loss trained the pair, so that runs compare; its
largest value over v' is -log 4 + 2 JSD. For Wasserstein games, whose logits are no log-odds, M = E f(x) - E f(G(z)) under
the game's own constraint: v' then plays the game's own turn.

u is the averaged generator, as it samples, v the critic of the last update, both as functions of one example (eval mode).
A logit is log-odds under the two-sided logistic losses alone. A relativistic critic's has a free offset: v gets the one
that fits V best. Under other losses (hinge, least squares) v gets the best scale as well. v' gets both, fitted on a part
of V that it did not learn from, so that an overfitted judge is not taken at its own word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from .base import Batch, Clock, Game, Turn
from .config import build_game
from .errors import DataError, UsageError
from .model import Model
from .runtime import generator, seed_of, threads

LOGISTIC = {"minimax", "nonsaturating"}  # losses whose logit is log-odds as it stands
FEWEST = 20
BLOCK = 256  # examples that pass a network at once where nothing is learned
PICTURES, OTHERS = (64, 1e-3), (128, 3e-3)  # an adversary's batch and Adam's rate, which falls to zero along the walk
LOOKS = 10  # times a walk is looked at, on examples that it does not learn from; its best moment counts
KEPT = 0.25  # share of V kept for that
JITTER = 0.01  # noise on u before its further walks, in each tensor's rms: off saddles (Sidheekh et al. 2021)
RUNAWAY = 10.0  # rms of what u' makes, in that of real examples (at least 1), from which on it has left for infinity
DRAWS = 500  # of the bootstrap
OVER = Clock(progress=1.0)


@dataclass(frozen=True)
class Payoff:
    """M as a sum of means of per-example terms, functions of logits [B] -> [B]."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]


MINIMAX = Payoff(real=lambda logit: -softplus(-logit), fake=lambda logit: -softplus(logit))
WASSERSTEIN = Payoff(real=lambda logit: logit, fake=lambda logit: -logit)


@dataclass(frozen=True)
class Critic:
    """The D of a game; its logit times `scale` plus `offset`."""

    game: Game
    scale: float = 1.0
    offset: float = 0.0

    @property
    def net(self) -> nn.Module:
        return self.game.players()["D"]

    @property
    def turn(self) -> Turn:
        return next(turn for turn in self.game.turns() if turn.player == "D")

    def __call__(self, x: Tensor, y: Tensor | None) -> Tensor:
        logit: Tensor = self.net(x, y)
        return self.scale * logit + self.offset

    @torch.no_grad()
    def logits(self, examples: Batch) -> Tensor:
        """Of any number of examples, in eval mode: float64 [n] on the CPU."""
        mode(self.net, train=False)
        return torch.cat([self(part["x"], part.get("y")).double().cpu() for part in blocks(examples)])


class Arena:
    """The snapshot (u, v) and the real examples, with latents, that adversaries are sought with.

    pair: a copy of the game with averaged weights; learn, keep: parts of V to learn from and to choose by.
    """

    def __init__(self, model: Model, fit: Batch, seed: int):
        self.run, self.seed, self.device, self.pair = model.run, seed, model.device, snapshot(model)
        loss = self.run.parts.get("loss")
        self.loss = loss.name if loss else self.pair.parts.get("loss", "")
        self.payoff = WASSERSTEIN if self.loss == "wasserstein" else MINIMAX
        order = torch.randperm(len(fit["x"]), generator=self.rng("parts"))
        cut = max(FEWEST // 2, round(KEPT * len(order)))
        self.learn = {key: tensor[order[cut:]] for key, tensor in fit.items()}
        self.keep = self.dealt({key: tensor[order[:cut]] for key, tensor in fit.items()}, self.rng("keep"))
        self.fakes = made(self.pair, self.keep)
        self.batch, self.rate = PICTURES if self.pair.spec.kind == "image" else OTHERS

    def rng(self, *words: Any) -> torch.Generator:
        return generator("cpu", self.seed, "duality", *words)

    def dealt(self, real: Batch, rng: torch.Generator) -> Batch:
        """Real examples on the device, with latents for as many fakes of the same classes."""
        n = len(real["x"])
        real = {**real, "z": torch.randn(n, self.pair.z_dim, generator=rng), "u": torch.rand(n, generator=rng)}
        return {key: tensor.to(self.device) for key, tensor in real.items()}

    def drawn(self, rng: torch.Generator) -> Batch:
        """A batch to learn from."""
        index = torch.randint(len(self.learn["x"]), (self.batch,), generator=rng)
        return self.dealt({key: tensor[index] for key, tensor in self.learn.items()}, rng)

    def fitted(self, critic: Critic, scaled: bool) -> Critic:
        """With the offset (and scale) of largest M on the kept part of V."""
        bare = Critic(critic.game)
        real, fake = (bare.logits(side) for side in (self.keep, self.fakes))
        return Critic(critic.game, *calibration(real, fake, scaled))

    def played(self) -> Critic:
        """v: the snapshot's critic, its logit read as the module's docstring says."""
        v, free = Critic(self.pair), self.payoff is MINIMAX and self.loss not in LOGISTIC
        return self.fitted(v, scaled=self.loss != "relativistic") if free else v

    def worth(self, critic: Critic) -> float:
        """M on the kept part of V, less what a Wasserstein game takes off for slopes."""
        if self.payoff is MINIMAX:
            real, fake = self.payoff.real(critic.logits(self.keep)), self.payoff.fake(critic.logits(self.fakes))
            return float(real.mean() + fake.mean())
        mode(critic.net, train=False)
        parts = blocks({**self.keep, "fake": self.fakes["x"]})
        losses = [torch.stack([*critic.turn.loss(part, OVER).values()]).sum().item() for part in parts]
        return -float(np.average(losses, weights=[len(part["x"]) for part in parts]))

    def terms(self, critic: Critic, batch: Batch) -> dict[str, Tensor]:
        """What v' minimises. Real and fake share a pass: batch statistics are then those of eval mode, of both."""
        fake, y = made(self.pair, batch)["x"], batch.get("y")
        if self.payoff is WASSERSTEIN:
            return critic.turn.loss({**batch, "fake": fake}, OVER)
        real, fake = critic(torch.cat([batch["x"], fake]), None if y is None else torch.cat([y, y])).chunk(2)
        return {"adversarial": -self.payoff.real(real).mean() - self.payoff.fake(fake).mean()}


def duality_gap(
    model: Model, fit: Batch, test: Batch, *, steps: int = 500, restarts: int = 3, seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """The duality gap of a trained pair and its two sides; JSON, or {"reason"} where it is not defined.

    fit: V; test: H; real examples in model range, "x" [n, *shape] and, for a model with classes, "y" [n]. steps: Adam
    updates of each walk; restarts: walks of each side. The first v' starts at the snapshot's critic, the others from new
    weights; the first u' at the snapshot's generator, the others a little beside it.

    Returns `gap`, `max` (over v'), `value` (of the snapshot), `min` (over u') and `jsd` = (max + log 4) / 2, in nats, at
    most log 2; each {"value", "low", "high"}, low and high the 95% interval of a bootstrap over H and its latents, which
    knows nothing of adversaries not found: the gap is a lower bound. `unbounded`: u' went off to infinity, where this v
    pays ever more; `min` and `gap` are then None. `walks`: each walk's end on V. `start`: where the best v' came from.
    `offset`, `scale`: of v. For Wasserstein games `form` says so, the unit is the critic's, `jsd` is None.
    Raises UsageError and DataError for unusable settings and examples.
    """
    if steps < 1 or restarts < 1:
        raise UsageError(f"The duality gap takes at least 1 step and 1 restart; got {steps} and {restarts}.")
    if reason := unfit(model):
        return {"reason": reason}
    fit, test = ready(model, "V", fit), ready(model, "H", test)
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), threads(model.run.train.threads), torch.enable_grad():
        torch.manual_seed(seed_of(seed, "duality"))
        arena = Arena(model, fit, seed)
        logits = torch.cat([Critic(arena.pair).logits(side) for side in (arena.keep, arena.fakes)])
        if logits.dim() != 1 or not logits.isfinite().all():
            return {"reason": "the critic does not give one finite number for each example"}
        v = arena.played()
        judges, forgers = [], []
        for i in range(restarts):
            say(f"duality gap: adversaries {i + 1} of {restarts}")
            judges.append(judge_walk(arena, steps, i))
            forgers.append(forger_walk(arena, v, steps, i))
        return outcome(arena, v, judges, forgers, test) | {"steps": steps, "restarts": restarts}


def outcome(
    arena: Arena, v: Critic, judges: list[tuple[float, Critic]], forgers: list[tuple[float, Game]], test: Batch
) -> dict[str, Any]:
    """The best of either side, on H."""
    ends, floors = [worth for worth, _ in judges], [worth for worth, _ in forgers]
    first, unbounded = int(np.argmax(ends)), min(floors) == -np.inf
    best, u = judges[first][1], arena.pair if unbounded else forgers[int(np.argmin(floors))][1]
    real = arena.dealt(test, arena.rng("test"))
    fake, forged = made(arena.pair, real), made(u, real)
    pay = arena.payoff
    on_real = torch.stack([pay.real(critic.logits(real)) for critic in (best, v)]).numpy()
    on_fake = torch.stack([pay.fake(c.logits(x)) for c, x in ((best, fake), (v, fake), (v, forged))]).numpy()
    draws = np.random.default_rng(arena.seed)
    high, snap, low = resampled(on_real[[0, 1, 1]], draws) + resampled(on_fake, draws)
    minimax = pay is MINIMAX
    return {
        "gap": None if unbounded else interval(high - low), "max": interval(high), "value": interval(snap),
        "min": None if unbounded else interval(low), "jsd": interval((high + np.log(4)) / 2) if minimax else None,
        "unbounded": unbounded, "form": "minimax" if minimax else "wasserstein", "offset": v.offset, "scale": v.scale,
        "start": "new" if first else "snapshot", "n": len(test["x"]),
        "walks": {"max": ends, "min": [worth if np.isfinite(worth) else None for worth in floors]},
    }  # fmt: skip


# ---- adversaries ----------------------------------------------------------------------------------------------------
def walk(
    net: nn.Module, rate: float, steps: int, learn: Callable[[], Tensor], look: Callable[[], float],
    after: Callable[[], None] = lambda: None,
) -> float:  # fmt: skip
    """Adam on what `learn` returns; leaves the network where `look` was lowest, and returns that, -inf at once."""
    params, least, weights = list(net.parameters()), np.inf, copy.deepcopy(net.state_dict())
    optimiser = torch.optim.Adam(params, lr=rate)
    for step in range(steps + 1):
        if step % max(1, steps // LOOKS) == 0 and (value := look()) < least:
            least, weights = value, copy.deepcopy(net.state_dict())
            if least == -np.inf:
                break
        if step < steps:
            optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimiser.zero_grad()
            learn().backward(inputs=params)
            optimiser.step()
            after()
    net.load_state_dict(weights)
    return least


def judge_walk(arena: Arena, steps: int, number: int) -> tuple[float, Critic]:
    """(worth, v') against the frozen generator, from the snapshot's critic (number 0) or from new weights."""
    game, free = copy.deepcopy(arena.pair), arena.payoff is MINIMAX
    if number:
        torch.manual_seed(seed_of(arena.seed, "duality", "new", number))
        game = build_game(arena.run, arena.pair.spec).to(arena.device)
    bare, rng, terms = Critic(game), arena.rng("judge", number), dict[str, Tensor]()
    critic = arena.fitted(bare, scaled=False) if free else bare  # a fitted scale may be 0, from where no step leads

    def learn() -> Tensor:
        mode(bare.net, train=True)
        terms.update(arena.terms(critic, arena.drawn(rng)))
        return torch.stack([*terms.values()]).sum()

    @torch.no_grad()
    def constrain() -> None:
        if not free:
            game.after(bare.turn, OVER, {name: term.detach() for name, term in terms.items()})

    def look() -> float:
        if number and not terms:  # new weights may lie outside the constraint
            return np.inf
        return -arena.worth(arena.fitted(bare, scaled=True) if free else bare)

    worth = -walk(bare.net, arena.rate, steps, learn, look, constrain)
    return worth, arena.fitted(bare, scaled=True) if free else bare


def forger_walk(arena: Arena, v: Critic, steps: int, number: int) -> tuple[float, Game]:
    """(worth, game with u') against the frozen v, from u or, with a number, a little beside it. -inf: it went off."""
    game = copy.deepcopy(arena.pair)
    net, rng = game.players()["G"], arena.rng("forger", number)
    limit = RUNAWAY * max(1.0, rms(arena.learn["x"]))
    mode(v.net, train=False)
    if number:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(JITTER * p.square().mean().sqrt() * torch.randn(p.shape, generator=rng).to(p.device))

    def learn() -> Tensor:
        batch = arena.drawn(rng)
        mode(game, train=True)
        return arena.payoff.fake(v(game.sample(batch["z"], batch.get("y")), batch.get("y"))).mean()

    def look() -> float:
        forged = made(game, arena.keep)
        worth = float(arena.payoff.fake(v.logits(forged)).mean())
        return worth if np.isfinite(worth) and rms(forged["x"]) < limit else -np.inf

    return walk(net, arena.rate, steps, learn, look), game


def calibration(real: Tensor, fake: Tensor, scaled: bool) -> tuple[float, float]:
    """(scale, offset) that turn logits [n], [m] into log-odds of real against fake, either side weighing the same.

    Logistic regression on one number with Platt's (1999) targets, which keep a clean separation finite. scaled=False
    leaves the scale at 1; a critic that prefers fakes gets scale 0, never a negative one.
    """
    logits = torch.cat([real, fake])
    mean, sd, n, m = logits.mean(), logits.std().clamp(min=1e-12), len(real), len(fake)
    target = torch.cat([torch.full((n,), (n + 1) / (n + 2)), torch.full((m,), 1 / (m + 2))]).double()
    weight = torch.cat([torch.full((n,), 1 / n), torch.full((m,), 1 / m)]).double()
    slope, offset = torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double, requires_grad=True)
    slope = slope.requires_grad_() if scaled else sd
    free = [slope, offset] if scaled else [offset]
    search = torch.optim.LBFGS(free, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        odds = slope * (logits - mean) / sd + offset
        value = binary_cross_entropy_with_logits(odds, target, weight, reduction="sum")
        value.backward(inputs=free)
        return value

    search.step(loss)
    scale = slope.item() / sd.item()
    return (scale, offset.item() - scale * mean.item()) if scale > 0 else (0.0, 0.0)


# ---- the discriminator on what it has seen --------------------------------------------------------------------------
def held_out_gap(model: Model, train: Batch, held: Batch, *, seed: int = 0) -> dict[str, Any]:
    """Does D rate examples it was trained on above held-out ones? JSON, or {"reason"} where it is not defined.

    train: some of T, best as many as in held: H; as for `duality_gap`. Returns the means `d_train`, `d_held` and
    `d_fake` of D's logit, `held_out_gap` = d_train - d_held in units of the logit, and `rv` = held_out_gap /
    (d_train - d_fake), 0 where D learned nothing by heart, 1 where held-out examples look as made up to it as fakes do
    (Karras et al. 2020, eq. 1); None where D prefers fakes. Each {"value", "low", "high"} by a bootstrap of all sets.
    """
    if reason := unfit(model):
        return {"reason": reason}
    train, held = ready(model, "T", train), ready(model, "H", held)
    rng, pair = generator("cpu", seed, "held-out gap"), snapshot(model)
    held = {**held, "z": torch.randn(len(held["x"]), pair.z_dim, generator=rng)}
    train, held = ({key: tensor.to(model.device) for key, tensor in part.items()} for part in (train, held))
    with threads(model.run.train.threads):
        sides = [Critic(pair).logits(part).numpy() for part in (train, held, made(pair, held))]
    draws = np.random.default_rng(seed)
    on_train, on_held, on_fake = (resampled(side[None], draws)[0] for side in sides)
    apart = on_train - on_fake
    return {
        "d_train": interval(on_train), "d_held": interval(on_held), "d_fake": interval(on_fake),
        "held_out_gap": interval(on_train - on_held),
        "rv": interval((on_train - on_held) / apart) if (apart > 0).all() else None,
    }  # fmt: skip


# ---- shared ---------------------------------------------------------------------------------------------------------
def snapshot(model: Model) -> Game:
    """A copy of the model's game with the weights that it samples with."""
    game: Any = copy.deepcopy(model.game)
    game.load_state_dict(model._ema)
    if model.run.train.channels_last and len(model.spec.shape) == 3:
        game = game.to(memory_format=torch.channels_last)
    return game.eval()


def unfit(model: Model) -> str:
    """Why the model's game has no value to take, or nothing."""
    players = ", ".join(sorted(model.game.players()))
    fits = players == "D, G" and model.game.z_dim > 0
    return "" if fits else f"defined for one generator of latents against one critic; this game's players are {players}"


def ready(model: Model, name: str, part: Batch) -> Batch:
    """x, and y for a model with classes. Raises unless there are enough finite examples of the model's shape."""
    shape, x, y = model.spec.shape, part["x"], part.get("y") if model.spec.classes else None
    if x.shape[1:] != shape or (model.spec.classes and (y is None or len(y) != len(x))):
        wanted = f"x [n, {', '.join(map(str, shape))}]" + (" and one class each, y [n]" if model.spec.classes else "")
        raise UsageError(f"{name} must hold {wanted}; got x {list(x.shape)}, y {None if y is None else list(y.shape)}.")
    if len(x) < FEWEST:
        raise DataError(f"{name} holds {len(x)} examples; the game's value needs at least {FEWEST}, better 1,000.")
    if not x.isfinite().all():
        raise DataError(f"{name} holds values that are not finite; leave those examples out.")
    return {"x": x} if y is None else {"x": x, "y": y}


@torch.no_grad()
def made(game: Game, batch: Batch) -> Batch:
    """What a game makes, in eval mode, of a batch's latents and classes."""
    mode(game, train=False)
    x = torch.cat([game.sample(part["z"], part.get("y")) for part in blocks(batch)])
    return {"x": x, "y": batch["y"]} if "y" in batch else {"x": x}


def mode(module: nn.Module, *, train: bool) -> None:
    if module.training != train:  # the walk over the whole tree is long beside a small network's step
        module.train(train)


def blocks(batch: Batch) -> list[Batch]:
    n = len(next(iter(batch.values())))
    return [{key: tensor[i : i + BLOCK] for key, tensor in batch.items()} for i in range(0, n, BLOCK)]


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def resampled(values: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Means of rows [k, n], then of DRAWS bootstrap draws of the columns: [k, 1 + DRAWS]."""
    n = values.shape[1]
    means = [values[:, draws.integers(n, size=n)].mean(1) for _ in range(DRAWS)]
    return np.stack([values.mean(1), *means], 1)


def interval(values: np.ndarray) -> dict[str, float]:
    """An estimate and the middle 95% of its bootstrap draws, from [1 + DRAWS]."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
