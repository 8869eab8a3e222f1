"""The reference process of FLUX's oracle tests: diffusers alone, without graphengine.

    python reference.py MODELS OUT.npz

MODELS is a folder with `dev`, `schnell`, ControlNets and `*.safetensors`; OUT gets the float pictures of every case.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cases
import diffusers
import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor

CLASSES = {
    ("text", False): diffusers.FluxPipeline,
    ("image", False): diffusers.FluxImg2ImgPipeline,
    ("inpaint", False): diffusers.FluxInpaintPipeline,
    ("repaint", False): diffusers.FluxImg2ImgPipeline,
    ("text", True): diffusers.FluxControlNetPipeline,
    ("image", True): diffusers.FluxControlNetImg2ImgPipeline,
    ("inpaint", True): diffusers.FluxControlNetInpaintPipeline,
}


def pipeline(models: Path, case: dict[str, Any], known: dict[str, Any]) -> Any:
    """The pipeline of a case, over modules that are read once."""

    def read(cls: Any, name: str) -> Any:
        if name not in known:
            known[name] = cls.from_pretrained(models / name)
        return known[name]

    parts = dict(read(diffusers.FluxPipeline, case["model"]).components)
    parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler.from_config(parts["scheduler"].config)
    for name in ("image_encoder", "feature_extractor"):
        parts.pop(name)
    if case["controls"]:
        nets = [read(diffusers.FluxControlNetModel, name) for name, *_ in case["controls"]]
        parts["controlnet"] = nets[0] if len(nets) == 1 else nets
    pipe = CLASSES[case["kind"], bool(case["controls"])](**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(case: dict[str, Any]) -> Any:
    signed = [seed - 2**64 if seed >= 2**63 else seed for seed in case["seeds"]]
    made = [torch.Generator().manual_seed(seed) for seed in signed]
    return made[0] if case["one"] else made


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """A case as the pipelines' arguments."""
    count = len(case["seeds"])
    call: dict[str, Any] = {
        "prompt": case["prompt"],
        "prompt_2": case["prompt_2"],
        "width": case["size"][0],
        "height": case["size"][1],
        "num_inference_steps": case["steps"],
        "guidance_scale": case["guidance"],
        "num_images_per_prompt": count,
        "max_sequence_length": case["length"],
        "generator": generators(case),
        "output_type": "np",
    }
    if case["negative"] is not None and not (case["controls"] and case["kind"] != "text"):
        call |= {"negative_prompt": case["negative"], "true_cfg_scale": case["true_cfg"]}
    if case["strength"] is not None:
        call["strength"] = case["strength"]
    if case["kind"] != "text":
        # A list, so that each generator draws from its own picture's distribution.
        call["image"] = cases.picture() if case["one"] else [cases.picture()] * count
    if case["kind"] == "inpaint":
        call["mask_image"] = cases.mask()
    if case["controls"]:
        several = len(case["controls"]) > 1
        pictures = cases.control_pictures(case)
        _, scales, starts, ends = (list(column) for column in zip(*case["controls"], strict=True))
        modes = case["modes"] or ([None] * len(scales) if several else [None])
        call |= {
            "control_image": pictures if several else pictures[0],
            "controlnet_conditioning_scale": scales if several else scales[0],
            "control_guidance_start": starts,
            "control_guidance_end": ends,
            "control_mode": modes if several else modes[0],
        }
    return call


