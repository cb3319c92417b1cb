"""Extractors: what they learn, that they are the same every time, and that files from others cannot deceive them."""

import json
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gansmith import files
from gansmith.errors import CheckpointError, DataError, GansmithError, MissingExtra, UsageError
from gansmith.metrics import _extractors, features, inception
from gansmith.metrics.evidence import Sample
from gansmith.metrics.features import Extractor, fit, ladder, load, random_features, same, save

NAMES = tuple("0123456789")


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits uint8 [n, 1, 8, 8] in random order, and their classes."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return np.rint(x[order].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8), y[order].astype(np.int64)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", {"classifier": 50, "contrastive": 4})


def noise_pictures(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def sample(e: Extractor, x: np.ndarray, y: np.ndarray | None = None) -> Sample:
    return Sample(x, e(x), y)


# ---- what is learned ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("brief")
def test_labels_give_a_classifier() -> None:
    x, y = digits()
    e = fit("image", x[:700], y[:700], NAMES, fingerprint="of the data")
    assert e.card["method"] == "classifier" and e.card["classes"] == list(NAMES) and e.card["modes"] == "classes"
    assert e.card["name"] == "gs-feat-image-v1" and e.card["n"] == 700 and e.card["data"] == "of the data"
    assert e.card["checked"] == 70 and e.card["accuracy"] > 0.7
    assert (e.classify(x[700:]) == y[700:]).mean() > 0.7
    assert e(x[:3]).dtype == np.float32 and e(x[:3]).shape == (3, e.card["dims"]) and e(x[:0]).shape == (0, 64)
    assert np.abs(e(x[:700]).mean(0)).max() < 1e-3 and np.abs(e(x[:700]).std(0) - 1).max() < 1e-3
    assert e.card["sigma"] > 0


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("labels", ["none", "one class", "too many classes"])
def test_without_usable_labels_it_learns_from_pictures_alone(labels: str) -> None:
    x, _ = digits()
    y = {"none": None, "one class": np.zeros(300, np.int64), "too many classes": np.arange(300) // 3}[labels]
    e = fit("image", x[:300], y, tuple(map(str, range(100))) if y is not None else ())
    assert e.card["method"] == "contrastive" and e.card["accuracy"] is None and np.isfinite(e(x[:50])).all()
    with pytest.raises(UsageError, match="no classes"):
        e.classify(x[:2])


def test_without_enough_pictures_features_are_random_and_fixed() -> None:
    x, y = digits()
    empty = fit("image", np.empty((0, 1, 8, 8), np.float32), None, NAMES, shape=(1, 8, 8))
    assert empty.card["method"] == "random" and empty.card["split"] == "none" and empty.card["sigma"] is None
    assert empty.card["weights"].startswith("613ebfb8"), "the same on every machine; a change wants a new VERSION"
    scaled = fit("image", x[:0], reference=x)
    assert np.abs(scaled(x).mean(0)).max() < 1e-3 and scaled.card["weights"] == empty.card["weights"]
    assert scaled.hash != empty.hash, "other numbers, other hash"
    assert fit("image", x[:50], y[:50], NAMES).card["method"] == "random"


def test_points_are_their_own_features() -> None:
    x = np.random.default_rng(0).normal(5, 3, (400, 2)).astype(np.float32)
    e = fit("points", x)
    assert e.card["method"] == "identity" and e.card["dims"] == 2
    np.testing.assert_allclose(e(x), (x - x.mean(0)) / x.std(0), atol=1e-4)
    assert fit("points", x[:0], shape=(2,))(x[:5]) == pytest.approx(x[:5])
    with pytest.raises(UsageError, match="no classes"):
        e.classify(x)


def test_constant_columns_and_pictures_are_not_divided_by_nothing() -> None:
    x = np.stack([np.arange(300.0), np.full(300, 7.0)], 1).astype(np.float32)
    e = fit("points", x)
    assert not e(x)[:, 1].any() and e(x + 1)[:, 1] == pytest.approx(1), "fakes that differ there are seen"
    grey = np.full((300, 1, 8, 8), 128, np.uint8)
    flat = fit("image", grey, np.zeros(300, np.int64), NAMES)
    assert flat.card["method"] == "random" and flat.card["sigma"] is None
    assert not flat(grey).any() and flat(grey // 2).any()


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 40), (3, 33, 17), (3, 64, 64), (1, 48, 8), (1, 256, 256)])
def test_every_shape(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", {"classifier": 2, "contrastive": 2})
    monkeypatch.setattr(features, "FEWEST", 40)
    x = noise_pictures(40, *shape)
    for y in (None, np.arange(40) % 2):
        e = fit("image", x, y)
        assert np.isfinite(e(x[:8])).all() and e(x[:8]).std() > 0
    assert random_features(shape)(x[:4]).shape == (4, 64)


# ---- the same every time --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("labelled", [True, False])
def test_a_seed_gives_the_same_weights_and_disturbs_nobody(labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", {"classifier": 9, "contrastive": 4})
    x, y = digits()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    one, two, other = (
        fit("image", x[:300], y[:300] if labelled else None, NAMES if labelled else (), seed=s) for s in (0, 0, 1)
    )
    assert one.hash == two.hash != other.hash and one.card == two.card
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    parts = np.concatenate([one(x[:1]), one(x[1:500])])
    np.testing.assert_allclose(parts, one(x[:500]), atol=1e-4)


def test_only_data_that_looks_the_same_mirrored_is_mirrored() -> None:
    x, y = digits()
    assert not _extractors.symmetric(x, y) and _extractors.symmetric(noise_pictures(200, 3, 16, 16), np.zeros(200))


def test_numbers_from_different_features_refuse_to_be_compared() -> None:
    a, b = random_features((1, 8, 8)), random_features((1, 8, 8), seed=1)
    same(a, a.hash)
    with pytest.raises(DataError, match="different features cannot be compared"):
        same(a, b.hash)
    told = Extractor(a.card | {"floor": 0.1, "ladder": {"blur": 3.0}}, a.net)
    same(a, told)


# ---- bad input ------------------------------------------------------------------------------------------------------
def test_what_does_not_fit_is_refused() -> None:
    points = np.zeros((300, 2), np.float32)
    points[7, 1] = np.nan
    with pytest.raises(DataError, match="Example 7 .* not finite"):
        fit("points", points)
    with pytest.raises(DataError, match="not finite"):
        random_features((2,))(np.array([[1, np.inf]]))
    pictures = random_features((1, 8, 8))
    with pytest.raises(DataError, match="1x8x8; got 1x9x9"):
        pictures(noise_pictures(2, 1, 9, 9))
    with pytest.raises(DataError, match="uint8; got float32"):
        pictures(np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(UsageError, match="pictures of shape"):
        fit("image", np.empty(0))
    x, y = digits()
    with pytest.raises(DataError, match="from 0 to 2; got 0 to 9"):
        fit("image", x, y, ("a", "b", "c"))


# ---- on disk --------------------------------------------------------------------------------------------------------
@pytest.fixture
def learned(brief: None) -> Extractor:
    x, y = digits()
    return fit("image", x[:300], y[:300], NAMES)


@pytest.mark.parametrize("kind", ["classifier", "contrastive", "random", "points"])
@pytest.mark.usefixtures("brief")
def test_saved_and_loaded_it_is_the_same(kind: str, tmp_path: Path) -> None:
    x, y = digits()
    e = {
        "classifier": lambda: fit("image", x[:300], y[:300], NAMES),
        "contrastive": lambda: fit("image", x[:300]),
        "random": lambda: random_features((1, 8, 8)),
        "points": lambda: fit("points", x.reshape(-1, 64)[:300].astype(np.float32)),
    }[kind]()
    e.card["ladder"] = {"floor": 0.25}
    save(e, tmp_path / "features")
    back = load(tmp_path / "features")
    given = x.reshape(-1, 64) if kind == "points" else x
    assert back.hash == e.hash and back.card == e.card and (back(given[:9]) == e(given[:9])).all()
    if kind == "classifier":
        assert (back.classify(x[:9]) == e.classify(x[:9])).all()


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_files_that_were_tampered_with_are_refused(learned: Extractor, tmp_path: Path) -> None:
    card, weights = tmp_path / features.CARD, tmp_path / features.WEIGHTS
    save(learned, tmp_path)
    damaged(weights)
    with pytest.raises(CheckpointError, match="differs from its card"):
        load(tmp_path)
    weights.write_bytes(b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="differs from its card"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path)
    save(learned, tmp_path)
    card.write_text(card.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckpointError, match="differs from its own hash"):
        load(tmp_path)
    card.write_text("{" * 100)
    with pytest.raises(GansmithError, match="not valid JSON"):
        load(tmp_path)
    card.write_bytes(b" " * (features.CARD_LIMIT + 1))
    with pytest.raises(CheckpointError, match="larger than"):
        load(tmp_path)


HOSTILE: list[dict[str, Any]] = [
    {"shape": [1, 10**9, 10**9]},
    {"shape": [10**6, 8, 8]},
    {"shape": [1, 8.5, 8]},
    {"shape": []},
    {"shape": None},
    {"dims": 10**9},
    {"dims": 65},
    {"method": "pickle"},
    {"method": "identity"},
    {"version": 2},
    {"classes": 3},
    {"classes": [str(i) for i in range(20_000)]},
    {"classes": [1, 2]},
    {"scale": [0.0] * 64},
    {"scale": [None] * 64},
    {"centre": [[1.0]] * 64},
    {"centre": "x" * 64},
    {"weights": 5},
    {"modes": {}},
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda c: str(c)[:40])
def test_hostile_cards_are_refused_before_anything_is_built(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = random_features((1, 8, 8))
    save(e, tmp_path)
    card = json.loads((tmp_path / features.CARD).read_text())["card"] | change
    (tmp_path / features.CARD).write_text(json.dumps({"hash": features._hash(card), "card": card}))
    monkeypatch.setattr(features, "Net", None)  # what would be called
    with pytest.raises(CheckpointError, match="not a card"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"card": 3, "hash": ""}', '{"card": {}, "hash": ""}'])
def test_cards_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / features.CARD).write_text(text)
    with pytest.raises(CheckpointError, match="not a card"):
        load(tmp_path)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    e, other = random_features((3, 8, 8)), random_features((1, 8, 8))
    save(e, tmp_path)
    save(other, tmp_path / "other")
    (tmp_path / features.WEIGHTS).write_bytes((tmp_path / "other" / features.WEIGHTS).read_bytes())
    card = e.card | {"weights": other.card["weights"]}
    (tmp_path / features.CARD).write_text(json.dumps({"hash": features._hash(card), "card": card}))
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load(tmp_path)


def test_the_cache_learns_once_and_again_when_damaged(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> Extractor:
        made.append(1)
        return random_features((1, 8, 8))

    first = features.cached("key", make)
    assert features.cached("key", make).hash == first.hash and len(made) == 1
    features.cached("another key", make)
    assert len(made) == 2
    for path in cache.rglob(features.CARD):
        damaged(path)
    assert features.cached("key", make).hash == first.hash and len(made) == 3
    assert features.cached("key", make).hash == first.hash and len(made) == 3
    monkeypatch.setattr(features, "KEPT", 2)
    for key in "abcd":
        features.cached(key, make)
    assert len(list((cache / "features").iterdir())) == 2

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    assert features.cached("no room", make).hash == first.hash


# ---- the ladder -----------------------------------------------------------------------------------------------------
def monotone(rungs: dict[str, float]) -> bool:
    """Light noise is not asked to exceed the floor: of 600 digits of 17 grey levels the floor is mostly chance."""
    return (
        rungs["noise4"] < rungs["noise16"] < rungs["noise64"]
        and rungs["floor"] < min(rungs[k] for k in ("drop_class", "double_class", "noise64", "blur"))
        and rungs["floor"] < 1.15 * rungs["noise4"]
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_the_ladder_tells_faults_by_their_weight(labelled: bool) -> None:
    x, y = digits()
    e = fit("image", x[:0], None, NAMES if labelled else (), reference=x[:900])
    pool, reference = sample(e, x[900:], y[900:] if labelled else None), sample(e, x[:900])
    rungs = ladder(e, pool, reference)
    assert list(rungs) == ["floor", "drop_class", "double_class", "noise4", "noise16", "noise64", "blur"]
    assert monotone(rungs) and rungs == ladder(e, pool, reference)
    assert ladder(e, pool[:15], reference) == {}


def test_the_ladder_of_points_has_modes_alone() -> None:
    rng = np.random.default_rng(0)
    x = (rng.integers(5, size=(2000, 2)) * 4 + rng.normal(0, 0.1, (2000, 2))).astype(np.float32)
    e = fit("points", x[:500])
    rungs = ladder(e, sample(e, x[1000:]), sample(e, x[500:1000]))
    assert list(rungs) == ["floor", "drop_class", "double_class"]
    assert rungs["floor"] < min(rungs["drop_class"], rungs["double_class"])


def test_distance_needs_two_of_a_side() -> None:
    x = np.random.default_rng(0).normal(size=(100, 3))
    assert features.distance(x, x) == pytest.approx(0, abs=1e-9) and np.isnan(features.distance(x[:1], x))


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False])
def test_learned_ladders_are_monotone_10_of_10(labelled: bool) -> None:
    x, y = digits()
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(x))
        lined = order[np.argsort(y[order], kind="stable")]  # as real splits are: a share of each class
        learn, rest, base = lined[::3], lined[1::3], lined[2::3]
        args = (y[learn], NAMES) if labelled else (None, ())
        e = fit("image", x[learn], *args, seed=seed)
        pool = sample(e, x[rest], y[rest] if labelled else None)
        assert monotone(rungs := ladder(e, pool, sample(e, x[base]), seed)), rungs
        if labelled:
            assert (e.classify(x[base]) == y[base]).mean() > 0.95


# ---- published numbers ----------------------------------------------------------------------------------------------
def fidelity(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[dict[str, Any]]:
    """A stand-in for torch-fidelity that notes what it is asked."""
    asked: list[dict[str, Any]] = []

    def calculate_metrics(**given: Any) -> dict[str, float]:
        import os

        asked.append(given | {"guard": os.environ.get(inception.GUARD)})
        found: dict[str, float] = answer(given)
        return found

    stand_in = types.ModuleType("torch_fidelity")
    stand_in.calculate_metrics = calculate_metrics  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", stand_in)
    return asked


def test_published_numbers_come_from_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(given: dict[str, Any]) -> dict[str, float]:
        assert given["input1"][0].shape == (3, 8, 8) and given["input1"][0].dtype == torch.uint8
        if given["prc"]:
            return {"precision": 0.75, "recall": 0.5, "f_score": 0.6}
        return {"frechet_inception_distance": 2.0, "kernel_inception_distance_mean": 0.01}

    asked = fidelity(monkeypatch, answer)
    weights, vgg = tmp_path / "a.pth", tmp_path / "b.pth"
    weights.touch()
    vgg.touch()
    fakes, reals = noise_pictures(60, 1, 8, 8), noise_pictures(80, 3, 8, 8)
    found = inception.published(fakes, reals, weights, vgg)
    assert found == {"fid": 2.0, "kid": 0.01, "precision": 0.75, "recall": 0.5}
    assert [a["feature_extractor_weights_path"] for a in asked] == [str(weights), str(vgg)]
    assert asked[0]["kid_subset_size"] == 60 and len(asked[0]["input1"]) == 60 and len(asked[0]["input2"]) == 80
    assert {a["guard"] for a in asked} == {"1"}, "weights are data: nothing in them may run"
    assert list(inception.published(fakes, reals, weights)) == ["fid", "kid"]


def test_published_numbers_refuse_what_they_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = noise_pictures(60, 3, 8, 8), tmp_path / "a.pth"
    with pytest.raises(UsageError, match="downloads no weights"):
        inception.published(x, x, weights)
    weights.touch()
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingExtra, match=r"gansmith\[inception\]"):
        inception.published(x, x, weights)

    def broken(given: dict[str, Any]) -> dict[str, float]:
        raise EOFError("Ran out of input")

    fidelity(monkeypatch, broken)
    with pytest.raises(CheckpointError, match="Ran out of input"):
        inception.published(x, x, weights)
    for wrong in (x[:, :2], x[:10], x / 255):
        with pytest.raises(DataError, match="Inception"):
            inception.published(wrong, x, weights)
