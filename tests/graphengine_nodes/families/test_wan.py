"""Wan's files: parts in files of their own, original names, blocks, small numbers, and pairs of denoisers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.wan import FAMILY
from graphengine_nodes.layouts import contents
from graphengine_nodes.testing import small, wan
from graphengine_nodes.testing.blocks import gguf_file
from graphengine_nodes.weights.headers import read_headers
from safetensors.torch import load_file

from graphengine import ModelError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models by variant."""
    found = tmp_path_factory.mktemp("wan")
    return {name: wan.wan_model(found / name, variant=name) for name in ("2.1", "2.1-i2v", "2.2-14b", "2.2-5b")}


def frames(model: std.Model, **given: Any) -> torch.Tensor:
    text = std.encode_prompt(model, "a red circle")
    latent = std.sample_video(model, text, seed=3, frames=5, steps=2, width=64, height=64, **given)
    return std.decode_video(model, latent).frames


def test_wan_of_parts_in_files_of_their_own(folders: dict[str, Path]) -> None:
    for name in ("2.1", "2.2-14b", "2.2-5b"):
        folder = folders[name]
        whole = std.load_model(folder)
        text, denoiser = std.load_text_encoder(folder), std.load_denoiser(folder / "transformer", config=folder)
        joined = std.join_model(denoiser, text, std.load_vae(folder / "vae"))
        assert torch.equal(frames(joined), frames(whole)), name
    folder, first = folders["2.1-i2v"], std.Image(torch.rand(1, 64, 64, 3))
    parts = std.split_model(std.load_model(folder))
    joined = std.join_model(parts.denoiser, parts.text_encoder, parts.vae)
    assert torch.equal(frames(joined, first=first), frames(std.load_model(folder), first=first))


def test_a_transformer_of_wan_in_one_file_in_blocks_and_in_small_numbers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["2.1"]
    expected = frames(std.load_model(folder))
    file = small.single_transformer_file(folder, tmp_path / "one.safetensors", "model.diffusion_model.")
    assert torch.equal(frames(std.load_model(file, config=folder)), expected)
    rounded = gguf_file(tmp_path / "blocks.gguf", load_file(folder / "transformer" / WEIGHTS), "wan")
    assert rounded
    blocks = frames(std.load_model(tmp_path / "blocks.gguf", config=folder))
    small_numbers = frames(std.quantize_model(std.load_model(folder), "float8"))
    for other in (blocks, small_numbers):
        assert not torch.equal(other, expected)
        assert (other - expected).abs().mean() < 0.1


