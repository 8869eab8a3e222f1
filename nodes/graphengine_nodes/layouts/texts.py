"""Text encoders (CLIP, OpenCLIP, T5): from their files' names to transformers', and the configuration by the shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from graphengine_nodes.layouts import unet
from graphengine_nodes.layouts.kinds import Kind, Spelling
from graphengine_nodes.layouts.places import Place, Places, Shapes, count, in_thirds

CLIP = re.compile(
    r"(text_model\.)?(embeddings\.(token|position)_embedding\.weight|final_layer_norm\.(weight|bias)"
    r"|encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|layer_norm[12]|mlp\.fc[12])\.(weight|bias))"
    r"|text_projection\.weight"
)
OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
T5 = re.compile(
    r"shared\.weight|encoder\.final_layer_norm\.weight|encoder\.block\.\d+\.layer\.(0\.layer_norm|1\.layer_norm"
    r"|0\.SelfAttention\.([qkvo]|relative_attention_bias)|1\.DenseReluDense\.(wi|wi_0|wi_1|wo))\.weight"
)

LLAMA_CPP = {
    "token_embd": "shared",
    "enc.output_norm": "encoder.final_layer_norm",
}
LLAMA_CPP_BLOCK = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
"""T5's layers in GGUF files that llama.cpp's converter wrote."""

T5_POSITIONS = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
LLAMA_CPP_POSITIONS = "enc.blk.{}.attn_rel_b.weight"
"""The tables of positions, of which T5 has one in its first block alone, and UMT5 one in each."""

WIDTHS = (768, 1024, 1280)
"""Widths of the published CLIPs, whose heads have 64 numbers."""


def clip_places(shapes: Shapes) -> Places:
    """Places in a file with transformers' names for CLIP, of all or of older versions."""
    named = [name for name in shapes if CLIP.fullmatch(name)]
    return {_inside(name): Place(name) for name in named}


def _inside(name: str) -> str:
    plain = name.startswith(("text_model.", "text_projection."))
    return name if plain else f"text_model.{name}"


def open_clip_places(shapes: Shapes) -> Places:
    """Places in a file with OpenCLIP's names: queries, keys and values in one piece, the projection transposed."""
    found = {f"text_model.{new}": Place(old) for old, new in OPEN_CLIP.items() if old in shapes}
    if "text_projection" in shapes:
        found["text_projection.weight"] = Place("text_projection", change="transposed")
    for number in range(count(shapes, "transformer.resblocks")):
        old, new = f"transformer.resblocks.{number}", f"text_model.encoder.layers.{number}"
        for kind in ("weight", "bias"):
            layers = {f"{old}.{there}.{kind}": f"{new}.{here}.{kind}" for there, here in OPEN_CLIP_LAYER.items()}
            found |= {here: Place(there) for there, here in layers.items() if there in shapes}
            if (joined := f"{old}.attn.in_proj_{kind}") in shapes:
                found |= in_thirds([f"{new}.self_attn.{one}_proj.{kind}" for one in "qkv"], joined, shapes)
    return found


def without_last_layer(found: Places) -> Places:
    """Places without the last layer and the projection: Stable Diffusion 2.x reads OpenCLIP's last layer but one.

    A file that was made of diffusers' text encoder, which lacks that layer already, lacks the projection too.
    """
    if "text_projection.weight" not in found:
        return found
    last = count(found, "text_model.encoder.layers") - 1
    unread = ("text_projection.", f"text_model.encoder.layers.{last}.")
    return {name: place for name, place in found.items() if not name.startswith(unread)}


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a CLIP text encoder, by transformers' names.

    All published ones but the narrowest were trained by OpenCLIP, with another activation.
    """
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    projection = shapes.get("text_projection.weight", (width,))
    found: dict[str, Any] = {
        "architectures": ["CLIPTextModelWithProjection" if "text_projection.weight" in shapes else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count(shapes, "text_model.encoder.layers"),
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "projection_dim": projection[0],
        "hidden_act": "gelu" if width > min(WIDTHS) else "quick_gelu",
        # The first and the last token of a prompt are the last two of the vocabulary.
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    return found | ({"num_attention_heads": width // 64} if width in WIDTHS else {})


def t5_places(shapes: Shapes) -> Places:
    """Places of T5's encoder, which has transformers' names everywhere; its embeddings may have the other name."""
    found = {name: Place(name) for name in shapes if T5.fullmatch(name)}
    if "shared.weight" not in found and "encoder.embed_tokens.weight" in shapes:
        found["shared.weight"] = Place("encoder.embed_tokens.weight")
    return found


def llama_cpp_places(shapes: Shapes) -> Places:
    """Places of T5's encoder in a GGUF file that llama.cpp's converter wrote."""
    layers = dict(LLAMA_CPP)
    for number in range(count(shapes, "enc.blk")):
        layers |= {f"enc.blk.{number}.{old}": f"encoder.block.{number}.{new}" for old, new in LLAMA_CPP_BLOCK.items()}
    return {f"{new}.weight": Place(f"{old}.weight") for old, new in layers.items() if f"{old}.weight" in shapes}


def t5_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of T5's encoder, by transformers' names; all but the tokens follows from the shapes."""
    vocabulary, width = shapes["shared.weight"]
    layer = "encoder.block.0.layer"
    buckets, heads = shapes[f"{layer}.0.SelfAttention.relative_attention_bias.weight"]
    gated = f"{layer}.1.DenseReluDense.wi_0.weight" in shapes
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{layer}.0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[f"{layer}.1.DenseReluDense.wo.weight"][1],
        "num_layers": count(shapes, "encoder.block"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "is_encoder_decoder": False,
        "use_cache": False,
    }


