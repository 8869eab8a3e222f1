"""Prompts that change with the steps: which text at which step, and pictures against loops over the UNet by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.family import Words
from graphengine_nodes.families.prompt_marks import marked, warn, warn_misread
from graphengine_nodes.families.prompt_schedules import changes, encode, joined
from graphengine_nodes.testing import sdxl as testing_xl
from graphengine_nodes.values.types import Conditioning
from graphengine_nodes.weights.files import TINY

from graphengine import socket_type

SIZE: dict[str, Any] = {"width": 64, "height": 64}


def texts(prompt: str, steps: int) -> list[str]:
    """The text at each step."""
    known: list[str] = []

    def encode_all(words: Sequence[Words]) -> list[Conditioning]:
        known.extend(str(one.text) for one in words)
        return [Conditioning(torch.tensor([[[float(index)]]]), "any") for index in range(len(words))]

    (found,) = encode(encode_all, [Words(prompt)])
    return [known[int(found.at(step, steps).embeds)] for step in range(steps)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [red:green:0.5] circle", ["a red circle"] * 5 + ["a green circle"] * 5),
        ("a [red:green:3] circle", ["a red circle"] * 3 + ["a green circle"] * 7),
        ("a [green:0.25]circle", ["a circle"] * 2 + ["a greencircle"] * 8),
        ("a[ red::.9] circle", ["a red circle"] * 9 + ["a circle"]),
        ("[a|b]", ["a", "b"] * 5),
        ("[a||c]", ["a", "", "c", "a", "", "c", "a", "", "c", "a"]),
        ("[a|b] [c|d|e]", [f"{x} {y}" for x, y in zip("ababababab", "cdecdecdec", strict=True)]),
        ("[[a|b]:c:4]", ["a", "b", "a", "b"] + ["c"] * 6),
        ("[a:[b:c:0.8]:2]", ["a"] * 2 + ["b"] * 6 + ["c"] * 2),
        # A fraction and a step whose order depends on the number of steps
        ("[a:b:0.5][c:d:2]", ["ac", "ac", "ad", "ad", "ad"] + ["bd"] * 5),
        # A weight stays one, and may stand in it
        ("[(red:1.3):(blue):5]", ["(red:1.3)"] * 5 + ["(blue)"] * 5),
        ("a [less] so", ["a [less] so"] * 10),
        ("[a:b]", ["[a:b]"] * 10),
        (r"\[a:b:3\] [c", [r"\[a:b:3\] [c"] * 10),
        ("a] [b:3", ["a] [b:3"] * 10),
        ("[a:b:12]", ["a"] * 10),
        ("[a:b:1.0]", ["a"] * 10),
    ],
)
def test_the_text_at_each_step(prompt: str, expected: list[str]) -> None:
    assert texts(prompt, 10) == expected


def test_the_order_of_fractions_and_steps_is_that_of_the_run() -> None:
    assert texts("[a:b:0.5][c:d:2]", 2) == ["ac", "bc"]


def test_a_prompt_that_takes_too_many_texts() -> None:
    with pytest.raises(ValueError, match="takes more than 256 texts; let less of it change"):
        texts("".join(f"[a:b:0.{number}]" for number in range(1, 10)) + "[a|b|c|d|e|f|g][h|i|j|k]", 4)


@pytest.mark.parametrize("signs", ["[", "]", "(", "((", "[[a]", "[a:", "|", ":1", " ", "<lora:", "(a:", "(a: "])
def test_long_nonsense_is_text_and_is_read_at_once(signs: str) -> None:
    """What took time by the square of the length would not end here."""
    prompt = (signs * 100_000)[:100_000]
    assert texts(prompt, 1) == [prompt]
    assert not changes(prompt)
    marked(prompt)
    warn(prompt, unread="none", bare=True)
    warn_misread(prompt, prompt)
    assert joined(f"a AND {prompt}")[0] == (1.0, "a")


def test_and_with_weights() -> None:
    assert joined("a cat :1.2 AND a dog AND a (red:1.3) house:-.5") == [
        (1.2, "a cat"),
        (1.0, "a dog"),
        (-0.5, "a (red:1.3) house"),
    ]
    assert joined("SAND and a house:2") == [(1.0, "SAND and a house:2")]


# --- Stable Diffusion, by hand ----------------------------------------------------------------------------------------

SCHEDULERS = ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]
STEPS, GUIDANCE = 5, 4.0


def by_hand(
    scheduler: str, prompts: list[list[tuple[float, str]]], negatives: list[str], guided: bool = True
) -> torch.Tensor:
    """Latents of `tiny`, with weighted prompts and a negative one for each step."""
    model = std.load_model("tiny")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", safety_checker=None)
    made = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    made.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * made.init_noise_sigma
    with torch.no_grad():
        for step, time in enumerate(made.timesteps):
            scaled = made.scale_model_input(torch.cat([latents] * 2), time)
            negative = std.encode_prompt(model, negatives[step]).embeds
            noises = [
                pipe.unet(scaled, time, torch.cat([negative, std.encode_prompt(model, text).embeds]))[0].chunk(2)
                for _, text in prompts[step]
            ]
            absent = noises[0][0]
            toward = sum(
                (noise - absent) * weight for (_, noise), (weight, _) in zip(noises, prompts[step], strict=True)
            )
            noise = absent + GUIDANCE * ((absent + toward) - absent) if len(noises) > 1 else absent + GUIDANCE * toward
            options = {"generator": [generator]} if "Ancestral" in scheduler else {}
            latents = made.step(noise, time, latents, **options).prev_sample
    return latents


def ours(prompt: str, negative: str = "", **options: Any) -> torch.Tensor:
    model = std.load_model("tiny")
    text = std.encode_weighted(model, prompt, negative)
    given = {"seed": 3, "steps": STEPS, "guidance_scale": GUIDANCE, "negative": text.negative, **SIZE, **options}
    return std.sample(model, text.positive, **given).samples


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_editing_and_turns_are_those_by_hand(scheduler: str) -> None:
    words = ["a red circle", "a red house", "a green circle", "a green house", "a green circle"]
    negatives = ["blurry"] * 3 + ["dark"] * 2
    found = ours("a [red:green:0.5] [circle|house]", "[blurry:dark:3]", scheduler=scheduler)
    assert torch.equal(found, by_hand(scheduler, [[(1.0, word)] for word in words], negatives))


def test_and_is_that_by_hand() -> None:
    parts = [(1.0, "a red circle"), (0.7, "a green tree")]
    late = [(1.0, "a red circle"), (0.7, "a blue tree")]
    found = ours("a red circle AND a [green:blue:2] tree :0.7", scheduler="DDIMScheduler")
    wanted = by_hand("DDIMScheduler", [parts, parts, late, late, late], [""] * 5)
    # One after another there, the further prompts by themselves here: the last bits of a batch differ.
    assert torch.allclose(found, wanted, atol=2e-5)
    assert not torch.allclose(found, ours("a red circle", scheduler="DDIMScheduler"), atol=1e-2)


def test_second_order_schedulers_call_twice_for_a_step() -> None:
    """Of 4 steps the first two are red: five of seven calls."""
    asked: list[str] = []
    model = std.load_model("tiny")
    text = std.encode_weighted(model, "a [red:green:0.5] circle").positive
    names = {id(turn.embeds): name for turn, name in zip(text.schedule, ("red", "green"), strict=True)}

    class Telling(Conditioning):
        def at(self, step: int, steps: int) -> Conditioning:
            found = Conditioning.at(self, step, steps)
            asked.append(f"{step}/{steps} {names[id(found.embeds)]}")
            return found

    told = Telling(text.embeds, text.family, fallback=text.fallback, schedule=text.schedule)
    std.sample(model, told, steps=4, scheduler="HeunDiscreteScheduler", **SIZE)
    assert asked == [f"{call // 2}/4 {'red' if call < 4 else 'green'}" for call in range(7)]


def test_without_guidance_the_positive_prompt_alone_changes() -> None:
    early, late = ours("a red circle", guidance_scale=1.0), ours("a green circle", guidance_scale=1.0)
    mixed = ours("a [red:green:0.5] circle", guidance_scale=1.0)
    assert not torch.equal(mixed, early)
    assert not torch.equal(mixed, late)
    assert torch.equal(ours("a [red:green:0] circle", guidance_scale=1.0), late)
    assert torch.equal(ours("a [red:green:99] circle", guidance_scale=1.0), early)
    with pytest.raises(ValueError, match="AND joins prompts by their guidance; give a guidance_scale above 1"):
        ours("a AND b", guidance_scale=1.0)


def test_controlnets_get_each_steps_prompt() -> None:
    model = std.load_model("tiny")
    edges = std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    control = std.apply_controlnet(std.load_controlnet("tiny-canny"), edges)
    assert torch.equal(
        ours("a [red:green:0] circle", control=[control, control]), ours("a green circle", control=[control, control])
    )
    assert not torch.equal(ours("a [red:green:2] circle", control=control), ours("a red circle", control=control))
    with pytest.raises(ValueError, match="AND joins cannot be steered by a ControlNet"):
        ours("a AND b", control=control)
    pair = [std.encode_weighted(model, text).positive for text in ("a AND b", "a")]
    with pytest.raises(ValueError, match="that AND joins and others cannot be sampled together"):
        std.sample(model, pair, steps=1, **SIZE)


def test_several_pictures_each_have_their_own() -> None:
    model = std.load_model("tiny")
    prompts = ["a [red:green:2] circle", "a blue circle"]
    pair = [std.encode_weighted(model, prompt).positive for prompt in prompts]
    options: dict[str, Any] = {"steps": 3, "guidance_scale": GUIDANCE, **SIZE}
    both = std.sample(model, pair, seed=[3, 4], **options).samples
    one_by_one = [
        std.sample(model, text, seed=seed, **options).samples for text, seed in zip(pair, (3, 4), strict=True)
    ]
    assert torch.allclose(both, torch.cat(one_by_one), atol=1e-4)


# --- SDXL, by diffusers' callback -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing_xl.xl_model(tmp_path_factory.mktemp("xl") / "xl")


def test_sdxl_is_diffusers_with_embeddings_switched_by_its_callback(xl: Path) -> None:
    model = std.load_model(xl)
    red, green = (std.encode_weighted(model, f"a {color} circle", "dark") for color in ("red", "green"))
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(xl, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)

    def switch(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index + 1 != 2:
            return {}
        return {
            "prompt_embeds": torch.cat([green.negative.embeds, green.positive.embeds]),
            "add_text_embeds": torch.cat([green.negative.pooled, green.positive.pooled]),
        }

    wanted = pipe(
        prompt_embeds=red.positive.embeds,
        pooled_prompt_embeds=red.positive.pooled,
        negative_prompt_embeds=red.negative.embeds,
        negative_pooled_prompt_embeds=red.negative.pooled,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(3)],
        callback_on_step_end=switch,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "add_text_embeds"],
        output_type="latent",
        **SIZE,
    ).images
    text = std.encode_weighted(model, "a [red:green:0.5] circle", "dark")
    options: dict[str, Any] = {"seed": 3, "steps": 4, "guidance_scale": GUIDANCE, **SIZE}
    assert torch.equal(std.sample(model, text.positive, negative=text.negative, **options).samples, wanted)
    both = std.encode_weighted(model, "a red circle AND a green circle :0.0", "dark")
    alone = std.sample(model, red.positive, negative=red.negative, **options).samples
    assert torch.allclose(std.sample(model, both.positive, negative=both.negative, **options).samples, alone, atol=1e-4)


# --- as values --------------------------------------------------------------------------------------------------------


def test_they_are_read_as_they_were_written(xl: Path) -> None:
    model = std.load_model(xl)
    text = std.encode_weighted(model, "a [red:green:2] [a|b] AND a tree :0.5").positive
    kind = socket_type(Conditioning)
    assert kind.encode is not None
    assert kind.decode is not None
    found = kind.decode(kind.encode(text))
    assert repr(found) == repr(text)
    for (weight, one), (other_weight, other) in zip(found.joined, text.joined, strict=True):
        assert weight == other_weight
        for step in range(4):
            now, then = one.at(step, 4), other.at(step, 4)
            assert torch.equal(now.embeds, then.embeds)
            assert torch.equal(now.pooled, then.pooled)
            assert torch.equal(now.negative.embeds, then.negative.embeds)


@pytest.mark.parametrize(
    ("prompt", "apart"), [("a (red:1.3) circle", False), ("a [red:green:0.5] circle", True), ("a cat AND a dog", True)]
)
def test_values_from_before_schedules_were_read_are_not_found(prompt: str, apart: bool) -> None:
    fingerprint = std.encode_weighted.fingerprint_fn
    assert fingerprint is not None
    assert (fingerprint(model=None, prompt=prompt) is not None) == apart
    assert (fingerprint(model=None, prompt="a", negative_prompt=prompt, clip_skip=1) is not None) == apart
