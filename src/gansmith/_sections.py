"""The sections of the report page, in the order in which they are read. Each is "" where there is nothing to tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from . import _charts as charts
from . import _words as words
from ._charts import Axis
from ._html import FIGURES, bullets, facts, figure, folded, key, plot, row, section, table, text
from ._words import Entry, number, share
from .display import duration

SHARES = "precision", "recall", "density", "coverage"
FRECHET = "fd", "fd_inf", "fd_train", "fd_test"
LONG = 110  # letters of a verdict that is set in smaller type
APART = {*SHARES, *FRECHET, *words.COPIES, *words.SHORTCUTS}  # metrics that have a place of their own
GLANCED = {"copies": "found", "clean": "none seen", "unknown": "not decided"}
WORST = 24  # classes drawn at most; all are in the table below


def verdict(report: Entry, name: str) -> str:
    """The first thing: a sentence, what it means, and what it does not say."""
    word, copied = str(report.get("verdict") or "UNDECIDED"), report.get("copies") or {}
    about = [
        text(name), f"{number(report['n'])} fakes" if report.get("n") is not None else "",
        f"checkpoint {text(report['checkpoint'])}" if report.get("checkpoint") is not None else "",
    ]  # fmt: skip
    alarm = ""
    if copied.get("verdict") == "copies":
        reason = words.sentence_of(str(copied.get("reason") or ""))
        alarm = f'<p class="alarm"><b>The fakes look copied from training examples.</b> {text(reason)}</p>'
    pill = f'<span class="pill {escape(word)}">{text(words.HEADINGS.get(word, word))}</span>'
    said = words.sentence(report)
    return (
        f'<header>\n<p class="eyebrow">{pill}{"".join(f"<span>{part}</span>" for part in about if part)}</p>\n'
        f"<h1{' class=long' if len(said) > LONG else ''}>{text(said)}</h1>\n{alarm}"
        f"<p>{text(' '.join(words.explained(report)))}</p>\n"
        f'{glance(report)}\n<section class="not"><h2>Not tested here</h2>{bullets(words.untested(report))}</section>\n'
        "</header>"
    )


def glance(report: Entry) -> str:
    """Four numbers to remember."""
    metrics, tiles = report.get("metrics") or {}, []
    if best := words.strongest(report):
        tiles.append(("Best judge is right", share(best[1]["accuracy"]), "50% is guessing"))
    if (fd := (metrics.get("fd") or {})).get("value") is not None:
        units = words.lost_classes(fd["value"], report.get("ladder") or {})
        small = f"{units:.2g} of losing one class" if units is not None else f"real: {number(fd.get('floor'))}"
        tiles.append(("Fréchet distance", number(fd["value"]), small))
    if (cover := (metrics.get("coverage") or {})).get("value") is not None:
        tiles.append(("Coverage", share(cover["value"]), f"real: {share(cover.get('floor'))}"))
    if word := GLANCED.get((report.get("copies") or {}).get("verdict") or ""):
        tiles.append(("Copies", word, "no privacy guarantee"))
    body = "".join(f"<div><dt>{text(a)}</dt><dd>{text(b)}</dd><dd>{text(c)}</dd></div>" for a, b, c in tiles)
    return f'<dl class="glance">{body}</dl>' if body else ""


def pictures(figures: Mapping[str, bytes]) -> str:
    known = [name for name in FIGURES if name in figures and name != "nearest"]
    shown = [figure(name, figures[name]) for name in [*known, *(n for n in figures if n not in FIGURES)]]
    return section("Pictures", f'<div class="pair">{"".join(shown)}</div>' if shown else "")


def judges(report: Entry) -> str:
    """Each judge's accuracy beside its control on real examples, the line of guessing and the margin."""
    found, control = words.rulings(report.get("judges")), words.rulings((report.get("controls") or {}).get("c0"))
    if not found:
        return ""
    axis, delta = accuracies([*found.values(), *control.values()]), report.get("delta")
    margin = charts.band(axis, 0.5 - delta, 0.5 + delta, "band") if delta is not None else ""
    rows = []
    for name, ruling in found.items():
        real = control.get(name, {})
        lane = charts.svg(
            40, margin, charts.line(axis, 0.5, "guess"),
            charts.bar(axis, 0.5, ruling["accuracy"], 6, 12, "fake"), charts.whisker(axis, ruling, 12),
            charts.whisker(axis, real, 28), charts.dot(axis, real["accuracy"], 28, "real", 4) if real else "",
        )  # fmt: skip
        under = f"real v real {share(real['accuracy'])}" if real else ""
        span, title = words.interval(ruling, share), words.title(words.JUDGES, name)
        rows.append(row(title, lane, share(ruling["accuracy"]), span, under=under))
    labels = {"fake": "fakes against real"} | ({"real": "real against real (control C0)"} if control else {})
    legend = key(
        **labels, **({"band": f"within {words.points(delta)} points of guessing"} if delta is not None else {})
    )
    tenths = range(round(10 * axis.low), round(10 * axis.high) + 1)
    marks = {x / 10: f"{10 * x}%" for x in tenths if axis.high < 1 or x % 2 == 0 or x == 5}
    return section(
        "Judges", plot(rows, charts.scale(axis, marks)), legend,
        facts((words.title(words.JUDGES, name), words.meaning(words.JUDGES, name)) for name in found),
        folded("All numbers of the judges", ruling_table(found)),
        lead="Each judge learns to tell fakes from real examples, then is tested on others that it has not seen. "
        "Lines show the 95% interval; the dashed line is guessing.",
    )  # fmt: skip


