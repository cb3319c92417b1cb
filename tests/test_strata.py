"""Even batches: kinds of equal size, an order that spreads them, latents that stay normal and cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from gansmith.codecs._toys import draw
from gansmith.strata import coarse, evenly, opposites, strata


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (3, 5, 9), (1, 500), (64,)])
def test_kinds_are_equally_large(shape: tuple[int, ...]) -> None:
    x = torch.rand(203, *shape, generator=torch.Generator().manual_seed(0))
    for n, kinds in ((1, 1), (16, 16), (31, 16)):
        counts = np.bincount(strata(x, n))
        assert len(counts) == kinds and np.ptp(counts) <= 1


@pytest.mark.parametrize(
    "x", [torch.zeros(9, 4), torch.arange(3.0)[:, None], torch.full((5, 1, 8, 8), 7, dtype=torch.uint8)]
)
def test_alike_and_few_examples_have_kinds_too(x: torch.Tensor) -> None:
    kinds = strata(x, 64)
    assert len(kinds) == len(x) and 0 <= kinds.min() <= kinds.max() < 64
    assert sorted(evenly(np.arange(len(x)), kinds, np.random.default_rng(0))) == list(range(len(x)))


def test_patches_of_a_picture_are_means() -> None:
    x = torch.arange(28 * 28, dtype=torch.float32).reshape(1, 1, 28, 28)
    assert coarse(x)[0, 0] == x[0, 0, :4, :4].mean() and coarse(x).shape == (1, 49)
    assert np.array_equal(coarse(torch.eye(3)), np.eye(3))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300), st.integers(0, 2**32 - 1), st.integers(1, 64))
def test_any_stretch_holds_every_kind_in_its_share(kinds: list[int], seed: int, batch: int) -> None:
    rng, told = np.random.default_rng(seed), np.array(kinds)
    order = evenly(rng.permutation(len(told)), told, rng)
    assert sorted(order) == list(range(len(told)))
    for start in range(0, len(order) - batch + 1, batch):
        held = np.bincount(told[order[start : start + batch]], minlength=6)
        assert abs(held - batch * np.bincount(told, minlength=6) / len(told)).max() <= 6


def test_batches_of_points_lose_the_luck_of_the_draw() -> None:
    x, rng = draw("ring8", seed=0).astype(np.float32), np.random.default_rng(0)
    even = evenly(rng.permutation(len(x)), strata(torch.from_numpy(x), 64), rng)
    spread = [
        x[order[: len(x) // 64 * 64]].reshape(-1, 64, 2).mean(1).var(0).sum()
        for order in (even, rng.permutation(len(x)))
    ]
    assert spread[0] < 0.1 * spread[1]


@pytest.mark.parametrize(("n", "z_dim"), [(64, 64), (192, 8), (7, 3), (1, 5), (4, 100), (6, 1)])
def test_latents_are_normal_and_come_in_opposites(n: int, z_dim: int) -> None:
    rng = torch.Generator().manual_seed(1)
    draws = torch.stack([opposites(n, z_dim, rng) for _ in range(600)])
    assert draws.shape == (600, n, z_dim) and torch.equal(draws[:, n - n // 2 :], -draws[:, : n // 2])
    for i, j in ((0, 0), (n - 1, z_dim - 1), (n // 2, z_dim // 2)):
        assert kstest(draws[:, i, j].numpy(), "norm").pvalue > 1e-3
    first = draws[:, 0].square().sum(1).numpy()
    assert kstest(first, "chi2", args=(z_dim,)).pvalue > 1e-3
    pairs = draws[0, : n - n // 2][:z_dim]
    products = pairs @ pairs.T
    assert torch.allclose(products, products.diagonal().diag(), atol=1e-4)
