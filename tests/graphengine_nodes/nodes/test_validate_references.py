"""`graphengine validate` says what does not fit of models and their parts, from configurations and headers alone."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import PIL.Image
import pytest
from graphengine_nodes import mask_from_image
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.testing.chroma import chroma_model
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.testing.flux2 import flux2_model
from graphengine_nodes.testing.qwen_image import qwen_image_edit_model
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.testing.z_image import z_image_model
from graphengine_nodes.weights.files import TINY

from graphengine import load
from graphengine.cli.validate import problems_of
from graphengine.planning.inputs import bind_inputs
from graphengine.planning.reference_problems import reference_problems

JOIN = """
version: 1
inputs: {vae: {type: path, default: %s}}
nodes:
  base: {node: load_model, with: {source: tiny}}
  words: {node: load_text_encoder, with: {source: %s}}
  vae: {node: load_vae, from: {source: inputs.vae}}
  model:
    node: join_model
    from: {denoiser: base, text_encoder: words, vae: vae}
  text: {node: encode_prompt, from: {model: model}, with: {prompt: a red circle}}
outputs: {text: text}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    xl_model(tmp_path / "xl")
    shutil.copytree(TINY / "model", tmp_path / "tiny-copy")
    return tmp_path


def problems(folder: Path, vae: str, words: str) -> list[str]:
    file = folder / "join.yaml"
    file.write_text(JOIN % (vae, words))
    store.clear()
    found = problems_of(str(file))
    assert not store.digests("cpu")
    return [f"{problem.where.line} {problem.where.node} {problem.what}" for problem in found]


def test_what_does_not_fit_is_told_with_its_line(folder: Path) -> None:
    assert problems(folder, "tiny-copy", "tiny") == []
    (told,) = problems(folder, "xl/vae", "tiny")
    assert told.startswith("8 model the vae of vae is for stable_diffusion_xl")
    assert told.endswith("models; it does not fit a stable_diffusion model")
    (told,) = problems(folder, "tiny-copy", "xl")
    assert told.startswith("8 model the text encoder of xl is for stable_diffusion_xl models")
    config = folder / "tiny-copy" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [16, 32]}))
    (told,) = problems(folder, "tiny-copy", "tiny")
    assert "makes latents of 4 channels at 1/2 of the size; tiny needs 4 at 1/8" in told
    weights = folder / "xl" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert problems(folder, "xl/vae", "tiny")[0].startswith("8 model the vae of vae")  # no other part is read


def test_what_may_lie_in_a_network_is_not_looked_at(folder: Path) -> None:
    assert problems(folder, "tiny-copy", "stabilityai/stable-diffusion-xl-base-1.0") == []


def test_inputs_that_are_given_are_checked_too(folder: Path) -> None:
    file = folder / "lora.yaml"
    file.write_text(
        "version: 1\n"
        "inputs: {model: {type: str, default: tiny}, words: {type: str}}\n"
        "nodes:\n"
        "  model: {node: load_model, from: {source: inputs.model}}\n"
        "  words: {node: load_text_encoder, from: {source: inputs.words}}\n"
        "  joined: {node: join_model, from: {denoiser: model, text_encoder: words, vae: model}}\n"
        "outputs: {joined: joined}\n"
    )
    assert problems_of(str(file), [f"words={folder / 'tiny-copy'}"]) == []
    (told,) = problems_of(str(file), [f"words={folder / 'xl'}"])
    assert "the text encoder of xl is for stable_diffusion_xl models" in told.what
    assert problems_of(str(file)) == []  # of an input without a value nothing is known


ASKED = """
version: 1
inputs: {model: {type: path, default: %s}, photo: {type: Image}}
nodes:
  model: {node: load_model, from: {source: inputs.model}}
  text: {node: encode_prompt, from: {model: model}, with: {prompt: a red circle}}
  latent:
    node: sample
    from: {model: model, positive: text%s}
    with: %s
outputs: {latent: latent}
"""


