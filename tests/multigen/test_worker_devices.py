"""ServiceThread: the devices decide the precision of models, and how FLUX is held."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from graphengine_nodes.testing.flux import flux_controlnet, flux_model

from multigen import CIm2ImPipe, Prompt2ImPipe
from multigen.service_pipes import Catalogue, held_as, precision_on
from multigen.worker import ServiceThread
from tests.multigen.serving import SMALL, generate, opened, pixels

PIPES = {"text": {"classname": "Prompt2ImPipe"}, "control": {"classname": "CIm2ImPipe", "needs_cnet": True}}
GIB = 2**30


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flux_model(tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """GPUs as torch tells of them, by their memory."""
    memory: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(memory))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
    total = lambda device: SimpleNamespace(total_memory=memory[torch.device(device).index or 0])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", total)
    return memory


def test_bfloat16_on_gpus_float32_elsewhere() -> None:
    assert [precision_on(devices) for devices in (["cuda:0"], ["cuda", "cuda:1"], ["cpu"], ["cuda:0", "cpu"])] == [
        "bfloat16", "bfloat16", "float32", "float32",
    ]  # fmt: skip


def test_how_flux_is_held(gpus: list[int]) -> None:
    gpus += [80 * GIB, 24 * GIB, 16 * GIB]
    assert held_as("FLUX", ["cuda:0"]) == held_as("FLUX", ["cuda:0", "cuda:1"]) == "float8"
    assert held_as("FLUX", ["cuda:2"]) == held_as("FLUX", ["cuda:0", "cuda:2"]) == "offload"
    assert held_as("FLUX", ["cpu"]) is held_as("SDXL", ["cuda:2"]) is held_as("SD", ["cuda:0"]) is None


def queued_nodes(service: ServiceThread, model: str) -> dict[str, Any]:
    """The nodes of a job that a service queues for a model, by their kind."""
    id = opened(service, model, "text", model=model)
    service.queue_gen(session_id=id, **SMALL)
    [job] = [job for job in service.queue.waiting() if job.user == model]
    nodes = service.queue.body(job.id)["workflow"]["nodes"].values()
    return {node["node"].split(".")[-1].split("@")[0]: node.get("with", {}) for node in nodes}


@pytest.mark.parametrize(
    ("memory", "kinds"),
    [(80, {"quantize_model": {"kind": "float8"}}), (16, {"offload_model": {"kind": "sequential"}}), (0, {})],
)
def test_what_is_queued_on_gpus(
    idle: ServiceThread, flux: Path, gpus: list[int], memory: int, kinds: dict[str, Any]
) -> None:
    """Jobs name the numbers and how weights are held; they are made without a look at a GPU."""
    gpus += [memory * GIB] * (memory > 0)
    idle.config["devices"] = ["cuda:0"] if memory else ["cpu"]
    idle.models["base"]["flux"] = {"id": str(flux), "type": "FLUX"}
    idle.models["pipes"] |= PIPES
    found = queued_nodes(idle, "flux")
    assert found["load_model"]["precision"] == ("bfloat16" if memory else "float32")
    held = {name: found[name] for name in ("quantize_model", "offload_model") if name in found}
    assert {name: {"kind": values.get("kind")} for name, values in held.items()} == kinds
    assert queued_nodes(idle, "small").keys().isdisjoint({"quantize_model", "offload_model"})


def test_a_gpu_that_is_not_there(idle: ServiceThread, gpus: list[int]) -> None:
    idle.config["devices"] = ["cuda:3"]
    with pytest.raises(RuntimeError, match="'cuda:3' needs a GPU, and this machine has no GPU"):
        opened(idle, "u")


def test_flux(worker: ServiceThread, flux: Path, tmp_path: Path) -> None:
    """On the processor, as it is; with a ControlNet, too; the pictures are those of the Pipe."""
    net = str(flux_controlnet(tmp_path / "net"))
    service = ServiceThread(worker.cwd / "config.yaml")
    service.models["base"]["flux"] = {"id": str(flux), "type": "FLUX"}
    service.models["pipes"] |= PIPES
    service.start()
    common: dict[str, Any] = {"prompt": "a house", "steps": 2, "guidance_scale": 3.5}
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    try:
        text = generate(service, opened(service, "t", "text", model="flux"), **common, seeds=[5])
        id = opened(service, "c", "control", model="flux")
        steered = generate(service, id, **common, seeds=[5], images=[picture], cnet="canny", cnet_ids=[net])
    finally:
        service.stop()
        service.join()
    pipe = Prompt2ImPipe(flux, device="cpu")
    pipe.setup(steps=2, guidance_scale=3.5, width=64, height=64)
    assert np.array_equal(pixels(text.files[0]), pixels(pipe.gen({"prompt": "a house", "seed": 5})))
    control = CIm2ImPipe(flux, device="cpu", ctypes=["canny"], cnet_ids=[net])
    control.setup(image=picture, steps=2, guidance_scale=3.5)
    assert np.array_equal(pixels(steered.files[0]), pixels(control.gen({"prompt": "a house", "seed": 5})))


def test_flux_in_8_bits_on_the_processor(flux: Path) -> None:
    """What a roomy GPU is given runs; it moves the picture, and not far."""
    found = []
    for held in (None, "float8"):
        pipe = Prompt2ImPipe(flux, device="cpu", quantization=held)
        pipe.setup(steps=2, guidance_scale=3.5, width=64, height=64)
        found.append(pixels(pipe.gen({"prompt": "a house", "seed": 5})).astype(int))
    assert 0 < np.abs(found[0] - found[1]).mean() < 25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("roomy", [True, False])
def test_flux_on_a_gpu(idle: ServiceThread, flux: Path, monkeypatch: pytest.MonkeyPatch, roomy: bool) -> None:
    monkeypatch.setattr("multigen.service_pipes.ROOMY", 0 if roomy else 2**60)
    idle.config["devices"] = ["cuda:0"]
    idle.models["base"]["flux"] = {"id": str(flux), "type": "FLUX"}
    idle.models["pipes"] |= PIPES
    session = {"user": "u", "pipe": "text", "model": "flux"}
    pipe = Catalogue(idle.cwd, idle.config, idle.models).pipe(session, {})
    assert (pipe.offload_gpu_id is None) == roomy
    idle.start()
    called = generate(idle, opened(idle, "u", "text", model="flux"), seeds=[5])
    idle.stop()
    idle.join()
    pipe.setup(steps=2, width=64, height=64)
    expected = pixels(pipe.gen({"prompt": SMALL["prompt"], "seed": 5})).astype(int)
    assert np.abs(pixels(called.files[0]).astype(int) - expected).max() <= 1
    assert json.loads(called.files[0].with_suffix(".txt").read_text())["dtype"] == "torch.bfloat16"
