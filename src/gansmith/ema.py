"""The sampled players' weights, averaged over examples seen."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Game


class Ema:
    """Exponential average of the parameters of `game.sampled`; buffers are copied, but for those that are not saved.

    The half-life grows with what was seen, `share * seen`, up to `cap` examples (Karras et al. 2020, app. F: the ramp).
    """

    def __init__(self, game: Game, cap: float, share: float):
        self.cap, self.share = cap, share
        players = game.players()
        covered = {id(t) for name in game.sampled for t in (*players[name].parameters(), *players[name].buffers())}
        self.live = {name: p.detach() for name, p in game.named_parameters() if id(p) in covered}
        saved = game.state_dict().keys()
        self.buffers = {name: b for name, b in game.named_buffers() if id(b) in covered and name in saved}
        self.weights = {name: p.clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """Move the average after a round of `batch` examples, `seen` in all."""
        decay = 0.5 ** (batch / min(self.share * seen, self.cap))
        torch._foreach_lerp_(list(self.weights.values()), list(self.live.values()), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Averaged parameters and current buffers, by their names in the game."""
        return self.weights | self.buffers

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(state[name])
