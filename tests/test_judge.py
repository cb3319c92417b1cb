"""The fresh judge: blind where there is nothing to see, sharp where there is, and honest about what it cannot tell."""

import math

import numpy as np
import pytest

from gansmith import registry
from gansmith.errors import DataError, UsageError
from gansmith.metrics import _convjudge
from gansmith.metrics import judge as judging
from gansmith.metrics.evidence import Evidence, Sample
from gansmith.metrics.judge import ladder, rule
from gansmith.metrics.spoil import blur, double_class, drop_class, neighbour_distance, noise, spoil
from gansmith.metrics.verdict import (
    Ruling,
    auc,
    auc_p,
    binomial_p,
    n_to_certify,
    n_to_detect,
    ruling,
    verdict,
    wilson,
)

POINTS = ladder("points")


def points(n: int, seed: int, shift: float = 0.0) -> Sample:
    """Standard normal points in the plane, moved along the first axis."""
    x = np.random.default_rng(seed).standard_normal((n, 2)).astype(np.float32)
    x[:, 0] += shift
    return Sample(x, x)


def pictures(n: int, seed: int, shape: tuple[int, ...] = (1, 8, 8)) -> Sample:
    """Bright discs on black, anti-aliased."""
    rng = np.random.default_rng(seed)
    _, height, width = shape
    centre = rng.uniform(0.3, 0.7, (n, 2, 1, 1)) * np.array([height, width]).reshape(1, 2, 1, 1)
    radius = rng.uniform(0.15, 0.3, (n, 1, 1)) * min(height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    distance = np.hypot(y - centre[:, 0], x - centre[:, 1])
    disc = np.clip(255 * (radius - distance + 0.5), 0, 255)[:, None] * rng.uniform(0.6, 1, (n, shape[0], 1, 1))
    return Sample(disc.astype(np.uint8), np.zeros((n, 2), np.float32))


def found(accuracy: float, n: int = 4000) -> Ruling:
    """A ruling of that accuracy, as a judge with two scores gives it."""
    right = round(accuracy * n / 2)
    real, fake = (np.repeat(scores, [right, n // 2 - right]) for scores in ([0.1, 0.9], [0.9, 0.1]))
    return ruling(real, fake)


# ---- numbers --------------------------------------------------------------------------------------------------------
def test_numbers_of_examples_are_those_of_the_table() -> None:
    edges = (0.005, 0.01, 0.02, 0.03, 0.05, 0.10)
    detect, certify = (61_825, 15_455, 3_862, 1_715, 616, 152), (61_827, 15_457, 3_864, 1_717, 618, 155)
    assert [n_to_detect(e) for e in edges] == pytest.approx(detect, abs=2)
    assert [n_to_certify(e) for e in edges] == pytest.approx(certify, abs=2)


def test_intervals_and_p_agree_with_references() -> None:
    from scipy.stats import binomtest
    from sklearn.metrics import roc_auc_score

    for hits, n in ((0, 10), (5, 10), (531, 1000), (10_150, 20_000), (60_000, 60_000)):
        test = binomtest(hits, n, alternative="greater")
        assert binomial_p(hits, n) == pytest.approx(test.pvalue, rel=1e-6, abs=1e-300)
        both = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx((both.low, both.high), abs=1e-9)
    rng = np.random.default_rng(0)
    real, fake = rng.integers(0, 9, 300) / 9, rng.integers(1, 10, 200) / 9
    expected = roc_auc_score(np.repeat([0, 1], [300, 200]), np.concatenate([real, fake]))
    assert auc(real, fake) == pytest.approx(expected)
    assert auc_p(real, fake) == pytest.approx(1 / 1001) and auc_p(fake, real) == 1


def test_a_ruling_proves_what_it_says() -> None:
    sure = ruling(np.full(500, 0.01), np.full(500, 0.99))
    assert (sure.accuracy, sure.auc, sure.n) == (1, 1, 1000) and sure.bits < 0.02 and sure.p < 0.01
    blind = ruling(np.full(500, 0.5), np.full(500, 0.5))
    assert (blind.accuracy, blind.auc, blind.bits, blind.p) == (0.5, 0.5, 1, 1)
    assert set(blind.to_json()) == {"accuracy", "low", "high", "auc", "bits", "p", "n"}


# ---- judges ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", POINTS)
def test_a_shift_is_seen_as_well_as_it_can_be(name: str) -> None:
    """Two normals a distance of 1 apart: the best accuracy is Phi(1/2) = .691."""
    r = rule(name, points(600, 0), points(600, 1, 1.0), points(1000, 2), points(1000, 3, 1.0))
    assert 0.63 < r.accuracy < 0.73 and r.p < 1e-3 and 0.7 < r.auc < 0.79 and r.bits < 0.95
    assert r.low < r.accuracy < r.high and r.n == 2000 and len(r.real) == len(r.fake) == 1000


@pytest.mark.parametrize("name", POINTS)
def test_the_same_again_is_not_seen_and_bits_stay_near_one(name: str) -> None:
    r = rule(name, points(500, 0), points(500, 1), points(1000, 2), points(1000, 3))
    assert r.p > 0.01 and r.bits < 1.02 and abs(r.accuracy - 0.5) < 0.04


def test_logistic_regression_agrees_with_the_reference() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((300, 5))
    label = (x[:, 0] + rng.standard_normal(300) > 1).astype(float)
    for ridge in (1.0, 100.0):
        reference = LogisticRegression(C=1 / ridge, tol=1e-9).fit(x, label)
        expected = np.append(reference.coef_[0], reference.intercept_)
        np.testing.assert_allclose(judging.logistic(x, label, ridge), expected, atol=1e-5)
    apart = judging.logistic(np.array([[-5.0], [5.0]] * 20), np.array([0.0, 1.0] * 20), 1.0)
    assert np.isfinite(apart).all() and apart[0] > 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 10), (4, 16, 16), (1, 1, 5)])
def test_the_conv_judge_takes_any_shape(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_convjudge, "EPOCHS", 1)
    real, fake = (pictures(160, seed, shape) for seed in (0, 1))
    dark = Sample((fake.x * 0.5).astype(np.uint8), fake.features)
    r = rule("conv", real[:80], dark[:80], real[80:], dark[80:])
    assert r.p <= 1 and np.isfinite(r.real).all() and ((r.fake >= 0) & (r.fake <= 1)).all()


def test_blurred_pictures_are_caught_by_the_conv_judge() -> None:
    real, other = pictures(600, 0, (1, 12, 12)), pictures(600, 1, (1, 12, 12))
    fake = Sample(blur(other.x), other.features)
    r = rule("conv", real[:400], fake[:400], real[400:], fake[400:])
    assert r.accuracy >= 0.9 and r.auc > 0.95 and r.bits < 0.5


def test_a_conv_judge_says_the_same_twice_and_chooses_among_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_convjudge, "EPOCHS", 2)
    real, fake = pictures(240, 0), pictures(240, 1)
    spoilt = Sample(noise(fake.x, 8, np.random.default_rng(0)), fake.features)
    said: list[str] = []
    once, again, three = (
        rule("conv", real[:160], spoilt[:160], real[160:], spoilt[160:], seeds=seeds, say=said.append)
        for seeds in ((0,), (0,), (0, 1, 2))
    )
    assert once == again and np.array_equal(once.fake, again.fake)
    assert three.seeds == 3 and said


