"""A trained game with its averaged weights and its codec: all that sampling, metrics, export and the server know."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.module import register_module_parameter_registration_hook

from . import checkpoint, registry
from .base import Codec, Game, Raw, Spec
from .config import Run, build_game, parse
from .errors import CheckpointError, DataError, RunError, UsageError, unknown
from .files import RunFolder, write
from .runtime import generator, pick_device, seed_of

CHUNK = 64  # examples drawn at once; fixed, so that -n 10 is a prefix of -n 100
PARAMETER_LIMIT = 2_000_000_000


@torch.no_grad()
def draw_samples(
    game: Game,
    weights: dict[str, Tensor],
    n: int,
    *,
    seed: int,
    device: torch.device,
    y: Tensor | None = None,
    whole: bool = True,
) -> Tensor:
    """n examples [n, *shape] in model range: fixed chunks of CHUNK, each seeded by (seed, chunk), then cut.

    weights: by their names in the game, used in place of its own. y: class indices [n], else drawn by the classes'
    frequencies. whole=False draws only as many as are needed of the last chunk, for previews.
    """
    training, chunks = game.training, []
    game.eval()
    try:
        for i in range(math.ceil(n / CHUNK)):
            rng = generator("cpu", seed, "sample", i)
            z = torch.randn(CHUNK, game.z_dim, generator=rng)
            labels = draw_classes(game.spec, rng)
            if y is not None:
                given = y[i * CHUNK : (i + 1) * CHUNK]
                labels = torch.cat([given, given.new_zeros(CHUNK - len(given))])
            if not whole:
                z, labels = z[: n - i * CHUNK], None if labels is None else labels[: n - i * CHUNK]
            inputs = (z.to(device), None if labels is None else labels.to(device))
            chunks.append(functional_call(game, weights, inputs).float().cpu())
    finally:
        game.train(training)
    return torch.cat(chunks)[:n]


def draw_classes(spec: Spec, rng: torch.Generator) -> Tensor | None:
    if not spec.classes:
        return None
    return torch.multinomial(torch.tensor(spec.frequencies), CHUNK, replacement=True, generator=rng)


class Model:
    """A trained generator that can sample and write artefacts. Made by `gansmith.load`.

    spec: facts about one example; codec: turns samples into artefacts; name: of the checkpoint in use.
    """

    def __init__(self, run: Run, game: Game, codec: Codec, name: str, ema: dict[str, Tensor], raw: dict[str, Tensor]):
        self.run, self.game, self.codec, self.name = run, game, codec, name
        self._ema, self._raw = ema, raw
        self.device = next(iter(ema.values())).device if ema else torch.device("cpu")

    @property
    def spec(self) -> Spec:
        return self.game.spec

    def __repr__(self) -> str:
        kind, shape = self.spec.kind, "x".join(map(str, self.spec.shape))
        return f"Model({self.run.recipe.name}, {kind} {shape}, {len(self.spec.classes)} classes, checkpoint {int(self.name):,})"

    def sample(self, n: int, y: Any = None, seed: int = 0, raw: bool = False) -> Tensor:
        """n examples [n, *shape] in model range (pictures: [-1, 1]), on the CPU.

        y: class names or indices, one for all or one each; None draws them by their frequencies. raw: the weights of
        the last update instead of their average. The first k of n samples do not depend on n.
        Raises UsageError for an unknown class.
        """
        if n < 1:
            raise UsageError(f"The number of samples must be at least 1; got {n}.")
        weights = self._ema if not raw else self._raw
        return draw_samples(self.game, weights, n, seed=seed, device=self.device, y=self.labels(y, n))

    def classes_of(self, n: int, y: Any = None, seed: int = 0) -> list[str] | None:
        """The class names that `sample(n, y, seed)` gives its examples; None for a model without classes."""
        if not self.spec.classes:
            return None
        given = self.labels(y, n)
        if given is None:
            drawn = []
            for i in range(math.ceil(n / CHUNK)):
                rng = generator("cpu", seed, "sample", i)
                torch.randn(CHUNK, self.game.z_dim, generator=rng)
                drawn.append(draw_classes(self.spec, rng))
            given = torch.cat([d for d in drawn if d is not None])[:n]
        return [self.spec.classes[i] for i in given.tolist()]

    def labels(self, y: Any, n: int) -> Tensor | None:
        """Class names or indices as indices [n]."""
        if y is None:
            return None
        if not self.spec.classes:
            raise UsageError("This model was trained without classes; leave the class out.")
        given = list(y) if isinstance(y, Sequence | Tensor) and not isinstance(y, str) else [y] * n
        if len(given) != n:
            raise UsageError(f"{n} samples need {n} classes; got {len(given)}.")
        return torch.tensor([self._index(c) for c in given])

    def _index(self, name: Any) -> int:
        if str(name) in self.spec.classes:
            return self.spec.classes.index(str(name))
        if isinstance(name, int | Tensor) and 0 <= int(name) < len(self.spec.classes):
            return int(name)
        raise UsageError(unknown("class", str(name), self.spec.classes))

    def decode(self, x: Tensor) -> list[Raw]:
        """Samples as artefacts, rounded as the file format does: pictures uint8 [H, W] or [H, W, C], points rows."""
        return self.codec.decode(x)

    def write(self, x: Tensor, folder: str | os.PathLike[str], labels: Sequence[str] | None = None) -> list[Path]:
        """Write samples in the data's own format; pictures into one sub-folder a class where labels are given."""
        return self.codec.write(self.decode(x), Path(folder), labels)

    def export(
        self, n: int, y: Any = None, seed: int = 0, raw: bool = False, *, force: bool = False,
        out: Path | None = None, grid: Path | None = None, npz: Path | None = None,
    ) -> list[Path]:  # fmt: skip
        """Sample once and write what is asked for: artefacts into `out`, a sheet `grid`, an archive `npz`.

        Raises UsageError where a file exists, unless force.
        """
        for path in (grid, npz):
            if path is not None and path.exists() and not force:
                raise UsageError(f"{path} exists; choose another name, or --force to overwrite it.")
        x, labels = self.sample(n, y, seed, raw), self.classes_of(n, y, seed)
        written = self.write(x, out, labels) if out is not None else []
        if grid is not None:
            write_out(grid, self.grid(x))
        if npz is not None:
            write_out(npz, self.archive(x, labels))
        return written + [path for path in (grid, npz) if path is not None]

    def archive(self, x: Tensor, labels: Sequence[str] | None) -> bytes:
        """Samples as an .npz file: x as artefacts, y class indices, classes."""
        arrays = {"x": np.stack([np.asarray(raw) for raw in self.decode(x)])}
        if labels is not None:
            arrays["y"] = np.array([self.spec.classes.index(label) for label in labels])
            arrays["classes"] = np.array(self.spec.classes)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def grid(self, x: Tensor) -> bytes:
        """Samples on one PNG sheet."""
        return self.codec.preview(self.decode(x))


