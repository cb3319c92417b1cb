"""The duality gap where its value is known, what it leaves alone, and every recipe."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from gansmith import registry
from gansmith.base import Batch, Game, Spec
from gansmith.config import Brief, Part, Run, build_game
from gansmith.duality import Arena, calibration, duality_gap, held_out_gap, judge_walk
from gansmith.engine import rounds
from gansmith.errors import DataError, UsageError
from gansmith.files import to_json
from gansmith.model import Model

LOG4 = math.log(4)
RECIPES = registry.names("recipe")
DATA = {"ring8": tiny.spec((2,)), "digits": tiny.spec((1, 8, 8), 10)}
PLANE = DATA["ring8"]


def model(run: Run, game: Game) -> Model:
    own = game.state_dict()
    return Model(run, game, tiny.Plain(game.spec), "0", own, own)


def made_up(G: nn.Module | None = None, D: nn.Module | None = None, loss: str = "nonsaturating", **args: Any) -> Model:
    """A model on points, two small perceptrons, with one or both players put in by hand."""
    run = tiny.game_run("gan").set(f"parts.loss.name={loss}", *(f"game.args.{k}={v}" for k, v in args.items()))
    torch.manual_seed(0)
    game: Game = build_game(run, PLANE)
    if G is not None:
        game.G, game.z_dim = G, 2
    if D is not None:
        game.D = D
    return model(run, game)


class Shifted(nn.Module):
    """The normal distribution about a point: a sampler of the data where the point is 0."""

    def __init__(self, x: float = 0.0):
        super().__init__()
        self.centre = nn.Parameter(torch.tensor([x, 0.0]))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z + self.centre


class Slope(nn.Module):
    """A critic that likes one direction, the more the further."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.weight * x[:, 0]


def normal(n: int, seed: int) -> Batch:
    return {"x": torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))}


V, H = normal(800, 1), normal(1500, 2)
SHORT: dict[str, Any] = {"steps": 40, "restarts": 2}


def numbers(found: Any) -> list[float]:
    if isinstance(found, dict | list):
        return [n for inner in (found.values() if isinstance(found, dict) else found) for n in numbers(inner)]
    return [found] if isinstance(found, float) else []


# ---- known values ---------------------------------------------------------------------------------------------------
def test_no_judge_gains_on_a_sampler_of_the_data() -> None:
    found = duality_gap(made_up(Shifted()), V, H, **SHORT)
    assert found["max"]["value"] == pytest.approx(-LOG4, abs=0.01)
    assert abs(found["jsd"]["value"]) < 0.005 and found["form"] == "minimax"


def test_the_gap_is_zero_at_the_equilibrium() -> None:
    found = duality_gap(made_up(Shifted(), Slope(0.0)), V, H, **SHORT)
    assert found["value"]["value"] == pytest.approx(-LOG4) and found["min"]["value"] == pytest.approx(-LOG4)
    assert found["gap"]["value"] == pytest.approx(0, abs=0.01) and not found["unbounded"]


def test_disjoint_supports_cost_everything() -> None:
    found = duality_gap(made_up(Shifted(12.0)), V, H, **SHORT)
    assert found["max"]["value"] > -0.05 and found["jsd"]["value"] == pytest.approx(math.log(2), abs=0.025)
    assert found["gap"] is None or found["gap"]["value"] > 1


