"""The report page and the terminal summary: whole, safe, readable, whatever is missing."""

from __future__ import annotations

import copy
import io
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gansmith import files, report

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert(1)</script>\"onerror='x' & </style>"
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def estimate(value: float, half: float, floor: float, n: int = 10_000, reference: str = "H") -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "floor": floor, "n": n, "reference": reference}


def ruling(accuracy: float, half: float = 0.013, p: float = 0.0001, n: int = 6000) -> dict[str, Any]:
    return {
        "accuracy": accuracy, "low": accuracy - half, "high": accuracy + half, "auc": min(1, accuracy + 0.06),
        "bits": 1 - (2 * accuracy - 1) ** 2, "p": p, "n": n,
    }  # fmt: skip


@pytest.fixture
def digits() -> dict[str, Any]:
    """A full report on pictures with classes."""
    return {
        "schema": 1, "verdict": "DISTINGUISHABLE", "reason": "conv is right 81.2% of the time, p = 0.0001", "delta": 0.05,
        "need_n": None, "n": 10_000, "seeds": [0, 1, 2], "checkpoint": "1200000", "kind": "image",
        "sentence": "A fresh judge tells fakes from real ones 81% of the time (50% would be guessing): DISTINGUISHABLE.",
        "judges": {"knn": ruling(0.556), "linear": ruling(0.539), "conv": ruling(0.812, 0.01)},
        "controls": {
            "c0": {"knn": ruling(0.504, p=0.4), "linear": ruling(0.497, p=0.6), "conv": ruling(0.507, p=0.3)},
            "c1": {"noise": ruling(0.999, 0.001), "blur": ruling(1.0, 0)},
            "c2": {"verdict": "copies", "reason": "C_T is -54.8"},
        },
        "metrics": {
            "fd": estimate(1.12, 0.09, 0.21), "fd_train": estimate(1.05, 0.08, 0.19, reference="T"),
            "fd_test": estimate(1.41, 0.1, 0.41, reference="test"), "fd_inf": estimate(0.97, 0.11, 0.02),
            "kid": estimate(0.0021, 0.0004, -0.0001), "cmmd": estimate(0.31, 0.05, 0.08),
            "precision": estimate(0.921, 0.007, 0.954), "recall": estimate(0.902, 0.008, 0.953),
            "density": estimate(0.911, 0.012, 0.971), "coverage": estimate(0.874, 0.008, 0.96),
            "c_t": estimate(4.1, 1.0, 0.2, reference="T"), "authenticity": estimate(0.724, 0.01, 0.7, reference="T"),
            "nn_ratio": estimate(1.08, 0.02, 1.0, reference="T"), "class_accuracy": estimate(0.981, 0.003, 0.989),
            "zero_share": estimate(0.702, 0.004, 0.807), "last_bit": estimate(0.996, 0.001, 0.998),
        },
        "ladder": {"noise4": 0.88, "double_class": 8.2, "noise16": 11.5, "drop_class": 18.6, "blur": 71, "noise64": 242},
        "copies": {
            "verdict": "clean", "reason": "The fakes are no nearer than real ones are.",
            "c_t": 4.1, "authenticity": 0.724, "nn_ratio": 1.08,
        },
        "game": {
            "gap": {"value": 0.61, "low": 0.55, "high": 0.68}, "max": {"value": -1.02, "low": -1.06, "high": -0.98},
            "min": {"value": -1.63, "low": -1.7, "high": -1.58}, "jsd": {"value": 0.18, "low": 0.16, "high": 0.2},
            "unbounded": False, "form": "minimax", "n": 3000, "walks": {"max": [1, 2], "min": [1]},
        },
        "features": {
            "name": "gs-feat-mnist-v1", "hash": "9f2c" * 16,
            "card": {"method": "classifier", "accuracy": 0.9905, "steps": 1200, "sigma": 7.1, "fitted on": "E"},
        },
        "classes": {
            name: {"accuracy": 0.99 - 0.012 * i, "floor": 0.991, "fd": 1.5 + i / 4, "n": 1000 - 7 * i}
            for i, name in enumerate(NAMES)
        },
        "notes": ["left out 'train/4/00031.png': is damaged", "features come from E alone, 4,000 examples"],
        "data": {"name": "mnist.zip", "counts": {"T": 48_000, "E": 4000, "V": 4000, "H": 4000, "test": 10_000}},
        "seconds": 58.31,
    }  # fmt: skip


