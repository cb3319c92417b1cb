"""The words of a report: numbers as people read them, one sentence for each metric, and what a verdict means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NONE = "–"
Entry = Mapping[str, Any]

# name -> (title, one sentence for a newcomer)
METRICS = {
    "fd": ("Fréchet distance", "How far the cloud of fakes lies from that of real examples, in centre and spread."),
    "fd_train": ("Fréchet distance to training", "The same to what the generator saw; far below the other hints at copying."),
    "fd_test": ("Fréchet distance to the test folder", "The same to a set that was collected apart."),
    "fd_inf": ("Fréchet distance, endless samples", "The same with the error of finite counts taken out."),
    "kid": ("Kernel distance (KID)", "Another distance between the clouds; 0 is alike, slightly below 0 is chance."),
    "cmmd": ("Maximum mean discrepancy", "A distance that assumes no shape of the clouds; 0 is alike."),
    "precision": ("Precision", "Share of fakes that fall where real examples live: are they believable?"),
    "recall": ("Recall", "Share of real examples that fall where fakes live: is there variety?"),
    "density": ("Density", "How thickly real examples surround each fake; about 1 for real ones, and it may exceed 1."),
    "coverage": ("Coverage", "Share of real examples with a fake close by: is anything left out?"),
    "mode_kl": ("Evenness of modes", "How unevenly the known clusters are filled, in nats; 0 is even."),
    "core_width": ("Core width", "Spread of fakes inside a known cluster over that of real ones; 1 is right."),
    "w2": ("Wasserstein distance", "How far points must move, on average, to turn the fakes into real ones."),
    "sliced_w2": ("Sliced Wasserstein", "How far points must move along random lines to turn fakes into real ones."),
    "modes": ("Modes found", "How many of the clusters that the data are known to have hold a fake."),
    "high_quality": ("High quality", "Share of fakes within 3 standard deviations of a known cluster."),
    "class_accuracy": ("Class accuracy", "Share of fakes that a classifier of real examples names as asked for."),
}  # fmt: skip
NEAR = {  # the distances in the chart, in a word or two
    "fd": "these fakes", "fd_inf": "at endless n", "fd_train": "to training set", "fd_test": "to test folder",
}  # fmt: skip
COPIES = {
    "c_t": ("C_T", "Well below 0: fakes sit nearer to training examples than unseen real ones do (alarm below −3)."),
    "authenticity": ("Authenticity", "Share of fakes not closer to a training example than its own neighbour is."),
    "nn_ratio": ("Neighbour ratio", "How far fakes are from training examples; unseen real ones are 1, below 0.8 is an alarm."),
    "fld": ("Feature likelihood divergence", "How badly fakes explain unseen real examples; lower is better."),
    "fld_gap": ("Likelihood gap", "The same for training minus unseen examples; strongly below 0 means overfitting."),
    "birthday": ("Birthday test", "Fakes to draw until two are near twins, half of the time; few means little variety."),
    "near_copies": ("Near copies", "Share of fakes that are far nearer to one training example than to any other."),
    "near_copies_p": ("p of near copies", "Chance of so many if fakes were like unseen real examples."),
    "exact_copies": ("Exact copies", "Share of fakes equal to a training example to the last bit."),
}  # fmt: skip
SHORTCUTS = {
    "zero_share": ("Black pixels", "Share of pixels that are exactly 0."),
    "max_share": ("White pixels", "Share of pixels that are exactly 255."),
    "last_bit": ("Last bit", "Randomness of the last bit of the other pixels, in bits, at most 1."),
    "histogram_tv": ("Grey values", "Difference between the grey values of fakes and of real ones, from 0 to 1."),
    "spectrum_slope": ("Slope of the spectrum", "How fast fine detail fades; steeper is smoother."),
}  # fmt: skip
GAME = {
    "gap": ("Duality gap", "What both players together could still win by changing alone; 0 is a perfect equilibrium."),
    "max": ("Judge’s side", "The best that a newly trained discriminator reaches; −1.386 is guessing in the logistic game."),
    "value": ("Value now", "What the game is worth as training left it; it lies between the two sides."),
    "min": ("Generator’s side", "The lowest that a newly trained generator reaches against this discriminator."),
    "jsd": ("Jensen-Shannon divergence", "The distance between real and made that the judge’s side proves; 0 is none."),
    "held_out_gap": ("Held-out gap", "How much surer the discriminator is of its training examples than of unseen ones."),
}  # fmt: skip
JUDGES = {
    "knn": ("neighbours (kNN)", "Asks the nearest examples in feature space; sees clumps and gaps."),
    "linear": ("linear", "One straight cut through the features; sees content and class balance."),
    "conv": ("conv net", "A small network trained from scratch on pixels; sees texture and tiny artefacts."),
    "trees": ("boosted trees", "Decision trees on the raw columns; see how columns go together."),
}  # fmt: skip
SPOILT = {
    "drop_class": "one class left out", "double_class": "one class doubled", "noise4": "noise of 4/255",
    "noise16": "noise of 16/255", "noise64": "noise of 64/255", "blur": "3 × 3 blur", "drop_mode": "one mode left out",
}  # fmt: skip
ROLES = {
    "T": "training", "E": "feature extractor", "V": "to train judges", "H": "held out", "test": "test folder",
}  # fmt: skip
HEADINGS = {"EQUILIBRIUM": "Equilibrium", "DISTINGUISHABLE": "Distinguishable", "UNDECIDED": "Undecided"}
COPIED = {"copies": "copies found", "clean": "no copies seen", "unknown": "not decided"}


# ---- numbers --------------------------------------------------------------------------------------------------------
def number(value: Any) -> str:
    """Three significant digits, thousands set apart; – where there is none."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if size == 0 or size >= 1000 or isinstance(value, int):
        text = f"{value:,.0f}"
    elif size < 1e-4:
        text = f"{value:.0e}"
    else:
        text = f"{value:#.{3 if size >= 0.01 else 2}g}".rstrip(".")
    return text.replace("-", "−")


