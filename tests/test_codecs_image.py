"""Pictures in folders and archives: classes, bad files, colours, orientation, sizes."""

from __future__ import annotations

import json
import os
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corpus import BAD, DATA, GOOD, JPEG, animation, codec, colours, fill, fitted, pack, png, save, scene
from gansmith.errors import DataError

COLOURS = colours()


# ---- pictures: folders, classes, splits -----------------------------------------------------------------------------
def test_folders_are_classes_and_splits(tmp_path: Path) -> None:
    names = ["set/train/b/1.png", "set/train/a/1.png", "set/TEST/a/2.png", "set/valid/b/3.png"]
    files = dict.fromkeys(names, GOOD) | {
        "set/.hidden/x.png": b"",
        "__MACOSX/set/y.png": b"",
        "set/README.md": b"hello",
    }
    for source in (fill(tmp_path / "d", files), pack(tmp_path / "d.zip", files)):
        made = codec()
        raws = made.scan(source)
        assert [(r.split, r.label) for r in raws] == [("test", "a"), ("train", "a"), ("train", "b"), ("val", "b")]
        made.fit([r for r in raws if r.split == "train"])
        assert made.spec().classes == ("a", "b") and made.spec().frequencies == (0.5, 0.5)
        assert made.encode(raws)["y"].tolist() == [0, 0, 1, 1]
        assert made.skipped == []


def test_classes_that_are_numbers_are_sorted_as_numbers() -> None:
    made, _ = fitted((np.zeros((12, 4, 4), np.uint8), np.arange(12)))
    assert made.spec().classes == tuple(map(str, range(12)))


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["cat/a.png", "cat/b.png"], ["x/y/a.png"], ["train/c/a.png"]])
def test_one_class_is_no_class(names: list[str], tmp_path: Path) -> None:
    made, raws = fitted(fill(tmp_path, dict.fromkeys(names, GOOD)))
    assert made.spec().classes == () and "y" not in made.encode(raws)


def test_unconditional_ignores_classes(tmp_path: Path) -> None:
    source = fill(tmp_path, dict.fromkeys(["a/1.png", "b/1.png", "2.png"], GOOD))
    made, raws = fitted(source, unconditional=True)
    assert len(raws) == 3 and made.spec().classes == () and made.skipped == []


def test_pictures_outside_the_class_folders_are_told(tmp_path: Path) -> None:
    few = fill(tmp_path / "few", dict.fromkeys(["a/1.png", "b/1.png", "2.png"], GOOD))
    made, raws = fitted(few)
    assert len(raws) == 2 and [name for name, _ in made.skipped] == ["2.png"]
    many = fill(tmp_path / "many", dict.fromkeys(["a/1.png", "b/1.png", "2.png", "3.png", "4.png"], GOOD))
    made, raws = fitted(many)
    assert len(raws) == 5 and made.spec().classes == () and "not taken as classes" in made.notes[0]


def test_a_test_class_unknown_to_training_is_left_out() -> None:
    made = codec()
    raws = made.scan((np.zeros((3, 4, 4), np.uint8), ["a", "b", "c"]))
    made.fit(raws[:2])
    assert made.encode(raws)["y"].tolist() == [0, 1] and "'c'" in made.skipped[0][1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)))
