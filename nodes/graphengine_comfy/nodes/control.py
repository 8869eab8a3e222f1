"""Steering: ControlNets, and changes of how a model is sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

import graphengine_nodes as std
from graphengine_nodes import VAE, Control, Image

from graphengine import Choices, Range, node
from graphengine_comfy.nodes.resizing import MOST
from graphengine_comfy.nodes.t2i_adapters import adapter_option
from graphengine_comfy.values import CONDITIONING, CONTROL_NET, MODEL, Entry

Strength = Annotated[float, Range(0.0, 10.0, 0.01)]
Share = Annotated[float, Range(0.0, 1.0, 0.001)]
Shift = Annotated[float, Range(0.0, 100.0, 0.01)]


def _steered(given: CONDITIONING, control: Control | None, **options: bool | VAE) -> CONDITIONING:
    if control is None:
        return given
    return CONDITIONING(
        tuple(Entry(one.prompt, {**one.options, **options}, (*one.controls, control)) for one in given.entries)
    )


def _with_adapter(
    given: CONDITIONING, net: CONTROL_NET, image: Image, strength: float, start: float, end: float, **options: bool
) -> CONDITIONING:
    """Prompts with a T2I-Adapter and its picture behind those that they have."""
    if strength == 0 or start >= end:
        return given
    added = adapter_option(net.net.source, net.net.weights, image, strength, start, end)
    found = []
    for one in given.entries:
        adapters = [*one.options.get("adapters", ()), added]
        found.append(Entry(one.prompt, {**one.options, **options, "adapters": adapters}, one.controls))
    return CONDITIONING(tuple(found))


def _control(net: CONTROL_NET, image: Image, strength: float, start: float = 0.0, end: float = 1.0) -> Control | None:
    """A ControlNet with its picture; None where it does nothing."""
    if strength == 0 or start >= end:
        return None
    return std.apply_controlnet(net.net, image, scale=strength, start=start, end=end, mode=net.mode)


@node(version=1)
def ControlNetApply(
    *, conditioning: CONDITIONING, control_net: CONTROL_NET, image: Image, strength: Strength = 1.0
) -> CONDITIONING:
    """Steer sampling by a picture, with the negative prompt too."""
    if control_net.adapter:
        return _with_adapter(conditioning, control_net, image, strength, 0.0, 1.0, control_both=True)
    return _steered(conditioning, _control(control_net, image, strength), control_both=True)


class Steered(NamedTuple):
    """A positive and a negative prompt, both with a ControlNet."""

    positive: CONDITIONING
    negative: CONDITIONING


@node(version=1)
def ControlNetApplyAdvanced(
    *,
    positive: CONDITIONING,
    negative: CONDITIONING,
    control_net: CONTROL_NET,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Share = 0.0,
    end_percent: Share = 1.0,
    vae: VAE | None = None,
) -> Steered:
    """Steer a part of sampling by a picture: from a share of it to another.

    ControlNets of Stable Diffusion 3, FLUX.1 and Qwen-Image read pictures by the model's VAE, those of Stable Diffusion
    and SDXL need none.
    """
    if control_net.adapter:
        told = (control_net, image, strength, start_percent, end_percent)
        return Steered(_with_adapter(positive, *told), _with_adapter(negative, *told))
    control = _control(control_net, image, strength, start_percent, end_percent)
    coder = {} if vae is None or control_net.net.family in ("stable_diffusion", "stable_diffusion_xl") else {
        "control_vae": vae
    }
    return Steered(_steered(positive, control, **coder), _steered(negative, control, **coder))


@node(version=1)
def ControlNetApplySD3(
    *,
    positive: CONDITIONING,
    negative: CONDITIONING,
    control_net: CONTROL_NET,
    vae: VAE,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Share = 0.0,
    end_percent: Share = 1.0,
) -> Steered:
    """Steer a part of sampling by a picture, as ControlNetApplyAdvanced with a VAE."""
    return ControlNetApplyAdvanced.fn(
        positive=positive,
        negative=negative,
        control_net=control_net,
        image=image,
        strength=strength,
        start_percent=start_percent,
        end_percent=end_percent,
        vae=vae,
    )


UNION_TYPES = (
    "auto", "openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment",
    "tile", "repaint",
)  # fmt: skip


@node(version=1)
def SetUnionControlNetType(
    *, control_net: CONTROL_NET, type: Annotated[str, Choices(*UNION_TYPES)] = "auto"
) -> CONTROL_NET:
    """Say which kind of control pictures a union ControlNet of SDXL follows.

    Raises:
        ValueError: The kind is to be found out, which diffusers' pipelines do not do.
    """
    if control_net.adapter:
        raise ValueError(f"{control_net.source} is a T2I-Adapter, and no union ControlNet")
    if type == "auto":
        raise ValueError("diffusers' pipelines do not find out the kind of a control picture: say the type")
    return replace(control_net, mode=UNION_TYPES.index(type) - 1)


# --- changes of how a model is sampled --------------------------------------------------------------------------------


def _patched(model: MODEL, name: str, value: object) -> MODEL:
    return replace(model, patches=(*(one for one in model.patches if one[0] != name), (name, value)))


@node(version=1)
def ModelSamplingSD3(*, model: MODEL, shift: Shift = 3.0) -> MODEL:
    """Set the shift of a flow-matching model: how much of sampling is spent on much noise."""
    return _patched(model, "shift", shift)


@node(version=1)
def ModelSamplingAuraFlow(*, model: MODEL, shift: Shift = 1.73) -> MODEL:
    """Set the shift of a flow-matching model, as ModelSamplingSD3."""
    return _patched(model, "shift", shift)


Side = Annotated[int, Range(16, MOST, 8)]


@node(version=1)
def ModelSamplingFlux(
    *, model: MODEL, max_shift: Shift = 1.15, base_shift: Shift = 0.5, width: Side = 1024, height: Side = 1024
) -> MODEL:
    """Set the shift of FLUX.1 by the size of the picture: between those of 256 and 1024 pixels a side."""
    return _patched(model, "flux_shift", (max_shift, base_shift, width, height))


@node(version=1)
def DifferentialDiffusion(
    *, model: MODEL, strength: Annotated[float | None, Range(0.0, 1.0, 0.01)] = None
) -> MODEL:
    """Let a soft mask of latents say when each place begins to change, instead of how much."""
    return _patched(model, "differential", 1.0 if strength is None else strength)


PREDICTIONS = {"eps": "epsilon", "v_prediction": "v_prediction", "x0": "sample"}
"""What a model predicts, by ComfyUI's names."""


