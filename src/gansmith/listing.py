"""Names of all parts without importing them: the package's own files are read for their `@register` lines."""

from __future__ import annotations

import ast
from pathlib import Path

from . import registry

TITLES = {
    "recipes": "recipe", "games": "game", "generators": "generator", "discriminators": "discriminator",
    "losses": "loss", "penalties": "penalty", "codecs": "codec", "metrics": "metric",
}  # fmt: skip
SETS = {
    "digits": "1,797 handwritten digits, 8 x 8, ten classes (pictures)",
    "grid25": "25 Gaussians on a grid (points)",
    "ring8": "8 Gaussians on a circle (points)",
    "spiral": "two arms of a spiral (points)",
    "moons": "two half moons (points)",
    "pinwheel": "five bent arms (points)",
}


def parts() -> dict[str, dict[str, str]]:
    """kind -> name -> first sentence, for every registered part, plug-ins that are loaded included, and the embedded sets."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in registry.FOLDERS}
    for folder in dict.fromkeys(registry.FOLDERS.values()):
        for file in sorted((Path(__file__).parent / folder).glob("*.py")):
            for kind, name, text in registered(ast.parse(file.read_text("utf-8"))):
                found[kind][name] = text
    for kind, builders in registry.loaded().items():
        for name, builder in builders.items():
            found[kind].setdefault(name, first_sentence(builder.__doc__ or ""))
    return {title: dict(sorted(found[kind].items())) for title, kind in TITLES.items()} | {"embedded sets": SETS}


def registered(tree: ast.Module) -> list[tuple[str, str, str]]:
    """(kind, name, first sentence) of each registered function or class of a module."""
    rows = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "register":
                    kind, name = (ast.literal_eval(a) for a in mark.args)
                    rows.append((kind, name, first_sentence(ast.get_docstring(node) or "")))
    return rows


def first_sentence(text: str) -> str:
    head = " ".join(text.split("\n\n")[0].split())
    return head if len(head) <= 100 else head[:97].rsplit(" ", 1)[0] + " ..."