def test_a_conv_judge_that_finds_nothing_at_first_does_not_give_up() -> None:
    said: list[str] = []
    parts = [pictures(80, seed) for seed in range(4)]
    rule("conv", *parts, say=said.append)
    assert len(said) >= _convjudge.START + _convjudge.PATIENCE


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_two_samples_of_one_set_are_hardly_ever_told_apart(name: str) -> None:
    """Calibration: p < .01 in at most 4 of 100 runs, on continuous numbers and on numbers with many repeats."""
    for digits in (6, 1):
        small = 0
        for seed in range(100):
            parts = [points(300, 4 * seed + i) for i in range(4)]
            rounded = [Sample(part.x.round(digits), part.features.round(digits)) for part in parts]
            small += rule(name, *rounded).p < 0.01
        assert small <= 4


@pytest.mark.slow
def test_two_samples_of_pictures_are_hardly_ever_told_apart() -> None:
    from sklearn.datasets import load_digits

    digits = (load_digits().images * 15).astype(np.uint8)[:, None]
    small = 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(digits))
        parts = [Sample(digits[rows], np.zeros((len(rows), 1), np.float32)) for rows in np.array_split(order, 4)]
        small += rule("conv", *parts).p < 0.01
    assert small <= 2


# ---- what would flatter or mislead ----------------------------------------------------------------------------------
def test_copies_of_fitted_examples_are_not_scored() -> None:
    fit, test, fake = points(100, 0), points(100, 1), points(100, 2)
    test.x[:30], fake.x[:10], fake.x[50:60] = fit.x[:30], fit.x[:10], fake.x[60:70]
    found = rule("knn", fit, points(100, 3), test, fake)
    assert found.n == 140  # 70 of the real ones are left; a fake that is made twice is the generator's own fault
    assert len(found.real) == len(found.fake) == 100  # yet each has its score, in the order given


