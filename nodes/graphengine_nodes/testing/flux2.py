"""Small FLUX.2 models made on the spot, for tests of nodes: klein and dev.

Peculiar to the family: the text encoder's layers 9, 18 and 27 (dev: 10, 20, 30) are read, so it is as deep as the real
one and all the narrower; latents are normalised by the VAE's batch norm, whose numbers are drawn here too; pictures
for reference are PIL, of 64 pixels a side at least, and not seen by the text encoder. `is_distilled` of klein stands in
`model_index.json`; dev's tokenizer is a processor whose chat template has a system message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.testing import small, tokenizers
from graphengine_nodes.testing.z_image import small_qwen3

__all__ = ["flux2_model"]

WIDTH = 16
"""Of the text encoder's embeddings, three of which stand side by side."""


def flux2_model(folder: Path, seed: int = 0, klein: bool = True, distilled: bool = False) -> Path:
    """A model whose latents have the real shape: 32 channels at 1/8 of the size, packed two by two to 128.

    Args:
        klein: With Qwen3 and guidance by a negative prompt; without, dev: Mistral3 and an embedded guidance scale.
        distilled: Of klein: made for few steps, and no guidance whatever its scale.
    """
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
    from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline
    from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    words: Any = tokenizers.qwen_words() if klein else tokenizers.mistral_processor()
    transformer = Flux2Transformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=not klein,
    )
    components: dict[str, Any] = {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        "vae": _vae(4 * seed),
        "text_encoder": small_qwen3(words, WIDTH, 4 * seed + 1, 28, True) if klein else _mistral(words, 4 * seed + 1),
        "tokenizer": words,
        "transformer": small.sharpened(small.randomised(transformer, 4 * seed + 2, 0.3)),
    }
    made = Flux2KleinPipeline(**components, is_distilled=distilled) if klein else Flux2Pipeline(**components)
    return small.saved(made, folder)


def _vae(seed: int) -> Any:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        vae.bn.running_mean.copy_(torch.randn(128, generator=generator) * 0.1)
        vae.bn.running_var.copy_(2 + torch.rand(128, generator=generator))
    small.faded(small.randomised(vae, seed, 0.2))
    with torch.no_grad():
        vae.encoder.conv_out.weight.mul_(6)  # or a picture for reference moves next to nothing
    return vae


def _mistral(processor: Any, seed: int) -> Any:
    """Mistral3 with a vision tower of one layer, which moves no picture: prompts hold no pictures."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig

    words = processor.tokenizer
    text = MistralConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=31,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=WIDTH // 2,
        sliding_window=None,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8
    )
    config = Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=processor.image_token_id, spatial_merge_size=2
    )
    return small.randomised(Mistral3ForConditionalGeneration(config), seed, 0.3)
