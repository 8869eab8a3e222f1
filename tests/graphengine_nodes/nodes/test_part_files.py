"""Parts of models in files of their own: they compute what the folders compute that they were made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.testing import flux as flux_testing
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.testing import sdxl as xl_testing
from graphengine_nodes.testing.blocks import gguf_file
from graphengine_nodes.weights.files import TINY
from safetensors.torch import load_file, save_file

from graphengine import ModelError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of each family, and ControlNets."""
    folder = tmp_path_factory.mktemp("part-files")
    shutil.copytree(TINY / "model", folder / "tiny")
    shutil.copytree(TINY / "controlnet", folder / "tiny-net")
    xl_testing.xl_model(folder / "xl")
    xl_testing.xl_controlnet(folder / "xl-net")
    xl_testing.xl_union_controlnet(folder / "xl-union")
    flux_testing.flux_model(folder / "dev")
    flux_testing.flux_controlnet(folder / "dev-net")
    flux_testing.flux_controlnet(folder / "dev-union", modes=3)
    return folder


def said(folder: Path, *names: str) -> dict[str, str]:
    """The metadata that hold configurations, which no shape tells of small models."""
    return {"config": json.dumps({name.split("/")[-1]: read(folder / name) for name in names})}


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def picture(model: std.Model, **options: Any) -> torch.Tensor:
    text = std.encode_prompt(model, "a red circle")
    size = {"width": 64, "height": 64}
    return std.decode_latent(model, std.sample(model, text, seed=1, steps=2, **size, **options)).pixels


def same(one: torch.Tensor, other: torch.Tensor, family: str) -> bool:
    """Whether pictures are equal; the last bits of FLUX's depend on where in the file its weights lie."""
    return torch.equal(one, other) or (family == "dev" and float((one - other).abs().max()) < 1e-5)


# --- VAEs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("xl", "original"),
        ("dev", "original"),
        ("xl", "original in a checkpoint"),
        ("tiny", "diffusers"),
        ("dev", "before 0.18"),
    ],
)
def test_a_vae_in_a_file(folder: Path, tmp_path: Path, family: str, names: str) -> None:
    weights = load_file(folder / family / "vae" / WEIGHTS)
    weights["decoder.conv_out.bias"] += 0.25
    other = shutil.copytree(folder / family, tmp_path / "other")
    save_file(weights, other / "vae" / WEIGHTS)
    if names == "before 0.18":
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        for new, before in old.items():
            weights = {name.replace(new, before): tensor for name, tensor in weights.items()}
    elif names != "diffusers":
        start = "first_stage_model." if "checkpoint" in names else ""
        weights = {f"{start}{name}": tensor for name, tensor in testing.original_vae(other / "vae").items()}
    file = tmp_path / "vae.safetensors"
    save_file(weights, file)
    model, expected = std.load_model(folder / family), std.load_model(other)
    replaced = std.replace_vae(model, file)
    assert torch.equal(picture(replaced), picture(expected))
    assert replaced.digest("text_encoder") == model.digest("text_encoder")
    vae = std.load_vae(file, config=folder / family / "vae")
    assert torch.equal(picture(std.join_model(model, model, vae)), picture(expected))
    latent = std.sample(model, std.encode_prompt(model, "a tree"), steps=1, width=64, height=64)
    assert torch.equal(std.decode_latent(vae, latent).pixels, std.decode_latent(expected, latent).pixels)


