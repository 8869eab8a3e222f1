"""FLUX checkpoints in one file load, whole or with the transformer alone."""

from __future__ import annotations

import json
from pathlib import Path

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.testing.flux import flux_single_file

from graphengine import ModelError
from tests.graphengine_nodes.families.flux import cases


def wide(models: Path, folder: Path, **changes: object) -> Path:
    """`dev` with the configuration of a transformer of FLUX's width, of one double and one single block."""
    folder.mkdir()
    for one in (models / "dev").iterdir():
        if one.name != "transformer":
            (folder / one.name).symlink_to(one)
    (folder / "transformer").mkdir()
    config = json.loads((models / "dev" / "transformer" / "config.json").read_text())
    config |= {"attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096}
    config |= {"pooled_projection_dim": 768, "axes_dims_rope": [16, 56, 56]} | changes
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "transformer alone"])
def test_what_the_file_lacks_comes_from_the_folder(models: Path, tmp_path: Path, whole: bool) -> None:
    dev = std.load_model(models / "dev")
    prefix = "model.diffusion_model." if whole else ""
    file = flux_single_file(tmp_path / "given.safetensors", models / "dev", whole, prefix=prefix)
    found = std.load_model(file, config=models / "dev")
    assert found.family == "flux"
    same = {name for name, digest in dev.components if digest == found.component(name)}
    outside = {"tokenizer", "tokenizer_2", "scheduler"}
    assert same == (outside if whole else outside | {"text_encoder", "text_encoder_2", "vae"})
    texts = [std.encode_prompt(model, cases.PROMPT, max_sequence_length=64) for model in (dev, found)]
    assert torch.equal(texts[0].embeds, texts[1].embeds)
    assert texts[0].pooled is not None
    assert texts[1].pooled is not None
    assert torch.equal(texts[0].pooled, texts[1].pooled)
    encoded = [std.encode_image(model, images.from_pil(cases.picture())).mean for model in (dev, found)]
    assert torch.equal(encoded[0], encoded[1])
    latent = std.Latent(encoded[0], "flux")
    assert torch.equal(*(std.decode_latent(model, latent).pixels for model in (dev, found)))
    samples = [std.sample(model, texts[0], steps=1, seed=1, width=64, height=64).samples for model in (dev, found)]
    assert torch.allclose(*samples, atol=1e-4)
    other = flux_single_file(tmp_path / "other.safetensors", models / "dev", whole, width=8, prefix=prefix)
    with pytest.raises(ModelError, match=r"num_attention_heads is 0 by its header, and 2 there; give another config"):
        std.load_model(other, config=models / "dev")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_is_read_as_diffusers_reads_it(models: Path, tmp_path: Path, prefix: str) -> None:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    folder = wide(models, tmp_path / "wide")
    file = flux_single_file(
        tmp_path / "wide.safetensors", models / "dev", width=3072, prefix=prefix
    )  # finds its folder by name
    model = std.load_model(file, precision="bfloat16")
    config = str(folder / "transformer")
    expected = FluxTransformer2DModel.from_single_file(str(file), config=config, torch_dtype=torch.bfloat16)
    with store.component(model, "transformer", "cpu") as transformer:
        found, wanted = transformer.state_dict(), expected.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    store.clear()
    schnell = wide(models, tmp_path / "schnell", guidance_embeds=False)
    foreign = std.load_model(file, config=schnell, precision="bfloat16")
    with (
        pytest.raises(ModelError, match=r"4 tensors have no place in the FluxTransformer2DModel .*guidance_embedder"),
        store.component(foreign, "transformer", "cpu"),
    ):
        pass
    file.unlink()  # pytest keeps folders for a while
