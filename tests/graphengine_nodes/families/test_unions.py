"""Union ControlNets: bit-identical to diffusers' pipelines for them, with a mode for each control picture."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import flux as flux_testing
from graphengine_nodes.testing import sdxl as xl_testing

from graphengine import ModelError, socket_type

SIZE = 64
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL model with two union ControlNets and a plain one, and FLUX with a union."""
    folder = tmp_path_factory.mktemp("unions")
    xl_testing.xl_model(folder / "xl")
    xl_testing.xl_union_controlnet(folder / "union")
    xl_testing.xl_union_controlnet(folder / "other", seed=1, modes=8)
    xl_testing.xl_controlnet(folder / "plain")
    flux_testing.flux_model(folder / "dev")
    flux_testing.flux_controlnet(folder / "flux-union", modes=3)
    return folder


def drawing(seed: int) -> std.Image:
    return std.Image(torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed)))


def expected(folder: Path, start: str, nets: list[str], **call: Any) -> torch.Tensor:
    """What diffusers' own pipeline makes."""
    from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

    module = {"": "_sd_xl", "Img2Img": "_sd_xl_img2img", "Inpaint": "_inpaint_sd_xl"}[start]
    place = importlib.import_module(f"diffusers.pipelines.controlnet.pipeline_controlnet_union{module}")
    loaded = [ControlNetUnionModel.from_pretrained(folder / name) for name in nets]
    cls = getattr(place, f"StableDiffusionXLControlNetUnion{start}Pipeline")
    pipeline = cls.from_pretrained(folder / "xl", controlnet=loaded[0] if len(loaded) == 1 else loaded)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(7)]
    found: torch.Tensor = pipeline(
        PROMPT, num_inference_steps=2, generator=generator, output_type="latent", guidance_scale=5.0, **call
    ).images
    return found


def first(image: std.Image) -> torch.Tensor:
    return image.pixels.permute(0, 3, 1, 2)


@pytest.mark.parametrize("mode", [0, 3])
@pytest.mark.parametrize("start", ["", "Img2Img", "Inpaint"])
def test_a_union_is_bit_identical(folder: Path, start: str, mode: int) -> None:
    model = std.load_model(folder / "xl")
    text = std.encode_prompt(model, PROMPT)
    control = std.apply_controlnet(std.load_controlnet(folder / "union"), drawing(1), 0.8, mode=mode)
    call: dict[str, Any] = {"control_image": [first(drawing(1))], "control_mode": [mode]}
    call |= {"controlnet_conditioning_scale": 0.8}
    if start == "":
        found = std.sample(model, text, control=control, seed=7, steps=2, width=SIZE, height=SIZE)
        call |= {"width": SIZE, "height": SIZE}
    elif start == "Img2Img":
        latent = std.encode_image(model, drawing(2))
        found = std.sample(model, text, control=control, latent=latent, seed=7, steps=2, strength=0.9)
        call |= {"image": first(drawing(2)), "strength": 0.9}
    else:
        mask = std.mask_rectangle(SIZE, SIZE, right=0.5)
        found = std.inpaint(model, text, drawing(2), mask, control=control, seed=7, steps=2, strength=0.9)
        call |= {"image": first(drawing(2)), "mask_image": mask.values[:, None], "strength": 0.9}
        call |= {"width": SIZE, "height": SIZE}
    assert torch.equal(found.samples, expected(folder, start, ["union"], **call))


def test_modes_count(folder: Path) -> None:
    model = std.load_model(folder / "xl")
    union, text = std.load_controlnet(folder / "union"), std.encode_prompt(model, PROMPT)
    one, other = (
        std.sample(model, text, control=std.apply_controlnet(union, drawing(1), mode=mode), steps=1).samples
        for mode in (0, 1)
    )
    assert not torch.allclose(one, other, atol=1e-3)


