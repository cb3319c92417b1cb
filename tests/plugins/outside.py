"""A file outside the package that brings a codec, a network, a loss, two games and their recipes. No edit elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gansmith import Batch, Brief, Clock, Codec, DataError, Game, Optimiser, Part, Run, Spec, Train, Turn, register

POOL = 32  # fakes that the critics of little-cycle remember


# ---- a kind of data -------------------------------------------------------------------------------------------------
class Notes(list[Path]):
    """References to .num files."""

    @property
    def labels(self) -> list[str | None]:
        return [None] * len(self)

    @property
    def splits(self) -> list[str]:
        return ["train"] * len(self)

    def take(self, indices: Iterable[int]) -> Notes:
        return Notes(self[int(i)] for i in indices)


@register("codec", "num")
class Num(Codec):
    """Text files of four numbers: a point of one domain, and one of another that has nothing to do with it."""

    kind = "num"

    def __init__(self, unconditional: bool = False):
        super().__init__()
        self.scale = 1.0

    @classmethod
    def claims(cls, source: Any) -> int:
        return 90 if isinstance(source, str | Path) and any(Path(source).glob("*.num")) else 0

    def scan(self, source: Any) -> Notes:
        return Notes(sorted(Path(source).glob("*.num")))

    def fingerprint(self, source: Any) -> str:
        return " ".join(path.name for path in self.scan(source))

    def fit(self, raws: Sequence[Path]) -> None:
        self.scale = float(self.encode(raws)["x"].std())

    def encode(self, raws: Sequence[Any]) -> Batch:
        rows = torch.tensor([[float(n) for n in raw.read_text().split()] for raw in raws])
        return {"x": rows[:, :2], "b": rows[:, 2:]}

    def to_model(self, batch: Batch, rng: torch.Generator | None = None) -> Batch:
        return {name: value / self.scale for name, value in batch.items()}

    def decode(self, x: Tensor) -> list[np.ndarray]:
        return list((x * self.scale).numpy().round(3))

    def write(self, raws: Sequence[np.ndarray], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i:06d}.num" for i in range(len(raws))]
        for path, raw in zip(paths, raws, strict=True):
            path.write_text(" ".join(f"{n:.3f}" for n in raw))
        return paths

    def preview(self, raws: Sequence[np.ndarray]) -> bytes:
        return "\n".join(map(str, raws)).encode()

    def spec(self) -> Spec:
        return Spec(self.kind, (2,))

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def load_state(self, state: dict[str, Any]) -> None:
        if not isinstance(state.get("scale"), float):
            raise DataError("The saved scale is damaged.")
        self.scale = state["scale"]


# ---- a network and a loss -------------------------------------------------------------------------------------------
@register("generator", "translator")
class Translator(nn.Module):
    """Points [B, d] -> points [B, d], near the identity at first."""

    def __init__(self, spec: Spec, width: int = 32):
        super().__init__()
        self.z_dim = spec.shape[0]
        self.net = nn.Sequential(nn.Linear(self.z_dim, width), nn.LeakyReLU(0.2), nn.Linear(width, self.z_dim))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z + self.net(z)


class Squares:
    """d(real, fake) and g(real, fake), per example."""

    paired = False

    def d(self, real: Tensor, fake: Tensor) -> Tensor:
        return (real - 1).square() + fake.square()

    def g(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return (fake - 1).square()


@register("loss", "plain-squares")
def plain_squares() -> Squares:
    """Least squares without the halves."""
    return Squares()


# ---- two games ------------------------------------------------------------------------------------------------------
@register("game", "little-cycle")
class LittleCycle(Game):
    """Two generators, two critics: there and back again (Zhu et al. 2017). G moves first; D sees its fakes, old and new."""

    parts = {"G": "translator", "D": "mlp", "loss": "plain-squares"}

    def __init__(self, spec: Spec, make: Callable[..., Any], cycle: float = 10.0):
        super().__init__(spec, make)
        self.G, self.D = nn.ModuleList([make("G"), make("G")]), nn.ModuleList([make("D"), make("D")])
        self.loss, self.cycle, self.z_dim = make("loss"), cycle, self.G[0].z_dim
        self.register_buffer("pool", torch.zeros(2, POOL, *spec.shape))
        self.fresh: list[Tensor] = []

    def players(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D}

    def turns(self) -> tuple[Turn, ...]:
        return Turn("G", self.g_loss), Turn("D", self.d_loss)

    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G[0](z if y is None else y)

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        a, b = batch["x"], batch["b"]
        fakes = self.G[0](a), self.G[1](b)
        batch["fake_b"], batch["fake_a"] = (fake.detach() for fake in fakes)
        back = (self.G[1](fakes[0]) - a).abs().mean() + (self.G[0](fakes[1]) - b).abs().mean()
        fooled = sum(self.loss.g(None, D(fake)).mean() for D, fake in zip(self.D, fakes, strict=True))
        return {"adversarial": fooled, "cycle": self.cycle * back}

    def d_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        self.fresh = [batch["fake_b"], batch["fake_a"]]
        terms = {}
        for i, (name, real) in enumerate((("b", batch["b"]), ("a", batch["x"]))):
            n, half = len(real), len(real) // 2
            old = self.pool[i, (batch["u"] * POOL).long()] if clock.round else self.fresh[i]
            fake = torch.cat([self.fresh[i][:half], old[: n - half]])
            terms[name] = self.loss.d(self.D[i](real), self.D[i](fake)).mean()
        return terms

    def after(self, turn: Turn, clock: Clock, terms: dict[str, Tensor]) -> None:
        if turn.player == "D":
            n = len(self.fresh[0])
            self.pool.copy_(torch.cat([self.pool[:, n:], torch.stack(self.fresh)[:, :POOL]], 1))


@register("game", "warm-start")
class WarmStart(Game):
    """G first learns by likelihood alone, then against D. warm: examples of the first phase."""

    parts = {"G": "translator", "D": "mlp", "loss": "plain-squares"}

    def __init__(self, spec: Spec, make: Callable[..., Any], warm: int = 64):
        super().__init__(spec, make)
        self.G, self.D, self.loss, self.warm = make("G"), make("D"), make("loss"), warm
        self.z_dim = self.G.z_dim

    def players(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D}

    def turns(self) -> tuple[Turn, ...]:
        return (
            Turn("G", self.likelihood, until=self.warm, rate=10),
            Turn("D", self.d_loss, after=self.warm),
            Turn("G", self.g_loss, after=self.warm),
        )

    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z)

    def likelihood(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        fake = self.fake(batch, graph=True)
        mean, log_sd = fake.mean(0), fake.std(0).log()
        return {"likelihood": (0.5 * ((batch["x"] - mean) / log_sd.exp()).square() + log_sd).mean()}

    def d_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        return {"adversarial": self.loss.d(self.D(batch["x"]), self.D(self.fake(batch, graph=False))).mean()}

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        return {"adversarial": self.loss.g(None, self.D(self.fake(batch, graph=True))).mean()}


# ---- their recipes --------------------------------------------------------------------------------------------------
def recipe(game: str) -> Run:
    parts = {"D": Part(name="mlp", args={"width": 16, "depth": 2})}
    optimisers = {player: Optimiser(lr=1e-3, beta1=0.5) for player in ("G", "D")}
    return Run(game=Part(name=game), parts=parts, train=Train(batch=16, optimisers=optimisers))


@register("recipe", "little-cycle")
def little_cycle(spec: Spec, brief: Brief) -> Run:
    """CycleGAN in small (Zhu et al. 2017)."""
    return recipe("little-cycle")


@register("recipe", "warm-start")
def warm_start(spec: Spec, brief: Brief) -> Run:
    """Likelihood first, then the game, as SeqGAN does (Yu et al. 2017)."""
    return recipe("warm-start")
