"""Parts of models: keyed and held as the parts of whole models, joined again, refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import flux as flux_testing
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.testing import sdxl as xl_testing
from graphengine_nodes.weights.files import TINY

from graphengine import Graph, ModelError, NodeError, Store, socket_type

FAMILIES = ("tiny", "xl", "dev")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of each family, and a LoRA of `tiny`'s denoiser and text encoder."""
    folder = tmp_path_factory.mktemp("parts")
    shutil.copytree(TINY / "model", folder / "tiny")
    xl_testing.xl_model(folder / "xl")
    flux_testing.flux_model(folder / "dev")
    testing.lora(folder / "words.safetensors", seed=2, parts=("unet", "text_encoder"))
    testing.lora(folder / "text.safetensors", seed=3, parts=("text_encoder",))
    testing.lora(folder / "noise.safetensors", seed=4)
    return folder


def changed(folder: Path, source: Path, component: str, **config: Any) -> Path:
    """A copy of a model with another configuration of a component."""
    shutil.copytree(source, folder)
    file = folder / component / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def picture(model: std.Model, words: Any = None, vae: Any = None) -> torch.Tensor:
    text = std.encode_prompt(words or model, "a red circle")
    return std.decode_latent(vae or model, std.sample(model, text, steps=2, width=64, height=64)).pixels


# --- one model, apart and together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_a_model_make_its_picture(folder: Path, family: str) -> None:
    model = std.load_model(folder / family)
    parts = std.split_model(model)
    assert std.join_model(parts.denoiser, parts.text_encoder, parts.vae) == model
    again = std.join_model(
        std.load_denoiser(folder / family), std.load_text_encoder(folder / family), std.load_vae(folder / family)
    )
    assert again == model
    assert again.digest() == model.digest()
    assert torch.equal(picture(again, parts.text_encoder, parts.vae), picture(model))
    image = std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(std.encode_image(parts.vae, image).mean, std.encode_image(model, image).mean)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_is_keyed_and_held_as_that_of_the_whole(folder: Path, family: str) -> None:
    whole = std.load_model(folder / family)
    with Graph() as graph:
        model = std.load_model(folder / family)
        parts = std.split_model(model)
        own = std.load_text_encoder(folder / family), std.load_vae(folder / family)
        texts = [std.encode_prompt(given, "a red circle") for given in (model, parts.text_encoder, own[0])]
        latent = std.sample(model, texts[0], steps=1, width=64, height=64)
        for n, (text, vae) in enumerate(zip(texts, (model, parts.vae, own[1]), strict=True)):
            graph.output(f"text{n}", text)
            graph.output(f"image{n}", std.decode_latent(vae, latent))
    memory = Keys()
    graph.run(store=memory)
    assert len(memory.asked) == 3  # one prompt, one latent, one picture
    for part, name in zip(std.split_model(whole), ("text_encoder", "denoiser", "vae"), strict=True):
        assert part.needs() <= whole.needs(name)


