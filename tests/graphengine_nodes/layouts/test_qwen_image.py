"""Qwen-Image's transformers in one file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import originals

CLASS, CLASS_21 = "QwenImageTransformer2DModel", "QwenImage21Transformer2DModel"
TINY_21: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "context_in_dim": 24,
    "in_channels": 8,
    "out_channels": 8,
    "axes_dims_rope": (4, 6, 6),
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen-Image": {},
    "Edit 2511": {"zero_cond_t": True},
    "Layered": {"use_additional_t_cond": True, "use_layer3d_rope": True},
}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "transformer."])
@pytest.mark.parametrize("what", PUBLISHED)
def test_the_published_qwen_images_are_told_by_their_shapes(what: str, prefix: str) -> None:
    model = originals.made(CLASS, PUBLISHED[what])
    file = originals.prefixed(prefix, model.state_dict())
    if what == "Edit 2511":
        file[f"{prefix}__index_timestep_zero__"] = torch.empty(0)
    found = originals.read(file)
    component = found.components["transformer"]
    assert found.family == "qwen_image"
    originals.assert_config(component.config, model)
    assert component.config.get("zero_cond_t", False) == model.config["zero_cond_t"]
    assert {name: place.name for name, place in component.places.items()} == {
        name: f"{prefix}{name}" for name in model.state_dict()
    }


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_qwen_image_2_1_is_read_as_diffusers_reads_it(prefix: str) -> None:
    tensors = originals.made(CLASS_21, TINY_21, "cpu").state_dict()
    joined = [(".img_mlp.gate_up", (".img_mlp.gate_layer", ".img_mlp.proj"))]
    file = originals.prefixed(prefix, originals.original(tensors, (), joined))
    found = originals.read(file, {"config": '{"transformer": {"axes_dims_rope": [4, 6, 6]}}'})
    component = found.components["transformer"]
    assert found.family == "qwen_image_21"
    given = originals.loaded(component, file)
    originals.assert_same(given, originals.converted("convert_qwen_image21_transformer_checkpoint_to_diffusers", file))
    originals.assert_same(given, dict(tensors))
    originals.assert_config(component.config, originals.made(CLASS_21, TINY_21))


def test_the_published_qwen_image_2_1_is_told_by_its_shapes() -> None:
    model = originals.made(CLASS_21, {})
    component = originals.read(model.state_dict()).components["transformer"]
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == component.shapes


@pytest.mark.parametrize("extra", [0, 4], ids=["union", "inpainting"])
def test_a_controlnet_of_qwen_image_is_no_transformer(extra: int) -> None:
    model = originals.made("QwenImageControlNetModel", {"num_layers": 5, "extra_condition_channels": extra})
    found = originals.read(model.state_dict())
    assert (found.family, found.components.keys()) == (None, {"controlnet"})
    originals.assert_config(found.components["controlnet"].config, model)
    assert found.components["controlnet"].places.keys() == model.state_dict().keys()
