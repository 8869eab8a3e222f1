"""FLUX.1 Redux: prompts with pictures are those of diffusers' prior, to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing import flux
from graphengine_nodes.testing.z_image import z_image_model
from graphengine_nodes.weights.redux_files import siglip_at, siglip_config
from safetensors.torch import load_file, save_file

from graphengine import Graph, ModelError, Reuse, load, run

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("redux")
    flux.flux_model(found / "dev")
    flux.flux_redux(found / "redux")
    return found


def drawn(seed: int, width: int, height: int) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def prior(folder: Path) -> Any:
    """diffusers' own pipeline, with the text encoders of the model."""
    import diffusers

    own = diffusers.FluxPipeline.from_pretrained(folder / "dev")
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return diffusers.FluxPriorReduxPipeline.from_pretrained(
        folder / "redux", **{name: getattr(own, name) for name in names}
    ), own


def test_a_picture_beside_a_prompt_is_that_of_diffusers(folder: Path, prior: Any) -> None:
    first, own = prior
    own.set_progress_bar_config(disable=True)
    shown = drawn(1, 96, 64)
    model = std.load_model(folder / "dev")
    text = std.encode_prompt(model, PROMPT)
    redux = std.load_redux(folder / "redux")
    for scale, pooled in ((1.0, 1.0), (0.6, 0.8)):
        found = std.apply_redux(text, redux, images.from_pil(shown), scale, pooled)
        given = first(shown, prompt=PROMPT, prompt_embeds_scale=scale, pooled_prompt_embeds_scale=pooled)
        assert found.embeds.shape == (1, 512 + 16, flux.WIDTH)
        assert torch.equal(found.embeds, given.prompt_embeds)
        assert found.pooled is not None
        assert torch.equal(found.pooled, given.pooled_prompt_embeds)
        generator = torch.Generator().manual_seed(3)
        expected = own(
            **given, generator=generator, num_inference_steps=2, width=64, height=64, output_type="np"
        ).images
        latent = std.sample(model, found, seed=3, steps=2, width=64, height=64)
        assert np.array_equal(std.decode_latent(model, latent).pixels.numpy(), expected)
    plain = std.sample(model, text, seed=3, steps=2, width=64, height=64)
    assert not torch.allclose(plain.samples, latent.samples, atol=1e-2)


def test_the_prompts_of_several_pictures_are_summed(folder: Path, prior: Any) -> None:
    first, _ = prior
    shown = [drawn(1, 96, 64), drawn(2, 64, 64)]
    text = std.encode_prompt(std.load_model(folder / "dev"), PROMPT)
    assert text.pooled is not None
    given = first(
        shown,
        prompt_embeds=text.embeds.repeat(2, 1, 1),
        pooled_prompt_embeds=text.pooled.repeat(2, 1),
        prompt_embeds_scale=[0.7, 0.3],
    )
    redux, pictures = std.load_redux(folder / "redux"), [images.from_pil(one) for one in shown]
    found = std.apply_redux(text, redux, pictures, [0.7, 0.3])
    assert torch.equal(found.embeds, given.prompt_embeds)
    assert found.pooled is not None
    assert torch.equal(found.pooled, given.pooled_prompt_embeds)


def test_files_alone_are_what_they_are_in_the_folder(folder: Path, tmp_path: Path) -> None:
    text = std.encode_prompt(std.load_model(folder / "dev"), PROMPT)
    shown = images.from_pil(drawn(1, 64, 64))
    expected = std.apply_redux(text, std.load_redux(folder / "redux"), shown).embeds
    file = tmp_path / "flux1-redux-dev.safetensors"
    shutil.copy(folder / "redux" / "image_embedder" / "diffusion_pytorch_model.safetensors", file)
    found = std.load_redux(file, image_encoder=folder / "redux")
    assert torch.equal(std.apply_redux(text, found, shown).embeds, expected)
    old = tmp_path / "old"
    shutil.copytree(folder / "redux" / "image_encoder", old)
    tensors = load_file(old / "model.safetensors")
    save_file({f"vision_model.{name}": tensor for name, tensor in tensors.items()}, old / "model.safetensors")
    assert torch.equal(std.apply_redux(text, std.load_redux(file, image_encoder=old), shown).embeds, expected)


