"""Kill, crash, fill the disk, poison a number: what was saved stays, and training goes on to the same bits."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from gansmith import checkpoint, engine, files, loop, plan
from gansmith.data import Stream
from gansmith.errors import CheckpointError, GansmithError, RunError, TrainingError
from gansmith.files import RunFolder
from gansmith.games.gan import Gan
from helpers import (
    IMAGES,
    NET,
    RECIPES,
    WRITE,
    ending,
    final,
    fit,
    fork,
    full_after,
    intercept,
    names,
    run,
    same,
    status,
    swift,
    table,
    wait,
)  # fmt: skip

__all__ = ["swift"]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], float]]:
    """recipe -> how its training ends when nothing happens, and about how long it takes in a forked process."""

    @cache
    def whole(recipe: str) -> tuple[dict[str, Any], float]:
        out = tmp_path_factory.mktemp("whole") / recipe
        fit(out.with_name("warm"), recipe, 8)
        began = time.perf_counter()
        assert wait(fork(lambda: fit(out, recipe))) == 0
        return ending(out), time.perf_counter() - began

    return whole


# ---- kill -----------------------------------------------------------------------------------------------------------
def kill_and_resume(out: Path, recipe: str, seconds: float, rng: random.Random) -> bool:
    """SIGKILL a training at a random moment, then let it finish. False if it had finished before."""
    shutil.rmtree(out, ignore_errors=True)
    pid = fork(lambda: fit(out, recipe))
    time.sleep(rng.uniform(0.02, 1) * seconds)
    os.kill(pid, signal.SIGKILL)
    killed = wait(pid) == -signal.SIGKILL
    assert wait(fork(lambda: fit(out, recipe))) == 0
    return killed


def kill_at_random(out: Path, recipe: str, kills: int, undisturbed: Any) -> None:
    expected, seconds = undisturbed(recipe)
    rng, killed = random.Random(recipe), 0
    for _ in range(20 * kills):
        killed += kill_and_resume(out, recipe, seconds, rng)
        assert same(ending(out), expected)
        if killed == kills:
            return
    raise AssertionError(f"only {killed} of {kills} kills hit a training that was running")


@pytest.mark.parametrize("recipe", ["auto", "dcgan", "wgan-gp", "gan", "acgan"])
def test_killed_at_a_random_moment_it_ends_with_the_same_bits(tmp_path: Path, recipe: str, undisturbed: Any) -> None:
    kill_at_random(tmp_path / "run", recipe, 1, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_25_random_moments_it_ends_with_the_same_bits(tmp_path: Path, recipe: str, undisturbed: Any) -> None:
    kill_at_random(tmp_path / "run", recipe, 25, undisturbed)


def die_at(k: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Die at the k-th file operation, a write with half of its bytes written."""
    left = k

    def before(name: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if left == 0:
            if name == "write":
                WRITE(args[0], bytes(args[1])[: len(args[1]) // 2])
            os._exit(9)
        left -= 1

    return before


def crash_and_resume(out: Path, k: int) -> int:
    def doomed() -> None:
        with pytest.MonkeyPatch.context() as patch:
            intercept(patch, die_at(k))
            fit(out)

    code = wait(fork(doomed))
    fit(out)
    return code


def test_dead_at_any_file_operation_it_ends_with_the_same_bits(tmp_path: Path, undisturbed: Any) -> None:
    """From the first lock to the last rename: log, samples, run.json and checkpoints alike."""
    expected, _ = undisturbed("gan")
    for k in random.Random(0).sample(range(250), 8):
        assert crash_and_resume(tmp_path / str(k), k) == 9
        assert same(ending(tmp_path / str(k)), expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_dead_at_every_file_operation_it_ends_with_the_same_bits(tmp_path: Path, undisturbed: Any) -> None:
    expected, _ = undisturbed("gan")
    for k in range(10_000):
        code = crash_and_resume(tmp_path / "run", k)
        assert same(ending(tmp_path / "run"), expected)
        if code == 0:
            break
        shutil.rmtree(tmp_path / "run")
    assert k > 250


def test_killed_again_and_again_under_minutes_it_ends_in_time_and_never_steps_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes, log, killed = 0.02, RunFolder(tmp_path / "run").log, 0
    monkeypatch.setattr(loop, "TICK_SECONDS", (0.05, 0.1))
    monkeypatch.setattr(plan, "trial", lambda t: 100.0)  # an early first tick, however busy the machine
    for _ in range(3):
        before = log.stat().st_size if log.exists() else 0
        pid = fork(lambda: fit(tmp_path / "run", images=None, minutes=minutes))
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if log.exists() and log.stat().st_size > before:
                break
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        killed += wait(pid) == -signal.SIGKILL
    fit(tmp_path / "run", images=None, minutes=minutes)
    assert killed
    rows = files.read_lines(log)
    progress, seconds = [row["progress"] for row in rows], [row["seconds"] for row in rows]
    assert progress == sorted(progress) and progress[-1] == 1
    assert seconds == sorted(seconds)
    assert all(second < 60 * minutes for second in seconds[:-1])  # the first tick past the budget is the last
    assert status(tmp_path / "run") == "finished"


# ---- a crash inside a save ------------------------------------------------------------------------------------------
def weights(value: float) -> dict[str, torch.Tensor]:
    return {"game/w": torch.full((64,), value)}


def save(folder: RunFolder, seen: int) -> str:
    return checkpoint.save(folder, seen, {"seen": seen}, weights(seen), weights(seen), keep=2)


def saved_twice(path: Path) -> RunFolder:
    folder = RunFolder(path)
    for seen in (1, 2):
        save(folder, seen)
    return folder


def good(folder: RunFolder) -> int:
    """What the newest good checkpoint holds; it must hold together."""
    found, _ = checkpoint.newest(folder, checkpoint.pointed(folder, "latest"))
    seen = found.facts["seen"]
    assert int(found.name) == seen and torch.equal(found.state["game/w"], weights(seen)["game/w"])
    return int(seen)


def tidy(folder: RunFolder) -> bool:
    inside = names(folder.path) + names(folder.checkpoints)
    return not [name for name in inside if name.startswith(".")]


class Crash(BaseException):
    """Nothing catches it."""


def operations_of_a_save(tmp_path: Path) -> int:
    done: list[str] = []
    folder = saved_twice(tmp_path / "count")
    with pytest.MonkeyPatch.context() as patch:
        intercept(patch, lambda name, args: done.append(name))
        save(folder, 3)
    assert {"open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir"} <= set(done)
    return len(done)


@pytest.mark.parametrize("way", ["raised", "exited"])
def test_a_crash_at_every_file_operation_of_a_save_leaves_a_good_checkpoint(tmp_path: Path, way: str) -> None:
    count = operations_of_a_save(tmp_path)
    for k in range(count):
        folder = saved_twice(tmp_path / str(k))
        with pytest.MonkeyPatch.context() as patch:
            if way == "exited":

                def doomed(k: int = k, folder: RunFolder = folder, patch: Any = patch) -> None:
                    intercept(patch, die_at(k))
                    save(folder, 3)

                assert wait(fork(doomed)) == 9
            else:
                left = iter(range(count))

                def before(name: str, args: Any, left: Iterator[int] = left, k: int = k) -> None:
                    if next(left, -1) == k:
                        raise Crash

                intercept(patch, before)
                with pytest.raises(Crash):
                    save(folder, 3)
        assert good(folder) in (2, 3)
        save(folder, 4)
        assert good(folder) == 4 and tidy(folder)
        assert len(checkpoint.listed(folder)) == 2


def test_a_save_over_a_checkpoint_of_the_same_name_survives_a_crash_too(tmp_path: Path) -> None:
    for k in range(operations_of_a_save(tmp_path)):
        folder = saved_twice(tmp_path / str(k))

        def doomed(k: int = k, folder: RunFolder = folder) -> None:
            with pytest.MonkeyPatch.context() as patch:
                intercept(patch, die_at(k))
                save(folder, 2)

        wait(fork(doomed))
        assert good(folder) in (1, 2)


# ---- a full disk ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_at_any_byte_of_a_save_keeps_the_last_checkpoint(tmp_path: Path, code: int) -> None:
    size = sum(path.stat().st_size for path in (saved_twice(tmp_path / "size").checkpoints / f"{2:012d}").iterdir())
    for room in range(0, size + 30, 25):
        folder = saved_twice(tmp_path / str(room))
        with pytest.MonkeyPatch.context() as patch:
            full_after(patch, room, code)
            with pytest.raises(CheckpointError, match=r"MB needed, .* MB free") as raised:
                save(folder, 3)
        assert os.strerror(code) in str(raised.value) and "\n" not in str(raised.value)
        assert good(folder) in (2, 3)  # 3 if only the note in latest.json did not fit
        save(folder, 4)
        assert good(folder) == 4 and tidy(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.62, 0.97])
def test_a_full_disk_stops_training_in_one_sentence_and_it_goes_on_later(
    tmp_path: Path, share: float, undisturbed: Any
) -> None:
    expected, _ = undisturbed("gan")
    written = 0

    def count(name: str, args: Any) -> None:
        nonlocal written
        written += len(args[1]) if name == "write" else 0

    with pytest.MonkeyPatch.context() as patch:
        intercept(patch, count)
        fit(tmp_path / "count")
    with pytest.MonkeyPatch.context() as patch:
        full_after(patch, int(share * written))
        with pytest.raises((CheckpointError, RunError), match=r"MB needed.* MB free") as raised:
            fit(tmp_path / "run")
    assert str(tmp_path) in str(raised.value) and os.strerror(errno.ENOSPC) in str(raised.value)
    fit(tmp_path / "run")
    assert same(ending(tmp_path / "run"), expected)


def test_a_start_without_room_for_checkpoints_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_space", lambda folder: 1000)
    with pytest.raises(RunError, match="MB free; checkpoints need"):
        fit(tmp_path / "run")


def test_a_line_of_the_log_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    files.append_line(tmp_path / "log", {"a": 1})
    for room in range(10):
        with pytest.MonkeyPatch.context() as patch:
            full_after(patch, room)
            with pytest.raises(OSError, match="log"):
                files.append_line(tmp_path / "log", {"bbbbb": 2})
    files.append_line(tmp_path / "log", {"c": 3})
    assert files.read_lines(tmp_path / "log") == [{"a": 1}, {"c": 3}]


NO_MOUNT = 77


def on_a_small_disk(place: Path, size: int, action: Callable[[], Any]) -> int:
    """Mount a tmpfs in a namespace of this (forked) process alone, and act there."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if not hasattr(libc, "unshare") or libc.unshare(0x10000000 | 0x00020000):  # a user and a mount namespace
        return NO_MOUNT
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError:
        return NO_MOUNT
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode()):
        return NO_MOUNT
    return int(action() or 0)


def test_a_real_disk_that_fills_up_ends_in_one_sentence_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    place, data, heard = tmp_path / "disk", table(tmp_path / "points.csv"), tmp_path / "heard"
    place.mkdir()

    def train() -> int:
        import sys

        patch = pytest.MonkeyPatch()
        patch.setattr(files, "free_space", lambda folder: 1 << 30)  # else the start is refused
        code = run("train", data, "--recipe", "gan", "--images", IMAGES, "--out", place / "run", *sets())
        sys.stderr.flush()
        heard.write_bytes(sys.stderr.buffer.getvalue())  # type: ignore[attr-defined]
        assert good_training(place / "run")
        return code

    code = wait(fork(lambda: on_a_small_disk(place, 100 << 10, train)))
    if code == NO_MOUNT:
        pytest.skip("this system lets nobody mount a tmpfs")
    said = heard.read_text()
    assert code == 1 and "Traceback" not in said
    assert os.strerror(errno.ENOSPC) in said.splitlines()[-1] and said.splitlines()[-1].startswith("gansmith: ")


def sets() -> list[str]:
    return [word for change in NET for word in ("--set", change)]


def good_training(out: Path) -> bool:
    found, passed = checkpoint.newest(RunFolder(out))
    return bool(found.state) and passed == []


# ---- signals --------------------------------------------------------------------------------------------------------
@pytest.fixture
def points(tmp_path: Path) -> Path:
    return table(tmp_path / "points.csv")


def train_with_signals(data: Path, out: Path, number: int, when: int, times: int = 1) -> int:
    """The train command in a process of its own that signals itself after a round."""
    real = loop.rounds

    def rounds(t: Any) -> None:
        real(t)
        if t.clock.round == when:
            for _ in range(times):
                os.kill(os.getpid(), number)

    def command() -> int:
        loop.rounds = rounds  # type: ignore[assignment]
        return run("train", data, "--recipe", "gan", "--images", IMAGES, "--out", out, *sets())

    return wait(fork(command))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [1, 13, 29])
def test_a_signal_saves_and_exits_130_and_the_same_command_goes_on_to_the_same_bits(
    tmp_path: Path, points: Path, number: int, when: int
) -> None:
    fit(tmp_path / "whole", data=points)
    out = tmp_path / "run"
    assert train_with_signals(points, out, number, when) == 130
    assert status(out) == "interrupted"
    assert checkpoint.listed(RunFolder(out))[0] == f"{8 * when:012d}"
    assert train_with_signals(points, out, number, 99) == 0
    assert status(out) == "finished" and final(out) == final(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_acts_at_once_and_harms_nothing(tmp_path: Path, points: Path, number: int, code: int) -> None:
    fit(tmp_path / "whole", data=points)
    out = tmp_path / "run"
    assert train_with_signals(points, out, number, 13, times=2) == code
    assert train_with_signals(points, out, number, 99) == 0
    assert final(out) == final(tmp_path / "whole")


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_signal_during_a_save_lets_it_end(tmp_path: Path, points: Path, which: str) -> None:
    real, out = checkpoint.save, tmp_path / "run"

    def save(folder: RunFolder, seen: int, *rest: Any) -> str:
        if seen == (0 if which == "first" else IMAGES):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(folder, seen, *rest)

    def command() -> int:
        checkpoint.save = save  # type: ignore[assignment]
        return run("train", points, "--recipe", "gan", "--images", IMAGES, "--out", out, *sets())

    assert wait(fork(command)) == (130 if which == "first" else 0)
    assert good_training(out)
    assert status(out) == ("interrupted" if which == "first" else "finished")


# ---- not a number ---------------------------------------------------------------------------------------------------
def poison(monkeypatch: pytest.MonkeyPatch, site: str, when: int, transient: bool) -> None:
    """Put a NaN into D's loss, D's gradient or the examples, at a round; once or always."""
    real_loss, real_batch, done = Gan.d_loss, Stream.batch, []

    def hit(number: int) -> bool:
        if number != when or (transient and done):
            return False
        done.append(number)
        return True

    def d_loss(self: Any, batch: Any, clock: Any) -> dict[str, torch.Tensor]:
        terms = real_loss(self, batch, clock)
        if hit(clock.round):
            if site == "gradient":
                terms["slope"] = (next(self.D.parameters()) * 0).sqrt().sum()  # 0, but its slope is not finite
            else:
                terms["adversarial"] = terms["adversarial"] * math.nan
        return terms

    def batch(self: Any, number: int, play: int) -> Any:
        found = real_batch(self, number, play)
        return found | {"x": found["x"] * math.nan} if hit(number) else found

    if site == "input":
        monkeypatch.setattr(Stream, "batch", batch)
    else:
        monkeypatch.setattr(Gan, "d_loss", d_loss)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(round, were all weights left alone?) of every update that was not finite."""
    seen, real = [], engine.play

    def play(t: Any, turn: Any, micros: Any) -> None:
        before = {name: p.detach().clone() for name, p in t.game.named_parameters()}
        try:
            real(t, turn, micros)
        except engine.NonFinite:
            seen.append((t.clock.round, all(torch.equal(p, before[n]) for n, p in t.game.named_parameters())))
            raise

    monkeypatch.setattr(engine, "play", play)
    return seen


SITES = {"loss": "the adversarial loss of player D", "gradient": "gradient of player D", "input": "player D"}


@pytest.mark.parametrize("site", SITES)
def test_a_nan_once_is_seen_at_once_and_not_applied_and_training_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    seen = watch(monkeypatch)
    poison(monkeypatch, site, 13, transient=True)
    fit(tmp_path)
    assert seen == [(13, True)]
    rows = files.read_lines(RunFolder(tmp_path).log)
    events = [row for row in rows if "event" in row]
    assert [(row["event"], row["attempt"], row["seen"]) for row in events] == [("rollback", 1, 80)]
    assert SITES[site] in events[0]["why"] and events[0]["why"].endswith("in round 13")
    assert [row["seen"] for row in rows if "terms" in row] == [40, 80, 120, 160, 200, 240]
    assert [row["signals"]["attempt"] for row in rows if "terms" in row] == [0, 0, 1, 1, 1, 1]
    assert status(tmp_path) == "finished" and finite(tmp_path)


@pytest.mark.parametrize("site", SITES)
def test_a_nan_that_comes_again_stops_training_with_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    seen = watch(monkeypatch)
    poison(monkeypatch, site, 13, transient=False)
    with pytest.raises(
        TrainingError, match=f"{SITES[site]} is not finite in round 13, again after.* checkpoint 80"
    ) as raised:
        fit(tmp_path)
    assert raised.value.status == 1 and "\n" not in str(raised.value)
    assert seen == [(13, True)] * 2
    assert status(tmp_path) == "failed" and finite(tmp_path)
    assert [row["attempt"] for row in files.read_lines(RunFolder(tmp_path).log) if "event" in row] == [1]


def finite(out: Path) -> bool:
    found, _ = checkpoint.newest(RunFolder(out))
    return all(t.isfinite().all() for t in (*found.state.values(), *found.ema.values()))


def test_a_rollback_survives_a_kill_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt is saved: after the second start the draws are those of the new attempt."""

    def recover(out: Path, until: int) -> int:
        poison(monkeypatch, "loss", 13, transient=True)
        real = loop.rounds

        def rounds(t: Any) -> None:
            real(t)
            if t.clock.round == until:
                os._exit(9)

        monkeypatch.setattr(loop, "rounds", rounds)
        fit(out)
        return 0

    assert wait(fork(lambda: recover(tmp_path / "whole", 99))) == 0
    assert wait(fork(lambda: recover(tmp_path / "run", 22))) == 9
    fit(tmp_path / "run")
    assert same(ending(tmp_path / "run"), ending(tmp_path / "whole"))


def test_nothing_escapes_but_errors_for_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that nobody may write to, a file in the way: a sentence, no traceback."""
    (tmp_path / "file").write_text("")
    assert run("train", "ring8", "--out", tmp_path / "file", "--images", "8") == 1
    with pytest.raises((GansmithError, OSError)):
        fit(tmp_path / "file" / "deeper")
