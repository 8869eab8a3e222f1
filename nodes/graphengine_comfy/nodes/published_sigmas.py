"""Sigmas of Qwen-Image 2.1 as its authors publish them, which ComfyUI takes for the scheduler `simple`: they depend on
the size of the picture."""

from __future__ import annotations

from typing import Any

from graphengine_nodes.families.qwen_image import SCHEDULER

from graphengine_comfy.nodes.latents import pixels_a_side
from graphengine_comfy.sampling.sigmas import MOST_STEPS
from graphengine_comfy.values import LATENT

SIDE = 16
"""The pixels a side of one of its latents."""


def tokens(latent: LATENT) -> int:
    """How many latents a picture has; empty ones of other models stand for their size."""
    height, width = (int(side) * pixels_a_side(latent.samples) // SIDE for side in latent.samples.shape[-2:])
    return height * width


def published_sigmas(steps: int, share: float, count: int) -> tuple[float, ...]:
    """The table for a picture of so many latents; below a `share` of 1 the end of a longer one.

    Raises:
        ValueError: The table would be too long.
    """
    import numpy as np
    from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_shift
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    if not share > 0:
        return ()
    total = steps if share > 0.9999 else int(min(steps / share, 1e9))
    if total > MOST_STEPS:
        raise ValueError(f"{steps} steps at denoise {share:g} need a table of {total}; at most {MOST_STEPS} are made")
    known: Any = SCHEDULER
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    shift = calculate_shift(count, *(known[name] for name in names))
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / total, total), mu=shift)
    found = tuple(float(sigma) for sigma in scheduler.sigmas)
    return found[-(steps + 1) :]
