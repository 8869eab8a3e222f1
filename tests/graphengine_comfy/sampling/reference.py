"""Numbers that ComfyUI 0.3.64 computed on a CPU, in `data/`: the oracle of these tests."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from graphengine_comfy.sampling.model_sampling import DiscreteSampling, FlowSampling, ModelSampling

MODELS: dict[str, ModelSampling] = {
    "sd1_eps": DiscreteSampling(),
    "sd2_v": DiscreteSampling("v_prediction"),
    "sdxl_turbo_like_eps": DiscreteSampling(),
    "flux_dev_shift_1.15": FlowSampling.flux(1.15),
    "flux_schnell_shift_1.0": FlowSampling.flux(1.0),
    "sd3_shift_3": FlowSampling(3.0),
    "auraflow_shift_1.73": FlowSampling(1.73),
}


@functools.cache
def numbers(name: str) -> Any:
    """One of the files of numbers."""
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text("utf-8"))


def denoised(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """What the analytic model of `samplers.json` makes of a noisy latent."""
    return x / (1 + sigma**2) + 0.1 * torch.sin(x) * sigma / (1 + sigma)