class Keys(Store):
    """A memory that notes which keys it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[bytes] = set()

    def reserve(self, key: bytes, *args: Any) -> Any:
        """A value, or a place for it."""
        self.asked.add(key)
        return super().reserve(key, *args)


def test_a_text_encoder_alone_loads_no_other_weights(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder / "tiny", tmp_path / "alone")
    shutil.rmtree(model / "unet")
    shutil.rmtree(model / "vae")
    store.clear()
    text = std.encode_prompt(std.load_text_encoder(model), "a red circle")
    assert torch.equal(text.embeds, std.encode_prompt(std.load_model("tiny"), "a red circle").embeds)
    assert len(store.digests("cpu")) == 2  # the encoder and its tokenizer
    weighted = std.encode_weighted(std.load_text_encoder(model), "a (red:1.3) circle").positive
    assert torch.equal(weighted.embeds, std.encode_weighted(std.load_model("tiny"), "a (red:1.3) circle")[0].embeds)


def test_loras_options_and_precision_stay_with_their_parts(folder: Path) -> None:
    both, text, noise = (std.load_lora(folder / f"{name}.safetensors") for name in ("words", "text", "noise"))
    model = std.load_model(folder / "tiny", precision="float32")
    for n, lora in enumerate((noise, both, text, both)):
        model = std.apply_lora(model, lora, 0.5 + n / 10)
    model = std.tile_vae(std.quantize_model(std.offload_model(model)))
    parts = std.split_model(model)
    assert std.join_model(parts.denoiser, parts.text_encoder, parts.vae) == model
    assert parts.text_encoder.digest() == model.digest("text_encoder")
    assert dict(parts.vae.model.options).keys() == {"tiling", "offload"}
    plain = std.load_model(folder / "tiny")
    mixed = std.join_model(parts.denoiser, plain, plain)
    assert mixed.digest("denoiser") == model.digest("denoiser")
    assert mixed.digest("text_encoder") == std.change_precision(plain, "float32").digest("text_encoder")
    with pytest.raises(ModelError, match="the parts are in float32 and bfloat16, but a model has one precision"):
        std.join_model(model, model, std.load_vae("tiny", precision="bfloat16"))


def test_parts_are_data(folder: Path) -> None:
    for part in std.split_model(std.apply_lora(std.load_model("tiny"), std.load_lora("tiny-blueprint"))):
        known = socket_type(type(part))
        assert known is not None
        assert known.encode is not None
        assert known.decode is not None
        assert known.decode(known.encode(part)) == part
        assert repr(part).startswith(f"<{type(part).__name__} stable_diffusion from tiny")


def test_components_in_folders_of_their_own(folder: Path, tmp_path: Path) -> None:
    model = std.load_model(folder / "tiny")
    unet = shutil.copytree(folder / "tiny" / "unet", tmp_path / "unet")
    vae = shutil.copytree(folder / "tiny" / "vae", tmp_path / "other")
    with pytest.raises(ModelError, match=r"unet lacks the scheduler; give `config`, a model's folder"):
        std.load_denoiser(unet)
    denoiser = std.load_denoiser(unet, config=folder / "tiny")
    joined = std.join_model(denoiser, model, std.load_vae(vae))
    assert joined.components == model.components
    assert [joined.setting(name) for name in ("width", "height", "factor")] == [128, 128, 8]
    assert torch.equal(picture(joined), picture(model))
    inside = std.load_denoiser(folder / "tiny" / "unet")
    assert inside == std.load_denoiser(folder / "tiny")


def test_replace_vae_is_a_join(folder: Path, tmp_path: Path) -> None:
    model = std.load_model(folder / "tiny")
    vae = changed(tmp_path / "vae", folder / "tiny", "vae", scaling_factor=0.5) / "vae"
    assert std.replace_vae(model, vae) == std.join_model(model, model, std.load_vae(vae))


@pytest.mark.parametrize(
    ("family", "name"), [("tiny", "text_encoder"), ("xl", "text_encoder_2"), ("dev", "text_encoder_2")]
)
def test_a_text_encoders_folder_is_that_encoder(folder: Path, tmp_path: Path, family: str, name: str) -> None:
    """In a model's folder, or elsewhere, in place of that of `config`."""
    whole = std.load_text_encoder(folder / family)
    inside = std.load_text_encoder(folder / family / name)
    assert inside.model.components == whole.model.components
    assert inside.model.settings == whole.model.settings
    alone = shutil.copytree(folder / family / name, tmp_path / "words")
    with pytest.raises(ModelError, match=r"words is a text encoder alone, whose tokenizer is in .*: give config"):
        std.load_text_encoder(alone)
    assert std.load_text_encoder(alone, config=folder / family).model.components == whole.model.components
    with pytest.raises(ModelError, match=r"vae holds a model, which no \w+ model reads prompts with"):
        std.load_text_encoder(folder / family / "vae")


# --- sizes without a model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_latent_is_a_size(folder: Path, family: str) -> None:
    model = std.load_model(folder / family)
    text = std.encode_prompt(model, "a red circle")
    size = std.empty_latent(width=64, height=48 if family != "dev" else 80, count=2)
    found = std.sample(model, text, latent=size, steps=1).samples
    assert torch.equal(
        found,
        std.sample(model, text, latent=std.empty_latent(model, 64, size.samples.shape[2] * 8, 2), steps=1).samples,
    )
    larger = std.sample(model, text, latent=std.upscale_latent(size, 2), steps=1).samples
    assert [2 * side for side in found.shape[2:]] == list(larger.shape[2:])
    with pytest.raises(ValueError, match="empty, there is nothing to decode"):
        std.decode_latent(model, size)


