"""Every Pipe through ServiceThread makes what the Pipe class itself makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from multigen import pipes
from multigen.worker import ServiceThread
from tests.multigen.serving import generate, opened, pixels, queued

RANDOM = np.random.default_rng(0)
ORIGINAL = PIL.Image.fromarray(np.kron(RANDOM.integers(0, 255, (8, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 255
PAINTED = np.where(MASK[..., None] > 0, np.uint8([255, 0, 0]), np.asarray(ORIGINAL))
EDGES = ORIGINAL.convert("L").filter(PIL.ImageFilter.FIND_EDGES)

CASES: dict[str, tuple[type, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # by name in the models file: class; the constructor's arguments; how the pictures are given to the service, and to
    # the Pipe; what both are given
    "prompt2image": (pipes.Prompt2ImPipe, {}, {}, {}, {"width": 64, "height": 48}),
    "image2image": (pipes.Im2ImPipe, {}, {"images": [ORIGINAL]}, {"image": ORIGINAL}, {"strength": 0.6}),
    "masked": (
        pipes.MaskedIm2ImPipe, {}, {"images": [ORIGINAL, PAINTED]},
        {"original_image": ORIGINAL, "image_painted": PAINTED}, {"strength": 0.8, "blur": 2},
    ),
    "inpainting": (
        pipes.InpaintingPipe, {}, {"original_image": ORIGINAL, "mask": MASK}, {"image": ORIGINAL, "mask": MASK},
        {"strength": 0.8},
    ),
    "condition": (
        pipes.Cond2ImPipe, {"ctypes": ["canny"]}, {"images": EDGES, "cnet": "canny"}, {"image": EDGES},
        {"cscales": 0.5},
    ),
    "control": (
        pipes.CIm2ImPipe, {"ctypes": ["canny"]}, {"images": [ORIGINAL], "cnet": "canny"}, {"image": ORIGINAL},
        {"strength": 0.9},
    ),
    "controlled inpainting": (
        pipes.CInpaintingPipe, {"cnet_ids": ["tiny-canny"]}, {"images": [ORIGINAL, MASK], "cnet_ids": ["tiny-canny"]},
        {"image": ORIGINAL, "mask_image": MASK}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_that_of_the_pipe(worker: ServiceThread, name: str) -> None:
    kind, constructed, sent, given, setup = CASES[name]
    common = {"steps": 3, "guidance_scale": 5.0, **setup}
    id = opened(worker, name, name, model="named")
    size = {"width": None, "height": None}
    called = generate(worker, id, **{**size, **sent, **common}, prompt="a red circle", nprompt="green", seeds=[2**47])
    pipe = kind("tiny", device="cpu", torch_dtype="float32", **constructed)
    pipe.setup(**given, **common)
    expected = pipe.gen({"prompt": "a red circle", "negative_prompt": "green", "seed": 2**47})
    assert np.array_equal(pixels(called.files[0]), pixels(expected))


@pytest.mark.parametrize("name", ["image2image", "condition", "controlled inpainting"])
def test_pictures_are_taken_in_every_form(worker: ServiceThread, tmp_path: Path, name: str) -> None:
    """As path, of PIL, as array; in `images` or under the names that `setup` knows: the same job."""
    picture, mask = EDGES.convert("RGB") if name == "condition" else ORIGINAL, PIL.Image.fromarray(MASK)
    for one, file in ((picture, "picture.png"), (mask, "mask.png")):
        one.save(tmp_path / file)
    paths = str(tmp_path / "picture.png"), tmp_path / "mask.png"
    forms: list[dict[str, Any]] = [
        {"images": list(paths)},
        {"images": [picture, mask]},
        {"images": [np.asarray(picture), MASK]},
        {"images": paths},
        {"fimage": paths[0], "mask_image": paths[1]},
        {"image": picture, "mask_image": MASK},
        {"image": paths[0], "images": [None, mask]},
    ]
    if name != "controlled inpainting":  # a single picture needs no list
        forms += [{"images": paths[0]}, {"images": picture}, {"images": np.asarray(picture)}]
    id = opened(worker, f"forms of {name}", name, model="named")
    common = {"width": None, "height": None, "seeds": [3], "cnet_ids": ["tiny-canny"]}
    found = [pixels(generate(worker, id, **common, **form).files[0]) for form in forms]
    for made in found[1:]:
        assert np.array_equal(found[0], made)


def test_a_picture_may_change_once_it_is_queued(worker: ServiceThread, tmp_path: Path) -> None:
    """It is stored with the job."""
    id, file = opened(worker, "stored", "image2image", model="named"), tmp_path / "picture.png"
    ORIGINAL.save(file)
    size = {"width": None, "height": None, "seeds": [4]}
    expected = generate(worker, id, **size, images=file)
    worker.queue.pause()
    called = queued(worker, id, **size, images=file, gen_dir=tmp_path)
    file.unlink()
    worker.queue.resume()
    called.wait()
    assert np.array_equal(pixels(called.files[0]), pixels(expected.files[0]))
