"""The shipped workflows: each is right, fits the schema, is written as it was read, and runs as it is."""

import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import jsonschema
import numpy as np
import pytest

from graphengine import Graph, load
from graphengine.workflow.files import save, shipped, to_document
from graphengine.workflow.schema import schema
from graphengine.workflow.yaml12 import load as parse
from tests import ROOT

FOLDER = ROOT / "workflows"
FILES = sorted(file for file in FOLDER.iterdir() if file.is_file())
COMMON = {"prompt", "negative_prompt", "model", "config", "tokenizer", "scheduler", "steps", "guidance_scale"}
FITTED = {"fit", "longest"}
SIZED = COMMON | {"width", "height", "seed"}
FILMED = SIZED | {"frames", "fps", "guidance_scale_2"}
INPUTS = {
    "text_to_image": SIZED,
    "image_to_image": COMMON | FITTED | {"seed", "image", "strength"},
    "edit": SIZED | {"images"},
    "lora": SIZED | {"lora", "lora_scale"},
    "controlnet": SIZED | FITTED | {"controlnet", "control_image", "control_scale"},
    "inpainting": COMMON | FITTED | {"seed", "image", "mask", "strength"},
    "masked_image_to_image": COMMON | {"seed", "image", "painted", "blur", "blur_compose", "sample_mode", "strength"},
    "text_to_video": FILMED,
    "image_to_video": FILMED | {"image"},
    "sweep": COMMON | {"width", "height", "seeds"},
}
NAMES = sorted(INPUTS)