@pytest.fixture
def points() -> dict[str, Any]:
    """Points in equilibrium; no classes, no ladder in classes, no features of its own."""
    return {
        "schema": 1, "verdict": "EQUILIBRIUM", "reason": "no judge can be right more than 52.9% of the time (95% confidence)",
        "delta": 0.05, "need_n": None, "n": 4000, "seeds": [0], "checkpoint": "500000", "kind": "points",
        "sentence": "A fresh judge tells fakes from real ones 51% of the time (50% would be guessing): EQUILIBRIUM, "
        "no judge can be right more than 52.9% of the time (95% confidence).",
        "judges": {"knn": ruling(0.507), "linear": ruling(0.496), "trees": ruling(0.512)},
        "controls": {
            "c0": {"knn": ruling(0.502), "linear": ruling(0.505), "trees": ruling(0.498)}, "c1": {"drop_mode": ruling(0.93)},
        },
        "metrics": {
            "fd": estimate(0.004, 0.002, 0.003, 4000), "coverage": estimate(0.958, 0.006, 0.962, 4000),
            "density": estimate(1.04, 0.03, 1.0, 4000), "core_width": estimate(0.97, 0.04, 1.0, 4000),
        },
        "ladder": {"noise": 0.03, "drop_mode": 0.4}, "copies": {"verdict": "clean", "reason": "", "c_t": 0.4},
        "game": {}, "features": {"name": "points as they are", "hash": "00ff", "card": None}, "notes": [],
        "data": {"name": "ring8", "counts": {"T": 20_000, "V": 2000, "H": 2000}}, "seconds": 21.0,
    }  # fmt: skip


@pytest.fixture
def minimal() -> dict[str, Any]:
    return {
        "schema": 1, "verdict": "UNDECIDED", "reason": "only 5 examples are left to judge by; nothing can be said of so few",
        "delta": 0.05, "need_n": 200, "n": 64, "seeds": [0], "checkpoint": None, "kind": "image",
        "data": {"name": "cats", "counts": {"T": 41, "H": 0}}, "notes": [], "judges": {}, "controls": {}, "metrics": {},
        "ladder": {}, "copies": {"verdict": "unknown"}, "game": {}, "features": {},
    }  # fmt: skip


@pytest.fixture
def figures() -> dict[str, bytes]:
    rng, sheets = np.random.default_rng(0), {}
    for name in ("fakes", "reals", "caught", "passed", "nearest"):
        memory = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 96), dtype=np.uint8)).save(memory, "PNG")
        sheets[name] = memory.getvalue()
    return sheets


