"""Videos of Wan are bit-identical to those of diffusers' one-call pipelines, made by another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
from graphengine_nodes.families.wan import FAMILY
from graphengine_nodes.nodes import images

from tests.graphengine_nodes.families.flow.test_flow import Calls
from tests.graphengine_nodes.families.wan import cases

CASES = cases.cases()


def make(models: Path, case: dict[str, Any]) -> std.Video:
    """A case's video through the nodes."""
    model = std.load_model(models / case["model"], precision=case["precision"])
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


def test_sample_makes_pictures_of_one_frame(models: Path, references: dict[str, np.ndarray[Any, Any]]) -> None:
    """Several pictures of a call are their single ones but for rounding."""
    model = std.load_model(models / "2.1")
    text = std.encode_prompt(model, cases.PROMPT)
    given: dict[str, Any] = {"steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64}
    found = std.decode_latent(model, std.sample(model, text, seed=5, **given)).pixels.numpy()
    assert np.array_equal(found, references["2.1 text one frame"])
    several = std.sample(model, text, seed=[5, 9], **given).samples.split(1)
    for seed, one in zip((5, 9), several, strict=True):
        assert np.allclose(one, std.sample(model, text, seed=seed, **given).samples, atol=2e-4)


def test_the_axes_of_a_wan_transformers_arguments_are_those_of_its_record(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = std.load_model(models / "2.1")
    text, calls = std.encode_prompt(model, cases.PROMPT), Calls(FAMILY, model)

    def seen(*seeds: int) -> list[dict[str, Any]]:
        return calls.of(monkeypatch, lambda: std.sample(model, text, seed=[*seeds], steps=1, width=64, height=64))

    (alone, *_), (together, *_) = seen(1), seen(1, 2, 3)
    told = {name for name, value in alone.items() if hasattr(value, "shape")}
    assert told == {"hidden_states", "timestep", "encoder_hidden_states"}
    for name in told:
        assert FAMILY.record.axes[name].by == "rows"
        assert together[name].shape == (3 * alone[name].shape[0], *alone[name].shape[1:])
