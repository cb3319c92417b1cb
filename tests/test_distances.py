"""Distances and coverage: against other implementations, against closed forms, and in the direction of known damage."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gansmith.errors import DataError
from gansmith.metrics._neighbours import nearest
from gansmith.metrics.coverage import coverage, prdc
from gansmith.metrics.evidence import Estimate, Evidence, Sample
from gansmith.metrics.frechet import Groups, Moments, distances, fd_inf, frechet
from gansmith.metrics.kernel import cmmd, cubic_mmd, gaussian_distance, kernel_distance, kid, median_distance

HERE = Path(__file__).parent
VECTORS = json.loads((HERE / "data/oracle/distances.json").read_text("utf-8"))
METRICS: tuple[Callable[[Evidence], dict[str, Estimate]], ...] = (
    distances, kernel_distance, gaussian_distance, coverage,
)  # fmt: skip
spec = importlib.util.spec_from_file_location("oracle", HERE.parent / "benchmarks/oracle.py")
assert spec and spec.loader
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def evidence(fake: np.ndarray, held: np.ndarray, train: np.ndarray | None = None, kind: str = "image") -> Evidence:
    samples = [Sample(x, x) for x in (fake, held, held if train is None else train)]
    return Evidence(kind, samples[0], samples[1], train=samples[2])


def measured(given: Evidence) -> dict[str, Estimate]:
    return {name: estimate for metric in METRICS for name, estimate in metric(given).items()}


# ---- other implementations ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("entry", VECTORS["cases"], ids=lambda entry: entry["case"]["name"])
def test_figures_equal_torch_fidelity_and_prdc(entry):
    assert oracle.ours(*oracle.features(entry["case"])) == pytest.approx(entry["expected"], rel=oracle.TOLERANCE)


@pytest.mark.slow
def test_two_normal_sets_in_1000_dimensions():
    """The example of prdc's documentation. Its figures are of one unknown draw; density differs by .1 between draws."""
    entry = VECTORS["documented"]
    found = {name: each.mean() for name, each in prdc(*oracle.features(entry["case"]))._asdict().items()}
    assert found == pytest.approx(entry["expected"], rel=oracle.TOLERANCE)
    assert [found[name] for name in ("precision", "recall", "coverage")] == pytest.approx(
        [0.4772, 0.4705, 0.9735], abs=0.04
    )
    assert found["density"] == pytest.approx(1.0555, abs=0.3)


# ---- nearest neighbours -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "m", "d", "k", "own"), [(50, 50, 3, 5, True), (300, 700, 7, 4, False), (6, 6, 2, 5, True)]
)
def test_nearest_equals_brute_force_far_from_zero(n, m, d, k, own):
    base = normal(0, m, d) + 1000
    base[3] = base[4]  # copies are neighbours at 0 of each other
    queries = base if own else normal(1, n, d) + 1000
    all_pairs = np.linalg.norm(queries[:, None].astype(np.float64) - base[None], axis=2)
    if own:
        np.fill_diagonal(all_pairs, np.inf)
    distance, index = nearest(queries, base, k, exclude_self=own)
    assert np.allclose(distance, np.sort(all_pairs)[:, :k], rtol=1e-5, atol=1e-7)
    assert np.allclose(np.take_along_axis(all_pairs, index, 1), distance, rtol=1e-5, atol=1e-7)


def test_nearest_does_not_depend_on_blocks(monkeypatch):
    x = normal(0, 200, 4)
    whole = nearest(x, x, 3, exclude_self=True)
    monkeypatch.setattr("gansmith.metrics._neighbours.BLOCK", 700)
    assert all(np.array_equal(a, b) for a, b in zip(whole, nearest(x, x, 3, exclude_self=True), strict=True))


# ---- Frechet distance ---------------------------------------------------------------------------------------------------
rows = arrays(np.float64, st.tuples(st.integers(3, 40), st.just(4)), elements=st.floats(-10, 10, width=32))


