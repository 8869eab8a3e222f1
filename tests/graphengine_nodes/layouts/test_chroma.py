"""Chroma's transformer in one file."""

from __future__ import annotations

from typing import Any

import pytest

from . import originals
from .originals import Tensors

CLASS = "ChromaTransformer2DModel"
TINY: dict[str, Any] = {  # of its own width: diffusers' converter reads no other
    "num_layers": 1,
    "num_single_layers": 1,
    "joint_attention_dim": 24,
    "in_channels": 16,
    "approximator_num_channels": 8,
    "approximator_hidden_dim": 12,
    "approximator_layers": 2,
}
RULES = (
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^single_transformer_blocks\.", "single_blocks."),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"attn\.norm_q\.weight", "img_attn.norm.query_norm.scale"),
    (r"attn\.norm_k\.weight", "img_attn.norm.key_norm.scale"),
    (r"attn\.norm_added_q\.weight", "txt_attn.norm.query_norm.scale"),
    (r"attn\.norm_added_k\.weight", "txt_attn.norm.key_norm.scale"),
    (r"\.attn\.to_out\.0\.", ".img_attn.proj."),
    (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
    (r"\.ff\.net\.0\.proj\.", ".img_mlp.0."),
    (r"\.ff\.net\.2\.", ".img_mlp.2."),
    (r"\.ff_context\.net\.0\.proj\.", ".txt_mlp.0."),
    (r"\.ff_context\.net\.2\.", ".txt_mlp.2."),
    (r"^x_embedder\.", "img_in."),
    (r"^context_embedder\.", "txt_in."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^(distilled_guidance_layer\.layers\.\d+)\.linear_1\.", r"\1.in_layer."),
    (r"^(distilled_guidance_layer\.layers\.\d+)\.linear_2\.", r"\1.out_layer."),
    (r"^(distilled_guidance_layer\.norms\.\d+)\.weight", r"\1.scale"),
)
QKV = (".attn.to_q", ".attn.to_k", ".attn.to_v")


def chroma(tensors: Tensors) -> Tensors:
    single = {name: tensor for name, tensor in tensors.items() if name.startswith("single_")}
    rest = {name: tensor for name, tensor in tensors.items() if name not in single}
    added = (".attn.add_q_proj", ".attn.add_k_proj", ".attn.add_v_proj")
    return originals.original(rest, RULES, [(".img_attn.qkv", QKV), (".txt_attn.qkv", added)]) | originals.original(
        single, RULES, [(".linear1", (*QKV, ".proj_mlp"))]
    )


def test_chroma_is_read_as_diffusers_reads_it() -> None:
    tensors = originals.made(CLASS, TINY, "cpu").state_dict()
    file = chroma(tensors)
    assert "single_blocks.0.linear1.weight" in file
    found = originals.read(file)
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("chroma", "original")
    given = originals.loaded(component, file)
    originals.assert_same(given, originals.converted("convert_chroma_transformer_checkpoint_to_diffusers", file))
    originals.assert_same(given, dict(tensors))
    originals.assert_config(component.config, originals.made(CLASS, TINY))


@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_the_published_chroma_is_told_by_its_shapes(names: str) -> None:
    model = originals.made(CLASS, {})
    tensors = model.state_dict()
    file = originals.prefixed("model.diffusion_model.", tensors if names == "diffusers" else chroma(tensors))
    found = originals.read(file)
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("chroma", names)
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes
