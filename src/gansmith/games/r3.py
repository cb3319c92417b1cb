"""R3GAN: relativistic pairs with zero-centred penalties on real and fake examples (Huang et al. 2024, sec. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..base import Batch, Clock, Game, Make, Spec, Turn
from ..config import Scheduled, at
from ..errors import UsageError
from ..losses.penalties import sloped
from ..registry import register


@register("game", "r3")
class R3(Game):
    """D compares each fake with a real example; R1 + R2 act every `lazy` rounds inside D's loss, `lazy` times as strong.

    gamma: weight of both penalties (a schedule). D sees real and fake examples in one pass: its networks have no
    batch statistics. reuse: G's turn takes the real logits of D's turn, one update old, which saves a pass. wrong: weight
    (a schedule) of real examples under a wrong class, each a fake beside itself under the right one (Reed et al. 2016,
    sec. 4.2), in rounds without a penalty; it asks for a critic that projects the class, and so costs no pass of its own.
    """

    parts = {"G": "mlp", "D": "mlp", "loss": "relativistic"}

    def __init__(
        self,
        spec: Spec,
        make: Make,
        gamma: Scheduled = 1.0,
        lazy: int = 4,
        reuse: bool = False,
        wrong: Scheduled = 0.0,
    ):
        super().__init__(spec, make)
        self.G, self.D, self.loss = make("G"), make("D"), make("loss")
        self.z_dim, self.gamma, self.lazy, self.reuse, self.wrong = self.G.z_dim, gamma, lazy, reuse, wrong
        if wrong and (len(spec.classes) < 2 or not getattr(self.D, "projects", False) or lazy < 2):
            raise UsageError(
                "r3 shows real examples under wrong classes (game.args.wrong) where there are two classes or more, D has "
                "condition=projection, and lazy is 2 or more; set game.args.wrong=0."
            )

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
        real, y = batch["x"], batch.get("y")
        x = torch.cat([real, self.fake(batch, graph=False)])
        twice = None if y is None else torch.cat([y, y])
        terms = {}
        if clock.round % self.lazy == 0:
            logits, slope = sloped(self.D, x, twice)  # mean over 2B examples is half of R1 + R2: gamma / 2 of each
            terms["penalty"] = self.lazy * at(self.gamma, clock.progress) * slope.mean()
        elif self.wrong:
            h = self.D.features(x, twice)
            logits = self.D.head(h, twice)
            wrong = self.D.head(h[: len(real)], other(batch["y"], batch["u"], len(self.spec.classes)))
            terms["wrong"] = at(self.wrong, clock.progress) * self.loss.d(logits[: len(real)], wrong).mean()
        else:
            logits = self.D(x, twice)
        if self.reuse:
            batch["real"] = logits.detach()[: len(real)]
        return {"adversarial": self.loss.d(*logits.chunk(2)).mean()} | terms

    def g_loss(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        y, fake = batch.get("y"), self.fake(batch, graph=True)
        with torch.no_grad():  # the real logits are constants to G
            real = batch["real"] if self.reuse else self.D(batch["x"], y)
        return {"adversarial": self.loss.g(real, self.D(fake, y)).mean()}


def other(y: Tensor, u: Tensor, classes: int) -> Tensor:
    """A class that is not y [B], each as likely, by uniform numbers u [B]."""
    return (y + 1 + (u * (classes - 1)).long()) % classes
