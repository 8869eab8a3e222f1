"""The reference process of the oracle tests: diffusers alone, without graphengine.

    python reference.py MODELS OUT.npz MODULE [DEVICE]

MODELS is a folder with models, ControlNets and `*.safetensors`; OUT gets the float pictures of every case of MODULE,
`cases` or `cases_xl`, computed on DEVICE, by default `cpu`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import cases
import diffusers
import numpy as np
import torch

CLASSES = {
    ("text", False): "Pipeline",
    ("image", False): "Img2ImgPipeline",
    ("inpaint", False): "InpaintPipeline",
    ("text", True): "ControlNetPipeline",
    ("image", True): "ControlNetImg2ImgPipeline",
    ("inpaint", True): "ControlNetInpaintPipeline",
}
PREFIXES = {"stable_diffusion": "StableDiffusion", "stable_diffusion_xl": "StableDiffusionXL"}


def pipeline(models: Path, case: dict[str, Any], known: dict[Any, Any], device: str) -> Any:
    """The pipeline of a case; those without LoRAs share their modules, which they do not change."""
    model = case["model"], case["precision"]
    key = case["kind"], *model, len(case["controls"]), bool(case["loras"])
    if key not in known:
        dtype = getattr(torch, case["precision"])
        extra: dict[str, Any] = {}
        if case["controls"]:
            folder = "controlnet" if case["family"] == "stable_diffusion" else "xl-controlnet"
            net = diffusers.ControlNetModel.from_pretrained(models / folder, torch_dtype=dtype)
            extra["controlnet"] = net if len(case["controls"]) == 1 else [net] * len(case["controls"])
        first = known.get(model)
        if first is not None and not case["loras"]:
            extra |= {name: part for name, part in first.components.items() if name not in ("scheduler", "controlnet")}
            extra |= {"controlnet": extra["controlnet"]} if "controlnet" in extra else {}
        cls = getattr(diffusers, PREFIXES[case["family"]] + CLASSES[case["kind"], bool(case["controls"])])
        known[key] = cls.from_pretrained(models / case["model"], torch_dtype=dtype, **extra).to(device)
        known[key].set_progress_bar_config(disable=True)
        if not case["loras"]:
            known.setdefault(model, known[key])
    return known[key]


def run(pipe: Any, models: Path, case: dict[str, Any]) -> np.ndarray[Any, Any]:
    own = pipe.scheduler
    seeds = case["seeds"]
    name = case["scheduler"] or type(own).__name__
    options: dict[str, Any] = {}
    if "spacing" in case:
        options["timestep_spacing"] = case["spacing"]
    if name == "DPMSolverSDEScheduler":
        options["noise_sampler_seed"] = seeds if len(seeds) > 1 else seeds[0]
    if case["scheduler"] or options:
        pipe.scheduler = getattr(diffusers, name).from_config(own.config, **options)
    prompt = case.get("prompt", cases.PROMPT)
    generators = [torch.Generator().manual_seed(seed - 2**64 if seed >= 2**63 else seed) for seed in seeds]
    call: dict[str, Any] = {
        "negative_prompt": case["negative"],
        "num_inference_steps": case["steps"],
        "guidance_scale": case["guidance"],
        "num_images_per_prompt": len(seeds) // (len(prompt) if isinstance(prompt, list) else 1),
        "generator": generators[0] if case["one"] else generators,
        "output_type": "np",
        **case["arguments"],
        **_prompts(pipe, case, prompt),
        **_pictures(case),
    }
    if "rescale" in case:
        call["guidance_rescale"] = case["rescale"]
    if "size" in case:
        call["width"], call["height"] = case["size"]
    if case["strength"] is not None:
        call["strength"] = case["strength"]
    if case["latents"] is not None:
        side = case["side"] // 8
        call["latents"] = torch.randn(
            len(seeds), 4, side, side, generator=torch.Generator().manual_seed(case["latents"])
        )
    if case["fade"]:
        call["callback_on_step_end"] = cases.fade
    for lora, _ in case["loras"]:
        pipe.load_lora_weights(models / f"{lora}.safetensors", adapter_name=lora)
    if case["loras"]:
        pipe.set_adapters([lora for lora, _ in case["loras"]], [scale for _, scale in case["loras"]])
    result: np.ndarray[Any, Any] = pipe(**call).images
    if case["loras"]:
        pipe.unload_lora_weights()
    pipe.scheduler = own
    return result


def _prompts(pipe: Any, case: dict[str, Any], prompt: str | list[str]) -> dict[str, Any]:
    if isinstance(prompt, list):  # each by itself: encoded together they differ in the last bits
        wanted = case["negative"] if isinstance(case["negative"], list) else [case["negative"]] * len(prompt)
        with torch.no_grad():
            rows = [
                pipe.encode_prompt(
                    p, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=n
                )
                for p, n in zip(prompt, wanted, strict=True)
            ]
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        columns = zip(*rows, strict=True)
        return {"negative_prompt": None} | {n: torch.cat(column) for n, column in zip(names, columns, strict=False)}
    more = {name: case[name] for name in ("prompt_2", "negative_prompt_2") if name in case}
    if "clip_skip" not in case or case["family"] != "stable_diffusion":
        return {"prompt": prompt, "clip_skip": case.get("clip_skip"), **more}
    # Stable Diffusion's own fails with current transformers, so by hand.
    length = pipe.tokenizer.model_max_length
    tokens = pipe.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = pipe.text_encoder(tokens.input_ids.to(pipe.device), output_hidden_states=True).hidden_states
        return {"prompt_embeds": pipe.text_encoder.final_layer_norm(hidden[-(case["clip_skip"] + 1)])}


def _pictures(case: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline starts from and follows."""
    call: dict[str, Any] = {}
    size = case["side"], case["side"]
    if case["kind"] != "text":
        picture = cases.sized(cases.picture(), size)
        call["image"] = picture if case["one"] else [picture] * len(case["seeds"])
    if case["kind"] == "inpaint":
        call["mask_image"] = cases.sized(cases.mask(), size)
    if case["controls"]:
        several = len(case["controls"]) > 1
        pictures = cases.control_pictures(case)
        columns = zip(*case["controls"], strict=True)
        scales, starts, ends = (list(column) if several else column[0] for column in columns)
        call["image" if case["kind"] == "text" else "control_image"] = pictures if several else pictures[0]
        call |= {
            "controlnet_conditioning_scale": scales,
            "control_guidance_start": starts,
            "control_guidance_end": ends,
        }
        if case["guess"]:
            call["guess_mode"] = True
    return call


def main(models: Path, out: Path, module: str, device: str = "cpu") -> None:
    torch.set_num_threads(1)
    pipes: dict[Any, Any] = {}
    asked = importlib.import_module(module).cases()
    np.savez(out, **{case["name"]: run(pipeline(models, case, pipes, device), models, case) for case in asked})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
