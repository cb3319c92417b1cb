"""Stacked pictures: triples within one role of a split, and a thousand modes counted down to the tabled floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gansmith
from corpus import GOOD, codec, fill, idx, pack, png
from gansmith import registry
from gansmith.codecs.stacked import StackedCodec
from gansmith.config import Run, parse
from gansmith.data import encode_all, open_data, pick_codec
from gansmith.errors import DataError, UsageError
from gansmith.metrics.stacked import kl_floor, stacked_modes

MNIST = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])  # pictures of each class


# ---- the codec ------------------------------------------------------------------------------------------------------
def numbered(n: int, start: int = 0) -> np.ndarray:
    """Grey pictures [n, 4, 4], each of one value: its number."""
    return np.repeat(np.arange(start, start + n), 16).reshape(n, 4, 4).astype(np.uint8)


def test_every_channel_is_another_picture_and_each_is_used_once_a_channel() -> None:
    made = codec("stacked")
    raws = made.scan("digits")
    made.fit(raws)
    x = made.encode(raws)["x"].numpy()
    grey = codec().scan("digits").store
    assert x.shape == (1797, 3, 8, 8) and (x[:, 0] == grey).all()
    for c in range(3):
        assert sorted(map(bytes, x[:, c].copy())) == sorted(map(bytes, grey))
    assert (x[:, 0] == x[:, 1]).all((1, 2)).mean() < 0.01 and (x[:, 1] == x[:, 2]).all((1, 2)).mean() < 0.01
    spec = made.spec()
    assert (spec.kind, spec.shape, spec.classes, len(spec.mean)) == ("image", (3, 8, 8), (), 3)


def test_no_picture_is_in_two_roles() -> None:
    data = open_data(numbered(250), parse(Run, {"data": {"kind": "stacked"}}))
    values = {}
    for role in ("T", "V", "H"):
        x = encode_all(data.codec, data.raws.take(data.parts[role]), least=0)["x"]
        values[role] = set(x[:, :, 0, 0].flatten().tolist())
        assert len(x) == len(data.parts[role]) and values[role] == set(data.parts[role].tolist())
    assert not values["T"] & values["V"] and not values["V"] & values["H"] and not values["T"] & values["H"]


def test_training_and_test_folders_do_not_mix(tmp_path: Path) -> None:
    files = {
        f"{s}/{i % 2}/{i}.png": png(numbered(1, i + k)[0]) for s, k in (("train", 0), ("test", 100)) for i in range(40)
    }
    made = codec("stacked")
    raws = made.scan(fill(tmp_path, files))
    made.fit(raws)
    x, test = made.encode(raws)["x"][:, :, 0, 0].numpy(), np.array(raws.splits) == "test"
    assert (x[test] >= 100).all() and (x[~test] < 100).all() and test.sum() == 40


def test_a_part_of_a_role_holds_the_triples_of_the_role() -> None:
    """Chunks, workers and caches may take triples in any portions."""
    made = codec("stacked")
    raws = made.scan(numbered(200))
    made.fit(raws)
    role = raws.take(np.arange(50, 150))
    whole = made.encode(role)["x"]
    parts = [made.encode(role.take(np.arange(i, i + 25)))["x"] for i in range(0, 100, 25)]
    assert torch.equal(torch.cat(parts), whole) and torch.equal(made.encode([role[7], role[3]])["x"], whole[[7, 3]])
    assert torch.equal(made.encode(made.scan(numbered(200)).take(np.arange(50, 150)))["x"], whole)


def test_contract_of_codecs() -> None:
    made = codec("stacked")
    raws = made.scan("digits")
    assert len(raws.labels) == len(raws.splits) == len(raws)
    assert raws[3].label == raws.labels[3] is None and raws[3].split == "train"
    assert len(raws.take(np.array([5, 2]))) == 2 and len(raws[2:7]) == 5
    assert made.fingerprint("digits") == codec("stacked").fingerprint("digits")
    with pytest.raises(UsageError, match="unconditional"):
        codec("stacked", unconditionl=True)


def test_round_trip_through_files_and_state(tmp_path: Path) -> None:
    made = codec("stacked")
    raws = made.scan("digits").take(range(50))
    made.fit(raws)
    batch = made.encode(raws)
    again = codec("stacked")
    again.load_state(json.loads(json.dumps(made.state())))
    decoded = again.decode(again.to_model(batch)["x"])
    assert torch.equal(again.encode(decoded)["x"], batch["x"])
    paths = again.write(decoded, tmp_path)
    colours = codec()
    found = colours.scan(tmp_path)
    colours.fit(found)
    assert len(paths) == 50 and torch.equal(colours.encode(found)["x"], batch["x"])
    assert again.spec() == made.spec() and again.state() == made.state()
    assert again.preview(decoded) == made.preview(raws) and made.preview(raws)[:8] == b"\x89PNG\r\n\x1a\n"


def test_hostile_state_is_refused() -> None:
    made = codec("stacked")
    made.fit(made.scan("digits")[:100])
    good = made.state()
    for key in good:
        wrong: list[Any] = [None, "x", -1, [[1]], {"a": 1}]
        for value in wrong:
            with pytest.raises(DataError, match="damaged"):
                codec("stacked").load_state({**good, key: value})
    with pytest.raises(DataError, match="damaged"):
        codec("stacked").load_state({**good, "shape": [3, 8, 8], "mean": [0, 0, 0]})


def test_any_source_of_grey_pictures(tmp_path: Path) -> None:
    pictures = {f"{i % 3}/{i}.png": png(numbered(1, i)[0]) for i in range(30)}
    files = {"images-idx3-ubyte": idx(numbered(30)), "labels-idx1-ubyte": idx(np.arange(30, dtype=np.uint8) % 3)}
    sources: list[Any] = [
        fill(tmp_path / "f", pictures),
        pack(tmp_path / "z.zip", pictures),
        fill(tmp_path / "idx", files),
        numbered(30),
        (numbered(30), np.arange(30) % 3),
    ]
    for source in sources:
        made = pick_codec(source, "stacked", {})
        assert isinstance(made, StackedCodec)
        raws = made.scan(source)
        made.fit(raws)
        assert made.encode(raws)["x"].shape == (30, 3, 4, 4)
        assert StackedCodec.claims(source) == 0 and pick_codec(source, "", {}).kind == "image"


def test_single_pictures_keep_their_classes_for_the_classifier() -> None:
    made = codec("stacked")
    raws = made.scan((numbered(30), np.arange(30) % 3))
    made.fit(raws)
    single = made.singles(raws.take(np.arange(6)))
    assert single["x"].shape == (6, 1, 4, 4) and single["y"].tolist() == [0, 1, 2, 0, 1, 2]


def test_colours_are_refused_by_name(tmp_path: Path) -> None:
    made = codec("stacked")
    with pytest.raises(DataError, match=r"'b.png' has colours"):
        made.fit(made.scan(fill(tmp_path, {"a.png": png(numbered(1)[0]), "b.png": GOOD})))


def test_a_broken_picture_costs_the_triples_that_it_is_in(tmp_path: Path) -> None:
    files = {f"{i:02d}.png": png(numbered(1, i)[0]) for i in range(30)}
    fill(tmp_path, files)
    made = codec("stacked")
    raws = made.scan(tmp_path)
    made.fit(raws)
    whole = made.encode(raws)["x"]
    (tmp_path / "07.png").write_bytes(b"")
    batch = made.encode(raws)["x"]
    assert torch.equal(batch, whole[(whole[:, :, 0, 0] != 7).all(1)]) and 27 <= len(batch) <= 29
    assert "07.png" in dict(made.skipped)


def test_it_trains_and_samples(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    net = ("parts.G.args.width=8", "parts.D.args.width=8", "train.batch=8")
    model = gansmith.train(x, "dcgan", out=tmp_path / "run", images=64, kind="stacked", set=net, quiet=True)
    again = gansmith.load(tmp_path / "run")
    assert again.spec == model.spec and again.decode(again.sample(4))[0].shape == (8, 8, 3)


# ---- the modes ------------------------------------------------------------------------------------------------------
def labelled(n: int, p: np.ndarray, seed: int) -> np.ndarray:
    """ "Pictures" [n, 3, 1, 1] whose pixel is their class."""
    return np.random.default_rng(seed).choice(10, (n, 3, 1, 1), p=p / p.sum()).astype(np.uint8)


def look(x: np.ndarray) -> np.ndarray:
    assert x.shape[1:] == (1, 1, 1) and x.dtype == np.uint8
    return x[:, 0, 0, 0].astype(np.int64)


@pytest.mark.parametrize(("n", "floor", "within"), [(26_000, 0.0235, 0.001), (100_000, 0.0094, 0.0005)])
def test_real_triples_show_the_tabled_floor(n: int, floor: float, within: float) -> None:
    found = [stacked_modes(look, labelled(n, MNIST, seed), frequencies=list(MNIST)) for seed in range(8)]
    assert {one.modes for one in found} == {1000} and found[0].total == 1000
    assert np.mean([one.kl for one in found]) == pytest.approx(floor, abs=within)
    assert np.mean([one.excess for one in found]) == pytest.approx(0, abs=0.0006)
    assert kl_floor(n, list(MNIST)) == pytest.approx(floor, abs=within)


def test_missing_classes_are_missing_modes() -> None:
    p = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    found = stacked_modes(look, labelled(26_000, p, 0))
    assert found.modes == 125 and found.kl == pytest.approx(3 * np.log(2), abs=0.01)
    one = stacked_modes(look, np.zeros((500, 3, 1, 1), np.uint8))
    assert one.modes == 1 and one.kl == pytest.approx(np.log(1000))


def test_pictures_of_one_channel_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[n, 3, H, W\]"):
        stacked_modes(look, np.zeros((5, 1, 8, 8), np.uint8))


def test_the_kind_is_listed() -> None:
    assert "stacked" in registry.names("codec")
