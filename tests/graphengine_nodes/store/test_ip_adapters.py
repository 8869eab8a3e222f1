"""IP-Adapters give the very latents of diffusers' own pipelines with `load_ip_adapter`, and leave the base as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import ip_adapters as testing
from graphengine_nodes.testing.sdxl import xl_controlnet, xl_model
from graphengine_nodes.weights.devices import storages
from graphengine_nodes.weights.files import TINY

from graphengine import ModelError
from tests.graphengine_nodes import cases

SIZE = (64, 64)
PREFIX = {"sd": "StableDiffusion", "xl": "StableDiffusionXL"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, adapters of every kind for each, their image encoder, and ControlNets."""
    found = tmp_path_factory.mktemp("adapters")
    testing.image_encoder(found / "image_encoder")
    (found / "sd").symlink_to(TINY / "model")
    (found / "sd-net").symlink_to(TINY / "controlnet")
    xl_model(found / "xl")
    xl_controlnet(found / "xl-net")
    for family in PREFIX:
        for seed, kind in enumerate(("plain", "plus", "full")):
            testing.ip_adapter(found / f"{family}-{kind}.safetensors", kind, found / family, seed)
    return found


@pytest.fixture(scope="module")
def pipes(folder: Path) -> dict[str, Any]:
    """By family, diffusers' pipeline without an adapter; its modules are shared by those of other kinds."""
    found = {}
    for family, prefix in PREFIX.items():
        found[family] = getattr(diffusers, f"{prefix}Pipeline").from_pretrained(folder / family)
        found[family].set_progress_bar_config(disable=True)
    return found


def reference(pipe: Any, folder: Path, names: list[str], scale: Any, start: str = "", **call: Any) -> torch.Tensor:
    """The latents of diffusers' own pipeline of a kind with adapters, whose picture it encodes itself."""
    cls = getattr(diffusers, type(pipe).__name__.replace("Pipeline", f"{start}Pipeline"))
    parts = {**pipe.components, "image_encoder": None, "feature_extractor": None}
    more = {"controlnet": call.pop("controlnet")} if "controlnet" in call else {}
    used = cls(**parts, **more, **({"requires_safety_checker": False} if "safety_checker" in parts else {}))
    used.set_progress_bar_config(disable=True)
    if names:
        used.load_ip_adapter(str(folder), subfolder="", weight_name=[f"{name}.safetensors" for name in names])
        used.set_ip_adapter_scale(scale)
    try:
        given = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "latent", **call}
        seeds = given.pop("seeds", [1])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        found: torch.Tensor = used(cases.PROMPT, generator=generators, num_images_per_prompt=len(seeds), **given).images
    finally:
        if names:
            used.unload_ip_adapter()
    return found


def adapted(folder: Path, family: str, *adapters: tuple[str, Any]) -> tuple[std.Model, list[std.ImagePrompt]]:
    """The model with adapters, each of which is shown one picture."""
    model, prompts = std.load_model(folder / family), []
    for kind, scale in adapters:
        adapter = std.load_ip_adapter(folder / f"{family}-{kind}.safetensors")
        model = std.apply_ip_adapter(model, adapter, scale)
        prompts.append(std.encode_image_prompt(adapter, shown()))
    return model, prompts


def shown() -> std.Image:
    return images.from_pil(cases.picture())


def latents(model: std.Model, prompts: Any, **call: Any) -> torch.Tensor:
    text = std.encode_prompt(model, cases.PROMPT)
    sides = {} if "latent" in call or "image" in call else dict(zip(("width", "height"), SIZE, strict=True))
    node: Any = std.inpaint if "mask" in call else std.sample
    options = {"seed": 1, "steps": 2, "guidance_scale": 5.0, "image_prompt": prompts, **sides, **call}
    found: torch.Tensor = node(model, text, **options).samples
    return found


BLOCKS: dict[str, Any] = {"down": {"block_1": 1.0}, "up": {"block_1": [0.0, 1.0]}}
SIZED = {"width": SIZE[0], "height": SIZE[1]}


@pytest.mark.parametrize("family", PREFIX)
@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
def test_text_to_image_is_that_of_diffusers(family: str, kind: str, folder: Path, pipes: dict[str, Any]) -> None:
    model, prompts = adapted(folder, family, (kind, 0.7))
    found = latents(model, prompts[0])
    expected = reference(pipes[family], folder, [f"{family}-{kind}"], 0.7, ip_adapter_image=cases.picture(), **SIZED)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, latents(std.load_model(folder / family), None), atol=1e-2)


