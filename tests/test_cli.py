"""The commands as a shell sees them: exit status, one sentence, one JSON object; and rules that the source obeys."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gansmith
from gansmith import registry
from gansmith.cli import count
from gansmith.errors import UsageError
from helpers import IMAGES, NET, PICTURES, final, fit, names, quicken, run, swift, table

__all__ = ["swift"]
SOURCE = Path(gansmith.__file__).parent
SETS = [word for change in NET for word in ("--set", change)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures with three classes; for reading only."""
    place = tmp_path_factory.mktemp("classes")
    x, y = PICTURES
    for i, (picture, label) in enumerate(zip(x, y, strict=True)):
        (place / "pictures" / "abc"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(place / "pictures" / "abc"[label] / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        patch.setenv("GANSMITH_CACHE", str(place / "cache"))
        fit(place / "run", "dcgan", data=place / "pictures")
    return place / "run"


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error; nothing is on standard output."""
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("gansmith: ")
    return lines[0]


# ---- wrong usage ----------------------------------------------------------------------------------------------------
WRONG = {
    "train digits --recipe dcgen": "dcgan",
    "train digits --recipe R3": "r3",
    "train digits --imges 8": "--images",
    "train digits --minuts 1": "--minutes",
    "trian digits": "train",
    "train": "data",
    "train digits --set train.bach=8": "train.batch",
    "train digits --set optimiser=8": "train.optimisers",
    "train digits --recipe dcgan --set parts.G.args.widht=8": "width",
    "train digits --recipe dcgan --set parts.G.name=dcgam": "dcgan",
    "train digits --recipe dcgan --set game.name=gam": "gan",
    "train digits --set train.batch": "path=value",
    "train digits --set train.batch=many": "train.batch",
    "train digits --set train.batch=0": "train.batch",
    "train digits --set train.precision=fp16": "train.precision",
    "train digits --images 1 --minutes 1": "--images or --minutes",
    "train digits --images 8 --set train.minutes=1": "--images or --minutes",
    "train digits --minutes -1": "minutes",
    "train digits --minutes nan": "minutes",
    "train digits --minutes soon": "soon",
    "train digits --seed -1": "seed",
    "train digits --device gpu": "--device is one of",
    "train digits --kind sound": "sound",
    "train digits --plugin missing.py": "missing.py",
    "train ring8 --recipe dcgan --images 8": "points",
    "show r33": "r3",
    "sample": "run",
    "sample x -n many": "many",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_usage_exits_2_with_the_nearest_match(
    here: Path, command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*command.split()) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("gansmith: ")]
    assert len(lines) == 1 and err.strip().splitlines()[-1] == lines[0]
    assert WRONG[command] in lines[0] and "Traceback" not in err and out == ""
    assert names(here) in ([], ["runs"]) and names(here / "runs") == []


@pytest.mark.parametrize(
    ("text", "number"),
    [("200k", 200_000), ("2M", 2_000_000), ("50000", 50_000), ("1.5k", 1500), ("1e6", 10**6), ("1g", 10**9)],
)  # noqa: E501
def test_numbers_of_examples(text: str, number: int) -> None:
    assert count(text) == number


@pytest.mark.parametrize(
    "text", ["", "k", "-5", "0", "1.5", "nan", "inf", "1e400", "two", "2MM", "0x10", "1e300k", "--"]
)
def test_what_is_no_number_of_examples(text: str) -> None:
    with pytest.raises(UsageError, match="such as 50000, 200k or 2M; got"):
        count(text)


# ---- data that cannot be learned from -------------------------------------------------------------------------------
def one_picture(folder: Path) -> None:
    Image.new("L", (8, 8)).save(folder / "one.png")


def broken(folder: Path) -> None:
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"no picture")


FOLDERS = {
    "empty": lambda folder: None,
    "one picture": one_picture,
    "text": lambda folder: [(folder / f"{i}.txt").write_text("words") for i in range(3)],
    "broken pictures": broken,
    "empty folders": lambda folder: [(folder / name).mkdir() for name in "ab"],
    "a broken table": lambda folder: (folder / "t.csv").write_text("a,b\nx,y\n"),
}


@pytest.mark.parametrize("what", FOLDERS)
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_folder_without_data_is_one_sentence(
    here: Path, what: str, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "data").mkdir()
    FOLDERS[what](here / "data")
    options = ["--images", 8, *SETS] if command == "train" else []
    assert run(command, "data", *options) == 1
    assert "data" in said(capfd) and names(here) == ["data"]


FILES = {
    "no.zip": b"PK", "empty.zip": b"PK\x05\x06" + bytes(18), "no.npz": b"no", "empty.csv": b"", "one.csv": b"x,y\n1,2\n",
    "words.csv": b"x,y\na,b\nc,d\n", "text.txt": b"words", "nan.csv": b"x,y\nnan,1\n2,inf\n", "binary.csv": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_data_is_one_sentence(here: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (here / name).write_bytes(FILES[name])
    assert run("train", name, "--images", 8) == 1
    assert name in said(capfd) and names(here) == [name]


def test_missing_data_names_the_nearest_embedded_set(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("train", "digit", "--images", 8) == 1
    assert "Did you mean 'digits'?" in said(capfd)


@pytest.mark.parametrize("command", ["sample", "show"])
def test_a_missing_run_is_one_sentence(here: Path, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(command, "nowhere") == (1 if command == "sample" else 2)
    assert "nowhere" in said(capfd)


# ---- what commands write --------------------------------------------------------------------------------------------
def test_train_then_sample_as_in_the_readme(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table(here / "points.csv")
    assert run("train", "points.csv", "--images", "0.24k", *SETS) == 0
    out, err = capfd.readouterr()
    assert out == "" and "Next: gansmith sample runs/points-auto" in err and "Done: 240 examples" in err
    assert run("sample", "runs/points-auto", "-n", 5) == 0
    assert names(here / "runs/points-auto/generated") == ["samples.csv"]
    assert capfd.readouterr().out == ""


def test_a_dry_run_prints_the_plan_and_writes_nothing(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table(here / "points.csv")
    assert run("train", "points.csv", "--images", "2k", "--dry-run", *SETS) == 0
    out, err = capfd.readouterr()
    assert out == "" and "2,000 examples" in err and "batch 8" in err
    assert names(here) == ["points.csv"]


def test_json_is_one_object_on_standard_output(here: Path, classes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table(here / "points.csv")
    train = ["train", "points.csv", "--images", IMAGES, *SETS, "--json"]
    commands = {
        "plan": [*train, "--dry-run"], "train": train, "again": train, "check": ["check", "points.csv", "--json"],
        "list": ["list", "--json"], "recipe": ["show", "r3", "--json"], "run": ["show", classes, "--json"],
        "sample": ["sample", "runs/points-auto", "-n", 3, "--json"],
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, command in commands.items():
        assert run(*command) == 0, name
        out = capfd.readouterr().out
        assert out.endswith("\n") and isinstance(json.loads(out), dict), name
        found[name] = json.loads(out)
    assert found["plan"]["images"] == IMAGES and found["train"] == found["again"]
    assert found["train"] == {"run": "runs/points-auto", "checkpoint": f"{IMAGES:012d}"}
    assert found["sample"]["n"] == 3 and found["check"]["kind"] == "points" and found["run"]["status"] == "finished"


def test_a_run_is_shown_in_lines_that_can_be_read(classes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("show", classes) == 0
    lines = capfd.readouterr().out.splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["status"] == "finished" and rows["train.batch"] == "8" and rows["spec.room"].endswith("256 in all]")
    assert max(map(len, lines)) < 160


def test_json_stays_empty_when_something_is_wrong(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("train", "nothing", "--json") == 1
    said(capfd)


def test_sampling_twice_adds_by_number(classes: Path, here: Path) -> None:
    for _ in range(2):
        assert run("sample", classes, "-n", 6, "--class", "b", "--out", here / "made") == 0
    assert names(here / "made" / "b") == [f"{i:06d}.png" for i in range(12)]
    first, again = ((here / "made" / "b" / f"{i:06d}.png").read_bytes() for i in (0, 6))
    assert first == again


@pytest.mark.parametrize("option", ["--grid", "--npz"])
def test_a_file_is_not_overwritten_without_force(
    classes: Path, here: Path, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("mine")
    assert run("sample", classes, "-n", 2, option, here / "file") == 2
    assert "--force" in said(capfd) and (here / "file").read_text() == "mine"
    assert run("sample", classes, "-n", 2, option, here / "file", "--force") == 0
    assert (here / "file").read_bytes()[:2] in (b"\x89P", b"PK") and names(here) == ["file"]


def test_ten_samples_are_the_first_of_a_hundred(classes: Path, here: Path) -> None:
    for n in (1, 10, 64, 100):
        assert run("sample", classes, "-n", n, "--npz", here / f"{n}.npz") == 0
    whole = np.load(here / "100.npz")
    assert whole["x"].shape == (100, 8, 8) and whole["x"].dtype == np.uint8 and set(whole["classes"]) == set("abc")
    for n in (1, 10, 64):
        part = np.load(here / f"{n}.npz")
        assert np.array_equal(part["x"], whole["x"][:n]) and np.array_equal(part["y"], whole["y"][:n])


def test_another_seed_the_raw_weights_and_an_older_checkpoint_give_others(classes: Path, here: Path) -> None:
    old = names(classes / "checkpoints")[0].lstrip("0")
    found = []
    for i, options in enumerate(([], ["--seed", 1], ["--raw"], ["--checkpoint", old])):
        assert run("sample", classes, "-n", 4, "--npz", here / f"{i}.npz", *options) == 0
        found.append(np.load(here / f"{i}.npz")["x"].tobytes())
    assert len(set(found)) == 4


BAD_SAMPLES = {
    "--class z": (2, "'z'"), "--class 9": (2, "Known: a, b, c"), "-n 0": (2, "at least 1"), "-n -3": (2, "at least 1"),
    "--checkpoint 7": (1, "has no checkpoint '7'"), "--device tpu": (2, "tpu"), "--checkpoint ../x": (1, "no checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("options", BAD_SAMPLES)
def test_a_bad_wish_for_samples_is_one_sentence(
    classes: Path, here: Path, options: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, word = BAD_SAMPLES[options]
    assert run("sample", classes, *options.split(), "--out", here / "made") == status
    assert word in said(capfd) and names(here) == []


def test_a_run_without_classes_says_so(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(here / "run")
    assert run("sample", here / "run", "--class", "a") == 2
    assert "without classes" in said(capfd)


def test_a_run_is_enough_without_its_data(classes: Path, here: Path) -> None:
    shutil.copytree(classes, here / "moved")
    assert run("sample", here / "moved", "-n", 3, "--out", here / "made") == 0
    assert final(here / "moved") == final(classes)


def test_a_folder_that_may_not_be_written_is_one_sentence(
    classes: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("")
    assert run("sample", classes, "-n", 1, "--out", here / "file" / "inside") == 1
    assert "Not a directory" in said(capfd)


def test_out_of_memory_is_one_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    errors = [
        MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ]  # fmt: skip
    for error in errors:

        def fail(*args: Any, error: Exception = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr("gansmith.session.train", fail)
        assert run("train", "digits") == 1
        assert "out of memory" in said(capfd)


# ---- help and list need no torch ------------------------------------------------------------------------------------
QUICK = """
import sys
from gansmith.__main__ import main
for words in (["--help"], ["train", "--help"], ["--version"], ["list"], ["list", "--json"], ["trian"]):
    main(words)
import gansmith
heavy = {"torch", "numpy", "sklearn", "PIL", "lightning_fabric", "safetensors"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_help_version_list_and_import_need_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICK], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    assert "gansmith train" in done.stdout and gansmith.__version__ in done.stdout and "dcgan" in done.stdout


def test_the_module_runs_as_a_command_and_a_reader_may_leave() -> None:
    command = f"{sys.executable} -m gansmith list | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout and "Traceback" not in done.stderr


def test_list_names_exactly_what_is_registered(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    listed = {name for names in found.values() for name in names}
    assert listed >= {name for kind in registry.FOLDERS for name in registry.names(kind)}
    assert all(text for names in found.values() for text in names.values())


def test_check_names_what_it_skips(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "data").mkdir()
    for i in range(5):
        Image.new("L", (8, 8), i).save(here / "data" / f"{i}.png")
    (here / "data" / "bad.png").write_bytes(b"no picture")
    assert run("check", "data") == 0
    out = capfd.readouterr().out
    assert "5 T" in out and "bad.png" in out


def test_strict_stops_at_the_start(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    test_check_names_what_it_skips(here, capfd)
    assert run("train", "data", "--images", 8, "--set", "data.strict=true") == 1
    assert "bad.png" in capfd.readouterr().err and names(here) == ["data"]


# ---- rules of the source --------------------------------------------------------------------------------------------
def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in the package."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node


FORBIDDEN = re.compile(
    r"(^|\.)(pickle|cPickle|dill|joblib|marshal|shelve)\.|^(eval|exec|compile|__import__)$|(?<!safetensors\.)torch\.(load|save|hub|jit)"
    r"|^jit\.load$|yaml\.(load|full_load|unsafe_load)$|os\.(system|popen|exec\w*|spawn\w*)$|^subprocess\.|read_pickle$"
)


def test_nothing_unpickles_evaluates_or_runs_a_shell() -> None:
    assert [(file, name) for file, name, _ in calls() if FORBIDDEN.search(name)] == []


def test_no_array_is_read_with_pickles_allowed() -> None:
    for file, name, call in calls():
        allowed = [word.value for word in call.keywords if word.arg == "allow_pickle"]
        assert not [value for value in allowed if ast.unparse(value) != "False"], (file, name)


def test_no_module_of_pickles_is_imported() -> None:
    wrong = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml", "cloudpickle", "subprocess"}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in found} & wrong, path


def test_modules_are_imported_by_name_only_where_plugins_are_found() -> None:
    found = {
        file for file, name, call in calls()
        if re.search(r"import_module|spec_from_file_location|exec_module|runpy", name)
        and not (call.args and isinstance(call.args[0], ast.Constant))
    }  # fmt: skip
    assert found <= {"registry.py", "resolve.py", "__init__.py"}


def test_no_assert_guards_what_a_user_gives() -> None:
    """An assert vanishes under -O: it may only tell the type checker what is known already."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assert):
                test = ast.unparse(node.test)
                assert test.endswith("is not None") or test.startswith("isinstance("), f"{path.name}: assert {test}"
