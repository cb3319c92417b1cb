"""`evaluate` as users meet it: runs and folders, verdicts, what is refused, what is resumed, what is on disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import gansmith
from gansmith import DataError, RunError, UsageError, checkpoint, files, inquiry, probe
from gansmith.files import RunFolder
from helpers import fit, full_after, quicken, run

KEYS = {
    "schema", "verdict", "reason", "delta", "need_n", "n", "seeds", "checkpoint", "judges", "controls", "metrics", "ladder",
    "copies", "game", "features",
}  # fmt: skip
DIGITS = load_digits().images.astype(np.uint8) * 15
RNG = np.random.default_rng(0)
DIGITS = DIGITS[RNG.permutation(len(DIGITS))]


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def judged(*args: Any, **options: Any) -> dict[str, Any]:
    return gansmith.evaluate(*args, **{"quiet": True, **options})


def ring(n: int, seed: int, sd: float = 0.1, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * rng.integers(0, 8, n) / 8
    return np.stack([np.cos(angle) + shift, np.sin(angle)], 1) + sd * rng.standard_normal((n, 2))


def save_all(folder: Path, x: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(x):
        Image.fromarray(picture).save(folder / f"{i:05d}.png")
    return folder


# ---- a run ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short conditional run on so many noisy digits that some are held out for features; for reading only."""
    place = tmp_path_factory.mktemp("digits")
    known = load_digits()
    x = np.repeat(known.images.astype(np.uint8) * 15, 3, 0)
    x = np.minimum(255, x + RNG.integers(0, 15, x.shape)).astype(np.uint8)
    np.savez(place / "digits.npz", x=x, y=np.repeat(known.target, 3))
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        fit(place / "run", "cgan", data=place / "digits.npz")
        fit(place / "without", "dcgan", data=place / "digits.npz", unconditional=True, images=64)
        fit(place / "stacked", "dcgan", data=place / "digits.npz", kind="stacked", images=64)
    return place / "run"


def test_the_report_of_a_run(digits: Path, tmp_path: Path) -> None:
    found = judged(digits, n=300, out=tmp_path / "report")
    assert found.keys() >= KEYS and found == json.loads((tmp_path / "report" / "report.json").read_bytes())
    assert found["verdict"] == "DISTINGUISHABLE" and found["judges"]["conv"]["accuracy"] > 0.9
    assert set(found["judges"]) == {"knn", "linear", "conv"} == set(found["controls"]["c0"])
    assert found["ladder"]["noise64"] > found["ladder"]["noise4"]
    assert found["metrics"]["fd"]["value"] > 10 * found["metrics"]["fd"]["floor"]
    assert set(found["classes"]) == set("0123456789") and found["copies"]["verdict"] == "clean"
    page = (tmp_path / "report" / "index.html").read_text()
    assert "DISTINGUISHABLE" in page or "tells fakes from real" in page
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["index.html", "report.json"]


def test_an_unconditional_run_is_measured_in_units_of_the_datas_own_classes(digits: Path) -> None:
    found = judged(digits.with_name("without"), n=200)
    assert found["features"]["card"]["classes"] and found["classes"] == {} and found["ladder"]["drop_class"] > 0


def test_features_of_single_pictures_are_not_taken_for_stacked_ones_of_the_same_file(digits: Path) -> None:
    single, stacked = (judged(digits.with_name(name), n=200) for name in ("without", "stacked"))
    assert single["features"]["hash"] != stacked["features"]["hash"]
    assert 0 < stacked["metrics"]["stacked_modes"]["value"] <= 200 and "stacked_modes" not in single["metrics"]


