"""Every registered network on every spec it accepts."""

import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn

import tiny
from gansmith import registry
from gansmith.base import Spec
from gansmith.errors import UsageError
from gansmith.networks import blocks

SHAPES = [(2,), (3,), (1, 8, 8), (4, 5, 16), (3, 33, 50), (1, 28, 28)]
KINDS = ("generator", "discriminator")
NAMES = [(kind, name) for kind in KINDS for name in registry.names(kind)]


def options(kind: str, name: str) -> list[dict[str, Any]]:
    """The defaults, then every named choice, switch and addition of a network, one at a time."""
    builder = registry.get(kind, name)
    hints = get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    found: list[dict[str, Any]] = [{}]
    for key, hint in hints.items():
        values = get_args(hint) if get_origin(hint) is Literal else (False, True) if hint is bool else ()
        if hint is int and inspect.signature(builder).parameters[key].default == 0:
            values = (2,)
        found += [{key: value} for value in values]
    return found


ALL = [(kind, name, args) for kind, name in NAMES for args in options(kind, name)]


def make(kind: str, name: str, of: Spec, **args: Any) -> nn.Module:
    try:
        return tiny.network(kind, name, of, **args)
    except UsageError as error:
        assert tiny.refuses(error), error
        pytest.skip(str(error))


def small(kind: str, name: str) -> Spec:
    """A spec with classes that a network accepts."""
    for shape in ((1, 8, 8), (2,)):
        try:
            tiny.network(kind, name, tiny.spec(shape, 3))
        except UsageError:
            continue
        return tiny.spec(shape, 3)
    raise AssertionError(f"{name} accepts neither pictures nor points")


def inputs(kind: str, net: Any, of: Spec, n: int = 8) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(1)
    batch = tiny.examples(of, n)
    return torch.randn(n, net.z_dim) if kind == "generator" else batch["x"], batch.get("y")