def test_any_name_is_listed_and_read(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = {f"x{name}.png"[:60] for name in names} | {
            "-leading.png",
            "new\nline.png",
            "caf\u00e9.png",
            "cafe\u0301.png",
        }
        for name in plain:
            (Path(folder) / name).write_bytes(GOOD)
        made, raws = fitted(folder)
        assert {raw.name for raw in raws} == plain
        assert len(made.encode(raws)["x"]) == len(plain) and not made.skipped


def test_odd_names_of_files_and_classes(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    for name in (b"caf\xe9/\xff.png", b"\xf0\x9f\x98\x80/" + b"n" * 251 + b".png", b"A/twin.png", b"a/twin.png"):
        os.makedirs(os.path.dirname(raw + b"/" + name), exist_ok=True)
        with open(raw + b"/" + name, "wb") as file:
            file.write(GOOD)
    made, raws = fitted(tmp_path)
    assert len(made.encode(raws)["y"]) == 4
    json.dumps(made.state(), ensure_ascii=False).encode()  # class names can be written


# ---- pictures: what is bad ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["folder", "zip"])
@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_among_good_ones_is_named_and_left_out(name: str, where: str, tmp_path: Path) -> None:
    files = {"a.png": GOOD, "b.png": GOOD, name: BAD[name]}
    start = time.perf_counter()
    made, raws = fitted(fill(tmp_path, files) if where == "folder" else pack(tmp_path / "z.zip", files))
    assert len(made.encode(raws)["x"]) == 2
    assert [skipped for skipped, _ in made.skipped] == [name]
    assert made.skipped[0][1] and "\n" not in made.skipped[0][1]
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", ["huge.png", "wide.png", "huge.bmp", "huge.gif"])
def test_huge_pictures_are_refused_from_the_header(name: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "z.zip", {name: BAD[name]})
    made = codec()
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(DataError, match="limit is"):
        made.scan(archive)
    assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": GOOD, "b.png": png(scene(8, 8))})
    assert len(codec(max_side=16).scan(tmp_path)) == 1
    assert len(codec(max_pixels=24 * 32 - 1).scan(tmp_path)) == 1
    assert len(codec().scan(tmp_path)) == 2


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "is empty"),
        ({"notes.txt": b"hello", "labels.csv": b"a,b"}, "2 other files"),
        ({"a.png": b""}, "is empty"),
        ({"a.heic": b"x", "README": b"x"}, "no pictures"),
    ],
)
def test_nothing_to_train_on_is_one_plain_sentence(files: dict[str, bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says) as caught:
        codec().scan(fill(tmp_path, files))
    assert "\n" not in str(caught.value)


def test_only_broken_pixels_is_an_error_at_fit(tmp_path: Path) -> None:
    made = codec()
    raws = made.scan(fill(tmp_path, {"a.png": BAD["half.png"]}))
    with pytest.raises(DataError, match="a.png"):
        made.fit(raws)


def test_missing_and_damaged_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        codec().scan(tmp_path / "nowhere")
    (tmp_path / "bad.zip").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="zip"):
        codec().scan(tmp_path / "bad.zip")


def test_formats_off_the_list_are_named_and_other_files_are_not(tmp_path: Path) -> None:
    made = codec()
    made.scan(
        fill(
            tmp_path, {"a.png": GOOD, "b.heic": b"x", "c.svg": b"x", "labels.csv": b"", "Thumbs.db": b"", "README": b""}
        )
    )
    assert [name for name, _ in made.skipped] == ["b.heic", "c.svg"]


def test_one_picture_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD)
    for source in (tmp_path, tmp_path / "a.png"):
        made, raws = fitted(source)
        assert made.encode(raws)["x"].shape == (1, 3, 24, 32)


def test_special_files_and_links_are_reported(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(GOOD)
    root = fill(tmp_path / "root", {"a.png": GOOD})
    os.mkfifo(root / "pipe.png")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "out.png").symlink_to(outside)
    (root / "dangling.png").symlink_to(tmp_path / "none")
    (root / "in.png").symlink_to(root / "a.png")
    made, raws = fitted(root)
    assert [raw.name for raw in raws] == ["a.png", "in.png"]
    assert {name for name, _ in made.skipped} == {"pipe.png", "loop", "out.png", "dangling.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_reported_and_not_remembered(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": GOOD, "b.png": GOOD})
    (tmp_path / "b.png").chmod(0)
    made, raws = fitted(tmp_path)
    assert len(raws) == 1 and made.skipped[0][0] == "b.png"
    (tmp_path / "b.png").chmod(0o600)
    assert len(codec().scan(tmp_path)) == 2


def test_a_file_that_vanishes_is_left_out(tmp_path: Path) -> None:
    made, raws = fitted(fill(tmp_path, {"a.png": GOOD, "b.png": GOOD}))
    (tmp_path / "b.png").unlink()
    assert len(made.encode(raws)["x"]) == len(made.encode(raws)["x"]) == 1
    assert [name for name, _ in made.skipped] == ["b.png"]  # once, however often it is asked for


