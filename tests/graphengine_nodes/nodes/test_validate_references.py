"""`graphengine validate` says what does not fit of models and their parts, from configurations and headers alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from graphengine_nodes.store.store import store
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.weights.files import TINY

from graphengine.cli.validate import problems_of

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
