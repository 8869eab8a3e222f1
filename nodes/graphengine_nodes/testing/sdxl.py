"""Small Stable Diffusion XL models made on the spot, for tests of nodes.

They need no download and a second or less; their weights are drawn from a seed, so that two calls make the same. Their
pictures are patterns without a meaning that every part of the model moves. LoRAs and checkpoints in one file are made
by `testing.lora` and `testing.single_file` from their folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.weights.files import TINY

__all__ = ["xl_controlnet", "xl_model", "xl_refiner", "xl_union_controlnet"]

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
    "scaling_factor": 0.13025,
    "mid_block_add_attention": False,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

SIZES = (32, 48)
"""Widths of the two text encoders' embeddings: they must differ, as they do in real models."""


def xl_model(folder: Path, seed: int = 0, channels: int = 4, zeros: bool = True, aesthetics: bool = False) -> Path:
    """A model in diffusers layout; pictures are 64 x 64 by default.

    Args:
        channels: What the denoiser takes: 4, or 9 for inpainting.
        zeros: An absent negative prompt is zeros; else the empty one.
        aesthetics: Image to image and inpainting take an aesthetic score in place of the target size.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    generator = torch.Generator().manual_seed(seed)
    words = TINY / "model" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True)
    second = CLIPTokenizer.from_pretrained(words, local_files_only=True, pad_token="!")
    vae = AutoencoderKL(**VAE)
    model: Any = StableDiffusionXLPipeline(
        vae=drawn(vae, generator, 0.15),
        text_encoder=drawn(CLIPTextModel(_text(SIZES[0], tokenizer)), generator, 0.3),
        text_encoder_2=drawn(CLIPTextModelWithProjection(_text(SIZES[1], tokenizer)), generator, 0.3),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=drawn(_unet(channels, 5 if aesthetics else 6), generator, 0.1),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    if aesthetics:
        model.register_to_config(requires_aesthetics_score=True)
    model.save_pretrained(folder)
    return folder


def xl_refiner(folder: Path, seed: int = 1) -> Path:
    """A refiner for `xl_model` in diffusers layout: the second text encoder alone, and an aesthetic score."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
        StableDiffusionXLImg2ImgPipeline,
    )
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    generator = torch.Generator().manual_seed(seed)
    words = TINY / "model" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True, pad_token="!")
    model: Any = StableDiffusionXLImg2ImgPipeline(
        vae=drawn(AutoencoderKL(**VAE), generator, 0.15),
        text_encoder=None,  # type: ignore[arg-type] # as published
        text_encoder_2=drawn(CLIPTextModelWithProjection(_text(SIZES[1], tokenizer)), generator, 0.3),
        tokenizer=None,  # type: ignore[arg-type]
        tokenizer_2=tokenizer,
        unet=drawn(_unet(4, 5, SIZES[1]), generator, 0.1),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    model.save_pretrained(folder)
    return folder


def xl_controlnet(folder: Path, seed: int = 0) -> Path:
    """A ControlNet for `xl_model`: its picture moves pixels."""
    import torch
    from diffusers.models.controlnets.controlnet import ControlNetModel

    net = ControlNetModel.from_unet(
        _unet(4, 6), conditioning_channels=3, conditioning_embedding_out_channels=(8, 8, 8, 16)
    )
    drawn(net, torch.Generator().manual_seed(seed), 0.1)
    # At the denoiser's own scale the control picture would move pixels by a millionth only.
    drawn(net.controlnet_cond_embedding, torch.Generator().manual_seed(seed), 0.3)
    net.save_pretrained(folder)
    return folder


def xl_union_controlnet(folder: Path, seed: int = 0, modes: int = 6) -> Path:
    """A union ControlNet for `xl_model`: its picture and its mode move pixels."""
    import torch
    from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

    config = dict(_unet(4, 6).config)
    names = ["in_channels", "block_out_channels", "down_block_types", "layers_per_block", "attention_head_dim"]
    names += ["transformer_layers_per_block", "norm_num_groups", "cross_attention_dim", "use_linear_projection"]
    names += ["addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"]
    net: Any = ControlNetUnionModel(
        **{name: config[name] for name in names},
        conditioning_embedding_out_channels=(8, 8, 8, 16),
        num_control_type=modes,
        num_trans_channel=16,
        num_trans_head=2,
        num_proj_channel=16,
    )
    drawn(net, torch.Generator().manual_seed(seed), 0.1)
    drawn(net.controlnet_cond_embedding, torch.Generator().manual_seed(seed), 0.3)
    with torch.no_grad():
        net.task_embedding.mul_(20)  # or the mode moves next to nothing
    net.save_pretrained(folder)
    return folder


def drawn(module: Any, generator: Any, std: float) -> Any:
    """Draw every matrix and bias of a module; libraries begin with values that make pictures without contrast."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module.eval()


def _text(size: int, tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=4,
        num_attention_heads=2,
        projection_dim=size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(channels: int, numbers: int, width: int = sum(SIZES)) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        cross_attention_dim=width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * numbers + SIZES[1],
    )
