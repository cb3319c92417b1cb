"""Copy checks: copies are found, real ones are left alone, and what cannot be told is said to be so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gansmith import registry
from gansmith.errors import DataError
from gansmith.metrics import memorisation as m
from gansmith.metrics._likelihood import divergence
from gansmith.metrics.canaries import canary_recall, plant
from gansmith.metrics.evidence import Evidence, Sample

RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((6, 16)).astype(np.float32)
metric = registry.get("metric", "memorisation")


def real(n: int, seed: int) -> np.ndarray:
    """Examples [n, 16] near a curved sheet of six dimensions, as features of pictures are."""
    rng = np.random.default_rng(seed)
    return (np.tanh(rng.standard_normal((n, 6))) @ MIX + 0.1 * rng.standard_normal((n, 16))).astype(np.float32)


def evidence(fake: np.ndarray, seed: int = 0, t: int = 1500, h: int = 400) -> Evidence:
    """Fakes beside the held-out and training examples of a seed."""
    held, train = real(h, 1000 + seed), training(seed, t)
    return Evidence("points", Sample(fake, fake), Sample(held, held), train=Sample(train, train), seed=seed)


def training(seed: int = 0, t: int = 1500) -> np.ndarray:
    return real(t, 2000 + seed)


def planted(share: float, n: int, seed: int = 0) -> np.ndarray:
    """Fresh examples, a share of which are replaced by copies of training examples."""
    fake, k = real(n, 3000 + seed), round(share * n)
    fake[:k] = training(seed)[np.random.default_rng(17 + seed).permutation(1500)[:k]]
    return fake


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples, and no likelihoods, which the verdict does not ask for."""
    monkeypatch.setattr(m, "DRAWS", 10)
    monkeypatch.setattr(m, "_diversity", lambda *args: {})


def judged(e: Evidence) -> str:
    return m.copies_verdict(metric(e), e)[0]


# ---- verdicts -------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_copies_are_called_copies_ten_of_ten(share: float) -> None:
    assert [judged(evidence(planted(share, 400, seed), seed)) for seed in range(10)] == ["copies"] * 10


@pytest.mark.usefixtures("brief")
def test_few_copies_need_many_fakes() -> None:
    assert judged(evidence(planted(0.01, 1400), h=2000)) == "copies"


@pytest.mark.usefixtures("brief")
def test_copies_with_a_little_noise_are_copies() -> None:
    fake = planted(1.0, 400) + 0.02 * RNG.standard_normal((400, 16)).astype(np.float32)
    assert judged(evidence(fake)) == "copies"


@pytest.mark.usefixtures("brief")
def test_fresh_real_examples_are_clean() -> None:
    found = [judged(evidence(real(400, 3000 + seed), seed)) for seed in range(40)]
    assert found.count("clean") >= 38 and found.count("copies") <= 1


@pytest.mark.usefixtures("brief")
def test_poor_fakes_are_clean_and_underfit() -> None:
    fake = real(400, 5) + RNG.standard_normal((400, 16)).astype(np.float32)
    found = metric(e := evidence(fake))
    assert m.copies_verdict(found, e)[0] == "clean"
    assert found["c_t"].value > 3 and found["nn_ratio"].value > 1.2 and found["authenticity"].value > 0.8


@pytest.mark.usefixtures("brief")
def test_few_kinds_near_the_data_are_no_copies() -> None:
    centre = training().mean(0)
    fake = (centre + 0.2 * (real(400, 7) - centre)).astype(np.float32)
    word, sentence = m.copies_verdict(metric(e := evidence(fake)), e)
    assert word != "copies" and (word == "clean" or "few or smooth" in sentence)


def test_nothing_is_said_without_training_examples_or_with_too_few() -> None:
    fake = real(300, 1)
    alone = Evidence("points", Sample(fake, fake), Sample(fake, fake))
    assert metric(alone) == {} and m.copies_verdict({}, alone)[0] == "unknown"
    assert "--train" in m.copies_verdict({}, alone)[1]
    few = evidence(real(50, 1))
    assert metric(few) == {} and "there are 50 fakes" in m.copies_verdict({}, few)[1]


