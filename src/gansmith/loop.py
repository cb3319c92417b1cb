"""The one loop: rounds until the budget is spent, a tick now and then, checkpoints, rollback."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import checkpoint, files
from .engine import Meter, NonFinite, Training, blame, rounds
from .errors import TrainingError
from .files import RunFolder
from .model import draw_samples

TICKS = 30  # of a budget in examples
TICK_SECONDS = (2.0, 60.0)  # of a budget in minutes: a thirtieth of it, kept within these
SAVE_SHARE = (
    30  # a checkpoint is written at a tick once training has gone on for this many times what the last one took
)


# ---- ticks ----------------------------------------------------------------------------------------------------------
Look = Callable[[Training, RunFolder, str], Any]  # scores the checkpoint of a name, just saved


@dataclass
class Pace:
    """Wall-clock of a training: when to tick, how many examples the minutes will come to, when to save."""

    began: float
    base: float
    last: tuple[float, int]  # seconds and seen at the last tick
    next: float  # seen at the next one
    rate: float = 0.0
    save_cost: float = 0.0
    saved: float = 0.0
    look: Look | None = None

    @classmethod
    def start(cls, t: Training, rate: float, look: Look | None = None) -> Pace:
        pace = cls(time.perf_counter(), t.seconds, (t.seconds, t.clock.seen), 0.0, saved=t.seconds, look=look)
        if t.run.train.minutes is not None:
            t.images = estimate(t, rate)
        pace.plan(t, rate)
        return pace

    def now(self) -> float:
        return self.base + time.perf_counter() - self.began

    def measure(self, t: Training) -> float:
        """Examples a second since the last tick, half of it the figure before: one slow tick is not a trend."""
        now = (t.clock.seen - self.last[1]) / max(1e-6, t.seconds - self.last[0])
        self.last = (t.seconds, t.clock.seen)
        self.rate = now if self.rate == 0 else 0.5 * (self.rate + now)
        return self.rate

    def plan(self, t: Training, rate: float) -> None:
        """Set the next tick: a thirtieth of a budget in examples, or some seconds' worth of one in minutes."""
        train = t.run.train
        if train.minutes is None:
            step = max(train.batch, t.images / TICKS)
            self.next = (t.clock.seen // step + 1) * step
        else:
            low, high = TICK_SECONDS
            seconds = min(high, max(low, train.minutes * 60 / TICKS), max(0.2, (train.minutes * 60 - t.seconds) / 2))
            self.next = t.clock.seen + max(train.batch, rate * seconds)

    def due(self, t: Training) -> bool:
        return t.clock.seen >= self.next or t.clock.progress >= 1


def estimate(t: Training, rate: float) -> float:
    """N such that progress reaches 1 when the minutes end, at the present rate."""
    assert t.run.train.minutes is not None
    left = max(0.0, t.run.train.minutes * 60 - t.seconds)
    return max(t.run.train.batch, rate * left) / max(1e-9, 1 - t.clock.progress)


def expected(t: Training, rate: float) -> float:
    """Examples that the whole budget will come to."""
    if t.run.train.minutes is None:
        return t.images
    return t.clock.seen + rate * max(0.0, 60 * t.run.train.minutes - t.seconds)


def tick(t: Training, pace: Pace, folder: RunFolder, show: Callable[[dict[str, Any]], None]) -> None:
    """Read the meters, write one log line and one sample grid, save if it is time, renew the estimate."""
    t.runtime.wait()
    means = read_meter(t)
    t.seconds = t.runtime.agree(pace.now())
    rate = pace.measure(t)
    if t.run.train.minutes is not None:
        if t.seconds >= 60 * t.run.train.minutes:
            t.clock = replace(t.clock, progress=1.0)
        if t.clock.progress < 1:
            t.images = estimate(t, rate)
    pace.plan(t, rate)
    if t.runtime.rank == 0:
        row = {
            "seen": t.clock.seen, "round": t.clock.round, "seconds": round(t.seconds, 3), "rate": round(rate, 2),
            "progress": t.clock.progress, "images": expected(t, rate),
            "terms": {k: v for k, v in means.items() if not k.endswith("/gradient")},
            "signals": {k: v for k, v in means.items() if k.endswith("/gradient")} | {"attempt": t.attempt},
        }  # fmt: skip
        files.append_line(folder.log, row)
        draw(t, folder)
        show(row)
    if t.clock.progress < 1 and t.runtime.agree(pace.now() - pace.saved >= SAVE_SHARE * pace.save_cost):
        save(t, pace, folder)


def read_meter(t: Training) -> dict[str, float]:
    """Means since the last tick. Raises NonFinite: nothing that follows such a value may be saved."""
    means = t.meter.read()
    if bad := [name for name, value in means.items() if not math.isfinite(value)]:
        player = bad[0].split("/")[0]
        terms = {
            k.split("/")[1]: v for k, v in means.items() if k.startswith(player + "/") and not k.endswith("/gradient")
        }
        raise NonFinite(blame(player, terms, f"between rounds of the tick that ends with round {t.clock.round}"))
    return means


def contact_sheet(t: Training) -> bytes:
    """A PNG of the averaged generator on 64 fixed latents."""
    x = draw_samples(t.game, t.ema.state(), 64, seed=t.run.train.seed, device=t.runtime.device, whole=False)
    return bytes(t.codec.preview(t.codec.decode(x.cpu())))


def draw(t: Training, folder: RunFolder) -> None:
    """samples/<seen>.png: the averaged generator on fixed latents, and latest.png."""
    folder.samples.mkdir(exist_ok=True)
    sheet = contact_sheet(t)
    files.write(folder.samples / f"{t.clock.seen:012d}.png", sheet)
    files.write(folder.samples / "latest.png", sheet)


def save(t: Training, pace: Pace, folder: RunFolder) -> None:
    """Write a checkpoint of this moment, and score it where that is wanted; the first rank does, all wait."""
    t.seconds = t.runtime.agree(pace.now())
    if t.runtime.rank == 0:
        name = checkpoint.save(folder, t.clock.seen, t.facts(), t.tensors(), t.ema.state(), t.run.train.keep)
    pace.save_cost = t.runtime.agree(pace.now()) - t.seconds
    if t.runtime.rank == 0 and pace.look is not None:
        pace.look(t, folder, name)
    t.runtime.barrier()
    pace.saved = t.runtime.agree(pace.now())


# ---- the loop -------------------------------------------------------------------------------------------------------
class Interrupted(Exception):
    """SIGINT or SIGTERM came; everything is saved."""


@contextmanager
def listening() -> Iterator[dict[str, bool]]:
    """Turn SIGINT and SIGTERM into a flag that the loop reads after each round; a second one acts at once."""
    flag = {"stop": False}
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: Any) -> None:
        flag["stop"] = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, stop)
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def loop(
    t: Training,
    folder: RunFolder,
    rate: float,
    show: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    look: Look | None = None,
) -> None:
    """Play rounds until the budget is spent. Saves at the end; on a signal saves and raises Interrupted.

    A loss or gradient that is not finite sends training back to the last good checkpoint with fresh draws, once;
    the second time it raises TrainingError with the evidence.
    """
    t.game.train()
    pace = Pace.start(t, rate, look)
    with listening() as flag:
        if t.runtime.agree(not checkpoint.listed(folder)):
            save(t, pace, folder)
        while t.clock.progress < 1:
            try:
                rounds(t)
                if t.runtime.world > 1 and stop_asked(t, flag):
                    flag["stop"] = True
                if flag["stop"]:
                    read_meter(t)
                    save(t, pace, folder)
                    raise Interrupted
                if pace.due(t):
                    tick(t, pace, folder, show)
            except NonFinite as error:
                roll_back(t, folder, str(error), t.runtime.agree(pace.now()), say)
                pace = Pace.start(t, rate, look)
        save(t, pace, folder)


