"""What the documents say works: the ten-line examples of CONTRIBUTING.md, the README's commands and names."""

import re
import shlex
from pathlib import Path

import pytest

import gansmith
from gansmith import registry
from gansmith.cli import app
from gansmith.resolve import load_plugins

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All Python blocks of CONTRIBUTING.md as one plug-in file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert len(blocks) == 4
    path = tmp_path_factory.mktemp("docs") / "mine.py"
    path.write_text("\n\n".join(blocks))
    return path


def test_the_examples_of_contributing_train(examples: Path, tmp_path: Path) -> None:
    changes = [
        "parts.loss.name=cubic",
        "parts.D.name=tiny",
        'parts.G={"name": "mlp", "args": {"width": 8}}',
        "train.batch=16",
    ]
    model = gansmith.train(
        "ring8", "mine", images=64, out=tmp_path / "run", plugin=[examples], set=changes, quiet=True, seed=3
    )
    assert model.sample(5).shape == (5, 2)


def test_the_game_of_contributing_trains(examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_plugins([examples])
    monkeypatch.setitem(registry.loaded()["recipe"], "bare", lambda spec, brief: gansmith.Run())
    changes = ["game.name=simple", 'parts.D={"name": "tiny"}', "train.batch=16"]
    model = gansmith.train("ring8", "bare", images=64, out=tmp_path / "run", set=changes, quiet=True)
    assert model.sample(5).shape == (5, 2)


def test_every_command_of_the_readme_parses() -> None:
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (gansmith .*?)(?:  +#.*)?$", text, re.M)
    assert len(commands) >= 8
    for command in commands:
        app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_every_name_that_the_readme_lists_exists() -> None:
    text = (ROOT / "README.md").read_text()
    listed = set(re.findall(r"`([a-z0-9-]+)`", text.split("**Recipes.**")[1].split("Any setting")[0]))
    assert listed == {
        name for name in registry.names("recipe") if registry.get("recipe", name).__module__.startswith("gansmith.")
    }


def test_the_changelog_knows_this_version() -> None:
    assert f"## {gansmith.__version__} " in (ROOT / "CHANGELOG.md").read_text()
