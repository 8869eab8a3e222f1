"""FLUX.2's transformers in one file."""

from __future__ import annotations

from typing import Any

import pytest

from . import originals
from .originals import Tensors

CLASS = "Flux2Transformer2DModel"
TINY: dict[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "timestep_guidance_channels": 8,
    "in_channels": 16,
    "axes_dims_rope": (4, 4, 4, 4),
}
KLEIN_4B: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
KLEIN_9B: dict[str, Any] = {
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
    "guidance_embeds": False,
}
QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
RULES = (
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.", r"single_blocks.\1.linear1."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.", r"single_blocks.\1.linear2."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"attn\.norm_q\.weight", "img_attn.norm.query_norm.scale"),
    (r"attn\.norm_k\.weight", "img_attn.norm.key_norm.scale"),
    (r"attn\.norm_added_q\.weight", "txt_attn.norm.query_norm.scale"),
    (r"attn\.norm_added_k\.weight", "txt_attn.norm.key_norm.scale"),
    (r"\.attn\.to_out\.0\.", ".img_attn.proj."),
    (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
    (r"\.ff\.linear_in\.", ".img_mlp.0."),
    (r"\.ff\.linear_out\.", ".img_mlp.2."),
    (r"\.ff_context\.linear_in\.", ".txt_mlp.0."),
    (r"\.ff_context\.linear_out\.", ".txt_mlp.2."),
    (r"^x_embedder\.", "img_in."),
    (r"^context_embedder\.", "txt_in."),
    (r"^time_guidance_embed\.timestep_embedder\.", "time_in."),
    (r"^time_guidance_embed\.guidance_embedder\.", "guidance_in."),
    (r"_in\.linear_1\.", "_in.in_layer."),
    (r"_in\.linear_2\.", "_in.out_layer."),
    (r"_modulation(_img|_txt|)\.linear\.", r"_modulation\1.lin."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
)
JOINED = ((".img_attn.qkv", [f".{part}" for part in QKV]), (".txt_attn.qkv", [f".{part}" for part in ADDED]))


def flux2(tensors: Tensors) -> Tensors:
    return originals.original(tensors, RULES, JOINED, ["final_layer.adaLN_modulation."])


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "klein"])
def test_flux2_is_read_as_diffusers_reads_it(guidance: bool) -> None:
    config = TINY | {"guidance_embeds": guidance}
    tensors = originals.made(CLASS, config, "cpu").state_dict()
    file = flux2(tensors)
    found = originals.read(file, {"config": '{"transformer": {"axes_dims_rope": [4, 4, 4, 4]}}'})
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("flux2", "original")
    given = originals.loaded(component, file)
    originals.assert_same(given, originals.converted("convert_flux2_transformer_checkpoint_to_diffusers", file))
    originals.assert_same(given, dict(tensors))
    originals.assert_config(component.config, originals.made(CLASS, config))


def test_norms_called_weights_are_read_too() -> None:
    file = flux2(originals.made(CLASS, TINY).state_dict())
    again = {name.replace(".scale", ".weight"): tensor for name, tensor in file.items()}
    one, other = (originals.read(names).components["transformer"].places for names in (file, again))
    assert one.keys() == other.keys()


@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("config", [{}, KLEIN_4B, KLEIN_9B], ids=["dev", "klein 4B", "klein 9B"])
def test_the_published_flux2_are_told_by_their_shapes(config: dict[str, Any], names: str) -> None:
    model = originals.made(CLASS, config)
    tensors = model.state_dict()
    file = tensors if names == "diffusers" else originals.prefixed("model.diffusion_model.", flux2(tensors))
    found = originals.read(file)
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("flux2", names)
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes
