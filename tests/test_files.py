"""Durable writes, locks, and listings of folders and archives."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import fill, pack
from gansmith import files
from gansmith.errors import DataError, RunError
from gansmith.files import RunFolder, Source

CALLS = ("open", "write", "fsync", "replace", "close")


# ---- durable writes -------------------------------------------------------------------------------------------------
def _break_at(monkeypatch: pytest.MonkeyPatch, step: int, error: OSError) -> list[int]:
    """Let the step-th system call of a write fail; returns the counter."""
    seen = [0]

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] == step:
                raise error
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(files.os, name, wrap(getattr(os, name)))
    return seen


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_anywhere_leaves_old_or_new(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for step in range(1, 50):
        path.write_bytes(b"old")
        with pytest.MonkeyPatch.context() as patch:
            seen = _break_at(patch, step, OSError(number, os.strerror(number)))
            try:
                files.write(path, b"new")
            except OSError as error:
                assert error.errno == number
        assert path.read_bytes() in (b"old", b"new")
        if seen[0] < step:  # no call was left to fail
            break
        assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]  # no temporary file stays behind
    assert step > 5 and path.read_bytes() == b"new"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    files.write(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc\u00e9", max_size=4), inner, max_size=4),
    max_leaves=20,
)


def _expected(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _expected(v) for k, v in value.items()}
    return [_expected(v) for v in value] if isinstance(value, list) else value


@settings(max_examples=60, deadline=None)
@given(value=JSON)
def test_json_comes_back_with_null_for_what_is_not_finite(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    files.write_json(path, value)
    assert files.read_json(path) == _expected(value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"nope"])
def test_bad_json_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(RunError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")


def test_json_that_is_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        files.read_json(tmp_path / "none.json")
    monkeypatch.setattr(files, "JSON_LIMIT", 10)
    (tmp_path / "a.json").write_bytes(b"[1,2,3,4,5,6,7,8]")
    with pytest.raises(RunError, match="larger"):
        files.read_json(tmp_path / "a.json")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert files.read_lines(log) == []
    for n in range(3):
        files.append_line(log, {"seen": n, "loss": float("nan")})
    with open(log, "ab") as file:
        file.write(b'{"seen": 3, "lo')
    assert files.read_lines(log) == [{"seen": n, "loss": None} for n in range(3)]


# ---- the run folder -------------------------------------------------------------------------------------------------
def _hold(path: Path, ready: Any, done: Any) -> None:
    with RunFolder(path).locked():
        ready.set()
        done.wait(30)


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path / "run", ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(RunError, match=f"process {process.pid} on "), RunFolder(tmp_path / "run").locked():
        pass
    process.kill()  # the system frees the lock of a process that dies
    process.join(30)
    with RunFolder(tmp_path / "run").locked():
        pass


def test_the_lock_can_be_taken_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        with run.locked(), pytest.raises(RunError, match=f"process {os.getpid()}"), run.locked():
            pass


def test_setting_aside_deletes_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.set_aside() is None
    for n in (1, 2):
        fill(run.path, {"run.json": b"{}"})
        assert run.set_aside() == tmp_path / f"run.{n}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.1", "run.2"]


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder(tmp_path).read_run()
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="does not hold a run"):
        RunFolder(tmp_path).read_run()


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("GANSMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "gansmith"
    assert files.free_space(tmp_path / "not" / "yet") > 0


# ---- sources --------------------------------------------------------------------------------------------------------
TREE = {"b/2.txt": b"two", "a.txt": b"one", "b/1.txt": b"", "c d/\u00e9.txt": b"three"}


def test_folder_and_zip_list_and_read_alike(tmp_path: Path) -> None:
    folder, archive = Source(fill(tmp_path / "d", TREE)), Source(pack(tmp_path / "d.zip", TREE, zipfile.ZIP_DEFLATED))
    for source in (folder, archive):
        assert [e.name for e in source.entries] == sorted(TREE)
        assert {e.name: source.read(e.name) for e in source.entries} == TREE
        assert [e.size for e in source.entries] == [len(TREE[name]) for name in sorted(TREE)]
        assert source.refused == []


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    fill(tmp_path, {"a.csv": b"1,2\n"})
    source = Source(tmp_path / "a.csv")
    assert [e.name for e in source.entries] == ["a.csv"] and source.read("a.csv") == b"1,2\n"


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", TREE)
    first = Source(folder).fingerprint()
    assert Source(folder).fingerprint() == first
    os.utime(folder / "a.txt", ns=(1, 1))
    assert Source(folder).fingerprint() != first
    one, two = (Source(pack(tmp_path / f"{n}.zip", {"a": data})) for n, data in enumerate((b"x", b"y")))
    assert one.fingerprint() != two.fingerprint()


def test_what_is_not_there_or_no_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        Source(tmp_path / "none")
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="zip archive"):
        Source(tmp_path / "a.zip")
    source = Source(fill(tmp_path / "d", {"a": b""}))
    with pytest.raises(DataError, match="cannot be read"):
        source.read("b")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.integers(1, 255))
def test_a_damaged_archive_never_shows_a_traceback(at: int, flip: int) -> None:
    import io
    import tempfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in TREE.items():
            archive.writestr(name, data * 20)
    data = bytearray(file.getvalue())
    data[at % len(data)] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        path.write_bytes(data)
        try:
            source = Source(path)
        except DataError:
            return
        for entry in source.entries:
            try:
                source.read(entry.name)
            except DataError:
                continue


def test_archive_entries_that_lead_outside_or_lie_are_refused(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "z.zip", {"ok": b"1", "../up": b"", "/abs": b"", "a/../../up": b"", "\\\\host\\x": b"", "C:x": b""}
    )
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(20 << 20))
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ok", b"2")
    source = Source(path)
    assert [e.name for e in source.entries] == ["ok"]
    assert len(source.refused) == 8 and all(reason for _, reason in source.refused)


def test_special_files_and_links_are_refused_and_loops_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", {"sub/a": b"1"})
    (tmp_path / "secret").write_bytes(b"s")
    os.mkfifo(root / "pipe")
    (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "in").symlink_to(root / "sub" / "a")
    source = Source(root)
    assert [e.name for e in source.entries] == ["in", "sub/a"]
    assert {name for name, _ in source.refused} == {"pipe", "sub/loop", "out"}


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"-lead",
        b"n" * 255,
        "\U0001f600".encode(),
        "e\u0301".encode(),
        "\u00e9".encode(),
    ]
    for name in names:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(name)
    source = Source(tmp_path)
    assert {source.read(e.name) for e in source.entries} == set(names)
    assert len(source.fingerprint()) == 64


def test_many_threads_read_one_archive(tmp_path: Path) -> None:
    tree = {f"{n}": os.urandom(500) for n in range(200)}
    source, wrong = Source(pack(tmp_path / "a.zip", tree, zipfile.ZIP_DEFLATED)), []

    def read() -> None:
        wrong.extend(name for name, data in tree.items() if source.read(name) != data)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_entry_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ENTRY_LIMIT", 10)
    tree = {"a": bytes(11), "b": bytes(10)}
    for source in (Source(fill(tmp_path / "d", tree)), Source(pack(tmp_path / "d.zip", tree))):
        assert source.read("b") == bytes(10)
        with pytest.raises(DataError, match="larger"):
            source.read("a")
