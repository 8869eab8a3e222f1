"""Every family's small model through diffusers' own call: each component moves pixels, two makings are the same."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from graphengine_nodes.testing import chroma, flux, flux2, qwen_image, sd3, small, tokenizers, wan, z_image
from PIL import Image
from safetensors.torch import load_file

Pixels = Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, a class of diffusers that runs it, and what its call is given."""

    make: Callable[[Path, int], Path]
    pipeline: str
    parts: tuple[str, ...] = ("text_encoder", "transformer", "vae")
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    controlnet: Callable[[Path, int], Path] | None = None
    net: str = ""
    absent: tuple[str, ...] = ()
    size: int = 64


def picture(seed: int = 0) -> Image.Image:
    """A picture of soft patches: no noise, which every resizing would grey."""
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC)


def half() -> Image.Image:
    return Image.fromarray(np.where(np.arange(64) > 31, 255, 0).astype(np.uint8)[None].repeat(64, 0))


TRIPLE = ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae")
DOUBLE = ("text_encoder", "text_encoder_2", "transformer", "vae")
EXPERTS = ("text_encoder", "transformer", "transformer_2", "vae")
FRAMES = {"num_frames": 5}
IMAGE = {"image": picture(), "strength": 0.5}
INPAINT = {"image": picture(), "mask_image": half(), "strength": 1.0}
CASES = {
    "z-image": Case(z_image.z_image_model, "ZImagePipeline"),
    "z-image image": Case(z_image.z_image_model, "ZImageImg2ImgPipeline", given=IMAGE),
    "z-image inpaint": Case(z_image.z_image_model, "ZImageInpaintPipeline", given=INPAINT),
    "z-image control": Case(
        z_image.z_image_model,
        "ZImageControlNetPipeline",
        ("text_encoder", "transformer", "vae", "controlnet"),
        {"control_image": picture()},
        z_image.z_image_controlnet,
        "ZImageControlNetModel",
    ),
    "z-image control inpaint": Case(
        z_image.z_image_model,
        "ZImageControlNetInpaintPipeline",
        ("text_encoder", "transformer", "vae", "controlnet"),
        {"image": picture(), "mask_image": half(), "control_image": picture(3)},
        functools.partial(z_image.z_image_controlnet, inpaint=True),
        "ZImageControlNetModel",
    ),
    "qwen": Case(qwen_image.qwen_image_model, "QwenImagePipeline"),
    "qwen negative": Case(qwen_image.qwen_image_model, "QwenImagePipeline", given={"negative_prompt": "a dog"}),
    "qwen image": Case(qwen_image.qwen_image_model, "QwenImageImg2ImgPipeline", given=IMAGE),
    "qwen inpaint": Case(qwen_image.qwen_image_model, "QwenImageInpaintPipeline", given=INPAINT),
    "qwen control": Case(
        qwen_image.qwen_image_model,
        "QwenImageControlNetPipeline",
        ("text_encoder", "transformer", "vae", "controlnet"),
        {"control_image": picture()},
        qwen_image.qwen_image_controlnet,
        "QwenImageControlNetModel",
    ),
    "qwen control inpaint": Case(
        qwen_image.qwen_image_model,
        "QwenImageControlNetInpaintPipeline",
        ("text_encoder", "transformer", "vae", "controlnet"),
        {"control_image": picture(), "control_mask": half()},
        functools.partial(qwen_image.qwen_image_controlnet, inpaint=True),
        "QwenImageControlNetModel",
    ),
    "qwen-edit": Case(qwen_image.qwen_image_edit_model, "QwenImageEditPipeline", given={"image": picture()}),
    "qwen-edit-plus": Case(
        functools.partial(qwen_image.qwen_image_edit_model, plus=True),
        "QwenImageEditPlusPipeline",
        given={"image": picture()},
    ),
    "qwen-2.1": Case(qwen_image.qwen_image_21_model, "QwenImage21Pipeline"),
    "qwen-2.1 reference": Case(
        qwen_image.qwen_image_21_model,
        "QwenImage21Pipeline",
        given={"image": picture(), "output_resolution": 64},
    ),
    "sd3": Case(sd3.sd3_model, "StableDiffusion3Pipeline", TRIPLE),
    "sd3-without-t5": Case(
        functools.partial(sd3.sd3_model, t5=False),
        "StableDiffusion3Pipeline",
        DOUBLE,
        absent=("text_encoder_3", "tokenizer_3"),
    ),
    "sd3 image": Case(sd3.sd3_model, "StableDiffusion3Img2ImgPipeline", TRIPLE, IMAGE),
    "sd3 inpaint": Case(sd3.sd3_model, "StableDiffusion3InpaintPipeline", TRIPLE, INPAINT),
    "sd3 control": Case(
        sd3.sd3_model,
        "StableDiffusion3ControlNetPipeline",
        (*TRIPLE, "controlnet"),
        {"control_image": picture()},
        sd3.sd3_controlnet,
        "SD3ControlNetModel",
    ),
    "sd3 control inpaint": Case(
        sd3.sd3_model,
        "StableDiffusion3ControlNetInpaintingPipeline",
        (*TRIPLE, "controlnet"),
        {"control_image": picture(), "control_mask": half()},
        functools.partial(sd3.sd3_controlnet, inpaint=True),
        "SD3ControlNetModel",
    ),
    "klein": Case(flux2.flux2_model, "Flux2KleinPipeline"),
    "klein-distilled": Case(functools.partial(flux2.flux2_model, distilled=True), "Flux2KleinPipeline"),
    "klein reference": Case(flux2.flux2_model, "Flux2KleinPipeline", given={"image": picture()}),
    "klein inpaint": Case(flux2.flux2_model, "Flux2KleinInpaintPipeline", given=INPAINT),
    "flux2-dev": Case(functools.partial(flux2.flux2_model, klein=False), "Flux2Pipeline"),
    "flux2-dev reference": Case(
        functools.partial(flux2.flux2_model, klein=False), "Flux2Pipeline", given={"image": picture()}
    ),
    "kontext": Case(
        functools.partial(flux.flux_model, variant="kontext"), "FluxKontextPipeline", DOUBLE, {"max_area": 64 * 64}
    ),
    "kontext edit": Case(
        functools.partial(flux.flux_model, variant="kontext"),
        "FluxKontextPipeline",
        DOUBLE,
        {"image": picture(), "_auto_resize": False, "max_area": 64 * 64},
    ),
    "fill": Case(
        functools.partial(flux.flux_model, variant="fill"),
        "FluxFillPipeline",
        DOUBLE,
        {"image": picture(), "mask_image": half()},
    ),
    "control": Case(
        functools.partial(flux.flux_model, variant="control"),
        "FluxControlPipeline",
        DOUBLE,
        {"control_image": picture()},
    ),
    "chroma": Case(chroma.chroma_model, "ChromaPipeline"),
    "chroma image": Case(chroma.chroma_model, "ChromaImg2ImgPipeline", given=IMAGE),
    "wan-2.1": Case(wan.wan_model, "WanPipeline", given=FRAMES),
    "wan-2.1-i2v": Case(
        functools.partial(wan.wan_model, variant="2.1-i2v"),
        "WanImageToVideoPipeline",
        ("text_encoder", "image_encoder", "transformer", "vae"),
        FRAMES | {"image": picture()},
    ),
    "wan-2.1-flf2v": Case(
        functools.partial(wan.wan_model, variant="2.1-flf2v"),
        "WanImageToVideoPipeline",
        ("text_encoder", "image_encoder", "transformer", "vae"),
        FRAMES | {"image": picture(), "last_image": picture(2)},
    ),
    "wan-2.2-14b": Case(functools.partial(wan.wan_model, variant="2.2-14b"), "WanPipeline", EXPERTS, FRAMES),
    "wan-2.2-14b-i2v": Case(
        functools.partial(wan.wan_model, variant="2.2-14b-i2v"),
        "WanImageToVideoPipeline",
        EXPERTS,
        FRAMES | {"image": picture()},
    ),
    "wan-2.2-5b": Case(functools.partial(wan.wan_model, variant="2.2-5b"), "WanPipeline", given=FRAMES),
    "wan-2.2-5b first frame": Case(
        functools.partial(wan.wan_model, variant="2.2-5b"),
        "WanImageToVideoPipeline",
        given=FRAMES | {"image": picture()},
    ),
}


