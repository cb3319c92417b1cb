"""Losses at logits whose values are known; penalties on critics whose slopes are known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from gansmith import registry
from gansmith.base import Clock
from gansmith.config import build_game
from gansmith.errors import UsageError
from gansmith.losses.penalties import sloped
from gansmith.networks import blocks

LOSSES, PENALTIES = registry.names("loss"), registry.names("penalty")
LOGITS = torch.linspace(-3, 3, 7)
LOG2 = math.log(2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_per_example_and_finite_at_extremes(name: str) -> None:
    loss = registry.build("loss", name)
    for scale in (1, 1e4):
        real, fake = (LOGITS * scale / 3).requires_grad_(), (-LOGITS * scale / 3).requires_grad_()
        for value in (loss.d(real, fake), loss.g(real, fake)):
            assert value.shape == real.shape
            grads = torch.autograd.grad(value.sum(), (real, fake), allow_unused=True)
            assert all(g.isfinite().all() for g in (value, *grads) if g is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_the_players_pull_apart(name: str) -> None:
    """Near a tie D raises real logits and lowers fake ones; G raises fake ones. Only a paired G reads the real ones."""
    loss = registry.build("loss", name)
    real, fake = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    d_real, d_fake = torch.autograd.grad(loss.d(real, fake).sum(), (real, fake), allow_unused=True)
    assert (d_real < 0).all() and (d_fake is None or (d_fake >= 0).all())
    (g_fake,) = torch.autograd.grad(loss.g(real, fake).sum(), fake)
    assert (g_fake < 0).all()
    if not loss.paired:
        assert torch.equal(loss.g(None, fake), loss.g(real, fake))


@pytest.mark.parametrize(
    ("name", "d", "g"),
    [
        ("minimax", 2 * LOG2, -LOG2), ("nonsaturating", 2 * LOG2, LOG2), ("hinge", 2, 0), ("least-squares", 0.5, 0.5),
        ("wasserstein", 0, 0), ("relativistic", LOG2, LOG2),
    ],
)  # fmt: skip
def test_values_at_zero_logits(name: str, d: float, g: float) -> None:
    loss, zero = registry.build("loss", name), torch.zeros(3)
    torch.testing.assert_close(loss.d(zero, zero), torch.full((3,), float(d)))
    torch.testing.assert_close(loss.g(zero, zero), torch.full((3,), float(g)))


@pytest.mark.parametrize(("name", "value"), [("relativistic", LOG2), ("wasserstein", 0.0)])
def test_equal_logits_of_any_offset(name: str, value: float) -> None:
    loss = registry.build("loss", name)
    torch.testing.assert_close(loss.d(LOGITS + 5, LOGITS + 5), torch.full((7,), value))


def test_least_squares_targets_and_minimax_is_zero_sum_on_fakes() -> None:
    squares, minimax = registry.build("loss", "least-squares"), registry.build("loss", "minimax")
    one, zero = torch.ones(1), torch.zeros(1)
    assert squares.d(one, zero) == 0 and squares.g(None, one) == 0 and squares.d(zero, one) == 1
    real = torch.full_like(LOGITS, 1e4)  # D's loss on it is zero
    torch.testing.assert_close(minimax.g(None, LOGITS), -minimax.d(real, LOGITS))


def test_hinge_stops_at_its_margins() -> None:
    d = registry.build("loss", "hinge").d
    assert d(torch.tensor([1.0, 9.0]), torch.tensor([-1.0, -9.0])).tolist() == [0, 0]


# ---- penalties ------------------------------------------------------------------------------------------------------
class Linear(nn.Module):
    """D(x) = w . x, whose slope is |w| everywhere."""

    def __init__(self, norm: float):
        super().__init__()
        w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.w = nn.Parameter(norm * w / w.norm())

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return (x * self.w).flatten(1).sum(1)


REAL, FAKE = torch.ones(5, 3, 4, 4), -torch.ones(5, 3, 4, 4)
U = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_per_example_and_pulls_a_steep_critic_down(name: str) -> None:
    critic, u = Linear(4.0), U
    value = registry.build("penalty", name)(critic, REAL, FAKE, None, u)
    assert value.shape == (5,) and value.dtype == torch.float32
    (grad,) = torch.autograd.grad(value.sum(), critic.w)
    assert (grad * critic.w).sum() > 0  # descent shortens w


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
def test_penalties_of_a_linear_critic(norm: float) -> None:
    want = {"r1": norm**2 / 2, "r2": norm**2 / 2, "wgan-gp": (norm - 1) ** 2}
    for name, value in want.items():
        got = registry.build("penalty", name)(Linear(norm), REAL, FAKE, None, U)
        torch.testing.assert_close(got, torch.full((5,), value), msg=name)


def test_where_each_penalty_looks() -> None:
    """On D(x) = |x|^2 / 2 the slope is |x|: it tells which examples were used, and that y comes along."""
    seen = []

    def critic(x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        seen.append(y)
        return 0.5 * x.flatten(1).square().sum(1)

    real, fake, y = torch.tensor([[3.0, 4.0]] * 5), torch.zeros(5, 2), torch.arange(5)
    slope = 5 * (1 - U)
    want = {"r1": torch.full((5,), 12.5), "r2": torch.zeros(5), "wgan-gp": (slope - 1).square()}
    for name, value in want.items():
        got = registry.build("penalty", name)(critic, real, fake, y, U)
        torch.testing.assert_close(got, value, atol=1e-4, rtol=1e-4)
    assert all(label is y for label in seen)


def test_a_gradient_penalty_stays_finite_on_a_flat_critic() -> None:
    for name in PENALTIES:
        critic = Linear(1.0)
        critic.w.data.zero_()
        value = registry.build("penalty", name)(critic, REAL, FAKE, None, U).mean()
        (grad,) = torch.autograd.grad(value, critic.w)
        assert value.isfinite() and grad.isfinite().all(), name


def test_r3_penalises_half_gamma_of_r1_and_of_r2() -> None:
    of = tiny.spec((2,), 3)
    run = tiny.game_run("r3").set("game.args.gamma=3", "game.args.lazy=1")
    game, batch = build_game(run, of), tiny.examples(of, 8) | {"z": torch.randn(8, 6)}
    got = game.d_loss(dict(batch), Clock())["penalty"]
    r1, r2 = (registry.build("penalty", name)(game.D, batch["x"], game.G(batch["z"], batch["y"]), batch["y"], U)
              for name in ("r1", "r2"))  # fmt: skip
    torch.testing.assert_close(got, 3 * (r1.mean() + r2.mean()))


# ---- logits and slopes in four passes -------------------------------------------------------------------------------
def d_loss(critic: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """Relativistic loss and penalty of one batch, real examples first."""
    logits, slopes = sloped(critic, x, y)
    real, fake = logits.chunk(2)
    return F.softplus(fake - real).mean() + 2 * slopes.mean()


def homogeneous(name: str, shape: tuple[int, ...], condition: str, last: bool = False, **args: Any) -> Any:
    """A homogeneous discriminator in float64 with no weight at zero, and a batch; skips if it is none."""
    of = tiny.spec(shape, 3)
    try:
        net: Any = tiny.network("discriminator", name, of, condition=condition, **args)
    except UsageError as error:
        pytest.skip(str(error))
    if not net.homogeneous:
        pytest.skip("not homogeneous")
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    if last:
        net = net.to(memory_format=torch.channels_last)
    batch = tiny.examples(of, 6)
    return net, batch["x"].double(), batch["y"]


CRITICS = pytest.mark.parametrize("name", registry.names("discriminator"))


@CRITICS
@pytest.mark.parametrize("condition", ["projection", "concat", "none"])
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 33, 50), (12, 9, 20), (1, 28, 28)], ids=str)
def test_a_homogeneous_critic_learns_the_same_in_fewer_passes(
    name: str, shape: tuple[int, ...], condition: str
) -> None:
    args = {"fine": 4, "texture": True} if name == "r3" and shape[-1] == 28 else {}  # what `auto` asks of it
    net, x, y = homogeneous(name, shape, condition, last=shape == (1, 28, 28), **args)
    results = []
    for net.homogeneous in (False, True):
        loss = d_loss(net, x, y)
        results.append([*sloped(net, x, y), loss, *torch.autograd.grad(loss, [*net.parameters()])])
    for apart, joined in zip(*results, strict=True):
        torch.testing.assert_close(joined, apart, rtol=1e-10, atol=1e-10)


def test_slopes_of_a_critic_that_sees_levels_are_of_what_it_sees() -> None:
    net, x, y = homogeneous("r3", (1, 28, 28), "projection", levels=True, fine=4)
    x = (x * 127.5).round() / 127.5
    logits, slopes = sloped(net, x, y)
    torch.testing.assert_close(logits, net(x, y))
    seen, net.levels = net.see(x), None
    torch.testing.assert_close(slopes, sloped(net, seen, y)[1])
    assert not torch.equal(seen, x)


@CRITICS
def test_ones_make_a_critic_homogeneous(name: str) -> None:
    net, x, y = homogeneous(name, (1, 8, 8), "concat")
    ones = x.new_ones(len(x))
    torch.testing.assert_close(net(x, y, ones), net(x, y))
    torch.testing.assert_close(net(3 * x, y, 3 * ones), 3 * net(x, y))


def test_any_other_critic_keeps_its_exact_gradient() -> None:
    """Curved activations: the slope's own slope counts, through every layer."""
    critic: Any = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1)).double()
    x, params = torch.randn(6, 2, dtype=torch.float64), dict(critic.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        named = dict(zip(params, values, strict=True))
        return d_loss(lambda x, y: torch.func.functional_call(critic, named, (x,))[:, 0], x, None)

    assert torch.autograd.gradcheck(loss, tuple(params.values()))


class Convolutions(TorchDispatchMode):
    """Counts convolutions: each result of one, forward or backward."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.count += 1
        elif func is torch.ops.aten.convolution_backward.default:
            self.count += sum(args[-1][:2])
        return func(*args, **(kwargs or {}))


def test_logits_and_slopes_of_r3_take_four_passes() -> None:
    """Forward, slope, and the slope's two; nothing goes back through the forward pass."""
    net, x, y = homogeneous("r3", (1, 28, 28), "none")
    layers = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    with Convolutions() as seen:
        d_loss(net, x, y).backward()
    assert seen.count == 4 * layers


def test_the_mean_of_2x2_and_its_gradients() -> None:
    x, push = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 2, 3).double()
    torch.testing.assert_close(blocks.pool(x), F.avg_pool2d(x, 2))
    ours, torchs = (torch.autograd.grad((f(x) * push).sum(), x) for f in (blocks.pool, lambda x: F.avg_pool2d(x, 2)))
    torch.testing.assert_close(ours, torchs)
    assert torch.autograd.gradgradcheck(blocks.pool, x)
