"""R3GAN: relativistic pairs with zero-centred penalties on real and fake examples (Huang et al. 2024, sec. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..base import Batch, Clock, Game, Make, Spec, Turn
from ..config import Scheduled, at
from ..losses.penalties import sloped
from ..registry import register


@register("game", "r3")
class R3(Game):
    """D compares each fake with a real example; R1 + R2 act every `lazy` rounds inside D's loss, `lazy` times as strong.

    gamma: weight of both penalties (a schedule). D sees real and fake examples in one pass: its networks have no
    batch statistics. reuse: G's turn takes the real logits of D's turn, one update old, which saves a pass.
    """

    parts = {"G": "mlp", "D": "mlp", "loss": "relativistic"}

    def __init__(self, spec: Spec, make: Make, gamma: Scheduled = 1.0, lazy: int = 4, reuse: bool = False):
        super().__init__(spec, make)
        self.G, self.D, self.loss = make("G"), make("D"), make("loss")
        self.z_dim, self.gamma, self.lazy, self.reuse = self.G.z_dim, gamma, lazy, reuse

    def players(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D}

    def turns(self) -> tuple[Turn, ...]:
        return Turn("D", self.d_loss), Turn("G", self.g_loss)

    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, y)

    def after(self, turn: Turn, clock: Clock, terms: dict[str, Tensor]) -> None:
        if turn.player == "G" and hasattr(self.G, "anneal"):
            self.G.anneal(clock.progress)

    def d_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        y = batch.get("y")
        x = torch.cat([batch["x"], self.fake(batch, graph=False)])
        y = None if y is None else torch.cat([y, y])
        penalised = clock.round % self.lazy == 0
        logits, slope = sloped(self.D, x, y) if penalised else (self.D(x, y), None)
        if self.reuse:
            batch["real"] = logits.detach()[: len(batch["x"])]
        terms = {"adversarial": self.loss.d(*logits.chunk(2)).mean()}
        if slope is not None:  # mean over 2B examples is half of R1 + R2: gamma / 2 of each
            terms["penalty"] = self.lazy * at(self.gamma, clock.progress) * slope.mean()
        return terms

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        y, fake = batch.get("y"), self.fake(batch, graph=True)
        with torch.no_grad():  # the real logits are constants to G
            real = batch["real"] if self.reuse else self.D(batch["x"], y)
        return {"adversarial": self.loss.g(real, self.D(fake, y)).mean()}