class Reader(HTMLParser):
    """Checks that tags are balanced; gathers texts, headings and what is referred to."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def emptied(value: Any) -> Any:
    """The same report with every number gone."""
    if isinstance(value, dict):
        return {k: emptied(v) for k, v in value.items()}
    if isinstance(value, list):
        return [emptied(v) for v in value]
    return None if isinstance(value, int | float) else value


def holes(value: Any) -> list[Any]:
    """The report with one value missing: as many copies as it has values."""
    found = []

    def walk(node: Any, path: list[Any]) -> None:
        for key, inner in node.items() if isinstance(node, dict) else ():
            other = copy.deepcopy(value)
            place = other
            for step in path:
                place = place[step]
            place[key] = None
            found.append(other)
            walk(inner, [*path, key])

    walk(value, [])
    return found


# ---- the page -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["digits", "points", "minimal"])
def test_a_page_is_whole_and_needs_nothing_else(
    which: str, figures: dict[str, bytes], request: pytest.FixtureRequest
) -> None:
    html = report.page(request.getfixturevalue(which), figures)
    reader = Reader(html)
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    for tag, attrs in reader.tags:
        assert not any(name.startswith("on") for name in attrs), tag
        assert (attrs.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not attrs.get("href")
    pictures = [attrs for tag, attrs in reader.tags if tag == "img"]
    assert len(pictures) == len(figures) and all(p["alt"] and p["width"] == "96" for p in pictures)
    assert len(html) < 60_000 + 2 * sum(map(len, figures.values()))


def test_sections_come_in_order_and_the_verdict_first(digits: dict[str, Any], figures: dict[str, bytes]) -> None:
    html = report.page(digits, figures)
    heads = [re.sub("<.*?>", "", h) for h in re.findall("<h[12].*?>(.*?)</h[12]>", html)]
    assert heads == [
        digits["sentence"], "Not tested here", "Pictures", "Shortcuts", "Judges", "Distances and coverage", "Copy checks",
        "Class by class", "The game", "Features", "How it was measured", "Notes",
    ]  # fmt: skip


def test_numbers_stand_as_text_with_interval_count_and_floor(digits: dict[str, Any]) -> None:
    text = Reader(report.page(digits, {})).text
    for said in (
        "87.4%",
        "86.6–88.2%",
        "Real v real 96.0%, n = 10,000, held-out.",
        "81.2%",
        "real v real 50.7%",
        "−1.63",
    ):
        assert said in text.replace("\u00a0", " "), said
    assert "A little worse than noise of 4/255 (0.880), better than one class doubled (8.20)." in text
    assert "0.06 of losing one class" in text


def test_every_metric_with_a_known_name_is_explained(digits: dict[str, Any]) -> None:
    digits["metrics"]["of_a_plug_in"] = estimate(3.0, 0.1, 2.0)
    text = Reader(report.page(digits, {})).text
    assert "Share of real examples with a fake close by" in text and "Share of fakes that fall where real" in text
    assert "of a plug in 3.00 2.90–3.10 Real v real 2.00" in text


@pytest.mark.parametrize("which", ["digits", "points", "minimal"])
def test_copy_checks_are_never_called_privacy(which: str, request: pytest.FixtureRequest) -> None:
    text = Reader(report.page(request.getfixturevalue(which), {})).text
    assert "the copy checks are no guarantee" in text


def test_an_undecided_copy_check_says_why(points: dict[str, Any]) -> None:
    points["copies"] = {
        "verdict": "unknown",
        "reason": "Copies were not looked for: name the training examples with --train.",
    }
    text, summary = Reader(report.page(points, {})).text, report.summary(points)
    assert "Not decided. Copies were not looked for: name the training examples with --train." in text
    assert "Copy checks: not decided: Copies were not looked for" in summary


def test_found_copies_are_told_at_the_top(digits: dict[str, Any]) -> None:
    digits["copies"] |= {"verdict": "copies", "reason": "C_T is -54.8, below -3"}
    text = Reader(report.page(digits, {})).text
    assert text.index("The fakes look copied from training examples. C_T is -54.8, below -3.") < text.index(
        "Not tested here"
    )


def test_what_was_not_tested_follows_from_the_report(digits: dict[str, Any], minimal: dict[str, Any]) -> None:
    full, short = (Reader(report.page(r, {})).text for r in (digits, minimal))
    for said in ("Other data:", "Copying:", "The judges themselves:", "The game: whether"):
        assert said not in full and said in short


def test_hostile_names_stay_text(digits: dict[str, Any], figures: dict[str, bytes]) -> None:
    for key in ("verdict", "reason", "sentence", "checkpoint"):
        digits[key] = HOSTILE
    digits["data"] = {"name": HOSTILE, "counts": {HOSTILE: 3}}
    digits["copies"] = {"verdict": HOSTILE, "reason": HOSTILE}
    digits["game"] = {"reason": HOSTILE}
    digits["features"] = {"name": HOSTILE, "hash": HOSTILE, "card": {HOSTILE: HOSTILE, "list": [HOSTILE]}}
    digits["notes"] = [HOSTILE, "\x1b[2J\x00bell\x07", "na\udcffme", "abc\u202efed"]
    for part in ("judges", "metrics", "ladder", "classes"):
        digits[part][HOSTILE] = next(iter(digits[part].values()))
    digits["controls"]["c0"][HOSTILE] = ruling(0.5)
    html = report.page(digits, figures | {HOSTILE: figures["fakes"]})
    html.encode()
    reader = Reader(html)
    assert "<script" not in html and html.count("</style>") == 1 and "\x1b" not in html and "\x00" not in html
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert reader.text.count("<script>alert(1)</script>") >= 12
    assert "<bdi>abc\u202efed</bdi>" in html
    summary = report.summary(digits)
    summary.encode()
    assert "\x1b" not in summary and "\x07" not in summary


@pytest.mark.parametrize("which", ["digits", "points", "minimal"])
def test_any_number_may_be_missing(which: str, figures: dict[str, bytes], request: pytest.FixtureRequest) -> None:
    full = request.getfixturevalue(which)
    for part, kept in ("classes", 1), ("metrics", 5), ("judges", 2):  # one of a kind is enough
        full[part] = dict(list(full.get(part, {}).items())[:kept])
    for some in (emptied(full), {}, {"verdict": "UNDECIDED"}, *holes(full)):
        shown = Reader(report.page(some, {})).text + report.summary(some)
        assert not re.search(r"\b(None|nan|inf)\b", shown), shown
    assert Reader(report.page(emptied(full), figures))


def test_numbers_that_are_not_finite_are_missing(digits: dict[str, Any]) -> None:
    digits["metrics"]["fd"] |= {"low": math.nan, "high": math.inf, "floor": math.nan}
    digits["metrics"]["kid"]["value"] = math.nan
    assert report.page(digits, {}) == report.page(json.loads(files.to_json(digits)), {})
    assert not re.search(r"\b(nan|inf)\b", Reader(report.page(digits, {})).text)


def test_hundreds_of_classes_stay_readable(digits: dict[str, Any]) -> None:
    digits["classes"] = {f"class {i}": {"accuracy": i / 300, "fd": 1.0, "n": 30} for i in range(300)}
    html = report.page(digits, {})
    assert html.count('<span class="name">class ') == 24 and "All 300 classes" in html
    assert "class 0<" in html and len(html) < 150_000


@pytest.mark.parametrize("accuracy", [0.0, 0.02, 0.5, 1.0])
def test_marks_stay_inside_their_charts(digits: dict[str, Any], accuracy: float) -> None:
    digits["judges"]["conv"] = ruling(accuracy, 0)
    digits["metrics"] |= {"fd": estimate(0.0, 0.1, -0.2), "density": estimate(7.0, 1.0, 1.0)}
    for tag, attrs in Reader(report.page(digits, {})).tags:
        if tag in ("rect", "line", "circle", "text"):
            for name in ("x", "x1", "x2", "cx"):
                assert 0 <= float((attrs.get(name) or "0%").rstrip("%")) <= 100, attrs
            assert float((attrs.get("width") or "0%").rstrip("%")) >= 0


# ---- the summary ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["digits", "points", "minimal"])
def test_summary_begins_with_the_verdict_and_stays_small(which: str, request: pytest.FixtureRequest) -> None:
    full = request.getfixturevalue(which)
    full["notes"] = [f"a long note, {i}: " + "word " * 60 for i in range(9)]
    full["metrics"] |= {f"measure_{i}": estimate(i, 0.1, 0.0) for i in range(20)} if full["metrics"] else {}
    first, *rest = report.summary(full).splitlines()
    assert first == full.get(
        "sentence", "Undecided: this evaluation cannot say whether the fakes can be told from real examples."
    )
    assert len(rest) < 32 and all(len(line) <= 100 for line in rest)


def test_summary_tells_judges_metrics_copies_and_reason(digits: dict[str, Any], minimal: dict[str, Any]) -> None:
    text = report.summary(digits)
    assert re.search(r"^conv +81\.2% +80\.2-82\.2% +50\.7%", text, re.M)
    assert re.search(r"^coverage +87\.4% +86\.6-88\.2% +96\.0% +10,000 +held-out$", text, re.M)
    assert (
        "fd is 0.06 of what losing one class costs" in text and "no copies seen" in text and "never a privacy" in text
    )
    assert "Only 5 examples are left to judge by" in report.summary(minimal)


def test_a_verdict_without_a_sentence_gets_one(digits: dict[str, Any], points: dict[str, Any]) -> None:
    for some in (digits, points):
        del some["sentence"]
    assert report.summary(digits).startswith(
        "A fresh judge can tell the fakes from real examples: it is right 81.2% of the time."
    )
    assert report.summary(points).startswith(
        "No fresh judge can tell the fakes from real examples, to within 5 points of guessing."
    )
