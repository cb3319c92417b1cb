"""Every recipe on points and on the embedded digits, shrunken: it trains, or says in words what it is for."""

import re
from dataclasses import replace

import pytest
import torch

import tiny
from gansmith import registry
from gansmith.base import Spec
from gansmith.config import Brief, Run, Train, parse
from gansmith.engine import rounds
from gansmith.errors import UsageError

RECIPES = registry.names("recipe")
DATA = {"ring8": tiny.spec((2,)), "digits": tiny.spec((1, 8, 8), 10)}
REFUSED = {("dcgan", "ring8"), ("sngan", "ring8"), ("acgan", "ring8"), ("cgan", "ring8")}  # known; new ones may differ


def small(name: str, of: Spec) -> Run:
    """A recipe's Run with its networks and batch made small."""
    run: Run = registry.build("recipe", name, of, Brief(1000))
    kinds = {"G": "generator", "D": "discriminator"}
    for role, part in run.parts.items():
        if role[0] in kinds:
            sizes = tiny.shrunk(kinds[role[0]], part.name)
            run = run.set(*(f"parts.{role}.args.{key}={value}" for key, value in sizes.items()))
    return run.set("train.batch=8", "train.images=800")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_or_refuses_in_words(name: str, data: str) -> None:
    of = DATA[data]
    try:
        t = tiny.start(small(name, of), of)
    except UsageError as error:
        assert tiny.refuses(error) and ((name, data) in REFUSED or name not in {n for n, _ in REFUSED}), error
        return
    assert (name, data) not in REFUSED
    rounds(t), rounds(t)
    assert all(value == value for value in t.meter.read().values())


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_the_same_in_json(name: str, data: str) -> None:
    try:
        run: Run = registry.build("recipe", name, DATA[data], Brief(1000))
    except UsageError:
        return
    assert parse(Run, run.model_dump(mode="json")) == run


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_paper(name: str) -> None:
    text = registry.get("recipe", name).__doc__ or ""
    others = [other for other in RECIPES if other != name and re.search(rf"\b{other}\b", text)]
    assert re.search(r"\b(19|20)\d\d\b", text) or others


def test_auto_grows_with_the_device_and_r3_with_its_dial() -> None:
    of = tiny.spec((3, 32, 32))
    cpu, gpu, hour = (registry.build("recipe", "auto", of, b) for b in (
        Brief(1000), Brief(1000, "cuda", minutes=10), Brief(1000, "cuda", minutes=60),
    ))  # fmt: skip
    widths = [run.parts["G"].args["width"] for run in (cpu, gpu, hour)]
    assert widths == sorted(set(widths)) and cpu.train.batch < gpu.train.batch < hour.train.batch
    assert cpu == registry.build("recipe", "r3", of, Brief(1000))
    assert gpu == registry.build("recipe", "r3", of, Brief(1000, "cuda", minutes=10), args={"scale": 2.5})
    big = registry.build("recipe", "r3", of, Brief(1000), args={"scale": 2.5})
    assert big.train.optimisers["G"].lr.start == pytest.approx(cpu.train.optimisers["G"].lr.start / 2.5)
    assert gpu.train.optimisers["G"].lr.start == pytest.approx(2e-3 / 2.5)
    assert [run.train.optimisers["D"].name for run in (cpu, gpu)] == ["soap", "adam"]


def test_bf16_or_a_long_budget_gets_larger_batches_their_rates_and_wider_edges() -> None:
    of = tiny.spec((3, 32, 32))
    slow, fast, *long = (
        registry.build("recipe", "auto", of, Brief(1000, images=images, bf16=bf16))
        for images in (75_000, 250_000)
        for bf16 in (False, True)
    )
    assert long[0].set("train.early=0") == long[1] and long[0].train.batch == 2 * fast.train.batch
    assert long[0].parts["D"].args["head"] == fast.parts["D"].args["head"] == 32
    wider = (f"train.batch={2 * slow.train.batch}", "parts.G.args.head=32", "parts.D.args.head=32")
    rates = []
    for player in "GD":
        before, after = (run.train.optimisers[player].lr for run in (slow, fast))
        assert after.start / before.start == pytest.approx(after.end / before.end) == pytest.approx(2**0.5)
        rates += [f"train.optimisers.{player}.lr.{end}={getattr(after, end)}" for end in ("start", "end")]
    assert fast == slow.set(*wider, *rates)


@pytest.mark.parametrize(
    ("short", "long"),
    [(Brief(1, minutes=3), Brief(1, minutes=10)), (Brief(1, images=75_000), Brief(1, images=250_000))],
)
def test_on_photographs_a_longer_budget_ends_with_less_penalty(short: Brief, long: Brief) -> None:
    of = replace(tiny.spec((3, 32, 32)), room=())
    ends = [registry.build("recipe", "auto", of, brief).game.args["gamma"]["end"] for brief in (short, long)]
    assert ends[0] > ends[1] > 0


