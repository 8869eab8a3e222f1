"""The reference process of these oracle tests: diffusers alone, without graphengine.

    python reference.py MODELS OUT.npz

MODELS is a folder with the models, ControlNets and LoRAs that `cases` names; OUT gets the float pictures of every case.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import cases
import diffusers
import numpy as np
import torch


def read(models: Path, name: str, known: dict[str, Any], precision: str | None) -> Any:
    """A model's own pipeline, read once in each precision."""
    key = f"{name} {precision}"
    if key not in known:
        kind = getattr(torch, precision or "float32")
        known[key] = diffusers.DiffusionPipeline.from_pretrained(models / name, torch_dtype=kind)
    return known[key]


def pipeline(models: Path, case: dict[str, Any], known: dict[str, Any]) -> Any:
    """The pipeline of a case, over modules that are read once unless a LoRA changes them."""
    own = read(models, case["model"], {} if case["lora"] else known, case["precision"])
    cls = getattr(diffusers, case["class"])
    names = inspect.signature(cls.__init__).parameters
    parts = {name: part for name, part in {**own.config, **own.components}.items() if name in names}
    scheduler = case["scheduler"]
    kind = type(own.scheduler)
    if scheduler:
        kind = UniPC if scheduler == "UniPCMultistepScheduler" else getattr(diffusers, scheduler)
    parts["scheduler"] = kind.from_config(own.scheduler.config, **_flows(kind, own.scheduler))
    if "controlnet" in case["task"]:
        config = (models / case["net"] / "config.json").read_text()
        net = next(name for name in NETS if f'"{name}"' in config)
        kind = getattr(torch, case["precision"] or "float32")
        parts["controlnet"] = getattr(diffusers, net).from_pretrained(models / case["net"], torch_dtype=kind)
    made = cls(**parts)
    made.set_progress_bar_config(disable=True)
    if case["lora"]:
        made.load_lora_weights(models / f"{case['model']}.safetensors")
    return made


SINGLE = diffusers.ZImageControlNetInpaintPipeline
"""It fails at two pictures."""
NETS = ("ZImageControlNetModel", "QwenImageControlNetModel", "SD3ControlNetModel", "FluxControlNetModel")


def _flows(kind: Any, own: Any) -> dict[str, Any]:
    """What a scheduler for noise must be given by hand for a model that matches flows."""
    if "use_flow_sigmas" not in inspect.signature(kind.__init__).parameters or isinstance(own, kind):
        return {}
    shift = {"flow_shift": own.config.shift, "use_dynamic_shifting": own.config.use_dynamic_shifting}
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", **shift}


class UniPC(diffusers.UniPCMultistepScheduler):
    """As diffusers has it, but it takes Z-Image's list of sigmas, and its `mu` where shifting is static."""

    def set_timesteps(self, *args: Any, sigmas: Any = None, mu: Any = None, **kwargs: Any) -> None:
        mu = mu if self.config.use_dynamic_shifting else None
        super().set_timesteps(*args, sigmas=None if sigmas is None else np.asarray(sigmas), mu=mu, **kwargs)


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """A case as the pipelines' arguments."""
    count, asks = len(case["seeds"]), case["task"].split("+")
    generators = [torch.Generator().manual_seed(seed) for seed in case["seeds"]]
    call: dict[str, Any] = {
        "prompt": cases.PROMPT,
        "num_inference_steps": case["steps"],
        case["guidance"]: case["scale"],
        "num_images_per_prompt": count,
        "generator": generators,
        "output_type": "np",
    }
    call |= dict(zip(("width", "height"), case["size"], strict=True))
    if case["negative"] is not None:
        call["negative_prompt"] = case["negative"]
    if "image" in asks or "inpaint" in asks:
        # A list, so that each generator draws from its own picture's distribution.
        call |= {"image": [cases.picture()] * count if count > 1 else cases.picture()}
    if "image" in asks:
        call["strength"] = 0.5
    if "inpaint" in asks:
        call["mask_image"] = cases.mask()
    if "references" in asks:
        found = [cases.picture(), cases.other()]
        if "inpaint" in asks:
            call["image_reference"] = cases.other()
        else:
            call["image"] = found if case["references"] > 1 else found[0]
    if "controlnet" in asks or "control" in asks:
        call["control_image"] = cases.edges()
    if "controlnet" in asks:
        call["controlnet_conditioning_scale"] = 0.75
    return call | case["call"]


def run(pipe: Any, case: dict[str, Any]) -> np.ndarray[Any, Any]:
    if type(pipe).__name__.startswith("StableDiffusion3ControlNet") or type(pipe) is SINGLE:
        return shifted(pipe, torch.cat([one_of_global_draws(pipe, case, seed) for seed in case["seeds"]]))
    if type(pipe) is diffusers.StableDiffusion3InpaintPipeline:
        return shifted(pipe, pipe(**arguments(case) | {"output_type": "latent"}).images)
    call = arguments(case)
    if "negative_prompt" in call and "negative_prompt" not in inspect.signature(pipe.__call__).parameters:
        call["negative_prompt_embeds"] = pipe.encode_prompt(call.pop("negative_prompt"))[0]
    found = pipe(**call)
    pixels: np.ndarray[Any, Any] = found.frames if hasattr(found, "frames") else found.images
    return pixels


def one_of_global_draws(pipe: Any, case: dict[str, Any], seed: int) -> torch.Tensor:
    """The latents of one picture of a pipeline that draws from torch's global generator too, or makes only one."""
    torch.manual_seed(seed)
    latents: torch.Tensor = pipe(**arguments(case | {"seeds": [seed]}) | {"output_type": "latent"}).images
    return latents


def shifted(pipe: Any, latents: torch.Tensor) -> np.ndarray[Any, Any]:
    """Decode as text to image does: this pipeline's own decoding leaves the VAE's shift out."""
    latents = latents.to(pipe.vae.dtype)
    with torch.no_grad():
        decoded = pipe.vae.decode(
            latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor, return_dict=False
        )[0]
    pixels: np.ndarray[Any, Any] = pipe.image_processor.postprocess(decoded, output_type="np")
    return pixels


def _set(name: str, value: Any) -> None:
    module, _, last = name.rpartition(".")
    setattr(importlib.import_module(module), last, value)


def main(models: Path, out: Path) -> None:
    torch.set_num_threads(1)
    known: dict[str, Any] = {}
    cases.make_areas_small(_set)
    np.savez(out, **{case["name"]: run(pipeline(models, case, known), case) for case in cases.cases()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
