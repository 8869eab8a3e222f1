"""Z-Image's transformer in one file."""

from __future__ import annotations

from typing import Any

import pytest

from graphengine import ModelError

from . import originals
from .originals import Tensors

CLASS = "ZImageTransformer2DModel"
TINY: dict[str, Any] = {
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 24,
    "in_channels": 4,
    "axes_dims": [4, 6, 6],
    "axes_lens": [64, 32, 32],
}
RULES = (
    (r"^all_(x_embedder|final_layer)\.2-1\.", r"\1."),
    (r"\.attention\.to_out\.0\.", ".attention.out."),
    (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
)
JOINED = ((".attention.qkv", (".attention.to_q", ".attention.to_k", ".attention.to_v")),)


def z_image(tensors: Tensors) -> Tensors:
    return originals.original(tensors, RULES, JOINED)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_z_image_is_read_as_diffusers_reads_it(prefix: str) -> None:
    tensors = originals.made(CLASS, TINY, "cpu").state_dict()
    file = originals.prefixed(prefix, z_image(tensors))
    assert {name.removeprefix(prefix) for name in file} - tensors.keys() > {"layers.1.attention.qkv.weight"}
    found = originals.read(file, {"config": '{"transformer": {"axes_dims": [4, 6, 6]}}'})
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("z_image", "original")
    given = originals.loaded(component, file)
    originals.assert_same(given, originals.converted("convert_z_image_transformer_checkpoint_to_diffusers", file))
    originals.assert_same(given, dict(tensors))
    originals.assert_config(component.config, originals.made(CLASS, TINY))


@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_the_published_z_image_is_told_by_its_shapes(names: str) -> None:
    model = originals.made(CLASS, {"axes_lens": [1536, 512, 512]})
    file = model.state_dict() if names == "diffusers" else z_image(model.state_dict())
    found = originals.read(file | {"norm_final.weight": file["x_pad_token"]})
    component = found.components["transformer"]
    assert (found.family, component.spelling) == ("z_image", names)
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == component.shapes


def test_what_a_z_image_file_leaves_open_or_is_not_known_is_refused() -> None:
    tensors = originals.made(CLASS, TINY).state_dict()
    with pytest.raises(ModelError, match="no shape tells axes_dims; give config"):
        originals.read(tensors).components["transformer"].config  # noqa: B018 - raises
    with pytest.raises(ModelError, match=r"nothing is known about the tensor siglip_embedder\.0\.weight"):
        originals.read(tensors | {"siglip_embedder.0.weight": tensors["x_pad_token"]})


CONTROL = {"control_layers_places": [0, 5, 10, 15, 20, 25], "control_in_dim": 16}


def test_the_published_controlnets_of_z_image_are_told_by_their_shapes() -> None:
    model = originals.made("ZImageControlNetModel", CONTROL)
    found = originals.read(model.state_dict())
    assert (found.family, found.components.keys()) == (None, {"controlnet"})
    originals.assert_config(found.components["controlnet"].config, model)
    assert found.components["controlnet"].places.keys() == model.state_dict().keys()


def test_a_controlnet_of_z_image_whose_way_to_refine_noise_nothing_tells_is_refused() -> None:
    later = {"control_layers_places": list(range(0, 30, 2)), "control_refiner_layers_places": [0, 1]}
    config = {"control_in_dim": 33, "add_control_noise_refiner": "control_noise_refiner", **later}
    model = originals.made("ZImageControlNetModel", config)
    with pytest.raises(ModelError, match="no shape tells add_control_noise_refiner; give config"):
        originals.read(model.state_dict()).components["controlnet"].config  # noqa: B018 - raises
    said = {"config": '{"controlnet": {"add_control_noise_refiner": "control_noise_refiner"}}'}
    originals.assert_config(originals.read(model.state_dict(), said).components["controlnet"].config, model)
