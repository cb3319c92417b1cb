"""Wasserstein GANs: a critic kept Lipschitz by clipped weights or by a gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..base import Batch, Clock, Game, Make, Spec, Turn
from ..config import Scheduled, at
from ..registry import register


@register("game", "wgan")
class Wgan(Game):
    """Several critic updates a generator update (Arjovsky et al. 2017, alg. 1).

    clip: the critic's weights stay in [-clip, clip]; 0 leaves them, where a penalty does the work (Gulrajani et al.
    2017, alg. 1). gamma: weight of the penalty.
    """

    parts = {"G": "mlp", "D": "mlp", "loss": "wasserstein", "penalty": "wgan-gp"}

    def __init__(self, spec: Spec, make: Make, d_steps: int = 5, clip: float = 0.0, gamma: Scheduled = 10.0):
        super().__init__(spec, make)
        self.G, self.D = make("G"), make("D")
        self.loss, self.penalty = make("loss"), None if clip else make("penalty")
        self.z_dim, self.d_steps, self.clip, self.gamma = self.G.z_dim, d_steps, clip, gamma

    def players(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D}

    def turns(self) -> tuple[Turn, ...]:
        return Turn("D", self.d_loss, repeat=self.d_steps), Turn("G", self.g_loss)

    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, y)

    def d_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        x, y, fake = batch["x"], batch.get("y"), self.fake(batch, graph=False)
        terms = {}
        if self.penalty:  # first, while no other graph takes memory
            weight = at(self.gamma, clock.progress)
            terms["penalty"] = weight * self.penalty(self.D, x, fake, y, batch["u"]).mean()
        terms["adversarial"] = self.loss.d(*self.logits(self.D, x, fake, y)).mean()
        return terms

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        return {"adversarial": self.loss.g(None, self.D(self.fake(batch, graph=True), batch.get("y"))).mean()}

    def after(self, turn: Turn, clock: Clock, terms: dict[str, Tensor]) -> None:
        if self.clip and turn.player == "D":
            torch._foreach_clamp_max_(list(self.D.parameters()), self.clip)
            torch._foreach_clamp_min_(list(self.D.parameters()), -self.clip)