def test_training_examples_that_are_all_the_same_are_refused() -> None:
    same, fake = np.ones((300, 16), np.float32), real(300, 1)
    e = Evidence("points", Sample(fake, fake), Sample(fake, fake), train=Sample(same, same))
    with pytest.raises(DataError, match="1 of the training examples differ"):
        metric(e)


def test_features_that_are_not_finite_are_refused() -> None:
    fake = real(300, 1)
    fake[3, 2] = np.nan
    with pytest.raises(DataError, match="NaN"):
        metric(evidence(fake))


@pytest.mark.usefixtures("brief")
def test_twins_among_training_examples_do_not_hide_copies() -> None:
    train = np.repeat(training(), 2, 0)
    fake, held = planted(1.0, 400), real(400, 1000)
    e = Evidence("points", Sample(fake, fake), Sample(held, held), train=Sample(train, train))
    assert judged(e) == "copies"


@pytest.mark.usefixtures("brief")
def test_real_duplicates_across_the_split_are_no_copies() -> None:
    """Data with duplicates of its own: as many fakes as held-out examples equal a training example."""
    held, fake = real(400, 1000), planted(0.05, 400)
    held[:20] = training()[-20:]
    e = Evidence("points", Sample(fake, fake), Sample(held, held), train=Sample(training(), training()))
    found = metric(e)
    assert judged(e) == "clean"
    assert found["exact_copies"].value == found["exact_copies"].floor == 0.05


# ---- the figures ----------------------------------------------------------------------------------------------------
def test_every_figure_of_copies_and_of_fresh_examples() -> None:
    copies, fresh = metric(evidence(planted(1.0, 400))), metric(evidence(real(400, 9)))
    assert set(copies) == set(fresh) == set(m.NAMES)
    assert copies["c_t"].value < -10 and abs(fresh["c_t"].value) < 3
    assert copies["authenticity"].value == 0 and abs(fresh["authenticity"].value - fresh["authenticity"].floor) < 0.1
    assert copies["nn_ratio"].value < 0.01 and 0.9 < fresh["nn_ratio"].value < 1.1
    assert copies["fld_gap"].value < copies["fld_gap"].floor - 5 and abs(fresh["fld"].value) < 3
    assert copies["exact_copies"].value == 1 and fresh["exact_copies"].value == 0
    for name, estimate in (*copies.items(), *fresh.items()):
        assert estimate.reference == "T" and estimate.n == 400
        assert name == "near_copies_p" or estimate.low <= estimate.value <= estimate.high, name


def test_c_t_is_standard_normal_in_one_cell_and_the_rank_sum_is_right() -> None:
    rng = np.random.default_rng(3)
    one = np.zeros(300, int)
    drawn = np.array([m.data_copying(*rng.standard_normal((2, 300)), one, one) for _ in range(400)])
    assert abs(drawn.mean()) < 0.15 and 0.9 < drawn.std() < 1.1
    assert m.rank_sum(np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])) == pytest.approx((0 - 2.5) / math.sqrt(3))
    assert math.isnan(m.data_copying(np.ones(20), np.ones(300), one[:20], one))


def test_c_t_weighs_cells_by_held_out_examples() -> None:
    near, far = np.zeros(100), np.ones(100)
    cells = np.repeat([0, 1], 100)
    z = m.rank_sum(near, far)
    held = np.concatenate([far, near])
    assert m.data_copying(np.concatenate([near, far]), held, cells, cells) == pytest.approx(
        (z + m.rank_sum(far, near)) / 2
    )
    assert m.data_copying(near, held, cells[:100], cells) == pytest.approx(z)