def loaded(case: Case, folder: Path, seed: int) -> Any:
    model = case.make(folder / f"model {seed}", seed)
    more: dict[str, Any] = dict.fromkeys(case.absent)
    if case.controlnet:
        net = case.controlnet(folder / f"net {seed}", seed)
        more["controlnet"] = getattr(diffusers, case.net).from_pretrained(net)
    pipeline = getattr(diffusers, case.pipeline).from_pretrained(model, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture_of(pipeline: Any, case: Case, **changed: Any) -> Pixels:
    given = {"prompt": "a red cat", "num_inference_steps": 2, "output_type": "np", **case.given, **changed}
    if "size" not in case.given:
        given |= {"height": case.size, "width": case.size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for SD3's ControlNet
        made = pipeline(generator=torch.Generator().manual_seed(0), **given)
    return made.images if hasattr(made, "images") else made.frames


@pytest.fixture(autouse=True)
def smaller_pictures_to_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode pictures to edit at an area of 128 x 128, not 1024 x 1024: that takes seconds."""
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        whole = module.calculate_dimensions

        def fewer(area: float, ratio: float, whole: Callable[..., Any] = whole) -> Any:
            return whole(min(area, 128 * 128), ratio)

        monkeypatch.setattr(module, "calculate_dimensions", fewer)


SLOW = (
    *("klein-distilled", "qwen negative", "qwen-edit-plus", "sd3-without-t5", "wan-2.2-14b", "flux2-dev", "kontext"),
    *("z-image control inpaint", "qwen control inpaint", "sd3 control inpaint", "wan-2.1-flf2v"),
)
"""Cases of which others in the default suite have nearly all."""
ALL = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]


@pytest.mark.parametrize("name", ALL)
def test_every_component_of_a_small_model_moves_its_picture(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    one, other = loaded(case, tmp_path, 0), loaded(case, tmp_path, 1)
    pixels = picture_of(one, case)
    assert np.isfinite(pixels).all()
    assert pixels.std() > 0.05
    assert ((pixels <= 0) | (pixels >= 1)).mean() < 0.2  # cut off at black and white
    assert np.array_equal(picture_of(one, case), pixels)
    assert np.abs(picture_of(one, case, prompt="seven blue dogs in snow") - pixels).mean() > 0.001
    for argument, value in case.given.items():
        if isinstance(value, Image.Image):
            assert np.abs(picture_of(one, case, **{argument: picture(1)}) - pixels).mean() > 0.001, argument
    for part in case.parts:
        kept = getattr(one, part)
        setattr(one, part, getattr(other, part))
        assert np.abs(picture_of(one, case) - pixels).mean() > 0.001, part
        setattr(one, part, kept)


LATENTS = {
    "z-image": (1, 16, 8, 8),
    "qwen": (1, 16, 64),
    "qwen-edit": (1, 16, 64),
    "qwen-2.1": (1, 16, 64),
    "sd3": (1, 16, 8, 8),
    "klein": (1, 32, 8, 8),
    "flux2-dev": (1, 16, 128),
    "kontext": (1, 16, 64),
    "fill": (1, 16, 64),
    "control": (1, 16, 64),
    "chroma": (1, 16, 64),
    "wan-2.1": (1, 16, 2, 8, 8),
    "wan-2.2-14b": (1, 16, 2, 8, 8),
    "wan-2.2-5b": (1, 48, 2, 4, 4),
}
"""What the real models' calls return as latents of 64 x 64 pixels, and of 5 frames."""
MODELS = {name: case for name, case in CASES.items() if " " not in name}


@pytest.mark.parametrize("name", MODELS)
def test_two_makings_of_a_small_model_write_the_same_bytes(tmp_path: Path, name: str) -> None:
    one, other = (MODELS[name].make(tmp_path / folder, 3) for folder in ("one", "other"))
    files = [file.relative_to(one) for file in sorted(one.rglob("*")) if file.is_file()]
    assert Path("defaults.json") in files
    assert [(other / file).read_bytes() == (one / file).read_bytes() for file in files] == [True] * len(files)


@pytest.mark.parametrize("name", MODELS)
def test_latents_of_a_small_model_have_the_real_shape_and_a_lora_moves_its_picture(tmp_path: Path, name: str) -> None:
    case = MODELS[name]
    pipeline = loaded(case, tmp_path, 0)
    if name in LATENTS:
        assert picture_of(pipeline, case, output_type="latent").shape == LATENTS[name]
    pixels = picture_of(pipeline, case)
    lora = small.lora_for(tmp_path / "model 0", tmp_path / "lora.safetensors")
    same = small.lora_for(pipeline, tmp_path / "same.safetensors")
    assert lora.read_bytes() == same.read_bytes()
    pipeline.load_lora_weights(lora)
    assert np.abs(picture_of(pipeline, case) - pixels).mean() > 0.001


def test_a_lora_for_the_second_of_two_transformers_moves_the_video(tmp_path: Path) -> None:
    case = CASES["wan-2.2-14b"]
    pipeline = loaded(case, tmp_path, 0)
    pixels = picture_of(pipeline, case)
    lora = small.lora_for(tmp_path / "model 0", tmp_path / "lora.safetensors", component="transformer_2")
    pipeline.load_lora_weights(lora, load_into_transformer_2=True)
    assert np.abs(picture_of(pipeline, case) - pixels).mean() > 0.001


def test_a_transformer_in_one_file_has_the_tensors_of_its_folder(tmp_path: Path) -> None:
    model = z_image.z_image_model(tmp_path / "model")
    file = small.single_transformer_file(model, tmp_path / "one.safetensors", "model.diffusion_model.")
    there = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    here = load_file(file)
    assert {name.removeprefix("model.diffusion_model.") for name in here} == set(there)
    assert all(torch.equal(here[f"model.diffusion_model.{name}"], tensor) for name, tensor in there.items())


def test_system_messages_have_as_many_tokens_as_the_pipelines_cut_off() -> None:
    """Which the real vocabulary gives: 34 of Qwen-Image's, 64 of its edit models'."""
    words = tokenizers.qwen_words()
    nothing = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "transformer"))
    plain = diffusers.QwenImagePipeline(**nothing)
    edit = diffusers.QwenImageEditPlusPipeline(**nothing, processor=None)
    for pipeline in (plain, edit):
        start = pipeline.prompt_template_encode.partition("{}")[0]
        assert len(words(start).input_ids) == pipeline.prompt_template_encode_start_idx
