"""The oracle's other side: diffusers alone, in a process of its own.

    python reference.py MODELS OUT.npz

MODELS is a folder with models, `controlnet` and `*.safetensors`; OUT gets the float pictures of every case.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cases
import diffusers
import numpy as np
import torch

CLASSES = {
    ("text", False): diffusers.StableDiffusionPipeline,
    ("image", False): diffusers.StableDiffusionImg2ImgPipeline,
    ("inpaint", False): diffusers.StableDiffusionInpaintPipeline,
    ("text", True): diffusers.StableDiffusionControlNetPipeline,
    ("image", True): diffusers.StableDiffusionControlNetImg2ImgPipeline,
    ("inpaint", True): diffusers.StableDiffusionControlNetInpaintPipeline,
}


def pipeline(models: Path, case: dict[str, Any], known: dict[Any, Any]) -> Any:
    """The pipeline of a case; those without LoRAs share their modules, which they do not change."""
    key = case["kind"], case["model"], len(case["controls"]), bool(case["loras"])
    if key not in known:
        extra: dict[str, Any] = {}
        if case["controls"]:
            net = diffusers.ControlNetModel.from_pretrained(models / "controlnet")
            extra["controlnet"] = net if len(case["controls"]) == 1 else [net] * len(case["controls"])
        first = known.get(case["model"])
        if first is not None and not case["loras"]:
            extra |= {name: part for name, part in first.components.items() if name != "scheduler"}
        known[key] = CLASSES[case["kind"], bool(case["controls"])].from_pretrained(models / case["model"], **extra)
        known[key].set_progress_bar_config(disable=True)
        if not case["loras"]:
            known.setdefault(case["model"], known[key])
    return known[key]


def run(pipe: Any, models: Path, case: dict[str, Any]) -> np.ndarray[Any, Any]:
    own = pipe.scheduler
    seeds = case["seeds"]
    name = case["scheduler"] or type(own).__name__
    pictures = cases.control_pictures(case)
    options: dict[str, Any] = {}
    if "spacing" in case:
        options["timestep_spacing"] = case["spacing"]
    if name == "DPMSolverSDEScheduler":
        options["noise_sampler_seed"] = seeds if len(seeds) > 1 else seeds[0]
    if case["scheduler"] or options:
        pipe.scheduler = getattr(diffusers, name).from_config(own.config, **options)
    prompt = case.get("prompt", cases.PROMPT)
    call: dict[str, Any] = {
        "negative_prompt": case["negative"],
        "num_inference_steps": case["steps"],
        "guidance_scale": case["guidance"],
        "num_images_per_prompt": len(seeds),
        "generator": [torch.Generator().manual_seed(seed - 2**64 if seed >= 2**63 else seed) for seed in seeds],
        "output_type": "np",
    }
    if "clip_skip" in case:  # the pipelines' own fails with current transformers, so by hand
        length = pipe.tokenizer.model_max_length
        tokens = pipe.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = pipe.text_encoder(tokens.input_ids, output_hidden_states=True).hidden_states[
                -(case["clip_skip"] + 1)
            ]
            call["prompt_embeds"] = pipe.text_encoder.final_layer_norm(hidden)
    else:
        call["prompt"] = prompt
    if "rescale" in case:
        call["guidance_rescale"] = case["rescale"]
    if "size" in case:
        call["width"], call["height"] = case["size"]
    if case["strength"] is not None:
        call["strength"] = case["strength"]
    if case["kind"] != "text":
        call["image"] = [cases.picture()] * len(seeds)
    if case["kind"] == "inpaint":
        call["mask_image"] = cases.mask()
    if case["controls"]:
        several = len(case["controls"]) > 1
        columns = zip(*case["controls"], strict=True)
        scales, starts, ends = (list(column) if several else column[0] for column in columns)
        call["image" if case["kind"] == "text" else "control_image"] = pictures if several else pictures[0]
        call |= {
            "controlnet_conditioning_scale": scales,
            "control_guidance_start": starts,
            "control_guidance_end": ends,
        }
    for lora, _ in case["loras"]:
        pipe.load_lora_weights(models / f"{lora}.safetensors", adapter_name=lora)
    if case["loras"]:
        pipe.set_adapters([lora for lora, _ in case["loras"]], [scale for _, scale in case["loras"]])
    result: np.ndarray[Any, Any] = pipe(**call).images
    if case["loras"]:
        pipe.unload_lora_weights()
    pipe.scheduler = own
    return result


def main(models: Path, out: Path) -> None:
    torch.set_num_threads(1)
    pipes: dict[Any, Any] = {}
    found = {case["name"]: run(pipeline(models, case, pipes), models, case) for case in cases.cases()}
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
