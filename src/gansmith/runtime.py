"""Devices, precision, seeds and ranks. One process or many look the same from above."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def seed_of(*words: Any) -> int:
    """A 63-bit seed from any words, the same on every machine: say (seed, attempt, round, play)."""
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little") >> 1


def generator(device: torch.device | str, *words: Any) -> torch.Generator:
    """A random generator on a device, seeded from words."""
    return torch.Generator(device).manual_seed(seed_of(*words))


def pick_device(name: str) -> str:
    """A device type that this machine has. Raises UsageError where it has not."""
    if name not in DEVICES:
        raise UsageError(f"--device is one of {', '.join(DEVICES)}; got {name!r}.")
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    have["xpu"] = hasattr(torch, "xpu") and torch.xpu.is_available()
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "xpu", "cpu") if have[kind])
    if not have[name]:
        raise UsageError(f"This machine (or this build of torch) has no {name} device; use --device auto.")
    return name


def has_bf16(device: str) -> bool:
    """Does the device multiply bf16 in hardware? CPUs without the instructions emulate it, slower than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in asked)
    return False


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks instead of returning them to the system at once.

    A training step frees and takes the same megabytes every time; without this each is a round of page faults.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        except (OSError, AttributeError):  # another C library: only slower
            pass


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run on n CPU threads (0: as many as before); small networks are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Runtime:
    """The device, its precision, and the ranks of this training, around one Fabric.

    Modules stay raw: no wrapper averages gradients. `average` does, once, flat, after a turn's backward.
    """

    bf16 = False

    def __init__(self, device: str = "auto"):
        from lightning_fabric import Fabric

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        self.kind = pick_device(device)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        nodes = max(1, self.world // local)
        strategy = "ddp" if self.world > 1 else "auto"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.fabric = Fabric(accelerator=self.kind, devices=local, num_nodes=nodes, strategy=strategy)
            self.fabric.launch()
        self.rank, self.world, self.device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device

    def set_precision(self, precision: str) -> None:
        """auto: bf16 where the device has it, in forward passes; weights and reductions stay fp32."""
        self.bf16 = has_bf16(self.kind) if precision == "auto" else precision == "bf16"

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.kind, torch.bfloat16) if self.bf16 else nullcontext()

    def seed(self, n: int) -> None:
        """Seed what networks draw inside a forward pass. (torch.manual_seed would queue a call a round for an absent GPU.)"""
        torch.default_generator.manual_seed(n)
        if self.kind == "cuda":
            torch.cuda.manual_seed(n)
        elif self.kind == "mps":
            torch.mps.manual_seed(n)
        elif self.kind == "xpu":
            torch.xpu.manual_seed(n)

    def slice(self, n: int) -> slice:
        """This rank's share of a global batch of n."""
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over ranks, in one flat reduction."""
        if self.world > 1:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            flat = torch.as_tensor(self.fabric.all_reduce(flat, reduce_op="mean"))
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def same(self, module: nn.Module) -> None:
        """Give every rank the first one's weights and buffers."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data.copy_(self.fabric.broadcast(tensor.data, src=0))

    def agree(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        return self.fabric.broadcast(value, src=0) if self.world > 1 else value

    def barrier(self) -> None:
        if self.world > 1:
            self.fabric.barrier()

    def wait(self) -> None:
        """Let queued work finish, so that a clock may be read."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.kind == "mps":
            torch.mps.synchronize()
        elif self.kind == "xpu":
            torch.xpu.synchronize(self.device)
