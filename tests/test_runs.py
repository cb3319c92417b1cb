"""A run folder over its life: resumed, continued, compared, locked, damaged, and written by a stranger."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import gansmith
from gansmith import checkpoint, files, look, plan, resolve, session
from gansmith.errors import CheckpointError, DataError, GansmithError, RunError, UsageError
from gansmith.files import RunFolder
from helpers import (
    IMAGES,
    NET,
    PICTURES,
    POINTS,
    ending,
    final,
    fit,
    fork,
    names,
    quicken,
    run,
    same,
    status,
    swift,
    table,
    wait,
)  # fmt: skip

__all__ = ["swift"]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints, trained on a file; for reading only."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        fit(place / "run", data=table(place / "points.csv"))
    return place / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run to work on."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def points(finished: Path) -> Path:
    return finished.parent / "points.csv"


TRIAL = plan.trial


# ---- the same command again -----------------------------------------------------------------------------------------
def test_the_same_command_on_a_finished_run_says_so_and_changes_nothing(
    copy: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(copy, data=points(finished), quiet=False)
    assert "This run is already finished: 240 examples" in capfd.readouterr().err
    assert same(ending(copy), ending(finished)) and status(copy) == "finished"


def test_a_larger_budget_continues_a_finished_run(
    copy: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(copy, images=2 * IMAGES, data=points(finished), quiet=False)
    assert "Resuming at 240 examples, 50% of the budget" in capfd.readouterr().err
    rows = files.read_lines(RunFolder(copy).log)
    assert [row["seen"] for row in rows] == sorted({row["seen"] for row in rows}) and rows[-1]["seen"] == 2 * IMAGES
    assert checkpoint.listed(RunFolder(copy))[0] == f"{2 * IMAGES:012d}"


def test_a_budget_in_minutes_continues_a_run_of_images(copy: Path, finished: Path) -> None:
    seconds = checkpoint.newest(RunFolder(copy))[0].facts["seconds"]
    fit(copy, images=None, minutes=seconds / 60 + 0.005, data=points(finished))
    facts = checkpoint.newest(RunFolder(copy))[0].facts
    assert facts["clock"]["seen"] > IMAGES and facts["clock"]["progress"] == 1 and facts["seconds"] > seconds


def test_no_budget_keeps_that_of_the_run(copy: Path, finished: Path) -> None:
    fit(copy, images=None, data=points(finished))
    assert same(ending(copy), ending(finished))


def test_other_settings_are_listed_one_by_one(copy: Path, finished: Path) -> None:
    with pytest.raises(RunError) as raised:
        gansmith.train(points(finished), "r3", out=copy, images=IMAGES, seed=3, set=["train.batch=16"], quiet=True)
    said = str(raised.value)
    assert "recipe ('gan' then, 'r3' now)" in said and "seed (0 then, 3 now)" in said and "train.batch=16" in said
    assert "size" not in said and "--fresh" in said


def test_settings_that_change_no_result_may_differ(copy: Path, finished: Path) -> None:
    free = ["train.keep=1", "data.cache=0", "train.device=cpu"]
    gansmith.train(points(finished), "gan", out=copy, images=2 * IMAGES, set=[*NET, *free], quiet=True, device="cpu")
    assert len(checkpoint.listed(RunFolder(copy))) == 1


def test_other_data_is_refused(copy: Path) -> None:
    with pytest.raises(RunError, match=r"trained on other data .*points\.csv"):
        fit(copy, data=POINTS[:100])


def test_data_that_changed_is_refused(copy: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(points(finished).read_text() + "1,1\n")
    with pytest.raises(RunError, match="trained on other data"):
        fit(copy, data=tmp_path / "points.csv")


def test_fresh_moves_the_old_run_aside_and_deletes_nothing(copy: Path, finished: Path) -> None:
    for number in (1, 2):
        fit(copy, images=40, data=points(finished), fresh=True)
        assert final(copy.with_name(f"copy.{number}"))
    assert same(ending(copy.with_name("copy.1")), ending(finished))
    assert checkpoint.listed(RunFolder(copy))[0] == f"{40:012d}"


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = gansmith.train("ring8", images=IMAGES, set=NET, dry_run=True, quiet=True)
    assert plan["images"] == IMAGES and names(tmp_path) == []


@pytest.mark.parametrize(
    ("budget", "images", "seconds"),
    [
        ({"images": 640}, 640, 9.6),
        ({"images": 160}, 160, 3.2),
        ({"minutes": 0.2}, 880, 12),
        ({"minutes": 0.02}, 60, 1.2),
    ],
)
def test_a_plan_counts_with_a_slower_start(
    budget: dict[str, Any], images: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "trial", lambda t: 50.0 if t.parts > 1 else 100.0)
    monkeypatch.setattr(plan, "tick_seconds", lambda t: 0.0)
    monkeypatch.setattr(plan, "SAVE_SHARE", math.inf)
    early = [*NET, "train.batch=64", "train.early=320"]
    found = gansmith.train("ring8", set=early, dry_run=True, quiet=True, **budget)
    assert (found["images"], found["seconds"]) == pytest.approx((images, seconds))


@pytest.mark.parametrize("observer", ["quiet", "bar", "tensorboard", "no plan", "live", "keep"])
def test_observers_change_no_bit(
    tmp_path: Path, observer: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"set": NET}
    if observer == "tensorboard":
        pytest.importorskip("torch.utils.tensorboard")
        options["set"] = [*NET, "train.tensorboard=true"]
    elif observer == "no plan":
        monkeypatch.setattr(plan, "trial", TRIAL)
    elif observer == "live":
        options["set"] = [*NET, "data.cache=0"]
    elif observer == "keep":
        options["set"] = [*NET, "train.keep=9"]
    gansmith.train(PICTURES, "dcgan", out=tmp_path / "a", images=80, set=NET, quiet=True)
    gansmith.train(PICTURES, "dcgan", out=tmp_path / "b", images=80, quiet=observer != "bar", **options)
    assert final(tmp_path / "a") == final(tmp_path / "b")


# ---- one owner ------------------------------------------------------------------------------------------------------
def hold(folder: RunFolder) -> tuple[int, int]:
    """A process that holds the lock until it is killed: (pid, a descriptor that says when)."""
    read, write = os.pipe()

    def owner() -> None:
        with folder.locked():
            os.write(write, b"!")
            signal.pause()

    pid = fork(owner)
    os.close(write)
    assert os.read(read, 1) == b"!"
    os.close(read)
    return pid, read


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait(pid)


def test_a_second_process_is_told_who_trains(copy: Path, finished: Path) -> None:
    before = ending(copy)
    pid, _ = hold(RunFolder(copy))
    try:
        for options in ({}, {"fresh": True}):
            with pytest.raises(RunError, match=f"is being trained by process {pid} on {socket.gethostname()}"):
                fit(copy, images=2 * IMAGES, data=points(finished), **options)
        gansmith.load(copy).sample(2)  # readers need no lock
    finally:
        end(pid)
    assert same(ending(copy), before) and names(copy.parent) == ["copy"]
    fit(copy, images=2 * IMAGES, data=points(finished))  # a dead owner's lock is free
    assert status(copy) == "finished"


def test_of_many_processes_exactly_one_gets_the_folder(tmp_path: Path) -> None:
    for round in range(10):
        folder = RunFolder(tmp_path / str(round))
        ready, told = os.pipe(), os.pipe()

        def racer(folder: RunFolder = folder, ready: Any = ready, told: Any = told) -> int:
            os.close(ready[1])
            os.read(ready[0], 1)  # ends when the parent closes it: all start at once
            try:
                with folder.locked():
                    os.write(told[1], f"{os.getpid()} owns\n".encode().ljust(400))
                    signal.pause()
            except RunError as error:
                os.write(told[1], str(error)[-399:].encode().ljust(400))
            return 0

        pids = [fork(racer) for _ in range(5)]
        os.close(ready[0]), os.close(ready[1]), os.close(told[1])
        heard = [os.read(told[0], 400).decode().strip() for _ in pids]
        os.close(told[0])
        owners = [int(text.split()[0]) for text in heard if text.endswith("owns")]
        for pid in pids:
            if pid in owners:
                os.kill(pid, signal.SIGKILL)
            wait(pid)
        assert len(owners) == 1
        losers = [text for text in heard if not text.endswith("owns")]
        assert all(f"process {owners[0]} on" in text or "another process" in text for text in losers)


def test_a_run_that_another_process_began_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fresh commands at once, and the first has finished by the time the second gets the lock."""
    real = session.load_rows

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(session, "load_rows", real)
        fit(tmp_path / "run")
        return real(*args)

    monkeypatch.setattr(session, "load_rows", slow)
    with pytest.raises(RunError, match="by another process meanwhile"):
        fit(tmp_path / "run", recipe="r3")
    assert RunFolder(tmp_path / "run").read_run()["request"]["recipe"] == "gan"


