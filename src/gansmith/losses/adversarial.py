"""Adversarial losses: what each player minimises, as pure functions of logits [B] -> per-example values [B]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from ..registry import register


@dataclass(frozen=True)
class Adversarial:
    """d(real, fake) is the critic's loss, g(real, fake) the generator's; `paired` if g reads the real logits too."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor | None, Tensor], Tensor]
    paired: bool = False


def _two_sided(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))) with D = sigmoid(logit)."""
    return softplus(-real) + softplus(fake)


@register("loss", "minimax")
def minimax() -> Adversarial:
    """The zero-sum game of Goodfellow et al. 2014, eq. 1: G minimises log(1 - D(G(z))), which saturates."""
    return Adversarial(d=_two_sided, g=lambda real, fake: -softplus(fake))


@register("loss", "nonsaturating")
def nonsaturating() -> Adversarial:
    """G minimises -log D(G(z)) (Goodfellow et al. 2014, sec. 3)."""
    return Adversarial(d=_two_sided, g=lambda real, fake: softplus(-fake))


@register("loss", "least-squares")
def least_squares() -> Adversarial:
    """Targets 0 for fake, 1 for real and for G, each with 1/2 (Mao et al. 2017, eq. 9)."""
    return Adversarial(
        d=lambda real, fake: 0.5 * ((real - 1).square() + fake.square()), g=lambda real, fake: 0.5 * (fake - 1).square()
    )


@register("loss", "hinge")
def hinge() -> Adversarial:
    """Margins at -1 and 1 (Lim & Ye 2017; Miyato et al. 2018, eq. 16-17)."""
    return Adversarial(d=lambda real, fake: (1 - real).relu() + (1 + fake).relu(), g=lambda real, fake: -fake)


@register("loss", "wasserstein")
def wasserstein() -> Adversarial:
    """Difference of the critic's means (Arjovsky et al. 2017, alg. 1)."""
    return Adversarial(d=lambda real, fake: fake - real, g=lambda real, fake: -fake)


@register("loss", "relativistic")
def relativistic() -> Adversarial:
    """Each fake is compared with a real example (Jolicoeur-Martineau 2019, eq. 3-4; Huang et al. 2024, eq. 2)."""

    def g(real: Tensor | None, fake: Tensor) -> Tensor:
        assert real is not None, "a paired loss needs the real logits"
        return softplus(real - fake)

    return Adversarial(d=lambda real, fake: softplus(fake - real), g=g, paired=True)
