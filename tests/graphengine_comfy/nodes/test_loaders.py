"""Loaders take files of parts as people have them for ComfyUI: without scales, tokenizers and configurations."""

from __future__ import annotations

import shutil
from pathlib import Path

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.weights.files import TINY

from graphengine import ModelError
from tests.graphengine_comfy.templates.stand_ins import part_file


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("vae", "text_encoders", "tokenizers"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    return tmp_path


def test_a_vae_whose_scale_is_not_told_decodes_latents(root: Path) -> None:
    part_file(TINY / "model" / "vae", root / "vae" / "vae-ft-mse.safetensors")
    alone, own = comfy.VAELoader(vae_name="vae-ft-mse.safetensors"), comfy.CheckpointLoaderSimple(ckpt_name="tiny").VAE
    latent = comfy.VAEEncode(pixels=comfy.EmptyImage(width=64, height=64, color=0x3060C0), vae=own)
    assert torch.equal(
        comfy.VAEDecode(samples=latent, vae=alone).pixels, comfy.VAEDecode(samples=latent, vae=own).pixels
    )


def test_tokenizers_lie_in_a_folder_of_the_family(root: Path, tmp_path: Path) -> None:
    model = flux_model(tmp_path / "source")
    part_file(model / "text_encoder", root / "text_encoders" / "clip_l.safetensors")
    part_file(model / "text_encoder_2", root / "text_encoders" / "t5xxl_fp16.safetensors")
    files = {"clip_name1": "t5xxl_fp16.safetensors", "clip_name2": "clip_l.safetensors", "type": "flux"}
    with pytest.raises(ModelError, match=r"needs a tokenizer_2.*into tokenizers/flux among the models$"):
        comfy.DualCLIPLoader(**files)
    shutil.copytree(model, root / "tokenizers" / "flux", ignore=shutil.ignore_patterns("*.safetensors"))
    clip = comfy.DualCLIPLoader(**files)
    shutil.move(model, root / "text_encoders" / "whole")
    whole = comfy.CLIPLoader(clip_name="whole", type="flux")
    found, wanted = (comfy.CLIPTextEncode(text="a (red:1.2) house", clip=one) for one in (clip, whole))
    assert torch.equal(found.entries[0].prompt.embeds, wanted.entries[0].prompt.embeds)
