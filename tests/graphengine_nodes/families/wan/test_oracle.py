"""Videos of Wan are bit-identical to those of diffusers' one-call pipelines, made by another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
from graphengine_nodes.nodes import images

from tests.graphengine_nodes.families.wan import cases

CASES = cases.cases()


def make(models: Path, case: dict[str, Any]) -> std.Video:
    """A case's video through the nodes."""
    model = std.load_model(models / case["model"])
    if case["lora"]:
        model = std.apply_lora(model, std.load_lora(models / f"{case['lora']}.safetensors"), noise=case["noise"])
    asks = case["task"].split("+")
    given: dict[str, Any] = {"width": 64, "height": 64, "frames": case["frames"]}
    if "video" in asks:
        pictures = [images.from_pil(frame) for frame in cases.video()]
        given = {"video": std.encode_video(model, std.video_of(pictures, 16)), "strength": 0.5}
    if "first" in asks:
        given["first"] = images.from_pil(cases.first())
    if "last" in asks:
        given["last"] = images.from_pil(cases.last())
    latent = std.sample_video(
        model,
        std.encode_prompt(model, cases.PROMPT),
        negative=None if case["negative"] is None else std.encode_prompt(model, case["negative"]),
        seed=5,
        steps=case["steps"],
        guidance_scale=case["scale"],
        guidance_scale_2=case["scale_2"],
        scheduler=case["scheduler"],
        **given,
    )
    return std.decode_video(model, latent)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_video_equals_that_of_the_one_call_pipeline(
    case: dict[str, Any], models: Path, references: dict[str, np.ndarray[Any, Any]]
) -> None:
    expected = references[case["name"]]
    found = make(models, case).frames.numpy()
    assert found.shape == expected.shape == (case["frames"], 64, 64, 3)
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


def test_the_cases_of_videos_ask_different_things(references: dict[str, np.ndarray[Any, Any]]) -> None:
    """A reference that ignores an argument would make equal videos, and a test that passes for the wrong reason."""
    names: dict[bytes, list[str]] = {}
    for name, frames in references.items():
        names.setdefault(frames.tobytes(), []).append(name)
    assert [group for group in names.values() if len(group) > 1] == []
