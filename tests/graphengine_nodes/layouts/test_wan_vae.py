"""The VAEs of Wan and of Qwen-Image in one file."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from graphengine import ModelError

from . import originals
from .originals import Tensors

TINY: dict[str, Any] = {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
WAN_22: dict[str, Any] = {
    "is_residual": True,
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
SIDES = (
    (r"\.norm1\.gamma", ".residual.0.gamma"),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.gamma", ".residual.3.gamma"),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"coder\.norm_out\.", "coder.head.0."),
    (r"coder\.conv_out\.", "coder.head.2."),
)


def wan_21(tensors: Tensors) -> Tensors:
    """Four layers in a level: three residual blocks and what makes the picture larger."""
    found = {}
    for name, tensor in originals.original(
        tensors, (*SIDES, (r"encoder\.down_blocks\.", "encoder.downsamples."))
    ).items():
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)\.(.*)", name):
            name = f"decoder.upsamples.{4 * int(match[1]) + int(match[3] or 3)}.{match[4]}"
        found[name] = tensor
    return found


def wan_22(tensors: Tensors, blocks: int = 2) -> Tensors:
    rules = (
        *SIDES,
        (r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.downsamples.\1.downsamples."),
        (r"encoder\.down_blocks\.(\d+)\.downsampler\.", rf"encoder.downsamples.\1.downsamples.{blocks}."),
        (r"decoder\.up_blocks\.(\d+)\.resnets\.", r"decoder.upsamples.\1.upsamples."),
        (r"decoder\.up_blocks\.(\d+)\.upsampler\.", rf"decoder.upsamples.\1.upsamples.{blocks + 1}."),
    )
    return originals.original(tensors, rules)


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_wans_vae_is_read_as_diffusers_reads_it(prefix: str) -> None:
    model = originals.made("AutoencoderKLWan", TINY, "cpu")
    file = wan_21(model.state_dict())
    assert "decoder.upsamples.15.residual.0.gamma" not in file
    assert {"decoder.upsamples.14.residual.6.weight", "decoder.upsamples.3.time_conv.bias"} <= file.keys()
    component = originals.read(originals.prefixed(prefix, file)).components["vae"]
    assert component.spelling == "original"
    given = originals.loaded(component, originals.prefixed(prefix, file))
    originals.assert_same(given, originals.converted("convert_wan_vae_to_diffusers", file))
    originals.assert_same(given, dict(model.state_dict()))
    originals.assert_config(component.config, model)


@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("cls", ["AutoencoderKLWan", "AutoencoderKLQwenImage"])
def test_the_published_vaes_of_wan_and_qwen_image_are_told_by_their_shapes(cls: str, names: str) -> None:
    model = originals.made(cls, {})
    tensors = model.state_dict()
    component = originals.read(tensors if names == "diffusers" else wan_21(tensors)).components["vae"]
    found = component.config_as(cls)
    assert found is not None
    originals.assert_config(found, model)
    assert component.config_as("AutoencoderKL") is None
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes


def test_the_vae_of_pictures_in_layers_takes_four_channels() -> None:
    model = originals.made("AutoencoderKLQwenImage", {"input_channels": 4})
    found = originals.read(model.state_dict()).components["vae"].config_as("AutoencoderKLQwenImage")
    assert found is not None
    originals.assert_config(found, model)


@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_the_vae_of_wan_2_2_is_told_by_its_shapes(names: str) -> None:
    model = originals.made("AutoencoderKLWan", WAN_22)
    tensors = model.state_dict()
    component = originals.read(tensors if names == "diffusers" else wan_22(tensors)).components["vae"]
    originals.assert_config(component.config, model, but=["latents_mean", "latents_std"])
    assert [len(component.config[name]) for name in ("latents_mean", "latents_std")] == [48, 48]
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes


def test_the_vae_of_qwen_image_2_1_is_told_by_its_shapes() -> None:
    model = originals.made("AutoencoderKLQwenImage21", {})
    component = originals.read(model.state_dict()).components["vae"]
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == component.shapes


def test_a_scale_that_nothing_tells_is_refused() -> None:
    tensors = originals.made("AutoencoderKLWan", TINY | {"z_dim": 8}).state_dict()
    with pytest.raises(ModelError, match="no shape tells latents_mean and latents_std; give config"):
        originals.read(tensors).components["vae"].config  # noqa: B018 - raises
    with pytest.raises(
        ModelError, match=r"nothing is known about the tensor decoder\.upsamples\.0\.residual\.9\.weight"
    ):
        originals.read(wan_21(tensors) | {"decoder.upsamples.0.residual.9.weight": torch.empty(1)})
