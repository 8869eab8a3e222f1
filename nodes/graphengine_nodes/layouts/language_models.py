"""Language models that read prompts (Qwen3, Qwen2.5-VL, Mistral): from their files' names to transformers', and the
configuration by the shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from graphengine_nodes.layouts.kinds import Kind, Spelling
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

LAYER = (
    r"embed_tokens\.weight|norm\.weight|layers\.\d+\.(self_attn\.([qkvo]_proj\.(weight|bias)|[qk]_norm\.weight)"
    r"|mlp\.(gate|up|down)_proj\.weight|(input|post_attention)_layernorm\.weight)"
)
"""The names of all these models inside transformers' `model`."""

VISUAL = (
    r"visual\.(patch_embed\.proj|merger\.(ln_q|mlp\.[02])|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)"
    r"|mlp\.(gate|up|down)_proj))\.(weight|bias)"
)
"""The side of Qwen2.5-VL that sees pictures."""

HEAD = "lm_head.weight"
"""What predicts tokens; small models have the table of embeddings in its place."""

LLAMA_CPP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LLAMA_CPP_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Qwen3's layers in GGUF files that llama.cpp's converter wrote."""


def _renamed(*rules: tuple[str, str, str]) -> Callable[[Shapes], Places]:
    """Places of names by rules: what stands before them in the file, the names, and what stands there in the model."""
    known = [(re.compile(rf"{re.escape(old)}(?P<name>{names})"), new) for old, names, new in rules]

    def places(shapes: Shapes) -> Places:
        found = {}
        for name in shapes:
            for pattern, new in known:
                if match := pattern.fullmatch(name):
                    found[f"{new}{match['name']}"] = Place(name)
        return found

    return places


def llama_cpp_places(shapes: Shapes) -> Places:
    """Places in a GGUF file that llama.cpp's converter wrote."""
    layers = dict(LLAMA_CPP)
    for number in range(count(shapes, "blk")):
        layers |= {f"blk.{number}.{old}": f"model.layers.{number}.{new}" for old, new in LLAMA_CPP_LAYER.items()}
    return {f"{new}.weight": Place(f"{old}.weight") for old, new in layers.items() if f"{old}.weight" in shapes}


def _prefixes(*names: str) -> tuple[str, ...]:
    """What may stand before the names: in ComfyUI's whole files, in others with several components, and nothing."""
    return (*(f"text_encoders.{name}.transformer." for name in names), "text_encoder.", "")


def _sizes(shapes: Shapes, model: str, head: int) -> dict[str, Any]:
    """The sizes of a language model."""
    first = f"{model}layers.0."
    vocabulary, width = shapes[f"{model}embed_tokens.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{first}mlp.gate_proj.weight"][0],
        "num_hidden_layers": count(shapes, f"{model}layers"),
        "num_attention_heads": shapes[f"{first}self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes[f"{first}self_attn.k_proj.weight"][0] // head,
        "hidden_act": "silu",
        "tie_word_embeddings": HEAD not in shapes,
    }


# --- Qwen3 ------------------------------------------------------------------------------------------------------------

QWEN3_WIDTHS = (1024, 2048, 2560, 4096, 5120)


def qwen3_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of Qwen3, by transformers' names; its positions are known for the published widths alone."""
    head = shapes["model.layers.0.self_attn.q_norm.weight"][0]
    found = _sizes(shapes, "model.", head) | {
        "architectures": ["Qwen3ForCausalLM", "Qwen3Model"],
        "model_type": "qwen3",
        "head_dim": head,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40960,
        "attention_bias": False,
    }
    return found | ({"rope_theta": 1000000.0} if found["hidden_size"] in QWEN3_WIDTHS else {})


# --- Qwen2.5-VL -------------------------------------------------------------------------------------------------------

QWEN_VL = (3584, 1280)
"""The widths of Qwen2.5-VL 7B: of the text's and of the picture's side."""