def test_zip_members_that_lead_outside_or_lie_are_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "z.zip", {"a.png": GOOD, "../evil.png": GOOD, "/abs.png": GOOD, "C:\\x.png": GOOD})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(20 << 20))
    made, raws = fitted(path)
    assert [raw.name for raw in raws] == ["a.png"]
    assert {name for name, _ in made.skipped} == {"../evil.png", "/abs.png", "C:\\x.png", "bomb.png"}


# ---- pictures: colours, orientation, sizes --------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(COLOURS))
def test_colours_are_true(name: str, tmp_path: Path) -> None:
    data, truth = COLOURS[name]
    made, raws = fitted(fill(tmp_path, {name: data}))
    wanted = truth()
    out = made.decode(made.to_model(made.encode(raws))["x"])[0]
    assert out.shape == wanted.shape and made.skipped == []
    if wanted.shape[2:] == (4,):  # colour under little alpha is rounded away
        alpha = wanted[..., 3:].astype(int)
        assert np.array_equal(out[..., 3:], alpha)
        out, wanted = (a.astype(int) * np.concatenate([alpha] * 3 + [alpha * 0 + 255], 2) // 255 for a in (out, wanted))
    assert np.abs(out.astype(int) - wanted.astype(int)).max() <= (6 if name.endswith("jpg") else 2)


def test_16_bit_grey_keeps_256_levels(tmp_path: Path) -> None:
    made, raws = fitted(fill(tmp_path, {"a.png": COLOURS["grey16.png"][0]}))
    assert len(np.unique(made.encode(raws)["x"])) == 256


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_stand_upright(orientation: int, form: str, tmp_path: Path) -> None:
    turns = Image.Transpose
    undo = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE]
    undo += [turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]  # what lays an upright picture as a camera would
    upright = scene()
    upright[:12] //= 2
    how = undo[orientation - 1]
    laid = Image.fromarray(upright) if how is None else Image.fromarray(upright).transpose(how)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    made, raws = fitted(fill(tmp_path, {"a.png": save(laid, form, exif=exif, **options)}))
    assert (raws[0].width, raws[0].height) == (32, 24)
    out = made.encode(raws)["x"][0].permute(1, 2, 0).numpy()
    assert np.abs(out.astype(int) - upright).mean() < 2


def test_animations_give_their_first_frame_and_say_so(tmp_path: Path) -> None:
    made, raws = fitted(fill(tmp_path, {"a.gif": animation()}))
    assert made.encode(raws)["x"][0, :, 0, 0].tolist() == [255, 0, 0] and "first frame" in made.notes[0]


def test_channels_fit_the_richest_picture(tmp_path: Path) -> None:
    grey, rgb, rgba = png(scene(channels=1)[..., 0]), GOOD, png(scene(channels=4))
    for files, channels in (([grey], 1), ([grey, rgb], 3), ([grey, rgb, rgba], 4)):
        folder = fill(tmp_path / str(channels), {f"{i}.png": data for i, data in enumerate(files)})
        made, raws = fitted(folder)
        assert made.spec().shape == (channels, 24, 32) and len(made.encode(raws)["x"]) == len(files)
        assert len(made.spec().mean) == channels


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([(24, 32), (24, 32)], (24, 32)),
        ([(1, 1)], (1, 1)),
        ([(40, 50), (70, 60), (20, 90)], (32, 32)),
        ([(64, 64), (64, 80), (16, 16), (16, 17)], (64, 64)),
        ([(64, 64), (16, 80), (16, 16)], (16, 16)),
        ([(600, 700), (700, 600)], (256, 256)),
        ([(1200, 1100)], (256, 256)),
    ],
)
def test_size_is_common_or_a_power_of_two(sizes: list[tuple[int, int]], wanted: tuple[int, int]) -> None:
    made = codec()
    made.fit(list(map(_blank, sizes)))
    assert made.spec().shape == (1, *wanted)


def _blank(size: tuple[int, int]) -> Any:
    return codec().scan(np.zeros((1, *size), np.uint8))[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3, 4]), st.integers(1, 64))
def test_any_size_is_covered_and_cropped(height: int, width: int, channels: int, size: int) -> None:
    made, raws = fitted(np.full((2, height, width, channels), 77, np.uint8), size=size)
    x = made.encode(raws)["x"]
    assert x.shape == (2, channels, size, size)
    assert x[:, :3].float().std() < (1 if channels < 4 else 9) and torch.equal(x, made.encode(raws)["x"])


