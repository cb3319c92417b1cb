"""Features without downloads: extractors that learn from the user's own data, on a part that nothing else ever sees.

Each has a card that says how it came to be, and a hash over all that its numbers depend on.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .. import files
from ..errors import CheckpointError, DataError, UsageError
from ._extractors import PROJECTED, Net, classifier, contrastive, look, random_net
from .evidence import Sample, Say, silent
from .frechet import Moments, frechet
from .kernel import median_distance
from .spoil import blur, double_class, drop_class, noise

VERSION = 1
METHODS = ("classifier", "contrastive", "random", "identity")
DIMS = 64
STEPS = {"classifier": 700, "contrastive": 160}
FEWEST = 200  # pictures that a network can learn from
EACH = 20  # pictures of a class, on average, that a classifier can learn from
CHECKED = 10  # every tenth picture with a label is kept back, to measure the accuracy
CELLS = 10  # k-means cells that stand in for classes
MODES = f"{CELLS} k-means cells"
LARGE = 128 * 128  # pixels; larger pictures are learned from in fewer steps, which take longer
RUNGS = 5000  # examples that a rung of the ladder is measured on
KEPT = 32  # extractors in the cache folder
SIDE_LIMIT, DIMS_LIMIT, CLASS_LIMIT, CARD_LIMIT = 1 << 12, 256, 10_000, 4 << 20  # of files from others
HEADER = 1 << 16  # bytes of a weights file beyond its numbers
BLOCK = 256  # pictures harmed at once
WEIGHTS, CARD = "features.safetensors", "features.json"
RESULTS = ("accuracy", "checked", "floor", "ladder")  # of a card: told, but no number depends on them


class Extractor:
    """Examples to features. Made by `fit`, `load`, `cached` and `random_features`.

    card: JSON, how it was made and what it can do; hash: over its weights and all of the card but RESULTS. Numbers from
    extractors of different hashes cannot be compared.
    """

    def __init__(self, card: dict[str, Any], net: Net | None):
        self.card, self.net = card, net
        self.hash = _hash(card)
        self.centre, self.scale = np.array(card["centre"]), np.array(card["scale"])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features float32 [n, dims] of pictures uint8 [n, C, H, W] or points [n, d], by columns centred and scaled.

        Raises DataError for another shape or type, and for values that are not finite.
        """
        return ((self.raw(x) - self.centre) / self.scale).astype(np.float32)

    def raw(self, x: np.ndarray) -> np.ndarray:
        """What the columns were before they were centred and scaled."""
        _check(x, tuple(self.card["shape"]))
        if self.net is None:
            return x.astype(np.float64)
        if not len(x):
            return np.empty((0, self.card["dims"]), np.float32)
        return look(self.net, x, self.net.features)

    def classify(self, x: np.ndarray) -> np.ndarray:
        """Indices int64 [n] into the card's classes. Raises UsageError where it did not learn from labels."""
        if self.net is None or self.card["method"] != "classifier":
            raise UsageError(
                f"Features of the kind {self.card['method']!r} learned no classes; the data has no labels."
            )
        _check(x, tuple(self.card["shape"]))
        if not len(x):
            return np.empty(0, np.int64)
        return look(self.net, x, self.net).argmax(1)


def _check(x: np.ndarray, shape: tuple[int, ...]) -> None:
    expected = "x".join(map(str, shape))
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise DataError(f"The features are of examples of shape {expected}; got {'x'.join(map(str, x.shape[1:]))}.")
    if len(shape) == 3 and x.dtype != np.uint8:
        raise DataError(f"Features are taken of pictures as they are stored, uint8; got {x.dtype}.")
    if len(shape) == 1 and not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise DataError(f"Example {bad} holds values that are not finite (NaN or infinity); leave it out.")


