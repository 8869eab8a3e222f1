"""Pictures as prompts for FLUX.1 give the very latents of diffusers' own pipelines with `load_ip_adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import ip_adapters as testing
from graphengine_nodes.testing.flux import flux_controlnet, flux_model
from graphengine_nodes.weights.devices import storages

from graphengine import ModelError
from tests.graphengine_nodes import cases

SIZE = (64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two adapters, their image encoder, and a ControlNet."""
    found = tmp_path_factory.mktemp("adapters")
    testing.image_encoder(found / "image_encoder")
    flux_model(found / "flux")
    flux_controlnet(found / "net")
    for seed, name in enumerate(("first", "second")):
        testing.flux_ip_adapter(found / f"{name}.safetensors", found / "flux", seed)
    return found


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return diffusers.FluxPipeline.from_pretrained(folder / "flux")


def reference(pipe: Any, folder: Path, names: list[str], scale: Any, start: str = "", **call: Any) -> torch.Tensor:
    """The latents of diffusers' own pipeline of a kind with adapters, whose pictures it encodes itself."""
    cls = getattr(diffusers, f"Flux{start}Pipeline")
    more = {"controlnet": call.pop("controlnet")} if "controlnet" in call else {}
    used = cls(**{**pipe.components, "image_encoder": None, "feature_extractor": None}, **more)
    used.set_progress_bar_config(disable=True)
    used.load_ip_adapter(
        str(folder), weight_name=[f"{name}.safetensors" for name in names], image_encoder_dtype=torch.float32,
        image_encoder_pretrained_model_name_or_path=str(folder / "image_encoder"),
    )  # fmt: skip
    used.set_ip_adapter_scale(scale)
    try:
        given = {"num_inference_steps": 2, "guidance_scale": 3.5, "output_type": "latent", **call}
        generators = [torch.Generator().manual_seed(seed) for seed in given.pop("seeds", [1])]
        packed = used(
            prompt=cases.PROMPT, generator=generators, num_images_per_prompt=len(generators), max_sequence_length=64,
            width=SIZE[0], height=SIZE[1], **given,
        ).images  # fmt: skip
        found: torch.Tensor = used._unpack_latents(packed, *SIZE, 8)
    finally:
        used.unload_ip_adapter()
    return found


def adapted(folder: Path, *adapters: tuple[str, Any]) -> tuple[std.Model, list[std.ImagePrompt]]:
    """The model with adapters, each of which is shown one picture."""
    model, prompts = std.load_model(folder / "flux"), []
    for name, scale in adapters:
        adapter = std.load_ip_adapter(folder / f"{name}.safetensors")
        model = std.apply_ip_adapter(model, adapter, scale)
        prompts.append(std.encode_image_prompt(adapter, images.from_pil(cases.picture())))
    return model, prompts


def latents(model: std.Model, prompts: Any, **call: Any) -> torch.Tensor:
    text = std.encode_prompt(model, cases.PROMPT, max_sequence_length=64)
    sides = {} if "latent" in call or "image" in call else dict(zip(("width", "height"), SIZE, strict=True))
    node: Any = std.inpaint if "mask" in call else std.sample
    options = {"seed": 1, "steps": 2, "guidance_scale": 3.5, "image_prompt": prompts, **sides, **call}
    found: torch.Tensor = node(model, text, **options).samples
    return found


def test_text_to_image_with_and_without_a_negative_prompt(folder: Path, pipe: Any) -> None:
    model, prompts = adapted(folder, ("first", 0.7))
    shown = {"ip_adapter_image": cases.picture()}
    found = latents(model, prompts)
    assert torch.equal(found, reference(pipe, folder, ["first"], 0.7, **shown))
    assert not torch.allclose(found, latents(std.load_model(folder / "flux"), None), atol=1e-2)
    negative = std.encode_prompt(model, "a green tree", max_sequence_length=64)
    attention: dict[str, Any] = {}
    arguments = {"true_cfg_scale": 3.0, "joint_attention_kwargs": attention}
    found = latents(model, prompts, negative=negative, arguments=arguments)
    assert attention == {}, "the pipelines write into it"
    real = {"negative_prompt": "a green tree", "true_cfg_scale": 3.0}
    assert torch.equal(found, reference(pipe, folder, ["first"], 0.7, **real, **shown))


def test_from_a_picture_and_inside_a_mask_of_flux(folder: Path, pipe: Any) -> None:
    model, prompts = adapted(folder, ("first", 0.7))
    start, mask = cases.sized(cases.picture(), SIZE), cases.sized(cases.mask(), SIZE)
    theirs: dict[str, Any] = {"ip_adapter_image": cases.picture(), "num_inference_steps": 4, "strength": 0.5}
    ours: dict[str, Any] = {"steps": 4, "strength": 0.5}
    found = latents(model, prompts, latent=std.encode_image(model, images.from_pil(start)), **ours)
    assert torch.equal(found, reference(pipe, folder, ["first"], 0.7, "Img2Img", image=start, **theirs))
    painted = std.mask_from_image(images.from_pil(mask))
    found = latents(model, prompts, image=images.from_pil(start), mask=painted, **ours)
    expected = reference(pipe, folder, ["first"], 0.7, "Inpaint", image=start, mask_image=mask, **theirs)
    assert torch.equal(found, expected)


