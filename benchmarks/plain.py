"""Plain hand-written PyTorch: the networks of three recipes in ordinary layers, and the loops a person would write.

Nothing here is fast on purpose or slow on purpose. `copy_weights` proves that the networks are the package's own: the
same parameters in the same order give the same outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def lrelu() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2)


class Basis(nn.Module):
    def __init__(self, z: int, c: int, side: int):
        super().__init__()
        self.project = nn.Linear(z, c, bias=False)
        self.basis = nn.Parameter(torch.randn(c, side, side))

    def forward(self, z: Tensor) -> Tensor:
        return self.project(z)[:, :, None, None] * self.basis


class Block(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, 2 * c, 1), lrelu(), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=c // 8), lrelu(),
            nn.Conv2d(2 * c, c, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ClampHead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def r3_networks() -> tuple[nn.Module, nn.Module]:
    g = nn.Sequential(
        Basis(64, 96, 7), Block(96), Block(96),
        nn.Conv2d(96, 48, 1), nn.Upsample(scale_factor=2, mode="bilinear"), Block(48),
        nn.Conv2d(48, 128, 3, padding=1), nn.PixelShuffle(2), lrelu(), nn.Conv2d(32, 1, 3, padding=1), ClampHead(),
    )  # fmt: skip
    d = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), lrelu(), nn.Conv2d(32, 48, 3, padding=1), lrelu(), Block(48),
        nn.Conv2d(48, 96, 1), nn.AvgPool2d(2), Block(96), Block(96),
        nn.Conv2d(96, 96, 7, groups=96, bias=False), Flat(), nn.Linear(96, 1, bias=False),
    )  # fmt: skip
    return g, d


def dcgan_networks(norm_d: bool) -> tuple[nn.Module, nn.Module]:
    g = nn.Sequential(
        nn.Linear(100, 128 * 49, bias=False), nn.Unflatten(1, (128, 7, 7)), nn.BatchNorm2d(128), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    middle: list[nn.Module] = [nn.BatchNorm2d(128)] if norm_d else []
    d = nn.Sequential(
        nn.Conv2d(1, 64, 4, 2, 1), lrelu(), nn.Conv2d(64, 128, 4, 2, 1, bias=not norm_d), *middle, lrelu(),
        Flat(), nn.Linear(128 * 49, 1),
    )  # fmt: skip
    return g, d


def copy_weights(source: nn.Module, target: nn.Module, first_is_late: bool = False) -> None:
    """Give `target` the parameters of `source`, matched by order; shapes may differ by axes of length 1."""
    theirs, ours = list(source.parameters()), list(target.parameters())
    if first_is_late:  # a module's own parameter is listed before its layers'; here it is the last but one layer
        theirs = [*theirs[1:-1], theirs[0], theirs[-1]]
    assert len(theirs) == len(ours), (len(theirs), len(ours))
    with torch.no_grad():
        for a, b in zip(theirs, ours, strict=True):
            b.copy_(a.reshape(b.shape))


# ---- loops: each returns a function that does one round on a batch of real pictures [B, 1, 28, 28] --------------------
def dcgan_loop(g: nn.Module, d: nn.Module) -> Callable[[Tensor], None]:
    opt_g = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()

    def step(x: Tensor) -> None:
        ones, zeros = torch.ones(len(x)), torch.zeros(len(x))
        fake = g(torch.randn(len(x), 100))
        opt_d.zero_grad()
        loss_d = bce(d(x)[:, 0], ones) + bce(d(fake.detach())[:, 0], zeros)
        loss_d.backward()
        opt_d.step()
        opt_g.zero_grad()
        loss_g = bce(d(fake)[:, 0], ones)
        loss_g.backward()
        opt_g.step()

    return step


def wgan_gp_loop(g: nn.Module, d: nn.Module, batches: Callable[[], Tensor]) -> Callable[[Tensor], None]:
    opt_g = torch.optim.Adam(g.parameters(), lr=1e-4, betas=(0.0, 0.9))
    opt_d = torch.optim.Adam(d.parameters(), lr=1e-4, betas=(0.0, 0.9))

    def critic(x: Tensor) -> None:
        with torch.no_grad():
            fake = g(torch.randn(len(x), 100))
        u = torch.rand(len(x), 1, 1, 1)
        mixed = (u * x + (1 - u) * fake).requires_grad_()
        (grad,) = torch.autograd.grad(d(mixed).sum(), mixed, create_graph=True)
        penalty = (grad.flatten(1).norm(dim=1) - 1).square().mean()
        opt_d.zero_grad()
        (d(fake).mean() - d(x).mean() + 10 * penalty).backward()
        opt_d.step()

    def step(x: Tensor) -> None:
        critic(x)
        for _ in range(4):
            critic(batches())
        opt_g.zero_grad()
        (-d(g(torch.randn(len(x), 100))).mean()).backward()
        opt_g.step()

    return step


def r3_loop(g: nn.Module, d: nn.Module) -> Callable[[Tensor], None]:
    opt_g = torch.optim.Adam(g.parameters(), lr=2e-3, betas=(0.0, 0.9))
    opt_d = torch.optim.Adam(d.parameters(), lr=2e-3, betas=(0.0, 0.9))
    count = 0

    def slope(x: Tensor, logits: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return grad.square().sum((1, 2, 3)).mean()

    def step(x: Tensor) -> None:
        nonlocal count
        fake = g(torch.randn(len(x), 64))
        lazy = count % 4 == 0
        real, made = x.detach().requires_grad_(lazy), fake.detach().requires_grad_(lazy)
        on_real, on_fake = d(real), d(made)
        loss_d = F.softplus(on_fake - on_real).mean()
        if lazy:
            loss_d = loss_d + 4 * 2.0 / 2 * (slope(real, on_real) + slope(made, on_fake))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = F.softplus(d(x) - d(fake)).mean()
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        count += 1

    return step


def r3_tuned_loop(g: nn.Module, d: nn.Module, bf16: bool) -> Callable[[Tensor], None]:
    """The plain script with the fast settings: channels_last, bf16 where it pays, fused Adam, one pass, shared forward."""
    g, d = (m.to(memory_format=torch.channels_last) for m in (g, d))
    opt_g = torch.optim.Adam(g.parameters(), lr=2e-3, betas=(0.0, 0.9), fused=True)
    opt_d = torch.optim.Adam(d.parameters(), lr=2e-3, betas=(0.0, 0.9), fused=True)
    params_g, params_d, count = list(g.parameters()), list(d.parameters()), 0

    def step(x: Tensor) -> None:
        nonlocal count
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            fake = g(torch.randn(len(x), 64))
            both = torch.cat([x, fake.detach()]).requires_grad_(count % 4 == 0)
            logits = d(both)[:, 0].float()
            real, made = logits.chunk(2)
            loss_d = F.softplus(made - real).mean()
            if count % 4 == 0:
                (grad,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
                loss_d = loss_d + 4 * 2.0 * grad.float().square().sum((1, 2, 3)).mean()
        opt_d.zero_grad()
        loss_d.backward(inputs=params_d)
        opt_d.step()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            real, made = d(torch.cat([x, fake]))[:, 0].float().chunk(2)
            loss_g = F.softplus(real - made).mean()
        opt_g.zero_grad()
        loss_g.backward(inputs=params_g)
        opt_g.step()
        count += 1

    return step
