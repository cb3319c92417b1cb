"""Errors that users meet. Each says what was expected, what came, and what to change.

GansmithError            a sentence for the user; exit status 1
├── UsageError           a wrong name, option or value; exit status 2
├── DataError            data that cannot be read or learned from
├── RunError             a run folder that is busy, foreign or unfit for the command
├── CheckpointError      weights that are missing, damaged or too large
├── TrainingError        training that cannot go on (non-finite values twice)
└── MissingExtra         a feature whose packages are not installed
"""

import difflib
from collections.abc import Iterable


class GansmithError(Exception):
    """Base of every error meant for a user: its text is one plain sentence."""

    status = 1


class UsageError(GansmithError):
    """A wrong name, option or value."""

    status = 2


class DataError(GansmithError):
    """Data that cannot be read or learned from."""


class RunError(GansmithError):
    """A run folder that is busy, belongs to something else, or is unfit for the command."""


class CheckpointError(GansmithError):
    """Weights that are missing, damaged or too large."""


class TrainingError(GansmithError):
    """Training that cannot go on."""


class MissingExtra(GansmithError):
    """A feature whose packages are not installed."""

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs packages that are not installed; run: pip install 'gansmith[{extra}]'")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Sentence for an unknown name: the nearest match first, then all that is known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