def write_out(path: Path, data: bytes) -> None:
    """Write a file that the user named, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data)


def load(path: str | os.PathLike[str], checkpoint: str | None = None, device: str = "cpu") -> Model:
    """The model of a run folder, from its best checkpoint, else its latest, else the newest good one.

    checkpoint: examples seen, as in checkpoints/. Needs neither the data nor the device it was trained on.
    Warns of damaged checkpoints that were passed over. Raises RunError or CheckpointError in one sentence.
    """
    model, passed = load_model(RunFolder(Path(path)), checkpoint, device)
    for sentence in passed:
        warnings.warn(sentence, stacklevel=2)
    return model


def load_model(folder: RunFolder, name: str | None = None, device: str = "cpu") -> tuple[Model, list[str]]:
    """The model and what had to be passed over to get it."""
    state = folder.read_run()
    run, codec = restore(state, folder)
    passed: list[str] = []
    if name is not None:
        saved = checkpoint.read(folder, name.zfill(12))
    else:
        first = checkpoint.pointed(folder, "best") or checkpoint.pointed(folder, "latest")
        saved, passed = checkpoint.newest(folder, first)
    raw = {key[5:]: tensor for key, tensor in saved.state.items() if key.startswith("game/")}
    game = empty_game(run, codec.spec(), raw)
    place = torch.device(pick_device(device))
    try:
        game.load_state_dict(raw)
    except RuntimeError as error:
        raise CheckpointError(
            f"Checkpoint {saved.name} does not fit the networks that {folder.run} names: {' '.join(str(error).split())}"
        ) from None
    game.to(place).eval()
    own = game.state_dict()
    if alien := [k for k, v in saved.ema.items() if k not in own or v.shape != own[k].shape]:
        raise CheckpointError(
            f"Checkpoint {saved.name} does not fit the networks that {folder.run} names: average of {alien[0]}."
        )
    ema = {**own, **{k: v.to(own[k]) for k, v in saved.ema.items()}}
    return Model(run, game, codec, saved.name, ema, own), passed


def restore(state: dict[str, Any], folder: RunFolder) -> tuple[Run, Codec]:
    """The Run and the fitted codec that a run.json describes. Raises RunError for anything else."""
    try:
        run: Run = parse(Run, state["run"])
        codec: Codec = registry.build("codec", state["codec"]["name"])
        codec.load_state(state["codec"]["state"])
    except UsageError as error:
        hint = " If it comes from a file of your own, name that file with --plugin." if "Unknown" in str(error) else ""
        raise RunError(f"{folder.run}: {error}{hint}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, DataError) as error:
        raise RunError(f"{folder.run} does not describe a run: {error!r}.") from None
    return run, codec


def empty_game(run: Run, spec: Spec, weights: dict[str, Tensor]) -> Game:
    """The game with unset weights, after a check that it is no larger than what the checkpoint holds."""
    check_size(run, spec, weights)
    torch.manual_seed(seed_of(0))
    game: Game = build_game(run, spec)
    return game


def check_size(run: Run, spec: Spec, weights: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless a run's networks are as large as the weights of its checkpoint.

    Builds them without memory, so a run.json that asks for a billion channels is refused before any are made.
    """
    left = 4 * len(weights) + 64

    def count(*made: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise CheckpointError(
                f"The run names networks of many more layers than the {len(weights)} tensors of its checkpoint."
            )

    limit = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            sketch = build_game(run, spec)
    except CheckpointError:
        raise
    except UsageError as error:
        hint = (
            " If the part comes from a file of your own, name that file with --plugin."
            if "Unknown" in str(error)
            else ""
        )
        raise RunError(f"{error}{hint}") from None
    except Exception as error:
        raise RunError(f"The run's networks cannot be built: {error}") from None
    finally:
        limit.remove()
    need = sum(t.numel() for t in sketch.state_dict().values())
    have = sum(t.numel() for t in weights.values())
    if need > PARAMETER_LIMIT or need != have:
        raise CheckpointError(
            f"The run names networks of {need:,} numbers, its checkpoint holds {have:,}; they do not belong together."
        )
