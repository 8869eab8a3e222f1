"""UMT5, with which Wan reads prompts: from its files' names to transformers', and the configuration by the shapes.

It is T5 but for its positions, of which each block has a table of its own.
"""

from __future__ import annotations

from typing import Any

from graphengine_nodes.layouts.kinds import Kind, Spelling
from graphengine_nodes.layouts.names import Blocks, Names
from graphengine_nodes.layouts.places import Shapes
from graphengine_nodes.layouts.texts import LLAMA_CPP_POSITIONS, T5_POSITIONS, llama_cpp_places, t5_config, t5_places

NAMES = Names(
    {"token_embedding": "shared", "norm": "encoder.final_layer_norm"},
    (
        Blocks(
            "blocks",
            "encoder.block",
            {
                "norm1": "layer.0.layer_norm",
                "attn.q": "layer.0.SelfAttention.q",
                "attn.k": "layer.0.SelfAttention.k",
                "attn.v": "layer.0.SelfAttention.v",
                "attn.o": "layer.0.SelfAttention.o",
                "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
                "norm2": "layer.1.layer_norm",
                "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
                "ffn.fc1": "layer.1.DenseReluDense.wi_1",
                "ffn.fc2": "layer.1.DenseReluDense.wo",
            },
        ),
    ),
)
"""The names in Wan's own code."""


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of UMT5's encoder, by transformers' names."""
    return t5_config(shapes) | {"architectures": ["UMT5EncoderModel"], "model_type": "umt5"}


KINDS = (
    Kind(
        "UMT5",
        "",
        (
            Spelling(
                "transformers",
                (T5_POSITIONS.format(0), T5_POSITIONS.format(1)),
                ("text_encoders.umt5xxl.transformer.", "text_encoder.", ""),
                t5_places,
            ),
            Spelling(
                "llama.cpp", (LLAMA_CPP_POSITIONS.format(0), LLAMA_CPP_POSITIONS.format(1)), ("",), llama_cpp_places
            ),
            Spelling(
                "original", ("token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"), ("",), NAMES.places
            ),
        ),
        config,
        widths=("d_model", "vocab_size", "num_layers"),
        classes=("UMT5EncoderModel",),
    ),
)
