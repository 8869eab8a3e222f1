"""Pipe classes take the documented arguments in all forms that scripts use, and refuse wrong ones with a sentence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights.files import TINY

import multigen.pipes as pipes
from graphengine import FileError, ModelError
from multigen import CIm2ImPipe, CInpaintingPipe, Cond2ImPipe, Im2ImPipe, MaskedIm2ImPipe, ModelType, Prompt2ImPipe
from multigen.pipes import InpaintingPipe, Pictures
from multigen.pipes.base import BasePipe
from multigen.pipes.pictures import as_image
from tests.multigen.test_pipes import PROMPT, generator, picture


@pytest.fixture(scope="module")
def text() -> Prompt2ImPipe:
    pipe = Prompt2ImPipe("tiny")
    pipe.setup(width=64, heigth=72, steps=1)
    return pipe


@pytest.fixture(scope="module")
def image() -> Im2ImPipe:
    return Im2ImPipe("tiny")


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_list_that_is_its_first_picture(tmp_path: Path) -> None:
    one, two = picture(), picture(seed=1)
    single, several = Pictures([one]), Pictures([one, two])
    assert isinstance(several, list)
    assert (several.size, several.width, several.mode) == ((64, 64), 64, "RGB")
    assert np.array_equal(single, np.asarray(one))
    assert np.array_equal(several, np.stack([one, two]))
    assert np.asarray(several, dtype=np.float32).dtype == np.float32
    several.save(tmp_path / "a.png")
    assert np.array_equal(PIL.Image.open(tmp_path / "a.png"), one)
    assert type(several.copy()) is Pictures
    with pytest.raises(AttributeError, match="no_such"):
        several.no_such  # noqa: B018
    with pytest.raises(AttributeError):
        Pictures().save  # noqa: B018


def test_all_kinds_of_pictures(tmp_path: Path) -> None:
    one = picture(9, 7)
    one.save(tmp_path / "a.png")
    pixels = as_image(one).pixels
    array = np.asarray(one)
    chw = torch.from_numpy(array / np.float32(255)).permute(2, 0, 1)
    for value in (str(tmp_path / "a.png"), tmp_path / "a.png", array, array / 255.0, chw, chw[None], Pictures([one])):
        assert torch.allclose(as_image(value).pixels, pixels, atol=1e-6), type(value)
    assert as_image([one, array]).pixels.shape == (2, 7, 9, 3)
    assert as_image(array[..., 0]).pixels.shape == (1, 7, 9, 3)
    assert as_image(array[..., 0] > 128).pixels.unique().tolist() == [0, 1]
    assert as_image(array[..., 0].astype(np.uint16) * 257).pixels.equal(as_image(array[..., 0]).pixels)
    for wrong in (3, "", [], np.zeros((2, 3, 7)), np.zeros((0, 4)), np.array([[np.nan]])):
        with pytest.raises((ValueError, FileError)):
            as_image(wrong)
    with pytest.raises(ValueError, match="one size"):
        as_image([one, picture()])


def test_modes_of_pictures(image: Im2ImPipe, tmp_path: Path) -> None:
    upright = picture(20, 30)
    exif = PIL.Image.Exif()
    exif[274] = 6  # turned by a quarter
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright.quantize(16).save(tmp_path / "palette.png")
    upright.convert("CMYK").save(tmp_path / "cmyk.tiff")
    upright.convert("RGBA").save(tmp_path / "alpha.png")
    PIL.Image.fromarray(np.asarray(upright.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for file in sorted(tmp_path.iterdir()):
        image.setup(file, strength=0.5, steps=2)
        assert image.gen({"prompt": PROMPT}).size == (20, 30), file.name
    image.setup(image=[upright, upright], strength=0.5, steps=2)
    assert len(image.gen({"prompt": PROMPT})) == 2
    image.setup(image=PIL.Image.new("RGB", (1, 1)), strength=0.5, steps=2)
    assert image.gen({"prompt": PROMPT}).size == (1, 1)
    (tmp_path / "text.png").write_text("no picture")
    for wrong in ("text.png", "missing.png"):
        with pytest.raises(FileError, match=wrong):
            image.setup(str(tmp_path / wrong))
    with pytest.raises(ValueError, match="fimage"):
        image.setup()


def test_sizes(text: Prompt2ImPipe, image: Im2ImPipe) -> None:
    assert text.gen({"prompt": PROMPT}).size == (64, 72)
    common: dict[str, Any] = {"strength": 0.5, "steps": 2}
    for given, size in (
        ({"scale": 1.5}, (150, 105)),
        ({"scale": [40, 50]}, (40, 50)),
        ({"width": 32}, (32, 70)),
        ({}, (100, 70)),
    ):
        image.setup(image=picture(100, 70), **given, **common)
        assert image.gen({"prompt": PROMPT}).size == size
    control = CIm2ImPipe("tiny", ctypes=["canny"])
    control.setup(image=picture(100, 70), width=64, height=128, steps=1)
    assert control.gen({"prompt": PROMPT}).size == (64, 128)
    assert control.gen({"prompt": PROMPT, "width": 72}).size == (72, 128)
    with pytest.raises(ValueError, match="multiple of 8"):
        text.gen({"prompt": PROMPT, "width": 100})


def test_masks(tmp_path: Path) -> None:
    original, mask = picture(), np.zeros((64, 64), np.uint8)
    mask[10:40, 10:40] = 255
    painted = np.asarray(original).copy()
    painted[10:40, 10:40] = 0
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    PIL.Image.fromarray(painted).save(tmp_path / "painted.png")
    pipe, common = MaskedIm2ImPipe("tiny"), {"strength": 0.9, "steps": 2}
    for which in (
        [{"mask": one} for one in (PIL.Image.fromarray(mask), mask, mask / 255, tmp_path / "mask.png")],
        [
            {"image_painted": one}
            for one in (
                PIL.Image.fromarray(painted),
                painted,
                str(tmp_path / "painted.png"),
                Pictures([PIL.Image.fromarray(painted)]),
            )
        ],
    ):
        found = []
        for given in which:
            pipe.setup(image=original, **given, **common)  # type: ignore[arg-type]
            found.append(np.asarray(pipe.gen({"prompt": PROMPT, "generator": generator()})))
        assert all(np.array_equal(found[0], other) for other in found)
    pipe.setup(original, None, mask, scale=1.5, **common)  # type: ignore[arg-type]
    assert pipe.gen({"prompt": PROMPT}).size == (96, 96)
    with pytest.raises(ValueError, match="mask is 32 x 64"):
        pipe.setup(image=original, mask=mask[:, ::2])
    with pytest.raises(ValueError, match="painted picture is 64 x 32"):
        pipe.setup(image=original, image_painted=painted[::2])
    with pytest.raises(ValueError, match="image_painted"):
        pipe.setup(image=original)
    with pytest.raises(ValueError, match="sample_mode"):
        pipe.setup(image=original, mask=mask, sample_mode="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask is 32 x 64"):
        CInpaintingPipe("tiny", cnet_ids="tiny-canny").setup(original, mask[:, ::2])


@pytest.mark.parametrize(
    "cls", [Prompt2ImPipe, Im2ImPipe, Cond2ImPipe, CIm2ImPipe, CInpaintingPipe, MaskedIm2ImPipe, InpaintingPipe]
)
def test_what_setup_does_not_know_is_named_once_with_the_nearest_name(
    cls: type[BasePipe], caplog: pytest.LogCaptureFixture
) -> None:
    controlled = {"ctypes": ["canny"], "cnet_ids": "tiny-canny"} if issubclass(cls, Cond2ImPipe) else {}
    pipe, given, mask = cls("tiny", **controlled), {}, np.eye(64)
    if cls is not Prompt2ImPipe:
        given["image"] = picture()
    if issubclass(cls, MaskedIm2ImPipe):
        given["mask"] = mask
    if cls is CInpaintingPipe:
        given["mask_image"] = mask
    with caplog.at_level(logging.WARNING, "multigen"):
        for _ in range(2):
            pipe.setup(**given, stepz=3, prompt="a circle", num_inference_steps=7, output_type="pil")
    told = sorted(record.getMessage() for record in caplog.records if record.name.startswith("multigen"))
    name = cls.__name__
    assert told == [
        f"{name} ignores num_inference_steps; setup calls it steps",
        f"{name} ignores prompt; it is an input of gen",
        f"{name} ignores stepz; did you mean steps?",
    ]
    assert pipe.pipe_params["num_inference_steps"] != 7
    caplog.clear()
    pipe.setup(**given, **{"strange\x1b[31m name": 1}, scal=1.0)
    assert f"{name} ignores 'strange\\x1b[31m name'" in caplog.text
    if issubclass(cls, Im2ImPipe):
        assert f"{name} ignores scal; did you mean scale?" in caplog.text


# --- inputs of gen ----------------------------------------------------------------------------------------------------


def test_inputs_count_for_one_call(text: Prompt2ImPipe, caplog: pytest.LogCaptureFixture) -> None:
    inputs = {"prompt": PROMPT, "seed": 3, "scheduler": "DDIMScheduler", "num_inference_steps": 2, "no_such": 1}
    given = dict(inputs)
    with caplog.at_level(logging.WARNING, "multigen"):
        text.gen(inputs)
        text.gen(inputs)
    assert inputs == given
    assert caplog.text.count("Prompt2ImPipe ignores no_such") == 1
    assert (text.scheduler, text.pipe_params["num_inference_steps"]) == (None, 1)
    text.gen({"prompt": PROMPT, "guidance_scal": 1})
    assert "did you mean guidance_scale" in caplog.text
    with pytest.raises(ValueError, match="prompt"):
        text.gen({})
    with pytest.raises(ValueError, match="2 generators for 3 pictures"):
        text.gen({"prompt": [PROMPT] * 3, "generator": [1, 2]})
    with pytest.raises(ValueError, match="no seed"):
        text.gen({"prompt": PROMPT, "seed": "first"})


def test_names_of_the_original(text: Prompt2ImPipe) -> None:
    assert text.pipe_params == {
        "num_inference_steps": 1, "clip_skip": 0, "guidance_scale": 7.5, "width": 64, "height": 72,
    }  # fmt: skip
    assert (text.model_id, text.model_type, text.lpw, text.hypernets, text.offload_gpu_id, text.pad) == (
        "tiny", ModelType.SD, False, [], None, 8,
    )  # fmt: skip
    assert text.prepare_inputs({"prompt": PROMPT})["num_inference_steps"] == 1
    config = text.get_config()
    assert {"hypernetworks", "model_id", "scheduler", "loras", "dtype", *text.pipe_params} <= config.keys()
    assert config["scheduler"]["class_name"] == "DDIMScheduler"
    assert Prompt2ImPipe._classflux.__name__ == "FluxPipeline"
    assert [kind.value for kind in ModelType][:3] == [1, 2, 3]
    assert "DDIMScheduler" in pipes.get_diffusion_scheduler_names()
    other = Prompt2ImPipe("tiny")
    other.try_set_scheduler({"scheduler": "EulerDiscreteScheduler"})
    assert (other.scheduler, type(other.pipe.scheduler).__name__) == ("EulerDiscreteScheduler",) * 2
    assert pipes.add_scheduler(other.pipe) == "DPMSolverMultistepScheduler"
    positive, negative = other.get_prompt_embeds("a (red:1.3) circle " * 40, "a tree")
    assert positive.shape == negative.shape
    assert positive.shape[1] > 77
    source = Im2ImPipe("tiny")
    source.setup(image=picture())
    assert {"source_image", "lpw"} <= source.get_config().keys()
    control = CIm2ImPipe("tiny", ctypes="canny")
    control.setup(image=picture())
    assert control.get_config()["control_type"] == ["canny"]


def test_long_prompts_and_hypernetworks(tmp_path: Path) -> None:
    def pixels(pipe: Prompt2ImPipe, prompt: str) -> Any:
        return np.asarray(pipe.gen({"prompt": prompt, "seed": 1}))

    long = "a red circle and a blue house, " * 14
    for lpw in (True, False):
        pipe = Prompt2ImPipe("tiny", lpw=lpw)
        pipe.setup(width=64, height=64, steps=2)
        assert np.array_equal(pixels(pipe, long), pixels(pipe, long + "a boat")) is not lpw
    plain = pixels(pipe, PROMPT)
    file = testing.hypernetwork(tmp_path / "net.pt")
    pipe.add_hypernet(file, 0.5)
    assert pipe.hypernets == [(str(file), 0.5)]
    assert not np.array_equal(pixels(pipe, PROMPT), plain)
    pipe.clear_hypernets()
    assert np.array_equal(pixels(pipe, PROMPT), plain)


# --- ControlNets ------------------------------------------------------------------------------------------------------


def test_where_controlnets_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "nets" / "sd-controlnet-canny"
    testing.controlnet(folder)
    model = TINY / "model"
    pipe = CIm2ImPipe(model, model_type=ModelType.SD)  # its ctype is soft, which is not there
    with pytest.raises(ModelError, match=r"models-cn/control_v11p_sd15_softedge.*hf download"):
        pipe.setup(image=picture(), steps=1)
    monkeypatch.setattr(Cond2ImPipe, "cpath", str(tmp_path / "nets"))
    with pytest.raises(ModelError, match="Annotators"):
        CIm2ImPipe("tiny", ctypes="soft", cnet_ids="tiny-canny").setup(picture())  # what makes its picture
    pipe.setup(image=picture(), steps=1, ctypes=["canny"])
    assert pipe.pipe_params["controlnet_conditioning_scale"] == [0.75]
    found = np.asarray(pipe.gen({"prompt": PROMPT, "seed": 1}))
    for other in (
        CIm2ImPipe(model, ctypes="canny", cnet_ids=folder),
        CIm2ImPipe(model, ctypes=["canny"], cnet_ids=["sd-controlnet-canny"]),
    ):
        other.setup(image=picture(), steps=1)
        assert np.array_equal(other.gen({"prompt": PROMPT, "seed": 1}), found)
    monkeypatch.setitem(Cond2ImPipe.cmodels, "mine", "sd-controlnet-canny")
    own = Cond2ImPipe(model, ctypes="mine")
    own.setup(image=pipes.canny_processor(picture()), steps=1, cscales=0.75)
    assert np.array_equal(own.gen({"prompt": PROMPT, "seed": 1}), found)
    two = CIm2ImPipe("tiny", ctypes=["canny", "ip2p"], cnet_ids=["tiny-canny", folder])
    two.setup(image=picture(), steps=1)
    assert two.pipe_params["controlnet_conditioning_scale"] == [0.75, 0.5]
    assert len(two.pipe.controlnet.nets) == 2
    assert two.gen({"prompt": PROMPT, "control_guidance_end": [0.5, 1.0]}).size == (64, 64)
    with pytest.raises(ValueError, match="3 cscales for 2 ControlNets"):
        two.setup(image=picture(), cscales=[1, 2, 3])


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_wrong_numbers(text: Prompt2ImPipe, image: Im2ImPipe) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        image.setup(picture(), steps=0)
    with pytest.raises(ValueError, match="strength is 2"):
        image.setup(image=picture(), strength=2)
    image.setup(image=picture(), strength=0, steps=2)
    with pytest.raises(ValueError, match="leaves no step"):
        image.gen({"prompt": PROMPT})
    image.setup(image=picture(), strength=1, steps=2)
    assert image.gen({"prompt": PROMPT}).size == (64, 64)
    with pytest.raises(ValueError, match="clip_skip is 11"):
        text.setup(clip_skip=11)
    with pytest.raises(ValueError, match="clip_skip 9 leaves none"):
        text.gen({"prompt": PROMPT, "clip_skip": 9})
    with pytest.raises(ValueError, match="did you mean EulerDiscreteScheduler"):
        text.setup(scheduler="EulerDiscretScheduler")
    with pytest.raises(ValueError, match="no scheduler"):
        Prompt2ImPipe("tiny", scheduler="NoScheduler")
    with pytest.raises(ValueError, match="output_type"):
        text.gen({"prompt": PROMPT, "output_type": "jpg"})


def test_wrong_files(text: Prompt2ImPipe, tmp_path: Path) -> None:
    import pickle

    with pytest.raises(RuntimeError, match="type SD, not SDXL"):
        Prompt2ImPipe("tiny", model_type=ModelType.SDXL)
    with pytest.raises(ModelError):
        Prompt2ImPipe(str(tmp_path / "missing.safetensors"))
    with pytest.raises(ValueError, match="torch_dtype"):
        Prompt2ImPipe("tiny", torch_dtype=torch.int8)
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(ModelError, match=r"code\.pt"):
        text.add_hypernet(tmp_path / "code.pt")
    with pytest.raises(ModelError):
        text.load_lora(tmp_path / "missing.safetensors")
    from graphengine_nodes.testing.flux import flux_lora

    other = Prompt2ImPipe("tiny")
    other.setup(width=64, height=64, steps=1)
    other.load_lora(flux_lora(tmp_path / "other.safetensors"))
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        other.gen({"prompt": PROMPT})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    for wrong in ({"device": "cuda"}, {"device": torch.device("cuda", 1)}, {"offload_device": 0}):
        with pytest.raises(RuntimeError, match="needs a GPU"):
            Prompt2ImPipe("tiny", **wrong)  # type: ignore[arg-type]
    assert Prompt2ImPipe("tiny", device=torch.device("cpu", 0)).pipe.device == torch.device("cpu")
