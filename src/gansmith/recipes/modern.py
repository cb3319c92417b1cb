"""r3, and `auto`, which sizes it to the data, the device and the budget."""

from __future__ import annotations

import math
from typing import Literal

from ..base import Spec
from ..config import Brief, Optimiser, Part, Ramp, Run, Train
from ..registry import register


@register("recipe", "r3")
def r3(spec: Spec, brief: Brief, scale: float = 1.0) -> Run:
    """Relativistic pairs, R1 + R2 (R3GAN, Huang et al. 2024), lean enough for a CPU; every rate follows the budget.

    scale: one dial. Width grows with it, batch with its square, learning rates shrink with it.
    """
    return points(scale, brief) if spec.kind != "image" else pictures(spec, scale, brief)


def seen(brief: Brief, a_minute: float) -> float:
    """Examples that the budget comes to, at `a_minute` of them; a minute's where there is none."""
    return brief.images or (brief.minutes or 1) * a_minute


def optimisers(
    start: float,
    ends: dict[str, float],
    shape: Literal["cosine", "log"] = "cosine",
    name: Literal["adam", "soap"] = "adam",
) -> dict[str, Optimiser]:
    """R3GAN's betas for each player: rates fall from one start to an end of its own."""
    beta2 = Ramp(start=0.9, end=0.99)
    return {
        player: Optimiser(name=name, lr=Ramp(start=start, end=end, shape=shape), beta1=0.0, beta2=beta2)
        for player, end in ends.items()
    }


A_MINUTE = 25e3  # pictures of up to 28 px that two quick cores see; of larger ones as many pixels
FEW = 20e3  # pictures: with less, only small batches leave enough rounds
MANY = 125e3  # from here on there is time for the largest batches, texture and a G that settles
EARLY = 16_000  # pictures of a long budget; bf16 gains so much by large batches that small ones do not pay there
RICH = 128  # channels for photographs of a long budget where bf16 makes wide layers cheap
STROKES = 16  # numbers of a latent for each channel of a small drawing, which varies in fewer ways than a photograph
FLAT = 16  # times as often as a middling level that one is used which makes a surface: paper, ink


def pictures(spec: Spec, scale: float, brief: Brief) -> Run:
    """Settings found on 28-px digits (docs/lab.md): in minutes, many updates of narrow networks beat fewer of wide ones.

    A CPU with bf16 has its arithmetic done before the next operation is there, so it gets larger batches, each doubling
    for 1.3 to 1.5 times the seconds, and twice the channels next to the picture, unless the pictures are so large that a
    budget comes to few. Where they are many every CPU gets the same; one without bf16 starts drawn ones in small batches.
    Small drawings without classes get short latents. On a CPU SOAP learns more from each picture than Adam, for a fifth more
    seconds in batches of 16 and hardly any in batches of 64. Rates grow with the batch's root; on photographs they fall by a
    factor, and with time for many start lower, so that the critic stays awake, and end level, so that G keeps up. The penalty
    grows with the picture's area above 64 px; with time for many it ends lower on photographs and with Adam; drawn pictures
    learned by SOAP lose classes' shares by that. Up to 64 px both players also work at full size (`fine`).
    """
    small = 0.6 if min(spec.shape[1:]) <= 16 else 1.0
    cpu = brief.device == "cpu"
    pixels = spec.shape[1] * spec.shape[2]
    count = seen(brief, A_MINUTE / max(1.0, pixels / 28**2 if cpu else 1.0))
    long = count >= MANY
    ample = cpu and (brief.bf16 or long)
    base = 16 if not ample or count < FEW else 64 if long else 32
    batch = 2 ** max(3, round(math.log2(base * scale * scale)))
    area = max(1.0, pixels / 64**2)
    near = area == 1  # layers at full size would cost larger pictures too much
    drawn = near and max(spec.room, default=1) >= FLAT  # photographs, and large sets, lose by what sharpens digits
    head = 32 if ample and near and small == 1 else 0
    settling = cpu and drawn and long  # rates end so low that a longer average takes noise out and costs nothing
    calm = cpu and long and not drawn  # at the rates for digits SOAP's critic of photographs sleeps half of the time
    width = max(16, round((RICH if calm and brief.bf16 else 80) * scale * small / 16) * 16)
    gamma = Ramp(start=1.0 * area, end=(0.1 if long and not settling else 0.25) * area, shape="log")
    simple = cpu and drawn and pixels <= 32**2 and not spec.classes  # with classes variety suffers; others not measured
    z_dim = STROKES * spec.shape[0] if simple else 64
    rate = (1e-3 if calm else 3e-3 if cpu and not long else 2e-3) * math.sqrt(base / 16) / scale
    # G of digits settles while its critic still sees classes' shares; G of photographs must keep up with its critic
    ends = {"G": rate / (5 if calm else 40 if long else 10), "D": rate / (5 if calm else 10)}
    both = {"width": width, "levels": True, "head": head}
    named = {"wrong": 0.03} if drawn and len(spec.classes) > 1 else {}  # more, and classes lose their variety
    return Run(
        game=Part(name="r3", args={"gamma": gamma.model_dump(), "lazy": 4, "reuse": True} | named),
        parts={
            "G": Part(name="r3", args=both | {"z_dim": z_dim, "fine": 1 if near else 0, "blur": drawn}),
            "D": Part(name="r3", args=both | {"fine": 16 if near else 0, "texture": drawn and long}),
        },
        train=Train(
            batch=batch,
            early=EARLY if settling and not brief.bf16 else 0,
            even=True,
            ema_cap=(20_000 if settling else 10_000) * scale * scale,
            ema_share=0.12 if settling else 0.05,
            optimisers=optimisers(rate, ends, "cosine" if drawn else "log", "soap" if cpu else "adam"),
        ),
    )


POINTS_A_MINUTE = 1.5e6  # that a quiet core sees; turns minutes into examples
FINE = 3e6  # points: from here on there is time to get widths right


def points(scale: float, brief: Brief) -> Run:
    """Small perceptrons and many updates: on 2-D data steps decide, not width. One thread: there is little to share.

    A short budget is spent on clearing the bridges between modes: fast rates, held long. A longer one on details of a
    hundredth of the spread: D sees waves of many lengths, its penalty ends near nothing, and rates fall by a factor
    instead of an amount, so that half of training are fine moves.
    """
    width = max(16, round(64 * scale))
    fine = seen(brief, POINTS_A_MINUTE) >= FINE
    ends = {"G": 1e-5, "D": 2e-4} if fine else {"G": 2e-5, "D": 2e-5}
    rates = optimisers(3e-3, ends, "log" if fine else "cosine")
    gamma = Ramp(start=1.0, end=1e-5 if fine else 1e-4, shape="log")
    return Run(
        game=Part(name="r3", args={"gamma": gamma.model_dump(), "lazy": 4}),
        parts={
            "G": Part(name="mlp", args={"z_dim": 8, "width": width, "cuts": 32}),
            "D": Part(name="mlp", args={"width": width, "waves": 32 if fine else 0}),
        },
        train=Train(batch=192, ema_cap=1e9, threads=1, optimisers=rates),
    )


@register("recipe", "auto")
def auto(spec: Spec, brief: Brief) -> Run:
    """The default: r3, larger on an accelerator, and larger still for pictures where the budget is an hour or more."""
    scale = 1.0
    if spec.kind == "image" and brief.device != "cpu":
        scale = 3.5 if (brief.minutes or 0) >= 60 else 2.5
    return r3(spec, brief, scale)
