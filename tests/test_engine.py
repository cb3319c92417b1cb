"""What moves during training: the average, optimisers and their schedules, rounds, ticks; and sampling."""

import math
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import nn

import tiny
from gansmith.base import Clock, Turn
from gansmith.config import Optimiser, at
from gansmith.ema import Ema
from gansmith.engine import NonFinite, Player, advance, micro_batches, play, rounds
from gansmith.errors import CheckpointError, UsageError
from gansmith.loop import TICKS, Pace, estimate
from gansmith.model import CHUNK, draw_samples
from tiny import PICTURES, POINTS, game_run, start, trained


# ---- the average ----------------------------------------------------------------------------------------------------
def test_the_average_follows_its_half_life() -> None:
    t = start(game_run("gan"), tiny.spec(POINTS))
    ema = Ema(t.game, cap=1000, share=0.05)
    name, p = next(iter(ema.live.items()))
    old = p.clone()
    p.add_(1)
    for seen, half_life in ((2000, 100), (40_000, 1000)):  # a share of what was seen, then the cap
        ema.weights[name].copy_(old)
        ema.update(50, seen)
        torch.testing.assert_close(ema.weights[name], old + 1 - 0.5 ** (50 / half_life))


def test_half_of_a_step_is_left_after_a_half_life() -> None:
    t = start(game_run("gan"), tiny.spec(POINTS))
    ema = Ema(t.game, cap=640, share=1)
    name, p = next(iter(ema.live.items()))
    old = p.clone()
    p.add_(1)
    for i in range(10):
        ema.update(64, 10_000 + 64 * i)
    torch.testing.assert_close(ema.weights[name], old + 0.5)


@pytest.mark.parametrize(("nets", "change"), [("dcgan", ()), ("r3", ("parts.G.args.blur=true",))])
def test_the_average_covers_what_is_saved_of_the_sampled_players(nets: str, change: tuple[str, ...]) -> None:
    t = trained(game_run("gan", nets).set(*change), tiny.spec(PICTURES), 2)
    state, live = t.ema.state(), dict(t.game.state_dict())
    assert state.keys() == {name for name in live if name.startswith("G.")}
    buffers = {name for name, _ in t.game.named_buffers()}
    assert nets == "dcgan" or not buffers <= live.keys()  # a kernel that no checkpoint holds
    assert all(torch.equal(state[n], live[n]) for n in state if n in buffers)
    assert any(not torch.equal(state[n], live[n]) for n in state if n not in buffers)


@pytest.mark.parametrize("train", [{}, {"even": True}, {"early": 24}])
def test_resuming_with_batch_norm_is_bit_identical(train: dict[str, Any]) -> None:
    of, run = tiny.spec(PICTURES, 3), game_run("gan", "dcgan", **train)
    whole, again = trained(run, of, 4), start(run, of)
    again.load(tiny.snapshot(trained(run, of, 2)))
    rounds(again), rounds(again)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


@pytest.mark.parametrize("name", get_args(Optimiser.model_fields["name"].annotation))
@pytest.mark.parametrize(("shape", "parts"), [(POINTS, "mlp"), (PICTURES, "dcgan")])
def test_every_optimiser_resumes_bit_identically(name: Any, shape: Any, parts: str) -> None:
    optimisers = {player: Optimiser(name=name, lr=1e-3, beta1=0.5) for player in ("G", "D")}
    of, run = tiny.spec(shape), game_run("gan", parts, optimisers=optimisers)
    whole, again = trained(run, of, 4), start(run, of)
    again.load(tiny.snapshot(trained(run, of, 2)))
    rounds(again), rounds(again)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


def test_a_foreign_checkpoint_is_refused() -> None:
    of = tiny.spec(POINTS)
    wide = start(game_run("gan").set("parts.G.args.width=32"), of)
    with pytest.raises(CheckpointError, match="does not fit"):
        wide.load(tiny.snapshot(trained(game_run("gan"), of, 1)))


# ---- optimisers and schedules ---------------------------------------------------------------------------------------
def test_schedules_reach_the_optimiser() -> None:
    config = Optimiser(lr={"start": 1e-2, "end": 0, "shape": "linear"}, beta1=0.5, beta2={"start": 0.9, "end": 0.99})  # type: ignore[arg-type]
    player = Player("G", nn.Linear(2, 2), config, "cpu")
    for progress, rate, lr, beta2 in (
        (0, 1, 1e-2, 0.9),
        (0.5, 1, 5e-3, 0.945),
        (0.5, 100, 0.5, 0.945),
        (1, 1, 0, 0.99),
    ):
        player.prepare(rate, progress)
        group = player.optimiser.param_groups[0]
        assert group["lr"] == pytest.approx(lr) and group["betas"] == pytest.approx((0.5, beta2))


