"""The text that other tools read in a picture."""

from __future__ import annotations

from graphengine_nodes.metadata import parameters


def test_as_the_webui_writes_it() -> None:
    text = parameters(
        prompt="a red circle",
        negative_prompt="blurry",
        steps=20,
        scheduler="EulerAncestralDiscreteScheduler",
        guidance_scale=7.5,
        seed=42,
        width=512,
        height=768,
        model="tiny",
        model_hash="0123456789",
        strength=0.75,
        clip_skip=1,
        loras=(("styles/blueprint.safetensors", 0.5),),
    )
    assert text == (
        "a red circle <lora:blueprint:0.5>\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: EulerAncestralDiscrete, CFG scale: 7.5, Seed: 42, Size: 512x768, Model hash: 0123456789, "
        "Model: tiny, Denoising strength: 0.75, Clip skip: 2"
    )


def test_what_is_not_known_is_left_out_and_odd_values_are_quoted() -> None:
    assert parameters(prompt="x", seed=0) == "x\nSeed: 0"
    assert parameters(model='a, b: "c"') == '\nModel: "a, b: \\"c\\""'