@pytest.mark.parametrize(
    ("made", "links", "given", "told"),
    [
        ("z_image", "", "{width: 64, height: 64, scheduler: UniPCMultistepScheduler}", []),
        ("z_image", "", "{width: 72, height: 64}", ["width is 72, but must be a multiple of 16 (64 or 80)"]),
        ("z_image", "", "{scheduler: ddim}", ["DDIMScheduler is of the wrong kind for z_image"]),
        ("z_image", ", references: inputs.photo", "{}", ["model: this model takes no reference pictures"]),
        ("flux", ", references: inputs.photo", "{}", ["model is no FLUX.1 Kontext by its model_index.json"]),
        ("control", "", "{}", ["model: this model needs a control picture without a ControlNet; link one"]),
        ("tiny", ", references: inputs.photo", "{}", ["model, stable_diffusion, takes no reference pictures"]),
    ],
)
def test_what_a_model_does_not_take_is_told_before_it_is_loaded(
    made: str, links: str, given: str, told: list[str], tmp_path: Path
) -> None:
    makers = {"z_image": z_image_model, "flux": flux_model, "control": partial(flux_model, variant="control")}
    if made in makers:
        makers[made](tmp_path / "model")
    else:
        shutil.copytree(TINY / "model", tmp_path / "model")
    file = tmp_path / "asked.yaml"
    file.write_text(ASKED % ("model", links, given))
    store.clear()
    given_photo = {"photo": images.from_pil(PIL.Image.new("RGB", (64, 64)))}
    graph = load(file)
    found = reference_problems(graph, bind_inputs(graph, given_photo))
    assert not store.digests("cpu")
    assert len(found) == len(told), found
    assert all(part in problem.what and problem.where.line == 7 for part, problem in zip(told, found, strict=True))


REFERRED = """
version: 1
inputs: {images: {type: 'list[path]', default: [a.png, b.png]}, photo: {type: Image}, mask: {type: Mask}}
nodes:
  model: {node: load_model, with: {source: model}}
  pictures: {node: load_image, from: {path: inputs.images}, each: [path]}
  text: {node: encode_prompt, from: {model: model}, with: {prompt: a red circle}}
  latent:
    node: %s
    from: {model: model, positive: text%s}
    with: %s
outputs: {latent: latent}
"""
PAINTED = ", image: inputs.photo, mask: inputs.mask"
MAKERS = {
    "chroma": chroma_model,
    "klein": flux2_model,
    "edit": qwen_image_edit_model,
    "plus": partial(qwen_image_edit_model, plus=True),
}


@pytest.mark.parametrize(
    ("made", "sampler", "links", "given", "pictures", "told"),
    [
        ("edit", "sample", ", references: pictures", "{}", 1, ""),
        ("edit", "sample", ", references: pictures", "{}", 2, "takes 1 reference pictures at most, and got 2"),
        ("edit", "sample", ", references: pictures", "{}", 0, "this model needs reference pictures; link one"),
        ("edit", "sample", "", "{}", 0, "this model needs reference pictures; link one"),
        ("edit", "inpaint", PAINTED, "{}", 0, ""),
        ("edit", "inpaint", PAINTED + ", references: pictures", "{}", 1, "takes no reference pictures beside a mask"),
        ("plus", "inpaint", PAINTED, "{}", 0, "this model takes no picture with a mask; use sample"),
        ("plus", "sample", ", references: pictures", "{}", 3, ""),
        ("chroma", "inpaint", PAINTED, "{}", 0, "this model takes no picture with a mask; use repaint"),
        ("chroma", "sample", ", latent: start", "{strength: 0.5}", 0, ""),
        ("klein", "sample", ", latent: start", "{strength: 0.5}", 0, "no picture to start from; give it to references"),
        ("klein", "sample", ", latent: start", "{}", 0, ""),
    ],
)
def test_what_a_sampler_asks_of_a_model_is_told_before_a_run(
    made: str, sampler: str, links: str, given: str, pictures: int, told: str, tmp_path: Path
) -> None:
    MAKERS[made](tmp_path / "model")
    text = REFERRED % (sampler, links, given)
    if "start" in links:
        start = "  start: {node: encode_image, from: {model: model, image: inputs.photo}}\n"
        text = text.replace("  text:", f"{start}  text:")
    file = tmp_path / "referred.yaml"
    file.write_text(text)
    photo = images.from_pil(PIL.Image.new("RGB", (64, 64)))
    values = {"images": ["a.png"] * pictures, "photo": photo, "mask": mask_from_image(photo)}
    graph = load(file)
    found = [problem.what for problem in reference_problems(graph, bind_inputs(graph, values))]
    assert len(found) == bool(told), found
    assert all(told in one for one in found)


