"""Pipe classes over families that are records: text to image and image to image; the other classes refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import pytest
from graphengine_nodes.testing import flux2, qwen_image, sd3, small, z_image

from graphengine import ModelError
from multigen import CIm2ImPipe, Cond2ImPipe, Im2ImPipe, Loader, MaskedIm2ImPipe, ModelType, Prompt2ImPipe
from tests.multigen.test_pipes import NEGATIVE, PROMPT, generator, picture, same
from tests.multigen.test_pipes_families import bare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("records")
    sd3.sd3_model(found / "sd3")
    sd3.sd3_model(found / "small", t5=False)
    z_image.z_image_model(found / "z_image")
    qwen_image.qwen_image_model(found / "qwen_image")
    flux2.flux2_model(found / "flux2")
    return found


@pytest.mark.parametrize(
    ("name", "kind", "text", "image"),
    [
        ("sd3", ModelType.SD3, "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        ("z_image", ModelType.Z_IMAGE, "ZImagePipeline", "ZImageImg2ImgPipeline"),
        ("qwen_image", ModelType.QWEN_IMAGE, "QwenImagePipeline", "QwenImageImg2ImgPipeline"),
    ],
)
def test_text_and_image_to_image(name: str, kind: ModelType, text: str, image: str, folder: Path) -> None:
    model, given = folder / name, {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    scale = {"true_cfg_scale" if kind is ModelType.QWEN_IMAGE else "guidance_scale": 4.0}
    pipe: Any = Prompt2ImPipe(model, model_type=kind)
    pipe.setup(width=64, height=48, steps=2, guidance_scale=4.0)
    expected = bare(text, model)(
        **given, width=64, height=48, num_inference_steps=2, generator=generator(), **scale
    ).images
    assert same(pipe.gen({**given, "generator": generator()}), expected)
    assert type(pipe.pipe).__name__ == text
    pipe = Im2ImPipe(model)
    pipe.setup(picture(), strength=0.5, steps=4, **scale)
    further: dict[str, Any] = {"image": picture(), "width": 64, "height": 64, "strength": 0.5, **scale}
    expected = bare(image, model)(**given, **further, num_inference_steps=4, generator=generator()).images
    assert same(pipe.gen({**given, "generator": generator()}), expected)


def test_the_scale_of_loras_by_the_attentions_arguments(folder: Path) -> None:
    lora = small.lora_for(folder / "qwen_image", folder / "lora.safetensors")
    pipe: Any = Prompt2ImPipe(folder / "qwen_image")
    pipe.setup(width=64, height=48, steps=2, loras=[lora])
    given = {"prompt": PROMPT, "attention_kwargs": {"scale": 0.5}}
    direct = bare("QwenImagePipeline", folder / "qwen_image")
    direct.load_lora_weights(lora)
    expected = direct(**given, width=64, height=48, num_inference_steps=2, generator=generator()).images
    assert same(pipe.gen({**given, "generator": generator()}), expected)


def test_a_mask_over_any_model_that_starts_from_a_picture(folder: Path) -> None:
    mask = PIL.Image.new("L", (64, 64))
    mask.paste(255, (10, 10, 30, 30))
    pipe = MaskedIm2ImPipe(folder / "sd3")
    pipe.setup(picture(), mask=mask, steps=3, blur_compose=0)
    found = pipe.gen({"prompt": PROMPT, "generator": generator()})
    assert found.size == (64, 64)
    assert not same(found, [picture()])


@pytest.mark.parametrize(
    ("cls", "name", "kind"),
    [
        (Cond2ImPipe, "sd3", "SD3"),
        (CIm2ImPipe, "z_image", "Z_IMAGE"),
        (Im2ImPipe, "flux2", "FLUX2"),
    ],
)
def test_what_has_no_pipe_class_is_refused(cls: Any, name: str, kind: str, folder: Path) -> None:
    with pytest.raises(
        ModelError, match=rf"{cls.__name__} takes no models like .*{name}, of type {kind}: take the nodes"
    ):
        cls(folder / name)
    with pytest.raises(ModelError, match="multigen has no Pipe classes for wan models"):
        ModelType.of("wan")


def test_the_loader_makes_pipelines_of_records(folder: Path) -> None:
    loader = Loader()
    made = loader.load_pipeline(diffusers.DiffusionPipeline, folder / "small")
    assert type(made) is diffusers.StableDiffusion3Pipeline
    assert made.text_encoder_3 is None
    made = loader.load_pipeline(diffusers.AutoPipelineForImage2Image, folder / "sd3")
    assert type(made) is diffusers.StableDiffusion3Img2ImgPipeline
    for name in ("small", "sd3"):
        loader.remove_pipeline(folder / name)
