"""Families of LoRAs, told by the names and shapes of their tensors."""

from __future__ import annotations

from typing import Any

import pytest
from graphengine_nodes.families import lora_families
from graphengine_nodes.weights.headers import Header

from ..layouts import originals, published, test_chroma, test_flux2, test_qwen_image
from .test_lora_places import CASES

FAMILIES = {
    "flux": lora_families.changes_flux,
    "z_image": lora_families.changes_z_image,
    "qwen_image": lora_families.changes_qwen_image,
    "qwen_image_21": lora_families.changes_qwen_image_21,
    "flux2": lora_families.changes_flux2,
    "chroma": lora_families.changes_chroma,
    "stable_diffusion_3": lora_families.changes_stable_diffusion_3,
    "wan": lora_families.changes_wan,
}


def lora(shapes: dict[str, Any], spelling: str) -> Header:
    """A LoRA over all matrices."""
    found: Header = {}
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 2 and "embedding" not in name:
            layer = name.removesuffix(".weight")
            if spelling == "kohya":
                down, up = (f"lora_unet_{layer.replace('.', '_')}.lora_{end}.weight" for end in ("down", "up"))
            else:
                down, up = (f"{spelling}{layer}.lora_{end}.weight" for end in "AB")
            found[down] = {"dtype": "BF16", "shape": [4, shape[1]]}
            found[up] = {"dtype": "BF16", "shape": [shape[0], 4]}
    return found


def claimed(header: Header) -> list[str]:
    return [name for name, changes in FAMILIES.items() if changes(header)]


def shapes_of(family: str, original: bool) -> dict[str, Any]:
    if family == "flux":
        return published.flux(True, double=1, single=1)
    cls, config, names, _ = CASES.get(family, (test_qwen_image.CLASS, {"num_layers": 1}, dict, None))
    tensors = originals.made(cls, config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in (names(tensors) if original else tensors).items()}


@pytest.mark.parametrize("spelling", ["diffusion_model.", "kohya", "transformer.", ""])
@pytest.mark.parametrize("original", [True, False], ids=["original", "diffusers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_of_all_layers_is_of_one_family(family: str, original: bool, spelling: str) -> None:
    assert claimed(lora(shapes_of(family, original), spelling)) == [family]


def test_layers_of_attention_may_be_of_several_families() -> None:
    shapes = {name: shape for name, shape in shapes_of("qwen_image", False).items() if ".attn." in name}
    assert "qwen_image" in claimed(lora(shapes, "transformer."))
    cls, config, *_ = CASES["stable_diffusion_3"]
    plain = originals.made(cls, config | {"dual_attention_layers": ()}).state_dict()
    header = lora({name: tuple(tensor.shape) for name, tensor in plain.items()}, "transformer.")
    assert "stable_diffusion_3" in claimed(header)


def test_widths_tell_flux_2_from_flux_1_where_the_names_are_the_same() -> None:
    one = published.flux(True, double=1, single=1)
    two = {
        n: tuple(t.shape)
        for n, t in test_flux2.flux2(originals.made("Flux2Transformer2DModel", test_flux2.TINY).state_dict()).items()
    }
    for layer in (".linear1.", ".img_mlp.0."):
        first, second = (lora({n: s for n, s in shapes.items() if layer in n}, "kohya") for shapes in (one, two))
        assert claimed(first) == ["flux", "chroma"]
        assert claimed(second) == ["flux2"]


def test_a_unets_lora_is_of_none_of_them() -> None:
    shapes = {f"down_blocks.0.attentions.0.transformer_blocks.0.{n}.weight": (8, 8) for n in ("attn1.to_q", "ff.net.2")}
    assert [claimed(lora(shapes, spelling)) for spelling in ("unet.", "kohya")] == [[], []]
    assert lora_families.changes_unet(lora(shapes, "kohya"))


def test_a_chroma_lora_without_its_own_layers_may_be_flux_1s() -> None:
    cls, config, names, _ = CASES["chroma"]
    tensors = names(originals.made(cls, config | test_chroma.TINY).state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if "blocks." in name}
    assert claimed(lora(shapes, "diffusion_model.")) == ["flux", "chroma"]