STRANGERS = """
version: 1
inputs: {photo: {type: Image}}
nodes:
  model: {node: load_model, with: {source: flux}}
  chroma: {node: load_model, with: {source: chroma}}
  tiny: {node: load_model, with: {source: tiny}}
  net: {node: load_controlnet, with: {source: tiny-canny}}
  guide: {node: apply_controlnet, from: {controlnet: net, image: inputs.photo}}
  follow: {node: follow_picture, from: {image: inputs.photo}}
  text: {node: encode_prompt, from: {model: %s}, with: {prompt: a red circle}}
  pair: {node: encode_prompts, from: {model: %s}, with: {prompt: a red circle}}
  start: {node: encode_image, from: {model: %s, image: inputs.photo}}
  latent:
    node: sample
    from: {model: model, positive: text, negative: pair.negative, latent: start%s}
    with: {strength: 0.5}
outputs: {latent: latent}
"""


@pytest.mark.parametrize(
    ("models", "more", "told"),
    [
        (("model", "model", "chroma"), "", []),
        (("tiny", "model", "model"), "", ["a prompt of stable_diffusion does not fit flux, a flux model"]),
        (("model", "chroma", "model"), "", ["a prompt of chroma does not fit flux, a flux model"]),
        (("model", "model", "tiny"), "", ["an encoded picture of stable_diffusion does not fit flux, a flux model"]),
        (
            ("model", "model", "model"),
            ", control: [guide]",
            ["a ControlNet of stable_diffusion cannot steer flux, a flux model"],
        ),
        (
            ("model", "model", "model"),
            ", control: follow",
            ["flux: this model takes no control picture without a ControlNet; leave it out"],
        ),
    ],
)
def test_what_is_of_another_family_is_told_before_a_run(
    models: tuple[str, str, str], more: str, told: list[str], tmp_path: Path
) -> None:
    flux_model(tmp_path / "flux")
    chroma_model(tmp_path / "chroma")
    file = tmp_path / "strangers.yaml"
    file.write_text(STRANGERS % (*models, more))
    photo = images.from_pil(PIL.Image.new("RGB", (64, 64)))
    found = reference_problems(graph := load(file), bind_inputs(graph, {"photo": photo}))
    assert [problem.what for problem in found] == told


def test_a_path_by_set_starts_at_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "workflows").mkdir()
    file = folder / "workflows" / "asked.yaml"
    text = ASKED % ("tiny", "", "{scheduler: FlowMatchEulerDiscreteScheduler}")
    file.write_text(text.replace("type: path", "type: str").replace(", photo: {type: Image}", ""))
    monkeypatch.chdir(folder)
    (told,) = [one.what for one in problems_of(str(file), ["model=tiny-copy"])]
    assert "FlowMatchEulerDiscreteScheduler is of the wrong kind for stable_diffusion" in told
    monkeypatch.chdir(folder / "workflows")
    told = " ".join(one.what for one in problems_of(str(file), ["model=./tiny-copy"]))
    assert f"there is no file or folder {folder / 'workflows' / 'tiny-copy'}" in told
