"""Every example of multigen's documentation runs as written, on local models under the names that it uses.

By default with small sizes and few steps put into the text; word for word in the slow tests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights.files import TINY

IMPORTS = """
import numpy, PIL, PIL.Image
from multigen import CIm2ImPipe, Cfgen, GenSession, Im2ImPipe, MaskedIm2ImPipe, ModelType, Prompt2ImPipe
model_id, model_dir = 'runwayml/stable-diffusion-v1-5', './models-sd/'
"""

TEXT = """
pipe = Prompt2ImPipe(model_id='runwayml/stable-diffusion-v1-5')
pipe.setup(width=768, height=768, clip_skip=2)
image = pipe.gen({'prompt': 'bio-tech lab with computers and exotic flowers, artwork'})
image.save('bio.png')
"""

IMAGE = """
pipe = Im2ImPipe(model_id='runwayml/stable-diffusion-v1-5')
pipe.setup("./_projects/biolab/00000.png", strength=0.5, steps=25)
img = pipe.gen({'prompt': 'biolab, anime style drawing, green colors'})
img.save('bio1.png')
"""

CONTROL = """
model_id = 'runwayml/stable-diffusion-v1-5'
pipe = CIm2ImPipe(model_id, model_type=ModelType.SD)
pipe.setup("./bio1.png", strength=0.5, steps=25, ctypes=['soft'])
img = pipe.gen({'prompt': 'biolab, anime style drawing, green colors'})
img.save('bio2.png')
"""

MASKED = """
blur = 8
model_id = 'runwayml/stable-diffusion-v1-5'
img = PIL.Image.open("./mech_beard_sigm.png")
# read image with mask painted over
img_paint = numpy.array(PIL.Image.open("./mech_beard_sigm_mask.png"))
scheduler = "EulerAncestralDiscreteScheduler" # gives good results

pipe = MaskedIm2ImPipe(model_dir+model_id)
pipe.setup(original_image=img, image_painted=img_paint, strength=0.85,
           scheduler=scheduler, guidance_scale=7, clip_skip=3, blur=blur)

prompt = "a man wearing a mask"
img = pipe.gen({'prompt': prompt, 'seed':84958344})
img.save('inpaint1.png')
"""

SESSION = """
nprompt = "jpeg artifacts, blur, distortion, lowres, bad anatomy, bad crop"
prompt = "biological lab with computers and exotic flowers, green colors"
pipe = Prompt2ImPipe(model_id)
pipe.setup(width=768, height=768)
gs = GenSession("./_projects/biolab", pipe, Cfgen(prompt, nprompt))
gs.gen_sess(add_count=10)
"""

SMALL = (
    ("width=768, height=768", "width=64, height=48, steps=2"),
    ("steps=25", "steps=4"),
    ("blur=blur", "blur=blur, steps=4"),
    ("add_count=10", "add_count=3"),
)


def run(example: str, small: bool) -> dict[str, Any]:
    """Run an example in the current folder; the names that it leaves."""
    for as_written, instead in SMALL if small else ():
        example = example.replace(as_written, instead)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(IMPORTS + example, "an example", "exec"), names)
    return names


def size(file: str) -> tuple[int, int]:
    return PIL.Image.open(file).size


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The names that examples use, as folders."""
    from controlnet_aux.hed import ControlNetHED_Apache2

    folder = tmp_path_factory.mktemp("models")
    for place in ("runwayml", "models-sd/runwayml"):
        (folder / place).mkdir(parents=True)
        (folder / place / "stable-diffusion-v1-5").symlink_to(TINY / "model")
    testing.controlnet(folder / "models-cn" / "control_v11p_sd15_softedge")
    (folder / "lllyasviel" / "Annotators").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(ControlNetHED_Apache2().state_dict(), folder / "lllyasviel" / "Annotators" / "ControlNetHED.pth")
    return folder


