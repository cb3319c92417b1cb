"""Distances and coverage against torch-fidelity and prdc on the same features: figures, then speed.

    make oracle          or, where torch, torchvision, torch-fidelity and prdc are installed:
    python benchmarks/oracle.py [--pairs 3] [--threads 1] [--only vectors]

Writes tests/data/oracle/distances.json, which the tests compare our figures with, and stops if they differ by more than
one part in a thousand. Times are taken in turn, theirs then ours; each ratio is that of the medians. One thread
each, as two of them on a busy machine wait for each other (prdc's own eight are its own choice).
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from gansmith.metrics.coverage import prdc
from gansmith.metrics.frechet import Moments, frechet
from gansmith.metrics.kernel import cmmd, cubic_mmd, kid

VECTORS = Path(__file__).parent.parent / "tests" / "data" / "oracle" / "distances.json"
TOLERANCE = 1e-3
CASES: tuple[dict[str, Any], ...] = (  # n fakes, m reals, d columns
    {"name": "close", "seed": 1, "n": 1000, "m": 1000, "d": 16, "shift": 0.1, "scale": 1.1},
    {"name": "modes", "seed": 2, "n": 1200, "m": 900, "d": 8, "modes": 5},
    {"name": "far from zero", "seed": 3, "n": 600, "m": 600, "d": 32, "offset": 30.0, "shift": 0.3},
    {"name": "few", "seed": 4, "n": 150, "m": 150, "d": 64, "scale": 0.8},
    {"name": "fewer than columns", "seed": 5, "n": 60, "m": 60, "d": 96, "shift": 1.0},
)
DOCUMENTED: dict[str, Any] = {"name": "prdc's own example", "seed": 6, "n": 10_000, "m": 10_000, "d": 1000}
OPERATORS = (  # of torchvision, whose compiled part does not load beside a CPU build of torch
    "nms", "qnms", "roi_align", "_roi_align_backward", "qroi_align", "ps_roi_align", "_ps_roi_align_backward",
    "roi_pool", "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip


def features(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Fakes [n, d] and reals [m, d] float32. RandomState's stream is frozen, so only figures need to be stored.

    modes: fakes leave one of that many Gaussians out.
    """
    rng = np.random.RandomState(case["seed"])
    n, m, d = case["n"], case["m"], case["d"]
    fake, real = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    if k := case.get("modes"):
        means = 4 * rng.standard_normal((k, d))
        fake, real = fake + means[rng.randint(k - 1, size=n)], real + means[rng.randint(k, size=m)]
    fake = case.get("scale", 1.0) * fake + case.get("shift", 0.0)
    return tuple((x + case.get("offset", 0.0)).astype(np.float32) for x in (fake, real))  # type: ignore[return-value]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def ours(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The same figures as `theirs`."""
    found = {"fd": frechet(Moments.of(fake), Moments.of(real))}
    for k in (3, 5):
        for name, each in prdc(fake, real, k)._asdict().items():
            found[f"{name}_{k}"] = float(each.mean())
    if len(fake) == len(real):  # torch-fidelity's subsets are of one size: the whole, here
        found["kid"] = cubic_mmd(torch.from_numpy(fake), torch.from_numpy(real))
        found["cmmd"] = cmmd(fake, real, 1.0, np.random.default_rng(0))[0]
    return found


