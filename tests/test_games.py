"""Every registered game on small networks: it moves whom it says, learns the same however it is split, and resumes."""

import inspect
from typing import Any

import pytest
import torch

import tiny
from gansmith import registry
from gansmith.base import Clock, Spec
from gansmith.config import build_game
from gansmith.engine import Training, play, rounds
from gansmith.errors import UsageError
from gansmith.games.r3 import other
from tiny import PICTURES, POINTS, game_run, start, trained, weights

GAMES = registry.names("game")
DATA = {"points": (POINTS, 0, "mlp"), "classes": (POINTS, 3, "mlp"), "pictures": (PICTURES, 3, "r3")}
CASES = [pytest.param(name, kind, id=f"{name}-{kind}") for name in GAMES for kind in DATA]


def case(name: str, kind: str) -> tuple[Spec, str]:
    shape, classes, nets = DATA[kind]
    of = tiny.spec(shape, classes)
    try:
        build_game(game_run(name, nets), of)
    except UsageError as error:
        assert tiny.refuses(error), error
        pytest.skip(str(error))
    return of, nets


def same(a: Training, b: Training, tolerance: float = 0.0) -> None:
    for (name, p), q in zip(a.game.named_parameters(), b.game.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def batch_of(t: Training) -> dict[str, torch.Tensor]:
    return t.stream.batch(t.clock.round, 0)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_two_rounds(name: str, kind: str) -> None:
    of, nets = case(name, kind)
    t = start(game_run(name, nets), of)
    before = weights(t.game)
    rounds(t), rounds(t)
    terms = t.meter.read()
    assert (
        all(torch.tensor(list(terms.values())).isfinite()) and {key.split("/")[0] for key in terms} == t.players.keys()
    )
    assert all(p.isfinite().all() for p in t.game.parameters())
    for player, module in t.game.players().items():
        ours = {id(p) for p in module.parameters()}
        assert any(not torch.equal(before[key], p) for key, p in t.game.named_parameters() if id(p) in ours), player
    x = t.game.sample(torch.randn(5, t.game.z_dim), torch.zeros(5, dtype=torch.long) if of.classes else None)
    assert x.shape == (5, *of.shape)
    assert t.clock == Clock(2, 16, 16 / 800)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_only_the_player_whose_turn_it_is_moves(name: str, kind: str) -> None:
    of, nets = case(name, kind)
    t = start(game_run(name, nets), of)
    batch = batch_of(t)
    for turn in t.game.turns():
        mine = {id(p) for p in t.players[turn.player].params}
        others = {key: p for key, p in t.game.named_parameters() if id(p) not in mine}
        before = weights(t.game)
        for p in others.values():
            p.grad = torch.full_like(p, 7.0)
        play(t, turn, [batch])
        for key, p in others.items():
            assert torch.equal(p, before[key]) and p.grad is not None and (p.grad == 7).all(), (turn.player, key)
        moved = [key for key, p in t.game.named_parameters() if id(p) in mine and not torch.equal(p, before[key])]
        assert moved, turn.player


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_sharing_the_generators_forward_and_one_pass_changes_nothing(name: str, kind: str) -> None:
    of, nets = case(name, kind)  # plain gradient descent: RMSprop's first steps blow rounding up to a whole rate
    shared, apart = (trained(game_run(name, nets, sgd=True, share=share), of) for share in (True, False))
    assert shared.game.joint and not apart.game.joint
    same(shared, apart, 1e-6)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_micro_batches_add_up(name: str, kind: str) -> None:
    of, nets = case(name, kind)
    whole, split = (trained(game_run(name, nets, sgd=True, micro=micro), of) for micro in (1, 4))
    assert not tiny.batch_norms(whole.game)
    same(whole, split, 1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_resuming_half_way_is_bit_identical(name: str, kind: str) -> None:
    of, nets = case(name, kind)
    run = game_run(name, nets)
    whole, half = trained(run, of, 6), trained(run, of, 3)
    saved, again = tiny.snapshot(half), start(run.set("train.seed=0"), of)
    rounds(again)  # whatever it was before, loading makes it what was saved
    again.load(saved)
    for _ in range(3):
        rounds(again)
    assert again.clock == whole.clock
    for ours, theirs in ((whole.tensors(), again.tensors()), (whole.ema.state(), again.ema.state())):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", GAMES)
def test_the_seed_decides(name: str) -> None:
    of = tiny.spec(POINTS, 3)
    one, two, other = (trained(game_run(name, seed=seed), of, 2) for seed in (0, 0, 1))
    same(one, two)
    assert any(not torch.equal(p, q) for p, q in zip(one.game.parameters(), other.game.parameters(), strict=True))


# ---- what single games promise --------------------------------------------------------------------------------------
def losses(t: Training, round: int) -> dict[str, torch.Tensor]:
    turn = next(turn for turn in t.game.turns() if turn.player == "D")
    return turn.loss(batch_of(t), Clock(round))


LAZY = [name for name in GAMES if "lazy" in inspect.signature(registry.get("game", name)).parameters]


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_penalty_comes_seldom_and_as_much_stronger(name: str) -> None:
    of, runs = tiny.spec(POINTS, 3), game_run(name)
    if "penalty" not in losses(start(runs, of), 0):  # a game whose penalty is a part
        runs = runs.set("parts.penalty.name=r1")
    always, third = (start(runs.set(f"game.args.lazy={k}"), of) for k in (1, 3))
    assert [r for r in range(7) if "penalty" in losses(third, r)] == [0, 3, 6]
    torch.testing.assert_close(losses(third, 3)["penalty"], 3 * losses(always, 3)["penalty"])


@pytest.mark.parametrize("name", ["gan", "wgan", "r3"])
def test_gamma_follows_the_budget(name: str) -> None:
    changes = ['game.args.gamma={"start": 4, "end": 1, "shape": "linear"}']
    changes += ["parts.penalty.name=r1"] if name == "gan" else []
    t = start(game_run(name).set(*changes), tiny.spec(POINTS))
    d_loss: Any = t.game.d_loss
    early, late = (d_loss(batch_of(t), Clock(0, 0, progress))["penalty"] for progress in (0.0, 1.0))
    torch.testing.assert_close(early, 4 * late)


def test_wgan_clips_and_then_needs_no_penalty() -> None:
    t = trained(game_run("wgan").set("game.args.clip=0.01"), tiny.spec(POINTS), 2)
    assert max(p.abs().max().item() for p in t.players["D"].params) <= 0.01 + 1e-9
    assert max(p.abs().max().item() for p in t.players["G"].params) > 0.02
    assert "D/penalty" not in t.meter.read()


def test_several_plays_of_the_critic_see_several_batches() -> None:
    t = start(game_run("gan").set("game.args.d_steps=3"), tiny.spec(POINTS))
    seen = []
    asked = t.stream.batch
    t.stream.batch = lambda r, p: seen.append((r, p)) or asked(r, p)  # type: ignore[func-returns-value,method-assign]
    rounds(t), rounds(t)
    assert seen == [(r, p) for r in range(2) for p in range(3)]
    assert t.meter.counts == {"D/adversarial": 6, "D/gradient": 6, "G/adversarial": 2, "G/gradient": 2}


def test_acgan_learns_to_name_classes() -> None:
    of = tiny.spec(POINTS, 3)
    t = start(game_run("acgan", images=8000), of, 30)
    x, y = t.rows.batch["x"], t.rows.batch["y"]  # type: ignore[union-attr]
    x.copy_(4 * torch.stack([(2.1 * y).cos(), (2.1 * y).sin()], 1))  # classes that lie apart
    for _ in range(150):
        rounds(t)
    critic: Any = t.game.D
    assert (critic.classify(critic.features(x)).argmax(1) == y).float().mean() > 0.9


def test_reused_logits_are_those_of_the_critics_turn() -> None:
    """Where D stands still they are the fresh ones; where it moves they are not."""
    of = tiny.spec(POINTS)

    def ended(d_rate: float, rounds: int, *reuse: str) -> Training:
        return trained(game_run("r3", sgd=True).set(f"train.optimisers.D.lr={d_rate}", *reuse), of, rounds)

    reuse = "game.args.reuse=true"
    same(ended(0.0, 3, reuse), ended(0.0, 3), 1e-6)
    moved = [torch.cat([p.flatten() for p in ended(0.1, 3, *how).game.parameters()]) for how in ((), (reuse,))]
    assert not torch.equal(*moved)


# ---- r3 with real examples under wrong classes ----------------------------------------------------------------------
WRONG = "game.args.wrong=0.5"


def test_a_wrong_class_is_any_but_the_right_one() -> None:
    y = torch.arange(3).repeat_interleave(300)
    u = torch.rand(900, generator=torch.Generator().manual_seed(0))
    u[::300] = 1 - 2**-24  # the largest number that is drawn
    wrong = other(y, u, 3)
    pairs = torch.bincount(3 * y + wrong, minlength=9).view(3, 3)
    assert (pairs.diagonal() == 0).all() and pairs.sum() == 900
    assert (pairs + 200 * torch.eye(3) > 110).all()


def test_wrong_classes_teach_the_critic_to_tell_them() -> None:
    of = tiny.spec(POINTS, 3)

    def named(seed: int, *changes: str) -> float:
        still = "train.optimisers.G.lr=0", "train.optimisers.D.lr=0.01", "game.args.gamma=0.01"
        t = start(game_run("r3", seed=seed, images=8000).set(*still, *changes), of, 30)
        x, y = t.rows.batch["x"], t.rows.batch["y"]  # type: ignore[union-attr]
        x.copy_(4 * torch.stack([(2.1 * y).cos(), (2.1 * y).sin()], 1))  # classes that lie apart
        for _ in range(150):
            rounds(t)
        critic: Any = t.game.D
        logits = torch.stack([critic(x, torch.full_like(y, c)) for c in range(3)], 1)
        return (logits.argmax(1) == y).float().mean().item()

    seeds = range(3)
    assert min(named(seed, WRONG) for seed in seeds) > 0.9 > sum(map(named, seeds)) / len(seeds)


def test_wrong_classes_of_micro_batches_add_up() -> None:
    of = tiny.spec(POINTS, 3)
    whole, split = (trained(game_run("r3", sgd=True, micro=micro).set(WRONG), of) for micro in (1, 4))
    assert "D/wrong" in whole.meter.read()
    same(whole, split, 1e-5)


@pytest.mark.parametrize(
    ("classes", "change"), [(0, ""), (1, ""), (3, "parts.D.args.condition=concat"), (3, "game.args.lazy=1")]
)
def test_wrong_classes_need_classes_a_projection_and_rounds_without_a_penalty(classes: int, change: str) -> None:
    run = game_run("r3").set(WRONG, *filter(None, [change]))
    with pytest.raises(UsageError, match="two classes or more"):
        build_game(run, tiny.spec(POINTS, classes))
