"""Points: modes are counted by the protocol of PacGAN, narrow cores are seen, and transport is exact where it says so."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gansmith import registry
from gansmith.codecs.points import modes as known_modes
from gansmith.errors import DataError
from gansmith.metrics.evidence import Evidence, Sample
from gansmith.metrics.points import EXACT, count_modes, transport_costs

modes, w2 = registry.get("metric", "modes"), registry.get("metric", "w2")


def mixture(name: str, n: int, seed: int, width: float = 1.0) -> np.ndarray:
    means, sd = known_modes(name) or (np.empty((0, 2)), 0.0)
    rng = np.random.default_rng(seed)
    return means[rng.integers(len(means), size=n)] + width * sd * rng.standard_normal((n, 2))


def evidence(fake: np.ndarray, held: np.ndarray, name: str = "", kind: str = "points") -> Evidence:
    a, b = (Sample(x.astype(np.float32), x.astype(np.float32)) for x in (fake, held))
    return Evidence(kind, a, b, modes=known_modes(name))


@pytest.mark.parametrize(("name", "k", "kl"), [("grid25", 25, 0.0052), ("ring8", 8, 0.0015)])
def test_a_true_sampler_scores_as_tabled(name: str, k: int, kl: float) -> None:
    found = [count_modes(mixture(name, 2500, seed), *known_modes(name)) for seed in range(40)]  # type: ignore[misc]
    assert {one.modes for one in found} == {k}
    assert np.mean([one.high_quality for one in found]) == pytest.approx(0.989, abs=0.001)
    assert np.std([one.high_quality for one in found]) < 0.004
    assert np.mean([one.kl for one in found]) == pytest.approx(kl, abs=0.0006)


def test_missing_modes_and_strays_are_counted() -> None:
    means, sd = known_modes("grid25") or (np.empty((0, 2)), 0.0)
    x = np.concatenate([np.repeat(means[:5], 100, 0), np.full((500, 2), 1.0)])  # (1, 1) is between four modes
    found = count_modes(x, means, sd)
    assert (found.modes, found.high_quality, found.core) == (5, 0.5, 0)
    assert found.kl == pytest.approx(math.log(5))
    nothing = count_modes(np.full((10, 2), 1.0), means, sd)
    assert nothing[:2] == (0, 0.0) and math.isnan(nothing.kl) and math.isnan(nothing.core)
    assert count_modes(np.full((10, 2), np.nan), means, sd)[:2] == (0, 0.0)
    with pytest.raises(DataError, match="in 2 dimensions"):
        count_modes(np.zeros((5, 3)), means, sd)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_core_width_sees_modes_that_are_too_narrow(width: float) -> None:
    found = modes(evidence(mixture("grid25", 3000, 1, width), mixture("grid25", 3000, 2), "grid25"))
    core = found["core_width"]
    assert core.value == pytest.approx(width, abs=0.06) and core.low <= core.value <= core.high
    assert found["modes"].value == 25 and {e.n for e in found.values()} == {2500}
    assert found["mode_kl"].low <= found["mode_kl"].value <= found["mode_kl"].high < 0.02
    assert found["high_quality"].value > 0.98


def test_metrics_of_points_are_silent_elsewhere() -> None:
    x = mixture("grid25", 300, 1)
    assert modes(evidence(x, x)) == {}
    assert w2(evidence(x, x, kind="image")) == {}


# ---- transport ------------------------------------------------------------------------------------------------------
def test_transport_of_a_shift_is_its_length() -> None:
    x = np.random.default_rng(0).standard_normal((500, 2))
    assert transport_costs(x, x[::-1]) == pytest.approx(np.zeros(500))
    assert transport_costs(x, x + [3, 4]).mean() == pytest.approx(25)
    many = np.random.default_rng(0).standard_normal((EXACT + 1, 2))
    assert transport_costs(many, many + [3, 4]).mean() == pytest.approx(
        12.5, rel=0.1
    )  # half of it in a random direction


def test_transport_is_the_cheapest_of_all_assignments() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 6, 3))
    best = min(((x - y[list(order)]) ** 2).sum() for order in itertools.permutations(range(6)))
    assert transport_costs(x, y).sum() == pytest.approx(best)


def test_transport_needs_equal_clouds_and_finite_numbers() -> None:
    with pytest.raises(DataError, match="as many points"):
        transport_costs(np.zeros((3, 2)), np.zeros((4, 2)))
    assert np.isnan(transport_costs(np.full((3, 2), np.nan), np.zeros((3, 2)))).all()


@pytest.mark.parametrize(("n", "name"), [(400, "w2"), (EXACT + 500, "sliced_w2")])
def test_distance_grows_with_what_is_wrong(n: int, name: str) -> None:
    held = mixture("ring8", n, 2)
    far = {k: w2(evidence(x, held))[name] for k, x in (("real", mixture("ring8", n, 1)), ("moved", held + 0.5))}
    assert far["real"].value < 0.8 * far["moved"].value
    assert all(e.low <= e.value <= e.high and e.n == n for e in far.values())


def test_sorted_files_are_not_cut_off_in_the_middle() -> None:
    """Fewer fakes than held-out points: these are drawn from all of the file."""
    held = np.sort(mixture("grid25", 2000, 2), axis=0)
    found = w2(evidence(np.sort(mixture("grid25", 400, 1), axis=0), held))["w2"]
    assert found.value < 1.5