@pytest.mark.parametrize(("name", "device"), [("adam", "cpu"), ("rmsprop", "cuda"), ("soap", "cuda")])
def test_an_update_is_masked_by_its_flag(name: Any, device: str) -> None:
    """Where no fused kernel looks at the flag, the player does."""
    net = nn.Linear(2, 2)
    player, before = Player("G", net, Optimiser(name=name, lr=0.1), device), net.weight.detach().clone()
    net(torch.ones(1, 2)).sum().backward()
    player.step(torch.tensor(False))
    assert torch.equal(net.weight, before)
    player.step(torch.tensor(True))
    assert not torch.equal(net.weight, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.optimisers.E.lr=1", "'E'; the players are G, D"),
        ("train.micro=3", "3 micro-batches"),
        (
            "train.early=1 train.micro=4",
            r"4 micro-batches on 1 devices, in quarters \(train.early = 1\); choose a multiple of 16",
        ),
    ],
)
def test_what_a_training_refuses(change: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        start(game_run("gan").set(*change.split()), tiny.spec(POINTS))


# ---- rounds ---------------------------------------------------------------------------------------------------------
def test_when_a_turn_is_due() -> None:
    turn = Turn("G", lambda batch, clock: {}, every=3, after=100, until=200)
    due = [(r, seen) for r in range(7) for seen in (0, 99, 100, 199, 200) if turn.due(Clock(r, seen))]
    assert due == [(r, seen) for r in (0, 3, 6) for seen in (100, 199)]


@pytest.mark.parametrize("name", ["gan", "wgan"])
def test_early_examples_come_in_quarters_of_the_same_batches_at_half_the_rates(name: str) -> None:
    of = tiny.spec(POINTS)
    plain, t = start(game_run(name), of), start(game_run(name, early=12), of)  # the second batch begins early too
    drawn: list[dict[str, torch.Tensor]] = []
    seen: list[tuple[int, int, float]] = []
    turns = t.game.turns

    def noting(batch: Any, clock: Clock, loss: Any) -> dict[str, torch.Tensor]:
        drawn.append({key: value.clone() for key, value in batch.items()})
        seen.append((clock.round, clock.seen, t.players["D"].optimiser.param_groups[0]["lr"]))
        return loss(batch, clock)  # type: ignore[no-any-return]

    first = turns()[0]
    t.game.turns = lambda: (replace(first, loss=partial(noting, loss=first.loss)), *turns()[1:])  # type: ignore[method-assign]
    for _ in range(3):
        rounds(t)
    assert t.clock.seen == 24 and t.clock.round == 9
    repeats = first.repeat
    assert [s[:2] for s in seen[::repeats]] == [*((i, 2 * i) for i in range(8)), (8, 16)]
    full = at(plain.run.train.optimisers["D"].lr, 0) * first.rate
    assert [s[2] for s in seen] == pytest.approx([full / 2] * 8 * repeats + [full] * repeats)
    for number, parts in ((0, drawn[: 4 * repeats]), (1, drawn[4 * repeats : 8 * repeats]), (2, drawn[8 * repeats :])):
        for repeat in range(repeats):
            whole, pieces = plain.stream.batch(number, repeat), parts[repeat::repeats]
            for key, value in whole.items():
                together = torch.cat([piece[key] for piece in pieces])
                assert sorted(together.flatten().tolist()) == sorted(value.flatten().tolist())


def test_micro_batches_cut_every_value_alike() -> None:
    batch = {"x": torch.arange(8), "z": torch.arange(16).view(8, 2)}
    parts = micro_batches(batch, 4)
    assert len(parts) == 4 and all(len(v) == 2 for part in parts for v in part.values())
    assert all(torch.equal(torch.cat([p[k] for p in parts]), batch[k]) for k in batch)


def test_a_loss_that_is_not_finite_moves_nothing_and_is_named() -> None:
    t = start(game_run("gan"), tiny.spec(POINTS))
    before = tiny.weights(t.game)

    def loss(batch: Any, clock: Clock) -> dict[str, torch.Tensor]:
        good = t.game.d_loss(batch, clock)["adversarial"]  # type: ignore[operator]
        return {"adversarial": good, "extra": good * math.nan}

    with pytest.raises(NonFinite, match="the extra loss of player D is not finite in round 0"):
        play(t, Turn("D", loss), [t.stream.batch(0, 0)])
    assert all(torch.equal(p, before[name]) for name, p in t.game.named_parameters())


def test_progress_under_both_budgets() -> None:
    t = start(game_run("gan"), tiny.spec(POINTS))
    assert [advance(t, seen) for seen in (8, 400, 800, 900)] == [0.01, 0.5, 1, 1]
    t = start(game_run("gan", images=None, minutes=1.0), tiny.spec(POINTS))
    t.clock, t.images = Clock(0, 0, 0.25), 16.0
    assert advance(t, 8) == 0.75
    t.clock = Clock(0, 0, 0.9)
    assert advance(t, 8) == 1


# ---- pace -----------------------------------------------------------------------------------------------------------
def test_ticks_of_a_budget_in_examples_come_at_even_places() -> None:
    t = start(game_run("gan", images=3000), tiny.spec(POINTS))
    pace = Pace.start(t, rate=100.0)
    ticks = []
    while t.clock.progress < 1:
        t.clock = Clock(t.clock.round + 1, t.clock.seen + 8, advance(t, t.clock.seen + 8))
        if pace.due(t):
            ticks.append(t.clock.seen)
            pace.plan(t, 100.0)
    assert len(ticks) == TICKS and ticks[-1] == 3000
    assert all(0 <= seen - 100 * (i + 1) < 8 for i, seen in enumerate(ticks))


def test_resuming_keeps_the_places_of_ticks() -> None:
    t = start(game_run("gan", images=3000), tiny.spec(POINTS))
    t.clock = Clock(31, 248, 248 / 3000)
    assert Pace.start(t, 100.0).next == 300


def test_an_estimate_spends_the_minutes_that_are_left() -> None:
    t = start(game_run("gan", images=None, minutes=2.0), tiny.spec(POINTS))
    assert estimate(t, 100.0) == 12_000
    t.seconds, t.clock = 60.0, Clock(1, 3000, 0.25)  # half the time for a quarter of the budget
    n = estimate(t, 50.0)
    assert n * (1 - 0.25) == pytest.approx(50 * 60)  # the other three quarters in the other half
    t.seconds = 120.0
    assert math.isfinite(estimate(t, 50.0))


def test_ticks_of_a_budget_in_minutes_come_every_few_seconds() -> None:
    t = start(game_run("gan", images=None, minutes=10.0), tiny.spec(POINTS))
    assert Pace.start(t, 100.0).next == pytest.approx(100 * 20)  # a thirtieth of ten minutes
    t.seconds = 599.0
    assert Pace.start(t, 100.0).next <= 100  # none reaches beyond the end


# ---- sampling -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [0, 3])
def test_few_samples_are_the_first_of_many(classes: int) -> None:
    t = trained(game_run("gan", "dcgan"), tiny.spec(PICTURES, classes), 1)

    def draw(n: int, seed: int = 0, **given: Any) -> torch.Tensor:
        return draw_samples(t.game, t.ema.state(), n, seed=seed, device=torch.device("cpu"), **given)

    many = draw(2 * CHUNK + 3)
    assert many.shape == (2 * CHUNK + 3, *PICTURES) and t.game.training
    for n in (1, 10, CHUNK, CHUNK + 1):
        assert torch.equal(draw(n), many[:n])
    assert not torch.equal(draw(3, seed=1), many[:3]) and not torch.equal(many[:3], many[CHUNK : CHUNK + 3])
    torch.testing.assert_close(draw(10, whole=False), many[:10])
    if classes:
        y = torch.arange(70) % 3
        assert torch.equal(draw(70, y=y)[:5], draw(5, y=y[:5]))
        assert not torch.equal(draw(5, y=y[:5]), draw(5, y=(y[:5] + 1) % 3))


def test_sampling_uses_the_average_and_leaves_the_game_alone() -> None:
    t = trained(game_run("gan"), tiny.spec(POINTS), 3)
    before = tiny.weights(t.game)
    averaged, raw = (
        draw_samples(t.game, w, 5, seed=0, device=torch.device("cpu")) for w in (t.ema.state(), t.game.state_dict())
    )
    assert not torch.equal(averaged, raw)
    assert all(torch.equal(p, before[name]) for name, p in t.game.named_parameters())