@pytest.mark.parametrize("name", ["lock", "log.jsonl"])
def test_a_link_in_a_run_folder_does_not_lead_writers_outside(
    copy: Path, finished: Path, tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(precious)
    with suppress(GansmithError, OSError):
        fit(copy, images=2 * IMAGES, data=points(finished))
    assert precious.read_text() == "mine\n"


# ---- damage ---------------------------------------------------------------------------------------------------------
def damages(place: Path) -> Iterator[Callable[[Path], object]]:
    """Ways to damage a checkpoint folder, found on a copy of it."""
    for path in sorted(place.iterdir()):
        data, name = path.read_bytes(), path.name
        for cut in np.linspace(0, len(data) - 1, 25, dtype=int):
            yield lambda at, name=name, data=data, cut=cut: (at / name).write_bytes(data[:cut])
        for spot in np.linspace(0, len(data) - 1, 60, dtype=int):
            changed = data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :]
            if name != "manifest.json" or b'"bytes"' in changed:
                yield lambda at, name=name, changed=changed: (at / name).write_bytes(changed)
        yield lambda at, name=name, data=data: (at / name).write_bytes(data + b"\0")
        yield lambda at, name=name: (at / name).unlink()


def test_every_damage_to_a_checkpoint_is_found_and_the_one_before_is_used(copy: Path) -> None:
    folder = RunFolder(copy)
    newest, before = checkpoint.listed(folder)[:2]
    place, count = folder.checkpoints / newest, 0
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    for damage in damages(place):
        damage(place)
        found, passed = checkpoint.newest(folder, newest)
        if found.name != before:  # a changed byte of the manifest that says the same
            changed = json.loads((place / "manifest.json").read_bytes())["files"]
            assert changed == json.loads(whole["manifest.json"])["files"]
        else:
            assert len(passed) == 1 and str(place) in passed[0] and "falling back" in passed[0]
        for name, data in whole.items():
            (place / name).write_bytes(data)
        count += 1
    assert count > 300