def theirs(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """torch-fidelity, on float64 rows, for all but density and coverage; its first input is the generated one."""
    from torch_fidelity import metric_kid, metric_prc

    wide = [rows.astype(np.float64) for rows in (fake, real)]
    tensors = [torch.from_numpy(rows) for rows in wide]
    found = {"fd": fidelity_fd(*tensors)}
    for k in (3, 5):
        sides = metric_prc.prc_features_to_metric(*tensors, prc_neighborhood=k, verbose=False)
        found |= {f"{name}_{k}": sides[name] for name in ("precision", "recall")}
        found |= {f"{name}_{k}": value for name, value in naver(*wide, k).items() if name in ("density", "coverage")}
    if len(fake) == len(real):
        options = {"kid_subsets": 1, "kid_subset_size": len(fake), "verbose": False}
        found["kid"] = metric_kid.kid_features_to_metric(*tensors, **options)[metric_kid.KEY_METRIC_KID_MEAN]
        a, b = (unit(rows) for rows in (fake, real))
        kernels = [metric_kid.kernel_rbf(*pair, kid_kernel_rbf_sigma=1.0) for pair in ((a, a), (a, b), (b, b))]
        found["cmmd"] = 1000 * metric_kid.mmd2(*kernels, unit_diagonal=True, mmd_est="biased")
    return {name: float(value) for name, value in found.items()}


def fidelity_fd(fake: torch.Tensor, real: torch.Tensor) -> float:
    from torch_fidelity import metric_fid

    sides = [metric_fid.fid_features_to_statistics(rows) for rows in (fake, real)]
    return float(metric_fid.fid_statistics_to_metric(*sides, verbose=False)[metric_fid.KEY_METRIC_FID])


def naver(fake: np.ndarray, real: np.ndarray, k: int = 5) -> dict[str, float]:
    from prdc import compute_prdc

    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # it talks, sklearn warns
        return dict(compute_prdc(real, fake, k))


def write_vectors() -> bool:
    """Compares, tells, writes. False if anything differs too much."""
    worst, entries = 0.0, []
    for case in CASES:
        rows = features(case)
        found, expected = ours(*rows), theirs(*rows)
        apart = {key: abs(found[key] - value) / max(abs(value), 1e-9) for key, value in expected.items()}
        far = max(apart, key=apart.__getitem__)
        print(f"{case['name']:20} {len(expected)} figures, largest relative difference {apart[far]:.1e} ({far})")
        worst = max(worst, apart[far])
        entries.append({"case": case, "expected": expected})
    expected = {name: float(value) for name, value in naver(*features(DOCUMENTED)).items()}
    documented = {"case": DOCUMENTED, "expected": expected}
    versions = {name: importlib.metadata.version(name) for name in ("torch-fidelity", "prdc", "torch", "numpy")}
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    VECTORS.write_text(
        json.dumps({"versions": versions, "cases": entries, "documented": documented}, indent=1) + "\n",
        encoding="utf-8",
    )
    return worst <= TOLERANCE


def race(name: str, pairs: int, their: Callable[[], Any], our: Callable[[], Any], times: int = 1) -> None:
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(pairs):
        for work, kept in zip((their, our), taken, strict=True):
            start = time.perf_counter()
            for _ in range(times):
                work()
            kept.append((time.perf_counter() - start) / times)
    slow, fast = map(statistics.median, taken)
    print(f"{name:48} theirs {slow:8.3f} s, ours {fast:7.3f} s, ratio {slow / fast:6.1f}", flush=True)


def speed(pairs: int) -> None:
    """10,000 fakes and 10,000 reals, float32, from features to the figure: all four for ours, even where theirs are two."""
    from torch_fidelity import metric_kid, metric_prc

    print(f"\n10,000 x 10,000, {pairs} pairs, {torch.get_num_threads()} threads, {platform.machine()}", flush=True)
    rows = {
        d: [np.random.RandomState(i).standard_normal((10_000, d)).astype(np.float32) for i in (1, 2)]
        for d in (64, 2048)
    }
    tensors = {d: [torch.from_numpy(x) for x in sides] for d, sides in rows.items()}
    for d, few, times in ((64, 2 * pairs + 1, 20), (2048, min(pairs, 3), 1)):
        race(
            f"FD, {d} columns (torch-fidelity)", few,
            lambda d=d: fidelity_fd(*tensors[d]),
            lambda d=d: frechet(*(Moments.of(x) for x in rows[d])), times,
        )  # fmt: skip
    options = {"kid_subsets": 100, "kid_subset_size": 1000, "verbose": False}
    race(
        "KID, 100 x 1,000, 64 columns (torch-fidelity)", pairs,
        lambda: metric_kid.kid_features_to_metric(*tensors[64], **options),
        lambda: kid(*rows[64], np.random.default_rng(0)),
    )  # fmt: skip
    race(
        "precision, recall, 64 columns (torch-fidelity)", pairs,
        lambda: metric_prc.prc_features_to_metric(*tensors[64], prc_neighborhood=5, verbose=False),
        lambda: prdc(*rows[64]),
    )  # fmt: skip
    race("all four, 64 columns (prdc)", pairs, lambda: naver(*rows[64]), lambda: prdc(*rows[64]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("vectors", "speed"))
    given = parser.parse_args()
    shim = torch.library.Library("torchvision", "DEF")  # kept: what it defines goes with it
    for operator in OPERATORS:
        shim.define(f"{operator}() -> Tensor")
    if given.only != "speed" and not write_vectors():
        sys.exit(f"Some figures differ by more than {TOLERANCE}.")
    if given.only != "vectors":
        torch.set_num_threads(given.threads)
        with threadpool_limits(given.threads):
            speed(given.pairs)


if __name__ == "__main__":
    main()