def share(value: Any) -> str:
    """A fraction as a percentage."""
    return NONE if value is None else f"{100 * value:.1f}%".replace("-", "−")


def points(delta: float) -> str:
    """A margin of accuracy, a fraction, in percentage points."""
    return f"{100 * delta:.3g}"


def chance(p: Any) -> str:
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(entry: Entry, form: Any = number) -> str:
    """low–high, empty where either is unknown."""
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None:
        return ""
    low, high = form(low), form(high)
    if low.endswith("%") and high.endswith("%"):
        low = low[:-1]
    return f"{low} to {high}" if "−" in low + high else f"{low}–{high}"


def form(name: str) -> Any:
    """How a metric of this name is written."""
    shares = {"precision", "recall", "coverage", "authenticity", "high_quality", "class_accuracy", "accuracy"}
    shares |= {"near_copies", "exact_copies", "zero_share", "max_share"}
    return share if name in shares else number


def title(glossary: Mapping[str, tuple[str, str]], name: str) -> str:
    return glossary[name][0] if name in glossary else name.replace("_", " ")


def meaning(glossary: Mapping[str, tuple[str, str]], name: str) -> str:
    return glossary[name][1] if name in glossary else ""


def against(reference: Any) -> str:
    return {"H": "held-out", "T": "training", "test": "test folder"}.get(reference, str(reference or ""))


