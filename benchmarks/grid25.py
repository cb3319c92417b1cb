"""25 Gaussians on a grid, 60 s of training, three seeds: modes, high-quality share, reverse KL, core width.

    python benchmarks/grid25.py [--recipe auto] [--data grid25] [--minutes 1] [--seeds 0 1 2]

Protocol of PacGAN (Lin et al. 2018): 2,500 samples of the averaged generator; high quality is within 3 standard
deviations of the nearest mode; a mode is found with one such sample; reverse KL of the modes' shares to uniform, in
nats. Core width: median distance of fakes to their mode's centre over that of real points. A true sampler scores 98.9%,
25 modes, .0052.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import gansmith
from gansmith.codecs._toys import draw
from gansmith.codecs.points import modes
from gansmith.errors import UsageError
from gansmith.metrics.points import count_modes

N = 2_500


def scores(points: np.ndarray, name: str) -> dict[str, float]:
    """points [n, 2] in data units -> the four figures, beside 100,000 points of the toy itself."""
    known = modes(name)
    if known is None:
        raise UsageError(f"{name} is not a mixture of known modes; use grid25 or ring8.")
    found = count_modes(points, *known)
    real = count_modes(draw(name, seed=1), *known)
    return {"modes": found.modes, "high_quality": found.high_quality, "kl": found.kl, "core": found.core / real.core}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--data", default="grid25")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    print(
        f"{given.data}, {given.recipe}, {given.minutes:g} min\nseed  modes  high quality  reverse KL  core width  rounds"
    )
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            model = gansmith.train(given.data, given.recipe, minutes=given.minutes, seed=seed, out=run, quiet=True)
            found = scores(np.stack(model.decode(model.sample(N, seed=seed))), given.data)
            rounds = int(model.name) // model.run.train.batch
        print(
            f"{seed:4d}  {found['modes']:5d}  {found['high_quality']:12.3f}  {found['kl']:10.4f}  {found['core']:10.2f}  {rounds}"
        )


if __name__ == "__main__":
    main()
