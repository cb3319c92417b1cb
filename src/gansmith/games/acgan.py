"""AC-GAN: the discriminator also names the class, and the generator wants it named (Odena et al. 2017, eq. 2-3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..base import Batch, Clock, Game, Make, Spec, Turn
from ..errors import UsageError
from ..registry import register


@register("game", "acgan")
class AcGan(Game):
    """D sees no class; its classifier learns on real and fake examples. weight: of the class terms."""

    parts = {"G": "mlp", "D": "mlp", "loss": "nonsaturating"}

    def __init__(self, spec: Spec, make: Make, weight: float = 1.0):
        super().__init__(spec, make)
        if not spec.classes:
            raise UsageError("acgan learns classes and this data has none; put pictures into sub-folders, one a class.")
        self.G = make("G")
        self.D = make("D", condition="none", classify=True)
        self.loss = make("loss")
        self.z_dim, self.weight = self.G.z_dim, weight

    def players(self) -> dict[str, nn.Module]:
        return {"G": self.G, "D": self.D}

    def turns(self) -> tuple[Turn, ...]:
        return Turn("D", self.d_loss), Turn("G", self.g_loss)

    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, y)

    def d_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        y = batch["y"]
        real = self.D.features(batch["x"])
        fake = self.D.features(self.fake(batch, graph=False))
        named = cross_entropy(self.D.classify(real), y) + cross_entropy(self.D.classify(fake), y)
        adversarial = self.loss.d(self.D.head(real, None), self.D.head(fake, None)).mean()
        return {"adversarial": adversarial, "class": self.weight * named}

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        fake = self.D.features(self.fake(batch, graph=True))
        real = self.D(batch["x"]) if self.loss.paired else None
        return {
            "adversarial": self.loss.g(real, self.D.head(fake, None)).mean(),
            "class": self.weight * cross_entropy(self.D.classify(fake), batch["y"]),
        }
