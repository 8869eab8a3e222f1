"""Embeddings (textual inversion) that prompts name: the bits of diffusers, and the words' table stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.prompt_embeddings import PlaceTokenizer, add_vectors
from graphengine_nodes.store.store import store
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.values.references import Embedding
from graphengine_nodes.weights.devices import storages
from graphengine_nodes.weights.files import TINY
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from graphengine import Graph, ModelError, NodeError, load

WIDTH = 128


def vectors(count: int, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 0.5


def written(file: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, file)
    return file


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("tree") / "tree.safetensors", emb_params=vectors(3))


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the format of diffusers: a single vector under its token."""
    return written(tmp_path_factory.mktemp("circle") / "learned.safetensors", **{"<circle>": vectors(1, seed=1)[0]})


@pytest.fixture(scope="module")
def model(tree: Path, circle: Path) -> std.Model:
    return std.apply_embedding(std.apply_embedding(std.load_model("tiny"), "Tree-1.5", tree), "circle", circle)


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", local_files_only=True)
    found.load_textual_inversion({"<tree>": vectors(3)}, token="<tree>")
    found.load_textual_inversion({"<circle>": vectors(1, seed=1)[0]}, token="<circle>")
    found.set_progress_bar_config(disable=True)
    return found


TEXTS = [
    ("a embedding:Tree-1.5 on a blue background", "a <tree> on a blue background"),
    ("embedding:circle", "<circle>"),
    ("two embedding:circle, embedding:Tree-1.5.", "two <circle> , <tree> ."),
    ("a house embedding:circle.safetensors " + "embedding:Tree-1.5 " * 30, "a house <circle> " + "<tree> " * 30),
    ("a red house", "a red house"),
]


@pytest.mark.parametrize(("ours", "theirs"), TEXTS)
def test_prompts_are_those_of_diffusers(model: std.Model, pipe: Any, ours: str, theirs: str) -> None:
    expected, _ = pipe.encode_prompt(theirs, "cpu", 1, False)
    assert torch.equal(std.encode_prompt(model, ours).embeds, expected)
    if len(ours) < 100:
        assert torch.equal(std.encode_weighted(model, ours).positive.embeds, expected)


def test_pictures_are_those_of_diffusers(model: std.Model, pipe: Any) -> None:
    seeds = [torch.Generator().manual_seed(3)]
    expected = pipe(
        TEXTS[0][1], negative_prompt="<circle>", num_inference_steps=3, guidance_scale=3.0, generator=seeds,
        output_type="latent", height=64, width=64,
    ).images  # fmt: skip
    negative = std.encode_prompt(model, "embedding:circle")
    options: dict[str, Any] = {"seed": 3, "steps": 3, "guidance_scale": 3.0, "width": 64, "height": 64}
    found = std.sample(model, std.encode_prompt(model, TEXTS[0][0]), negative=negative, **options)
    assert torch.equal(found.samples, expected)


def test_prompts_of_sdxl_are_those_of_diffusers(tmp_path: Path) -> None:
    folder = xl_model(tmp_path / "xl")
    pipe: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    widths = [encoder.config.hidden_size for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    small, large = vectors(2, widths[0]), vectors(2, widths[1], 1)
    for tensor, end in ((small, ""), (large, "_2")):
        words, encoder = getattr(pipe, f"tokenizer{end}"), getattr(pipe, f"text_encoder{end}")
        pipe.load_textual_inversion({"<x>": tensor}, token="<x>", tokenizer=words, text_encoder=encoder)
    file = written(tmp_path / "x.safetensors", clip_l=small, clip_g=large)
    model = std.apply_embedding(std.load_model(folder), "x", file)
    embeds, _, pooled, _ = pipe.encode_prompt("a <x> house", device="cpu", do_classifier_free_guidance=False)
    for found in (
        std.encode_prompt(model, "a embedding:x house"),
        std.encode_prompt(std.split_model(model).text_encoder, "a embedding:x house"),
    ):
        assert torch.equal(found.embeds, embeds)
        assert found.pooled is not None
        assert torch.equal(found.pooled, pooled)
    with pytest.raises(ModelError, match="holds an embedding for stable_diffusion_xl; tiny, stable_diffusion, needs"):
        std.apply_embedding(std.load_model("tiny"), "x", file)
    alone = written(tmp_path / "one.safetensors", emb_params=small)
    with pytest.raises(ModelError, match=r"holds an embedding for stable_diffusion; .* needs .* clip_l and clip_g"):
        std.apply_embedding(std.load_model(folder), "x", alone)


def test_weights_in_prompts_and_schedules_reach_embeddings(model: std.Model) -> None:
    plain, heavy, part = (
        std.encode_weighted(model, text).positive
        for text in ("a embedding:circle house", "a (embedding:circle:1.4) house", "a [red:embedding:circle:0.5] house")
    )
    assert not torch.equal(plain.embeds, heavy.embeds)
    changed = (plain.embeds / plain.embeds.mean() - heavy.embeds / heavy.embeds.mean()).abs().mean(-1)[0]
    assert changed.argmax() == 2  # begin, a, the embedding
    assert not torch.equal(part.embeds, plain.embeds)


def test_the_end_of_a_prompt_is_found_by_encoders_that_take_the_highest_id() -> None:
    """Published configurations of SDXL say that the end token is 2, which transformers takes for the highest id."""
    torch.manual_seed(0)
    numbers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=50, eos_token_id=2, bos_token_id=48, pad_token_id=0, **numbers))
    add_vectors(encoder, [vectors(2, 32)])
    found = encoder(torch.tensor([[48, 7, -1, -2, 9, 49, 0, 0]]))
    assert torch.equal(found.pooler_output, found.last_hidden_state[:, 5])