# ---- fitting --------------------------------------------------------------------------------------------------------
def fit(
    kind: str,
    x: np.ndarray,
    y: np.ndarray | None = None,
    classes: Sequence[str] = (),
    *,
    shape: tuple[int, ...] = (),
    reference: np.ndarray | None = None,
    seed: int = 0,
    fingerprint: str = "",
    say: Say = silent,
) -> Extractor:
    """An extractor that learned from the examples x alone (part E: no player, no judge ever sees them).

    Pictures uint8 [n, C, H, W] with labels y int64 [n] give a classifier, without (or with too few of a class) a
    contrastive one; too few pictures, or all alike, fixed random features; points [n, d] are their own features.
    shape: of one example, for an empty x. reference: examples to centre and scale by where x is empty (part T).
    Raises DataError for examples of another form and values that are not finite. No global random state is touched.
    """
    shape = tuple(x.shape[1:]) or shape
    if len(shape) not in (1, 3):
        raise UsageError(f"Features need pictures of shape (C, H, W) or points of shape (d,); got {shape}.")
    _check(x if len(x) else np.empty((0, *shape), np.uint8), shape)
    method = _method(x, y, shape)
    names = list(classes)
    if method == "classifier":
        assert y is not None
        names = names or [str(i) for i in range(int(y.max()) + 1)]
        if y.min() < 0 or y.max() >= len(names):
            raise DataError(f"Labels are indices from 0 to {len(names) - 1}; got {y.min()} to {y.max()}.")
    steps = math.ceil(STEPS.get(method, 0) * min(1.0, LARGE / math.prod(shape[1:])))
    if steps:
        say(
            f"learning features from {len(x):,} pictures ({'their classes' if method == 'classifier' else 'no labels'})"
        )
    net, facts = _learn(method, x, y, len(names), shape, steps, seed)
    facts |= {"steps": steps, "n": len(x), "split": "E" if len(x) else "none", "data": fingerprint}
    card = _card(kind, method, shape, DIMS if net else shape[0], seed, net)
    card |= {"classes": names if method == "classifier" else [], "modes": "classes" if len(names) > 1 else MODES}
    return _scaled(card | facts, net, x if len(x) or reference is None else reference)


def _card(kind: str, method: str, shape: tuple[int, ...], dims: int, seed: int, net: Net | None) -> dict[str, Any]:
    name = f"gs-feat-{kind}-v{VERSION}"
    made = {"name": name, "version": VERSION, "method": method, "shape": list(shape), "dims": dims, "seed": seed}
    learned = {"steps": 0, "n": 0, "split": "none", "data": "", "classes": [], "modes": MODES, "weights": _digest(net)}
    return made | learned | {"accuracy": None, "checked": 0, "floor": None, "ladder": {}}


