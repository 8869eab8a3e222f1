"""Files of transformers with the original code's names compute what the folders that they were made of compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.testing.blocks import gguf_file
from graphengine_nodes.testing.chroma import chroma_model
from graphengine_nodes.testing.sd3 import sd3_model
from graphengine_nodes.testing.z_image import z_image_model
from safetensors.torch import load_file, save_file

from ..layouts.originals import Tensors, prefixed
from ..layouts.test_chroma import chroma
from ..layouts.test_stable_diffusion_3 import sd3
from ..layouts.test_z_image import z_image

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def sd3_of(folder: Path, tensors: Tensors) -> Tensors:
    return sd3(tensors, json.loads((folder / "transformer/config.json").read_text())["num_layers"])


MODELS: dict[str, tuple[Callable[..., Path], Callable[[Path, Tensors], Tensors], str]] = {
    "z_image": (z_image_model, lambda _, tensors: z_image(tensors), "layers.0.attention.qkv"),
    "stable_diffusion_3": (sd3_model, sd3_of, "joint_blocks.0.x_block.attn.qkv"),
    "chroma": (chroma_model, lambda _, tensors: chroma(tensors), "double_blocks.0.img_attn.qkv"),
}


def picture(model: std.Model) -> torch.Tensor:
    text = std.encode_prompt(model, "a red circle")
    return std.decode_latent(model, std.sample(model, text, seed=3, steps=2, width=64, height=64)).pixels


@pytest.mark.parametrize("family", MODELS)
def test_a_file_of_a_transformer_is_that_of_its_folder(family: str, tmp_path: Path) -> None:
    make, original, joined = MODELS[family]
    folder = make(tmp_path / "folder")
    tensors = {n: t.contiguous() for n, t in original(folder, load_file(folder / WEIGHTS)).items()}
    save_file(prefixed("model.diffusion_model.", tensors), tmp_path / "one.safetensors")
    one, whole = std.load_model(tmp_path / "one.safetensors", config=folder), std.load_model(folder)
    assert one.family == family
    plain = picture(whole)
    assert torch.equal(picture(one), plain)
    rows, columns = tensors[f"{joined}.weight"].shape
    generator = torch.Generator().manual_seed(1)
    ends = {"lora_down.weight": (2, columns), "lora_up.weight": (rows, 2)}
    name = f"lora_unet_{joined.replace('.', '_')}"
    lora = {f"{name}.{end}": torch.randn(shape, generator=generator) for end, shape in ends.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    changed = [picture(std.apply_lora(model, std.load_lora(tmp_path / "lora.safetensors"))) for model in (one, whole)]
    assert torch.equal(*changed)
    assert not torch.equal(changed[0], plain)


@pytest.mark.parametrize(("family", "architecture"), [("z_image", "lumina2"), ("chroma", "flux")])
def test_a_gguf_file_of_a_transformer_keeps_parts_of_blocks(family: str, architecture: str, tmp_path: Path) -> None:
    make, original, _ = MODELS[family]
    folder = make(tmp_path / "folder")
    rounded = gguf_file(tmp_path / "blocks.gguf", original(folder, load_file(folder / WEIGHTS)), architecture)
    save_file({name: tensor.contiguous() for name, tensor in rounded.items()}, tmp_path / "whole.safetensors")
    blocks, whole = (
        picture(std.load_model(tmp_path / name, config=folder)) for name in ("blocks.gguf", "whole.safetensors")
    )
    assert torch.allclose(blocks, whole, atol=1e-5)
    assert not torch.allclose(blocks, picture(std.load_model(folder)), atol=1e-5)
