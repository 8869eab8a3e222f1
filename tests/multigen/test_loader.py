"""Loader: pipelines over weights that are in memory once, each with components of its own."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from graphengine_nodes import load_model
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import flux as testing_flux
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.testing import sdxl as testing_xl
from graphengine_nodes.weights.files import TINY

from graphengine import ModelError
from multigen import Loader
from multigen.loader import ModelDescriptor, build_pipeline
from multigen.util import get_model_size, qfloat8, qint8, weightshare_copy

FLOAT = torch.float32


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    yield
    gc.collect()
    wait(lambda: (Loader().clear_cache(), store.size())[1] == 0)
    store.budget = None


def wait(done: Callable[[], bool]) -> None:
    """Holds are released a moment after a pipeline is collected."""
    end = time.monotonic() + 300
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.inpainting_model(tmp_path_factory.mktemp("models") / "nine")


def load(cls: Any = diffusers.StableDiffusionPipeline, path: Any = "tiny", **args: Any) -> Any:
    return Loader().load_pipeline(cls, path, **{"torch_dtype": FLOAT, "device": torch.device("cpu")} | args)


def picture(pipe: Any, seed: int = 1, **args: Any) -> np.ndarray[Any, Any]:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    args = {"width": 32, "height": 32, "num_inference_steps": 2, "output_type": "np"} | args
    return np.asarray(pipe("a red circle", generator=generator, **args).images)


def pointers(module: torch.nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in module.state_dict().values()]


def loads() -> int:
    return sum(store.loads.values())


def test_pipelines_share_memory_and_no_object() -> None:
    one, other = load(), load(diffusers.StableDiffusionImg2ImgPipeline)
    assert type(other) is diffusers.StableDiffusionImg2ImgPipeline
    for name, part in one.components.items():
        if part is not None and "tokenizer" not in name:
            assert part is not other.components[name]
    for name in ("unet", "vae", "text_encoder"):
        assert pointers(getattr(one, name)) == pointers(getattr(other, name))
    for pipeline in Loader()._cpu_pipes.values():
        assert pipeline.unet is not one.unet
        assert pipeline.unet is not other.unet
        assert pointers(pipeline.unet) == pointers(one.unet)


def test_it_is_what_diffusers_loads() -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model")
    assert np.array_equal(picture(load()), picture(theirs))
    assert load().config.keys() == theirs.config.keys() - {"_name_or_path"}


def test_what_is_set_on_one_reaches_no_other() -> None:
    one, other = load(), load()
    expected = picture(other)
    one.scheduler = diffusers.EulerDiscreteScheduler.from_config(one.scheduler.config)
    one.load_lora_weights(TINY / "lora" / "blueprint.safetensors")
    one.vae.enable_tiling()
    one.unet.to(torch.float16)
    assert not np.array_equal(picture(one.to(FLOAT)), expected)
    assert np.array_equal(picture(other), expected)
    assert np.array_equal(picture(load()), expected)


def test_numbers_are_bfloat16_unless_asked() -> None:
    pipe = Loader().load_pipeline(diffusers.StableDiffusionPipeline, "tiny")
    assert pipe.unet.dtype is torch.bfloat16
    assert load(torch_dtype="float16").unet.dtype is torch.float16


def test_general_classes_give_the_models_own() -> None:
    assert type(load(diffusers.DiffusionPipeline)) is diffusers.StableDiffusionPipeline
    assert type(load(diffusers.AutoPipelineForInpainting)) is diffusers.StableDiffusionInpaintPipeline


@pytest.mark.parametrize("family_name", ["StableDiffusionXL", "Flux"])
def test_every_family_is_what_diffusers_loads(family_name: str, tmp_path: Path) -> None:
    folder, cls = tmp_path / "model", getattr(diffusers, f"{family_name}Pipeline")
    testing_flux.flux_model(folder) if family_name == "Flux" else testing_xl.xl_model(folder, zeros=False)
    one, theirs = load(cls, folder), cls.from_pretrained(folder)
    assert one.config.keys() == theirs.config.keys() - {"_name_or_path"}
    assert np.array_equal(picture(one), picture(theirs))
    other = load(getattr(diffusers, f"{family_name}Img2ImgPipeline"), folder)
    assert pointers(other.text_encoder_2) == pointers(one.text_encoder_2)
    assert other.text_encoder_2 is not one.text_encoder_2


def test_components_take_the_place_of_the_checkpoints(caplog: pytest.LogCaptureFixture) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(TINY / "model" / "vae")
    net = diffusers.ControlNetModel.from_pretrained(TINY / "controlnet")
    with caplog.at_level(logging.WARNING, "multigen"):
        pipe = load(
            diffusers.StableDiffusionControlNetPipeline, vae=vae, controlnet=net, use_safetensors=True,
            safety_checker=None, variant=None,
        )  # fmt: skip
        assert not caplog.messages
        load(wrong=3)
    assert caplog.messages == ["StableDiffusionPipeline has no wrong; ignored"]
    assert pipe.vae is vae
    assert pipe.controlnet is net


def test_controlnets_by_reference_are_shared_too() -> None:
    from graphengine_nodes import load_controlnet

    model, net = load_model("tiny"), load_controlnet("tiny-canny")
    cls = diffusers.StableDiffusionControlNetPipeline
    one, other = build_pipeline(cls, model, "cpu", [net]), build_pipeline(cls, model, "cpu", [net, net])
    assert pointers(one.controlnet) == pointers(other.controlnet.nets[1])
    assert one.controlnet is not other.controlnet.nets[0]


def test_quantized_and_plain_are_different(caplog: pytest.LogCaptureFixture) -> None:
    expected = picture(load())
    cast, whole, plain = load(quantize_dtype=qfloat8), load(quantize_dtype=qint8), load()
    assert get_model_size(cast.unet) < 0.4 * get_model_size(plain.unet)
    assert "Int8" in type(whole.unet.mid_block.attentions[0].proj_in.weight).__name__ or (
        "Int8" in type(whole.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2].weight).__name__
    )
    assert np.array_equal(picture(plain), expected)
    for pipe in (cast, whole):
        difference = np.abs(picture(pipe) - expected).mean()
        assert 0 < difference < 0.1
    kinds = {descriptor.quantization for descriptor in Loader()._cpu_pipes}
    assert kinds == {None, "float8", "int8"}
    with pytest.raises(ValueError, match="qint4 is no quantization that is known; give qfloat8 or qint8"):
        load(quantize_dtype="qint4")


def test_from_pipe() -> None:
    pipe = load()
    other = Loader().from_pipe(diffusers.StableDiffusionImg2ImgPipeline, pipe)
    assert pointers(other.unet) == pointers(pipe.unet)
    assert other.unet is not pipe.unet
    net = diffusers.ControlNetModel.from_pretrained(TINY / "controlnet")
    steered = Loader().from_pipe(diffusers.StableDiffusionControlNetPipeline, pipe, controlnet=net)
    assert steered.controlnet is net
    back = Loader().from_pipe(diffusers.AutoPipelineForText2Image, other)
    assert np.array_equal(picture(back), picture(pipe))


def test_what_is_in_memory() -> None:
    loader = Loader()
    assert loader.get_pipeline("tiny") is None
    assert loader.get_gpu("tiny") == []
    assert loader.get_gpu("no such model") == []
    pipe = load(diffusers.StableDiffusionImg2ImgPipeline)
    found = Loader().get_pipeline("tiny")
    assert type(found) is diffusers.StableDiffusionImg2ImgPipeline
    assert pointers(found.unet) == pointers(pipe.unet)
    assert loader.get_pipeline("tiny", device="cpu") is not None
    assert loader._gpu_pipes == {}


def test_removed_and_cleared(nine: Path) -> None:
    loader = Loader()
    load(), load(path=nine)
    gc.collect()
    wait(lambda: (loader.remove_pipeline("tiny"), loader.get_pipeline("tiny"))[1] is None)
    assert loader.get_pipeline(nine) is not None
    gc.collect()
    wait(lambda: (loader.clear_cache("cpu"), store.size())[1] == 0)
    assert loader.get_pipeline(nine) is None


def test_what_a_pipeline_uses_is_not_dropped() -> None:
    pipe = weightshare_copy(load())
    gc.collect()
    time.sleep(0.05)
    before = loads()
    Loader().clear_cache()
    Loader().remove_pipeline("tiny")
    assert pointers(load().unet) == pointers(pipe.unet)
    assert loads() - before == 2  # tokenizer and scheduler, which nobody shares


def test_a_pipeline_made_elsewhere_is_kept() -> None:
    loader, made = Loader(), diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model")
    loader.cache_pipeline(made, "my model")
    found = loader.load_pipeline(diffusers.StableDiffusionImg2ImgPipeline, "my model", torch_dtype=FLOAT)
    assert found.unet is not made.unet
    assert pointers(found.unet) == pointers(made.unet)
    assert ModelDescriptor("my model", "float32") in loader._cpu_pipes
    loader.remove_pipeline("my model")
    with pytest.raises(ModelError, match="there is no model my model"):
        loader.load_pipeline(diffusers.StableDiffusionPipeline, "my model", torch_dtype=FLOAT)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What calls return that threads make at one moment."""
    start, found = threading.Barrier(len(calls)), [None] * len(calls)

    def run(number: int) -> None:
        start.wait()
        found[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_one_model_is_loaded_once_whoever_wants_it() -> None:
    before = loads()
    pipes = together(*[load] * 6)
    assert loads() - before == 5
    assert len({pipe.unet.conv_in.weight.data_ptr() for pipe in pipes}) == 1
    assert len({id(pipe.unet) for pipe in pipes}) == 6


def test_different_models_do_not_wait_for_each_other(nine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, both = family("stable_diffusion"), threading.Barrier(2, timeout=300)
    read = kind.load

    def load_with_the_other(component: str, *arguments: Any) -> Any:
        if component == "unet":
            both.wait()  # passes only when the other is loading as well
        return read(component, *arguments)

    monkeypatch.setattr(kind, "load", load_with_the_other)
    one, other = together(load, lambda: load(diffusers.StableDiffusionInpaintPipeline, nine))
    assert (one.unet.config.in_channels, other.unet.config.in_channels) == (4, 9)
    assert pointers(one.vae) == pointers(other.vae)


def test_memory_is_bounded(nine: Path) -> None:
    load()
    size = store.size()
    gc.collect()
    wait(lambda: all(not entry.users for entry in store._entries.values()))
    store.budget = size + 1
    evictions = sum(store.evictions.values())
    load(path=nine, cls=diffusers.StableDiffusionInpaintPipeline)
    gc.collect()
    wait(lambda: store.size() <= size + 1)
    assert sum(store.evictions.values()) > evictions
    before = loads()
    load(path=nine, cls=diffusers.StableDiffusionInpaintPipeline)
    assert loads() - before <= 5


def test_devices_that_are_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="needs a GPU"):
        load(device=torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="offload_device=0 needs a GPU"):
        load(offload_device=0)