def perturb(net: nn.Module) -> None:
    """Away from parts that start at zero and let no gradient through."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_shapes_values_and_ranges(kind: str, name: str, shape: tuple[int, ...], classes: int) -> None:
    of = tiny.spec(shape, classes)
    net = make(kind, name, of)
    out = net(*inputs(kind, net, of))
    assert out.shape == ((8, *shape) if kind == "generator" else (8,)) and out.isfinite().all()
    if kind == "generator" and len(shape) == 3:
        assert out.abs().max() <= 1
    alone = net.eval()(*(t if t is None else t[:1] for t in inputs(kind, net, of)))
    assert alone.shape == (1, *out.shape[1:])


@pytest.mark.parametrize(("kind", "name", "args"), ALL, ids=str)
def test_every_option_learns_with_all_its_parameters(kind: str, name: str, args: dict[str, Any]) -> None:
    of = small(kind, name)
    net = tiny.network(kind, name, of, **args).eval()  # batch norm in training hides the biases before it
    perturb(net)
    x, y = inputs(kind, net, of, 16)
    out = net(x, y)
    loss = (out * torch.randn_like(out)).sum()
    if getattr(net, "classes", None) is not None:
        named = net.classify(net.features(x, y))
        assert named.shape == (16, 3)
        loss = loss + (named * torch.randn_like(named)).sum()
    loss.backward()
    idle = [
        key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not idle


@pytest.mark.parametrize(("kind", "name", "args"), ALL, ids=str)
def test_the_class_matters_and_weights_move_between_copies(kind: str, name: str, args: dict[str, Any]) -> None:
    of = small(kind, name)
    net, twin = (tiny.network(kind, name, of, **args) for _ in range(2))
    perturb(net)
    twin.load_state_dict(net.state_dict())
    x, y = inputs(kind, net, of)
    net.eval()
    assert y is not None and torch.equal(net(x, y), twin.eval()(x, y))
    changes = not torch.equal(net(x, y), net(x, (y + 1) % 3))
    assert changes == (args.get("condition") != "none")


@pytest.mark.parametrize(("kind", "name", "args"), ALL, ids=str)
def test_examples_do_not_touch_each_other(kind: str, name: str, args: dict[str, Any]) -> None:
    """But through batch statistics, where a network has them, in training."""
    of = small(kind, name)
    net = tiny.network(kind, name, of, **args).train()
    if tiny.batch_norms(net) or args.get("dropout"):
        net.eval()
    x, y = inputs(kind, net, of)
    assert y is not None
    net(x, y)  # spectral norms settle
    torch.testing.assert_close(net(x, y)[:2], net(x[:2], y[:2]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "name", "args"), [row for row in ALL if row[0] == "discriminator"], ids=str)
def test_critics_without_batch_norm_take_gradient_penalties(kind: str, name: str, args: dict[str, Any]) -> None:
    of = small(kind, name)
    net = tiny.network(kind, name, of, **args).eval()
    if tiny.batch_norms(net):
        pytest.skip("batch statistics")
    perturb(net)
    x, y = inputs(kind, net, of)
    registry.build("penalty", "r1")(net, x, x, y, None).mean().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads) and any(g.any() for g in grads)


@pytest.mark.parametrize("name", registry.names("generator"))
@pytest.mark.parametrize("output", ["clamp", "tanh"])
def test_pictures_stay_in_range_however_large_the_weights(name: str, output: str) -> None:
    of = tiny.spec((1, 8, 8), 3)
    net = make("generator", name, of, output=output)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(5)
    x = net(*inputs("generator", net, of))
    assert 0.5 < x.abs().max() <= 1


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_picture_too_small_is_refused_in_words(kind: str, name: str) -> None:
    of = tiny.spec((1, 1, 3))
    net = make(kind, name, of)
    assert net(*inputs(kind, net, of)).isfinite().all()


# ---- blocks ---------------------------------------------------------------------------------------------------------
def test_clamp_lets_only_inward_gradients_through() -> None:
    x = torch.tensor([-2.0, -2.0, -0.5, 0.5, 2.0, 2.0], requires_grad=True)
    out = blocks.limit(x, "clamp")
    assert out.tolist() == [-1, -1, -0.5, 0.5, 1, 1]
    push = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # descent moves against it
    out.backward(push)
    assert x.grad is not None and x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_levels_survive_both_scales_exactly() -> None:
    room = tiny.spec((1, 8, 8)).room
    levels, even = blocks.Levels(room), torch.arange(256) / 127.5 - 1
    spread = levels.spread(even)
    assert torch.equal(levels.snap(spread), even) and (spread[0], spread[-1]) == (-1, 1)
    gaps, whole = spread.diff(), sum(room) - (room[0] + room[-1]) / 2
    assert gaps.tolist() == pytest.approx([(a + b) / whole for a, b in zip(room, room[1:], strict=False)], abs=1e-6)


def test_a_roomy_level_is_hit_from_around() -> None:
    levels = blocks.Levels(tiny.spec((1, 8, 8)).room)
    flat = levels.spread(torch.tensor([-1.0, 254 / 127.5 - 1]))  # rooms of 64 and 30 thirds of a per cent or so
    near = levels.snap(flat[:, None] + torch.tensor([-0.06, 0.0, 0.06]))
    assert (near[1] == 254 / 127.5 - 1).all() and (near[0] == -1).all()
    assert levels.snap(torch.tensor([-3.0, 3.0])).tolist() == [-1, 1]


def test_levels_pass_gradients_and_what_is_not_finite() -> None:
    levels = blocks.Levels(tiny.spec((1, 8, 8)).room)
    for move in (levels.spread, levels.snap):
        x = torch.tensor([-2.0, -2.0, 0.3, 2.0, 2.0], requires_grad=True)
        move(x).backward(torch.tensor([1.0, -1.0, 0.5, 1.0, -1.0]))
        assert x.grad is not None and x.grad.tolist() == [0, -1, 0.5, 1, 0]
        assert not move(torch.tensor([torch.nan, torch.inf, -torch.inf])).isfinite().any()


def test_pictures_of_levels_are_exact_and_even_rooms_change_nothing() -> None:
    of = tiny.spec((1, 8, 8))
    x = (tiny.network("generator", "r3", of, levels=True)(torch.randn(9, 6)) + 1) * 127.5
    torch.testing.assert_close(x, x.round(), rtol=0, atol=1e-4)
    plain = Spec("image", (1, 8, 8), mean=(0.5,))
    for kind in KINDS:
        nets = [tiny.network(kind, "r3", plain, levels=levels) for levels in (False, True)]
        given = inputs(kind, nets[0], plain)
        assert torch.equal(*(net(*given) for net in nets))


def test_a_last_bias_starts_at_the_mean_of_the_data() -> None:
    of = Spec("image", (3, 8, 8), mean=(0.5, -0.25, 1.0))
    for output, want in (("clamp", [0.5, -0.25, 0.9]), ("tanh", torch.tensor([0.5, -0.25, 0.9]).atanh().tolist())):
        bias = nn.Parameter(torch.zeros(3))
        blocks.start_at(bias, of, output)  # type: ignore[arg-type]
        assert bias.tolist() == pytest.approx(want)
    net = tiny.network("generator", "r3", of)
    assert net.last.bias.tolist() == pytest.approx([0.5, -0.25, 0.9])  # type: ignore[union-attr]


def test_crop_takes_the_centre() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(blocks.crop(x, 2, 4), x[..., 2:4, 1:5]) and blocks.crop(x, 6, 6) is x


def test_residual_blocks_of_r3_start_as_the_identity() -> None:
    block = next(m for m in tiny.network("generator", "r3", tiny.spec((1, 8, 8))).modules() if hasattr(m, "close"))
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x), x)


def test_classes_of_r3_start_silent_so_that_the_latent_is_heard() -> None:
    of = tiny.spec((1, 8, 8), 3)
    x, y = inputs("generator", net := tiny.network("generator", "r3", of), of)
    assert y is not None and torch.equal(net(x, y), net(x, (y + 1) % 3)) and net(x, y).std(0).max() > 0


def test_texture_of_r3_starts_silent_and_is_learned_at_once() -> None:
    of = tiny.spec((1, 16, 16), 3)
    net: Any = tiny.network("discriminator", "r3", of, fine=4, texture=True)
    whole, logits = net.trunk.whole, net(*inputs("discriminator", net, of))
    for layer in (net.head.logit, net.head.project):
        (slope,) = torch.autograd.grad(logits.mean(), layer.weight, retain_graph=True)
        assert not layer.weight[:, whole:].any() and slope[:, whole:].all()


def test_blur_keeps_what_is_flat_and_takes_the_highest_frequency() -> None:
    blur, flat = blocks.Blur(2), torch.ones(1, 2, 8, 6)
    stripes = flat * torch.tensor([1.0, -1.0]).repeat(3)
    inside = slice(1, -1)
    assert torch.equal(blur(flat)[..., inside, inside], flat[..., inside, inside])
    assert not blur(stripes)[..., inside, inside].any()
