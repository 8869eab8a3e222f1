"""Out of memory while sampling: weights are dropped, then held in main memory, and the picture is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.store.store import store

from graphengine import Context
from graphengine.declare import registry
from graphengine.execution.runner import Call, compute
from tests.graphengine_nodes import cases


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    store.clear()
    yield
    store.clear()


class Full(Context):
    """The context of a call for which memory runs out at the second step, as often as told."""

    def __init__(self, times: int, device: str = "cpu") -> None:
        self.times, self.device = times, device

    def progress(self, step: int, total: int) -> None:
        if step == 2 and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("the device is full")


def sampled(model: std.Model, times: int, device: str = "cpu") -> Any:
    """What a call of `sample` lands with."""
    definition = registry.find("std.sample")
    assert definition is not None
    inputs = {"model": model, "positive": std.encode_prompt(model, cases.PROMPT), "seed": 1, "steps": 3}
    landed: list[Any] = []
    full = Full(times, device)
    compute([Call(definition, inputs, b"", {}, full, False, (0, 0), lambda outcome, *_: landed.append(outcome))])
    return landed[0]


def ways(device: str, **inputs: Any) -> list[Any]:
    assert std.__pack__.spare is not None
    return list(std.__pack__.spare(device, inputs))


def test_a_full_device_is_cleared_and_the_latent_is_the_same() -> None:
    model = std.load_model("tiny")
    plain = sampled(model, 0)
    held, loads = store.size("cpu"), store.loads.total()
    assert torch.equal(sampled(model, 1).samples, plain.samples)
    assert store.loads.total() == loads + 2  # the denoiser and its scheduler anew
    assert store.size("cpu") < held  # the text encoder, which sampling does not need, is let go


def test_what_does_not_fit_a_cleared_processor_fails() -> None:
    assert isinstance(sampled(std.load_model("tiny"), 100), torch.OutOfMemoryError)


def test_what_others_hold_stays() -> None:
    model = std.load_model("tiny")
    with store.component(model, "vae", "cpu"):
        assert ways("cpu", model=model) == [{"model": model}]
        assert store.size("cpu") > 0
    assert ways("cpu", model=model) == [{"model": model}]
    assert store.size("cpu") == 0


def test_a_gpu_gets_the_model_in_pieces() -> None:
    model = std.load_model("tiny")
    first, second = ways("cuda:0", model=model, seed=1)
    assert first == {"model": model, "seed": 1}
    assert second == {"model": std.offload_model(model, "group"), "seed": 1}
    assert second["model"].digest() == model.digest()


@pytest.mark.parametrize(
    "change", [std.offload_model, lambda model: std.quantize_model(model, "int8"), lambda model: "no model"]
)
def test_what_cannot_be_offloaded_further_is_tried_once_more(change: Any) -> None:
    assert len(ways("cuda:0", model=change(std.load_model("tiny")))) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("times", [1, 2])
def test_a_full_gpu_gives_the_same_latent(times: int) -> None:
    model = std.load_model("tiny")
    plain = sampled(model, 0, "cuda:0")
    assert torch.equal(sampled(model, times, "cuda:0").samples, plain.samples)