def repaint(pipe: Any, case: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Masked image to image, written out: every step begins with the original, freshly noised, outside the mask."""
    width, height = case["size"]
    count, given = len(case["seeds"]), generators(case)
    noise_shape = (1, 16, height // 8, width // 8)

    def drawn() -> torch.Tensor:
        return torch.cat([torch.randn(noise_shape, generator=one) for one in given])

    def encoded(picture: Any) -> Any:
        return pipe.vae.encode(pipe.image_processor.preprocess(picture)).latent_dist

    def scaled(latents: torch.Tensor) -> torch.Tensor:
        return (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor

    def packed(latents: torch.Tensor) -> torch.Tensor:
        return pipe._pack_latents(latents, count, 16, height // 8, width // 8)

    texts = [pipe.encode_prompt(case["prompt"], max_sequence_length=case["length"])]
    if case["negative"] is not None:
        texts.append(pipe.encode_prompt(case["negative"], max_sequence_length=case["length"]))
    small = VaeImageProcessor(vae_scale_factor=8).resize(cases.mask(), height // 8, width // 8)
    soft = torch.from_numpy(np.asarray(small, dtype=np.float32) / np.asarray(small).max())
    mask = packed(soft.expand(count, 16, -1, -1))
    original = packed(scaled(encoded(cases.picture()).mode()).expand(count, -1, -1, -1).contiguous())

    scheduler = pipe.scheduler
    tokens = (height // 16) * (width // 16)
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / case["steps"], case["steps"]),
        mu=tokens * slope + config.base_shift - slope * config.base_image_seq_len,
    )
    first = int(case["steps"] - min(case["steps"] * case["strength"], case["steps"]))
    scheduler.set_begin_index(first)
    times, sigmas = scheduler.timesteps[first:], scheduler.sigmas[first:]

    if case["sample_mode"] == "sample":
        start = torch.cat([scaled(encoded(cases.painted()).sample(one)) for one in given])
    elif case["sample_mode"] == "argmax":
        start = torch.cat([scaled(encoded(cases.painted()).mode())] * count)
    else:
        start = torch.zeros(count, *noise_shape[1:])
    latents = packed(sigmas[0] * drawn() + (1 - sigmas[0]) * start)
    ids = pipe._prepare_latent_image_ids(count, height // 16, width // 16, "cpu", torch.float32)
    for time, sigma in zip(times, sigmas, strict=False):
        noised = sigma * packed(drawn()) + (1 - sigma) * original
        latents = torch.lerp(noised, latents, mask)
        predictions = [
            pipe.transformer(
                hidden_states=latents,
                timestep=time.expand(count) / 1000,
                guidance=torch.full([count], case["guidance"]),
                pooled_projections=pooled.repeat(count, 1),
                encoder_hidden_states=embeds.repeat(count, 1, 1),
                txt_ids=text_ids,
                img_ids=ids,
                joint_attention_kwargs={},
                return_dict=False,
            )[0]
            for embeds, pooled, text_ids in texts
        ]
        prediction = predictions[0]
        if len(predictions) > 1:
            prediction = predictions[1] + case["true_cfg"] * (predictions[0] - predictions[1])
        latents = scheduler.step(prediction, time, latents, return_dict=False)[0]
    latents = torch.lerp(original, latents, mask)
    unpacked = pipe._unpack_latents(latents, height, width, 8)
    decoded = pipe.vae.decode(unpacked / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    pixels: np.ndarray[Any, Any] = pipe.image_processor.postprocess(decoded, output_type="np")
    return pixels


def run(pipe: Any, models: Path, case: dict[str, Any]) -> np.ndarray[Any, Any]:
    for lora, _ in case["loras"]:
        pipe.load_lora_weights(models / f"{lora}.safetensors", adapter_name=lora)
    if case["loras"]:
        pipe.set_adapters([lora for lora, _ in case["loras"]], [scale for _, scale in case["loras"]])
    with torch.no_grad():
        found = repaint(pipe, case) if case["kind"] == "repaint" else pipe(**arguments(case)).images
    pixels: np.ndarray[Any, Any] = found
    return pixels


def main(models: Path, out: Path) -> None:
    torch.set_num_threads(1)
    known: dict[str, Any] = {}
    found = {}
    for case in cases.cases():
        found[case["name"]] = run(pipeline(models, case, known), models, case)
        if case["loras"]:  # taking them out again leaves traces
            del known[case["model"]]
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
