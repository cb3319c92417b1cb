"""gansmith: generative adversarial networks from your own data.

    model = gansmith.train("pictures/", minutes=10)
    model.write(model.sample(16), "made/")
    model = gansmith.load("runs/pictures-auto")

Importing it imports no torch: names are fetched when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .base import Batch as Batch
    from .base import Clock as Clock
    from .base import Codec as Codec
    from .base import Game as Game
    from .base import Spec as Spec
    from .base import Turn as Turn
    from .config import Brief as Brief
    from .config import Optimiser as Optimiser
    from .config import Part as Part
    from .config import Ramp as Ramp
    from .config import Run as Run
    from .config import Train as Train
    from .config import at as at
    from .errors import CheckpointError as CheckpointError
    from .errors import DataError as DataError
    from .errors import GansmithError as GansmithError
    from .errors import MissingExtra as MissingExtra
    from .errors import RunError as RunError
    from .errors import TrainingError as TrainingError
    from .errors import UsageError as UsageError
    from .evaluation import evaluate as evaluate
    from .model import Model as Model
    from .model import load as load
    from .registry import register as register
    from .session import train as train

_HOMES = {
    "base": ("Batch", "Clock", "Codec", "Game", "Spec", "Turn"),
    "config": ("Brief", "Optimiser", "Part", "Ramp", "Run", "Train", "at"),
    "errors": (
        "CheckpointError", "DataError", "GansmithError", "MissingExtra", "RunError", "TrainingError", "UsageError",
    ),
    "evaluation": ("evaluate",),
    "model": ("Model", "load"),
    "registry": ("register",),
    "session": ("train",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gansmith' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
