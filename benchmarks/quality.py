"""Quality by the report: train with a recipe, evaluate, one line for each seed.

    python benchmarks/quality.py mnist.zip [--recipe auto] [--minutes 10] [--seeds 0 1 2] [--conditional]
    python benchmarks/quality.py spiral pinwheel --minutes 3

unit: fd_train in units of the features' own distance for one class left out (the ladder's drop_class). Judges are quoted
beside their control C0, real against real.
"""

import argparse
import tempfile
from pathlib import Path

import gansmith

JUDGES = ("knn", "linear", "conv", "trees")


def line(found: dict) -> str:
    """A report in one line."""
    value = {name: entry["value"] for name, entry in found["metrics"].items()}
    c0 = found["controls"]["c0"]
    judges = [
        f"{name} {found['judges'][name]['accuracy']:.1%} ({c0[name]['accuracy']:.1%})"
        for name in JUDGES
        if name in found["judges"]
    ]
    shown = {
        "unit": value["fd_train"] / found["ladder"]["drop_class"], "fd": value["fd"], "recall": value["recall"],
        "coverage": value["coverage"], "copies": found["copies"]["verdict"],
    } | {k: value[k] for k in ("modes", "high_quality", "mode_kl", "core_width") if k in value}  # fmt: skip
    if found["classes"]:
        rows = found["classes"].values()
        for name, key in (("class accuracy", "accuracy"), ("real class accuracy", "floor")):
            shown[name] = sum(r[key] * r["n"] for r in rows) / sum(r["n"] for r in rows)
    figures = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()]
    return "; ".join([found["verdict"], *judges, *figures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--conditional", action="store_true")
    given = parser.parse_args()
    for data in given.data:
        for seed in given.seeds:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                model = gansmith.train(
                    data, given.recipe, minutes=given.minutes, seed=seed, out=run, quiet=True,
                    unconditional=not given.conditional,
                )  # fmt: skip
                found = gansmith.evaluate(run, quiet=True)
            print(f"{data}, {given.recipe}, seed {seed}, {int(model.name):,} seen: {line(found)}", flush=True)


if __name__ == "__main__":
    main()
