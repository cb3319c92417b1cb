"""The report of an evaluation for people: one HTML page that needs nothing else, and a summary for the terminal.

Both take the report as report.json holds it (formats, section 5); any number in it may be missing.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from . import _words as words
from . import files
from ._html import STYLE
from ._sections import (
    FRECHET,
    SHARES,
    classes,
    copies,
    distances,
    features,
    game,
    judges,
    measured,
    measures,
    notes,
    pictures,
    shortcuts,
    verdict,
)
from ._words import Entry, number, share

WIDTH = 100  # columns of the terminal summary
NOTES = 2  # shown there
MOST = 12  # metrics in it
ASCII = str.maketrans({"–": "-", "−": "-"})  # not every terminal has the other dashes
RANK = (*FRECHET, "kid", *SHARES, *words.COPIES)  # what the summary shows first
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # among them those that steer terminals
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: dict[str, Any], figures: Mapping[str, bytes]) -> str:
    """One HTML file with its pictures, charts and style inside. figures: PNG by name, those of `FIGURES` or others."""
    report = tidy(report)
    name = str((report.get("data") or {}).get("name") or "examples")
    parts = [
        verdict(report, name), pictures(figures), shortcuts(report), judges(report), distances(report), copies(report, figures),
        classes(report), game(report), features(report), measured(report), notes(report),
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{words.HEADINGS.get(report.get('verdict') or '', 'Report')}: {escape(name)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(filter(None, parts)) + "\n</main>\n"
        "<footer>Made by gansmith. The same numbers are in report.json beside this page.</footer>\n</body>\n</html>\n"
    )


def tidy(report: dict[str, Any]) -> dict[str, Any]:
    """The report as its JSON file will hold it, numbers that are not finite as None, and no control characters."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            value = value.encode("utf-8", "replace").decode()
            return CONTROLS.sub(" ", value)
        if isinstance(value, dict):
            return {clean(k): clean(v) for k, v in value.items()}
        return [clean(v) for v in value] if isinstance(value, list | tuple) else value

    held: dict[str, Any] = clean(json.loads(files.to_json(clean(report))))
    return held


# ---- for the terminal -----------------------------------------------------------------------------------------------
def summary(report: dict[str, Any]) -> str:
    """At most about 30 lines of 100 columns; the first is the verdict in a plain sentence, however long."""
    report = tidy(report)
    blocks = [judged(report), figured(report), remarks(report)]
    reason = words.sentence_of(str(report.get("reason") or ""))
    first = words.sentence(report)
    if reason and not words.told(reason, report):
        first += "\n" + short(reason)
    return "\n\n".join([first, *("\n".join(lines) for lines in blocks if lines)]).translate(ASCII)


def judged(report: Entry) -> list[str]:
    found, control = words.rulings(report.get("judges")), words.rulings((report.get("controls") or {}).get("c0"))
    rows = [
        (name, share(r["accuracy"]), words.interval(r, share), share(control.get(name, {}).get("accuracy")),
         number(r.get("auc")), words.chance(r.get("p")), number(r.get("n")))
        for name, r in list(found.items())[:6]
    ]  # fmt: skip
    return columns(("judge", "right", "95%", "real v real", "AUC", "p", "n"), rows)


def figured(report: Entry) -> list[str]:
    metrics = measures(report)
    order = sorted(metrics, key=lambda k: RANK.index(k) if k in RANK else len(RANK))
    rows = []
    for name in order[:MOST]:
        entry, form = metrics[name], words.form(name)
        rows.append((name, form(entry["value"]), words.interval(entry, form), form(entry.get("floor")),
                     number(entry.get("n")), words.against(entry.get("reference"))))  # fmt: skip
    lines = columns(("metric", "value", "95%", "real v real", "n", "against"), rows)
    if len(order) > MOST:
        lines.append(f"and {len(order) - MOST} more in report.json")
    if units := words.lost_classes((metrics.get("fd") or {}).get("value"), report.get("ladder") or {}):
        lines.append(f"fd is {units:.2g} of what losing one class costs")
    return lines


def remarks(report: Entry) -> list[str]:
    copied, lines = report.get("copies") or {}, []
    if word := copied.get("verdict"):
        reason = f": {copied['reason']}" if copied.get("reason") else ""
        lines.append(short(f"Copy checks: {words.COPIED.get(word, word)}{reason}"))
        lines.append("They are never a privacy guarantee.")
    said = [short(f"Note: {note}") for note in report.get("notes") or ()]
    return lines + said[:NOTES] + ([f"and {len(said) - NOTES} more in the report"] if len(said) > NOTES else [])


def columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows under a heading, the first column to the left, numbers to the right."""
    if not rows:
        return []
    cells = [tuple(cell[:24] for cell in line) for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def short(line: str) -> str:
    """At most two lines: what to do about it comes last in a sentence."""
    return "\n".join(textwrap.wrap(line, WIDTH, max_lines=2, placeholder=" ..."))
