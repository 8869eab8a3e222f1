"""Sampling means what ComfyUI means: noise, sigmas, `denoise` and prompts, computed here by hand on diffusers' UNet."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_comfy.nodes.loaders import Checkpointed
from graphengine_comfy.sampling.model_sampling import DiscreteSampling
from graphengine_comfy.sampling.sigmas import sigma_table
from graphengine_comfy.values import CONDITIONING, LATENT, SIGMAS
from graphengine_nodes.weights.files import TINY

import graphengine as g

PROMPT: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 3, "steps": 12, "cfg": 3.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "6": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "a large red circle in the middle on a blue background", "clip": ["4", 1]},
    },
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
}  # fmt: skip
"""ComfyUI's default workflow, on the embedded model."""

LEVELS = DiscreteSampling("v_prediction", zero_snr=True)
"""How `tiny` was trained."""


def encode(tiny: Checkpointed, text: str) -> CONDITIONING:
    return comfy.CLIPTextEncode(text=text, clip=tiny.CLIP)


def sample(tiny: Checkpointed, text: str = "a red house", **changes: Any) -> LATENT:
    told: dict[str, Any] = {"model": tiny.MODEL, "seed": 1, "steps": 6, "cfg": 3.0, "sampler_name": "euler"}
    told |= {"positive": encode(tiny, text), "negative": encode(tiny, "")}
    told |= {"latent_image": comfy.EmptyLatentImage(width=128, height=128)}
    return comfy.KSampler(**(told | changes))


def picture(tiny: Checkpointed, latent: LATENT) -> torch.Tensor:
    """[H, W, 3]."""
    return comfy.VAEDecode(samples=latent, vae=tiny.VAE).pixels[0]


def is_red_circle_on_blue(found: torch.Tensor) -> bool:
    middle, border = found[56:72, 56:72].mean((0, 1)), torch.cat([found[:6], found[-6:]]).mean((0, 1))
    return bool(middle[0] > middle[2] + 0.3 and border[2] > border[0] + 0.3)


@pytest.fixture(scope="module")
def unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(TINY / "model" / "unet").eval()


def by_hand(
    unet: Any, positive: CONDITIONING, negative: CONDITIONING, x: torch.Tensor, sigmas: Any, **told: Any
) -> Any:
    """Denoise [1, 4, h, w] with diffusers' UNet in a plain loop: Euler, or with `second` DPM-Solver++ (2M)."""
    embeds = torch.cat([negative.entries[0].prompt.embeds, positive.entries[0].prompt.embeds])
    logs = LEVELS.sigmas.log()
    before, cfg = None, told.get("cfg", 3.0)
    for index, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        time = (logs - sigma.log()).abs().argmin()
        with torch.no_grad():
            out = unet(torch.cat([x, x]) / (sigma**2 + 1).sqrt(), time, encoder_hidden_states=embeds).sample
        out = out[:1] + cfg * (out[1:] - out[:1])
        picture = x / (sigma**2 + 1) - out * sigma / (sigma**2 + 1).sqrt()
        if not told.get("second"):
            x = x + (x - picture) / sigma * (following - sigma)
            continue
        if following == 0:
            return picture
        length = sigma.log() - following.log()
        mixed = picture
        if before is not None:
            ratio = (sigmas[index - 1].log() - sigma.log()) / length
            mixed = (1 + 1 / (2 * ratio)) * picture - 1 / (2 * ratio) * before
        x = following / sigma * x - (-length).expm1() * mixed
        before = picture
    return x


def test_the_default_workflow_makes_what_its_prompt_says() -> None:
    found = g.loads(json.dumps(PROMPT), "default.json").run()
    assert is_red_circle_on_blue(found["n9"].pixels[0])