def sentence_of(text: str) -> str:
    """A fragment as a sentence: a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?" else ".") if text else ""


# ---- what it comes to -----------------------------------------------------------------------------------------------
def rulings(some: Any) -> dict[str, Entry]:
    """The judges of a section that have an accuracy."""
    rows = some if isinstance(some, dict) else {}
    return {k: v for k, v in rows.items() if isinstance(v, dict) and v.get("accuracy") is not None}


def strongest(report: Entry) -> tuple[str, Entry] | None:
    """The judge that was right most often, by name."""
    found = rulings(report.get("judges"))
    return max(found.items(), key=lambda item: item[1]["accuracy"]) if found else None


def sentence(report: Entry) -> str:
    """The verdict in a plain sentence: the report's own, else one made from its numbers."""
    if own := report.get("sentence"):
        return " ".join(str(own).split())
    best, verdict = strongest(report), report.get("verdict")
    if verdict == "DISTINGUISHABLE":
        how = f": it is right {share(best[1]['accuracy'])} of the time" if best else ""
        return f"A fresh judge can tell the fakes from real examples{how}."
    if verdict == "EQUILIBRIUM":
        margin = report.get("delta")
        within = "" if margin is None else f", to within {points(margin)} points of guessing"
        return f"No fresh judge can tell the fakes from real examples{within}."
    return "Undecided: this evaluation cannot say whether the fakes can be told from real examples."


def told(reason: str, report: Entry) -> bool:
    """Does the verdict's sentence hold the reason already?"""
    return reason.rstrip(".").lower() in sentence(report).lower()


def explained(report: Entry) -> list[str]:
    """What the verdict means, a sentence each."""
    lines, best, verdict = [], strongest(report), report.get("verdict")
    if best:
        name, ruling = best
        span = interval(ruling, share)
        lines.append(
            f"The best of {len(rulings(report['judges']))} judges, {title(JUDGES, name)}, was right "
            f"{share(ruling['accuracy'])} of the time{f' ({span})' if span else ''} on examples that it had never seen. "
            "Guessing is right 50% of the time."
        )
        control = rulings((report.get("controls") or {}).get("c0")).get(name)
        if control:
            lines.append(
                f"Between two sets of real examples the same judge was right {share(control['accuracy'])} of the time."
            )
    reason = sentence_of(str(report.get("reason") or ""))
    if (verdict != "DISTINGUISHABLE" or not best) and not told(reason, report):
        lines.append(reason)
    if report.get("need_n") and verdict == "UNDECIDED":
        lines.append(
            f"About {number(report['need_n'])} held-out examples, half real and half made, would be needed to settle it."
        )
    return [line for line in lines if line]


def untested(report: Entry) -> list[str]:
    """What this report does not show, a sentence each."""
    controls, copies = report.get("controls") or {}, report.get("copies") or {}
    lines = ["Other eyes: a stronger judge, or a person, may see what these judges do not."]
    if (report.get("metrics") or {}).get("fd_test") is None:
        lines.append("Other data: real means this data set’s own held-out examples, not ones collected elsewhere.")
    lines.append("Privacy: the copy checks are no guarantee that training examples cannot be recovered.")
    if copies.get("verdict") not in ("copies", "clean"):
        lines.append(
            "Copying: " + sentence_of(str(copies.get("reason") or "nothing was compared with training examples"))
        )
    if not controls.get("c1"):
        lines.append("The judges themselves: whether they catch known-bad fakes (control C1, in a full evaluation).")
    if not report.get("game"):
        lines.append("The game: whether either player could still gain (duality gap, in a full evaluation).")
    return lines


def place(value: float, ladder: Mapping[str, Any]) -> str:
    """Where a Fréchet distance stands among known damage, in words."""
    rungs = sorted((v, SPOILT.get(k, k.replace("_", " "))) for k, v in ladder.items() if v is not None)
    below = [rung for rung in rungs if rung[0] <= value]
    above = [rung for rung in rungs if rung[0] > value]
    if not rungs:
        return ""
    if not below:
        return f"Better than every damage tried; the mildest is {above[0][1]} ({number(above[0][0])})."
    worse = "A little worse" if value < 1.5 * below[-1][0] else "Worse"
    text = f"{worse} than {below[-1][1]} ({number(below[-1][0])})"
    return text + (f", better than {above[0][1]} ({number(above[0][0])})." if above else ", the worst damage tried.")


def lost_classes(value: Any, ladder: Mapping[str, Any]) -> float | None:
    """A Fréchet distance in units of one class left out."""
    unit = ladder.get("drop_class")
    return value / unit if value is not None and unit else None