def qwen2_5_vl_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of Qwen2.5-VL, by transformers' names; the shapes tell heads and positions of the published
    model with 7 B parameters alone."""
    model, visual = "model.language_model.", "model.visual."
    patch, width = shapes[f"{visual}patch_embed.proj.weight"], shapes[f"{visual}patch_embed.proj.weight"][0]
    found: dict[str, Any] = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": HEAD not in shapes,
    }
    if (shapes[f"{model}norm.weight"][0], width) != QWEN_VL:
        return found
    words = _sizes(shapes, model, 128) | {
        "model_type": "qwen2_5_vl_text",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
        "use_sliding_window": False,
    }
    pictures = {
        "model_type": "qwen2_5_vl",
        "depth": count(shapes, f"{visual}blocks"),
        "hidden_size": width,
        "intermediate_size": shapes[f"{visual}blocks.0.mlp.gate_proj.weight"][0],
        "num_heads": 16,
        "in_channels": patch[1],
        "temporal_patch_size": patch[2],
        "patch_size": patch[3],
        "spatial_merge_size": 2,
        "out_hidden_size": shapes[f"{visual}merger.mlp.2.weight"][0],
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return found | {"text_config": words, "vision_config": pictures}


# --- Mistral ----------------------------------------------------------------------------------------------------------

MISTRAL_SMALL = (131072, 5120)
"""The vocabulary and the width of Mistral Small 3, with which FLUX.2 dev reads prompts."""

READ = 30
"""The layer whose output FLUX.2 dev reads last: a model that ends with it gives that output normalised, and not as it
is."""


def mistral_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a Mistral without its side for pictures, by transformers' names; heads and positions are
    those of Mistral Small 3."""
    if shapes["model.embed_tokens.weight"] != MISTRAL_SMALL:
        return {"architectures": ["MistralForCausalLM", "MistralModel"], "model_type": "mistral"}
    found = _sizes(shapes, "model.", 128)
    if found["num_hidden_layers"] <= READ:
        raise LookupError(f"'model.layers.{READ}', without which the output of the layer before it is normalised")
    return found | {
        "architectures": ["MistralForCausalLM", "MistralModel"],
        "model_type": "mistral",
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }


_NORMED, _BIASED = "layers.0.self_attn.q_norm.weight", "layers.0.self_attn.q_proj.bias"

KINDS = (
    Kind(
        "Qwen3",
        "",
        (
            Spelling(
                "transformers",
                ("model.embed_tokens.weight", f"model.{_NORMED}"),
                _prefixes("qwen3_4b", "qwen3_8b"),
                _renamed(("model.", LAYER, "model."), ("", re.escape(HEAD), "")),
            ),
            Spelling(
                "transformers, the inner model",
                ("embed_tokens.weight", _NORMED),
                _prefixes(),
                _renamed(("", LAYER, "model.")),
            ),
            Spelling("llama.cpp", ("token_embd.weight", "blk.0.attn_q_norm.weight"), ("",), llama_cpp_places),
        ),
        qwen3_config,
        unseen=("rope_theta",),
        widths=("hidden_size", "vocab_size", "num_hidden_layers"),
        classes=("Qwen3ForCausalLM", "Qwen3Model"),
    ),
    Kind(
        "Qwen2.5-VL",
        "",
        (
            Spelling(
                "transformers before 4.52",
                ("model.embed_tokens.weight", "visual.blocks.0.mlp.gate_proj.weight", f"model.{_BIASED}"),
                _prefixes("qwen25_7b"),
                _renamed(("model.", LAYER, "model.language_model."), ("", VISUAL, "model."), ("", re.escape(HEAD), "")),
            ),
            Spelling(
                "transformers",
                ("model.language_model.embed_tokens.weight", "model.visual.blocks.0.mlp.gate_proj.weight"),
                _prefixes(),
                _renamed(
                    ("model.language_model.", LAYER, "model.language_model."),
                    ("model.", VISUAL, "model."),
                    ("", re.escape(HEAD), ""),
                ),
            ),
        ),
        qwen2_5_vl_config,
        unseen=("text_config", "vision_config"),
        classes=("Qwen2_5_VLForConditionalGeneration",),
    ),
    Kind(
        "Mistral",
        "",
        (
            Spelling(
                "transformers",
                ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"),
                _prefixes("mistral3_24b"),
                _renamed(("model.", LAYER, "model."), ("", re.escape(HEAD), "")),
                (f"model.{_NORMED}", f"model.{_BIASED}"),
            ),
        ),
        mistral_config,
        unseen=("rope_theta",),
        widths=("hidden_size", "vocab_size", "num_hidden_layers"),
        classes=("MistralForCausalLM", "MistralModel"),
    ),
)