def document(file: Path) -> Any:
    return parse(file.read_text(), file.name)[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_is_right(file: Path) -> None:
    graph = load(file)
    assert graph.problems() == []
    assert graph.title
    assert graph.description
    assert all(declared.help for declared in graph.inputs.values())
    assert set(graph.inputs) == INPUTS[file.stem]
    jsonschema.Draft202012Validator(schema()).validate(document(file))
    assert to_document(graph) == document(file)


def test_they_are_shipped_by_name_and_one_has_a_twin_in_json() -> None:
    found = shipped()
    assert [name for name in NAMES if name in found] == NAMES
    assert found["text_to_image"].suffix == ".yaml"
    assert document(FOLDER / "text_to_image.json") == document(FOLDER / "text_to_image.yaml")
    assert load("text_to_image") == load(FOLDER / "text_to_image.json")


def test_without_choices_of_ones_own_the_model_decides() -> None:
    for file in FILES:
        graph = load(file)
        own = {"scheduler", "steps", "guidance_scale", "width", "height", "negative_prompt"} & set(graph.inputs)
        assert all(graph.inputs[name].default is None for name in own)


def pixels(value: Any) -> np.ndarray[Any, Any]:
    """[B, H, W, 3] in 0..1."""
    return np.asarray(value.pixels)


def colour(values: Any) -> np.ndarray[Any, Any]:
    """The mean colour of a region."""
    return np.asarray(values.reshape(-1, 3).mean(0))


def run(name: str, **inputs: Any) -> dict[str, Any]:
    graph: Graph = load(name)
    found: dict[str, Any] = graph.run(inputs=inputs)
    return found


def test_text_to_image_runs() -> None:
    image = pixels(run("text_to_image")["image"])[0]
    assert image.shape == (128, 128, 3)
    corners = np.stack([image[:8, :8], image[:8, -8:], image[-8:, :8], image[-8:, -8:]])
    red, green, blue = colour(corners)
    assert blue > red + 0.2
    assert blue > green + 0.1
    redness = image[..., 0] - image[..., 2]
    assert (redness > 0.2).mean() > 0.03  # the red circle


def test_text_to_image_takes_its_inputs() -> None:
    found = run(
        "text_to_image", prompt="a yellow star on a green background", negative_prompt="blurry", steps=3, seed=5,
        scheduler="EulerDiscreteScheduler", guidance_scale=2.0, width=64, height=96,
    )  # fmt: skip
    assert pixels(found["image"]).shape == (1, 96, 64, 3)


def test_text_to_image_takes_weights_in_prompts() -> None:
    """Without any it is the picture of `encode_prompt`, and so of diffusers' pipeline."""
    options: dict[str, Any] = {"steps": 3, "width": 64, "height": 64}
    plain, weighted, less = (
        pixels(run("text_to_image", prompt=prompt, **options)["image"])
        for prompt in ("a red circle", "a (red:1.3) circle", "a (red:1.0) circle")
    )
    model = std.load_model("tiny")
    texts = {"negative": std.encode_prompt(model, None), "seed": 0, **options}
    latent = std.sample(model, std.encode_prompt(model, "a red circle"), **texts)
    assert np.array_equal(plain, pixels(std.decode_latent(model, latent)))
    assert np.array_equal(plain, less)
    assert not np.array_equal(plain, weighted)


def test_image_to_image_runs() -> None:
    found = run("image_to_image")
    assert pixels(found["image"]).shape == (1, 128, 128, 3)
    image, start = pixels(found["image"])[0], picture("tree.png")
    crown = (start[..., 0] > 0.7) & (start[..., 1] > 0.6)  # yellow there, and now red
    assert colour(image[crown])[0] > colour(image[crown])[1] + 0.3
    assert np.abs(image - start)[:16].mean() < 0.1
    kept = pixels(run("image_to_image", strength=0.15)["image"])[0]
    assert np.abs(kept - start).mean() < np.abs(image - start).mean()


def test_lora_runs_and_its_scale_matters() -> None:
    with_lora, without = (pixels(run("lora", lora_scale=scale)["image"])[0] for scale in (1.0, 0.0))
    plain = run("text_to_image", prompt=load("lora").inputs["prompt"].default)["image"]
    assert np.array_equal(without, pixels(plain)[0])
    assert np.abs(with_lora - without).mean() > 0.05
    assert colour(with_lora)[2] > colour(with_lora)[0]  # a blueprint is blue


def test_controlnet_runs_and_follows_the_edges() -> None:
    found = run("controlnet")
    edges = pixels(found["edges"])[0, ..., 0] > 0.5
    image = pixels(found["image"])[0]
    change = np.abs(np.diff(image, axis=0))[:, :-1].sum(-1) + np.abs(np.diff(image, axis=1))[:-1].sum(-1)
    assert change[edges[:-1, :-1]].mean() > 3 * change.mean()


def test_inpainting_runs_and_paints_only_inside_the_mask() -> None:
    image = pixels(run("inpainting")["image"])[0]
    start, mask = picture("tree.png"), picture("mask.png")[..., 0] > 0.5
    assert np.abs(image - start).mean(-1)[mask].mean() > 0.1
    outside = picture("mask.png")[..., 0] == 0
    assert np.array_equal(image[outside], start[outside])


def test_masked_image_to_image_runs_and_begins_with_the_paint() -> None:
    found = run("masked_image_to_image")
    image, start, mask = pixels(found["image"])[0], picture("tree.png"), found["mask"].values[0].numpy() > 0.5
    assert np.array_equal(mask, np.abs(picture("tree_painted.png") - start).max(-1) > 0)
    crown = (start[..., 0] > 0.7) & (start[..., 1] > 0.6)  # yellow there, and now red
    assert colour(image[crown & mask])[0] > colour(image[crown & mask])[1] + 0.3
    assert np.array_equal(image[~grow(mask, 8)], start[~grow(mask, 8)])


def test_pictures_of_any_size_go_through_masked_image_to_image(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("tree", "tree_painted"):
        with Image.open(FOLDER / "images" / f"{name}.png") as whole:
            whole.crop((11, 12, 100, 101 - 24)).save(tmp_path / f"{name}.png")
    given = {"image": str(tmp_path / "tree.png"), "painted": str(tmp_path / "tree_painted.png")}
    found = run("masked_image_to_image", steps=3, **given)
    assert pixels(found["image"]).shape == (1, 65, 89, 3)
    with Image.open(tmp_path / "tree.png") as whole:
        assert np.array_equal(pixels(found["image"])[0, :5], np.asarray(whole, dtype=np.float32)[:5] / 255)


@pytest.fixture
def photo(tmp_path: Path) -> dict[str, str]:
    """A picture and its mask whose sides fit no latents."""
    from PIL import Image

    for name in ("tree", "mask"):
        with Image.open(FOLDER / "images" / f"{name}.png") as whole:
            whole.crop((20, 30, 109, 107)).save(tmp_path / f"{name}.png")
    return {"image": str(tmp_path / "tree.png"), "mask": str(tmp_path / "mask.png")}


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_photos_of_any_size_go_through_image_to_image(photo: dict[str, str], tmp_path: Path, fit: str) -> None:
    from PIL import Image

    start = np.asarray(Image.open(photo["image"]).convert("RGB"))
    if fit == "resize":
        start = np.asarray(Image.fromarray(start).resize((88, 80), Image.Resampling.LANCZOS))
    elif fit == "pad":
        start = np.pad(start, ((0, 3), (0, 7), (0, 0)), "edge")
    else:
        start = start[2:74, 0:88]
    Image.fromarray(start).save(tmp_path / "fits.png")
    expected = pixels(run("image_to_image", image=str(tmp_path / "fits.png"), steps=3)["image"])
    found = pixels(run("image_to_image", image=photo["image"], fit=fit, steps=3)["image"])
    assert np.array_equal(found, expected[:, :77, :89] if fit == "pad" else expected)


@pytest.mark.parametrize(("fit", "longest"), [("resize", None), ("pad", None), ("crop", None), ("crop", 64)])
def test_photos_of_any_size_go_through_inpainting(photo: dict[str, str], fit: str, longest: int | None) -> None:
    image = pixels(run("inpainting", **photo, fit=fit, longest=longest, steps=4)["image"])[0]
    start, mask = picture(photo["image"]), picture(photo["mask"])[..., 0]
    assert image.shape == (77, 89, 3)
    assert np.array_equal(image[mask == 0], start[mask == 0])
    assert np.abs(image - start).mean(-1)[mask > 0.5].mean() > 0.1


def test_photos_of_any_size_go_through_controlnet(photo: dict[str, str]) -> None:
    found = run("controlnet", control_image=photo["image"], steps=2)
    assert pixels(found["image"]).shape == pixels(found["edges"]).shape == (1, 80, 88, 3)


def test_sweep_runs_once_for_each_seed() -> None:
    images = run("sweep", seeds=[1, 2], steps=3)["images"]
    assert [pixels(image).shape for image in images] == [(1, 128, 128, 3)] * 2
    alone = run("text_to_image", seed=2, steps=3, prompt=load("sweep").inputs["prompt"].default)["image"]
    assert np.array_equal(pixels(images[1]), pixels(alone))


def test_a_workflow_runs_where_it_was_saved_to(tmp_path: Path) -> None:
    save(load("image_to_image"), tmp_path / "mine.yaml")
    found = load(tmp_path / "mine.yaml").run(inputs={"steps": 2})
    assert pixels(found["image"]).shape == (1, 128, 128, 3)


def test_a_copy_of_the_folder_runs(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "copy")
    found = load(tmp_path / "copy" / "inpainting.yaml").run(inputs={"steps": 2})
    assert pixels(found["image"]).shape == (1, 128, 128, 3)


def picture(name: str) -> np.ndarray[Any, Any]:
    """[H, W, 3] in 0..1."""
    from PIL import Image

    with Image.open(FOLDER / "images" / name) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def grow(mask: np.ndarray[Any, Any], by: int) -> np.ndarray[Any, Any]:
    """The mask with its surroundings: a latent's pixel is eight wide."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, iterations=by))