# --- which text encoder of a model one is -----------------------------------------------------------------------------

CLIP_PREFIXES = (
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoder.",
    "text_encoder_2.",
    "",
)
OPEN_CLIP_PREFIXES = (
    "cond_stage_model.model.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
    "",
)

SECOND = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
"""What stands before the names of Stable Diffusion 2.x's text encoder: the second in SD-Turbo, and before those of
SDXL's second one in the refiner."""

WHOLE = "text_encoders."
"""What stands before the names of text encoders in ComfyUI's whole files."""

COMPONENTS = {
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
}
"""The component of a model that a text encoder is, by the beginning of its names."""


def encoders_in(names: Iterable[str]) -> Mapping[str, str]:
    """Which text encoder each is in a file without a denoiser that has several; see `Kind.encoders`."""
    if any(name.startswith(f"{WHOLE}clip_g.") for name in names):
        return {"clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"}
    return {"t5xxl": "text_encoder_2"}


def component(prefix: str, encoders: Mapping[str, str], shapes: Shapes) -> str:
    """Which component of a model a text encoder is; empty for one alone in its file.

    Args:
        prefix: What stands before its names.
        encoders: See `Kind`, of the file's denoiser.
        shapes: All tensors of the file.
    """
    if prefix.startswith(WHOLE):
        return encoders.get(prefix.split(".")[1], "text_encoder")
    if prefix == SECOND[1] and unet.is_xl(shapes):
        return "text_encoder_2"
    return next((name for start, name in COMPONENTS.items() if prefix.startswith(start)), "")


def as_read(found: Places, prefix: str, name: str, encoders: Mapping[str, str], shapes: Shapes) -> Places:
    """The places of a text encoder that a model reads, in a file with other components; see `component`."""
    if prefix in SECOND and not unet.is_xl(shapes):
        found = without_last_layer(found)
    if name != "text_encoder" or not any(one.startswith("text_model.") for one in found):
        return found
    if "clip_g" not in encoders:
        return without_projection(found)
    return with_projection(found, {})[0]


def with_projection(found: Places, shapes: Shapes) -> tuple[Places, Shapes]:
    """Places of a CLIP, and shapes, with a projection: Stable Diffusion 3 reads those of both CLIPs, of which the first
    one's changes nothing where a file lacks it."""
    if PROJECTION in found or NORM not in found:
        return found, shapes
    identity = Place(found[NORM].name, change="identity")
    squares = {PROJECTION: identity.shape(shapes[NORM])} if shapes else {}
    return {PROJECTION: identity, **found}, {**shapes, **squares}


def without_projection(found: Places) -> Places:
    """Places without the projection of a CLIP."""
    return {name: place for name, place in found.items() if not name.startswith("text_projection.")}


PROJECTION, NORM = "text_projection.weight", "text_model.final_layer_norm.weight"

_CLIP = [(f"{start}embeddings.position_embedding.weight",) for start in ("text_model.", "")]

KINDS = (
    Kind(
        "clip",
        "",
        (
            *(Spelling("transformers", signs, CLIP_PREFIXES, clip_places) for signs in _CLIP),
            Spelling(
                "OpenCLIP",
                ("positional_embedding", "ln_final.weight"),
                OPEN_CLIP_PREFIXES,
                open_clip_places,
                says={"hidden_act": "gelu"},
            ),
        ),
        clip_config,
        unseen=("num_attention_heads",),
        widths=("hidden_size", "vocab_size"),
        classes=("CLIPTextModel", "CLIPTextModelWithProjection"),
    ),
    Kind(
        "t5",
        "",
        (
            Spelling(
                "transformers",
                (T5_POSITIONS.format(0),),
                ("text_encoders.t5xxl.transformer.", "text_encoder_2.", ""),
                t5_places,
                (T5_POSITIONS.format(1),),
            ),
            Spelling(
                "llama.cpp",
                ("enc.blk.0.attn_q.weight", "enc.output_norm.weight"),
                ("",),
                llama_cpp_places,
                (LLAMA_CPP_POSITIONS.format(1),),
            ),
        ),
        t5_config,
        widths=("d_model", "vocab_size"),
        classes=("T5EncoderModel",),
    ),
)