# --- what is shared ---------------------------------------------------------------------------------------------------


def test_the_table_of_words_is_shared_and_stays_as_it_is(model: std.Model) -> None:
    plain = std.load_model("tiny")
    before = std.encode_prompt(plain, "a red house").embeds
    with (
        store.component(plain, "text_encoder", "cpu") as shared, store.component(model, "text_encoder", "cpu") as own,
    ):  # fmt: skip
        table = shared.get_input_embeddings()
        rows = table.weight.shape
        assert own.get_input_embeddings().weight.data_ptr() == table.weight.data_ptr()
        only = {pointer: size for pointer, size in storages(own).items() if pointer not in storages(shared)}
        assert sum(only.values()) == 4 * WIDTH * 4
    std.encode_prompt(model, "a embedding:circle house")
    assert table.weight.shape == rows
    assert torch.equal(std.encode_prompt(plain, "a red house").embeds, before)


def test_only_the_text_encoders_part_has_another_digest(model: std.Model, tree: Path, circle: Path) -> None:
    plain = std.load_model("tiny")
    for part in ("denoiser", "vae", "denoiser+vae"):
        assert model.digest(part) == plain.digest(part)
    assert model.digest("text_encoder") != plain.digest("text_encoder")
    renamed = std.apply_embedding(std.apply_embedding(plain, "other", tree), "circle", circle)
    assert renamed.digest("text_encoder") != model.digest("text_encoder")
    parts = std.split_model(model)
    assert std.join_model(parts.denoiser, parts.text_encoder, parts.vae).digest() == model.digest()


def test_references_are_written_and_read(model: std.Model) -> None:
    from graphengine import socket_type

    for value in (model, std.load_model("tiny"), std.split_model(model).text_encoder):
        kind = socket_type(type(value))
        assert kind is not None
        data = kind.encode(value)  # type: ignore[misc]
        assert kind.decode(data) == value  # type: ignore[misc]
        assert (b"embeddings" in data) == (value.digest() != std.load_model("tiny").digest())
    assert "embedding circle" in repr(model)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def test_places_among_words() -> None:
    words = CLIPTokenizer.from_pretrained(TINY / "model" / "tokenizer", local_files_only=True)
    placed = PlaceTokenizer(words, [("a", Embedding("x", 2)), ("b", Embedding("y", 1))])
    begin, end = words.bos_token_id, words.eos_token_id
    red = words("red", add_special_tokens=False)["input_ids"]
    assert placed("red \ue001 red\ue000")["input_ids"] == [begin, *red, -3, *red, -1, -2, end]
    for text in ("", "a red house", "a " * 100):
        for options in ({"padding": "max_length", "max_length": 77, "truncation": True}, {"truncation": False}):
            plain, found = words(text, verbose=False, **options), placed(text, **options)
            assert found.input_ids == plain["input_ids"]
            assert found["attention_mask"] == plain["attention_mask"]
    assert placed.decode([-1, -2, *red]) == f"embedding:a {words.decode(red)}"
    assert placed.model_max_length == 77


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", [std.encode_prompt, std.encode_weighted])
def test_an_unknown_name_is_an_error(model: std.Model, encode: Any) -> None:
    with pytest.raises(ValueError, match=r"the embedding circel, which tiny does not have; did you mean circle\?"):
        encode(model, "a embedding:circel")
    with pytest.raises(ValueError, match="the embedding easy, which tiny does not have; apply_embedding gives it"):
        encode(std.load_model("tiny"), "embedding:easy")
    with pytest.raises(NodeError, match="names the embedding easy"):
        load("text_to_image")(negative_prompt="embedding:easy", steps=1)


def test_files_that_are_none_are_refused_before_anything_is_loaded(tmp_path: Path, model: std.Model) -> None:
    plain = std.load_model("tiny")
    wide = written(tmp_path / "wide.safetensors", emb_params=vectors(2, 768))
    with pytest.raises(ModelError, match=r"holds vectors of 768 numbers; the text_encoder of tiny, .*, takes 128"):
        std.apply_embedding(plain, "x", wide)
    with pytest.raises(ModelError, match="holds no embedding of its kind"):
        std.apply_embedding(plain, "x", TINY / "lora" / "blueprint.safetensors")
    with pytest.raises(ModelError, match="is of the shape"):
        std.apply_embedding(plain, "x", written(tmp_path / "cube.safetensors", emb_params=torch.zeros(2, 3, WIDTH)))
    with pytest.raises(ModelError, match="holds 76 vectors; 1 to 75 fit"):
        std.apply_embedding(plain, "x", written(tmp_path / "long.safetensors", emb_params=vectors(76)))
    torch.save({"string_to_param": {"*": vectors(1)}}, tmp_path / "old.pt")
    with pytest.raises(ModelError, match="is a pickle, which can run code when it is read"):
        std.apply_embedding(plain, "x", tmp_path / "old.pt")
    with pytest.raises(ValueError, match="has an embedding called circle already"):
        std.apply_embedding(model, "circle", wide)
    with pytest.raises(ValueError, match="is no name for an embedding"):
        std.apply_embedding(plain, "two words", wide)


def test_in_a_workflow(tree: Path) -> None:
    with Graph() as g:
        prompt = g.input("prompt", str, "a embedding:tree")
        text = std.encode_prompt(std.apply_embedding(std.load_model("tiny"), "tree", tree), prompt)
        g.output("text", text)
    other = std.apply_embedding(std.load_model("tiny"), "tree", tree)
    assert torch.equal(g().embeds, std.encode_prompt(other, "a embedding:tree").embeds)
