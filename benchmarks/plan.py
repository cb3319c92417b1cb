"""Does a run take as long as its plan said? Five recipes, each a budget in examples worth about half a minute.

    python benchmarks/plan.py

Prints the predicted and the recorded seconds of each.
"""

import tempfile
from pathlib import Path

import gansmith
from gansmith.files import RunFolder, read_lines

CASES = [("digits", "auto"), ("digits", "dcgan"), ("digits", "wgan-gp"), ("grid25", "gan"), ("digits", "sngan")]
SECONDS = 30


def main() -> None:
    print("data     recipe    predicted s  took s  ratio")
    for data, recipe in CASES:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            rate = gansmith.train(data, recipe, images=10**6, out=run, dry_run=True, quiet=True)["rate"]
            images = max(1, round(rate * SECONDS))
            gansmith.train(data, recipe, images=images, out=run, quiet=True)
            predicted = RunFolder(run).read_run()["plan"]["seconds"]
            took = read_lines(RunFolder(run).log)[-1]["seconds"]
        print(f"{data:<8} {recipe:<9} {predicted:11.1f}  {took:6.1f}  {took / predicted:5.2f}")


if __name__ == "__main__":
    main()