def test_the_same_evaluation_twice_is_the_same(digits: Path, tmp_path: Path) -> None:
    first, second = (judged(digits, n=200, out=tmp_path / name) for name in "ab")
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = inquiry.rule

    def rule(name: str, *args: Any, **options: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        return real(name, *args, **options)

    monkeypatch.setattr(inquiry, "rule", rule)
    with pytest.raises(KeyboardInterrupt):
        judged(digits, n=200, out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["partial.json"]
    done.clear()
    monkeypatch.setattr(inquiry, "rule", lambda name, *a, **o: (done.append(name), real(name, *a, **o))[1])
    found = judged(digits, n=200, out=tmp_path)
    assert len(done) == 4 and found["judges"].keys() == {"knn", "linear", "conv"}
    (tmp_path / "partial.json").write_text('{"key": 3')  # torn
    assert judged(digits, n=200, out=tmp_path) | {"seconds": 0} == found | {"seconds": 0}


@pytest.mark.parametrize("room", [0, 500, 3000])
def test_a_full_disk_stops_evaluation_in_one_sentence_and_it_goes_on_later(
    digits: Path, tmp_path: Path, room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        full_after(patch, room)
        with pytest.raises(RunError, match=r"MB free\)\. Give the same command again") as raised:
            judged(digits, n=200, out=tmp_path / "report")
    assert str(tmp_path) in str(raised.value) and os.strerror(errno.ENOSPC) in str(raised.value)
    assert not (tmp_path / "report" / "report.json").exists()
    found = judged(digits, n=200, out=tmp_path / "report")
    assert found == files.read_json(tmp_path / "report" / "report.json")
    assert found | {"seconds": 0} == judged(digits, n=200, out=tmp_path / "anew") | {"seconds": 0}


def test_two_evaluations_into_one_folder_are_refused(digits: Path, tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "report").locked("evaluated"),
        pytest.raises(RunError, match=rf"being evaluated by process {os.getpid()} .* choose another --out"),
    ):
        judged(digits, n=200, out=tmp_path / "report")


def test_a_run_whose_data_moved_or_changed(tmp_path: Path) -> None:
    fit(tmp_path / "run", "dcgan", data=save_all(tmp_path / "pictures", DIGITS[:300]), images=16)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no file or folder"):
        judged(tmp_path / "run", n=60)
    assert judged(tmp_path / "run", n=60, data=str(tmp_path / "moved"))["verdict"]
    (tmp_path / "moved" / "00000.png").unlink()
    with pytest.raises(RunError, match="changed since"):
        judged(tmp_path / "run", n=60, data=str(tmp_path / "moved"))


def test_a_run_without_a_held_out_split_is_undecided(tmp_path: Path) -> None:
    fit(tmp_path, "dcgan", images=16)  # 60 pictures
    x, y = fit.__globals__["PICTURES"]
    found = judged(tmp_path, n=60, data=(x, y))
    assert found["verdict"] == "UNDECIDED" and found["need_n"] and "few" in found["reason"]
    assert (tmp_path / "report" / "index.html").exists()


def test_a_run_on_arrays_wants_them_again(tmp_path: Path) -> None:
    fit(tmp_path, "dcgan", images=16)
    with pytest.raises(UsageError, match="--data"):
        judged(tmp_path, n=60)


def test_points_have_every_control_and_the_game(tmp_path: Path) -> None:
    gansmith.train("ring8", "gan", out=tmp_path, images=2000, quiet=True)
    found = judged(tmp_path, n=2000)
    assert found["verdict"] == "DISTINGUISHABLE" and found["metrics"]["modes"]["n"]
    assert set(found["controls"]) == {"c0", "c1", "c2"} and found["controls"]["c2"]["verdict"] == "copies"
    assert found["game"]["max"]["value"] is not None and found["game"]["unbounded"] in (True, False)


# ---- files that others made -----------------------------------------------------------------------------------------
def test_equal_distributions_and_different_ones() -> None:
    reals = ring(6000, 0)
    same = judged(ring(4000, 1), reals, out="a")
    other = judged(ring(4000, 1, shift=0.1), reals, out="b")
    assert same["verdict"] == "EQUILIBRIUM" and other["verdict"] == "DISTINGUISHABLE"
    assert other["metrics"]["fd"]["value"] > same["metrics"]["fd"]["value"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_copies_of_training_examples_are_called_copies() -> None:
    trained, reals = DIGITS[:800], DIGITS[800:]
    found = judged(trained[:600], reals, train=trained)
    assert found["copies"]["verdict"] == "copies" and found["verdict"] != "EQUILIBRIUM"
    assert judged(DIGITS[1200:], DIGITS[800:1200], train=trained, out="clean")["copies"]["verdict"] == "clean"


@pytest.mark.parametrize(
    ("fakes", "reals", "words"),
    [
        (DIGITS[:200], DIGITS[:200], "two different sets"),
        (DIGITS[:200, :6], DIGITS[200:600], "6 x 8"),
        (ring(200, 0), DIGITS[200:600], "cannot be read as image"),
        (np.stack([DIGITS[:200]] * 3, -1), DIGITS[200:600], "3 x 8 x 8"),
    ],
)
def test_what_cannot_be_compared(fakes: np.ndarray, reals: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        judged(fakes, reals)


def test_what_is_too_little(tmp_path: Path) -> None:
    one = save_all(tmp_path / "one", DIGITS[:1])
    found = judged(one, DIGITS[200:600])
    assert found["verdict"] == "UNDECIDED" and found["need_n"]
    few = judged(DIGITS[:40], DIGITS[200:240], out="few")
    assert few["verdict"] == "UNDECIDED" and few["need_n"] > 40


def test_constant_pictures_are_judged_like_others() -> None:
    found = judged(np.full((300, 8, 8), 7, np.uint8), DIGITS[:900])
    assert found["verdict"] == "DISTINGUISHABLE"


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fakes, reals = save_all(tmp_path / "fakes", DIGITS[:200] // 2), save_all(tmp_path / "reals", DIGITS[200:800])
    assert run("evaluate", fakes, reals, "--out", tmp_path / "r", "--json") == 0
    assert json.loads(capfd.readouterr().out)["verdict"] == "DISTINGUISHABLE"
    assert run("evaluate", fakes, reals, "--out", tmp_path / "r") == 0
    assert "fresh judge can tell" in capfd.readouterr().out.splitlines()[0]
    assert run("evaluate", fakes, reals, "--delta", "0.7") == 2
    assert run("evaluate", fakes, tmp_path / "nowhere") == 1


# ---- during training ------------------------------------------------------------------------------------------------
def test_training_keeps_the_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FROM_SECONDS", 0)
    monkeypatch.setattr(probe, "FEWEST", 10)
    monkeypatch.setattr(probe, "SHARE", 1e9)
    scores = iter([5.0, 2.0, 2.9, 3.1, 4.0, 4.0, 4.0])  # 2.9 may be noise above 2.0, 3.1 is not, nor is it above 2.9
    monkeypatch.setattr(probe.Probe, "score", lambda self, t: next(scores))
    fit(tmp_path, "dcgan", data=DIGITS[:300])
    folder = RunFolder(tmp_path)
    scored = [row for row in files.read_lines(folder.log) if row.get("event") == "score"]
    best = files.read_json(folder.pointer("best"))
    assert [row["fd"] for row in scored][:4] == [5.0, 2.0, 2.9, 3.1] and best["fd"] == 2.9
    assert best["checkpoint"] == scored[2]["checkpoint"] in checkpoint.listed(folder)
    assert gansmith.load(tmp_path).name == best["checkpoint"] != checkpoint.listed(folder)[0]


def test_a_checkpoint_scores_worse_where_samples_are_worse(tmp_path: Path) -> None:
    from gansmith.metrics.features import random_features
    from gansmith.metrics.frechet import Moments, frechet

    look = random_features((1, 8, 8))
    real, held = DIGITS[:800, None], DIGITS[800:1600, None]
    noisy = np.clip(held + RNG.integers(0, 60, held.shape), 0, 255).astype(np.uint8)
    first, second, third = (Moments.of(look(x)) for x in (real, held, noisy))
    assert frechet(third, first) > 3 * frechet(second, first)
