"""The house: imports go one way, nothing heavy loads early, names are documented, files and functions stay short."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gansmith

ROOT = Path(gansmith.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LEAVES = {"codecs", "networks", "losses", "augment", "metrics", "checks", "recipes"}
LAYERS = [  # a module imports from its own layer or one above it in this list
    {"base", "registry", "errors", "files"},
    {"config", "runtime", "display", "listing", "report", "_charts", "_html", "_sections", "_words"},
    LEAVES,
    {"games"},
    {"data", "ema", "checkpoint", "strata", "soap"},
    {"engine", "model"},
    {"loop", "probe", "duality", "resolve", "plan", "look"},
    {"session"},
    {"gather"},
    {"inquiry"},
    {"evaluation", "diagnose", "export"},
    {"serve", "cli", "__main__"},
]
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
GAMES_MAY = {"losses", "augment", "networks.blocks"}
JUDGES = {"inquiry", "probe"}  # they know the metrics' own vocabulary: evidence, features, judges


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports(file: Path) -> Iterator[str]:
    """Modules of the package that a file imports, at its top or inside functions, but for types alone."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    package = [] if file.parent == ROOT else list(file.parent.relative_to(ROOT).parts)
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            full = ".".join([*base, alias.name])
            if full != "__version__":
                yield full if (ROOT / full.replace(".", "/")).with_suffix(".py").exists() else ".".join(base)


GRAPH = {module(f): sorted(set(imports(f))) for f in FILES if f.name != "__init__.py"}


@pytest.mark.parametrize("name", GRAPH)
def test_imports_go_one_way(name: str) -> None:
    home = name.split(".")[0]
    assert home in LAYER, f"{name} has no layer yet: give it one in LAYERS"
    for other in GRAPH[name]:
        top = other.split(".")[0]
        assert LAYER[top] <= LAYER[home], f"{name} imports {other} from a layer above"
        if top in LEAVES | {"games"} and top != home:
            allowed = home in JUDGES and top == "metrics"
            allowed |= home == "games" and any(other.startswith(may) for may in GAMES_MAY)
            assert allowed, f"{name} imports the plug-in {other}"


def test_no_module_imports_itself_by_a_detour() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in GRAPH.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())


def test_games_do_not_inherit_from_each_other() -> None:
    for file in (ROOT / "games").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and any("register" in ast.unparse(d) for d in node.decorator_list):
                assert [ast.unparse(b) for b in node.bases] == ["Game"], node.name


@pytest.mark.parametrize(
    "code", ["import gansmith; dir(gansmith)", "from gansmith.__main__ import main; main(['--help'])"]
)
def test_start_up_is_light(code: str) -> None:
    heavy = "torch", "lightning_fabric", "sklearn", "PIL", "numpy"
    loaded = f"print([m for m in sys.modules if m in {heavy} or m.startswith('gansmith.codecs')])"
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n{loaded}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("[]"), done.stdout + done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    for name in gansmith.__all__:
        value = getattr(gansmith, name)
        assert not (inspect.isclass(value) or inspect.isfunction(value)) or inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="nothing"):
        _ = gansmith.nothing


@pytest.mark.parametrize("file", FILES, ids=module)
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    tree = ast.parse(text)
    assert not text or ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 60, node.name


def test_nothing_that_runs_what_a_file_says() -> None:
    calls, modules = (
        {"eval", "exec", "__import__", "torch.load", "pickle.load", "pickle.loads", "yaml.load"},
        {"pickle", "dill"},
    )
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func).removeprefix("builtins.") not in calls, file
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert modules.isdisjoint(alias.name for alias in node.names), file
