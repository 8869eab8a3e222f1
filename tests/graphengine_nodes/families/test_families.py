"""Families take the arguments and generators of diffusers, and refuse LoRAs and files of another family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import TINY

from graphengine import Graph, ModelError, Reuse, run
from tests.graphengine_nodes import cases


@pytest.fixture(scope="module")
def xl(models: Path) -> std.Model:
    return std.load_model(models / "xl")


@pytest.fixture(scope="module")
def tiny() -> std.Model:
    return std.load_model("tiny")


@pytest.fixture(scope="module")
def text(tiny: std.Model) -> std.Conditioning:
    return std.encode_prompt(tiny, cases.PROMPT)


def latent(model: std.Model, **changes: Any) -> torch.Tensor:
    return std.sample(model, std.encode_prompt(model, cases.PROMPT), seed=1, steps=2, **changes).samples


# --- further arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"etta": 1.0}, r"StableDiffusionPipeline takes no etta; did you mean eta\?"),
        ({"original_size": (64, 64)}, "StableDiffusionPipeline takes no original_size"),
        ({"guidance_scale": 3.0}, "guidance_scale is no further argument: guidance_scale says it"),
        ({"generator": None}, "generator is no further argument: seed says it"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt is no further argument: count says it"),
        ({"controlnet_conditioning_scale": 1.0}, "takes no controlnet_conditioning_scale"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "the attention's scale is that of LoRAs"),
        ({"ip_adapter_image": 1}, "ip_adapter_image cannot be given: give the sampling node image_prompt"),
    ],
)
def test_arguments_that_are_none(
    tiny: std.Model, text: std.Conditioning, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        std.sample(tiny, text, steps=2, arguments=arguments)


def test_a_callers_look_at_steps_comes_after_ours(tiny: std.Model, text: std.Conditioning) -> None:
    seen: list[Any] = []

    def look(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> None:
        seen.append((type(pipe).__name__, index, sorted(tensors)))

    wanted = ["prompt_embeds"]
    arguments = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": wanted}
    found = std.sample(tiny, text, seed=1, steps=3, arguments=arguments).samples
    assert seen == [("StableDiffusionPipeline", index, wanted) for index in range(3)]
    assert torch.equal(found, std.sample(tiny, text, seed=1, steps=3).samples)


def test_what_is_made_with_a_callable_is_not_remembered(tiny: std.Model) -> None:
    seen: list[int] = []

    def look(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(index)
        return {}

    with Graph() as graph:
        prompt = std.encode_prompt(tiny, "a red circle")
        graph.output("latent", std.sample(tiny, prompt, steps=2, arguments={"callback_on_step_end": look}))
    graph()
    graph()
    assert seen == [0, 1, 0, 1]
    with Graph() as graph:
        prompt = std.encode_prompt(tiny, "a red circle")
        graph.output("latent", std.sample(tiny, prompt, steps=2, arguments={"eta": 0.5}))
    graph()
    assert run(graph).reuse["sample"] is Reuse.MEMORY  # plain ones are data


# --- generators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_a_callers_generators_end_where_diffusers_leaves_them(
    several: bool, tiny: std.Model, text: std.Conditioning
) -> None:
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(TINY / "model")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    theirs = [torch.Generator().manual_seed(seed) for seed in ((3, 4) if several else (3,))]
    for one in theirs:
        torch.randn(7, generator=one)  # in any state
    states = [std.RandomState.of(one) for one in theirs]
    ours: Any = states if several else states[0]
    found = std.sample(
        tiny, text, seed=ours, count=2, steps=3, scheduler="EulerAncestralDiscreteScheduler", guidance_scale=3.0
    )
    expected = pipe(
        prompt_embeds=torch.cat([text.embeds] * 2),
        negative_prompt_embeds=torch.cat([text.negative.embeds] * 2),
        generator=theirs if several else theirs[0],
        num_inference_steps=3,
        guidance_scale=3.0,
        output_type="latent",
    ).images
    assert torch.equal(found.samples, expected)
    assert found.random == tuple(std.RandomState.of(one) for one in theirs)
    assert std.sample(tiny, text, seed=3, steps=2).random == ()


def test_how_many_pictures(tiny: std.Model, text: std.Conditioning) -> None:
    small: dict[str, Any] = {"steps": 2, "width": 64, "height": 64}
    assert len(std.sample(tiny, text, count=3, seed=7, **small).samples) == 3
    counted = std.sample(tiny, text, count=2, seed=7, **small).samples
    assert torch.equal(counted, std.sample(tiny, text, seed=[7, 8], **small).samples)
    assert len(std.sample(tiny, [text, text], seed=7, **small).samples) == 2
    state = std.RandomState.of(torch.Generator().manual_seed(7))
    assert len(std.sample(tiny, text, seed=state, **small).samples) == 1
    for changes, message in (
        ({"count": 3, "seed": [1, 2]}, "2 seeds for 3 pictures"),
        ({"count": 3, "positive": [text, text]}, "2 prompts for 3 pictures"),
        ({"positive": []}, "positive is an empty list"),
    ):
        with pytest.raises(ValueError, match=message):
            std.sample(tiny, **({"positive": text, "steps": 2} | changes))


# --- controls ---------------------------------------------------------------------------------------------------------


def test_controls_guess_together_or_not_at_all(tiny: std.Model, text: std.Conditioning) -> None:
    net, edges = std.load_controlnet("tiny-canny"), images.from_pil(cases.edges())
    controls = [std.apply_controlnet(net, edges, guess=guess) for guess in (True, False)]
    with pytest.raises(ValueError, match="some controls guess and others do not"):
        std.sample(tiny, text, control=controls, steps=2)


def test_a_controlnet_for_another_family(models: Path, tiny: std.Model, text: std.Conditioning) -> None:
    net = std.load_controlnet(models / "xl-controlnet")
    assert net.family == "stable_diffusion_xl"
    control = std.apply_controlnet(net, images.from_pil(cases.edges()))
    with pytest.raises(ValueError, match="a ControlNet of stable_diffusion_xl cannot steer tiny"):
        std.sample(tiny, text, control=control, steps=2)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_second_prompt_needs_a_second_encoder(tiny: std.Model, xl: std.Model) -> None:
    with pytest.raises(ValueError, match="tiny has one text encoder; leave prompt_2 out"):
        std.encode_prompt(tiny, "a", prompt_2="b")
    same = std.encode_prompt(xl, "a", prompt_2="a")
    assert torch.equal(same.embeds, std.encode_prompt(xl, "a").embeds)
    other = std.encode_prompt(xl, "a", prompt_2="b")
    assert torch.equal(other.embeds[..., :32], same.embeds[..., :32])
    assert not torch.equal(other.embeds[..., 32:], same.embeds[..., 32:])
    assert other.pooled is not None
    assert other.pooled.shape == (1, 48)
    with pytest.raises(ValueError, match="clip_skip 3 leaves none of the text encoder's 4 layers"):
        std.encode_prompt(xl, "a", clip_skip=3)


def test_an_absent_prompt_is_as_the_models_own_tokenizer_writes_it(models: Path, tmp_path: Path) -> None:
    """Two models may have one text encoder, whose memory of the absent prompt must not go from one to the other."""
    shutil.copytree(TINY / "model", tmp_path / "other")
    config = tmp_path / "other" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": "!"}))
    plain, other = std.load_model("tiny"), std.load_model(tmp_path / "other")
    assert plain.component("text_encoder") == other.component("text_encoder")
    first, second = (std.encode_prompt(model, None).embeds for model in (plain, other))
    assert not torch.equal(first, second)
    assert torch.equal(second, std.encode_prompt(other, "").embeds)


def test_xl_inpainting_with_a_controlnet_knows_no_mean_of_latents(models: Path) -> None:
    model, picture = std.load_model(models / "xl-moments"), std.Image(torch.rand(1, 64, 64, 3))
    control = std.apply_controlnet(std.load_controlnet(models / "xl-controlnet"), picture)
    with pytest.raises(ValueError, match=r"the VAE of xl-moments says the mean of its latents, .* leave control out"):
        std.inpaint(
            model, std.encode_prompt(model, "a"), picture, std.Mask(torch.ones(1, 64, 64)), control=control, steps=2
        )


# --- precision --------------------------------------------------------------------------------------------------------


def test_the_shared_vae_is_never_cast(models: Path) -> None:
    half = std.load_model(models / "xl", precision="float16")
    picture = std.Image(torch.rand(1, 64, 64, 3))
    with store.component(half, "vae", "cpu") as vae:
        pointers = [parameter.data_ptr() for parameter in vae.parameters()]
        start = std.encode_image(half, picture)
        prompt = std.encode_prompt(half, "a")
        std.decode_latent(half, std.sample(half, prompt, latent=start, steps=2, strength=1.0))
        std.inpaint(half, prompt, picture, std.Mask(torch.ones(1, 64, 64)), steps=2)
        assert vae.dtype == torch.float16
        assert [parameter.data_ptr() for parameter in vae.parameters()] == pointers


# --- LoRAs ------------------------------------------------------------------------------------------------------------


def test_a_lora_for_another_family(models: Path, tmp_path: Path, tiny: std.Model, xl: std.Model) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ModelError, match=r"xl-words\.safetensors is a LoRA for stable_diffusion_xl; tiny is a"):
        std.apply_lora(tiny, std.load_lora(models / "xl-words.safetensors"))
    with pytest.raises(ModelError, match=r"xl-kohya\.safetensors is a LoRA for stable_diffusion_xl"):
        std.apply_lora(tiny, std.load_lora(models / "xl-kohya.safetensors"))
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    for width, owner, other in ((768, "stable_diffusion", xl), (2048, "stable_diffusion_xl", tiny)):
        save_file(
            {f"{name}.lora_A.weight": torch.zeros(4, width), f"{name}.lora_B.weight": torch.zeros(96, 4)},
            tmp_path / "a.safetensors",
        )
        with pytest.raises(ModelError, match=rf"a\.safetensors is a LoRA for {owner}; "):
            std.apply_lora(other, std.load_lora(tmp_path / "a.safetensors"))
    # Of small ones the file does not say it, their places do.
    for model, file in ((xl, "noise"), (tiny, "xl-noise")):
        lora = std.load_lora(models / f"{file}.safetensors")
        with pytest.raises(ModelError, match="find no place in the unet, the first is"):
            std.apply_lora(model, lora)


def test_a_loras_folder(models: Path, tmp_path: Path) -> None:
    expected = std.load_lora(models / "noise.safetensors")
    shutil.copy(models / "noise.safetensors", tmp_path / "some_name.safetensors")
    assert std.load_lora(tmp_path) == expected
    shutil.copy(models / "words.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"it holds several: other\.safetensors, some_name\.safetensors"):
        std.load_lora(tmp_path)
    shutil.copy(models / "noise.safetensors", tmp_path / "pytorch_lora_weights.safetensors")
    assert std.load_lora(tmp_path) == expected
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="it holds none"):
        std.load_lora(tmp_path / "empty")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "stable_diffusion 2.x"])
def test_a_single_file_is_the_same_model(family: str, models: Path, tmp_path: Path) -> None:
    folder = models / ("xl" if "xl" in family else "tiny")
    file = testing.single_file(tmp_path / "given.safetensors", folder, open_clip="2.x" in family)
    expected, given = std.load_model(folder), std.load_model(file, config=folder)
    assert given.family == expected.family
    names = ("unet", "vae", *(["text_encoder", "text_encoder_2"] if "xl" in family else ["text_encoder"]))
    for name in names:
        with store.component(given, name, "cpu") as one, store.component(expected, name, "cpu") as other:
            ours, theirs = one.state_dict(), other.state_dict()
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    # The last bits depend on where in a cache line a file has its tensors.
    assert torch.allclose(latent(given), latent(expected), atol=1e-3)


def test_what_a_single_file_lacks_comes_from_the_folder(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(testing.single_file(tmp_path / "whole.safetensors", models / "xl"))
    kept = {name: t for name, t in tensors.items() if not name.startswith("first_stage_model.")}
    save_file(kept, tmp_path / "pruned.safetensors")
    given = std.load_model(tmp_path / "pruned.safetensors", config=models / "xl")
    assert given.component("vae") == std.load_model(models / "xl").component("vae")
    assert given.component("unet") != std.load_model(models / "xl").component("unet")


def test_a_variant(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY / "model", tmp_path / "model")
    plain = std.load_model(tmp_path / "model")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: (t * 1.001).half() for name, t in load_file(file).items()}, file.with_suffix(".fp16.safetensors"))
    half = std.load_model(tmp_path / "model", variant="fp16")
    assert std.load_model(tmp_path / "model") == plain
    assert half.component("unet") != plain.component("unet")
    assert half.component("vae") == plain.component("vae")  # has no such files
    assert not torch.equal(latent(half), latent(plain))
    assert torch.allclose(latent(half), latent(plain), atol=0.1)
    files._locations.clear()  # as another process finds it
    store.clear()
    assert torch.allclose(latent(half), latent(plain), atol=0.1)
    with pytest.raises(ModelError, match="has no weights of the variant fp8; leave variant out"):
        std.load_model(tmp_path / "model", variant="fp8")
    with pytest.raises(ModelError, match="has no revisions; leave revision out, or give a hub id"):
        std.load_model(tmp_path / "model", revision="main")


def test_a_revision_of_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot(name: str, revision: str | None = None, **_: Any) -> str:
        asked.append(revision)
        return str(TINY / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    files._snapshot.cache_clear()
    assert std.load_model("some/model", revision="v2") == std.load_model("tiny")
    assert asked == ["v2"]
    files._snapshot.cache_clear()


def test_a_scheduler_that_cannot_be_made(xl: std.Model) -> None:
    with pytest.raises(ValueError, match="EDMEulerScheduler cannot be made of the model's EulerDiscreteScheduler"):
        latent(xl, scheduler="EDMEulerScheduler")