@pytest.fixture
def _folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in that has the models."""
    for place in models.iterdir():
        (tmp_path / place.name).symlink_to(place)
    monkeypatch.chdir(tmp_path)


def prepare(width: int, height: int) -> np.ndarray[Any, Any]:
    """The pictures that the examples read; where the mask is painted."""
    coarse = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    picture = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    Path("_projects/biolab").mkdir(parents=True, exist_ok=True)
    for name in ("_projects/biolab/00000.png", "bio1.png", "mech_beard_sigm.png"):
        picture.save(name)
    painted = np.array(picture)
    painted[height // 4 : height // 2, width // 4 : width // 2] = 10, 200, 10
    PIL.Image.fromarray(painted).save("mech_beard_sigm_mask.png")
    return np.asarray((painted != np.asarray(picture)).any(axis=-1))


pytestmark = pytest.mark.usefixtures("_folder")
as_written = pytest.param(False, marks=pytest.mark.slow, id="word for word")
both = pytest.mark.parametrize("small", [pytest.param(True, id="small"), as_written])


@both
def test_text_to_image(small: bool) -> None:
    image = run(TEXT, small)["image"]
    assert size("bio.png") == ((64, 48) if small else (768, 768))
    assert np.array_equal(np.asarray(PIL.Image.open("bio.png")), np.asarray(image))


@both
def test_image_to_image(small: bool) -> None:
    prepare(60, 44) if small else prepare(768, 768)
    run(IMAGE, small)
    assert size("bio1.png") == size("_projects/biolab/00000.png")
    before, after = (np.asarray(PIL.Image.open(f)) for f in ("_projects/biolab/00000.png", "bio1.png"))
    assert not np.array_equal(before, after)


@both
def test_control(small: bool) -> None:
    prepare(60, 44) if small else prepare(768, 768)
    names = run(CONTROL, small)
    assert size("bio2.png") == size("bio1.png")
    assert names["pipe"].get_config()["control_type"] == ["soft"]
    assert "hed" in names["pipe"].graph.nodes


@both
def test_masked(small: bool) -> None:
    mask = prepare(60, 44) if small else prepare(512, 512)
    run(MASKED, small)
    before, after = (np.asarray(PIL.Image.open(f)).astype(int) for f in ("mech_beard_sigm.png", "inpaint1.png"))
    assert before.shape == after.shape
    far = np.ones_like(mask)
    far[: mask.shape[0] * 3 // 4, : mask.shape[1] * 3 // 4] = False
    assert np.abs(before - after)[far].max() <= 1
    assert np.abs(before - after)[mask].mean() > 5


@both
def test_session(small: bool) -> None:
    run(SESSION, small)
    found = sorted(os.listdir("_projects/biolab"))
    count = 3 if small else 10
    assert found == sorted([f"{i:05d}.{kind}" for i in range(count) for kind in ("png", "txt")])
    for number in range(count):
        config = json.loads(Path(f"_projects/biolab/{number:05d}.txt").read_text())
        assert config["negative_prompt"].startswith("jpeg artifacts")
        assert config["width"] == (64 if small else 768)
        assert config["model_id"] == "runwayml/stable-diffusion-v1-5"
    assert size("_projects/biolab/00000.png") == ((64, 48) if small else (768, 768))


def test_one_after_the_other() -> None:
    """The second reads what the first wrote."""
    for example in (SESSION, IMAGE):
        run(example, small=True)
    assert size("_projects/biolab/00000.png") == size("bio1.png") == (64, 48)


def test_everything_small_is_put_in() -> None:
    for as_written, _ in SMALL:
        assert any(as_written in example for example in (TEXT, IMAGE, CONTROL, MASKED, SESSION))


# --- where the documentation says more than its examples --------------------------------------------------------------


def test_documented_spellings() -> None:
    mask = prepare(60, 44)
    run("pipe = Prompt2ImPipe('runwayml/stable-diffusion-v1-5')\npipe.setup(width=64, heigth=40, steps=1)\n"
        "pipe.gen({'prompt': 'a'}).save('a.png')", True)  # fmt: skip
    assert size("a.png") == (64, 40)
    run("pipe = CIm2ImPipe(model_id, ctypes=['canny'], cnet_ids='./models-cn/control_v11p_sd15_softedge')\n"
        "pipe.setup('./bio1.png', steps=1)\npipe.gen({'prompt': 'a'}).save('b.png')", True)  # fmt: skip
    assert size("b.png") == (60, 44)
    PIL.Image.fromarray(mask.astype(np.uint8) * 255).save("mask.png")
    begin = "pipe = MaskedIm2ImPipe(model_id)\npipe.setup(image='./bio1.png', steps=3, "
    end = ")\nx = numpy.asarray(pipe.gen({'prompt': 'a', 'seed': 5}))"
    masks = ("'mask.png'", "PIL.Image.open('mask.png')", "numpy.array(PIL.Image.open('mask.png'))")
    found = [run(f"{begin}mask={one}{end}", True)["x"] for one in masks]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    painted = [one.replace("mask.png", "mech_beard_sigm_mask.png") for one in masks]
    found = [run(f"{begin}image_painted={one}{end}", True)["x"] for one in painted]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_scale_of_the_input() -> None:
    PIL.Image.new("RGB", (100, 70), "green").save("bio1.png")
    run("pipe = Im2ImPipe(model_id)\npipe.setup('bio1.png', scale=1.5, steps=2)\n"
        "pipe.gen({'prompt': 'a'}).save('a.png')", True)  # fmt: skip
    assert size("a.png") == (150, 105)
