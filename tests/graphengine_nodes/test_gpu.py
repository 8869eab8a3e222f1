"""On a GPU pictures equal those of diffusers' pipelines there, and weights and memory of its worker are managed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.store.store import store

from graphengine import Context
from tests.graphengine_nodes import cases, cases_xl
from tests.graphengine_nodes.conftest import HERE, reference
from tests.graphengine_nodes.test_oracle import make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

GPU = "cuda:0"
CASES = [*cases.cases(), *cases_xl.cases()]


class OnGPU(Context):
    device = GPU


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    store.clear()


@pytest.fixture(scope="module")
def pictures(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """By family, what diffusers alone makes of every case on the GPU, in another process."""
    folder = tmp_path_factory.mktemp("gpu")
    modules = {"stable_diffusion": "cases", "stable_diffusion_xl": "cases_xl"}
    return {name: reference(HERE, models, folder / f"{name}.npz", module, GPU) for name, module in modules.items()}


@pytest.mark.parametrize("case", CASES, ids=[f"{case['family']} {case['name']}" for case in CASES])
def test_equals_the_one_call_pipeline(
    case: dict[str, Any], models: Path, pictures: dict[str, dict[str, np.ndarray[Any, Any]]]
) -> None:
    expected = pictures[case["family"]][case["name"]]
    found = make(models, case, OnGPU()).pixels.cpu().numpy()
    assert found.shape == expected.shape
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


def sampled(model: std.Model) -> std.Latent:
    return std.sample(model, std.encode_prompt(model, cases.PROMPT, ctx=OnGPU()), seed=1, steps=2, ctx=OnGPU())


def test_half_precision_is_the_default() -> None:
    model = std.load_model("tiny")
    half = sampled(std.change_precision(model, "float16"))
    assert torch.equal(sampled(model).samples, half.samples)
    assert not torch.equal(sampled(std.change_precision(model, "float32")).samples, half.samples)


@pytest.mark.parametrize("mode", ["model", "group", "sequential"])
def test_what_waits_in_main_memory_gives_the_same_latent(mode: Any) -> None:
    model = std.load_model("tiny")
    expected = sampled(model).samples
    store.clear()
    assert torch.equal(sampled(std.offload_model(model, mode)).samples, expected)


def test_free_room_is_what_the_budget_and_others_leave() -> None:
    assert store.free(GPU) is None  # nothing is held yet
    sampled(std.load_model("tiny"))
    before = store.free(GPU)
    assert before is not None
    total = torch.cuda.get_device_properties(GPU).total_memory
    assert 0 < before <= 0.8 * total
    other = torch.empty(int(0.5 * total), dtype=torch.uint8, device=GPU)
    after = store.free(GPU)
    assert after is not None
    assert before - 0.5 * total <= after < before - 0.2 * total
    del other
    store.spare(GPU)
    assert store.free(GPU) is None
