"""The classic games on pictures and points, with their papers' settings. Networks for points are small perceptrons."""

from __future__ import annotations

from typing import Any

from ..base import Spec
from ..config import Brief, Optimiser, Part, Ramp, Run, Train
from ..errors import UsageError
from ..registry import register


def networks(
    spec: Spec, name: str, g: dict[str, Any] | None = None, d: dict[str, Any] | None = None
) -> dict[str, Part]:
    """A named pair of networks for pictures; for points the perceptrons of the toy papers (z 2-D, 3 x 128)."""
    if spec.kind == "image":
        return {"G": Part(name=name, args=g or {}), "D": Part(name=name, args=d or {})}
    kept = {k: v for k, v in (d or {}).items() if k in ("condition", "classify")}
    return {
        "G": Part(name="mlp", args={"z_dim": 2, "width": 128}),
        "D": Part(name="mlp", args={"width": 128, **kept}),
    }


def adam(lr: float | Ramp, beta1: float, beta2: float) -> dict[str, Optimiser]:
    """The same Adam for both players."""
    return {player: Optimiser(lr=lr, beta1=beta1, beta2=beta2) for player in ("G", "D")}


def only_pictures(spec: Spec, name: str) -> None:
    if spec.kind != "image":
        raise UsageError(
            f"{name} is made of convolutions, for pictures; for {spec.kind} use r3, gan, lsgan, wgan or wgan-gp."
        )


@register("recipe", "gan")
def gan(spec: Spec, brief: Brief) -> Run:
    """The first GAN: perceptrons, maxout in D, non-saturating loss (Goodfellow et al. 2014)."""
    parts = networks(
        spec, "mlp", {"z_dim": 100, "width": 1200, "depth": 2, "activation": "relu"},
        {"width": 240, "depth": 2, "activation": "maxout", "dropout": 0.5},
    )  # fmt: skip
    parts["loss"] = Part(name="nonsaturating")
    return Run(game=Part(name="gan"), parts=parts, train=Train(batch=100, optimisers=adam(2e-4, 0.5, 0.999)))


@register("recipe", "cgan")
def cgan(spec: Spec, brief: Brief) -> Run:
    """Conditional GAN: the class is concatenated to both players' inputs (Mirza & Osindero 2014)."""
    needs_classes(spec, "cgan")
    parts = networks(
        spec, "mlp", {"z_dim": 100, "width": 1200, "depth": 2, "activation": "relu"},
        {"width": 240, "depth": 2, "activation": "maxout", "dropout": 0.5, "condition": "concat"},
    )  # fmt: skip
    parts["loss"] = Part(name="nonsaturating")
    return Run(game=Part(name="gan"), parts=parts, train=Train(batch=100, optimisers=adam(2e-4, 0.5, 0.999)))


def needs_classes(spec: Spec, name: str) -> None:
    if not spec.classes:
        raise UsageError(
            f"{name} needs classes and this data has none; put the pictures into sub-folders, one a class."
        )


@register("recipe", "acgan")
def acgan(spec: Spec, brief: Brief) -> Run:
    """Auxiliary classifier GAN: D also names the class (Odena, Olah & Shlens 2017)."""
    needs_classes(spec, "acgan")
    parts = networks(spec, "dcgan") | {"loss": Part(name="nonsaturating")}
    return Run(game=Part(name="acgan"), parts=parts, train=Train(batch=100, optimisers=adam(2e-4, 0.5, 0.999)))


@register("recipe", "dcgan")
def dcgan(spec: Spec, brief: Brief) -> Run:
    """Deep convolutional GAN (Radford, Metz & Chintala 2016, sec. 4): batch 128, Adam 2e-4, beta1 .5."""
    only_pictures(spec, "dcgan")
    parts = networks(spec, "dcgan") | {"loss": Part(name="nonsaturating")}
    return Run(game=Part(name="gan"), parts=parts, train=Train(batch=128, optimisers=adam(2e-4, 0.5, 0.999)))


@register("recipe", "lsgan")
def lsgan(spec: Spec, brief: Brief) -> Run:
    """Least squares GAN with targets 0, 1, 1 (Mao et al. 2017, eq. 9), on DCGAN's networks."""
    parts = networks(spec, "dcgan") | {"loss": Part(name="least-squares")}
    return Run(game=Part(name="gan"), parts=parts, train=Train(batch=64, optimisers=adam(2e-4, 0.5, 0.999)))


@register("recipe", "wgan")
def wgan(spec: Spec, brief: Brief) -> Run:
    """Wasserstein GAN with clipped weights (Arjovsky, Chintala & Bottou 2017, alg. 1): RMSprop 5e-5, clip .01, 5 steps."""
    parts = networks(spec, "dcgan") | {"loss": Part(name="wasserstein")}
    rms = {player: Optimiser(name="rmsprop", lr=5e-5, beta2=0.99) for player in ("G", "D")}
    return Run(
        game=Part(name="wgan", args={"d_steps": 5, "clip": 0.01}), parts=parts, train=Train(batch=64, optimisers=rms)
    )


@register("recipe", "wgan-gp")
def wgan_gp(spec: Spec, brief: Brief) -> Run:
    """Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, alg. 1): lambda 10, Adam 1e-4 (0, .9), 5 steps."""
    parts = networks(spec, "dcgan", d={"norm": "none"})
    parts |= {"loss": Part(name="wasserstein"), "penalty": Part(name="wgan-gp")}
    return Run(
        game=Part(name="wgan", args={"d_steps": 5, "gamma": 10.0}),
        parts=parts,
        train=Train(batch=64, optimisers=adam(1e-4, 0.0, 0.9)),
    )


@register("recipe", "sngan")
def sngan(spec: Spec, brief: Brief) -> Run:
    """Spectrally normalised ResNet, hinge loss (Miyato et al. 2018, tab. 4): Adam 2e-4 (0, .9) to zero, 5 steps."""
    only_pictures(spec, "sngan")
    parts = networks(spec, "resnet", d={"spectral": True}) | {"loss": Part(name="hinge")}
    rate = Ramp(start=2e-4, end=0.0, shape="linear")
    return Run(
        game=Part(name="gan", args={"d_steps": 5}), parts=parts, train=Train(batch=64, optimisers=adam(rate, 0.0, 0.9))
    )
