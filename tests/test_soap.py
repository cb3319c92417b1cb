"""SOAP: Adam where there is no basis to turn into, and blind to rotations where there is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import tiny
from gansmith import soap
from gansmith.config import Optimiser
from gansmith.session import check_facts
from gansmith.soap import Soap, matrix, shaped

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def net() -> nn.Sequential:
    """A convolution (channels last), a grouped one and a matrix, with their biases."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.LeakyReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 16, 4)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def trained(make: Make) -> list[Tensor]:
    """Weights after a regression."""
    model, x, y = net(), torch.randn(16, 3, 8, 8), torch.randn(16, 4)
    optimiser = make([*model.parameters()])
    for _ in range(20):
        loss = (model(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("shape", [(5,), (4, 6), (6, 5, 3, 3), (7, 2, 3)])
def test_a_weight_is_a_matrix_and_back(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape)
    assert torch.equal(shaped(matrix(w), w), w) and matrix(w).shape[0] == shape[0]


def test_the_matrix_of_a_convolution_with_its_channels_last_is_no_copy() -> None:
    w = torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last)
    assert matrix(w).data_ptr() == w.data_ptr()


@pytest.mark.parametrize("betas", [(0.0, 0.9), (0.5, 0.99)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_a_basis_it_is_adam(betas: tuple[float, float], decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LARGEST", 0)
    ours = trained(lambda p: Soap(p, 1e-2, betas, weight_decay=decay))
    theirs = trained(lambda p: torch.optim.Adam(p, 1e-2, betas=betas, weight_decay=decay))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def rotation(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


def left_over(make: Make, seed: int) -> float:
    """What 150 updates leave of a quadratic that is steep in some directions, none of them an axis, and flat in others."""
    torch.manual_seed(seed)
    slopes = torch.diag(torch.logspace(0, -2, 8, dtype=torch.float64))
    a, b = (rotation(8) @ slopes @ rotation(8) for _ in range(2))
    goal = a @ torch.randn(8, 8, dtype=torch.float64) @ b
    w = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
    optimiser, losses = make([w]), []
    for _ in range(150):
        loss = (a @ w @ b - goal).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[-1] / losses[0]


@pytest.mark.parametrize("seed", range(3))
def test_it_gets_further_than_adam_at_any_rate(seed: int) -> None:
    ours = left_over(lambda p: Soap(p, 0.03, (0.0, 0.9)), seed)
    for rate in (0.003, 0.01, 0.03):
        assert ours < 0.5 * left_over(lambda p, rate=rate: torch.optim.Adam(p, rate, betas=(0.0, 0.9)), seed)


def descent(make: Make, left: Tensor, right: Tensor) -> list[float]:
    """Losses of a quadratic of a matrix whose rows and columns are rotated."""
    torch.manual_seed(1)
    a, b, goal = (torch.randn(6, 6, dtype=torch.float64) for _ in range(3))
    w = nn.Parameter(left @ torch.randn(6, 6, dtype=torch.float64) @ right.T)
    optimiser, losses = make([w]), []
    for _ in range(25):
        loss = (a @ (left.T @ w @ right) @ b - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("beta1", [0.0, 0.5])
def test_rotated_rows_and_columns_make_no_difference(beta1: float) -> None:
    torch.manual_seed(2)
    turns = [rotation(6) for _ in range(2)]
    plain = [torch.eye(6, dtype=torch.float64)] * 2

    def gap(make: Make) -> float:
        return max(abs(a - b) for a, b in zip(descent(make, *plain), descent(make, *turns), strict=True))

    assert gap(lambda p: Soap(p, 1e-2, (beta1, 0.9))) < 1e-6
    assert gap(lambda p: torch.optim.Adam(p, 1e-2, betas=(beta1, 0.9))) > 1e-2  # which the test would notice


def test_what_is_kept_lies_in_memory_as_it_will_when_loaded() -> None:
    """Else a resumed training rounds differently."""
    model = net()
    optimiser = Soap(model.parameters(), 1e-2, (0.0, 0.9))
    for _ in range(2):
        model(torch.randn(16, 3, 8, 8)).square().mean().backward()
        optimiser.step()
        assert all(v.is_contiguous() for state in optimiser.state.values() for v in state.values())


@pytest.mark.parametrize("slot", ["step", "first", "second", "left", "right_basis"])
def test_a_state_of_the_wrong_shape_is_refused(slot: str) -> None:
    """Which a stranger may have written."""
    optimisers = {player: Optimiser(name="soap") for player in ("G", "D")}
    t = tiny.trained(tiny.game_run("gan", "dcgan", optimisers=optimisers), tiny.spec(tiny.PICTURES), 1)
    check_facts(t)
    held = next(s for s in t.players["D"].optimiser.state.values() if "left" in s)
    held[slot] = held[slot].repeat(2, 2) if held[slot].dim() else held[slot].repeat(2)
    with pytest.raises(ValueError, match="optimiser of D does not fit"):
        check_facts(t)
