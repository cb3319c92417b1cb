"""Pictures from arrays and array files, the index that is kept, and what is written."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corpus import GOOD, codec, fill, fitted, idx, pack, png, scene
from gansmith import registry
from gansmith.errors import DataError


def digit_files(n: int = 40) -> dict[str, bytes]:
    raws = codec().scan("digits")
    return {f"{raw.label}/{i}.png": png(raw.store[raw.row]) for i, raw in enumerate(raws[:n])}


# ---- pictures: arrays -----------------------------------------------------------------------------------------------
def test_digits_are_embedded() -> None:
    made, raws = fitted("digits")
    assert len(raws) == 1797 and made.spec().shape == (1, 8, 8) and made.spec().classes == tuple("0123456789")
    assert made.encode(raws)["x"].max() == 255


def test_arrays_of_many_kinds_are_the_same_pictures() -> None:
    x = np.stack([scene(6, 7), scene(6, 7)[::-1]])
    made, raws = fitted(x)
    wanted = made.encode(raws)["x"]
    others = [x / 255, (x / 255).astype(np.float32), x.astype(np.int64), x.astype(np.uint16) * 257]
    for other in (*others, torch.from_numpy(x.copy()), wanted, (x, ["a", "b"])):
        made, raws = fitted(other)
        assert torch.equal(made.encode(raws)["x"], wanted)
    assert made.spec().classes == ("a", "b")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((2, 4, 4, 2), np.uint8),
        np.full((1, 4, 4), 1.5),
        np.full((1, 4, 4), -1),
        np.full((1, 4, 4), np.nan),
        np.full((1, 4, 4), "a"),
        np.full((1, 4, 4), None),
        (np.zeros((2, 4, 4), np.uint8), [1]),
        np.zeros((1, 1, 20000), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array: Any) -> None:
    with pytest.raises(DataError):
        codec().scan(array)


def test_numpy_files(tmp_path: Path) -> None:
    x, y = np.arange(96, dtype=np.uint8).reshape(2, 6, 8), np.array([1, 0])
    np.savez(tmp_path / "a.npz", x=x, y=y, classes=np.array(["dog", "cat"]))
    np.savez_compressed(tmp_path / "b.npz", images=x, labels=["cat", "dog"])
    np.savez(tmp_path / "c.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    np.savez(tmp_path / "d.npz", whatever=x)
    np.save(tmp_path / "e.npy", x)
    expected = {
        "a.npz": ["cat", "dog"],
        "b.npz": ["cat", "dog"],
        "c.npz": ["1", "0", "1"],
        "d.npz": [None] * 2,
        "e.npy": [None] * 2,
    }
    for name, labels in expected.items():
        made, raws = fitted(tmp_path / name)
        assert raws.labels == labels and registry.get("codec", "image").claims(tmp_path / name)  # type: ignore[attr-defined]
        assert np.array_equal(made.encode(raws)["x"][:2, 0], x)
    assert codec().scan(tmp_path / "c.npz").splits == ["train", "train", "test"]


def test_numpy_files_are_never_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    np.save(tmp_path / "a.npy", np.array([Evil()], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Evil()], object))
    (tmp_path / "c.npz").write_bytes(b"\x80\x04junk")
    (tmp_path / "d.npz").write_bytes(b"")
    (tmp_path / "e.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': 'u1'  ")
    np.savez_compressed(tmp_path / "f.npz", y=np.arange(3))
    for name in ("a.npy", "b.npz", "c.npz", "d.npz", "e.npy", "f.npz"):
        with pytest.raises(DataError):
            codec().scan(tmp_path / name)
        assert registry.get("codec", "image").claims(tmp_path / name) == 0  # type: ignore[attr-defined]
    assert not (tmp_path / "owned").exists()


def test_mnist_files(tmp_path: Path) -> None:
    x, y = np.arange(160, dtype=np.uint8).reshape(10, 4, 4), np.arange(10, dtype=np.uint8) % 3
    files = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(x)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(y)),
        "t10k-images.idx3-ubyte": idx(x[:4]),
        "t10k-labels.idx1-ubyte": idx(y[:4]),
    }
    for source in (fill(tmp_path / "raw", files), pack(tmp_path / "raw.zip", files)):
        made, raws = fitted(source)
        assert raws.splits == ["test"] * 4 + ["train"] * 10 and raws.labels[4:] == [str(v) for v in y]
        assert np.array_equal(made.encode(raws)["x"][4:, 0], x)
    single = codec().scan(tmp_path / "raw" / "train-images-idx3-ubyte.gz")
    assert len(single) == 10 and single.labels[1] == "1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x0d\x03" + bytes(40),
        b"\0\0\x08\x03" + struct.pack(">3I", 10, 4, 4) + bytes(9),
        b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3),
        gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 100, 1000, 1000) + bytes(100_000_000)),
        b"\x1f\x8b junk",
        idx(np.zeros((0, 4, 4), np.uint8)),
    ],
)
def test_damaged_mnist_files_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        codec().scan(fill(tmp_path, {"train-images-idx3-ubyte.gz": data}))


# ---- pictures: the index --------------------------------------------------------------------------------------------
def test_the_second_scan_reads_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path, {**digit_files(), "bad.png": b"x"})
    first = codec()
    before = list(first.scan(folder))
    monkeypatch.setattr("gansmith.files.Source.read", lambda *_: pytest.fail("read a file"))
    second = codec()
    assert list(second.scan(folder)) == before and second.skipped == first.skipped


def test_a_change_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, digit_files(6))
    old = codec().fingerprint(tmp_path)
    codec().scan(tmp_path)
    (tmp_path / "0" / "0.png").write_bytes(GOOD)
    made = codec()
    assert (24, 32) in {(r.height, r.width) for r in made.scan(tmp_path)} and made.fingerprint(tmp_path) != old


@pytest.mark.parametrize(
    "damage", [b"", b"[", b"[[1,2]]", b"{}", b'[["a",1,1,0]]', b"[[0,1,1,0],[1,1,1,0]]", b"[" * 99999]
)
def test_a_damaged_or_unwritable_cache_only_costs_time(damage: bytes, tmp_path: Path, cache: Path) -> None:
    fill(tmp_path, {"a.png": GOOD, "b.png": GOOD})
    wanted = list(codec().scan(tmp_path))
    (index,) = (cache / "index").iterdir()
    index.write_bytes(damage)
    assert list(codec().scan(tmp_path)) == wanted
    index.unlink()
    (cache / "index").rmdir()
    (cache / "index").write_bytes(b"a file where the folder should be")
    assert list(codec().scan(tmp_path)) == wanted


# ---- pictures: writing ----------------------------------------------------------------------------------------------
def test_pictures_are_numbered_on_and_never_overwritten(tmp_path: Path) -> None:
    made, _ = fitted(np.zeros((2, 4, 4), np.uint8))
    raws = [np.full((4, 4), 9, np.uint8)] * 3
    (tmp_path / "000006.png").write_bytes(b"mine")
    paths = made.write(raws, tmp_path)
    assert [p.name for p in paths] == ["000007.png", "000008.png", "000009.png"]
    assert (tmp_path / "000006.png").read_bytes() == b"mine"
    labelled = made.write(raws, tmp_path / "new", ["a", "b", "a"])
    assert [str(p.relative_to(tmp_path / "new")) for p in labelled] == ["a/000000.png", "b/000000.png", "a/000001.png"]
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith("tmp")]


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=300)
    | st.sampled_from(["../x", "/etc", "..", ".", "", "a/../../b", "\\\\host", "C:", "x\0y", "\ud800"])
)
def test_class_names_cannot_escape_the_folder(label: str) -> None:
    made, _ = fitted(np.zeros((2, 4, 4), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        (path,) = made.write([np.zeros((4, 4), np.uint8)], Path(folder) / "out", [label])
        assert path.resolve().parent.parent == (Path(folder) / "out").resolve()
        assert len(codec().scan(Path(folder) / "out")) == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_preview_is_near_square(channels: int) -> None:
    made, _ = fitted(np.zeros((2, 8, 8, channels), np.uint8))
    for n in (1, 2, 7, 64):
        sheet = made.preview(made.decode(torch.zeros(n, channels, 8, 8)))
        with Image.open(io.BytesIO(sheet)) as picture:
            assert 300 <= max(picture.size) <= 900 and picture.mode == ("L" if channels == 1 else "RGB")
