"""LoRAs of the transformers: each layer by all of its names, where single files have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from graphengine_nodes.families import lora_places
from graphengine_nodes.families.lora_places import squashed
from graphengine_nodes.weights.lora_names import Place

from ..layouts import (
    originals,
    test_chroma,
    test_flux2,
    test_qwen_image,
    test_stable_diffusion_3,
    test_wan,
    test_z_image,
)
from ..layouts.originals import Tensors


def joined_21(tensors: Tensors) -> Tensors:
    return originals.original(tensors, (), [(".img_mlp.gate_up", (".img_mlp.gate_layer", ".img_mlp.proj"))])


Places = Callable[[Sequence[str]], Mapping[str, Place]]
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Tensors], Tensors], Places]] = {
    "z_image": (test_z_image.CLASS, test_z_image.TINY, test_z_image.z_image, lora_places.z_image_places),
    "qwen_image_21": (test_qwen_image.CLASS_21, test_qwen_image.TINY_21, joined_21, lora_places.qwen_image_places),
    "flux2": (test_flux2.CLASS, test_flux2.TINY, test_flux2.flux2, lora_places.flux2_places),
    "chroma": (test_chroma.CLASS, test_chroma.TINY, test_chroma.chroma, lora_places.chroma_places),
    "stable_diffusion_3": (
        test_stable_diffusion_3.CLASS,
        test_stable_diffusion_3.TINY,
        lambda tensors: test_stable_diffusion_3.sd3(tensors, 3),
        lora_places.stable_diffusion_3_places,
    ),
    "wan": (test_wan.CLASS, test_wan.TINY | test_wan.PICTURES, test_wan.wan, lora_places.wan_places),
}


@pytest.mark.parametrize("family", CASES)
def test_each_layer_is_found_by_its_names(family: str) -> None:
    """A layer of the original code has the places that the tensors of a single file with its names have."""
    cls, config, original, places = CASES[family]
    tensors = originals.made(cls, config).state_dict()
    paths = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    found = places(paths)
    for path in paths:
        assert found[squashed(path)] == Place((path,)), path
    layers: dict[str, dict[int, str]] = {}
    swapped = set()
    for name, place in originals.read(original(tensors)).components["transformer"].places.items():
        if name.endswith(".weight"):
            layer = place.name.removesuffix(".weight").removesuffix(".scale")
            layers.setdefault(layer, {})[place.rows[0] if place.rows else 0] = name.removesuffix(".weight")
            swapped |= {layer} if place.change == "halves swapped" else set()
    assert any(len(apart) > 1 for apart in layers.values()) or family == "wan"
    for layer, apart in layers.items():
        assert found[squashed(layer)] == Place(tuple(apart[row] for row in sorted(apart)), layer in swapped), layer


def test_halves_of_the_last_text_modulation_of_stable_diffusion_3_are_swapped() -> None:
    cls, config, _, places = CASES["stable_diffusion_3"]
    paths = [name.removesuffix(".weight") for name in originals.made(cls, config).state_dict()]
    found = places(paths)
    name = "joint_blocks_{}_context_block_adaLN_modulation_1"
    assert [found[name.format(number)].swapped for number in range(3)] == [False, False, True]
    assert found["final_layer_adaLN_modulation_1"].swapped


def test_parts_of_joined_layers_have_a_name_each() -> None:
    cls, config, _, places = CASES["flux2"]
    found = places([name.removesuffix(".weight") for name in originals.made(cls, config).state_dict()])
    assert found["double_blocks_1_img_attn_qkv_2"] == Place(("transformer_blocks.1.attn.to_v",))
    assert found["double_blocks_1_img_attn_norm_query_norm_scale"] == Place(("transformer_blocks.1.attn.norm_q",))