@node(version=1)
def ModelSamplingDiscrete(
    *,
    model: MODEL,
    sampling: Annotated[str, Choices("eps", "v_prediction", "lcm", "x0", "img_to_img", "img_to_img_flow")] = "eps",
    zsnr: bool = False,
) -> MODEL:
    """Say what a model predicts, and whether it was trained down to no signal (zero terminal SNR).

    Raises:
        ValueError: A prediction is asked for that is not followed here.
    """
    if sampling not in PREDICTIONS:
        raise ValueError(f"sampling as {sampling} is not followed here; eps, v_prediction and x0 are")
    return _patched(model, "prediction", (PREDICTIONS[sampling], zsnr))


@node(version=1)
def RescaleCFG(*, model: MODEL, multiplier: Share = 0.7) -> MODEL:
    """Rescale guidance against overexposure, of models that predict velocity."""
    return _patched(model, "rescale_cfg", multiplier)


@node(version=1)
def CFGNorm(
    *, model: MODEL, strength: Annotated[float, Range(0.0, 100.0, 0.01)] = 1.0, pre_cfg: bool = False
) -> MODEL:
    """Keep what guidance makes from growing beyond what the positive prompt alone makes.

    At each place the picture that is estimated gets at most the length, over its channels, that it has without
    guidance, times the strength. With `pre_cfg` it is the noise that gets just this length, and the strength says how
    much of it.

    Raises:
        ValueError: The strength is above 1, at which pictures leave all bounds.
    """
    if strength > 1:
        raise ValueError(f"strength {strength:g} makes the picture larger at each step, without bounds: give 1 or less")
    return _patched(model, "cfg_norm", (strength, pre_cfg))