@pytest.mark.parametrize(("name", "schedule"), [("euler", "normal"), ("dpmpp_2m", "karras"), ("euler", "sgm_uniform")])
def test_sampling_is_that_of_a_loop_by_hand(tiny: Checkpointed, unet: Any, name: str, schedule: str) -> None:
    positive, negative = encode(tiny, "a green tree"), encode(tiny, "a house")
    found = sample(tiny, sampler_name=name, scheduler=schedule, seed=7, steps=8, positive=positive, negative=negative)
    sigmas = sigma_table(LEVELS, schedule, 8)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    x = noise * (1 + sigmas[0] ** 2).sqrt()
    wanted = by_hand(unet, positive, negative, x, sigmas, second=name == "dpmpp_2m")
    assert (found.samples - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_denoise_is_the_end_of_a_longer_table(tiny: Checkpointed, unet: Any) -> None:
    begun = sample(tiny, "a red circle", seed=4)
    positive, negative = encode(tiny, "a green tree"), encode(tiny, "")
    found = sample(tiny, seed=7, steps=5, denoise=0.5, positive=positive, negative=negative, latent_image=begun)
    sigmas = sigma_table(LEVELS, "normal", 10)[-6:]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    wanted = by_hand(unet, positive, negative, begun.samples + noise * sigmas[0], sigmas)
    assert (found.samples - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_more_denoise_changes_more(tiny: Checkpointed) -> None:
    begun = sample(tiny, "a red circle on a blue background")

    def change(share: float) -> float:
        found = sample(tiny, "a green tree on a white background", denoise=share, latent_image=begun, seed=5)
        return float((found.samples - begun.samples).abs().mean())

    assert change(0.0) == 0
    assert change(0.2) < change(0.5) < change(1.0)


def test_two_stages_are_one(tiny: Checkpointed) -> None:
    told: dict[str, Any] = {"model": tiny.MODEL, "steps": 6, "cfg": 3.0, "positive": encode(tiny, "a boat")}
    told |= {"negative": encode(tiny, ""), "noise_seed": 9}
    empty = comfy.EmptyLatentImage(width=128, height=128)
    whole = comfy.KSamplerAdvanced(**told, latent_image=empty)
    first = comfy.KSamplerAdvanced(
        **told, latent_image=empty, end_at_step=3, return_with_leftover_noise="enable"
    )
    second = comfy.KSamplerAdvanced(**told, latent_image=first, add_noise="disable", start_at_step=3)
    assert (whole.samples - second.samples).abs().max() < 1e-4
    assert (whole.samples - sample(tiny, "a boat", seed=9).samples).abs().max() < 1e-5


def test_the_parts_of_sampling_are_the_sampler(tiny: Checkpointed) -> None:
    guider = comfy.CFGGuider(
        model=tiny.MODEL, positive=encode(tiny, "a boat"), negative=encode(tiny, ""), cfg=3.0
    )
    output, denoised = comfy.SamplerCustomAdvanced(
        noise=comfy.RandomNoise(noise_seed=9),
        guider=guider,
        sampler=comfy.KSamplerSelect(sampler_name="dpmpp_2m"),
        sigmas=comfy.BasicScheduler(model=tiny.MODEL, scheduler="karras", steps=6),
        latent_image=comfy.EmptyLatentImage(width=128, height=128),
    )
    wanted = sample(tiny, "a boat", seed=9, sampler_name="dpmpp_2m", scheduler="karras").samples
    assert torch.equal(output.samples, wanted)
    assert torch.equal(denoised.samples, wanted)


@pytest.mark.parametrize(
    ("share", "high", "low"),
    [
        (1.0, (3.0,), (3.0, 2.0, 1.0, 0.0)),
        (0.34, (3.0, 2.0, 1.0), (1.0, 0.0)),
        (0.1, (), (0.0,)),
        (0.0, (), (0.0,)),
    ],
)
def test_sigmas_are_divided_as_in_comfyui(share: float, high: tuple[float, ...], low: tuple[float, ...]) -> None:
    parts = comfy.SplitSigmasDenoise(sigmas=SIGMAS((3.0, 2.0, 1.0, 0.0)), denoise=share)
    assert (parts.high_sigmas.values, parts.low_sigmas.values) == (high, low)


def test_the_first_sigma_is_set_where_there_are_some() -> None:
    assert comfy.SetFirstSigma(sigmas=SIGMAS((3.0, 0.0)), sigma=5.0).values == (5.0, 0.0)
    with pytest.raises(ValueError, match="no sigmas"):
        comfy.SetFirstSigma(sigmas=SIGMAS(()), sigma=5.0)


def test_sampling_down_a_single_sigma_adds_its_noise(tiny: Checkpointed) -> None:
    begun = LATENT(torch.ones(1, 4, 16, 16))
    prompt = encode(tiny, "a boat")
    told: dict[str, Any] = {"model": tiny.MODEL, "cfg": 3.0, "positive": prompt, "negative": prompt}
    told |= {"sampler": comfy.KSamplerSelect(sampler_name="euler"), "latent_image": begun, "noise_seed": 9}
    high, low = comfy.SplitSigmas(sigmas=comfy.BasicScheduler(model=tiny.MODEL, steps=6, denoise=0.5), step=0)
    noisy = comfy.SamplerCustom(**told, sigmas=high)[0]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(noisy.samples, 1 + noise * high.values[0], atol=1e-4)
    whole = comfy.SamplerCustom(**told, sigmas=low)[0]
    in_parts = comfy.SamplerCustom(**(told | {"latent_image": noisy}), add_noise=False, sigmas=low)[0]
    assert torch.allclose(whole.samples, in_parts.samples, atol=1e-3)
    assert comfy.SamplerCustom(**told, sigmas=SIGMAS((0.0,)))[0] is begun


def test_each_picture_of_a_batch_has_its_noise_from_one_generator(tiny: Checkpointed) -> None:
    batch = comfy.EmptyLatentImage(width=128, height=128, batch_size=3)
    together = sample(tiny, latent_image=batch)
    last = sample(tiny, latent_image=comfy.LatentFromBatch(samples=batch, batch_index=2))
    assert (together.samples[2:] - last.samples).abs().max() < 1e-3
    assert (together.samples[0] - together.samples[1]).abs().max() > 0.5


def test_outside_the_mask_nothing_changes(tiny: Checkpointed) -> None:
    begun = sample(tiny, "a red circle on a blue background")
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:96, 32:96] = 1
    masked = comfy.SetLatentNoiseMask(samples=begun, mask=comfy.images.Mask(mask))
    for name in ("euler", "euler_ancestral"):
        found = sample(tiny, "a green tree", latent_image=masked, seed=5, sampler_name=name)
        change = (found.samples - begun.samples).abs().amax((0, 1))
        assert change[:3].max() < 1e-4
        assert change[6:10, 6:10].mean() > 0.1


def test_averaged_prompts_lie_between(tiny: Checkpointed) -> None:
    one, other = encode(tiny, "a red circle on a blue background"), encode(tiny, "a green tree")
    both = comfy.ConditioningCombine(conditioning_1=one, conditioning_2=other)
    twice = comfy.ConditioningCombine(conditioning_1=one, conditioning_2=one)
    alone = sample(tiny, positive=one).samples
    assert (sample(tiny, positive=twice).samples - alone).abs().max() < 1e-3
    assert (sample(tiny, positive=both).samples - alone).abs().max() > 0.1


def test_prompts_take_turns_by_their_times(tiny: Checkpointed) -> None:
    one, other = encode(tiny, "a red circle on a blue background"), encode(tiny, "a green tree")
    begin = comfy.ConditioningSetTimestepRange(conditioning=one, start=0.0, end=1.0)
    assert torch.equal(sample(tiny, positive=begin).samples, sample(tiny, positive=one).samples)
    parts = [
        comfy.ConditioningSetTimestepRange(conditioning=one, start=0.0, end=0.5),
        comfy.ConditioningSetTimestepRange(conditioning=other, start=0.501, end=1.0),
    ]
    turns = comfy.ConditioningCombine(conditioning_1=parts[0], conditioning_2=parts[1])
    found = sample(tiny, positive=turns).samples
    assert (found - sample(tiny, positive=one).samples).abs().max() > 0.05
    with pytest.raises(ValueError, match="no prompt acts"):
        sample(tiny, positive=parts[0])


def test_what_is_not_followed_says_so(tiny: Checkpointed) -> None:
    with pytest.raises(ValueError, match=r"dpm_adaptive is not computed here: .*dpmpp_2m"):
        sample(tiny, sampler_name="dpm_adaptive")
    with pytest.raises(ValueError, match="guide from 1 on"):
        sample(tiny, cfg=0.5)
    with pytest.raises(ValueError, match="16 channels do not fit tiny"):
        sample(tiny, latent_image=LATENT(torch.ones(1, 16, 16, 16)))
    changed = json.loads(json.dumps(PROMPT))
    changed["3"]["inputs"]["sampler_name"] = "eulerr"
    with pytest.raises(g.WorkflowError, match="euler"):
        g.loads(json.dumps(changed), "default.json").check()
    changed["3"]["inputs"]["sampler_name"] = "dpm_adaptive"
    with pytest.raises(g.WorkflowError, match="dpm_adaptive is not computed here"):
        g.loads(json.dumps(changed), "default.json").check()


def test_keys_hold_what_matters(tmp_path: Path) -> None:
    def computed(**changes: Any) -> set[str]:
        """The nodes that are computed with these inputs, in a store that knows the default workflow."""
        changed = json.loads(json.dumps(PROMPT))
        changed["3"]["inputs"] |= {"steps": 2} | changes
        events: list[Any] = []
        g.run(g.loads(json.dumps(changed), "default.json"), store=store, listeners=[events.append])
        return {event.node for event in events if event.reuse == g.Reuse.COMPUTED}

    store = g.Store()
    computed()
    assert "n3" not in computed()
    assert "n3" in computed(seed=4)
    assert "n3" in computed(denoise=0.5)
    assert "n6" not in computed(cfg=2.0)


def test_a_seed_counts_between_the_steps_without_noise_at_the_beginning(tiny: Checkpointed) -> None:
    begun = comfy.VAEEncode(pixels=comfy.EmptyImage(width=64, height=64, color=0x3060C0), vae=tiny.VAE)
    prompt = encode(tiny, "a boat")
    told: dict[str, Any] = {"model": tiny.MODEL, "cfg": 1.0, "positive": prompt, "negative": prompt}
    told |= {"latent_image": begun}

    def advanced(seed: int, sampler: str) -> torch.Tensor:
        return comfy.KSamplerAdvanced(
            **told, steps=3, start_at_step=1, noise_seed=seed, sampler_name=sampler, add_noise="disable"
        ).samples

    def custom(seed: int, sampler: str) -> torch.Tensor:
        sigmas = comfy.BasicScheduler(model=tiny.MODEL, steps=3, scheduler="normal")
        return comfy.SamplerCustom(
            **told, add_noise=False, noise_seed=seed, sampler=comfy.KSamplerSelect(sampler_name=sampler),
            sigmas=comfy.SplitSigmas(sigmas=sigmas, step=1).low_sigmas,
        )[0].samples

    assert torch.equal(advanced(1, "euler"), advanced(2, "euler"))
    for sampler in ("euler_ancestral", "dpmpp_sde"):
        assert not torch.equal(advanced(1, sampler), advanced(2, sampler))
        assert torch.allclose(advanced(2**64 - 1, sampler), custom(2**64 - 1, sampler), atol=1e-5)