def test_crop_takes_the_centre() -> None:
    wide = np.zeros((1, 10, 30), np.uint8)
    wide[:, :, 10:20] = 200
    made, raws = fitted(wide, size=10)
    assert (made.encode(raws)["x"] == 200).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1))
def test_decoded_pictures_are_stable(channels: int, seed: int) -> None:
    made, _ = fitted(np.zeros((2, 6, 5, channels), np.uint8))
    x = torch.rand(3, channels, 6, 5, generator=torch.Generator().manual_seed(seed)) * 2.4 - 1.2
    once = made.decode(x)
    twice = made.decode(made.to_model(made.encode(once))["x"])
    stored = made.encode(once)["x"]
    assert torch.equal(stored, made.encode(twice)["x"])
    assert once[0].shape == ((6, 5) if channels == 1 else (6, 5, channels))


def test_decode_survives_a_diverged_generator() -> None:
    made, _ = fitted(np.zeros((2, 4, 4), np.uint8))
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0]).expand(1, 1, 4, 4)
    assert made.decode(x)[0][0].tolist() == [0, 255, 0, 128]


# ---- real data, where there is any ----------------------------------------------------------------------------------
@pytest.mark.skipif(not (DATA / "noto_emoji.zip").exists(), reason="no sample data beside the checkout")
@pytest.mark.parametrize(
    ("name", "n", "shape", "classes"),
    [
        ("noto_emoji", 1688, (4, 128, 128), 0),
        ("clothes", 3781, (3, 128, 128), 10),
        ("emojione_pairs", 2744, (4, 64, 64), 2),
    ],
)
def test_real_archives(name: str, n: int, shape: tuple[int, ...], classes: int) -> None:
    made = codec()
    raws = made.scan(DATA / f"{name}.zip")
    train = raws.take([i for i, split in enumerate(raws.splits) if split == "train"])
    made.fit(train[::8])
    assert len(raws) == n and made.spec().shape == shape and len(made.spec().classes) == classes
    assert made.skipped == [] and len(made.encode(train[:5])["x"]) == 5


def test_jpeg_is_decoded_small_but_alike(tmp_path: Path) -> None:
    large = np.asarray(Image.fromarray(scene(48, 64)).resize((1024, 768), Image.Resampling.BICUBIC))
    made, raws = fitted(fill(tmp_path, {"a.jpg": save(Image.fromarray(large), "JPEG", quality=95)}), size=32)
    exact, _ = fitted(large[None], size=32)
    difference = made.encode(raws)["x"].int() - exact.encode([large])["x"].int()
    assert difference.abs().float().mean() < 3 and len(JPEG) > 0


def test_levels_that_many_pixels_share_get_room() -> None:
    made = codec("image")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (200, 16, 16), dtype=np.uint8)
    x[rng.random(x.shape) < 0.5] = 0
    x[rng.random(x.shape) < 0.05] = 200
    made.fit(made.scan(x))
    room = np.array(made.spec().room)
    assert room[0] == 64 and 24 <= room[200] <= 32 and (np.delete(room, [0, 200]) <= 2).all() and (room >= 1).all()
    again = codec("image")
    again.load_state(made.state())
    assert again.spec() == made.spec()
    before = codec("image")
    old = {key: value for key, value in made.state().items() if key != "room"}  # of a run before there was one
    before.load_state(old)
    assert before.spec().room == () and before.spec().mean == made.spec().mean
    for wrong in ([1] * 255, [1] * 255 + [65], [1] * 255 + [0], [1] * 255 + [1.5]):
        with pytest.raises(DataError, match="damaged"):
            codec("image").load_state({**made.state(), "room": wrong})


def test_photographs_use_levels_evenly_and_two_levels_get_all_the_room() -> None:
    even, two = codec("image"), codec("image")
    x = np.random.default_rng(0).integers(0, 256, (400, 32, 32), dtype=np.uint8)
    even.fit(even.scan(x))
    assert even.spec().room == ()
    two.fit(two.scan((x > 99) * np.uint8(255)))
    assert two.spec().room == (64, *(1,) * 254, 64)