def _method(x: np.ndarray, y: np.ndarray | None, shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return "identity"
    if len(x) < FEWEST or (x == x[:1]).all():
        return "random"
    present = 0 if y is None else len(np.unique(y))
    return "classifier" if present > 1 and len(x) >= EACH * present else "contrastive"


def _learn(
    method: str, x: np.ndarray, y: np.ndarray | None, classes: int, shape: tuple[int, ...], steps: int, seed: int
) -> tuple[Net | None, dict[str, Any]]:
    """The net; for a classifier also its accuracy on pictures kept back, and how many these were."""
    if method == "identity":
        return None, {}
    if method == "random":
        return random_net(shape, DIMS, seed), {}
    if method == "contrastive":
        return contrastive(x, DIMS, steps, seed), {}
    assert y is not None
    back = np.zeros(len(x), bool)
    back[np.random.default_rng(seed).permutation(len(x))[::CHECKED]] = True
    net = classifier(x[~back], y[~back], classes, DIMS, steps, seed)
    right = look(net, x[back], net).argmax(1) == y[back]
    return net, {"accuracy": float(right.mean()), "checked": int(back.sum())}


def _scaled(card: dict[str, Any], net: Net | None, x: np.ndarray) -> Extractor:
    """The card with the columns' means and standard deviations; 0 and 1 without examples; columns that are constant
    keep their scale, so that fakes which differ there are still seen."""
    dims = card["dims"]
    card |= {"centre": [0.0] * dims, "scale": [1.0] * dims, "sigma": None}
    if len(x) < 2:
        return Extractor(card, net)
    raw = Extractor(card, net).raw(x).astype(np.float64)
    centre, scale = raw.mean(0), raw.std(0)
    scale[scale <= 1e-6 * np.abs(centre)] = 1.0
    scale[scale == 0] = 1.0
    card |= {"centre": centre.tolist(), "scale": scale.tolist()}
    card["sigma"] = median_distance(((raw - centre) / scale).astype(np.float32), np.random.default_rng(0)) or None
    return Extractor(card, net)


def random_features(shape: tuple[int, ...], dims: int = DIMS, seed: int = 0) -> Extractor:
    """Fixed random features of pictures, for cheap scores during training: no data, the same on every machine.

    Points are their own features. Neither is centred or scaled.
    """
    if len(shape) == 1:
        return _scaled(_card("points", "identity", shape, shape[0], seed, None), None, np.empty((0, *shape)))
    net = random_net(shape, dims, seed)
    return _scaled(_card("random", "random", shape, dims, seed, net), net, np.empty((0, *shape), np.uint8))


# ---- comparing ------------------------------------------------------------------------------------------------------
def same(a: str | Extractor, b: str | Extractor) -> None:
    """Refuse to compare numbers from different features. a, b: extractors or their hashes. Raises DataError."""
    one, two = (e.hash if isinstance(e, Extractor) else e for e in (a, b))
    if one != two:
        raise DataError(
            f"Numbers from different features cannot be compared: {one[:12]} and {two[:12]}. Evaluate both with one extractor."
        )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of features [n, f] and [m, f]; nan where a side has fewer than 2."""
    return frechet(Moments.of(a), Moments.of(b)) if min(len(a), len(b)) > 1 else math.nan


def ladder(extractor: Extractor, pool: Sample, reference: Sample, seed: int = 0) -> dict[str, float]:
    """Frechet distance to the reference of real examples that were harmed in known ways, and of unharmed ones (floor).

    drop_class, double_class: the second class left out, the first one counted twice (k-means cells of the reference's
    features where there are no classes, by size); pictures also noise4, noise16, noise64 (grey levels), blur (3x3).
    pool: real examples that are not the reference's; all rungs have the same number of them. {} for fewer than 20.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool))
    modes = _modes(extractor, pool, reference)[order]
    dropped, doubled = drop_class(modes, 1), np.sort(double_class(modes, 0))  # mostly the floor's examples: less chance
    n = min(len(dropped), RUNGS)
    if n < 2 * CELLS:
        return {}
    target, chosen = Moments.of(reference.features), order[:n]
    whole = {"floor": chosen, "drop_class": order[dropped[:n]], "double_class": order[doubled[:n]]}
    rungs = {name: frechet(Moments.of(pool.features[rows]), target) for name, rows in whole.items()}

    def harmed(harm: Callable[[np.ndarray], np.ndarray]) -> float:
        parts = [Moments.of(extractor(harm(pool.x[chosen[at : at + BLOCK]]))) for at in range(0, n, BLOCK)]
        return frechet(functools.reduce(operator.add, parts), target)

    if pool.x.ndim == 4:
        for sd in (4, 16, 64):
            rungs[f"noise{sd}"] = harmed(functools.partial(noise, sd=sd, rng=rng))
        rungs["blur"] = harmed(blur)
    return rungs


def _modes(extractor: Extractor, pool: Sample, reference: Sample) -> np.ndarray:
    """The class of each example, or its cell, as the card's "modes" says; cells are numbered by size, largest first."""
    if extractor.card["modes"] == "classes" and pool.y is not None and len(labels := np.unique(pool.y)) > 1:
        return np.searchsorted(labels, pool.y)
    from sklearn.cluster import KMeans

    base = reference.features[:RUNGS]
    cells = KMeans(min(CELLS, len(base)), n_init=1, random_state=0).fit(base)
    order = np.argsort(-np.bincount(cells.labels_, minlength=cells.n_clusters), kind="stable")
    return np.argsort(order)[cells.predict(pool.features)]


# ---- on disk --------------------------------------------------------------------------------------------------------
def _tensors(net: Net | None) -> dict[str, Tensor]:
    return {} if net is None else {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}


def _digest(net: Net | None) -> str:
    return files.sha256(safetensors.torch.save(_tensors(net)))


def _hash(card: dict[str, Any]) -> str:
    facts = {key: value for key, value in card.items() if key not in RESULTS}
    return files.sha256(json.dumps(facts, sort_keys=True).encode())


def save(extractor: Extractor, folder: Path) -> None:
    """Write an extractor into a folder: its weights, then its card, which names their hash. Raises OSError."""
    os.makedirs(folder, exist_ok=True)
    files.write(folder / WEIGHTS, safetensors.torch.save(_tensors(extractor.net)))
    files.write_json(folder / CARD, {"hash": extractor.hash, "card": extractor.card})


def load(folder: Path) -> Extractor:
    """Read an extractor, whoever wrote it. Raises CheckpointError or RunError naming what is missing, foreign or damaged."""
    path = folder / CARD
    if path.is_file() and path.stat().st_size > CARD_LIMIT:
        raise CheckpointError(f"{path} is larger than {CARD_LIMIT >> 20} MB; it is not a card that gansmith wrote.")
    stored = files.read_json(path)
    try:
        card = dict(stored["card"])
        _sound(card)
        right = stored["hash"] == _hash(card)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a card that this gansmith reads: {error}.") from None
    if not right:
        raise CheckpointError(f"{path} is damaged: it differs from its own hash. Remove {folder} to learn it anew.")
    return Extractor(card, _read_net(folder / WEIGHTS, card))


def _sound(card: dict[str, Any]) -> None:
    """Raises ValueError, TypeError or KeyError for a card from which nothing sensible could be built."""
    shape, dims, classes, method = card["shape"], card["dims"], card["classes"], card["method"]
    if card["version"] != VERSION or method not in METHODS:
        raise ValueError(f"version {card['version']!r}, method {method!r}")
    if not all(type(v) is int and 0 < v <= SIDE_LIMIT for v in [*shape, dims]) or len(shape) not in (1, 3):
        raise ValueError(f"shape {shape!r}, {dims!r} dimensions")
    if len(shape) != (1 if method == "identity" else 3) or (len(shape) == 3 and max(shape[0] << 4, dims) > DIMS_LIMIT):
        raise ValueError(f"method {method!r} for shape {shape!r}, {dims} dimensions")
    if len(classes) > CLASS_LIMIT or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes")
    if card["modes"] not in ("classes", MODES) or not isinstance(card["weights"], str):
        raise ValueError("modes or weights")
    for column in (card["centre"], card["scale"]):
        if len(column) != dims or not all(type(v) is float and math.isfinite(v) for v in column):
            raise ValueError("centre or scale")
    if min(card["scale"]) <= 0:
        raise ValueError("scale")


def _read_net(path: Path, card: dict[str, Any]) -> Net | None:
    """The card's net with the weights of a file, whose size, hash, names and shapes are checked in that order."""
    if card["method"] == "identity":
        return None
    outputs = {"classifier": len(card["classes"]), "contrastive": PROJECTED}.get(card["method"], 1)
    net = Net(tuple(card["shape"]), card["dims"], outputs)
    limit = sum(t.nbytes for t in net.state_dict().values()) + HEADER
    try:
        size = path.stat().st_size if path.is_file() else 0
        data = path.read_bytes() if 0 < size <= limit else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if files.sha256(data) != card["weights"]:
        raise CheckpointError(f"{path} is missing or damaged: it differs from its card. Remove it to learn it anew.")
    try:
        net.load_state_dict(safetensors.torch.load(data))
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the weights that its card names: {error}") from None
    if not all(torch.isfinite(t).all() for t in net.state_dict().values()):
        raise CheckpointError(f"{path} holds weights that are not finite.")
    return net.eval()


def cached(key: str, make: Callable[[], Extractor]) -> Extractor:
    """The extractor that `make` returns, made at most once for a key, which names all that it depends on.

    The cache may be missing, damaged or full: it is only a cache.
    """
    shelf = files.cache_folder() / "features"
    folder = shelf / files.sha256(f"{VERSION} {key}".encode())[:32]
    with suppress(Exception):
        return load(folder)
    made = make()
    with suppress(OSError, RuntimeError):
        save(made, folder)
        for old in sorted(shelf.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    return made