def test_several_unions_are_bit_identical(folder: Path) -> None:
    model = std.load_model(folder / "xl")
    nets = [std.load_controlnet(folder / name) for name in ("union", "other")]
    controls = [std.apply_controlnet(net, drawing(n), mode=n + 2, scale=0.5 + n) for n, net in enumerate(nets)]
    text = std.encode_prompt(model, PROMPT)
    found = std.sample(model, text, control=controls, seed=7, steps=2, width=SIZE, height=SIZE).samples
    call = {"control_image": [first(drawing(n)) for n in range(2)], "control_mode": [2, 3]}
    call |= {"controlnet_conditioning_scale": [0.5, 1.5], "width": SIZE, "height": SIZE}  # type: ignore[dict-item]
    assert torch.equal(found, expected(folder, "", ["union", "other"], **call))


@pytest.mark.parametrize(("name", "net"), [("xl", "union"), ("dev", "flux-union")])
def test_a_union_without_a_mode_is_refused_before_anything_is_loaded(folder: Path, name: str, net: str) -> None:
    model, union = std.load_model(folder / name), std.load_controlnet(folder / net)
    text = std.encode_prompt(model, PROMPT)
    store.clear()
    with pytest.raises(ValueError, match=rf"{net} is a union ControlNet: give apply_controlnet the mode, 0 to \d"):
        std.sample(model, text, control=std.apply_controlnet(union, drawing(1)), steps=1)
    assert not store.digests("cpu")


def test_flux_takes_the_mode_of_a_control(folder: Path) -> None:
    model, union = std.load_model(folder / "dev"), std.load_controlnet(folder / "flux-union")
    text = std.encode_prompt(model, PROMPT)
    by_input = std.apply_controlnet(union, drawing(1), mode=2)
    found = std.sample(model, text, control=by_input, seed=7, width=SIZE, height=SIZE).samples
    plain, arguments = std.apply_controlnet(union, drawing(1)), {"control_mode": 2}
    said = std.sample(model, text, control=plain, arguments=arguments, seed=7, width=SIZE, height=SIZE).samples
    assert torch.equal(found, said)


def test_modes_that_are_not_there_are_refused(folder: Path) -> None:
    union, plain = std.load_controlnet(folder / "union"), std.load_controlnet(folder / "plain")
    with pytest.raises(ValueError, match="union has the modes 0 to 5, and no mode 6"):
        std.apply_controlnet(union, drawing(1), mode=6)
    with pytest.raises(ValueError, match="plain is no union ControlNet; leave mode out"):
        std.apply_controlnet(plain, drawing(1), mode=0)
    model = std.load_model(folder / "xl")
    controls = [std.apply_controlnet(union, drawing(1), mode=0), std.apply_controlnet(plain, drawing(1))]
    with pytest.raises(ValueError, match="union is a union ControlNet and plain is none"):
        std.sample(model, std.encode_prompt(model, PROMPT), control=controls, steps=1)


def test_controls_are_data(folder: Path) -> None:
    union = std.load_controlnet(folder / "union")
    for control in (std.apply_controlnet(union, drawing(1), mode=4), std.apply_controlnet(union, drawing(1))):
        known = socket_type(std.Control)
        assert known is not None
        assert known.encode is not None
        assert known.decode is not None
        again = known.decode(known.encode(control))
        assert (again.mode, again.controlnet.modes, again.controlnet) == (control.mode, 6, union)


def test_the_first_published_configuration(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "union", tmp_path / "published")
    config = json.loads((copy / "config.json").read_text()) | {"_class_name": "ControlNetModel_Union"}
    (copy / "config.json").write_text(json.dumps(config))
    union = std.load_controlnet(copy)
    assert union.modes == 6
    model = std.load_model(folder / "xl")
    control = std.apply_controlnet(union, drawing(1), mode=0)
    std.sample(model, std.encode_prompt(model, PROMPT), control=control, steps=1)
    (copy / "diffusion_pytorch_model.safetensors").unlink()
    shutil.copy(folder / "plain" / "diffusion_pytorch_model.safetensors", copy)
    with pytest.raises(ModelError, match="tensors are missing, the first is task_embedding"):
        std.sample(
            model,
            std.encode_prompt(model, PROMPT),
            control=std.apply_controlnet(std.load_controlnet(copy), drawing(1), mode=0),
            steps=1,
        )
