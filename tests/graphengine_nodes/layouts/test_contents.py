"""The header of a single file tells what it is: every tensor is accounted for, and modules are built as published."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from graphengine_nodes.layouts import contents, flux, texts, unet, vae
from graphengine_nodes.layouts.places import Places
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.unread import UNREAD

from graphengine import ModelError

from . import published
from .published import Shapes

FILES = {what: (family, components, shapes) for what, family, components, shapes in published.files()}


def header(shapes: Shapes) -> Header:
    return {name: {"dtype": "F16", "shape": list(shape)} for name, shape in shapes.items()}


def read(shapes: Shapes, metadata: dict[str, str] | None = None) -> contents.Contents:
    return contents.read(header(shapes), metadata or {}, Path("some.safetensors"))


@pytest.mark.parametrize("what", FILES)
def test_every_tensor_of_a_published_file_is_accounted_for(what: str) -> None:
    family, components, shapes = FILES[what]
    found = read(shapes)
    assert (found.family, set(found.components)) == (family, components)
    for component in found.components.values():
        assert {place.name for place in component.places.values()} <= shapes.keys()


@pytest.mark.parametrize(
    ("what", "strange"),
    [
        ("SD 1.5 pruned, EMA only", "model.diffusion_model.input_blocks.1.0.in_layers.3.weight"),
        ("SD 1.5 pruned, EMA only", "model.diffusion_model.middle_block.1.transformer_blocks.0.attn3.to_q.weight"),
        ("SD 1.5 pruned, EMA only", "first_stage_model.decoder.mid.attn_2.q.weight"),
        ("SD 1.5 pruned, EMA only", "first_stage_model.decoder.extra.weight"),
        ("SD 1.5 pruned, EMA only", "cond_stage_model.transformer.text_model.adapter.weight"),
        ("SD 2.1 base", "cond_stage_model.model.transformer.resblocks.0.attn.gate"),
        ("SDXL base", "conditioner.embedders.2.weight"),
        ("SDXL base", "model.something"),
        ("FLUX.1 dev", "double_blocks.0.img_attn.norm.value_norm.scale"),
        ("FLUX.1 dev", "img_in_patch.weight"),
        ("T5 for ComfyUI", "encoder.block.0.layer.0.SelfAttention.gate.weight"),
    ],
)
def test_what_is_not_known_is_named(what: str, strange: str) -> None:
    shapes = FILES[what][2]
    with pytest.raises(ModelError, match=rf"some\.safetensors: nothing is known about the tensor {strange};"):
        read(shapes | {strange: (4, 4)})


def test_each_row_of_the_table_of_what_is_left_out_is_met() -> None:
    """But for those of files that are read by other ways: folders, GGUF, files of trainers, and families to come."""
    names = {name for _, _, shapes in FILES.values() for name in shapes}
    never = [pattern for pattern in UNREAD if not any(re.search(pattern, name) for name in names)]
    others = [
        "dec.blk.0.attn_q.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "bn.num_batches_tracked",
        "norm_final.weight",
        "scale_factor",
    ]
    assert [sum(bool(re.search(pattern, name)) for pattern in never) for name in others] == [1] * len(others)
    assert len(never) == len(others)
    assert all(len(row) == 2 and all(row) for row in UNREAD.values())


def test_a_file_of_another_kind() -> None:
    with pytest.raises(ModelError, match=r"holds no component of a known model; the first of its tensors is blocks\.0"):
        read({"blocks.0.weight": (4, 4)})
    with pytest.raises(ModelError, match=r"quantized as bitsandbytes .*, of which unet\.absmax is a part"):
        read(published.V1 | {"unet.absmax": (4,)})
    with pytest.raises(ModelError, match="the config in its metadata is no JSON object"):
        read(published.vae(), {"config": "[1"})


def test_a_missing_tensor_is_named() -> None:
    shapes = {name: shape for name, shape in published.V1.items() if name != "input_blocks.1.0.out_layers.3.weight"}
    with pytest.raises(ModelError, match=r"its unet lacks 'down_blocks\.0\.resnets\.0\.conv2\.weight'"):
        read(shapes).components["unet"].config  # noqa: B018 - raises


# --- configurations ---------------------------------------------------------------------------------------------------

UNET_V1 = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "use_linear_projection": False,
    "transformer_layers_per_block": 1,
    "sample_size": 64,
}
UNET_XL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
CLIP_G = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280}
FLUX_DEV = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
VAE_V1 = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "layers_per_block": 2}

CONFIGS: list[tuple[str, str, dict[str, Any]]] = [
    ("SD 1.5 pruned, EMA only", "unet", UNET_V1),
    ("SD 1.5 pruned, EMA only", "text_encoder", CLIP_L | {"vocab_size": 49408, "eos_token_id": 49407}),
    ("SD 1.5 pruned, EMA only", "vae", VAE_V1 | {"use_quant_conv": True, "norm_num_groups": 32}),
    ("SD 1.5 inpainting", "unet", UNET_V1 | {"in_channels": 9}),
    (
        "SD 2.1 base",
        "unet",
        UNET_V1 | {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    ),
    ("SD-Turbo", "text_encoder", {"hidden_size": 1024, "num_hidden_layers": 23}),
    (
        "SD 2.1 base",
        "text_encoder",
        {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu"},
    ),
    ("SDXL base", "unet", UNET_XL),
    ("SDXL base", "text_encoder", CLIP_L),
    ("SDXL base", "text_encoder_2", CLIP_G | {"hidden_act": "gelu", "max_position_embeddings": 77}),
    (
        "SDXL refiner",
        "unet",
        {
            "block_out_channels": [384, 768, 1536, 1536],
            "attention_head_dim": [6, 12, 24, 24],
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "projection_class_embeddings_input_dim": 2560,
        },
    ),
    ("FLUX.1 dev", "transformer", FLUX_DEV),
    ("FLUX.1 Fill", "transformer", FLUX_DEV | {"in_channels": 384, "out_channels": 64}),
    ("FLUX.1 Canny", "transformer", FLUX_DEV | {"in_channels": 128, "out_channels": 64}),
    ("FLUX.1 schnell of ComfyUI, whole", "transformer", FLUX_DEV | {"guidance_embeds": False}),
    ("FLUX.1 schnell of ComfyUI, whole", "text_encoder", CLIP_L),
    ("FLUX.1 schnell of ComfyUI, whole", "text_encoder_2", T5_XXL | {"feed_forward_proj": "gated-gelu"}),
    ("FLUX.1 schnell of ComfyUI, whole", "vae", VAE_V1 | {"latent_channels": 16, "use_quant_conv": False}),
]


@pytest.mark.parametrize(("what", "name", "expected"), CONFIGS, ids=[f"{what}: {name}" for what, name, _ in CONFIGS])
def test_configurations_are_those_of_the_published_folders(what: str, name: str, expected: dict[str, Any]) -> None:
    """And a module that is built from one has exactly the tensors that the file has for it, with their shapes."""
    component = read(FILES[what][2]).components[name]
    assert {key: component.config[key] for key in expected} == expected
    module = built(component.config)
    known = {
        (
            key
            if "text_projection" in key or component.kind != "clip"
            else f"text_model.{key.removeprefix('text_model.')}"
        )
        for key in module.state_dict()
    }
    assert known - {"encoder.embed_tokens.weight"} == component.places.keys()
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    for key, shape in component.shapes.items():
        assert shapes.get(key, shapes.get(key.removeprefix("text_model."))) == shape, key


@pytest.mark.parametrize(
    ("depths", "middle"), [((0, 1, 2), 2), ((1, 2, 4, 0), 4), ((2, 0, 3, 0), 5), ((0, 2, 4), 4)], ids=str
)
def test_unets_of_other_depths_are_built_as_their_files_have_them(depths: tuple[int, ...], middle: int) -> None:
    shapes = published.unet(mult=(1, 2, 3, 4)[: len(depths)], depths=depths, middle=middle, layers=3)
    component = read(shapes).components["unet"]
    found = {name: tuple(tensor.shape) for name, tensor in built(component.config).state_dict().items()}
    assert found == dict(component.shapes)


MODULES = {
    "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
    "FluxTransformer2DModel": "diffusers.models.transformers.transformer_flux",
    "AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl",
}


def built(config: dict[str, Any]) -> Any:
    name = config.get("_class_name") or config["architectures"][0]
    cls = getattr(importlib.import_module(MODULES.get(name, "transformers")), name)
    with torch.device("meta"):
        return cls.from_config(config) if "_class_name" in config else cls(cls.config_class.from_dict(config))


def test_widths_that_leave_something_open_are_refused_unless_the_file_says_it() -> None:
    shapes = published.unet(width=64)
    with pytest.raises(ModelError, match="no shape tells attention_head_dim and norm_num_groups; give config"):
        read(shapes).components["unet"].config  # noqa: B018 - raises
    said = {"config": '{"unet": {"attention_head_dim": 4, "norm_num_groups": 16}}'}
    config = read(shapes, said).components["unet"].config
    assert (config["attention_head_dim"], config["norm_num_groups"]) == (4, 16)
    assert config["block_out_channels"] == [64, 128, 256, 256]


# --- places, against diffusers' converters ----------------------------------------------------------------------------


def random(shapes: Shapes, columns: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cut = {name: shape if columns or len(shape) < 2 else (shape[0], 1) for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in cut.items()}


def converters() -> Any:
    return importlib.import_module("diffusers.loaders.single_file_utils")


def check(tensors: dict[str, torch.Tensor], places: Places, expected: dict[str, torch.Tensor]) -> None:
    assert places.keys() == expected.keys()
    for name, place in places.items():
        assert torch.equal(place.read(tensors[place.name]), expected[name]), name


@pytest.mark.parametrize("shapes", [published.V1, published.V2, published.XL, published.REFINER], ids=list("12XR"))
def test_unets_are_read_as_diffusers_reads_them(shapes: Shapes) -> None:
    names: Any = {f"model.diffusion_model.{name}": name for name in shapes}
    config = {"layers_per_block": 2, "addition_embed_type": "text_time" if "label_emb.0.0.bias" in shapes else None}
    expected = converters().convert_ldm_unet_checkpoint(names, config)
    assert {name: place.name for name, place in unet.places(shapes).items()} == expected


def test_vaes_are_read_as_diffusers_reads_them() -> None:
    shapes = published.vae(width=8)
    tensors = random(shapes)
    config = {"down_block_types": [""] * 4, "up_block_types": [""] * 4}
    check(tensors, vae.places(shapes), converters().convert_ldm_vae_checkpoint(dict(tensors), config))


def test_open_clip_is_read_as_diffusers_reads_it() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    shapes = published.open_clip(width=16, layers=2, vocabulary=40)
    tensors = random(shapes)
    module = CLIPTextModel(CLIPTextConfig(hidden_size=16, num_hidden_layers=1, vocab_size=40, num_attention_heads=2))
    found = converters().convert_open_clip_checkpoint(module, dict(tensors), prefix="")
    check(tensors, texts.open_clip_places(shapes), found)


def test_flux_is_read_as_diffusers_reads_it() -> None:
    shapes = published.flux(True, double=2, single=2)  # of its own width: diffusers reads no other
    tensors = random(shapes, columns=False)
    found = converters().convert_flux_transformer_checkpoint_to_diffusers(dict(tensors))
    check(tensors, flux.places(shapes), found)


def test_files_with_the_libraries_names_are_read_too() -> None:
    for what, name in (("SD 1.5 pruned, EMA only", "unet"), ("FLUX.1 dev", "transformer"), ("SDXL base", "vae")):
        original = read(FILES[what][2]).components[name]
        again = read(dict(original.shapes))
        assert again.components[name].spelling == "diffusers"
        assert again.components[name].config == original.config
        assert again.family == (None if name == "vae" else FILES[what][0])
    old = {
        name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn."): shape
        for name, shape in original.shapes.items()
    }
    assert read(old).components["vae"].places.keys() == original.places.keys()