@pytest.mark.parametrize("file", [checkpoint.STATE, checkpoint.EMA, checkpoint.FACTS, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["deleted", "empty", "half"])
def test_load_sample_and_train_fall_back_and_say_so(
    copy: Path, finished: Path, tmp_path: Path, file: str, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    newest, before = checkpoint.listed(RunFolder(copy))[:2]
    path = RunFolder(copy).checkpoints / newest / file
    data = path.read_bytes()
    path.unlink() if damage == "deleted" else path.write_bytes(data[: len(data) // 2 if damage == "half" else 0])
    with pytest.warns(UserWarning, match=f"{newest}.*falling back"):
        assert gansmith.load(copy).name == before
    assert run("sample", copy, "-n", 4, "--npz", tmp_path / "made.npz") == 0
    assert "falling back" in capfd.readouterr().err
    fit(copy, data=points(finished), quiet=False)
    said = capfd.readouterr().err
    assert "falling back" in said and f"Resuming at {int(before):,} examples" in said
    assert same(ending(copy), ending(finished))
    assert checkpoint.read(RunFolder(copy), newest)


def test_no_good_checkpoint_is_one_clear_sentence(
    copy: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in checkpoint.listed(RunFolder(copy)):
        (RunFolder(copy).checkpoints / name / checkpoint.STATE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds no good checkpoint: .* is damaged"):
        gansmith.load(copy)
    with pytest.raises(CheckpointError, match="--fresh"):
        fit(copy, images=2 * IMAGES, data=points(finished))
    assert run("sample", copy) == 1
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_a_run_without_checkpoints_starts_over(copy: Path, finished: Path) -> None:
    shutil.rmtree(RunFolder(copy).checkpoints)
    with pytest.raises(CheckpointError, match="holds no good checkpoint"):
        gansmith.load(copy)
    fit(copy, data=points(finished))
    assert same(ending(copy), ending(finished))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkpoint": "x"}', '{"checkpoint": "../../etc"}', "[" * 100_000])
def test_a_broken_pointer_is_ignored(copy: Path, text: str) -> None:
    newest = checkpoint.listed(RunFolder(copy))[0]
    for which in ("latest", "best"):
        RunFolder(copy).pointer(which).write_text(text)
    assert gansmith.load(copy).name == newest


def test_a_checkpoint_is_picked_by_the_examples_it_saw(copy: Path) -> None:
    newest, before = checkpoint.listed(RunFolder(copy))[:2]
    assert gansmith.load(copy, str(int(before))).name == before and gansmith.load(copy, newest).name == newest
    for name in ("7", "x", "²", "../1", "9" * 5000, ""):
        with pytest.raises(CheckpointError, match="has no checkpoint"):
            gansmith.load(copy, name)


# ---- written by a stranger ------------------------------------------------------------------------------------------
IMPORTED: list[str] = []
WATCHING = [False]


def hook(event: str, args: tuple[Any, ...]) -> None:
    if WATCHING[0]:
        if event == "import":
            IMPORTED.append(str(args[0]))
        elif event in ("pickle.find_class", "subprocess.Popen", "os.system", "socket.connect"):
            IMPORTED.append(event)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is imported, unpickled or run while the test goes on; a module `canary` waits to be imported."""
    if hook not in HOOKED:
        sys.addaudithook(hook)
        HOOKED.append(hook)
    (tmp_path / "canary.py").write_text("def part(*args): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    IMPORTED.clear()
    WATCHING[0] = True
    yield IMPORTED
    WATCHING[0] = False


HOOKED: list[Any] = []
FORBIDDEN = ("canary", "antigravity", "this", "pickle.find_class", "subprocess.Popen", "os.system", "socket.connect")


def innocent(imported: list[str]) -> bool:
    return not [name for name in imported if name.split(":")[0] in FORBIDDEN or name.startswith("canary.")]


def paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a JSON tree is."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at, *(path for key, value in items for path in paths(value, (*at, key)))]


words = st.sampled_from(
    ["", "canary", "canary.part", "canary:part", "antigravity", "os.system", "__class__", "../../x", "mlp", "image", "points",
     "r3", "gan", "wgan", "sgd", "\0", "²", "nan", "1e999", "adam", "cuda", "D.args", "x" * 300]
)  # fmt: skip
numbers = st.sampled_from([0, -1, 1, 2, 3, 65535, 65536, 65537, 10**9, 10**30, -(10**30), 0.5, 1e308, -0.0, True, 4096])
leaves = st.none() | st.booleans() | words | numbers | st.text(max_size=8) | st.integers() | st.floats()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


def mutate(data: st.DataObject, tree: Any) -> Any:
    """A JSON tree with up to three values replaced, removed or added."""
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(tree)))
        if not path:
            if data.draw(st.integers(0, 9)) == 0:
                return data.draw(values)
            continue
        node = tree
        for step in path[:-1]:
            node = node[step]
        way = data.draw(st.sampled_from(["set", "set", "set", "remove", "add"]))
        if way == "set":
            node[path[-1]] = data.draw(values)
        elif way == "remove":
            del node[path[-1]]
        elif isinstance(node, dict):
            node[data.draw(words)] = data.draw(values)
    return tree


fuzz = settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def attempt(action: Callable[[], Any]) -> None:
    """Do it; only errors for users may come out."""
    with suppress(GansmithError):
        action()


@fuzz
@given(data=st.data())
def test_a_hostile_run_json_is_refused_or_used_but_never_run(
    copy: Path, finished: Path, watched: list[str], data: st.DataObject
) -> None:
    tree = mutate(data, json.loads((finished / "run.json").read_bytes()))
    (copy / "run.json").write_text(json.dumps(tree))
    attempt(lambda: gansmith.load(copy).sample(2))
    attempt(lambda: look.show_run(copy))
    attempt(lambda: fit(copy, data=points(finished)))
    assert innocent(watched)


def reseal(place: Path) -> None:
    """Write the manifest anew, as a stranger who means harm would."""
    parts = {path.name: path.read_bytes() for path in place.iterdir() if path.name != checkpoint.MANIFEST}
    facts = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in parts.items()}
    (place / checkpoint.MANIFEST).write_text(json.dumps({"schema": 1, "files": facts}))


@fuzz
@given(data=st.data(), file=st.sampled_from([checkpoint.FACTS, checkpoint.MANIFEST]))
def test_hostile_facts_of_a_checkpoint_are_refused_or_used(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, watched: list[str], data: st.DataObject, file: str
) -> None:
    copy = tmp_path_factory.mktemp("hostile") / "copy"
    shutil.copytree(finished, copy)
    for name in checkpoint.listed(RunFolder(copy))[1:]:
        shutil.rmtree(RunFolder(copy).checkpoints / name)
    place = RunFolder(copy).checkpoints / checkpoint.listed(RunFolder(copy))[0]
    tree = mutate(data, json.loads((place / file).read_bytes()))
    (place / file).write_text(json.dumps(tree))
    if file == checkpoint.FACTS:
        reseal(place)
    attempt(lambda: gansmith.load(copy).sample(2))
    attempt(lambda: fit(copy, images=IMAGES + 8, data=points(finished)))
    assert innocent(watched)
    shutil.rmtree(copy.parent)


@fuzz
@given(data=st.data())
def test_hostile_tensors_are_refused_or_used(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Names dropped, added and swapped, shapes and types changed; the manifest fits."""
    copy = tmp_path_factory.mktemp("hostile") / "copy"
    shutil.copytree(finished, copy)
    for name in checkpoint.listed(RunFolder(copy))[1:]:
        shutil.rmtree(RunFolder(copy).checkpoints / name)
    place = RunFolder(copy).checkpoints / checkpoint.listed(RunFolder(copy))[0]
    file = place / data.draw(st.sampled_from([checkpoint.STATE, checkpoint.EMA]))
    tensors = load(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.sampled_from(sorted(tensors)))
        way = data.draw(st.sampled_from(["drop", "rename", "flatten", "grow", "type", "scalar"]))
        tensor = tensors.pop(key)
        if way == "drop" and len(tensors) > 2:
            continue
        name = (
            data.draw(st.sampled_from([key + "x", "game/x", "optimiser/x", "x", "optimiser/G/x"]))
            if way == "rename"
            else key
        )
        new = {"flatten": tensor.flatten(), "grow": tensor.repeat(2, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor,
               "type": tensor.double(), "scalar": tensor.sum()}.get(way, tensor)  # fmt: skip
        tensors[name] = new.contiguous()
    file.write_bytes(save(tensors))
    reseal(place)
    attempt(lambda: gansmith.load(copy).sample(2))
    attempt(lambda: fit(copy, images=IMAGES + 8, data=points(finished)))
    shutil.rmtree(copy.parent)


@pytest.mark.parametrize("shape", [(), (1,), (9999,)])
def test_an_optimiser_of_the_wrong_shape_never_reaches_the_fused_kernels(
    copy: Path, finished: Path, shape: tuple[int, ...]
) -> None:
    """They trust shapes: this crashed the process."""
    for name in checkpoint.listed(RunFolder(copy)):
        file = RunFolder(copy).checkpoints / name / checkpoint.STATE
        tensors = load(file.read_bytes())
        for key in [key for key in tensors if key.endswith("/exp_avg")]:
            tensors[key] = torch.zeros(shape)
        file.write_bytes(save(tensors))
        reseal(file.parent)
    with pytest.raises(CheckpointError, match="optimiser of . does not fit"):
        fit(copy, images=2 * IMAGES, data=points(finished))


CARDS = {
    "a billion channels": ("parts.G.args.width", 10**9),
    "65536 channels": ("parts.G.args.width", 65536),
    "65536 layers": ("parts.D.args.depth", 65536),
    "a billion latents": ("parts.G.args.z_dim", 10**9),
    "65536 latents": ("parts.G.args.z_dim", 65536),
    "width in a list": ("parts.G.args.width", [10**9]),
    "width in words": ("parts.G.args.width", "1e9"),
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_that_asks_for_too_much_is_refused_before_it_is_made(copy: Path, finished: Path, card: str) -> None:
    path, value = CARDS[card]
    state = json.loads((copy / "run.json").read_bytes())
    node = state["run"]
    for step in path.split(".")[:-1]:
        node = node[step]
    node[path.split(".")[-1]] = value
    (copy / "run.json").write_text(json.dumps(state))

    def refused() -> int:
        before = psutil.Process().memory_info().rss
        for action in (lambda: gansmith.load(copy), lambda: fit(copy, images=IMAGES + 8, data=points(finished))):
            with pytest.raises((RunError, CheckpointError)):
                action()
        return int(psutil.Process().memory_info().rss - before > 100 << 20)

    assert wait(fork(refused)) == 0


def test_unknown_names_in_a_run_mention_plugins(copy: Path) -> None:
    text = (copy / "run.json").read_text()
    for old, new in (
        ('"game": {"name": "gan"', '"game": {"name": "mine"'),
        ('"name": "mlp"', '"name": "mine"'),
        ('"codec": {"name": "points"', '"codec": {"name": "mine"'),
    ):  # noqa: E501
        assert old in text
        (copy / "run.json").write_text(text.replace(old, new))
        with pytest.raises(RunError, match=r"Unknown .*'mine'.*--plugin"):
            gansmith.load(copy)


HOSTILE = {
    "deep": "[" * 10_000 + "]" * 10_000,
    "deep objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "deep run": '{"run": ' + '{"a":' * 5000 + "1" + "}" * 5000 + ', "codec": 1}',
    "huge number": '{"run": 1e400}',
    "digits": '{"run": ' + "9" * 5000 + "}",
    "list": "[]",
    "null": "null",
    "nothing": "",
    "bytes": "\udcff",
    "pickle": "cos\nsystem\n(S'true'\ntR.",
    "duplicates": '{"run": {}, "run": {"game": 1}}',
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_run_json_of_another_kind_is_one_sentence(
    copy: Path, finished: Path, what: str, capfd: pytest.CaptureFixture[str], watched: list[str]
) -> None:
    (copy / "run.json").write_bytes(HOSTILE[what].encode(errors="surrogateescape"))
    for command in (("sample", copy), ("show", copy), ("train", points(finished), "--recipe", "gan", "--out", copy)):
        assert run(*command) == 1
        said = capfd.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("gansmith: ") and len(said[0]) < 1000
    assert innocent(watched)


def test_a_checkpoint_of_a_later_schema_is_refused(copy: Path) -> None:
    for name in checkpoint.listed(RunFolder(copy)):
        place = RunFolder(copy).checkpoints / name
        (place / checkpoint.FACTS).write_text('{"schema": 99}')
        reseal(place)
    with pytest.raises(CheckpointError, match="schema 99"):
        gansmith.load(copy)


def test_special_files_in_a_checkpoint_do_not_hang(copy: Path) -> None:
    for name in checkpoint.listed(RunFolder(copy)):
        path = RunFolder(copy).checkpoints / name / checkpoint.STATE
        path.unlink()
        os.mkfifo(path) if name.endswith("240") else path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="holds no good checkpoint"):
        gansmith.load(copy)


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"it has no run\.json. Train one with: gansmith train"):
        gansmith.load(tmp_path)


def test_a_plugin_runs_only_when_it_is_named(copy: Path, tmp_path: Path, watched: list[str]) -> None:
    (copy / "plugin.py").write_text("import canary\n")
    gansmith.load(copy).sample(1)
    assert innocent(watched)
    with pytest.raises(UsageError, match="no plug-in file"):
        resolve.load_plugins([tmp_path / "missing.py"])
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match="failed while it was read: ZeroDivisionError"):
        resolve.load_plugins([tmp_path / "broken.py"])


def test_data_errors_leave_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fit(tmp_path / "run", data=tmp_path / "nothing")
    assert names(tmp_path) == []