def accuracies(rulings: list[Entry]) -> Axis:
    """The same scale for nearly every report, so that charts compare by eye."""
    ends = [r[k] for r in rulings for k in ("accuracy", "low", "high") if r.get(k) is not None]
    return Axis(min(0.4, int(10 * min(ends)) / 10), 1.0 if max(ends) > 0.7 else 0.7)


def measures(report: Entry) -> dict[str, Entry]:
    """The metrics that have a value."""
    return {k: v for k, v in (report.get("metrics") or {}).items() if v and v.get("value") is not None}


def shortcuts(report: Entry) -> str:
    """What gives fakes away before any judge looks."""
    rows = [measure(k, v, "") for k, v in measures(report).items() if k in words.SHORTCUTS]
    lead = "Plain statistics of pixels. A mismatch is an easy give-away, and often a matter of format rather than of learning."
    return section("Shortcuts", plot(rows), lead=lead)


def ruling_table(found: Mapping[str, Entry]) -> str:
    cells = (
        (words.title(words.JUDGES, k), share(r["accuracy"]), number(r.get("auc")), number(r.get("bits")),
         words.chance(r.get("p")), number(r.get("n")))
        for k, r in found.items()
    )  # fmt: skip
    note = (
        "AUC .5 and 1 bit are guessing; p is the chance of such a result if the two were alike; n counts real and made."
    )
    return table(note, ("Judge", "Right", "AUC", "Bits", "p", "n"), cells)


def distances(report: Entry) -> str:
    metrics = measures(report)
    shares = [(k, metrics[k]) for k in SHARES if k in metrics]
    axis = Axis(0, max([1.0, *(m[k] for _, m in shares for k in ("value", "high", "floor") if m.get(k) is not None)]))
    bars = []
    for name, entry in shares:
        lane = charts.svg(
            22, charts.bar(axis, 0, axis.high, 5, 12, "back"), charts.bar(axis, 0, entry["value"], 5, 12, "fake"),
            charts.whisker(axis, entry, 11), charts.tick(axis, entry.get("floor"), 0, 22, "floor"),
        )  # fmt: skip
        bars.append(measure(name, entry, lane))
    rest = [measure(k, v, "") for k, v in metrics.items() if k not in APART]
    return section(
        "Distances and coverage", frechet(metrics, report.get("ladder") or {}),
        "<h3>Believable, varied, complete</h3>" + plot(bars) + key(fake="fakes", floor="real against real, the best to hope for")
        if bars else "",
        "<h3>Further measures</h3>" + plot(rest) if rest else "",
    )  # fmt: skip


