"""Graphs made of the settings that the WebUI writes into its pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import torch
from graphengine_nodes.nodes.webui import graph_of_parameters
from graphengine_nodes.testing.sd import single_file
from graphengine_nodes.values.picture_text import exif_with_comment, parameters, read_parameters
from graphengine_nodes.weights.files import TINY
from safetensors.torch import save_file

from graphengine.results.record import find_named, texts_of
from tests.graphengine.cli.conftest import Run, cli  # noqa: F401

WEBUI = """\
a (red:1.3) circle, on a blue background <lora:blue print:0.5>
second line
Negative prompt: blurry, (text)
and more
Steps: 4, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.5, Seed: 965400086, Size: 64x72, \
Model hash: {digest}, Model: my.model, Clip skip: 2, Lora hashes: "blue print: 0123456789ab", \
Hires upscale: 2, ADetailer prompt: "a, b: \\"c\\"", Version: v1.10.1, Hashes: {{"model": "1", "lora:x": "2"}}"""


def graph_of(text: str, folder: Path) -> Any:
    return graph_of_parameters(text, lambda name, suffixes, fits: find_named(name, suffixes, fits, [folder]))


def checkpoint(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    file = single_file(folder / "my.model.safetensors")
    shutil.copytree(TINY / "model", file.with_suffix(""))  # configurations and tokenizer
    shutil.copy(TINY / "lora" / "blueprint.safetensors", folder / "blue print.safetensors")
    return file


def picture_with(text: str, file: Path) -> Path:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    PIL.Image.new("RGB", (64, 72)).save(file, pnginfo=info)
    return file


def test_what_the_webui_writes_is_read() -> None:
    prompt, negative, facts = read_parameters(WEBUI.format(digest="0123456789"))
    assert prompt == "a (red:1.3) circle, on a blue background <lora:blue print:0.5>\nsecond line"
    assert negative == "blurry, (text)\nand more"
    assert facts["Sampler"] == "DPM++ 2M"
    assert facts["Size"] == "64x72"
    assert facts["Lora hashes"] == "blue print: 0123456789ab"
    assert facts["ADetailer prompt"] == 'a, b: "c"'
    assert facts["Version"] == "v1.10.1"
    assert facts["Hashes"] == '{"model": "1", "lora:x": "2"}'


@pytest.mark.parametrize("prompt", ["a, b: c", "two\nlines", ""])
def test_what_is_written_here_is_read_back(prompt: str) -> None:
    facts: dict[str, Any] = {"steps": 3, "sampler": "Euler a", "seed": 7, "model": "a: b", "width": 8, "height": 9}
    found = read_parameters(parameters(prompt=prompt, negative_prompt="x, y", **facts))
    assert found[:2] == (prompt, "x, y")
    assert found[2] == {"Steps": "3", "Sampler": "Euler a", "Seed": "7", "Size": "8x9", "Model": "a: b"}


def test_the_graph_is_that_of_the_settings(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "models")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    graph, left_out = graph_of(WEBUI.format(digest=digest), tmp_path)
    model = std.apply_lora(std.load_model(file), std.load_lora(tmp_path / "models" / "blue print.safetensors"), 0.5)
    texts = "a (red:1.3) circle, on a blue background \nsecond line", "blurry, (text)\nand more"
    both = std.encode_weighted(model, *texts, clip_skip=1)
    expected = std.decode_latent(model, std.sample(
        model, both.positive, negative=both.negative, seed=965400086, steps=4, guidance_scale=3.5,
        scheduler="DPM++ 2M Karras", width=64, height=72,
    ))  # fmt: skip
    assert np.array_equal(np.asarray(graph()), np.asarray(expected))
    assert left_out == [
        "Hires upscale: 2 is not taken over",
        'ADetailer prompt: a, b: "c" is not taken over',
        "the WebUI drew its noise on a GPU, which gives other noise for the same seed",
    ]


def test_strengths_of_loras(tmp_path: Path) -> None:
    ends = ("", ":0.5", ":0.25:0.5", ":1:lbw=OUT")
    tags = " ".join(f"<lora:tiny-blueprint{end}>" for end in ends)
    graph, left_out = graph_of(f"a house {tags}\nSteps: 1, Seed: 1, Model: tiny", tmp_path)
    assert [graph.inputs[f"lora_{n}_scale"].default for n in (1, 2, 3)] == [1.0, 0.5, 0.5]
    applied = [node.args.get("text_scale") for node in graph.nodes.values() if node.type == "std.apply_lora"]
    assert applied == [None, None, 0.25]
    assert left_out == ["<lora:tiny-blueprint:1:lbw=OUT> has other settings than strengths and is left out"]
    assert graph.inputs["prompt"].default == "a house"


def test_embeddings_are_named_as_prompts_name_them_here(tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(2, 128)}, tmp_path / "Easy-Neg.safetensors")
    negative, hashes = "Negative prompt: (easy-neg:1.2), easy-negative", 'TI hashes: "Easy-Neg: 01, gone: 02"'
    text = f"a house\n{negative}\nSteps: 1, Seed: 1, Model: tiny, {hashes}"
    graph, left_out = graph_of(text, tmp_path)
    assert left_out == []
    assert graph.inputs["negative_prompt"].default == "(embedding:Easy-Neg:1.2), easy-negative"
    assert graph.inputs["embedding_2"].required
    assert graph.inputs["embedding_2"].help == "the picture was made with the embedding gone"
    model = std.apply_embedding(std.load_model("tiny"), "Easy-Neg", tmp_path / "Easy-Neg.safetensors")
    expected = std.encode_weighted(model, "a house", graph.inputs["negative_prompt"].default).negative.embeds
    given = {"embedding_2": str(tmp_path / "Easy-Neg.safetensors")}
    (encoder,) = [id for id, node in graph.nodes.items() if node.type == "std.encode_weighted"]
    assert torch.equal(graph.run(want=encoder, inputs=given).negative.embeds, expected)


def test_a_file_of_another_hash_is_not_taken(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    graph, _ = graph_of(WEBUI.format(digest="0123456789"), tmp_path)
    assert graph.inputs["model"].required
    assert "my.model (hash 0123456789)" in graph.inputs["model"].help
    assert not graph.inputs["lora_1"].required


@pytest.mark.parametrize(
    ("line", "scheduler", "sentence"),
    [
        ("Sampler: Euler a", "Euler a", None),
        ("Sampler: DPM++ 2M Karras", "DPM++ 2M Karras", None),  # before version 1.9
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "DPM++ 2M Karras", None),
        ("Sampler: Euler, Schedule type: Automatic", "Euler", None),
        ("Sampler: DDIM, Schedule type: Uniform", "DDIM", None),
        ("Sampler: Euler, Schedule type: KL Optimal", "Euler", "the schedule type KL Optimal is not known"),
        ("Sampler: Restart", None, "the sampler Restart is not known; the model's own is taken"),
        ("Sampler: DPMSolverMultistep", "DPMSolverMultistepScheduler", None),
        ("Sampler: Euler, CFG scale: much", "Euler", "CFG scale much is no number"),
        ("Sampler: Euler, Denoising strength: 0.5", "Euler", "the picture that it began with is not in the file"),
        ("Sampler: Euler, VAE: nice", "Euler", "VAE: nice is not taken over"),
    ],
)
def test_samplers_and_what_is_left_out(tmp_path: Path, line: str, scheduler: str | None, sentence: str | None) -> None:
    graph, left_out = graph_of(f"x\nSteps: 2, Seed: 1, {line}, Model: tiny", tmp_path)
    assert graph.inputs["scheduler"].default == scheduler
    assert graph.problems() == []
    if sentence is None:
        assert left_out == []
    else:
        (told,) = left_out
        assert sentence in told


def test_a_seed_that_is_not_there_is_said(tmp_path: Path) -> None:
    graph, left_out = graph_of("x\nSteps: 2, Model: tiny", tmp_path)
    assert graph.inputs["seed"].default == 0
    assert left_out == ["the seed is not in the settings: 0 is taken, which makes another picture"]


def test_a_picture_of_the_webui_is_made_again(cli: Run, tmp_path: Path) -> None:  # noqa: F811
    text = "a red circle <hypernet:h:1>\nNegative prompt: x\nSteps: 1, Sampler: Euler, Seed: 3, Size: 64x72"
    picture = picture_with(f"{text}, Model: tiny", tmp_path / "webui.png")
    done = cli("rerun", picture)
    assert done.code == 0, done.err
    assert "left out: <hypernet:h:1> is no LoRA and is left out\n" in done.err
    assert "the pixels are not the same: they differ by up to" in done.out
    made = tmp_path / done.out.split()[0]
    settings = PIL.Image.open(made).info["parameters"]
    assert settings.startswith("a red circle\nNegative prompt: x\nSteps: 1, Sampler: Euler, ")
    refused = cli("rerun", made, "--set", "seed=4")  # the new one has a record
    assert refused.code == 2
    assert "made again as it was" in refused.err
    other = cli("rerun", picture, "--set", "seed=-1", "--set", "prompt=a house", "--json")
    told = json.loads(other.out.splitlines()[-1])
    assert told["left_out"] == ["<hypernet:h:1> is no LoRA and is left out"]
    text = PIL.Image.open(tmp_path / told["files"][0]).info["parameters"]
    assert text.startswith("a house\n")
    assert f"Seed: {told['drawn']['seed']}" in text


def test_a_model_that_is_not_found_is_named(cli: Run, tmp_path: Path) -> None:  # noqa: F811
    picture = picture_with("x\nSteps: 1, Model hash: 0123456789, Model: dream", tmp_path / "webui.png")
    done = cli("rerun", picture)
    assert done.code == 2
    assert "needs the input model" in done.err
    assert "dream (hash 0123456789), of which no file is found" in done.err


@pytest.mark.parametrize("text", ["a circle\nSteps: 1", "ein großer Kreis ☃\nSteps: 1"])
def test_settings_of_jpegs_are_found(tmp_path: Path, text: str) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif_with_comment(text))
    assert texts_of(tmp_path / "x.jpg") == {"parameters": text}