@pytest.mark.parametrize("family", PREFIX)
def test_from_a_picture_and_inside_a_mask(family: str, folder: Path, pipes: dict[str, Any]) -> None:
    model, prompts = adapted(folder, family, ("plus", 0.7))
    start, mask = cases.sized(cases.picture(), SIZE), cases.sized(cases.mask(), SIZE)
    theirs: dict[str, Any] = {"ip_adapter_image": cases.picture(), "num_inference_steps": 4, "strength": 0.5}
    ours: dict[str, Any] = {"steps": 4, "strength": 0.5}
    found = latents(model, prompts, latent=std.encode_image(model, images.from_pil(start)), **ours)
    name = [f"{family}-plus"]
    assert torch.equal(found, reference(pipes[family], folder, name, 0.7, "Img2Img", image=start, **theirs))
    painted = std.mask_from_image(images.from_pil(mask))
    found = latents(model, prompts, image=images.from_pil(start), mask=painted, **ours)
    expected = reference(pipes[family], folder, name, 0.7, "Inpaint", image=start, mask_image=mask, **SIZED, **theirs)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", PREFIX)
def test_with_a_controlnet(family: str, folder: Path, pipes: dict[str, Any]) -> None:
    model, prompts = adapted(folder, family, ("plain", 0.7))
    edges = cases.sized(cases.edges(), SIZE)
    control = std.apply_controlnet(std.load_controlnet(folder / f"{family}-net"), images.from_pil(edges), 0.8)
    found = latents(model, prompts, control=control)
    net = diffusers.ControlNetModel.from_pretrained(folder / f"{family}-net")
    expected = reference(
        pipes[family], folder, [f"{family}-plain"], 0.7, "ControlNet", controlnet=net, image=edges,
        ip_adapter_image=cases.picture(), controlnet_conditioning_scale=0.8, **SIZED,
    )  # fmt: skip
    assert torch.equal(found, expected)
    assert not torch.equal(found, latents(model, prompts))


@pytest.mark.parametrize("scale", [1.0, BLOCKS])
def test_several_pictures_adapters_and_seeds(scale: Any, folder: Path, pipes: dict[str, Any]) -> None:
    model, _ = adapted(folder, "sd", ("plain", scale), ("plus", 0.4))
    both = [cases.picture(), cases.awkward()]
    first, second = (std.load_ip_adapter(folder / f"sd-{kind}.safetensors") for kind in ("plain", "plus"))
    prompts = [
        std.encode_image_prompt(first, [images.from_pil(one) for one in both]),
        std.encode_image_prompt(second, images.from_pil(both[1])),
    ]
    found = latents(model, prompts, seed=[3, 4])
    names = ["sd-plain", "sd-plus"]
    expected = reference(
        pipes["sd"], folder, names, [scale, 0.4], ip_adapter_image=[both, both[1]], seeds=[3, 4], **SIZED
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, latents(model, adapted(folder, "sd", ("plain", 1.0), ("plus", 1.0))[1], seed=[3, 4]))


def test_masks_and_no_guidance(folder: Path, pipes: dict[str, Any]) -> None:
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    adapter = std.load_ip_adapter(folder / "sd-plain.safetensors")
    model = std.apply_ip_adapter(std.load_model("tiny"), adapter)
    pictures = [shown(), images.from_pil(cases.awkward())]
    prompt = std.encode_image_prompt(adapter, pictures, [std.Mask(left), std.Mask(1 - left)])
    found = latents(model, prompt, guidance_scale=1.0)
    expected = reference(
        pipes["sd"], folder, ["sd-plain"], 1.0, guidance_scale=1.0, **SIZED,
        ip_adapter_image=[[cases.picture(), cases.awkward()]],
        cross_attention_kwargs={"ip_adapter_masks": [torch.stack([left, 1 - left], 1)]},
    )  # fmt: skip
    assert torch.equal(found, expected)
    unmasked = std.encode_image_prompt(adapter, pictures)
    assert not torch.equal(found, latents(model, unmasked, guidance_scale=1.0))
    with pytest.raises(ValueError, match="masks of image_prompt are given as cross_attention_kwargs: leave these out"):
        latents(model, prompt, arguments={"cross_attention_kwargs": {}})
    with pytest.raises(ValueError, match=r"the mask of image_prompt is 64 x 64, the picture 72 x 64; bring them to"):
        latents(model, prompt, width=72)


def test_with_a_lora(folder: Path) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model")
    pipe.load_lora_weights(TINY / "lora" / "blueprint.safetensors", adapter_name="lora")
    pipe.set_adapters(["lora"], [0.6])
    model, prompts = adapted(folder, "sd", ("plain", 0.7))
    found = latents(std.apply_lora(model, std.load_lora("tiny-blueprint"), 0.6), prompts)
    assert torch.equal(found, reference(pipe, folder, ["sd-plain"], 0.7, ip_adapter_image=cases.picture(), **SIZED))


