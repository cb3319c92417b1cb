"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

MEMORY = 0.98  # of the running means whose eigenvectors are the basis
EVERY = 10  # updates between two turns of the basis
EAGER = 4  # first updates, each of which turns it: a basis of one gradient is poor
LARGEST = 1024  # a matrix with a longer side stays as it is: its eigenvectors would cost more than the network
SIDES = ("left", "right")


class Soap(torch.optim.Optimizer):
    """Adam for weights as they would look along the directions in which their gradients vary independently.

    A weight of two or more dimensions is a matrix, outputs by the rest; its gradient G is turned into the eigenbasis of the
    running means of G G^T and G^T G, second moments are kept there, and the update is turned back. Vectors: plain Adam.
    betas, eps, weight_decay: as in torch.optim.Adam.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here evaluates twice
        (group,) = self.param_groups
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        params = [p for p in group["params"] if p.grad is not None]
        grads = [matrix(p.grad + decay * p if decay else p.grad) for p in params]
        states = [self._state(p, g) for p, g in zip(params, grads, strict=True)]
        steps = [s["step"].item() for s in states]
        turned = moved = [turn(g, s) for g, s in zip(grads, states, strict=True)]
        seconds = [s["second"] for s in states]
        torch._foreach_lerp_(seconds, torch._foreach_mul(turned, turned), 1 - beta2)
        if beta1:
            firsts = [s["first"] for s in states]
            torch._foreach_lerp_(firsts, grads, 1 - beta1)
            moved = [turn(m, s) / (1 - beta1**n) for m, s, n in zip(firsts, states, steps, strict=True)]
        sizes = torch._foreach_sqrt(seconds)
        torch._foreach_mul_(sizes, [(1 - beta2**n) ** -0.5 for n in steps])
        torch._foreach_add_(sizes, group["eps"])
        for p, g, s, update in zip(params, grads, states, torch._foreach_div(moved, sizes), strict=True):
            p.add_(shaped(turn(update, s, back=True), p), alpha=-group["lr"])
            learn(g, s)

    def _state(self, p: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The state of a weight, one step older."""
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state |= {name: grad.new_zeros(shape) for name, shape in slots(p).items()}
            if sides(grad):
                for side, product in zip(SIDES, (grad @ grad.T, grad.T @ grad), strict=True):
                    state[side], state[f"{side}_basis"] = product, plain(torch.linalg.eigh(product)[1].flip(1))
        state["step"] += 1
        return state


def matrix(t: Tensor) -> Tensor:
    """[outputs, the rest] of a weight of two or more dimensions: a view where channels come last."""
    return t if t.dim() < 3 else t.movedim(1, -1).flatten(1)


def shaped(m: Tensor, like: Tensor) -> Tensor:
    """Inverts `matrix`: a view in the shape of `like`."""
    return m if like.dim() < 3 else m.view(like.movedim(1, -1).shape).movedim(-1, 1)


def plain(basis: Tensor) -> Tensor:
    """The same row by row, as a checkpoint brings it back: LAPACK's columns are multiplied in another order of rounding."""
    return basis.contiguous()


def sides(m: Tensor) -> tuple[int, ...]:
    """The sides along which a matrix is turned: both, unless one is too long, or there is but one entry along it."""
    return tuple(m.shape) if m.dim() == 2 and min(m.shape) > 1 and max(m.shape) <= LARGEST else ()


def slots(p: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of what is kept of a weight."""
    m = matrix(p)
    kept: dict[str, tuple[int, ...]] = {"step": (), "first": tuple(m.shape), "second": tuple(m.shape)}
    for name, n in zip(SIDES, sides(m), strict=False):
        kept |= {name: (n, n), f"{name}_basis": (n, n)}
    return kept


def turn(grad: Tensor, state: dict[str, Tensor], back: bool = False) -> Tensor:
    """A gradient in its eigenbasis, or an update out of it."""
    if "left" not in state:
        return grad
    left, right = state["left_basis"], state["right_basis"]
    return left @ grad @ right.T if back else left.T @ grad @ right


def learn(grad: Tensor, state: dict[str, Tensor]) -> None:
    """Follow the gradient with the means, and when it is time with the basis: a step of orthogonal iteration (algorithm 4)."""
    if "left" not in state:
        return
    step = state["step"].item()
    for side, (a, b) in zip(SIDES, ((grad, grad.T), (grad.T, grad)), strict=True):
        state[side].addmm_(a, b, beta=MEMORY, alpha=1 - MEMORY)
        if step <= EAGER or step % EVERY == 0:
            state[f"{side}_basis"] = plain(torch.linalg.qr(state[side] @ state[f"{side}_basis"])[0])
