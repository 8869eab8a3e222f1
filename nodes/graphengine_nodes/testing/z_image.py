"""Small Z-Image models made on the spot, for tests of nodes.

Peculiar to the family: the transformer pads pictures and prompts to 32 tokens each with tokens of its own, and its
time embedding has inner layers of a fixed width (1 MB of the folder). The text encoder's last but one layer is read, so
the last one moves nothing. The ControlNet has no time embedding and no refiners: its pipeline's constructor lends it
the transformer's modules, so it must not be shared by pipelines of two transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.testing import small, tokenizers

__all__ = ["small_qwen3", "z_image_controlnet", "z_image_model"]

WIDTH = 32
"""Of the text encoder's embeddings and of the transformer."""


def z_image_model(folder: Path, seed: int = 0) -> Path:
    """A model whose latents have the real shape: 16 channels at 1/8 of the size, patches of 2 x 2."""
    from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
    from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    words = tokenizers.qwen_words()
    transformer = ZImageTransformer2DModel(
        **_shape(), n_layers=2, cap_feat_dim=WIDTH, axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64]
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=small.small_vae(4 * seed),
        text_encoder=small_qwen3(words, WIDTH, 4 * seed + 1),
        tokenizer=words,
        transformer=small.randomised(transformer, 4 * seed + 2, 0.15),
    )
    return small.saved(pipeline, folder)


def z_image_controlnet(folder: Path, seed: int = 0, inpaint: bool = False) -> Path:
    """A ControlNet for `z_image_model` that sees an encoded picture; with 16 input channels, as the first union's.

    Args:
        inpaint: As the union of version 2.0: it sees a mask and a masked picture too, in 33 channels, and its control
            layers stand in the noise refiner. The pipeline for inpainting takes no other.
    """
    from diffusers.models.controlnets.controlnet_z_image import ZImageControlNetModel

    net = ZImageControlNetModel(
        **_shape(),
        control_layers_places=[0, 1],
        control_refiner_layers_places=[0],
        control_in_dim=33 if inpaint else 16,
        add_control_noise_refiner="control_noise_refiner" if inpaint else None,
    )
    small.randomised(net, 4 * seed + 3, 0.15).save_pretrained(folder)
    return folder


def small_qwen3(words: Any, width: int, seed: int, layers: int = 3, head: bool = False) -> Any:
    """Qwen3 for a tokenizer.

    Args:
        head: With the layer that predicts tokens, as FLUX.2 klein has it; it moves no picture.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        tie_word_embeddings=head,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    return small.randomised((Qwen3ForCausalLM if head else Qwen3Model)(config), seed, 0.3)


def _shape() -> dict[str, Any]:
    """What a transformer and a ControlNet have in common."""
    return {"dim": WIDTH, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