def test_in_half_precision(folder: Path) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", torch_dtype=torch.bfloat16)
    model = std.load_model("tiny", precision="bfloat16")
    adapter = std.load_ip_adapter(folder / "sd-plus.safetensors", precision="bfloat16")
    prompt = std.encode_image_prompt(adapter, shown())
    found = latents(std.apply_ip_adapter(model, adapter, 0.7), prompt)
    expected = reference(pipe, folder, ["sd-plus"], 0.7, ip_adapter_image=cases.picture(), **SIZED)
    assert torch.equal(found, expected)


def test_over_small_numbers_the_weights_stay_shared(folder: Path) -> None:
    model, prompts = adapted(folder, "sd", ("plain", 0.7))
    small, base = (std.quantize_model(one, "float8") for one in (model, std.load_model("tiny")))
    assert torch.allclose(latents(small, prompts), latents(model, prompts), atol=0.3)
    with store.component(base, "unet", "cpu") as unet, store.component(small, "unet", "cpu") as other:
        assert set(storages(unet)) < set(storages(other))


@pytest.mark.parametrize("text", ["a [red:green:0.5] circle", "a red circle AND a blue house"])
def test_prompts_that_change_go_with_pictures(text: str, folder: Path) -> None:
    base = std.load_model("tiny")
    prompt = std.encode_weighted(base, text).positive
    options: dict[str, Any] = {"seed": 1, "steps": 2, "guidance_scale": 5.0, **SIZED}
    plain = std.sample(base, prompt, **options).samples
    for scale, equal in ((0.0, True), (1.0, False)):
        model, shown = adapted(folder, "sd", ("plain", scale))
        assert torch.equal(std.sample(model, prompt, image_prompt=shown, **options).samples, plain) == equal


def test_a_model_that_was_handed_in_keeps_its_attention(folder: Path, pipes: dict[str, Any]) -> None:
    model, prompts = adapted(folder, "sd", ("plain", 0.7))
    handed = std.apply_ip_adapter(std.loaded_model(pipes["sd"]), model.ip_adapters[0][0], 0.7)
    assert torch.equal(latents(handed, prompts), latents(model, prompts))
    assert pipes["sd"].unet.encoder_hid_proj is None


def test_scale_zero_is_the_base_and_a_lora_goes_with_it(folder: Path) -> None:
    base = latents(std.load_model("tiny"), None)
    model, prompts = adapted(folder, "sd", ("plain", 0.0))
    assert torch.equal(latents(model, prompts), base)
    lora = std.load_lora("tiny-blueprint")
    assert torch.equal(
        latents(std.apply_lora(model, lora), prompts), latents(std.apply_lora(std.load_model("tiny"), lora), None)
    )


def test_the_base_is_shared_and_untouched(folder: Path) -> None:
    base = std.load_model("tiny")
    strong, prompts = adapted(folder, "sd", ("plain", 1.0))
    weak, _ = adapted(folder, "sd", ("plain", 0.2))
    alone = [latents(model, shown) for model, shown in ((base, None), (strong, prompts), (weak, prompts))]
    assert not any(torch.equal(alone[0], one) for one in alone[1:])
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(latents, *job) for job in ((base, None), (strong, prompts), (weak, prompts)) * 2]
        for job, expected in zip(jobs, alone * 2, strict=True):
            assert torch.equal(job.result(), expected)
    with store.component(base, "unet", "cpu") as unet, store.component(strong, "unet", "cpu") as other:
        assert set(storages(unet)) < set(storages(other))
        assert unet.encoder_hid_proj is None
        assert not any("IPAdapter" in type(one).__name__ for one in unet.attn_processors.values())


def test_blocks_that_a_model_lacks_are_refused(folder: Path, pipes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scale has 3 numbers for up.block_0 of sd, which has 2 layers"):
        adapted(folder, "sd", ("plain", {"up": {"block_0": [0.0, 1.0, 0.0]}}))
    _, prompts = adapted(folder, "sd", ("plain", 1.0))
    loaded, adapter = std.loaded_model(pipes["sd"]), std.load_ip_adapter(folder / "sd-plain.safetensors")
    model = std.apply_ip_adapter(loaded, adapter, {"up": {"block_9": 1.0}})
    with pytest.raises(
        ModelError,
        match=r"the scales of sd-plain.safetensors do not fit the denoiser's blocks: .* up.block_9, .*; it has down",
    ):
        latents(model, prompts)
