"""Penalties on a critic: penalty(critic, real, fake, y, u) -> per-example values [B], in fp32.

critic(x, y) -> logits [B]; y: class indices [B] or None; u: one uniform number an example [B]. A critic that is
`homogeneous` (`networks.blocks.Discriminator`) is penalised in fewer passes; the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..registry import register

Critic = Callable[[Tensor, Tensor | None], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor, Tensor | None, Tensor], Tensor]


def sloped(critic: Any, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits [B] and |grad_x D(x)|^2 [B] in fp32, both to be differentiated by the critic's weights.

    A homogeneous critic is its own linearisation (Euler): D(x) = <grad_x D, x> + <grad_ones D, ones>. Written so, the
    logits reach the weights through the slope, as the penalty does, and one backward pass does for both: four passes
    (forward, slope, and the slope's two) where logits and penalty apart take six. Their values stay the forward pass's.
    """
    homogeneous = getattr(critic, "homogeneous", False)
    x = (critic.see(x) if homogeneous else x).detach().requires_grad_()
    if not homogeneous:
        logits = critic(x, y)
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return logits, squared(slope)
    ones = x.new_ones(len(x), requires_grad=True)
    logits = critic(x, y, ones)
    slope, lift = torch.autograd.grad(logits.sum(), (x, ones), create_graph=True)
    euler = (slope * x.detach()).flatten(1).sum(1) + lift
    return logits.detach() + (euler - euler.detach()), squared(slope)


def squared(slope: Tensor) -> Tensor:
    """|slope|^2 of each example [B], summed in fp32 at least."""
    return slope.to(torch.promote_types(slope.dtype, torch.float32)).square().flatten(1).sum(1)


@register("penalty", "wgan-gp")
def wgan_gp(target: float = 1.0) -> Penalty:
    """(|grad D| - 1)^2 on straight lines between real and fake (Gulrajani et al. 2017, eq. 3)."""

    def penalty(critic: Critic, real: Tensor, fake: Tensor, y: Tensor | None, u: Tensor) -> Tensor:
        share = u.view(-1, *[1] * (real.dim() - 1))
        x = torch.lerp(real, fake.to(real.dtype), share)
        return ((sloped(critic, x, y)[1] + 1e-12).sqrt() - target).square()

    return penalty


@register("penalty", "r1")
def r1() -> Penalty:
    """|grad D|^2 / 2 on real examples (Mescheder et al. 2018, eq. 9)."""
    return lambda critic, real, fake, y, u: 0.5 * sloped(critic, real, y)[1]


@register("penalty", "r2")
def r2() -> Penalty:
    """|grad D|^2 / 2 on fakes (Mescheder et al. 2018, sec. 4.1)."""
    return lambda critic, real, fake, y, u: 0.5 * sloped(critic, fake, y)[1]