def test_a_generator_that_repeats_one_example_is_caught() -> None:
    one = points(1, 9)
    same = Sample(np.repeat(one.x, 200, 0), np.repeat(one.features, 200, 0))
    for name in POINTS:
        r = rule(name, points(200, 0), same, points(200, 1), same)
        assert r.accuracy > (0.6 if name == "linear" else 0.9)


def test_real_examples_among_the_fakes_are_noticed() -> None:
    """The folder of fakes holds the held-out examples: a judge that learned them as fakes is wrong about them."""
    v, h = points(1000, 0), points(1000, 1)
    r = rule("trees", v, h, h, points(1000, 2))
    assert r.accuracy < 0.5
    leaked = verdict({"trees": found(0.45)})
    assert leaked.name == "UNDECIDED" and "less often than a coin" in leaked.reason


@pytest.mark.parametrize("n", [0, 5])
def test_too_few_examples_are_refused(n: int) -> None:
    few, enough = points(n, 0), points(100, 1)
    for given in ((few, enough, enough, enough), (enough, enough, enough, few)):
        with pytest.raises(DataError, match="at least 20"):
            rule("linear", *given)


def test_bad_examples_are_refused() -> None:
    good, bad = points(50, 0), points(50, 1)
    bad.x[3, 0] = math.nan
    for name in POINTS:
        with pytest.raises(DataError, match="NaN"):
            rule(name, good, points(50, 2), bad, points(50, 3))
    constant = Sample(np.full((50, 1, 8, 8), 7, np.uint8), np.zeros((50, 2), np.float32))
    with pytest.raises(DataError, match="different real examples"):
        rule("conv", constant, constant, constant, constant)
    with pytest.raises(DataError, match="shape"):
        rule("conv", pictures(40, 0), pictures(40, 1, (3, 8, 8)), pictures(40, 2), pictures(40, 3, (3, 8, 8)))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="linear"):
        rule("linaer", *(points(30, i) for i in range(4)))
    with pytest.raises(UsageError, match="image"):
        ladder("imge")


# ---- the verdict ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("accuracies", "n", "name"),
    [
        ((0.50, 0.50, 0.50), 4000, "EQUILIBRIUM"),
        ((0.50, 0.525, 0.51), 4000, "EQUILIBRIUM"),  # significant, yet surely below 55%
        ((0.50, 0.545, 0.51), 4000, "DISTINGUISHABLE"),
        ((0.50, 0.50, 0.83), 400, "DISTINGUISHABLE"),
        ((0.50, 0.50, 0.50), 400, "UNDECIDED"),
        ((0.50, 0.54), 1000, "UNDECIDED"),
    ],
)
def test_the_three_values(accuracies: tuple[float, ...], n: int, name: str) -> None:
    rulings = {f"judge{i}": found(a, n) for i, a in enumerate(accuracies)}
    got = verdict(rulings)
    assert got.name == name and got.reason
    assert (got.need_n is not None and got.need_n > n) == (name == "UNDECIDED")


def test_the_need_decides() -> None:
    """As many examples as were asked for, at the same accuracy, give a decision."""
    for accuracy in (0.5, 0.51, 0.53, 0.56):
        need = verdict({"knn": found(accuracy, 200)}).need_n
        assert need and verdict({"knn": found(accuracy, need + need % 2)}).name != "UNDECIDED"


def test_delta_is_a_promise() -> None:
    rulings = {"knn": found(0.51, 4000)}
    assert verdict(rulings, delta=0.05).name == "EQUILIBRIUM" and verdict(rulings, delta=0.02).name == "UNDECIDED"


