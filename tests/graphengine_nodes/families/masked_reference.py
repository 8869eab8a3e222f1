"""Reference for masked image to image: a plain loop over a model's modules, with which the node is compared.

No pipeline and nothing of graphengine is used; a model is a folder as diffusers writes it.
"""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import torch
import transformers


@functools.cache
def load(folder: Path, part: str) -> Any:
    library, name = json.loads((folder / "model_index.json").read_text())[part]
    return getattr({"diffusers": diffusers, "transformers": transformers}[library], name).from_pretrained(folder / part)


def sd_texts(folder: Path, prompt: str) -> torch.Tensor:
    """The absent negative prompt, which is the empty one, and the prompt."""
    tokenizer, encoder = load(folder, "tokenizer"), load(folder, "text_encoder")
    length = tokenizer.model_max_length
    ids = [
        tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        for text in ("", prompt)
    ]
    return torch.cat([encoder(one)[0] for one in ids])


def sdxl_texts(folder: Path, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings and pooled embeddings; those of the absent negative prompt are zeros."""
    hidden = []
    for number in ("", "_2"):
        tokenizer = load(folder, f"tokenizer{number}")
        length = tokenizer.model_max_length
        ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        found = load(folder, f"text_encoder{number}")(ids, output_hidden_states=True)
        hidden.append(found.hidden_states[-2])
    embeds, pooled = torch.cat(hidden, dim=-1), found[0]
    return torch.cat([torch.zeros_like(embeds), embeds]), torch.cat([torch.zeros_like(pooled), pooled])


def pixels(picture: PIL.Image.Image) -> torch.Tensor:
    """[1, 3, H, W] in -1..1."""
    return 2.0 * torch.from_numpy(np.array(picture).astype(np.float32) / 255.0)[None].permute(0, 3, 1, 2) - 1.0


@torch.no_grad()
def repaint(
    folder: Path,
    original: PIL.Image.Image,
    painted: PIL.Image.Image,
    mask: PIL.Image.Image,
    *,
    prompt: str,
    seeds: list[int],
    steps: int,
    guidance: float,
    scheduler: str | None,
    strength: float,
    sample_mode: str,
) -> np.ndarray[Any, Any]:
    """The latents [n, 4, h, w] of a picture for each seed."""
    vae, unet, own = (load(folder, part) for part in ("vae", "unet", "scheduler"))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    count = len(seeds)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    width, height = original.width // factor, original.height // factor

    def draw() -> torch.Tensor:
        return torch.cat([torch.randn(1, 4, height, width, generator=generator) for generator in generators])

    if (folder / "text_encoder_2").exists():
        embeds, pooled = sdxl_texts(folder, prompt)
        sides = [original.height, original.width]
        added = {
            "text_embeds": pooled.repeat_interleave(count, dim=0),
            "time_ids": torch.tensor([[*sides, 0, 0, *sides]], dtype=torch.float32).repeat(2 * count, 1),
        }
    else:
        embeds, added = sd_texts(folder, prompt), {}
    embeds = embeds.repeat_interleave(count, dim=0)

    scale = vae.config.scaling_factor
    kept = torch.cat([scale * vae.encode(pixels(original)).latent_dist.mean] * count)
    paint = vae.encode(pixels(painted)).latent_dist
    small = np.asarray(mask.convert("L").resize((width, height), PIL.Image.Resampling.LANCZOS)).astype(np.float32)
    weight = torch.from_numpy(small / max(small.max(), 1))

    scheduler_ = own if scheduler is None else getattr(diffusers, scheduler)
    noise_scheduler = scheduler_.from_config(own.config)
    noise_scheduler.set_timesteps(steps)
    begin = (steps - min(int(steps * strength), steps)) * noise_scheduler.order
    times = noise_scheduler.timesteps[begin:]
    if hasattr(noise_scheduler, "set_begin_index"):
        noise_scheduler.set_begin_index(begin)
    taken = inspect.signature(noise_scheduler.step).parameters
    further: dict[str, Any] = {"generator": generators} if "generator" in taken else {}

    if sample_mode == "sample":
        start = torch.cat([scale * paint.sample(generator) for generator in generators])
    elif sample_mode == "argmax":
        start = torch.cat([scale * paint.mean] * count)
    else:
        start = torch.zeros(count, 4, height, width)
    latents = noise_scheduler.add_noise(start, draw(), times[:1].repeat(count))
    for time in times:
        noised = noise_scheduler.add_noise(kept, draw(), time.repeat(count))
        latents = torch.lerp(noised, latents, weight)
        double = noise_scheduler.scale_model_input(torch.cat([latents] * 2), time)
        options = {"added_cond_kwargs": added} if added else {}
        without, with_ = unet(double, time, encoder_hidden_states=embeds, **options).sample.chunk(2)
        latents = noise_scheduler.step(without + guidance * (with_ - without), time, latents, **further).prev_sample
    found: np.ndarray[Any, Any] = torch.lerp(kept, latents, weight).numpy()
    return found
