"""Helpers that scripts import from multigen's modules do what the original's do."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.weights.files import TINY

from multigen import util
from multigen.log import setup_logger

PIPES = (
    "Prompt2ImPipe Im2ImPipe MaskedIm2ImPipe CIm2ImPipe Cond2ImPipe InpaintingPipe CInpaintingPipe ModelType "
    "get_diffusion_scheduler_names"
)
NAMES = {
    "multigen": f"{PIPES} GenSession Cfgen Loader hints",
    "multigen.pipes": f"{PIPES} add_scheduler canny_processor sobel_processor",
    "multigen.loader": "Loader ModelDescriptor",
    "multigen.prompting": "Cfgen",
    "multigen.sessions": "GenSession",
    "multigen.util": "quantize qfloat8 weightshare_copy pad_image_to_multiple create_exif_metadata get_model_size "
    "awailable_ram available_ram get_allowed_components",
    "multigen.log": "setup_logger",
    "multigen.worker": "ServiceThread",
}


@pytest.fixture(scope="module")
def pipe() -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model")


@pytest.mark.parametrize("module", NAMES)
def test_every_name_that_scripts_import(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_a_copy_shares_weights_and_nothing_else(pipe: diffusers.StableDiffusionPipeline) -> None:
    copied = util.weightshare_copy(pipe)
    assert type(copied) is type(pipe)
    assert copied.unet is not pipe.unet
    assert copied.scheduler is not pipe.scheduler
    assert copied.unet.conv_in.weight.data_ptr() == pipe.unet.conv_in.weight.data_ptr()
    copied.unet.to(torch.float16)
    assert pipe.unet.dtype is torch.float32
    assert copied.config.requires_safety_checker is False


def test_quantize_casts_in_place(pipe: diffusers.StableDiffusionPipeline) -> None:
    cast, whole = util.weightshare_copy(pipe), util.weightshare_copy(pipe)
    util.quantize(cast)
    util.quantize(whole, dtype=util.qint8)
    size = util.get_model_size(pipe.unet)
    assert util.get_model_size(cast.unet) < 0.3 * size
    assert util.get_model_size(whole.unet) < 0.9 * size
    assert util.get_model_size(pipe.unet) == size
    with pytest.raises(ValueError, match="a VaeImageProcessor has no denoiser"):
        util.quantize(pipe.image_processor)


class QType:
    """As optimum-quanto describes a kind of number."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, None),
        (util.qfloat8, "float8"),
        (QType("qfloat8"), "float8"),
        (QType("qfloat8_e4m3fn"), "float8"),
        (torch.float8_e4m3fn, "float8"),
        (util.qint8, "int8"),
        (torch.int8, "int8"),
    ],
)
def test_kinds_of_quantization(dtype: object, expected: str | None) -> None:
    assert util.quantization(dtype) == expected


def test_sizes(pipe: diffusers.StableDiffusionPipeline) -> None:
    parts = [pipe.unet, pipe.vae, pipe.text_encoder]
    tensors = [tensor for part in parts for tensor in [*part.parameters(), *part.buffers()]]
    assert util.get_model_size(pipe) == sum(tensor.nbytes for tensor in tensors)
    layer = torch.nn.Linear(8, 8, bias=False)
    assert util.get_model_size(torch.nn.ModuleList([layer, layer])) == 256
    assert 2**20 < util.awailable_ram() == pytest.approx(util.available_ram(), rel=0.5)
    assert {"vae", "unet", "scheduler"} < util.get_allowed_components(diffusers.StableDiffusionPipeline)
    assert "controlnet" in util.get_allowed_components(diffusers.StableDiffusionControlNetPipeline)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_padding_repeats_the_last_pixels(mode: str) -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (19, 33, 3), np.uint8)).convert(mode)
    padded = util.pad_image_to_multiple(picture, 8)
    assert padded.size == (40, 24)
    before, after = np.asarray(picture.convert("RGB")), np.asarray(padded.convert("RGB"))
    assert np.array_equal(after[:19, :33], before)
    assert (after[:19, 33:] == before[:, -1:]).all()
    assert (after[19:] == after[18]).all()
    assert util.pad_image_to_multiple(padded, 8) is padded


def test_exif_metadata(tmp_path: Path) -> None:
    picture = PIL.Image.new("RGB", (8, 8))
    picture.getexif()[0x010F] = "a camera"
    for suffix in ("png", "jpg", "webp"):
        file = tmp_path / f"a.{suffix}"
        picture.save(file, exif=util.create_exif_metadata(picture, {"prompt": "a house", "mask": np.zeros((2, 3))}))
        exif = PIL.Image.open(file).getexif()
        comment = exif.get_ifd(0x8769)[0x9286]
        found = json.loads(comment.removeprefix(b"ASCII\0\0\0"))
        assert found == {"prompt": "a house", "mask": "ndarray 2 x 3 float64"}
        assert exif[0x010F] == "a camera"


def test_a_log_file(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        setup_logger(tmp_path / "logs" / "a.log")
        setup_logger(str(tmp_path / "logs" / "a.log"))
        logging.getLogger("multigen.something").info("a line")
        lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
        assert len(lines) == 1
        assert lines[0].endswith("INFO multigen.something: a line")
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