def test_precedence_is_exact() -> None:
    which, share, p = m.precedence(np.linspace(0.1, 0.2, 10), np.linspace(0.5, 0.9, 10))
    assert which.all() and share == 0.1 and p == pytest.approx(1 / math.comb(20, 10))
    assert m.precedence(np.ones(10), np.linspace(0.5, 0.9, 10))[2] == 1
    assert m.precedence(np.zeros(10), np.zeros(10))[2] == 1


def test_precedence_errs_no_oftener_than_it_says() -> None:
    rng = np.random.default_rng(0)
    p = np.array([m.precedence(rng.random(200), rng.random(300))[2] for _ in range(2000)])
    for level in (0.2, 0.05, 0.01):
        assert (p < level).mean() <= level * 1.3


def test_birthday_tells_the_size_of_the_support() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((100, 8))
    value, low, high = m.birthday(kinds[rng.integers(100, size=2000)], 1e-6, rng)
    assert 9 <= value <= 15 and low <= value <= high  # 12.3 of 100 birthdays
    assert m.birthday(np.zeros((500, 8)), 1e-6, rng)[0] == 2
    assert m.birthday(rng.standard_normal((200, 8)), 1e-9, rng) == (math.inf,) * 3


def test_likelihoods_tell_good_from_poor_and_copied() -> None:
    rng, held, train = np.random.default_rng(0), real(400, 1000), training()
    poor = real(400, 9) + RNG.standard_normal((400, 16)).astype(np.float32)
    few = np.repeat(real(20, 9), 20, 0)
    good, poor, few = (divergence(x, held, train, rng).fld.mean() for x in (real(400, 9), poor, few))
    assert abs(good) < 3 and poor > 10 and few > 10


def test_many_features_are_reduced_and_constant_ones_do_no_harm() -> None:
    wide = np.random.default_rng(1).standard_normal((16, 200)).astype(np.float32)
    wide[:, :50] = 0
    e = evidence(planted(1.0, 300))
    e = Evidence("x", *(Sample(s.x, s.x @ wide) for s in (e.fake, e.held)), train=Sample(e.train.x, e.train.x @ wide))  # type: ignore[union-attr]
    assert m.principal(e.train.features)(e.fake.features).shape == (300, 64)  # type: ignore[union-attr]
    assert m.copies_verdict(metric(e), e)[0] == "copies"


def test_closest_pairs_lead_to_the_copied_examples() -> None:
    train, fake = training(), real(200, 4)
    fake[[5, 77, 120]] = train[[9, 1000, 44]]
    fakes, originals, far = m.closest(fake, train, 3)
    assert dict(zip(fakes.tolist(), originals.tolist(), strict=True)) == {5: 9, 77: 1000, 120: 44}
    assert (far == 0).all() and len(m.closest(fake, train, 500)[0]) == 200


def test_equal_pixels_are_counted_to_the_bit() -> None:
    x = np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), dtype=np.uint8)
    others = x[::-1].copy()
    others[0, 0, 0, 0] ^= 1
    assert m.same_pixels(x, others).sum() == 49 and not m.same_pixels(x, others)[49]
    assert m.distinct(np.concatenate([x, x[:7]])).tolist() == list(range(50))


# ---- canaries -------------------------------------------------------------------------------------------------------
def test_planted_canaries_are_found_if_they_are_given_back() -> None:
    train = training()
    chosen, order = plant(len(train), np.random.default_rng(0))
    assert len(chosen) == 20 and len(order) == len(train) + 20 * 49
    counts = np.bincount(order)
    assert (counts[chosen] == 50).all() and (np.delete(counts, chosen) == 1).all()
    singing = np.concatenate([real(500, 1), np.repeat(train[chosen[:12]], 5, 0)])
    found, silent = (canary_recall(fake, train, chosen) for fake in (singing, real(500, 1)))
    assert 0.6 <= found.value <= 0.8 and found.low > found.floor == 0.05
    assert silent.value <= 0.25


def test_too_many_canaries_are_refused() -> None:
    with pytest.raises(DataError, match="at least 200 examples"):
        plant(150, np.random.default_rng(0))
