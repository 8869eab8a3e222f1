"""ControlNets of a request: which steer and when, with the pictures in the size of the latents; and the VAE by which
some of them read pictures.

Such a VAE gives the most likely latents, as in ComfyUI, where diffusers' pipelines draw from what it makes.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from graphengine_nodes import VAE
from graphengine_nodes.families.lookup import family
from graphengine_nodes.values.types import Control, Image, Model

from graphengine_comfy.nodes.further_inputs import GUIDED
from graphengine_comfy.nodes.resizing import resized
from graphengine_comfy.sampling.model_sampling import ModelSampling
from graphengine_comfy.values import CONDITIONING, MODEL

BY_VAE = ("stable_diffusion_3", "flux", "qwen_image")
"""The families whose ControlNets read pictures by a VAE."""


def with_coder(model: MODEL, reference: Model, sides: Sequence[CONDITIONING], cfg: float, by_pixels: bool) -> Model:
    """A model's reference with the VAE by which its ControlNets read pictures, where they do.

    Args:
        by_pixels: ControlNets of the family read the pictures themselves.

    Raises:
        ValueError: There is no VAE, or several; the negative prompt would be steered by what the positive one says.
    """
    entries = [one for side in sides for one in side.entries if one.controls]
    if by_pixels or not entries:
        return reference
    if reference.family not in BY_VAE:
        raise ValueError(f"ControlNets of {reference.family} models are not followed here; std.sample takes them")
    coders = {one.digest(): one for entry in entries if (one := entry.options.get("control_vae")) is not None}
    if len(coders) != 1:
        raise ValueError(
            f"ControlNets of {reference.family} models read pictures by the model's VAE: link it to the vae of each "
            "ControlNetApplyAdvanced"
        )
    if cfg > 1 and (reference.family == "flux" or reference.family in GUIDED):
        raise ValueError(
            f"ControlNets of {reference.family} models are followed without a negative prompt only: give cfg 1 for "
            f"{model.source}"
        )
    coder: VAE = next(iter(coders.values()))
    return replace(reference, components=(*reference.components, *coder.of(reference.family).components))


@contextmanager
def most_likely(held: AbstractContextManager[Any]) -> Iterator[Any]:
    """A VAE that gives its most likely latents wherever a pipeline draws."""
    with held as vae:
        twin = copy.copy(vae)

        def encode(pictures: Any, return_dict: bool = True) -> Any:
            found = vae.encode(pictures)
            found.latent_dist.sample = lambda generator=None: found.latent_dist.mode()
            return found if return_dict else (found.latent_dist,)

        vars(twin)["encode"] = encode
        yield twin


@functools.cache
def drawing_nothing(name: str) -> Any:
    """A family whose pipelines with a ControlNet take several pictures at once, since they draw nothing by themselves:
    noise is given, and pictures are read by `most_likely`."""
    known: Any = family(name)
    if name not in BY_VAE:
        return known
    variants = {}
    for variant, own in known.record.variants.items():
        tasks = {task: replace(one, single=False, global_noise=False) for task, one in own.tasks.items()}
        variants[variant] = replace(own, tasks=tasks)
    return type(known)(replace(known.record, variants=variants))


def _is_same(one: Control, other: Control) -> bool:
    """Whether two ControlNets steer alike; of what was kept on disk each prompt has a copy of the picture."""
    import torch

    if _settings(one) != _settings(other):
        return False
    first, second = one.image.channels, other.image.channels
    return first is second or torch.equal(first, second)


def _settings(control: Control) -> tuple[Any, ...]:
    """All of a ControlNet's steering but its picture."""
    net = None if control.controlnet is None else control.controlnet.digest()
    return net, control.scale, control.start, control.end, control.guess, control.mode


def controls_of(
    sides: Sequence[CONDITIONING], levels: ModelSampling, calls: Sequence[float], width: int, height: int
) -> list[Control]:
    """The ControlNets that steer, their pictures in the size of the latents, their times in calls of the model.

    Raises:
        ValueError: They differ between prompts.
    """
    lists = [entry.controls for side in sides for entry in side.entries]
    common = sides[0].entries[0].controls
    legacy = all(entry.options.get("control_both") for entry in sides[0].entries)
    for controls in lists:
        same = len(controls) == len(common) and all(map(_is_same, controls, common))
        if not same and not (legacy and not controls):
            raise ValueError(
                "a ControlNet steers one of the prompts alone, or each in its own way; give positive and negative "
                "prompt the same ones, with the same pictures and strengths"
            )
    found = []
    for control in common:
        begins = levels.sigma_at_percent(control.start) if control.start > 0 else math.inf
        ends = levels.sigma_at_percent(control.end)
        acts = [index for index, sigma in enumerate(calls) if ends <= sigma <= begins]
        if not acts or control.scale == 0:
            continue
        pixels = resized(control.image.opaque().pixels.movedim(-1, 1), width, height, "nearest-exact", "center")
        picture = Image(pixels.movedim(1, -1).contiguous())
        start, end = acts[0] / len(calls), (acts[-1] + 1) / len(calls)
        found.append(replace(control, image=picture, start=start, end=end))
    return found
