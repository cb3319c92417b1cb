"""Penalties on a critic: penalty(critic, real, fake, y, u) -> per-example values [B], in fp32.

critic(x, y) -> logits [B]; y: class indices [B] or None; u: one uniform number an example [B].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..registry import register

Critic = Callable[[Tensor, Tensor | None], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor, Tensor | None, Tensor], Tensor]


def squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """|grad_x D(x)|^2 of each example [B], differentiable again. x must be the leaf that gave the logits."""
    (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return grad.float().square().flatten(1).sum(1)


@register("penalty", "wgan-gp")
def wgan_gp(target: float = 1.0) -> Penalty:
    """(|grad D| - 1)^2 on straight lines between real and fake (Gulrajani et al. 2017, eq. 3)."""

    def penalty(critic: Critic, real: Tensor, fake: Tensor, y: Tensor | None, u: Tensor) -> Tensor:
        share = u.view(-1, *[1] * (real.dim() - 1))
        x = torch.lerp(real, fake.to(real.dtype), share).requires_grad_()
        return ((squared_slope(critic(x, y), x) + 1e-12).sqrt() - target).square()

    return penalty


def _zero_centred(critic: Critic, x: Tensor, y: Tensor | None) -> Tensor:
    x = x.detach().requires_grad_()
    return 0.5 * squared_slope(critic(x, y), x)


@register("penalty", "r1")
def r1() -> Penalty:
    """|grad D|^2 / 2 on real examples (Mescheder et al. 2018, eq. 9)."""
    return lambda critic, real, fake, y, u: _zero_centred(critic, real, y)


@register("penalty", "r2")
def r2() -> Penalty:
    """|grad D|^2 / 2 on fakes (Mescheder et al. 2018, sec. 4.1)."""
    return lambda critic, real, fake, y, u: _zero_centred(critic, fake, y)