def measure(name: str, entry: Entry, lane: str) -> str:
    """A metric with its interval, what it means, its floor, its count and what it was taken against."""
    form, glossary = words.form(name), words.METRICS | words.COPIES | words.SHORTCUTS
    details = [
        f"{'real ones' if name in words.SHORTCUTS else 'real v real'} {form(entry['floor'])}"
        if entry.get("floor") is not None
        else "",
        f"n\u00a0=\u00a0{number(entry['n'])}" if entry.get("n") else "",
        words.against(entry.get("reference")),
    ]
    say = words.meaning(glossary, name), words.sentence_of(", ".join(filter(None, details)))
    return row(words.title(glossary, name), lane, form(entry["value"]), words.interval(entry, form), say)


def frechet(metrics: Mapping[str, Entry], ladder: Mapping[str, Any]) -> str:
    """Distances and known damage in one order on a log scale."""
    ours = {k: metrics[k] for k in FRECHET if k in metrics}
    if not ours:
        return ""
    main = next(iter(ours.values()))
    lines: list[tuple[float, str, Entry, str]] = [(v["value"], words.NEAR[k], v, k) for k, v in ours.items()]
    lines += [(v, words.SPOILT.get(k, k.replace("_", " ")), {}, "plain") for k, v in ladder.items() if v is not None]
    if main.get("floor") is not None:
        lines.append((main["floor"], "real against real", {}, "real"))
    axis = charts.decades([value for value, *_ in lines])
    rows = []
    for value, label, entry, kind in sorted(lines, key=lambda line: line[0]):
        look = "fake" if entry is main else "pale" if entry else kind
        lane = charts.svg(
            26, charts.line(axis, main["value"], "ours-line"), charts.whisker(axis, entry, 13),
            charts.dot(axis, value, 13, look, 5.5 if entry is main else 4),
        )  # fmt: skip
        rows.append(row(label, lane, number(value), look=f" ours {kind}" if entry else ""))
    where = f"<p>{text(words.place(main['value'], ladder))}</p>" if ladder else ""
    lead = f"{words.METRICS['fd'][1]} Grey dots are real examples damaged on purpose; log scale."
    cells = (
        (
            words.NEAR[k].capitalize(),
            number(v["value"]),
            words.interval(v),
            number(v.get("floor")),
            number(v.get("n")),
        )
        for k, v in ours.items()
    )
    full = folded("Intervals and counts", table("", ("Distance", "Value", "95%", "Real", "n"), cells))
    return f'<h3>Fréchet distance</h3>{where}<p class="lead">{text(lead)}</p>{plot(rows, tight=True)}{full}'


def copies(report: Entry, figures: Mapping[str, bytes]) -> str:
    found, metrics = report.get("copies") or {}, report.get("metrics") or {}
    rows = []
    for name in [
        k for k in words.COPIES if found.get(k) is not None or (metrics.get(k) or {}).get("value") is not None
    ]:
        rows.append(measure(name, metrics.get(name) or {"value": found[name]}, ""))
    word = words.COPIED.get(found.get("verdict") or "unknown", str(found.get("verdict")))
    reason = words.sentence_of(str(found.get("reason") or ""))
    if not rows and not reason and "nearest" not in figures:
        return ""
    return section(
        "Copy checks", f"<p><b>{text(words.sentence_of(word))}</b> {text(reason)}</p>", plot(rows),
        figure("nearest", figures["nearest"]) if "nearest" in figures else "",
        '<p class="lead">These are copy checks, never a privacy guarantee: distances to the training set are known to miss '
        "leaks that an attack on single examples (membership inference) finds.</p>",
        lead="Does the generator repeat what it was trained on?",
    )  # fmt: skip