def test_the_max_side_is_the_divergence() -> None:
    """Two unit normals 1.5 apart; the divergence by integration."""
    t = np.linspace(-8, 10, 20_001)
    p, q = (np.exp(-((t - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (0, 1.5))
    jsd = float(np.trapezoid(p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)), t) / 2)
    found = duality_gap(made_up(Shifted(1.5)), V, H, steps=150, restarts=2)["jsd"]
    assert found["low"] - 0.005 < jsd < found["high"] + 0.01 and found["value"] == pytest.approx(jsd, abs=0.03)


def test_the_best_reply_of_the_generator_is_found() -> None:
    """Against D = sigmoid(-|x|^2) the generator's best reply is one point, worth log(1 - 1/2)."""

    class Hill(Slope):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return -self.weight * x.square().sum(1)

    found = duality_gap(made_up(D=Hill()), V, H, steps=150, restarts=1)
    logit = -H["x"].double().square().sum(1)
    assert found["min"]["value"] == pytest.approx(float(-(1 + (-logit).exp()).log().mean()) - math.log(2), abs=0.03)
    assert found["min"]["value"] <= found["value"]["value"] <= found["max"]["value"] and not found["unbounded"]


def test_a_generator_that_leaves_for_infinity_is_called_unbounded() -> None:
    found = duality_gap(made_up(D=Slope(5.0)), V, H, steps=200, restarts=1)
    assert found["unbounded"] and found["gap"] is None and found["min"] is None and found["walks"]["min"] == [None]
    assert all(math.isfinite(n) for n in numbers(found)) and found["max"]["value"] >= found["value"]["value"]


def test_an_overfitted_judge_is_not_taken_at_its_word() -> None:
    """Few real examples and a large critic: what it learns by heart is worth nothing on H, and it knows."""
    run = tiny.game_run("gan").set("parts.D.args.width=64", "parts.loss.name=nonsaturating")
    torch.manual_seed(0)
    game: Game = build_game(run, PLANE)
    game.G, game.z_dim = Shifted(), 2
    found = duality_gap(model(run, game), normal(40, 3), H, steps=150, restarts=2)
    assert -LOG4 - 0.3 < found["max"]["value"] < -LOG4 + 0.05


# ---- what a logit means ---------------------------------------------------------------------------------------------
def test_a_relativistic_critics_offset_does_not_count() -> None:
    here, there = made_up(loss="relativistic"), made_up(loss="relativistic")
    with torch.no_grad():
        there._ema["D.head.logit.bias"] += 40
    a, b = (duality_gap(m, V, H, **SHORT) for m in (here, there))
    assert b["offset"] == pytest.approx(a["offset"] - 40, abs=1e-3) and a["scale"] == b["scale"] == 1
    for side in ("max", "value", "min", "gap"):
        assert b[side]["value"] == pytest.approx(a[side]["value"], abs=0.02)


@pytest.mark.parametrize(("loss", "free"), [("minimax", False), ("nonsaturating", False), ("hinge", True)])
def test_a_critic_of_log_odds_is_left_as_it_is(loss: str, free: bool) -> None:
    found = duality_gap(made_up(Shifted(1.0), Slope(-3.0), loss), V, H, steps=1, restarts=1)
    assert ((found["scale"], found["offset"]) != (1, 0)) == free


def test_calibration_finds_the_log_odds() -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(4000, generator=rng).double() + m for m in (6.0, 4.0))  # log-odds 2 (f - 5)
    assert calibration(real, fake, True) == pytest.approx((2, -10), rel=0.1)
    assert calibration(real, fake, False) == pytest.approx((1, -5), rel=0.05)
    assert calibration(fake, real, True) == (0, 0)
    assert calibration(fake * 0, real * 0, True) == (0, 0)
    scale, offset = calibration(real + 1e4, fake - 1e4, True)
    assert 0 < scale < 1 and abs(offset) < 100


def test_a_wasserstein_game_keeps_its_constraint() -> None:
    run = tiny.game_run("wgan").set("game.args.clip=0.05")
    trained = tiny.trained(run, PLANE)
    arena = Arena(model(run, trained.game), V, 0)
    for number in (0, 1):
        worth, critic = judge_walk(arena, 5, number)
        assert max(p.abs().max().item() for p in critic.net.parameters()) < 0.0501 and math.isfinite(worth)


def test_a_wasserstein_critic_finds_the_distance() -> None:
    """Two equal clouds 2 apart: the earth mover's distance is 2, of which a small critic under a soft penalty finds most."""
    run = tiny.game_run("wgan").set("parts.penalty.name=wgan-gp")
    torch.manual_seed(0)
    game: Game = build_game(run, PLANE)
    game.G, game.z_dim = Shifted(2.0), 2
    found = duality_gap(model(run, game), V, H, steps=150, restarts=2)
    assert found["form"] == "wasserstein" and found["jsd"] is None
    assert 1.4 < found["max"]["value"] < 2.5


# ---- leaving things alone -------------------------------------------------------------------------------------------
def test_the_same_seed_gives_the_same_and_nothing_else_moves() -> None:
    m = made_up()
    game = {key: tensor.clone() for key, tensor in m.game.state_dict().items()}
    torch.manual_seed(7)
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    with torch.no_grad():
        a = duality_gap(m, V, H, steps=10, restarts=2)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert all(torch.equal(game[key], tensor) for key, tensor in m.game.state_dict().items())
    assert all(p.grad is None for p in m.game.parameters())
    torch.randn(3)
    assert duality_gap(m, V, H, steps=10, restarts=2) == a != duality_gap(m, V, H, steps=10, restarts=2, seed=1)


def test_the_averaged_generator_is_judged() -> None:
    m = made_up(Shifted(12.0))
    m._ema = {**m._ema, "G.centre": torch.zeros(2)}
    assert duality_gap(m, V, H, **SHORT)["jsd"]["value"] < 0.01


