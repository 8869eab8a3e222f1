"""Stable Diffusion 3's transformers in one file."""

from __future__ import annotations

from typing import Any

import pytest

from graphengine import ModelError

from . import originals
from .originals import Tensors

CLASS = "SD3Transformer2DModel"
TINY: dict[str, Any] = {
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "pos_embed_max_size": 6,
    "dual_attention_layers": (0, 1),
    "qk_norm": "rms_norm",
}
MEDIUM: dict[str, Any] = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
MEDIUM_35 = MEDIUM | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
LARGE_35 = MEDIUM | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
RULES = (
    (r"^transformer_blocks\.", "joint_blocks."),
    (r"\.attn(2?)\.to_out\.0\.", r".x_block.attn\1.proj."),
    (r"\.attn\.to_add_out\.", ".context_block.attn.proj."),
    (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."),
    (r"\.attn(2?)\.norm_([qk])\.", r".x_block.attn\1.ln_\2."),
    (r"\.norm1\.linear\.", ".x_block.adaLN_modulation.1."),
    (r"\.norm1_context\.linear\.", ".context_block.adaLN_modulation.1."),
    (r"\.ff\.net\.0\.proj\.", ".x_block.mlp.fc1."),
    (r"\.ff\.net\.2\.", ".x_block.mlp.fc2."),
    (r"\.ff_context\.net\.0\.proj\.", ".context_block.mlp.fc1."),
    (r"\.ff_context\.net\.2\.", ".context_block.mlp.fc2."),
    (r"^pos_embed\.pos_embed$", "pos_embed"),
    (r"^pos_embed\.proj\.", "x_embedder.proj."),
    (r"^time_text_embed\.timestep_embedder\.", "t_embedder."),
    (r"^time_text_embed\.text_embedder\.", "y_embedder."),
    (r"_embedder\.linear_1\.", "_embedder.mlp.0."),
    (r"_embedder\.linear_2\.", "_embedder.mlp.2."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
)
JOINED = (
    (".x_block.attn.qkv", (".attn.to_q", ".attn.to_k", ".attn.to_v")),
    (".x_block.attn2.qkv", (".attn2.to_q", ".attn2.to_k", ".attn2.to_v")),
    (".context_block.attn.qkv", (".attn.add_q_proj", ".attn.add_k_proj", ".attn.add_v_proj")),
)


def sd3(tensors: Tensors, layers: int) -> Tensors:
    last = f"joint_blocks.{layers - 1}.context_block.adaLN_modulation."
    return originals.original(tensors, RULES, JOINED, ["final_layer.adaLN_modulation.", last])


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_stable_diffusion_3_is_read_as_diffusers_reads_it(prefix: str) -> None:
    tensors = originals.made(CLASS, TINY, "cpu").state_dict()
    file = originals.prefixed(prefix, sd3(tensors, TINY["num_layers"]))
    found = originals.read(file)
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("stable_diffusion_3", "original")
    given = originals.loaded(component, file)
    originals.assert_same(given, originals.converted("convert_sd3_transformer_checkpoint_to_diffusers", file))
    originals.assert_same(given, dict(tensors))
    originals.assert_config(component.config, originals.made(CLASS, TINY))


@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("config", [MEDIUM, MEDIUM_35, LARGE_35], ids=["3 medium", "3.5 medium", "3.5 large"])
def test_the_published_stable_diffusion_3_are_told_by_their_shapes(config: dict[str, Any], names: str) -> None:
    model = originals.made(CLASS, config)
    tensors = model.state_dict()
    found = originals.read(tensors if names == "diffusers" else sd3(tensors, config["num_layers"]))
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("stable_diffusion_3", names)
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes


def test_heads_that_nothing_tells_are_refused() -> None:
    config = {name: value for name, value in TINY.items() if name != "qk_norm"}
    with pytest.raises(ModelError, match="no shape tells attention_head_dim; give config"):
        originals.read(originals.made(CLASS, config).state_dict()).components["transformer"].config  # noqa: B018