def test_the_scale_of_a_vae_is_its_familys(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    groups = {"config": json.dumps({"vae": {"norm_num_groups": 4}})}
    save_file(load_file(folder / "xl" / "vae" / WEIGHTS), file, groups)
    with pytest.raises(ModelError, match="may be of stable_diffusion or stable_diffusion_xl, whose scales differ"):
        std.load_vae(file)
    xl = std.load_model(folder / "xl")
    given = std.join_model(xl, xl, std.load_vae(file, family="stable_diffusion_xl"))
    assert torch.equal(picture(given), picture(xl))
    save_file(load_file(file), file, groups | {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"})
    assert torch.equal(picture(std.join_model(xl, xl, std.load_vae(file))), picture(xl))
    groups = {"config": json.dumps({"vae": {"norm_num_groups": 2}})}
    save_file(load_file(folder / "dev" / "vae" / WEIGHTS), file, groups)
    dev = std.load_model(folder / "dev")
    with pytest.raises(ModelError, match=r"may be of flux or stable_diffusion_3, whose scales differ: give family"):
        std.load_vae(file)
    assert torch.equal(picture(std.join_model(dev, dev, std.load_vae(file, family="flux"))), picture(dev))
    published = shutil.copyfile(file, tmp_path / "ae.safetensors")
    assert torch.equal(picture(std.join_model(dev, dev, std.load_vae(published))), picture(dev))
    assert std.load_vae(shutil.copyfile(file, tmp_path / "sd3_vae.safetensors")).families == ("stable_diffusion_3",)
    with pytest.raises(ModelError, match=r"for flux or stable_diffusion_3 models, and not for stable_diffusion ones"):
        std.load_vae(file, family="stable_diffusion")
    with pytest.raises(ModelError, match="latents of 16 channels at 1/8 of the size; xl needs 4 at 1/8"):
        std.replace_vae(xl, file)


def test_a_vae_of_unknown_widths_needs_a_config(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    save_file(load_file(folder / "tiny" / "vae" / WEIGHTS), file)
    with pytest.raises(ModelError, match="no shape tells norm_num_groups; give config"):
        std.load_vae(file)
    shutil.copytree(folder / "tiny" / "vae", tmp_path / "vae", ignore=shutil.ignore_patterns("*.safetensors"))
    assert std.load_vae(file).families[:2] == ("stable_diffusion", "stable_diffusion_xl")
    with pytest.raises(ModelError, match=r"vae.safetensors holds no controlnet, but vae"):
        std.load_controlnet(file)
    with pytest.raises(ModelError, match=r"vae.safetensors holds no text encoder, but vae"):
        std.load_text_encoder(file)


# --- ControlNets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "net", "mode", "where"),
    [
        ("tiny", "tiny-net", None, "given"),
        ("tiny", "tiny-net", None, "nowhere"),
        ("dev", "dev-net", None, "beside"),
        ("xl", "xl-net", None, "in the file"),
        ("xl", "xl-union", 3, "in the file"),
        ("dev", "dev-union", 2, "in the file"),
    ],
)
def test_a_controlnet_in_a_file(
    folder: Path, tmp_path: Path, family: str, net: str, mode: int | None, where: str
) -> None:
    file = tmp_path / "net.safetensors"
    component = "flux_controlnet" if family == "dev" else "controlnet"
    metadata = {"config": json.dumps({component: read(folder / net)})} if where == "in the file" else None
    save_file(load_file(folder / net / WEIGHTS), file, metadata)
    if where == "beside":
        (tmp_path / "net").mkdir()
        shutil.copy(folder / net / "config.json", tmp_path / "net")
    given = std.load_controlnet(file, config=folder / net if where == "given" else None)
    image = std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    expected, found = (
        picture(std.load_model(folder / family), control=std.apply_controlnet(one, image, mode=mode))
        for one in (std.load_controlnet(folder / net), given)
    )
    assert same(found, expected, family)
    assert given.modes == std.load_controlnet(folder / net).modes


def test_a_controlnet_with_the_original_codes_names(folder: Path, tmp_path: Path) -> None:
    from graphengine_nodes.layouts import contents
    from graphengine_nodes.weights.headers import HeaderAndMetadata

    weights = load_file(folder / "tiny-net" / WEIGHTS)
    rename = testing._unet_names(folder / "tiny")
    hints = {"conv_in": 0, "blocks.0": 2, "blocks.1": 4, "blocks.2": 6, "blocks.3": 8, "blocks.4": 10, "blocks.5": 12}
    original = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        if layer.startswith("controlnet_cond_embedding."):
            hint = layer.removeprefix("controlnet_cond_embedding.")
            last = 2 * (
                1
                + sum(
                    one.startswith("blocks.")
                    for one in {n.split("embedding.")[-1].rpartition(".")[0] for n in weights if "cond_embedding" in n}
                )
            )
            original[f"control_model.input_hint_block.{hints.get(hint, last)}.{kind}"] = tensor
        elif layer.startswith("controlnet_down_blocks."):
            original[f"control_model.zero_convs.{layer.split('.')[1]}.0.{kind}"] = tensor
        elif layer == "controlnet_mid_block":
            original[f"control_model.middle_block_out.0.{kind}"] = tensor
        else:
            original[f"control_model.{rename(name)}"] = tensor
    file = tmp_path / "control_v11p.safetensors"
    save_file(original, file)
    header = HeaderAndMetadata({n: {"shape": list(t.shape), "dtype": "F32"} for n, t in original.items()}, {})
    assert contents.read(*header, file).component("controlnet") is not None
    image = std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    given = std.load_controlnet(file, config=folder / "tiny-net")
    expected, found = (
        picture(std.load_model(folder / "tiny"), control=std.apply_controlnet(one, image))
        for one in (std.load_controlnet(folder / "tiny-net"), given)
    )
    assert torch.equal(found, expected)


# --- text encoders ----------------------------------------------------------------------------------------------------


def encoder_file(folder: Path, name: str, file: Path) -> Path:
    save_file(load_file(folder / name / "model.safetensors"), file)
    return file


@pytest.mark.parametrize("family", ["tiny", "xl", "dev"])
def test_text_encoders_in_files(folder: Path, tmp_path: Path, family: str) -> None:
    model = std.load_model(folder / family)
    paths = [encoder_file(folder / family, "text_encoder", tmp_path / "one.safetensors")]
    if family != "tiny":
        paths.append(encoder_file(folder / family, "text_encoder_2", tmp_path / "two.safetensors"))
    expected = std.encode_prompt(model, "a red circle")
    for order in (paths, paths[::-1]):
        given = std.load_text_encoder(order[0], source_2=order[1] if len(order) > 1 else None, config=folder / family)
        found = std.encode_prompt(given, "a red circle", max_sequence_length=512 if family == "dev" else None)
        assert torch.equal(found.embeds, expected.embeds)
        assert std.join_model(model, given, model).digest("denoiser") == model.digest("denoiser")


def test_text_encoders_that_are_no_models(folder: Path, tmp_path: Path) -> None:
    t5 = encoder_file(folder / "dev", "text_encoder_2", tmp_path / "t5.safetensors")
    clip = encoder_file(folder / "tiny", "text_encoder", tmp_path / "clip.safetensors")
    with pytest.raises(ModelError, match=r"t5.safetensors holds t5, with which no known family reads prompts: give"):
        std.load_text_encoder(t5)
    with pytest.raises(ModelError, match=r"t5.safetensors holds a t5, for which a stable_diffusion model has no place"):
        std.load_text_encoder(t5, source_2=clip, config=folder / "tiny")
    with pytest.raises(ModelError, match="no shape tells num_attention_heads; give config"):
        std.load_text_encoder(clip)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model_index.json", "text_encoder/config.json", "tokenizer"):
        (bare / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (folder / "dev" / name).is_dir() else shutil.copy
        copy(folder / "dev" / name, bare / name)
    with pytest.raises(
        ModelError, match=r"clip.safetensors holds no text_encoder_2 of a flux model: give a file with it"
    ):
        std.load_text_encoder(encoder_file(folder / "dev", "text_encoder", clip), config=bare)


def test_open_clips_names(folder: Path, tmp_path: Path) -> None:
    second = testing._open_clip("", load_file(folder / "xl" / "text_encoder_2" / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in second.items()}, tmp_path / "clip_g.safetensors")
    first = encoder_file(folder / "xl", "text_encoder", tmp_path / "clip_l.safetensors")
    given = std.load_text_encoder(first, source_2=tmp_path / "clip_g.safetensors", config=folder / "xl")
    expected = std.encode_prompt(std.load_model(folder / "xl"), "a red circle")
    assert torch.equal(std.encode_prompt(given, "a red circle").embeds, expected.embeds)


def test_a_text_encoder_as_gguf(folder: Path, tmp_path: Path) -> None:
    t5 = load_file(folder / "dev" / "text_encoder_2" / "model.safetensors")
    rounded = gguf_file(tmp_path / "t5.gguf", t5, "t5encoder")
    copy = shutil.copytree(folder / "dev", tmp_path / "copy")
    save_file(rounded, copy / "text_encoder_2" / "model.safetensors")
    clip = encoder_file(folder / "dev", "text_encoder", tmp_path / "clip_l.safetensors")
    given = std.load_text_encoder(clip, source_2=tmp_path / "t5.gguf", config=folder / "dev")
    found = std.encode_prompt(given, "a red circle").embeds
    expected = std.encode_prompt(std.load_model(copy), "a red circle").embeds
    assert float((found - expected).abs().max()) < 1e-5


# --- denoisers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("family", ["tiny", "xl", "dev"])
def test_a_denoiser_in_a_file(folder: Path, tmp_path: Path, family: str, prefix: str) -> None:
    file = tmp_path / "denoiser.safetensors"
    if family == "dev":
        flux_testing.flux_single_file(file, folder / family, prefix=prefix)
    else:
        whole = load_file(testing.single_file(tmp_path / "whole.safetensors", folder / family))
        start = "model.diffusion_model."
        unet = {f"{prefix}{n.removeprefix(start)}": t for n, t in whole.items() if n.startswith(start)}
        save_file(unet, file, said(folder / family, "unet"))
    model = std.load_model(folder / family)
    by_folder = std.join_model(std.load_denoiser(file, config=folder / family), model, model)
    assert same(picture(by_folder), picture(model), family)
    alone = std.join_model(std.load_denoiser(file), model, model)
    assert [alone.setting(name) for name in ("factor", "latent_channels")] == [
        model.setting(name) for name in ("factor", "latent_channels")
    ]
    assert picture(alone, guidance_scale=4.0).shape == picture(model).shape
