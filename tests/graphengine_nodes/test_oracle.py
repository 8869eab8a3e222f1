"""The graph's pictures are bit-identical to those of diffusers' one-call pipelines, made by another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.nodes import images

from graphengine import INERT, Context
from tests.graphengine_nodes import cases, cases_xl

CASES = [*cases.cases(), *cases_xl.cases()]


def make(models: Path, case: dict[str, Any], ctx: Context = INERT) -> std.Image:
    """A case's picture through the nodes, on the device of `ctx`."""
    model = std.load_model("tiny" if case["model"] == "tiny" else models / case["model"], precision=case["precision"])
    for name, scale in case["loras"]:
        source = "tiny-blueprint" if name == "blueprint" else models / f"{name}.safetensors"
        model = std.apply_lora(model, std.load_lora(source), scale)
    prompt = case.get("prompt", cases.PROMPT)
    skip, second, other = (case.get(name) for name in ("clip_skip", "prompt_2", "negative_prompt_2"))
    positive = [std.encode_prompt(model, text, skip or 0, second, ctx=ctx) for text in _listed(prompt)]
    negative = [std.encode_prompt(model, text, 0, other, ctx=ctx) for text in _listed(case["negative"])]
    embedded = case["family"] == "stable_diffusion"
    net = std.load_controlnet("tiny-canny" if embedded else models / "xl-controlnet", precision=case["precision"])
    pictures = [images.from_pil(picture) for picture in cases.control_pictures(case)]
    controls = [
        std.apply_controlnet(net, edges, scale, start, end, case["guess"])
        for (scale, start, end), edges in zip(case["controls"], pictures, strict=True)
    ]
    seeds = case["seeds"]
    seed: Any = seeds if len(seeds) > 1 else seeds[0]
    common: dict[str, Any] = {
        "negative": negative[0] if len(negative) == 1 else negative or None,
        "control": controls[0] if len(controls) == 1 else controls or None,
        "seed": std.RandomState.of(torch.Generator().manual_seed(seeds[0])) if case["one"] else seed,
        "count": len(seeds) if case["one"] else None,
        "steps": case["steps"],
        "guidance_scale": case["guidance"],
        "guidance_rescale": case.get("rescale"),
        "scheduler": case["scheduler"],
        "timestep_spacing": case.get("spacing"),
        "strength": case["strength"],
        "arguments": _arguments(case),
        "ctx": ctx,
    }
    size = case["side"], case["side"]
    picture = images.from_pil(cases.sized(cases.picture(), size))
    wanted = positive[0] if len(positive) == 1 else positive
    if case["kind"] == "inpaint":
        mask = std.mask_from_image(images.from_pil(cases.sized(cases.mask(), size)))
        latent = std.inpaint(model, wanted, picture, mask, **common)
    else:
        width, height = case.get("size", (None, None))
        start = std.encode_image(model, picture, ctx) if case["kind"] == "image" else None
        latent = std.sample(model, wanted, latent=start, width=width, height=height, **common)
    return std.decode_latent(model, latent, ctx)


def _listed(prompt: str | list[str] | None) -> list[str]:
    return prompt if isinstance(prompt, list) else [] if prompt is None else [prompt]


def _arguments(case: dict[str, Any]) -> dict[str, Any] | None:
    found = dict(case["arguments"])
    if case["latents"] is not None:
        side, generator = case["side"] // 8, torch.Generator().manual_seed(case["latents"])
        found["latents"] = torch.randn(len(case["seeds"]), 4, side, side, generator=generator)
    if case["fade"]:
        found["callback_on_step_end"] = cases.fade
    return found or None


@pytest.mark.parametrize("case", CASES, ids=[f"{case['family']} {case['name']}" for case in CASES])
def test_equals_the_one_call_pipeline(
    case: dict[str, Any], models: Path, references: dict[str, dict[str, np.ndarray[Any, Any]]]
) -> None:
    expected = references[case["family"]][case["name"]]
    found = make(models, case).pixels.numpy()
    assert found.shape == expected.shape
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


# Equal on purpose: the model's own scheduler and spacing by name, guidance that is off, and the absent negative prompt,
# which Stable Diffusion reads as the empty one.
EQUAL: dict[str, list[set[str]]] = {
    "stable_diffusion": [
        {"text DDIMScheduler", "trailing DDIMScheduler", "empty negative"},
        {"text EulerDiscreteScheduler", "trailing EulerDiscreteScheduler"},
        {"text EulerAncestralDiscreteScheduler", "one generator, one picture"},
        {"guidance 0.0", "guidance 1.0"},
        {"guidance 0.0 image", "guidance 1.0 image"},
        {"guidance 0.0 inpaint", "guidance 1.0 inpaint"},
    ],
    "stable_diffusion_xl": [
        {"guidance 0.0", "guidance 1.0"},
        {"guidance 0.0 image", "guidance 1.0 image"},
        {"guidance 0.0 inpaint", "guidance 1.0 inpaint"},
        {"empty negative", "absent and not zeros", "absent and not zeros, empty"},
    ],
}


@pytest.mark.parametrize("family", EQUAL)
def test_the_cases_ask_different_things(family: str, references: dict[str, dict[str, np.ndarray[Any, Any]]]) -> None:
    """A reference that ignores an argument would make equal pictures, and a test that passes for the wrong reason."""
    names: dict[bytes, set[str]] = {}
    for name, pictures in references[family].items():
        names.setdefault(pictures.tobytes(), set()).add(name)
    assert [group for group in names.values() if len(group) > 1] == EQUAL[family]