def test_layers_of_wan_in_single_precision_stay_so_wherever_they_come_from(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["2.1"]
    half = std.load_model(folder, precision="bfloat16")
    expected = frames(half)
    assert torch.equal(frames(std.change_precision(std.load_model(folder), "bfloat16")), expected)
    file = small.single_transformer_file(folder, tmp_path / "one.safetensors", "model.diffusion_model.")
    assert torch.equal(frames(std.load_model(file, config=folder, precision="bfloat16")), expected)
    pipe = diffusers.WanPipeline.from_pretrained(folder)
    loaded = std.loaded_model(pipe)
    assert torch.equal(frames(std.change_precision(loaded, "bfloat16")), expected)
    pipe = diffusers.WanPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    given = {"num_frames": 5, "num_inference_steps": 2, "width": 64, "height": 64, "guidance_scale": 5.0}
    found = pipe("a red circle", generator=torch.Generator().manual_seed(3), output_type="pt", **given).frames[0]
    assert torch.equal(frames(std.quantize_model(half, "float8")), found.permute(0, 2, 3, 1).float())


def test_two_files_of_denoisers_are_the_pair_that_they_came_from(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["2.2-14b"]
    whole = std.load_model(folder)
    small.lora_for(folder, tmp_path / "lora.safetensors")
    lora = std.load_lora(tmp_path / "lora.safetensors")
    high, low = (std.load_denoiser(_alone(folder, name, tmp_path)) for name in ("transformer", "transformer_2"))
    pair = std.pair_denoisers(high, low)
    assert dict(pair.model.settings)["boundary_ratio"] == whole.setting("boundary_ratio") == 0.875
    joined = std.join_model(pair, std.load_text_encoder(folder), std.load_vae(folder))
    assert torch.equal(frames(joined), frames(whole))
    assert not torch.equal(frames(joined), frames(std.join_model(high, whole, whole)))
    changed = std.pair_denoisers(high, _with(low, lora, whole))
    joined = std.join_model(changed, whole, whole)
    assert torch.equal(frames(joined), frames(std.apply_lora(whole, lora, noise="low")))


def test_a_file_of_a_pair_is_one_denoiser_whatever_its_configuration_has(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["2.2-14b"]
    high, low = (tmp_path / f"wan_{noise}_noise.safetensors" for noise in ("high", "low"))
    shutil.copy(folder / "transformer" / WEIGHTS, high)
    shutil.copy(folder / "transformer_2" / WEIGHTS, low)
    parts = [std.load_denoiser(file, config=folder) for file in (high, low)]
    whole = std.load_model(folder)
    paired = std.join_model(std.pair_denoisers(*parts), whole, whole)
    assert torch.equal(frames(paired), frames(whole))
    with pytest.raises(ModelError, match=r"wan_low_noise\S* holds one denoiser, and .* is a model of two: load both"):
        std.load_model(low, config=folder)
    with pytest.raises(ValueError, match=r"is one of two denoisers; load the other too, and use pair_denoisers"):
        frames(std.join_model(parts[1], whole, whole))
    with pytest.raises(ModelError, match="by their names they are to be swapped"):
        std.pair_denoisers(*reversed(parts))
    other = std.load_denoiser(folder / "transformer_2", config=folder)
    assert [name for name, _ in other.model.components] == ["transformer", "scheduler"]


def _alone(folder: Path, name: str, where: Path) -> Path:
    """A model's folder with one of its two denoisers."""
    found = where / name
    shutil.copytree(_without_denoisers(folder), found)
    shutil.copytree(folder / name, found / "transformer")
    return found


def _without_denoisers(folder: Path) -> Path:
    """A copy of a pair's folder, as that of a model with one denoiser that is still to be put in."""
    plain = folder.with_name(f"{folder.name}-plain")
    if not plain.exists():
        shutil.copytree(folder, plain, ignore=shutil.ignore_patterns("transformer*"))
        index = json.loads((plain / "model_index.json").read_text())
        index |= {"transformer_2": [None, None], "boundary_ratio": None}
        (plain / "model_index.json").write_text(json.dumps(index))
    return plain


def _with(denoiser: std.Denoiser, lora: std.LoRA, model: std.Model) -> std.Denoiser:
    return std.split_model(std.apply_lora(std.join_model(denoiser, model, model), lora)).denoiser


def test_pairs_that_are_none_are_refused(folders: dict[str, Path]) -> None:
    text, picture, pair, large = (std.load_denoiser(folders[n]) for n in ("2.1", "2.1-i2v", "2.2-14b", "2.2-5b"))
    for high, low, told in (
        (text, picture, "are of different kinds: a pair is built alike"),
        (pair, text, "2.2-14b has two denoisers already"),
        (large, large, "2.2-5b is of a wan model, which has one denoiser for all steps"),
        (std.load_denoiser("tiny"), text, "is of a stable_diffusion model, which has one denoiser"),
        (text, text, r"high and low are both .*2\.1; give the one for much noise"),
    ):
        with pytest.raises(ModelError, match=told):
            std.pair_denoisers(high, low)


def test_a_file_of_the_5b_has_its_own_schedule(folders: dict[str, Path], tmp_path: Path) -> None:
    shifts = {}
    for name in ("2.1", "2.2-5b"):
        file = small.single_transformer_file(folders[name], tmp_path / f"{name}.safetensors")
        shifts[name] = FAMILY.scheduler_config(_read(file))["flow_shift"]
    assert shifts == {"2.1": 3.0, "2.2-5b": 5.0}


def _read(file: Path) -> contents.Contents:
    heads = '{"transformer": {"attention_head_dim": 16, "num_attention_heads": 2}}'
    return contents.read(read_headers(file).header, {"config": heads}, file)


def test_other_models_of_wan_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other pipelines have other inputs; their transformers have layers, or channels, of their own."""
    folder = tmp_path / "vace"
    shutil.copytree(folders["2.1"], folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanVACEPipeline"}))
    with pytest.raises(ModelError, match="vace holds a WanVACEPipeline; known families are"):
        std.load_model(folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"in_channels": 32}))
    with pytest.raises(ModelError, match="takes 32 channels; those of Wan take 16, 36 or 48"):
        std.load_model(folder)
