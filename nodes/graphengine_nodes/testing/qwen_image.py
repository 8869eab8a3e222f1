"""Small Qwen-Image models made on the spot, for tests of nodes: plain, edit, edit plus, ControlNet, and 2.1.

Peculiar to the family: VAEs are made for videos (a picture is one frame, and latents are [n, 16, 1, h, w]); edit models
resize every picture to an area of 1024 x 1024 for the VAE, and their text encoder sees it too, which is why their
`image processor` here makes the pictures smaller than the real one does. Guidance acts only with a negative prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.testing import small, tokenizers

__all__ = ["qwen_image_21_model", "qwen_image_controlnet", "qwen_image_edit_model", "qwen_image_model"]

WIDTH = 32
"""Of the text encoder's embeddings and of the transformer."""


def qwen_image_model(folder: Path, seed: int = 0) -> Path:
    """A model whose latents have the real shape: 16 channels at 1/8 of the size, packed two by two."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline

    return small.saved(QwenImagePipeline(**_components(seed)), folder)


def qwen_image_edit_model(folder: Path, seed: int = 0, plus: bool = False) -> Path:
    """A model that edits a picture, or (`plus`) several, which the text encoder and the VAE see.

    A call takes seconds and not milliseconds, since the pipeline encodes every picture at about 1024 x 1024 pixels.
    """
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import QwenImageEditPipeline
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import QwenImageEditPlusPipeline
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    components = _components(seed)
    size = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    words = components["tokenizer"]
    pictures, videos = Qwen2VLImageProcessor(size=size), Qwen2VLVideoProcessor(size=size)
    both: Any = Qwen2VLProcessor
    processor = both(pictures, words, videos, chat_template=tokenizers.CHAT)
    kind: Any = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    return small.saved(kind(**components, processor=processor), folder)


def qwen_image_controlnet(folder: Path, seed: int = 0, inpaint: bool = False) -> Path:
    """A ControlNet for `qwen_image_model` that sees an encoded picture, as InstantX's union.

    Args:
        inpaint: As InstantX's for inpainting: it sees a masked picture and its mask, in four channels more.
    """
    import torch
    from diffusers.models.controlnets.controlnet_qwenimage import QwenImageControlNetModel

    net = small.randomised(
        QwenImageControlNetModel(**_shape(1), extra_condition_channels=4 if inpaint else 0), 4 * seed + 3, 0.3
    )
    with torch.no_grad():
        net.controlnet_x_embedder.weight.mul_(3)  # or the control picture moves next to nothing
    net.save_pretrained(folder)
    return folder


def _components(seed: int) -> dict[str, Any]:
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    words = tokenizers.qwen_words()
    # As published, but for the last step's sigma: with one step it would divide by zero.
    shift = {"base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    vae = AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential", **shift),
        "vae": small.faded(small.randomised(vae, 4 * seed, 0.3), 1.0),
        "text_encoder": small_qwen25_vl(words, WIDTH, 4 * seed + 1),
        "tokenizer": words,
        "transformer": small.randomised(QwenImageTransformer2DModel(**_shape(2)), 4 * seed + 2, 0.3),
    }


def small_qwen25_vl(words: Any, width: int, seed: int) -> Any:
    """Qwen2.5-VL for a tokenizer, with a vision tower of two layers."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            **_ends(words),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": width,
            "fullatt_block_indexes": [1],
        },
        **_marks(words),
    )
    return small.randomised(Qwen2_5_VLForConditionalGeneration(config), seed, 0.3)


def _ends(words: Any) -> dict[str, Any]:
    return {"bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}


def _marks(words: Any) -> dict[str, Any]:
    """The tokens between which, and in whose place, pictures stand."""
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    marks = {key: words.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names, strict=True)}
    return marks | {"tie_word_embeddings": True}


def _shape(layers: int) -> dict[str, Any]:
    """What a transformer and a ControlNet have in common."""
    return {
        "num_layers": layers,
        "attention_head_dim": WIDTH // 2,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (4, 6, 6),
    }


def qwen_image_21_model(folder: Path, seed: int = 0) -> Path:
    """A model of Qwen-Image 2.1: 64 channels at 1/16 of the size, not packed, and pictures with transparency.

    There is no tokenizer beside the processor. References are resized to the area of the call's `output_resolution`.
    """
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
    from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    words = tokenizers.qwen_words()
    half: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    both: Any = Qwen3VLProcessor
    pictures = Qwen2VLImageProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}, **half)
    encoder = Qwen3VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": WIDTH // 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            **_ends(words),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_marks(words),
    )
    vae = AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1)
    transformer = QwenImage21Transformer2DModel(
        num_layers=2,
        attention_head_dim=WIDTH // 2,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=small.faded(small.randomised(vae, 4 * seed, 0.3), 0.6),
        text_encoder=small.randomised(Qwen3VLForConditionalGeneration(encoder), 4 * seed + 1, 0.3),
        processor=both(pictures, words, Qwen3VLVideoProcessor(), chat_template=tokenizers.CHAT),
        transformer=small.randomised(transformer, 4 * seed + 2, 0.3),
    )
    return small.saved(pipeline, folder)
