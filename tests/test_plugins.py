"""One file from outside brings a codec, a network, a loss, games and recipes, with no edit to the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gansmith
from gansmith import plan, registry, resolve
from gansmith.errors import RunError, UsageError

OUTSIDE = Path(__file__).parent / "plugins" / "outside.py"
RECIPES = ["little-cycle", "warm-start"]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a plug-in registers is gone after the test; no time is spent on timing."""
    monkeypatch.setattr(plan, "trial", lambda t: 1000.0)
    for kind in registry.FOLDERS:
        registry.names(kind)
    before = {kind: dict(builders) for kind, builders in registry.loaded().items()}
    yield
    forget(before)


def forget(before: dict[str, dict[str, Any]]) -> None:
    for kind, builders in registry.loaded().items():
        builders.clear()
        builders.update(before[kind])
    for name in [name for name in sys.modules if name.startswith("gansmith_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(120):
        a, b = rng.normal(0, 2, 2), rng.normal(3, 1, 2)
        (folder / f"{i:03d}.num").write_text(f"{a[0]:.3f} {a[1]:.3f} {b[0]:.3f} {b[1]:.3f}")
    return folder


def train(notes: Path, recipe: str, out: Path, images: int, **options: Any) -> gansmith.Model:
    model = gansmith.train(notes, recipe, out=out, images=images, plugin=[OUTSIDE], quiet=True, **options)
    assert isinstance(model, gansmith.Model)
    return model


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_trains_samples_and_resumes(clean: None, notes: Path, tmp_path: Path, recipe: str) -> None:
    whole = train(notes, recipe, tmp_path / "whole", 320)
    assert whole.spec.kind == "num" and whole.spec.shape == (2,)
    x = whole.sample(5)
    assert x.shape == (5, 2) and x.isfinite().all() and torch.equal(x, whole.sample(70)[:5])
    paths = whole.write(x, tmp_path / "made")
    assert [path.name for path in paths] == [f"{i:06d}.num" for i in range(5)]
    assert [float(n) for n in paths[0].read_text().split()] == pytest.approx(whole.decode(x)[0].tolist(), abs=1e-3)

    train(notes, recipe, tmp_path / "half", 160)
    again = train(notes, recipe, tmp_path / "half", 320)
    ours, theirs = whole.game.state_dict(), again.game.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(whole.sample(9), again.sample(9))


def test_turns_come_in_their_phases(clean: None, notes: Path, tmp_path: Path) -> None:
    train(notes, "warm-start", tmp_path / "run", 160, set=["game.args.warm=80"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {name for row in rows if row["seen"] <= 80 for name in row["terms"]} == {"G/likelihood"}
    assert {name for row in rows if row["seen"] > 80 for name in row["terms"]} == {"D/adversarial", "G/adversarial"}


def test_fakes_pass_between_turns_in_every_split_of_the_batch(clean: None, notes: Path, tmp_path: Path) -> None:
    model = train(notes, "little-cycle", tmp_path / "run", 64, set=["train.micro=2"])
    pool = model.game.state_dict()["pool"]
    assert pool.shape == (2, 32, 2) and pool.any(2).all()  # full of fakes, and saved


def test_the_run_names_parts_not_files_and_says_what_it_lacks(clean: None, notes: Path, tmp_path: Path) -> None:
    before = {kind: dict(builders) for kind, builders in registry.loaded().items()}
    train(notes, "little-cycle", tmp_path / "run", 32)
    text = (tmp_path / "run" / "run.json").read_text()
    assert OUTSIDE.name not in text and "outside" not in text and "gansmith_plugin" not in text
    forget(before)
    with pytest.raises(RunError, match="--plugin"):
        gansmith.load(tmp_path / "run")
    resolve.load_plugins([OUTSIDE])
    assert gansmith.load(tmp_path / "run").sample(1).shape == (1, 2)


def test_a_plugin_that_is_missing_or_broken_is_named(clean: None, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for path, words in ((tmp_path / "none.py", "no plug-in file"), (broken, "ZeroDivisionError")):
        with pytest.raises(UsageError, match=words):
            resolve.load_plugins([path])


def test_loading_a_plugin_twice_is_harmless(clean: None) -> None:
    resolve.load_plugins([OUTSIDE, OUTSIDE])
    assert "little-cycle" in registry.names("game") and "num" in registry.names("codec")
