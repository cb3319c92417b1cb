"""Examples a second of the engine against plain hand-written PyTorch loops: same networks, losses and batch, one process.

    python benchmarks/loop_cost.py [--repeats 7] [--threads 2] [--case r3]

Rounds of the plain loop, of the engine with the plain loop's settings (`by_hand`) and of the
engine with its own settings are timed in turn; each figure is the median of ratios of neighbours. For r3 the engine
without `reuse`, the plain script with fast settings and `auto` (its own networks and batch) are raced too. Beside it:
the share of this machine's own convolution limit that a step reaches, in the engine's precision, and (in processes of
their own) peak memory.
"""

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import plain
from gansmith.config import Brief, Run
from gansmith.data import Rows, open_data
from gansmith.engine import Training, rounds
from gansmith.registry import build
from gansmith.runtime import Runtime, has_bf16, keep_freed_memory

CASES = ("dcgan", "wgan-gp", "r3")
SIZES = {  # those of plain.r3_networks
    "r3": (
        'parts.G={"name": "r3", "args": {"width": 96}}',
        'parts.D={"name": "r3", "args": {"width": 96}}',
        "train.batch=32",
    )
}
PICTURES = 4096


def by_hand(case: str) -> tuple[str, ...]:
    """The settings of the plain loop: contiguous, fp32. Dcgan's keeps the generator's forward; r3's does too, but there
    the engine is raced without."""
    share = str(case == "dcgan").lower()
    return ("train.channels_last=false", "train.precision=fp32", f"train.share={share}", *fresh(case))


def fresh(case: str) -> tuple[str, ...]:
    """The setting that judges real examples anew for G's turn, as the plain loop does."""
    return ("game.args.reuse=false",) if case == "r3" else ()


def pictures() -> np.ndarray:
    """Noise, four fifths of it black, as digits are, so that `auto` does all that it would do for them."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (PICTURES, 28, 28), dtype=np.uint8)
    return np.where(rng.random(x.shape) < 0.8, np.uint8(0), x)


def engine(case: str, *changes: str) -> Training:
    """The engine on random 28-px pictures, as `train` would start it."""
    data = open_data(pictures(), Run())
    run: Run = build("recipe", case, data.spec, Brief(data.count, bf16=has_bf16("cpu"))).set(
        *SIZES.get(case, ()), *changes
    )
    runtime = Runtime("cpu")
    runtime.set_precision(run.train.precision)
    rows = Rows(data.codec.encode(data.raws.take(data.parts["T"])))
    t = Training.start(run, runtime, data, rows)
    t.game.train()
    return t


def plain_networks(case: str, t: Training) -> tuple[nn.Module, nn.Module]:
    """Ordinary layers with the engine's weights; checked to be the same functions."""
    g, d = plain.r3_networks() if case == "r3" else plain.dcgan_networks(norm_d=case == "dcgan")
    game: Any = t.game
    plain.copy_weights(game.G, g)
    plain.copy_weights(game.D, d, first_is_late=case == "r3")
    z, x = torch.randn(8, game.z_dim), torch.rand(8, 1, 28, 28) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(g(z), game.G(z), atol=1e-4), "generators differ"
        assert torch.allclose(d(x)[:, 0], game.D(x), atol=1e-4), "discriminators differ"
    return g, d


def plain_step(case: str, networks: tuple[nn.Module, nn.Module], batch: int, tuned: bool = False) -> Callable[[], None]:
    x = torch.from_numpy(pictures()).float()[:, None] / 127.5 - 1

    def draw() -> Tensor:
        return x[torch.randint(len(x), (batch,))]

    if tuned:
        step = plain.r3_tuned_loop(*networks, bf16=Runtime("cpu").bf16)
    elif case == "r3":
        step = plain.r3_loop(*networks)
    elif case == "dcgan":
        step = plain.dcgan_loop(*networks)
    else:
        step = plain.wgan_gp_loop(*networks, draw)
    return lambda: step(draw())