@given(rows, rows)
@settings(max_examples=50, deadline=None)
def test_frechet_is_symmetric_and_zero_for_equals(x, y):
    a, b = Moments.of(x), Moments.of(y)
    assert frechet(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-5, abs=1e-5)


@given(rows, st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_a_shift_by_c_is_at_c_squared(x, c):
    moved = x + np.array([0, c, 0, 0])
    assert frechet(Moments.of(x), Moments.of(moved)) == pytest.approx(c**2, rel=1e-5, abs=1e-5)


@given(rows, rows, st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_frechet_does_not_change_under_rotation(x, y, seed):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))
    plain, turned = frechet(Moments.of(x), Moments.of(y)), frechet(Moments.of(x @ turn), Moments.of(y @ turn))
    assert turned == pytest.approx(plain, rel=1e-4, abs=1e-4)


@given(rows, rows)
@settings(max_examples=50, deadline=None)
def test_moments_of_parts_add_up(x, y):
    whole, parts = Moments.of(np.vstack([x, y])), Moments.of(x) + Moments.of(y)
    assert parts.n == whole.n
    assert np.allclose(parts.mean, whole.mean)
    assert np.allclose(parts.covariance, np.cov(np.vstack([x, y]), rowvar=False))


def test_moments_keep_their_digits_far_from_zero():
    x = normal(0, 5000, 3).astype(np.float64) + 1e7
    assert np.allclose(Moments.of(x).covariance, np.cov(x - 1e7, rowvar=False), rtol=1e-6, atol=1e-6)


def test_fd_inf_takes_the_error_of_small_counts_out():
    rng = np.random.default_rng(0)
    fake, real = normal(1, 4000, 32), normal(2, 3000, 32)
    fake[:, 0] += 0.5
    biased = frechet(Moments.of(fake), Moments.of(real))
    limit, _ = fd_inf(Groups(fake, rng), Groups(real, rng), rng)
    assert biased > 0.36
    assert limit == pytest.approx(0.25, abs=0.1)


# ---- kernel distances ---------------------------------------------------------------------------------------------------
def test_cubic_mmd_is_unbiased():
    found = [cubic_mmd(*torch.from_numpy(normal(seed, 2, 50, 4))) for seed in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)
    assert min(found) < 0 < max(found)


def test_kid_is_what_its_subsets_say():
    x, y = normal(0, 800, 6), normal(1, 800, 6) + 0.3
    value, error = kid(x, y, np.random.default_rng(0))
    assert value == pytest.approx(cubic_mmd(torch.from_numpy(x), torch.from_numpy(y)), abs=2 * error)
    assert 0 < error < value / 2


def test_cmmd_equals_its_definition():
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (normal(0, 130, 5), normal(1, 70, 5) + 0.5))
    a, b, c = (
        np.exp(-(np.linalg.norm(one[:, None] - two[None], axis=2) ** 2) / (2 * 0.8**2)).mean()
        for one, two in ((x, x), (y, y), (x, y))
    )
    value, error = cmmd(7 * x, 3 * y, 0.8, np.random.default_rng(0))
    assert value == pytest.approx(1000 * (a + b - 2 * c), rel=1e-4)
    assert 0 < error < value


def test_median_distance_is_of_rows_of_unit_length():
    x = np.eye(4, dtype=np.float32)[np.arange(400) % 4] * 9
    assert median_distance(x, np.random.default_rng(0)) == pytest.approx(np.sqrt(2))


# ---- known damage -------------------------------------------------------------------------------------------------------
def test_growing_noise_raises_every_distance_and_lowers_precision_and_coverage():
    real, base, noise = normal(0, 1000, 8), normal(1, 1000, 8), normal(2, 1000, 8)
    steps = [measured(evidence(base + share * noise, real)) for share in (0, 0.4, 0.8, 1.6)]
    for name in ("fd", "fd_inf", "kid"):  # noise that is alike in all directions stays so at the unit length of cmmd
        values = [step[name].value for step in steps]
        assert values == sorted(values), name
    for name in ("precision", "density", "coverage"):
        values = [step[name].value for step in steps]
        assert values == sorted(values, reverse=True), name


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision():
    def mixture(seed: int, modes: int) -> np.ndarray:
        return normal(seed, 900, 6) + 5 * np.eye(6, dtype=np.float32)[np.arange(900) % modes]

    whole, less = (measured(evidence(mixture(1, modes), mixture(0, 5))) for modes in (5, 4))
    for name in ("recall", "coverage"):
        assert less[name].value < whole[name].value - 0.15
    assert less["precision"].value == pytest.approx(whole["precision"].value, abs=0.05)
    for name in ("fd", "kid", "cmmd"):
        assert less[name].value > whole[name].value