# ---- every recipe ---------------------------------------------------------------------------------------------------
def small(name: str, of: Spec) -> Model:
    run: Run = registry.build("recipe", name, of, Brief(1000))
    for role, part in run.parts.items():
        if kind := {"G": "generator", "D": "discriminator"}.get(role):
            sizes = tiny.shrunk(kind, part.name)
            run = run.set(*(f"parts.{role}.args.{key}={value}" for key, value in sizes.items()))
    run = run.set("train.batch=8", "train.images=800")
    t = tiny.start(run, of)
    for _ in range(3):
        rounds(t)
    own = t.game.state_dict()
    return Model(run, t.game, tiny.Plain(of), "0", {**own, **t.ema.state()}, own)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_gap(name: str, data: str) -> None:
    of = DATA[data]
    try:
        m = small(name, of)
    except UsageError as error:
        assert tiny.refuses(error)
        return
    fit, test, seen = (tiny.examples(of, 40, seed) for seed in (1, 2, 3))
    found = duality_gap(m, fit, test, steps=3, restarts=2)
    if "reason" not in found:
        assert found == json.loads(to_json(found)) and all(math.isfinite(n) for n in numbers(found))
        assert found["max"]["low"] <= found["max"]["value"] <= found["max"]["high"] and len(found["walks"]["max"]) == 2
        assert found["form"] == "wasserstein" or found["max"]["value"] < 0
    found = held_out_gap(m, seen, test)
    assert "reason" in found or (found == json.loads(to_json(found)) and all(math.isfinite(n) for n in numbers(found)))


# ---- the held-out gap -----------------------------------------------------------------------------------------------
def test_a_critic_that_knows_its_examples_is_seen_through() -> None:
    m = made_up(Shifted(), Slope())
    seen = {"x": normal(2000, 3)["x"] + 1}
    found = held_out_gap(m, seen, H)
    assert found["rv"]["value"] == pytest.approx(1, abs=0.1) and found["held_out_gap"]["low"] > 0.8
    assert found["d_train"]["value"] == pytest.approx(1, abs=0.1)
    assert held_out_gap(m, seen, H) == found


def test_a_critic_that_learned_nothing_by_heart() -> None:
    found = held_out_gap(made_up(Shifted(-2.0), Slope()), normal(2000, 4), H)
    assert abs(found["rv"]["value"]) < 0.05 and found["rv"]["low"] < found["rv"]["high"] < 0.1
    assert held_out_gap(made_up(Shifted(2.0), Slope()), normal(2000, 3), H)["rv"] is None  # it prefers fakes


# ---- what it refuses ------------------------------------------------------------------------------------------------
def test_games_of_other_players_say_why_not() -> None:
    game = SimpleNamespace(players=lambda: {"G": 0, "DA": 0, "DB": 0}, z_dim=4)
    for found in (f(SimpleNamespace(game=game), V, H) for f in (duality_gap, held_out_gap)):  # type: ignore[arg-type]
        assert "one critic" in found["reason"] and "DA, DB, G" in found["reason"]


def test_broken_weights_say_so() -> None:
    assert "finite" in duality_gap(made_up(D=Slope(math.nan)), V, H, **SHORT)["reason"]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"x": torch.zeros(5, 2)}, DataError, "holds 5 examples"),
        ({"x": torch.full((50, 2), math.nan)}, DataError, "not finite"),
        ({"x": torch.zeros(50, 3)}, UsageError, r"must hold x \[n, 2\]"),
    ],
)
def test_unusable_examples(bad: Batch, error: type[Exception], words: str) -> None:
    m = made_up()
    for call in (lambda: duality_gap(m, bad, H), lambda: duality_gap(m, V, bad), lambda: held_out_gap(m, V, bad)):
        with pytest.raises(error, match=words):
            call()


def test_classes_must_come_along() -> None:
    of = tiny.spec((2,), 3)
    run = tiny.game_run("gan")
    run = run.model_copy(update={"parts": {**run.parts, "loss": Part(name="hinge")}})
    m = model(run, build_game(run, of))
    batch = tiny.examples(of, 40)
    with pytest.raises(UsageError, match="one class each"):
        duality_gap(m, {"x": batch["x"]}, batch)
    assert duality_gap(m, batch, batch, steps=2, restarts=1)["n"] == 40


def test_unusable_settings() -> None:
    for settings in ({"steps": 0}, {"restarts": 0}):
        with pytest.raises(UsageError, match="at least 1 step"):
            duality_gap(made_up(), V, H, **settings)
