"""Points: toy distributions, CSV of every fashion, arrays, and what is written."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import codec, fitted
from gansmith import registry
from gansmith.errors import DataError


# ---- points ---------------------------------------------------------------------------------------------------------
def test_toys_are_what_they_are_called() -> None:
    for name, k, sd in (("grid25", 25, 0.05), ("ring8", 8, 0.02)):
        made, raws = fitted(name, kind="points")
        means, given_sd = made.modes()
        distance = np.linalg.norm(raws.array[:2500, None] - means[None], axis=2)
        assert means.shape == (k, 2) and given_sd == sd and len(raws) == 115_000
        assert (distance.min(1) < 3 * sd).mean() == pytest.approx(0.989, abs=0.006)
        assert len(np.unique(distance.argmin(1))) == k
    for name in ("spiral", "moons", "pinwheel"):
        made, raws = fitted(name, kind="points")
        assert made.modes() is None and made.to_model(made.encode(raws))["x"].std(0).max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2.5\n3,4\n",
        "\ufeffa,b\r\n1,2.5\r\n3,4\r\n",
        "a;b\n1,0;2,5\n3;4\n",
        "a\tb\n1\t2.5\n\n3\t4",
        '"a","b"\n"1","2.5"\n 3 , 4 \n',
    ],
)
def test_csv_of_every_fashion(text: str, tmp_path: Path) -> None:
    for name, data in {
        "a.csv": text.encode(),
        "b.csv.gz": gzip.compress(text.encode()),
        "c.csv": text.encode("utf-16"),
    }.items():
        (tmp_path / name).write_bytes(data)
        raws = codec("points").scan(tmp_path / name)
        assert raws.array.tolist() == [[1, 2.5], [3, 4]] and raws.names == ["a", "b"]


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    rows = ["x,y", "1,2", "nan,1", "1", "inf,0", "a,b", ",", "1e99,1", "9" * (1 << 21) + ",1", "1,2,3", "3,4"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    made = codec("points")
    assert made.scan(tmp_path / "a.csv").array.tolist() == [[1, 2], [3, 4]]
    assert [name for name, _ in made.skipped] == [f"line {n}" for n in range(3, 11)]


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"x,y\n", b"x,y\na,b\n", b"1,2,3,4\n", b"5\n", b"\x1f\x8bxx", b"\0" * 9]
)
def test_csv_without_points_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError):
        codec("points").scan(tmp_path / "a.csv")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="0123456789.,;\t-e\n\r\"'naifx_ ", max_size=200).map(str.encode))
def test_any_csv_gives_finite_points_or_one_sentence(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(data)
        registry.get("codec", "points").claims(path)  # type: ignore[attr-defined]
        made = codec("points")
        try:
            raws = made.scan(path)
        except DataError:
            return
        made.fit(raws)
        batch = made.encode(raws)
        assert batch["x"].isfinite().all() and made.to_model(batch)["x"].isfinite().all()
        codec("points").load_state(json.loads(json.dumps(made.state())))


def test_points_from_python() -> None:
    array = np.array([[0.0, 1, 2], [1, 2, 3], [np.nan, 0, 0]])
    made, raws = fitted(array, kind="points")
    assert len(raws) == 2 and made.spec().shape == (3,) and made.skipped[0][0] == "row 2"
    assert torch.equal(made.encode(array[:2])["x"], made.encode(list(raws))["x"])
    for bad in (np.zeros((0, 2)), np.zeros((2, 4)), np.zeros(3), np.full((2, 2), "a"), np.full((1, 2), np.nan)):
        with pytest.raises(DataError):
            codec("points").scan(bad)


def test_equal_points_do_not_divide_by_zero() -> None:
    made, raws = fitted(np.ones((5, 2)), kind="points")
    assert made.to_model(made.encode(raws))["x"].tolist() == [[0, 0]] * 5
    assert made.preview(raws)


def test_points_keep_names_and_decimals(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("height,weight\n1.25,60\n1.50,70\n1.75,81\n")
    made, _ = fitted(tmp_path / "a.csv", kind="points")
    samples = made.decode(torch.tensor([[0.1, 0.123456], [0.7, 0.3]]))
    first, second = made.write(samples, tmp_path / "out"), made.write(samples, tmp_path / "out")
    assert [p[0].name for p in (first, second)] == ["samples.csv", "samples-1.csv"]
    lines = first[0].read_text().splitlines()
    assert lines[0] == "height,weight" and all(float(line.split(",")[1]).is_integer() for line in lines[1:])
    assert np.array_equal(codec("points").scan(first[0]).array.astype(np.float32), np.stack(samples))
