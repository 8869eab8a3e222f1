"""Picture files of every format carry how they were made, and the text `parameters` that other tools read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.nodes.settings import settings
from graphengine_nodes.testing.sd import lora, single_file
from graphengine_nodes.values.picture_files import encoded, to_pil
from graphengine_nodes.values.picture_text import exif_with_comment, parameters
from graphengine_nodes.weights.files import TINY

from graphengine import FileError, Graph
from graphengine.provenance.steps import steps
from graphengine.results.record import graph_of, locate, read
from tests.graphengine_nodes import cases


def test_as_the_webui_writes_it() -> None:
    text = parameters(
        prompt="a red circle",
        negative_prompt="blurry",
        steps=20,
        sampler="DPM++ 2M",
        schedule="Karras",
        guidance_scale=7.5,
        seed=42,
        width=512,
        height=768,
        model="checkpoints/tiny.v2.safetensors",
        model_hash="0123456789",
        strength=0.75,
        clip_skip=1,
        loras=(("styles/blueprint.safetensors", 0.5, 0.5), ("owner/name-1.5", 1.0, 0.25)),
        lora_hashes={"styles/blueprint.safetensors": "ba9876543210", "owner/name-1.5": "0123456789ab"},
    )
    assert text == (
        "a red circle <lora:blueprint:0.5> <lora:owner/name-1.5:0.25:1>\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 42, Size: 512x768, "
        "Model hash: 0123456789, Model: tiny.v2, Denoising strength: 0.75, Clip skip: 2, "
        'Lora hashes: "blueprint: ba9876543210, owner/name-1.5: 0123456789ab"'
    )


def test_what_is_not_known_is_left_out_and_odd_values_are_quoted() -> None:
    assert parameters(prompt="x", seed=0) == "x\nSeed: 0"
    assert parameters(model='a, b: "c"') == '\nModel: "a, b: \\"c\\""'


# --- in files ---------------------------------------------------------------------------------------------------------

COMMENT, NOTE = 0x9286, 0x927C
FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}


def made(folder: Path, suffix: str, **options: Any) -> Path:
    """A picture that a run saved."""
    cases.picture().save(folder / "start.png")
    with Graph() as g:
        small = std.resize_image(std.load_image(folder / "start.png"), 48, 40)
        g.output("files", std.save_image(small, folder / f"made.{suffix}", **options))
    assert g() == [str(folder / f"made.{suffix}")]
    return folder / f"made.{suffix}"


@pytest.mark.parametrize("suffix", FORMATS)
def test_how_it_was_made_survives_in_every_format(tmp_path: Path, suffix: str) -> None:
    file = made(tmp_path, suffix)
    with PIL.Image.open(file) as picture:
        assert picture.format == FORMATS[suffix]
        assert picture.size == (48, 40)
    record = read(file)
    found, missing = locate(record["files"], [tmp_path])
    assert not missing
    graph, inputs = graph_of(record, found)
    again = graph.run(want=record["output"], inputs=inputs)
    expected = cases.picture().resize((48, 40), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(again), np.asarray(expected))


def test_rerun_reads_it_from_every_format(tmp_path: Path) -> None:
    told = {}
    for suffix, options in {"jpg": {}, "webp": {"quality": 100}}.items():
        file = made(tmp_path, suffix, **options)
        command = [sys.executable, "-m", "graphengine.cli", "rerun", str(file), "--no-cache", "--out", "again"]
        told[suffix] = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "the pixels are the same" in told["webp"]
    assert "of 255; JPEG and WebP (below quality 100) keep them only roughly" in told["jpg"]


def test_other_tools_read_the_settings_in_every_format(tmp_path: Path) -> None:
    model = std.load_model("tiny")
    for prompt in ("a red circle", "ein großer Kreis ☃"):
        for suffix in ("png", "jpg", "webp"):
            with Graph() as g:
                latent = std.sample(model, std.encode_prompt(model, prompt), seed=3, steps=1, width=64, height=64)
                std.save_image(std.decode_latent(model, latent), tmp_path / f"made.{suffix}")
            g.run()
            with PIL.Image.open(tmp_path / f"made.{suffix}") as picture:
                if suffix == "png":
                    text = picture.info["parameters"]
                else:
                    comment = picture.getexif().get_ifd(0x8769)[COMMENT]
                    kind, text = comment[:8], comment[8:]
                    text = text.decode({b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16-be"}[kind])
            assert text.startswith(f"{prompt}\nSteps: 1, ")
            assert "Seed: 3" in text


def test_formats_by_suffix_and_by_name(tmp_path: Path) -> None:
    image = images.from_pil(cases.picture(), cases.picture())
    assert [Path(name).name for name in std.save_image(image, tmp_path / "a.JPG")] == ["a_0.JPG", "a_1.JPG"]
    assert std.save_image(image, tmp_path / "b.v2", format="webp")[1] == str(tmp_path / "b.v2_1.webp")
    assert image.save(tmp_path / "c.jpeg")[0] == tmp_path / "c_0.jpeg"
    assert image.save(tmp_path / "d")[0] == tmp_path / "d_0.png"
    with pytest.raises(ValueError, match=r"e\.png is to be written as jpeg, but ends in \.png; leave one of them out"):
        std.save_image(image, tmp_path / "e.png", format="jpeg")
    assert PIL.Image.open(tmp_path / "a_1.JPG").format == "JPEG"
    assert PIL.Image.open(tmp_path / "b.v2_0.webp").format == "WEBP"


def test_quality(tmp_path: Path) -> None:
    picture = to_pil(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))[0]
    for format in ("jpeg", "webp"):
        sizes = [len(encoded(picture, format, {}, quality)) for quality in (20, 60, 95)]  # type: ignore[arg-type]
        assert sizes == sorted(set(sizes))
    image = images.from_pil(picture)
    std.save_image(image, tmp_path / "whole.webp", quality=100)
    assert torch.equal(std.load_image(tmp_path / "whole.webp").pixels, image.pixels)


def test_what_a_jpeg_cannot_hold_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture, text = cases.picture(), {"parameters": "a circle", "graphengine": "x" * 70_000}
    for format in ("png", "webp", "jpeg"):
        (tmp_path / f"big.{format}").write_bytes(encoded(picture, format, text))  # type: ignore[arg-type]
    assert "does not fit into a JPEG and is left out; PNG and WebP can hold it" in caplog.text
    with PIL.Image.open(tmp_path / "big.jpeg") as found:
        assert found.getexif().get_ifd(0x8769) == {COMMENT: b"ASCII\0\0\0a circle"}
    with pytest.raises(FileError, match="does not carry how it was made"):
        read(tmp_path / "big.jpeg")
    with pytest.raises(FileError, match="the record of how it was made is damaged"):
        read(tmp_path / "big.webp")


def test_too_large_for_a_format(tmp_path: Path) -> None:
    long = std.Image(torch.zeros(1, 1, 17_000, 3))
    with pytest.raises(FileError, match=r"long\.webp: 17000 x 1 pixels cannot be written as webp .*; take PNG"):
        std.save_image(long, tmp_path / "long.webp")
    assert not list(tmp_path.iterdir())


def test_a_comment_as_exif(tmp_path: Path) -> None:
    for text in (json.dumps({"prompt": "a circle"}), "☃ 🎉"):
        for format in ("PNG", "JPEG", "WEBP"):
            cases.picture().save(tmp_path / "made", format, exif=exif_with_comment(text))
            comment = PIL.Image.open(tmp_path / "made").getexif().get_ifd(0x8769)[COMMENT]
            assert comment[8:].decode("ascii" if text.isascii() else "utf-16-be") == text


@pytest.mark.parametrize("note", [b"Nikon", b"[1]", b"{}", b"\xff\xfe{", b'{"graphengine": 3}'])
def test_a_cameras_own_note_is_none_of_ours(tmp_path: Path, note: bytes) -> None:
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[NOTE] = note
    cases.picture().save(tmp_path / "photo.jpg", exif=exif)
    with pytest.raises(FileError, match="does not carry how it was made"):
        read(tmp_path / "photo.jpg")


def test_damaged_exif_is_said(tmp_path: Path) -> None:
    whole = encoded(cases.picture(), "jpeg", {"graphengine": "{}"})
    start = whole.index(b"Exif")
    for place in range(start, start + 120, 3):
        (tmp_path / "bad.jpg").write_bytes(whole[:place] + b"\xff\xff\x7f" + whole[place + 3 :])
        with pytest.raises(FileError):
            read(tmp_path / "bad.jpg")


@pytest.mark.parametrize("weighted", [False, True])
def test_both_prompts_stand_in_the_settings_whichever_node_encoded_them(tmp_path: Path, weighted: bool) -> None:
    model = std.load_model("tiny")
    with Graph() as g:
        if weighted:
            positive, negative = std.encode_weighted(model, "a (red:1.3) circle", "blurry", clip_skip=1)
        else:
            positive, negative = (std.encode_prompt(model, text, 1) for text in ("a (red:1.3) circle", "blurry"))
        latent = std.sample(model, positive, negative=negative, seed=3, steps=1, width=64, height=64)
        std.save_image(std.decode_latent(model, latent), tmp_path / "made.png")
    g.run()
    with PIL.Image.open(tmp_path / "made.png") as picture:
        text = picture.info["parameters"]
    assert text.startswith("a (red:1.3) circle\nNegative prompt: blurry\nSteps: 1, ")
    assert "Clip skip: 2" in text


def written(latent: Any, model: Any, file: Path) -> str:
    """The settings in the picture of a latent."""
    with Graph() as g:
        std.save_image(std.decode_latent(model, latent()), file)
    g.run()
    with PIL.Image.open(file) as picture:
        return str(picture.info["parameters"])


def test_weights_are_named_by_the_hashes_of_their_files(tmp_path: Path) -> None:
    file = single_file(tmp_path / "my.model.safetensors")
    plain = std.load_model(file, config=TINY / "model")
    adapter = std.load_lora("tiny-blueprint")
    lora_bytes = (TINY / "lora" / "blueprint.safetensors").read_bytes()
    tensors = lora_bytes[8 + int.from_bytes(lora_bytes[:8], "little") :]
    applied = std.apply_lora(std.load_model(file, config=TINY / "model", precision="bfloat16"), adapter, 0.5)
    for model in (plain, applied):
        text = written(
            lambda m=model: std.sample(m, std.encode_prompt(m, "a circle"), steps=1, width=64, height=64), model,
            tmp_path / "made.png",
        )  # fmt: skip
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"Model hash: {digest[:10]}, Model: my.model" in text
        assert "folder" not in text
    assert text.startswith("a circle <lora:tiny-blueprint:0.5>\n")
    assert text.endswith(f'Lora hashes: "tiny-blueprint: {hashlib.sha256(tensors).hexdigest()[:12]}"')


def test_a_lora_with_two_strengths_is_one_tag_as_the_webui_writes_it(tmp_path: Path) -> None:
    file = lora(tmp_path / "both.safetensors", parts=("unet", "text_encoder"))
    model = std.apply_lora(std.load_model("tiny"), std.load_lora(file), 0.5, text_scale=0.8)
    model = std.apply_lora(model, std.load_lora("tiny-blueprint"), 0.3)
    text = written(
        lambda: std.sample(model, std.encode_prompt(model, "a circle"), steps=1, width=64, height=64), model,
        tmp_path / "made.png",
    )  # fmt: skip
    assert text.startswith("a circle <lora:both:0.8:0.5> <lora:tiny-blueprint:0.3>\n")


def test_the_hash_of_a_folder_is_said_to_be_one(tmp_path: Path) -> None:
    texts = []
    for name in ("tiny", "tiny-with"):
        model = std.load_model("tiny")
        model = model if name == "tiny" else std.apply_lora(model, std.load_lora("tiny-blueprint"))
        texts.append(written(
            lambda m=model: std.sample(m, std.encode_prompt(m, "a circle"), steps=1, width=64, height=64), model,
            tmp_path / f"{name}.png",
        ))  # fmt: skip
    first, second = (text.split("Model folder hash: ")[1].split(",")[0] for text in texts)
    assert first == second
    assert len(first) == 10
    assert "Model hash" not in texts[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "Sampler: DDIM, CFG"),
        ({"scheduler": "DPM++ 2M Karras"}, "Sampler: DPM++ 2M, Schedule type: Karras, CFG"),
        ({"scheduler": "dpmpp_2m_sde exponential"}, "Sampler: DPM++ 2M SDE, Schedule type: Exponential, CFG"),
        ({"scheduler": "EulerAncestralDiscreteScheduler"}, "Sampler: Euler a, CFG"),
        (
            {"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"use_karras_sigmas": True}},
            "Sampler: DPM++ 2M, Schedule type: Karras, CFG",
        ),
        (
            {"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"algorithm_type": "sde-dpmsolver++"}},
            "Sampler: DPM++ 2M SDE, CFG",
        ),
        (
            {"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"solver_order": 3}},
            "Sampler: DPMSolverMultistep, CFG",
        ),
        ({"scheduler": "Euler", "timestep_spacing": "trailing"}, "Sampler: Euler, Schedule type: SGM Uniform, CFG"),
        ({"scheduler": "euler simple"}, "Sampler: Euler, Schedule type: Simple, CFG"),
    ],
)
def test_samplers_are_named_as_the_webui_does(given: dict[str, Any], expected: str) -> None:
    model = std.load_model("tiny")
    with Graph() as g:
        latent = std.sample(model, std.encode_prompt(model, "a circle"), steps=3, **given)
        g.output("image", std.decode_latent(model, latent))
    text = settings(steps(g, {}, "image"), None)
    assert text is not None
    assert expected in text


def test_prompts_that_are_drawn_stand_in_the_settings() -> None:
    model = std.load_model("tiny")
    with Graph() as g:
        texts = std.prompt_from_template(["a", ["red", "blue"]], ["blurry"], seed=4)
        text = std.expand_wildcards("a {green|white} house", seed=2)
        positive, negative = std.encode_prompt(model, text), std.encode_prompt(model, texts.negative_prompt)
        g.output("drawn", std.sample(model, positive, negative=negative))
        g.output("template", std.sample(model, std.encode_prompt(model, texts.prompt)))
    first, second = settings(steps(g, {}, "drawn"), None), settings(steps(g, {}, "template"), None)
    assert first is not None
    assert second is not None
    assert first.startswith(std.expand_wildcards("a {green|white} house", seed=2) + "\nNegative prompt: blurry\n")
    assert second.startswith(std.prompt_from_template(["a", ["red", "blue"]], seed=4).prompt + "\nSteps")


def test_a_lora_with_two_strengths_is_one(tmp_path: Path) -> None:
    file = lora(tmp_path / "both.safetensors", parts=("unet", "text_encoder"))
    base, both = std.load_model("tiny"), std.load_lora(file)
    assert set(both.parts) == {"denoiser", "text_encoder"}
    model = std.apply_lora(std.apply_lora(base, both, 0.5, text_scale=0.25), std.load_lora("tiny-blueprint"), 0.75)
    with Graph() as g:
        g.output("latent", std.sample(model, std.encode_prompt(model, "a circle")))
    text = settings(steps(g, {}, "latent"), None)
    assert text is not None
    assert text.startswith("a circle <lora:both:0.25:0.5> <lora:tiny-blueprint:0.75>\n")
    assert "both: " in text.split("Lora hashes: ")[1]
