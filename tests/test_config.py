"""The Run: schedules, `set`, limits on what a stranger's run.json may ask for, and building by name."""

import json
import math

import pytest

import tiny
from gansmith import registry
from gansmith.config import Part, Ramp, Run, Train, at, build_game, parse
from gansmith.errors import UsageError


# ---- schedules ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", ["cosine", "log", "linear"])
def test_ramps_go_from_start_to_end_without_turning_back(shape: str) -> None:
    ramp = Ramp(start=1.0, end=0.01, shape=shape)  # type: ignore[arg-type]
    values = [ramp.at(i / 50) for i in range(51)]
    assert values[0] == pytest.approx(1) and values[-1] == pytest.approx(0.01)
    assert values == sorted(values, reverse=True)


def test_half_way_and_forms_of_a_schedule() -> None:
    half = {"cosine": 0.505, "linear": 0.505, "log": 0.1}
    for shape, value in half.items():
        assert at({"start": 1.0, "end": 0.01, "shape": shape}, 0.5) == pytest.approx(value)
    assert at(Ramp(start=2, end=4), 0.5) == pytest.approx(3) and at(0.25, 0.9) == 0.25
    assert at(Ramp(start=2, end=4), 0.25) == pytest.approx(3 - math.cos(math.pi / 4))


def test_a_log_ramp_needs_positive_ends() -> None:
    with pytest.raises(UsageError, match="above zero"):
        Run().set('train.optimisers.G.lr={"start": 1, "end": 0, "shape": "log"}')


# ---- Run.set --------------------------------------------------------------------------------------------------------
def test_set_changes_a_copy() -> None:
    run = Run()
    new = run.set("train.batch=32", "data.kind=image", "parts.G.name=mlp", "parts.G.args.width=8", "train.share=false")
    assert (new.train.batch, new.data.kind, new.train.share) == (32, "image", False)
    assert new.parts["G"] == Part(name="mlp", args={"width": 8})
    assert run == Run()


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("./x", "./x"), (".", "."), ("0.5", 0.5), ("x", "x")])
def test_values_are_numbers_as_people_write_them_or_text(text: str, value: object) -> None:
    assert Run().set(f"game.args.gamma={text}").game.args == {"gamma": value}


def test_a_number_becomes_a_ramp() -> None:
    run = Run().set("train.optimisers.G.lr=0.002", "train.optimisers.G.lr.end=0.001")
    assert run.train.optimisers["G"].lr == Ramp(start=0.002, end=0.001)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.batch", "path=value"), ("=3", "path=value"), ("train.bacth=3", "train.batch"), ("trian.batch=3", "train"),
        ("train.batch=many", "train.batch"), ("train.batch=0", "train.batch"), ("train.precision=fp16", "fp32"),
        ("train.optimisers.G.lr=fast", "train.optimisers.G.lr"), ("train.optimisers.G.beta1=1", "beta1"),
        ("train.ema_cap=NaN", "ema_cap"), ("train=3", "train"),
        ("train.batch.x=1", "train.batch"), ("a.b.c=1", "a.b.c"), ("game.args.depth.x.y=1", "game.args.depth"),
    ],
)  # fmt: skip
def test_what_set_refuses(change: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        Run().set(change)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_json_both_ways() -> None:
    run = tiny.game_run("r3").set("train.optimisers.G.lr.end=0", 'game.args.gamma={"start": 2, "end": 1}')
    assert parse(Run, json.loads(run.model_dump_json())) == run


def test_a_run_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Run().train.batch = 3  # type: ignore[misc]


def test_sizes_from_strangers_are_bounded_in_every_form() -> None:
    for value in (1 << 20, [1 << 20], -(1 << 20)):
        with pytest.raises(UsageError, match="65536"):
            parse(Run, {"parts": {"G": {"name": "mlp", "args": {"width": value}}}})
    for text in ("1e9", '"1000000000"', "8.0", "true"):
        with pytest.raises(UsageError, match="width"):
            build_game(
                Run(game=Part(name="gan")).set("parts.G.name=mlp", f"parts.G.args.width={text}"), tiny.spec((2,))
            )


# ---- building -------------------------------------------------------------------------------------------------------
def test_a_game_can_be_built_from_a_spec_alone() -> None:
    for name in registry.names("game"):
        assert build_game(Run(game=Part(name=name)), tiny.spec((2,), 3)).z_dim > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("game.name=gna", "Did you mean 'gan'"), ("parts.E.name=mlp", "has no part 'E'"),
        ("parts.G.name=mpl", "Did you mean 'mlp'"), ("parts.loss.name=hing", "Did you mean 'hinge'"),
        ("game.args.gama=1", "Did you mean 'gamma'"), ("parts.G.args.witdh=1", "Did you mean 'width'"),
        ("parts.D.args.condition=none at all", "'projection', 'concat' or 'none'"), ("game.args.gamma=much", "gamma"),
        ('game.args.gamma={"start": 1}', "gamma"), ("parts.G.args.width=-4", "width"), ("parts.G.args.z_dim=1.5", "z_dim"),
    ],
)  # fmt: skip
def test_what_building_refuses(change: str, words: str) -> None:
    first = "game.name=gan" if change.startswith("game.n") else f"parts.{change[6]}.name=mlp"
    run = Run(game=Part(name="gan"))
    run = run.set(first, change) if change.startswith("parts.") and ".args." in change else run.set(change)
    with pytest.raises(UsageError) as error:
        build_game(run, tiny.spec((2,), 3))
    assert words in str(error.value)


def test_a_schedule_reaches_a_game_as_one() -> None:
    run = Run(game=Part(name="gan")).set('game.args.gamma={"start": 2, "end": 1}')
    game = build_game(run, tiny.spec((2,)))
    assert game.gamma == Ramp(start=2, end=1)


def test_names_are_taken_once() -> None:
    with pytest.raises(UsageError, match="already taken"):
        registry.register("game", "gan")(lambda spec, make: None)
    with pytest.raises(UsageError, match="kind of plug-in"):
        registry.register("gmae", "x")


def test_budgets_are_positive() -> None:
    for field in ("images", "minutes", "batch", "micro", "keep", "ema_share"):
        with pytest.raises(ValueError, match=field):
            Train(**{field: 0})
