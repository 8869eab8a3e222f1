"""FLUX.2's VAE in one file."""

from __future__ import annotations

from typing import Any

import pytest

from . import originals, published

CLASS = "AutoencoderKLFlux2"


def flux2_vae(**sizes: Any) -> originals.Tensors:
    """`AutoEncoder` of black-forest-labs: that of FLUX.1 with more channels, and norms of what is encoded."""
    import torch

    shapes = published.vae(channels=32, **sizes)
    moved = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    shapes = {f"{moved.get(n.split('.')[0], n.split('.')[0])}.{n.partition('.')[2]}": s for n, s in shapes.items()}
    shapes |= {"bn.running_mean": (128,), "bn.running_var": (128,), "bn.num_batches_tracked": ()}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_the_published_vae_of_flux2_is_told_by_its_shapes(names: str) -> None:
    model = originals.made(CLASS, {})
    tensors = model.state_dict()
    component = originals.read(tensors if names == "diffusers" else flux2_vae()).components["vae"]
    assert component.spelling == names
    originals.assert_config(component.config, model)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == component.shapes


def test_the_original_codes_flux2_vae_has_the_places_of_flux_1s() -> None:
    file = flux2_vae(width=8)
    component = originals.read(file, {"config": '{"vae": {"norm_num_groups": 4}}'}).components["vae"]
    found = originals.loaded(component, file)
    plain = {
        name.replace("encoder.quant_conv", "quant_conv").replace("decoder.post", "post"): t for name, t in file.items()
    }
    config = {"down_block_types": [""] * 4, "up_block_types": [""] * 4}
    expected = originals.converted(
        "convert_ldm_vae_checkpoint", {n: t for n, t in plain.items() if n[:2] != "bn"}, config=config
    )
    expected |= {name: tensor for name, tensor in file.items() if name.startswith("bn.")}
    originals.assert_same(found, expected)


def test_a_decoder_of_other_widths_is_told() -> None:
    config = {"block_out_channels": (128, 256), "decoder_block_out_channels": (96, 192)}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = originals.made(CLASS, config | blocks)
    originals.assert_config(originals.read(model.state_dict()).components["vae"].config, model)