def test_minutes_come_to_fewer_of_larger_pictures() -> None:
    brief = Brief(1, minutes=10, bf16=True)
    batches = [
        registry.build("recipe", "auto", tiny.spec((3, side, side)), brief).train.batch for side in (32, 64, 128)
    ]
    assert batches == [64, 32, 16]


@pytest.mark.parametrize(("room", "shape"), [((64, *[1] * 255), "cosine"), ((3, *[1] * 255), "log"), ((), "log")])
def test_photographs_go_without_what_sharpens_digits(room: tuple[int, ...], shape: str) -> None:
    of = replace(tiny.spec((1, 32, 32)), room=room)
    run = registry.build("recipe", "auto", of, Brief(1, minutes=10))
    drawn = shape == "cosine"
    assert run.parts["G"].args["blur"] is run.parts["D"].args["texture"] is drawn
    assert run.train.even and (run.train.early > 0) is drawn
    assert (run.train.ema_share > Train().ema_share) is (run.train.ema_cap > Train().ema_cap) is drawn
    assert run.game.args["gamma"]["end"] == (0.25 if drawn else 0.1)
    assert {player.lr.shape for player in run.train.optimisers.values()} == {shape}
    rates = [run.train.optimisers[player].lr for player in "GD"]
    assert [(lr.start, lr.end) for lr in rates] == (
        [(4e-3, 1e-4), (4e-3, 4e-4)] if drawn else [(2e-3, 4e-4), (2e-3, 4e-4)]
    )
    fast = registry.build("recipe", "auto", of, Brief(1, minutes=10, bf16=True))
    assert [fast.parts[player].args["width"] for player in "GD"] == [80 if drawn else 128] * 2


@pytest.mark.parametrize(
    "brief",
    [Brief(1, minutes=3), Brief(1, minutes=10, bf16=True), Brief(1, "cuda", minutes=10)],
    ids=["short", "bf16", "gpu"],
)
def test_early_small_batches_are_for_long_budgets_of_a_slow_cpu(brief: Brief) -> None:
    of = replace(tiny.spec((1, 28, 28)), room=(64, *[1] * 255))
    assert registry.build("recipe", "auto", of, brief).train.early == 0


@pytest.mark.parametrize(
    ("shape", "classes", "room", "device", "numbers"),
    [
        ((1, 28, 28), 0, 64, "cpu", 16),
        ((3, 28, 28), 0, 64, "cpu", 48),
        ((1, 28, 28), 2, 64, "cpu", 64),
        ((1, 28, 28), 0, 3, "cpu", 64),
        ((1, 64, 64), 0, 64, "cpu", 64),
        ((1, 28, 28), 0, 64, "cuda", 64),
    ],
    ids=["grey", "colour", "classes", "photographs", "large", "gpu"],
)
def test_small_drawings_without_classes_get_short_latents(
    shape: tuple[int, ...], classes: int, room: int, device: str, numbers: int
) -> None:
    of = replace(tiny.spec(shape, classes), room=(room, *[1] * 255))
    assert registry.build("recipe", "auto", of, Brief(1, device, minutes=10)).parts["G"].args["z_dim"] == numbers


@pytest.mark.parametrize(("classes", "room", "shown"), [(0, 64, False), (1, 64, False), (2, 64, True), (2, 3, False)])
def test_drawn_pictures_of_classes_are_also_shown_under_wrong_ones(classes: int, room: int, shown: bool) -> None:
    of = replace(tiny.spec((1, 28, 28), classes), room=(room, *[1] * 255))
    assert ("wrong" in registry.build("recipe", "auto", of, Brief(1, minutes=10)).game.args) is shown


@pytest.mark.parametrize(
    ("short", "long"), [(Brief(1, minutes=1), Brief(1, minutes=3)), (Brief(1, images=10**6), Brief(1, images=10**7))]
)
def test_on_points_a_longer_budget_goes_for_details(short: Brief, long: Brief) -> None:
    rough, fine = (
        registry.build("recipe", "auto", DATA["ring8"], brief).parts["D"].args["waves"] for brief in (short, long)
    )
    assert rough == 0 < fine


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_in_bf16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = DATA["digits"]
    t = tiny.start(small(name, of), of)
    monkeypatch.setattr(t.runtime, "bf16", True)  # emulated where the processor has no such instructions
    for _ in range(5):
        rounds(t)
    assert all(value == value for value in t.meter.read().values())
    assert {p.dtype for p in t.game.parameters()} == {torch.float32}
    assert t.game.sample(torch.randn(2, t.game.z_dim), torch.tensor([0, 1])).dtype == torch.float32
