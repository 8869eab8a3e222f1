"""Wan's transformers in one file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphengine import ModelError

from . import originals
from .originals import Tensors

CLASS = "WanTransformer3DModel"
TINY: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "text_dim": 24,
    "freq_dim": 16,
    "ffn_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
}
PICTURES: dict[str, Any] = {"image_dim": 12, "added_kv_proj_dim": 16}
PUBLISHED: dict[str, dict[str, Any]] = {
    "2.1 1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "2.1 14B": {},
    "2.1 14B of a picture": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "2.1 14B of two pictures": {
        "in_channels": 36,
        "image_dim": 1280,
        "added_kv_proj_dim": 5120,
        "pos_embed_seq_len": 514,
    },
    "2.2 14B of a picture": {"in_channels": 36},
    "2.2 5B": {
        "num_attention_heads": 24,
        "ffn_dim": 14336,
        "num_layers": 30,
        "in_channels": 48,
        "out_channels": 48,
    },
}
RULES = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
    (r"^condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
    (r"^condition_embedder\.image_embedder\.pos_embed$", "img_emb.emb_pos"),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"_attn\.to_([qkv])\.", r"_attn.\1."),
    (r"_attn\.to_out\.0\.", "_attn.o."),
    (r"_attn\.add_([kv])_proj\.", r"_attn.\1_img."),
    (r"_attn\.norm_added_k\.", "_attn.norm_k_img."),
)


def wan(tensors: Tensors) -> Tensors:
    return originals.original(tensors, RULES)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("pictures", [{}, PICTURES], ids=["text", "picture"])
def test_wan_is_read_as_diffusers_reads_it(pictures: dict[str, Any], prefix: str) -> None:
    tensors = originals.made(CLASS, TINY | pictures, "cpu").state_dict()
    file = originals.prefixed(prefix, wan(tensors))
    found = originals.read(file, {"config": '{"transformer": {"attention_head_dim": 8, "num_attention_heads": 2}}'})
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("wan", "original")
    given = originals.loaded(component, file)
    originals.assert_same(given, originals.converted("convert_wan_transformer_to_diffusers", file))
    originals.assert_same(given, dict(tensors))
    originals.assert_config(component.config, originals.made(CLASS, TINY | pictures))


@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("what", PUBLISHED)
def test_the_published_wan_are_told_by_their_shapes(what: str, names: str) -> None:
    model = originals.made(CLASS, PUBLISHED[what])
    tensors = model.state_dict()
    found = originals.read(tensors if names == "diffusers" else wan(tensors))
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("wan", names)
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes


def test_what_a_wan_file_leaves_open_or_is_not_known_is_refused() -> None:
    tensors = originals.made(CLASS, TINY).state_dict()
    with pytest.raises(ModelError, match="no shape tells attention_head_dim and num_attention_heads; give config"):
        originals.read(tensors).components["transformer"].config  # noqa: B018 - raises
    strange = {"vace_blocks.0.after_proj.weight": torch.empty(16, 16)}
    with pytest.raises(ModelError, match=r"nothing is known about the tensor vace_blocks\.0\.after_proj\.weight"):
        originals.read(wan(tensors) | strange)
