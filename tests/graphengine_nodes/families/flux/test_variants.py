"""FLUX.1 Kontext, Fill and Control (Canny, Depth): what tells them apart, and what each of them refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.testing import flux
from safetensors.torch import save_file

from graphengine import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("variants")
    for variant in ("kontext", "fill", "control"):
        flux.flux_model(found / variant, variant=variant)
    flux.flux_model(found / "dev")
    flux.flux_controlnet(found / "net")
    return found


def picture() -> std.Image:
    return std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))


def sampled(model: std.Model, **given: Any) -> torch.Tensor:
    text = std.encode_prompt(model, "a red circle")
    return std.sample(model, text, seed=1, steps=2, width=64, height=64, **given).samples


def test_a_single_file_is_kontext_by_its_name(folder: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("flux1-kontext-dev", "flux1-dev"):
        file = flux.flux_single_file(tmp_path / f"{name}.safetensors", folder / "kontext")
        denoiser = std.load_denoiser(file)
        whole = std.load_model(folder / "dev")
        model = std.join_model(denoiser, std.load_text_encoder(folder / "dev"), std.load_vae(folder / "dev"))
        assert dict(model.settings).get("kontext") == (True if "kontext" in name else None)
        found[name] = model
        assert dict(whole.settings).get("kontext") is None
    given = {"references": picture(), "arguments": {"_auto_resize": False}}
    plain = sampled(found["flux1-kontext-dev"])
    assert not torch.equal(sampled(found["flux1-kontext-dev"], **given), plain)
    with pytest.raises(ValueError, match=r"is no FLUX\.1 Kontext by its model_index\.json or its file's name"):
        sampled(found["flux1-dev"], **given)


def test_kontext_paints_with_a_reference_at_the_sizes_of_its_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pipeline brings the picture to one of them, of which the latents have another shape than asked for."""
    model, mask = std.load_model(folder / "kontext"), std.Mask(torch.ones(1, 64, 64))
    text = std.encode_prompt(model, "a red circle")

    def painted(**given: Any) -> torch.Tensor:
        found = std.inpaint(model, text, picture(), mask, references=picture(), steps=2, seed=1, **given)
        return found.samples

    with pytest.raises(ValueError, match="bring this one and its mask to 1024 x 1024 by resize_image and resize_mask"):
        painted()
    own = painted(arguments={"_auto_resize": False})
    assert own.shape[-2:] == (8, 8)
    module = "diffusers.pipelines.flux.pipeline_flux_kontext_inpaint.PREFERRED_KONTEXT_RESOLUTIONS"
    monkeypatch.setattr(module, [(64, 64)])
    assert torch.equal(painted(), own)


def test_each_takes_its_own_pictures_and_no_others(folder: Path) -> None:
    follows = std.follow_picture(picture())
    net = std.apply_controlnet(std.load_controlnet(folder / "net"), picture())
    mask = std.Mask(torch.ones(1, 64, 64))
    models = {name: std.load_model(folder / name) for name in ("dev", "kontext", "fill", "control")}
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("dev", {"control": follows}, "takes no control picture without a ControlNet; leave it out"),
        ("kontext", {"references": [picture()] * 2}, "takes 1 reference pictures at most, and got 2"),
        ("fill", {}, "needs a picture with a mask; link one"),
        ("fill", {"control": follows}, "takes no control picture without a ControlNet; leave it out"),
        ("control", {}, "needs a control picture without a ControlNet; link one"),
        ("control", {"control": [follows, net]}, "takes no ControlNet; leave it out"),
        ("control", {"control": [follows, follows]}, "follows one control picture, and got 2"),
    ]
    for name, given, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            sampled(models[name], **given)
    text = std.encode_prompt(models["fill"], "a red circle")
    with pytest.raises(ValueError, match="takes no reference pictures; leave them out"):
        std.inpaint(models["fill"], text, picture(), mask, references=picture(), seed=1, steps=2)


def test_a_lora_that_widens_the_input_is_refused(folder: Path, tmp_path: Path) -> None:
    """FLUX.1's Canny and Depth as LoRAs make a transformer of dev take 128 channels."""
    file = tmp_path / "canny-lora.safetensors"
    tensors = {"A": torch.ones(4, 128), "B": torch.ones(flux.WIDTH, 4)}
    save_file({f"transformer.x_embedder.lora_{side}.weight": tensor for side, tensor in tensors.items()}, file)
    widened = std.apply_lora(std.load_model(folder / "dev"), std.load_lora(file))
    with pytest.raises(ModelError, match=r"canny-lora\.safetensors does not fit this model's transformer"):
        sampled(widened)
    control, follows = std.load_model(folder / "control"), std.follow_picture(picture())
    changed = sampled(std.apply_lora(control, std.load_lora(file)), control=follows)
    assert not torch.equal(changed, sampled(control, control=follows))