def test_the_published_image_encoder_is_told_by_its_shapes(tmp_path: Path) -> None:
    file = tmp_path / "sigclip_vision_patch14_384.safetensors"
    shapes = {
        "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "embeddings.position_embedding.weight": (729, 1152),
        "encoder.layers.0.mlp.fc1.weight": (4304, 1152),
        "encoder.layers.26.layer_norm1.bias": (1152,),
    }
    tensors = {f"vision_model.{name}": torch.zeros(shape, dtype=torch.float8_e4m3fn) for name, shape in shapes.items()}
    save_file(tensors, file)
    config = siglip_config(siglip_at(file).folder)
    told = ("hidden_size", "num_attention_heads", "image_size", "intermediate_size", "num_hidden_layers")
    assert [config[name] for name in told] == [1152, 16, 384, 4304, 2]
    tensors["vision_model.embeddings.position_embedding.weight"] = torch.zeros(256, 1152, dtype=torch.float8_e4m3fn)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="is not SigLIP so400m at 384 pixels: give its folder"):
        siglip_at(file)


def test_a_graph_with_redux_is_written_and_computes_it_once(folder: Path, tmp_path: Path) -> None:
    images.from_pil(drawn(1, 64, 64)).pil().save(tmp_path / "photo.png")
    with Graph() as graph:
        model = std.load_model(folder / "dev")
        seed = graph.input("seed", int, 1)
        shown = std.apply_redux(
            std.encode_prompt(model, PROMPT), std.load_redux(folder / "redux"), std.load_image(tmp_path / "photo.png")
        )
        graph.output("latent", std.sample(model, shown, seed=seed, steps=2, width=64, height=64))
    graph.save(tmp_path / "graph.json")
    again = load(tmp_path / "graph.json")
    run(again)
    found = run(again, inputs={"seed": 2})
    assert {node for node, reuse in found.reuse.items() if reuse is Reuse.COMPUTED} <= {
        *("sample", "load_model", "load_redux", "load_image")
    }


def test_what_is_no_redux_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    redux, text = std.load_redux(folder / "redux"), std.encode_prompt(std.load_model(folder / "dev"), PROMPT)
    shown = images.from_pil(drawn(1, 64, 64))
    with pytest.raises(ValueError, match="scale has 2 factors for 1 pictures; give one for each"):
        std.apply_redux(text, redux, shown, [1.0, 2.0])
    with pytest.raises(ValueError, match="image is an empty list; give a picture"):
        std.apply_redux(text, redux, [])
    other = std.encode_prompt(std.load_model(z_image_model(tmp_path / "z")), PROMPT)
    with pytest.raises(ValueError, match=r"Redux is for FLUX\.1, and this prompt is of z_image"):
        std.apply_redux(other, redux, shown)
    file = tmp_path / "other.safetensors"
    save_file({"redux_up.weight": torch.ones(6, 2)}, file)
    with pytest.raises(ModelError, match=r"is no FLUX\.1 Redux: redux_down\.bias is missing"):
        std.load_redux(file, image_encoder=folder / "redux")
    with pytest.raises(ModelError, match="holds no image embedder"):
        std.load_redux(folder / "dev" / "transformer", image_encoder=folder / "redux")
    changed = tmp_path / "changed"
    shutil.copytree(folder / "redux", changed)
    said = changed / "feature_extractor" / "preprocessor_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"image_mean": [0.4, 0.4, 0.4]}))
    with pytest.raises(ModelError, match=r"image_mean is .* but pictures for Redux are prepared with"):
        std.load_redux(changed)