def classes(report: Entry) -> str:
    found = {k: v for k, v in (report.get("classes") or {}).items() if v}
    order = sorted(found, key=lambda k: (found[k].get("accuracy") is None, found[k].get("accuracy")))
    drawn = [k for k in order if found[k].get("accuracy") is not None][:WORST]
    drawn = drawn if len(found) > WORST else [k for k in found if k in drawn]
    axis, rows = Axis(0, 1), []
    for name in drawn:
        entry = found[name]
        lane = charts.svg(
            20, charts.bar(axis, 0, 1, 5, 10, "back"), charts.bar(axis, 0, entry["accuracy"], 5, 10, "fake"),
            charts.whisker(axis, entry, 10), charts.tick(axis, entry.get("floor"), 1, 18, "floor"),
        )  # fmt: skip
        rows.append(row(name, lane, share(entry["accuracy"])))
    floors = any(found[k].get("floor") is not None for k in drawn)
    legend = (
        key(fake="fakes named as asked", **({"floor": "the same of real examples"} if floors else {})) if rows else ""
    )
    some = f"The {WORST} weakest of {len(found)} classes are drawn." if len(found) > WORST else ""
    numbers = (
        (k, share(e.get("accuracy")), share(e.get("floor")), number(e.get("fd")), number(e.get("n")))
        for k, e in found.items()
    )
    full = table("", ("Class", "Named right", "Real", "Distance", "n"), numbers)
    return section(
        "Class by class", plot(rows, tight=True), legend, folded(f"All {len(found)} classes", full) if rows else full,
        lead=f"How often a classifier of real examples names the class that was asked for. {some}".strip(),
    )  # fmt: skip


def game(report: Entry) -> str:
    found, rows = report.get("game") or {}, []
    for name, (title, say) in words.GAME.items():
        entry = found.get(name)
        entry = entry if isinstance(entry, dict) else {"value": entry}
        if entry.get("value") is not None:
            rows.append(row(title, "", number(entry["value"]), words.interval(entry), [say]))
    reason = words.sentence_of(str(found.get("reason") or ""))
    if found.get("unbounded"):
        reason = "A newly trained generator ran away without limit, so the gap has no value."
    lead = "At an equilibrium neither player gains by changing alone."
    return section("The game", plot(rows), f"<p>{text(reason)}</p>" if reason else "", lead=lead)


def features(report: Entry) -> str:
    found = report.get("features") or {}
    card = found.get("card")
    pairs: list[tuple[str, Any]] = [("Name", found.get("name")), ("Hash", found.get("hash"))]
    if isinstance(card, dict):
        for name, value in card.items():
            if name not in ("name", "hash"):
                plain = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else number(value)
                pairs.append((name.replace("_", " ").capitalize(), plain))
    elif card:
        pairs.append(("Card", card))
    lead = "Distances are measured in these features. Numbers may be compared only where the hash is the same."
    return section("Features", facts(pairs), lead=lead)


def measured(report: Entry) -> str:
    """Sizes, seeds, time, and the controls that say whether the judges can be trusted."""
    data, seeds, seconds = report.get("data") or {}, report.get("seeds"), report.get("seconds")
    counts = {k: v for k, v in (data.get("counts") or {}).items() if v}
    pairs = [
        ("Data", data.get("name")), ("Fakes", number(report.get("n"))), ("Checkpoint", report.get("checkpoint")),
        ("Real examples", ", ".join(f"{words.ROLES.get(k, k)} {number(v)}" for k, v in counts.items())),
        ("Margin", None if report.get("delta") is None else f"{words.points(report['delta'])} points of accuracy"),
        ("Seeds", ", ".join(str(s) for s in seeds if s is not None) if isinstance(seeds, list) else seeds),
        ("Time", None if seconds is None else duration(seconds)),
    ]  # fmt: skip
    expected = {"c0": "about 50%", "c1": "at least 90%", "c2": "as C0"}
    titles = {"c0": "C0, real against real", "c1": "C1, known-bad fakes", "c2": "C2, copies as fakes"}
    rows: list[tuple[Any, ...]] = []
    for control, found in (report.get("controls") or {}).items():
        for name, ruling in words.rulings(found).items():
            label = words.SPOILT.get(name) or words.title(words.JUDGES, name)
            span = words.interval(ruling, share)
            rows.append(
                (f"{titles.get(control, control)}: {label}", share(ruling["accuracy"]), span, expected.get(control, ""))
            )
        if isinstance(found, dict) and isinstance(found.get("verdict"), str):
            rows.append(
                (titles.get(control, control), words.COPIED.get(found["verdict"], found["verdict"]), "", "copies found")
            )
    controls = "<h3>Controls</h3>" + table("", ("Control", "Result", "95%", "Should be"), rows) if rows else ""
    return section("How it was measured", facts(pairs), controls)


def notes(report: Entry) -> str:
    return section("Notes", bullets(report.get("notes") or ()))
