"""Models of full size with random weights, which cost as much to run as published ones and need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from graphengine_nodes.weights.files import TINY
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
OPEN_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def stable_diffusion(folder: Path, device: str) -> str:
    """Stable Diffusion 1.5: 860 million numbers in its denoiser."""
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = _vae(64, 0.18215)
        text = CLIPTextModel(_text(CLIP_L, "quick_gelu", 768))
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False)
    parts = {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": _tokenizer(), "scheduler": scheduler}
    checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return _saved(folder, StableDiffusionPipeline(**parts, **checker))


def stable_diffusion_xl(folder: Path, device: str) -> str:
    """Stable Diffusion XL 1.0: 2.6 billion numbers in its denoiser."""
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        vae = _vae(128, 0.13025)
        first = CLIPTextModel(_text(CLIP_L, "quick_gelu", 768))
        second = CLIPTextModelWithProjection(_text(OPEN_CLIP_G, "gelu", 1280))
    scheduler = EulerDiscreteScheduler(**NOISE, timestep_spacing="leading")
    parts = {"unet": unet, "vae": vae, "text_encoder": first, "text_encoder_2": second, "scheduler": scheduler}
    words = {"tokenizer": _tokenizer(), "tokenizer_2": _tokenizer()}
    return _saved(folder, StableDiffusionXLPipeline(**parts, **words, add_watermarker=False))


def _vae(latent: int, scaling: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=8 * latent,
        scaling_factor=scaling,
    )


def _tokenizer() -> CLIPTokenizer:
    """The tokenizer of `tiny`: it knows fewer words, and gives as many tokens."""
    return CLIPTokenizer.from_pretrained(TINY / "model" / "tokenizer", local_files_only=True)


def _text(sizes: dict[str, int], activation: str, projection: int) -> CLIPTextConfig:
    tokens = _tokenizer()
    ends = {name: getattr(tokens, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(vocab_size=49408, **sizes, hidden_act=activation, projection_dim=projection, **ends)


def _saved(folder: Path, pipeline: Any) -> str:
    pipeline.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)
