"""What training will be, and cost: found by timing a few rounds of a game that is thrown away."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any, TypeGuard

import torch

from .config import Run
from .data import Data, LiveRows, Rows
from .display import duration
from .engine import Training, parameters, trial
from .files import RunFolder
from .loop import SAVE_SHARE, TICKS, contact_sheet
from .runtime import Runtime


def make_plan(run: Run, runtime: Runtime, data: Data, rows: Rows | LiveRows, chosen: bool) -> dict[str, Any]:
    """Time some rounds of a game that is thrown away: what training will be, and cost."""
    t = Training.start(run, runtime, data, rows)
    train, ticks = run.train, TICKS * runtime.agree(tick_seconds(t))
    slow = rate = trial(t)
    if train.early:
        t.clock = replace(t.clock, seen=train.early + train.batch)
        rate = trial(t)
    checkpoint_bytes = sum(
        tensor.numel() * tensor.element_size() for tensor in (*t.tensors().values(), *t.ema.weights.values())
    )
    t.stream.close()
    counts = {role: len(indices) for role, indices in data.parts.items() if len(indices)}
    saves = 1 + 1 / SAVE_SHARE
    if train.minutes:
        seconds = train.minutes * 60
        playing = max(0.0, seconds - ticks) / saves
        first = min(playing, train.early / slow)
        images = first * slow + (playing - first) * rate
    else:
        images = train.images or 0
        first = min(images, train.early)
        seconds = (first / slow + (images - first) / rate) * saves + ticks
    return {
        "kind": data.spec.kind, "shape": list(data.spec.shape), "classes": len(data.spec.classes), "examples": counts,
        "skipped": len(data.codec.skipped), "recipe": run.recipe.name, "game": run.game.name,
        "parameters": parameters(t.game), "batch": train.batch, "device": str(runtime.device),
        "devices": runtime.world, "precision": "bf16" if runtime.bf16 else "fp32", "rate": rate, "seconds": seconds,
        "images": images, "memory": memory(runtime), "checkpoint_bytes": checkpoint_bytes,
        "minutes": train.minutes, "budget_chosen": chosen,
    }  # fmt: skip


def tick_seconds(t: Training) -> float:
    """What a tick costs: nearly all of it is the sample sheet. The first is warm-up."""
    contact_sheet(t)
    began = time.perf_counter()
    contact_sheet(t)
    return time.perf_counter() - began


PLAN = {
    "kind": str, "shape": list, "classes": int, "examples": dict, "skipped": int, "recipe": str, "game": str,
    "parameters": dict, "batch": int, "device": str, "devices": int, "precision": str, "rate": float,
    "seconds": int | float, "images": int | float, "memory": int, "checkpoint_bytes": int,
}  # fmt: skip


def is_plan(found: Any) -> TypeGuard[dict[str, Any]]:
    """Is it a plan that `make_plan` made, as far as it will be used?"""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in PLAN.items()):
        return False
    return all(isinstance(n, int) for n in (*found["examples"].values(), *found["parameters"].values()))


def memory(runtime: Runtime) -> int:
    """Peak bytes so far: of the device where it has its own memory, else of this process."""
    if runtime.kind == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plan_text(plan: dict[str, Any], run: Run, folder: RunFolder) -> str:
    """The plan as a person reads it."""
    examples = ", ".join(f"{n:,} {role}" for role, n in plan["examples"].items())
    classes = f", {plan['classes']} classes" if plan["classes"] else ""
    sizes = ", ".join(f"{name} {n:,}" for name, n in plan["parameters"].items())
    where = plan["device"] if plan["devices"] == 1 else f"{plan['devices']} devices"
    chosen = "; chosen, as none was given: --minutes or --images sets another" if plan["budget_chosen"] else ""
    goal = (
        f"{plan['minutes']:g} min, about {plan['images']:,.0f} examples" if plan["minutes"]
        else f"{plan['images']:,} examples, about {duration(plan['seconds'])}"
    )  # fmt: skip
    skipped = f"\n  skipped   {plan['skipped']} (gansmith check names them)" if plan["skipped"] else ""
    return (
        f"  data      {plan['kind']} {' x '.join(map(str, plan['shape']))}{classes}: {examples}{skipped}\n"
        f"  recipe    {plan['recipe']} (game {plan['game']}); parameters {sizes}; batch {plan['batch']}\n"
        f"  device    {where}, {plan['precision']}; memory about {plan['memory'] / 1e6:,.0f} MB\n"
        f"  budget    {goal} at {plan['rate']:,.0f} a second{chosen}\n"
        f"  run       {folder.path}"
    )