def test_intervals_hold_the_value_and_the_truth():
    found = measured(evidence(normal(0, 1200, 8) + 0.2, normal(1, 1000, 8), normal(2, 3000, 8)))
    assert set(found) == {"fd", "fd_train", "fd_inf", "kid", "cmmd", "precision", "recall", "density", "coverage"}
    for name, estimate in found.items():
        assert estimate.low < estimate.value < estimate.high, name
        assert estimate.n == (1200 if name == "fd_train" else 1000), name
        assert estimate.reference == ("T" if name == "fd_train" else "H"), name
    assert found["fd_inf"].low < 8 * 0.2**2 < found["fd_inf"].high


def test_figures_do_not_depend_on_the_order_of_classes():
    """Files are often sorted by class; balls and groups must not be."""
    real = np.vstack([normal(i, 200, 4) + 3 * i for i in range(4)])
    fake = np.vstack([normal(9 + i, 300, 4) + 3 * i for i in range(4)])
    found = measured(evidence(fake, real))
    assert found["coverage"].value > 0.9
    assert found["fd"].high < 20


# ---- bad input ----------------------------------------------------------------------------------------------------------
def test_nothing_is_claimed_from_too_few():
    found = measured(evidence(normal(0, 5, 8), normal(1, 5, 8)))
    assert found.keys() >= {"fd", "fd_train", "kid", "precision", "coverage"}
    assert all(np.isnan(estimate.value) for estimate in found.values())


def test_constant_features_give_an_honest_answer():
    found = measured(evidence(np.ones((50, 4), np.float32), np.zeros((50, 4), np.float32)))
    assert found["fd"].value == pytest.approx(4)
    assert np.isnan(found["cmmd"].value)
    assert np.isnan(found["coverage"].value)
    collapsed = measured(evidence(np.ones((50, 4), np.float32), normal(0, 50, 4)))
    assert collapsed["recall"].value == 0
    assert collapsed["coverage"].value < 0.5


def test_copies_are_covered_even_by_balls_that_hold_copies_alone():
    real = np.repeat(normal(0, 20, 64), 10, axis=0)
    assert prdc(real, real).coverage.all()


def test_cmmd_leaves_points_alone():
    assert gaussian_distance(evidence(normal(0, 50, 2), normal(1, 50, 2), kind="points")) == {}


@pytest.mark.parametrize(
    "work",
    [
        lambda x, y: frechet(Moments.of(x), Moments.of(y)),
        lambda x, y: kid(x, y, np.random.default_rng(0)),
        lambda x, y: cmmd(x, y, 1.0, np.random.default_rng(0)),
        lambda x, y: prdc(x, y),
        lambda x, y: nearest(x, y),
    ],
)
def test_bad_features_are_refused(work):
    good, broken = normal(0, 40, 4), normal(0, 40, 4)
    broken[7, 2] = np.nan
    for x, y, words in (
        (good, broken, "NaN"), (broken, good, "NaN"), (good, normal(0, 40, 5), "columns|width"), (good[0], good, "shape"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            work(x, y)


def test_too_few_rows_are_refused():
    x = normal(0, 5, 3)
    with pytest.raises(DataError, match="at least 6"):
        nearest(x, x, 5, exclude_self=True)
    with pytest.raises(DataError, match="at least 8"):
        kid(x, x, np.random.default_rng(0))
    with pytest.raises(DataError, match="twice"):
        nearest(x[:2], x, 1, exclude_self=True)