def test_with_a_controlnet_of_flux(folder: Path, pipe: Any) -> None:
    model, prompts = adapted(folder, ("first", 0.7))
    edges = cases.sized(cases.edges(), SIZE)
    control = std.apply_controlnet(std.load_controlnet(folder / "net"), images.from_pil(edges), 0.8)
    found = latents(model, prompts, control=control)
    expected = reference(
        pipe, folder, ["first"], 0.7, "ControlNet", control_image=edges, controlnet_conditioning_scale=0.8,
        controlnet=diffusers.FluxControlNetModel.from_pretrained(folder / "net"), ip_adapter_image=cases.picture(),
    )  # fmt: skip
    assert torch.equal(found, expected)
    start = std.encode_image(model, images.from_pil(edges))
    with pytest.raises(ValueError, match="FluxControlNetImg2ImgPipeline of diffusers takes no pictures for an IP-Ad"):
        latents(model, prompts, control=control, latent=start, strength=0.5)


def test_beside_reference_pictures_of_kontext(folder: Path) -> None:
    kontext = diffusers.FluxKontextPipeline.from_pretrained(flux_model(folder / "kontext", variant="kontext"))
    adapter = std.load_ip_adapter(folder / "first.safetensors")
    model = std.apply_ip_adapter(std.load_model(folder / "kontext"), adapter, 0.7)
    prompt, edges = std.encode_image_prompt(adapter, images.from_pil(cases.picture())), cases.sized(cases.edges(), SIZE)
    options = {"references": [images.from_pil(edges)], "arguments": {"_auto_resize": False}}
    expected = reference(
        kontext, folder, ["first"], 0.7, "Kontext", image=edges, ip_adapter_image=cases.picture(), max_area=64 * 64,
        _auto_resize=False,
    )  # fmt: skip
    assert torch.equal(latents(model, prompt, **options), expected)


def test_several_pictures_adapters_blocks_and_seeds_of_flux(folder: Path, pipe: Any) -> None:
    layers = pipe.transformer.config.num_layers
    scale = [0.2 + 0.5 * n for n in range(layers)]
    model, _ = adapted(folder, ("first", scale), ("second", 0.4))
    both = [cases.picture(), cases.awkward()]
    first, second = (std.load_ip_adapter(folder / f"{name}.safetensors") for name in ("first", "second"))
    prompts = [
        std.encode_image_prompt(first, [images.from_pil(one) for one in both]),
        std.encode_image_prompt(second, images.from_pil(both[1])),
    ]
    found = latents(model, prompts, seed=[3, 4])
    pictures = [both, both[1]]
    expected = reference(pipe, folder, ["first", "second"], [scale, 0.4], ip_adapter_image=pictures, seeds=[3, 4])
    assert torch.equal(found, expected)
    alone, shown = adapted(folder, ("first", scale))
    assert torch.equal(
        latents(alone, shown), reference(pipe, folder, ["first"], scale, ip_adapter_image=cases.picture())
    )


def test_scale_zero_is_the_base_of_flux_which_stays_as_it_is(folder: Path) -> None:
    base = std.load_model(folder / "flux")
    expected = latents(base, None)
    model, prompts = adapted(folder, ("first", 0.0))
    assert torch.equal(latents(model, prompts), expected)
    strong, _ = adapted(folder, ("first", 1.0))
    assert not torch.equal(latents(strong, prompts), expected)
    assert torch.equal(latents(base, None), expected)
    with store.component(base, "transformer", "cpu") as shared, store.component(strong, "transformer", "cpu") as other:
        assert set(storages(shared)) < set(storages(other))
        assert not any("IPAdapter" in type(one).__name__ for one in shared.attn_processors.values())


def test_what_does_not_fit_flux_is_refused(folder: Path) -> None:
    model, _ = adapted(folder, ("first", 1.0))
    adapter = std.load_ip_adapter(folder / "first.safetensors")
    with pytest.raises(
        ValueError, match=r"scale is \{.*for flux, flux, give a number, or a list with a number for each"
    ):
        std.apply_ip_adapter(model, adapter, {"mid": 1.0})
    with pytest.raises(ModelError, match=r"is an IP-Adapter for flux; tiny is a stable_diffusion model"):
        std.apply_ip_adapter(std.load_model("tiny"), adapter)
    masked = std.encode_image_prompt(adapter, images.from_pil(cases.picture()), std.Mask(torch.ones(1, 64, 64)))
    with pytest.raises(ValueError, match="IP-Adapters for FLUX act everywhere: leave the mask"):
        latents(model, masked)
    uneven, prompts = adapted(folder, ("first", [1.0] * 7))
    with pytest.raises(ModelError, match=r"the scales of first.safetensors do not fit the denoiser's blocks"):
        latents(uneven, prompts)
