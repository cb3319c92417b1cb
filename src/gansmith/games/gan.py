"""The game of 2014 and every two-player variant that differs in the loss alone: minimax, non-saturating, LSGAN, hinge."""

from __future__ import annotations

from torch import Tensor, nn

from ..base import Batch, Clock, Game, Make, Spec, Turn
from ..config import Scheduled, at
from ..registry import register


@register("game", "gan")
class Gan(Game):
    """D learns to tell real from fake, G to be taken for real (Goodfellow et al. 2014, alg. 1).

    Classes, where the data has them, are given to both (Mirza & Osindero 2014). d_steps: plays of D a round;
    gamma: weight of the penalty, if the run names one; lazy: rounds between penalties, each then weighing as many.
    """

    parts = {"G": "mlp", "D": "mlp", "loss": "nonsaturating"}

    def __init__(self, spec: Spec, make: Make, d_steps: int = 1, gamma: Scheduled = 1.0, lazy: int = 1):
        super().__init__(spec, make)
        self.G, self.D = make("G"), make("D")
        self.loss, self.penalty = make("loss"), make("penalty")
        self.z_dim, self.d_steps, self.gamma, self.lazy = self.G.z_dim, d_steps, gamma, lazy

    def players(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D}

    def turns(self) -> tuple[Turn, ...]:
        return Turn("D", self.d_loss, repeat=self.d_steps), Turn("G", self.g_loss)

    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, y)

    def d_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        x, y, fake = batch["x"], batch.get("y"), self.fake(batch, graph=False)
        terms = {}
        if self.penalty and clock.round % self.lazy == 0:
            weight = self.lazy * at(self.gamma, clock.progress)
            terms["penalty"] = weight * self.penalty(self.D, x, fake, y, batch["u"]).mean()
        terms["adversarial"] = self.loss.d(*self.logits(self.D, x, fake, y)).mean()
        return terms

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        y = batch.get("y")
        real = self.D(batch["x"], y) if self.loss.paired else None
        return {"adversarial": self.loss.g(real, self.D(self.fake(batch, graph=True), y)).mean()}