def stop_asked(t: Training, flag: dict[str, bool]) -> bool:
    """Has any rank been asked to stop? Asked of all every 16 rounds, so that they stop at the same one."""
    if t.clock.round % 16:
        flag["heard"] = flag.get("heard", False) or flag["stop"]
        flag["stop"] = False
        return False
    heard = torch.tensor([float(flag.pop("heard", False) or flag["stop"])], device=t.runtime.device)
    t.runtime.average([heard])
    return bool(heard.item() > 0)


def roll_back(t: Training, folder: RunFolder, why: str, seconds: float, say: Callable[[str], None]) -> None:
    """Return to the last good checkpoint with a new attempt; raise TrainingError if this is the second time."""
    if t.attempt:
        stays = int(next(iter(checkpoint.listed(folder)), "0"))
        raise TrainingError(
            f"Training stopped: {why}, again after a return to the last good checkpoint. The update was not applied and "
            f"checkpoint {stays:,} stays. Lower train.optimisers.*.lr, raise the penalty's gamma, or check the data."
        )
    saved, _ = checkpoint.newest(folder, checkpoint.pointed(folder, "latest"))
    t.load(saved)
    t.attempt, t.seconds, t.meter = t.attempt + 1, max(seconds, t.seconds), Meter()
    t.restream()
    say(
        f"{why[0].upper()}{why[1:]}; the update was not applied. Going on from {t.clock.seen:,} examples with fresh draws."
    )
    if t.runtime.rank == 0:
        trim_log(folder, t.clock.seen)
        files.append_line(
            folder.log,
            {"seen": t.clock.seen, "round": t.clock.round, "event": "rollback", "why": why, "attempt": t.attempt},
        )


def trim_log(folder: RunFolder, seen: int) -> None:
    """Drop log rows past the checkpoint that training goes on from."""
    rows = [row for row in files.read_lines(folder.log) if isinstance(at := row.get("seen"), int) and at <= seen]
    files.write(folder.log, b"".join(files.to_json(row) for row in rows))
