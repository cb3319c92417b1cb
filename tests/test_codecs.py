"""What every codec keeps to: round trips, determinism, claims, hostile states."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import GOOD, codec, fill, pack
from gansmith import registry
from gansmith.base import Codec
from gansmith.errors import DataError, UsageError

# ---- every codec ----------------------------------------------------------------------------------------------------
EXAMPLES = {"image": "digits", "points": "grid25"}


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_written_samples_read_back_as_they_were(kind: str, tmp_path: Path) -> None:
    made = codec(kind)
    raws = made.scan(EXAMPLES[kind]).take(range(50))
    made.fit(raws)
    batch = made.encode(raws)
    again = codec(kind)
    again.load_state(json.loads(json.dumps(made.state())))
    decoded = again.decode(again.to_model(batch)["x"])
    paths = again.write(decoded, tmp_path)
    found = codec(kind).scan(tmp_path if kind == "image" else paths[0])
    second = again.encode(found)
    assert torch.allclose(second["x"].float(), batch["x"].float(), atol=1e-5)
    assert again.spec() == made.spec() and again.state() == made.state()
    assert again.preview(decoded)[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_every_raw_carries_what_the_splitter_needs(kind: str) -> None:
    raws = codec(kind).scan(EXAMPLES[kind])
    assert len(raws.labels) == len(raws.splits) == len(raws)
    assert raws[3].label == raws.labels[3] and raws[3].split == "train"
    part = raws.take(np.array([5, 2]))
    assert len(part) == 2 and part.labels[1] == raws.labels[2] and len(raws[2:7]) == 5


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_same_source_same_result(kind: str) -> None:
    one, two = codec(kind), codec(kind)
    for made in (one, two):
        made.fit(made.scan(EXAMPLES[kind]))
    assert one.state() == two.state()
    assert one.fingerprint(EXAMPLES[kind]) == two.fingerprint(EXAMPLES[kind])
    raws = one.scan(EXAMPLES[kind])[:9]
    assert torch.equal(one.encode(raws)["x"], two.encode(raws)["x"])


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_hostile_state_is_refused(kind: str) -> None:
    made = codec(kind)
    made.fit(made.scan(EXAMPLES[kind])[:100])
    good = made.state()
    wrong: list[Any] = [
        None,
        [],
        "x",
        -1,
        1 << 60,
        1e400,
        float("nan"),
        {"a": 1},
        [[1]],
        [1 << 40] * 3,
        ["a"] * 3,
        True,
    ]
    for key in good:
        for value in wrong:
            state = {**good, key: value}
            if state == good or (key, value) in (("toy", None), ("scale", 1 << 60), ("room", [])):
                continue
            with pytest.raises(DataError, match="damaged"):
                codec(kind).load_state(state)
        if key == "room":  # may be missing
            continue
        with pytest.raises(DataError):
            codec(kind).load_state({k: v for k, v in good.items() if k != key})
    for state in ([], None, "x", {}):
        with pytest.raises(DataError):
            codec(kind).load_state(state)


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_unknown_option_names_the_known_ones(kind: str) -> None:
    with pytest.raises(UsageError, match="unconditional"):
        codec(kind, unconditionl=True)


def test_claims_tell_sources_apart(tmp_path: Path) -> None:
    image, points = registry.get("codec", "image"), registry.get("codec", "points")
    csv = tmp_path / "a.csv"
    csv.write_text("a,b\n1,2\n3,4\n")
    table = tmp_path / "t.csv"
    table.write_text("age,job\n1,x\n3,y\n")
    wide = tmp_path / "w.csv"
    wide.write_text("1,2,3,4\n1,2,3,4\n")
    zipped = tmp_path / "b.csv.gz"
    zipped.write_bytes(gzip.compress(b"1;2\n" * 40_000))
    sources: list[tuple[Any, bool, bool]] = [
        ("digits", True, False),
        ("ring8", False, True),
        ("nothing", False, False),
        (np.zeros((5, 8, 8)), True, False),
        ((torch.zeros(5, 3, 8, 8), torch.zeros(5)), True, False),
        (np.zeros((5, 2)), False, True),
        (csv, False, True),
        (zipped, False, True),
        (table, False, False),
        (wide, False, False),
        (str(fill(tmp_path / "p", {"a.png": GOOD})), True, False),
        (pack(tmp_path / "p.zip", {"a.png": GOOD}), True, False),
        (fill(tmp_path / "q", {"a.wav": b"", "b.wav": b""}), False, False),
        (7, False, False),
    ]
    for source, is_image, is_points in sources:
        claims: tuple[type[Codec], ...] = (image, points)  # type: ignore[assignment]
        assert [c.claims(source) > 0 for c in claims] == [is_image, is_points], source


def test_a_folder_beats_the_embedded_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "digits", {"a.png": GOOD})
    assert len(codec().scan("digits")) == 1