def test_a_failed_control_voids_the_numbers() -> None:
    rulings = {"conv": found(0.83), "knn": found(0.7)}
    fine = {"c0": {"conv": found(0.51), "knn": found(0.49)}, "c1": {"conv": found(0.97), "knn": found(0.6)}}
    assert verdict(rulings, fine).name == "DISTINGUISHABLE"
    differs = verdict(rulings, fine | {"c0": {"conv": found(0.54), "knn": found(0.5)}})
    assert differs.name == "UNDECIDED" and "C0" in differs.reason and "+29.0 points" in differs.reason
    weak = verdict(rulings, fine | {"c1": found(0.8)})
    assert weak.name == "UNDECIDED" and "C1" in weak.reason and "80.0%" in weak.reason
    as_json = {key: {name: r.to_json() for name, r in part.items()} for key, part in fine.items()}
    assert verdict(rulings, as_json) == verdict(rulings, fine)


def test_no_judge_no_claim() -> None:
    got = verdict({})
    assert got.name == "UNDECIDED" and got.need_n == n_to_certify(0.05)


# ---- spoilt examples and shortcuts ----------------------------------------------------------------------------------
def test_ways_to_spoil() -> None:
    rng, x = np.random.default_rng(0), pictures(40, 0).x
    assert np.array_equal(blur(np.full((2, 3, 4, 5), 255, np.uint8)), np.full((2, 3, 4, 5), 255))
    spot = np.zeros((1, 1, 5, 5), np.uint8)
    spot[0, 0, 2, 2] = 90
    assert (blur(spot)[0, 0, 1:4, 1:4] == 10).all() and blur(spot).sum() == 90
    grey = np.full((50, 1, 32, 32), 128, np.uint8)
    assert noise(grey, 8, rng).std() == pytest.approx(8, rel=0.02) and noise(x, 64, rng).dtype == np.uint8
    y = np.array([0, 1, 1, 2])
    assert drop_class(y, 1).tolist() == [0, 3] and double_class(y, 1).tolist() == [0, 1, 2, 3, 1, 2]
    centres, again = np.array([[0.0, 0.0], [9.0, 0.0]]), lambda: np.random.default_rng(1)
    two = np.concatenate([rng.standard_normal((30, 2)), centres[1] + rng.standard_normal((20, 2))])
    for modes in (centres, None):
        assert len(spoil(two, "drop_mode", again(), modes)) + len(spoil(two, "one_mode", again(), modes)) == 50
    assert (spoil(two, "one_mode", rng, centres)[:, 0] < 4.5).all()
    assert neighbour_distance(np.array([[0.0], [1.0], [3.0], [30.0]])) == 1.5
    with pytest.raises(UsageError):
        spoil(x, "drop_mode", rng)


def test_shortcuts_tell_what_gives_pictures_away() -> None:
    real, fake = pictures(300, 0, (1, 16, 16)), pictures(300, 1, (1, 16, 16))
    hazy = Sample(np.maximum(fake.x, 3), fake.features)
    evidence = Evidence("image", fake=hazy, held=real)
    got, floor = (registry.get("metric", "shortcuts")(e) for e in (evidence, evidence.swap(fake)))
    assert set(got) == {"zero_share", "max_share", "last_bit", "histogram_tv", "spectrum_slope"}
    assert got["zero_share"].value == 0 and got["zero_share"].floor == pytest.approx((real.x == 0).mean())
    assert got["histogram_tv"].value > 0.5 > 0.1 > floor["histogram_tv"].value
    assert got["last_bit"].value < 0.9 < floor["last_bit"].value
    blurred = registry.get("metric", "shortcuts")(evidence.swap(Sample(blur(fake.x), fake.features)))
    slope = blurred["spectrum_slope"]
    assert slope.high < floor["spectrum_slope"].low and slope.low < slope.value < slope.high
    assert registry.get("metric", "shortcuts")(Evidence("points", points(50, 0), points(50, 1))) == {}


def test_shortcuts_of_pictures_with_nothing_to_measure() -> None:
    black = Sample(np.zeros((30, 3, 3, 2), np.uint8), np.zeros((30, 1), np.float32))
    got = registry.get("metric", "shortcuts")(Evidence("image", black, black))
    assert got["zero_share"].value == 1 and got["histogram_tv"].value == 0
    assert math.isnan(got["last_bit"].value) and math.isnan(got["spectrum_slope"].value)