def test_a_size_needs_both_sides(folder: Path) -> None:
    with pytest.raises(ValueError, match="an empty latent without a model needs width and height"):
        std.empty_latent(width=64)
    dev = std.load_model(folder / "dev")
    with pytest.raises(ValueError, match="height is 72, but must be a multiple of 16"):
        std.sample(dev, std.encode_prompt(dev, ""), latent=std.empty_latent(width=64, height=72), steps=1)


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_parts_of_other_families_are_refused(folder: Path, tmp_path: Path) -> None:
    tiny, xl, dev = (std.split_model(std.load_model(folder / name)) for name in FAMILIES)
    for body, words, vae, message in (
        (
            tiny,
            xl,
            tiny,
            "the text encoder of xl is for stable_diffusion_xl models; it does not fit a stable_diffusion",
        ),
        (tiny, tiny, xl, r"the vae of xl is for stable_diffusion_xl.* models; it does not fit a stable_diffusion"),
        (
            dev,
            dev,
            tiny,
            r"the vae of tiny is for stable_diffusion, stable_diffusion_xl.* models; it does not fit a flux",
        ),
        (xl, dev, xl, "the text encoder of dev is for flux models"),
    ):
        with pytest.raises(ModelError, match=message):
            std.join_model(body.denoiser, words.text_encoder, vae.vae)
    assert std.join_model(xl.denoiser, xl.text_encoder, tiny.vae).family == "stable_diffusion_xl"  # of no known scale
    latent = std.Latent(torch.zeros(1, 16, 8, 8), "flux")
    with pytest.raises(ValueError, match="a latent of flux cannot be decoded by xl"):
        std.decode_latent(xl.vae, latent)
    with pytest.raises(
        ModelError, match=r"vae is a VAE for stable_diffusion_xl.* models; tiny is a stable_diffusion model"
    ):
        std.replace_vae(std.load_model("tiny"), folder / "xl" / "vae")
    sd3 = changed(tmp_path / "sd3", folder / "dev", "vae", scaling_factor=1.5305, shift_factor=0.0609)
    with pytest.raises(ModelError, match="of vae is for stable_diffusion_3 models; it does not fit a flux"):
        std.join_model(dev.denoiser, dev.text_encoder, std.load_vae(sd3 / "vae"))
    with pytest.raises(ModelError, match="vae is a VAE for stable_diffusion_3 models; dev is a flux model"):
        std.replace_vae(std.load_model(folder / "dev"), sd3 / "vae")
    other = changed(tmp_path / "other", folder / "tiny", "vae", _class_name="AutoencoderKLCogVideoX")
    with pytest.raises(ModelError, match="holds a AutoencoderKLCogVideoX, which is no vae of a known family"):
        std.load_vae(other / "vae")


def test_parts_of_other_shapes_are_refused(folder: Path, tmp_path: Path) -> None:
    tiny = std.split_model(std.load_model(folder / "tiny"))
    wide = changed(tmp_path / "wide", folder / "tiny", "text_encoder", hidden_size=64)
    with pytest.raises(ModelError, match=r"the text encoder of wide gives prompts of width 64; .* of tiny takes 128"):
        std.join_model(tiny.denoiser, std.load_text_encoder(wide), tiny.vae)
    half = changed(tmp_path / "half", folder / "tiny", "vae", block_out_channels=[16, 32])
    with pytest.raises(ModelError, match="half makes latents of 4 channels at 1/2 of the size; tiny needs 4 at 1/8"):
        std.join_model(tiny.denoiser, tiny.text_encoder, std.load_vae(half))


def test_parts_that_do_not_fit_are_refused_before_anything_is_loaded(folder: Path) -> None:
    with Graph() as graph:
        model = std.load_model(folder / "tiny")
        other = std.join_model(model, std.load_text_encoder(folder / "xl"), model)
        graph.output("text", std.encode_prompt(other, "a red circle"))
    store.clear()
    with pytest.raises(NodeError, match="does not fit a stable_diffusion model"):
        graph.run()
    assert not store.digests("cpu")
