"""GGUF files: pictures of the weights as they are rounded, one copy in memory, LoRAs over it, and what is refused."""

from __future__ import annotations

import contextlib
import shutil
import struct
from pathlib import Path

import gguf
import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.families.lookup import family
from graphengine_nodes.nodes.model_files import noted
from graphengine_nodes.store.store import WeightStore
from graphengine_nodes.testing import flux as flux_testing
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.testing import sdxl as xl_testing
from graphengine_nodes.testing.blocks import gguf_file
from graphengine_nodes.weights.files import TINY, Location
from graphengine_nodes.weights.gguf_files import BLOCKS, read_gguf, read_gguf_tensors
from graphengine_nodes.weights.quantized import QuantizedLinear, in_blocks, lay_out, multiplied_out
from safetensors.torch import load_file, save_file

from graphengine import ModelError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models; of each a GGUF file of its denoiser, and a folder with the same rounded weights."""
    folder = tmp_path_factory.mktemp("gguf")
    shutil.copytree(TINY / "model", folder / "sd")
    xl_testing.xl_model(folder / "sdxl")
    flux_testing.flux_model(folder / "flux")
    for name, component in (("sd", "unet"), ("sdxl", "unet"), ("flux", "transformer")):
        weights = load_file(folder / name / component / WEIGHTS)
        rounded = gguf_file(folder / f"{name}.gguf", weights, name)
        shutil.copytree(folder / name, folder / f"{name}-rounded")
        save_file(rounded, folder / f"{name}-rounded" / component / WEIGHTS)
    flux_testing.flux_lora(folder / "lora.safetensors", seed=1)
    return folder


def picture(model: std.Model) -> torch.Tensor:
    text = std.encode_prompt(model, "a red circle")
    return std.decode_latent(model, std.sample(model, text, seed=1, steps=2, width=64, height=64)).pixels


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_pictures_are_those_of_the_rounded_weights(folder: Path, name: str) -> None:
    model = std.load_model(folder / f"{name}.gguf", config=folder / name)
    found = picture(model)
    assert differ(found, picture(std.load_model(folder / f"{name}-rounded"))) < 1e-5
    assert differ(found, picture(std.load_model(folder / name))) > 1e-4
    alone = std.load_denoiser(folder / f"{name}.gguf", config=folder / name)
    whole = std.load_model(folder / name)
    assert std.join_model(alone, whole, whole).digest() == model.digest()


def test_the_original_codes_names(folder: Path, tmp_path: Path) -> None:
    original = load_file(testing.single_file(tmp_path / "sd.safetensors"))
    start = "model.diffusion_model."
    unet = {name.removeprefix(start): t for name, t in original.items() if name.startswith(start)}
    gguf_file(tmp_path / "unet.gguf", unet, "sd1")
    found = picture(std.load_model(tmp_path / "unet.gguf", config=folder / "sd"))
    assert torch.equal(found, picture(std.load_model(folder / "sd.gguf", config=folder / "sd")))


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_of_blocks_is_multiplied_out_as_the_format_defines_it(kind: str) -> None:
    blocks = gguf.GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[blocks]
    data = np.random.default_rng(0).integers(0, 256, (64, size), dtype=np.uint8) & 0xBF  # scales are finite without it
    expected = gguf.dequantize(data, blocks)
    found = multiplied_out(torch.from_numpy(data.copy()), blocks)
    assert np.allclose(found.numpy().reshape(expected.shape), expected, rtol=1e-6, atol=0)


def test_a_layer_computes_as_one_with_the_rounded_weights() -> None:
    linear = torch.nn.Linear(64, 24)
    kind = gguf.GGMLQuantizationType.Q8_0
    data = gguf.quantize(linear.weight.detach().numpy(), kind)
    blocks = in_blocks(torch.from_numpy(data.reshape(-1).copy()), "Q8_0", (24, 64))
    module = torch.nn.Sequential(torch.nn.Linear(64, 24, device="meta"))
    tensors = lay_out(module, {"0.weight": blocks, "0.bias": linear.bias.detach()}, lambda name: torch.float32)
    module.load_state_dict(tensors, assign=True)
    linear.weight.data = torch.from_numpy(gguf.dequantize(data, kind)).clone()
    given = torch.randn(3, 64)
    assert isinstance(module[0], QuantizedLinear)
    assert torch.equal(module(given), linear(given))
    assert module.half()(given.half()).dtype == torch.float16


def test_half_precision(folder: Path) -> None:
    half = std.load_model(folder / "flux.gguf", config=folder / "flux", precision="bfloat16")
    rounded = std.load_model(folder / "flux-rounded", precision="bfloat16")
    assert differ(picture(half), picture(rounded)) < 0.05


def test_a_text_encoder(folder: Path, tmp_path: Path) -> None:
    names = {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm", "layer.0.layer_norm": "attn_norm"}
    names |= {f"layer.0.SelfAttention.{one}": f"attn_{one}" for one in "qkvo"}
    names |= {"layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.1.layer_norm": "ffn_norm"}
    names |= {f"layer.1.DenseReluDense.{a}": f"ffn_{b}" for a, b in (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))}

    def rename(name: str) -> str:
        for old, new in names.items():
            name = name.replace(f"{old}.weight", f"{new}.weight")
        return name.replace("encoder.block.", "enc.blk.")

    weights = load_file(folder / "flux" / "text_encoder_2" / "model.safetensors")
    file = tmp_path / "t5.gguf"
    rounded = gguf_file(file, {rename(name): tensor for name, tensor in weights.items()}, "t5encoder")
    model = shutil.copytree(folder / "flux", tmp_path / "rounded")
    save_file({name: rounded[rename(name)] for name in weights}, model / "text_encoder_2" / "model.safetensors")
    place = Location(file, "text_encoder_2", folder / "flux" / "text_encoder_2")
    given = std.load_model(folder / "flux").with_component(
        "text_encoder_2", noted(family("flux"), "text_encoder_2", place)
    )
    expected = std.encode_prompt(std.load_model(model), "a red circle").embeds
    assert differ(std.encode_prompt(given, "a red circle").embeds, expected) < 1e-5


# --- memory and LoRAs -------------------------------------------------------------------------------------------------


def test_graphs_with_and_without_a_lora_share_one_copy(folder: Path) -> None:
    plain = std.load_model(folder / "flux.gguf", config=folder / "flux")
    lora = std.load_lora(folder / "lora.safetensors")
    weights = WeightStore()
    with weights.component(plain, "transformer", "cpu") as module:
        one = weights.size()
        whole = sum(p.numel() * 4 for p in weights_of(folder))
        assert one < 0.45 * whole
        with weights.component(std.apply_lora(plain, lora, 0.5), "transformer", "cpu") as changed:
            own = sum(p.numel() * p.element_size() for n, p in changed.named_parameters() if "lora" in n)
            assert weights.size() - own <= 1.05 * one
            assert changed is not module
    rounded = std.load_model(folder / "flux-rounded")
    before = picture(plain)
    with_lora = picture(std.apply_lora(plain, lora, 0.5))
    assert differ(with_lora, picture(std.apply_lora(rounded, lora, 0.5))) < 1e-5
    assert differ(with_lora, before) > 1e-3
    assert torch.equal(picture(plain), before)


def weights_of(folder: Path) -> list[torch.Tensor]:
    return list(load_file(folder / "flux" / "transformer" / WEIGHTS).values())


@pytest.mark.parametrize("kind", ["float8", "int8"])
def test_it_is_not_quantized_twice(folder: Path, kind: str) -> None:
    model = std.quantize_model(std.load_model(folder / "flux.gguf", config=folder / "flux"), kind)
    with pytest.raises(ModelError, match=f"a GGUF model is quantized already, {kind} cannot be put over it"):
        picture(model)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_cut_short_is_refused_wherever_it_is_cut(folder: Path, tmp_path: Path) -> None:
    data = (folder / "flux.gguf").read_bytes()
    header = min(tensor.start for tensor in read_gguf(folder / "flux.gguf")[0].values())
    file = tmp_path / "cut.gguf"
    for length in (*range(0, header, header // 40), header, len(data) - 100):
        file.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"cut short|no GGUF file"):
            std.load_model(file, config=folder / "flux")


def test_damaged_headers_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "damaged.gguf"
    data = (folder / "flux.gguf").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(data)
        for place in random.integers(4, 4000, 4):
            changed[place] = random.integers(0, 255)
        file.write_bytes(changed)
        with contextlib.suppress(ModelError):
            read_gguf(file)
    for header in (struct.pack("<IQQ", 3, 2**60, 0), struct.pack("<IQQ", 3, 10, 5) + bytes(4000)):
        file.write_bytes(b"GGUF" + header)
        with pytest.raises(ModelError, match=r"damaged.gguf"):
            std.load_model(file)
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 7, 0, 0))
    with pytest.raises(ModelError, match="a GGUF file of version 7; versions 2 and 3 are read"):
        std.load_model(file)


def test_unknown_kinds_and_models_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "flux" / "transformer" / WEIGHTS)
    writer = gguf.GGUFWriter(str(tmp_path / "iq.gguf"), "flux")
    kind = gguf.GGMLQuantizationType.IQ2_XXS
    writer.add_tensor("x_embedder.weight", np.zeros((32, 66), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"x_embedder.weight is in blocks of the kind IQ2_XXS, which are not read"):
        std.load_model(tmp_path / "iq.gguf", config=folder / "flux")
    gguf_file(tmp_path / "llama.gguf", {"blk.0.attn_q.weight": weights["x_embedder.weight"]}, "llama")
    with pytest.raises(ModelError, match=r"no checkpoint of a known family .*; its architecture is said to be 'llama'"):
        std.load_model(tmp_path / "llama.gguf", config=folder / "flux")


def test_tensors_of_no_matrix_are_multiplied_out(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "reshaped.gguf"
    kind = gguf.GGMLQuantizationType.Q8_0
    numbers = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    writer = gguf.GGUFWriter(str(file), "sd1")
    writer.add_array("comfy.gguf.orig_shape.conv", list(numbers.shape))
    writer.add_tensor("conv", gguf.quantize(numbers.reshape(-1, 32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf_tensors(file, ["conv"])["conv"]
    assert found.shape == (8, 4, 3, 3)
    assert differ(found, torch.from_numpy(numbers)) < 0.05