def timed(step: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - began


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products, forward and backward."""

    total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops(step: Callable[[], None], count: int = 4) -> float:
    """Multiply-adds, times two, of one round (mean over a penalty's period)."""
    with Counter() as counter:
        for _ in range(count):
            step()
    return counter.total / count


def conv_limit(dtype: torch.dtype) -> float:
    """FLOP a second of a large 3x3 convolution on this machine, forward: the best of both layouts."""
    work = 2 * 32 * 28 * 28 * 128 * 128 * 9 * 5

    def speed(layout: torch.memory_format) -> float:
        conv = nn.Conv2d(128, 128, 3, padding=1).to(dtype=dtype, memory_format=layout)
        x = torch.randn(32, 128, 28, 28).to(dtype=dtype, memory_format=layout)
        with torch.no_grad():
            timed(lambda: conv(x), 3)
            return max(work / timed(lambda: conv(x), 5) for _ in range(4))

    return max(speed(torch.contiguous_format), speed(torch.channels_last))


def ratio(rates: dict[str, list[float]], name: str, other: str) -> str:
    """How many times as many examples a second: the median of neighbours' ratios, and their range."""
    each = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
    return f"{statistics.median(each):.2f}x ({min(each):.2f}-{max(each):.2f})"


def race(case: str, repeats: int, count: int) -> None:
    own, same = engine(case), engine(case, *by_hand(case))
    batch = own.run.train.batch
    steps = {
        "plain": plain_step(case, plain_networks(case, same), batch),
        "engine, same settings": lambda: rounds(same),
        "engine": lambda: rounds(own),
    }
    sizes = {}
    if case == "r3":
        anew, auto = engine(case, *fresh(case)), engine("auto")
        steps["engine, fresh logits"] = lambda: rounds(anew)
        steps["plain, fast settings"] = plain_step(case, plain_networks(case, same), batch, tuned=True)
        steps["auto"] = lambda: rounds(auto)
        sizes["auto"] = auto.run.train.batch
    for step in steps.values():
        timed(step, 8)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            rates[name].append(count * sizes.get(name, batch) / timed(step, count))
    work = flops(steps["engine"], 8)
    limit = conv_limit(torch.bfloat16 if own.runtime.bf16 else torch.float32)
    print(f"\n{case}: batch {batch}, {own.runtime.bf16 and 'bf16' or 'fp32'}, {torch.get_num_threads()} threads")
    for name in steps:
        print(f"  {name:<22} {statistics.median(rates[name]):8.1f} examples/s  {ratio(rates, name, 'plain')}")
    for name in ("engine", "auto") if case == "r3" else ():
        print(f"  {name} over the fast plain script: {ratio(rates, name, 'plain, fast settings')}")
    speed = work * statistics.median(rates["engine"]) / batch
    print(
        f"  {work / 1e9:.2f} GFLOP a round; {speed / 1e9:.0f} GFLOP/s of the conv limit {limit / 1e9:.0f}: {speed / limit:.0%}"
    )


def peak(case: str, which: str, results: Any) -> None:
    """Peak memory above what is resident before the first round, in MB."""
    keep_freed_memory()
    t = engine(case) if which == "engine" else engine(case, *by_hand(case), "train.share=false")
    alone = plain_step(case, plain_networks(case, t), t.run.train.batch)
    step = alone if which == "plain" else lambda: rounds(t)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what building left free must not hide what training takes
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = status("VmRSS")
    timed(step, 12)
    results[which] = (status("VmHWM") - before) / 1024


def status(field: str) -> int:
    """A field of this process's memory, in KB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])


def memory(case: str) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Manager().dict()
    for which in ("plain", "engine, nothing shared", "engine"):
        process = context.Process(target=peak, args=(case, which, results))
        process.start()
        process.join()
    print("  peak memory of training: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in results.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--case", choices=CASES)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    keep_freed_memory()  # for both sides: it belongs to the process
    for case in CASES if given.case is None else (given.case,):
        race(case, given.repeats, given.rounds)
        memory(case)


if __name__ == "__main__":
    main()
