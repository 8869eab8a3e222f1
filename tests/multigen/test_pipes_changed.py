"""The next `gen` uses every change that a script makes to `pipe.pipe`, and every object that it hands in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights.files import TINY

from graphengine import WorkflowError
from graphengine.testing import Recorder
from multigen import Cond2ImPipe, Im2ImPipe, Loader, Prompt2ImPipe
from tests.multigen.test_pipes import PROMPT, bare, generator, picture, same

CALL: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 7.5}
LORA = TINY / "lora" / "blueprint.safetensors"


def made(pipe: Any) -> Any:
    return pipe.gen({"prompt": PROMPT, "generator": generator()})


def reference(pipe: Any) -> Any:
    return pipe(PROMPT, generator=generator(), **CALL).images


@pytest.fixture
def pipe() -> Prompt2ImPipe:
    pipe = Prompt2ImPipe("tiny")
    pipe.setup(width=64, height=64, steps=2)
    return pipe


def test_pipe_is_a_pipeline_over_the_same_weights(pipe: Prompt2ImPipe) -> None:
    other = Im2ImPipe("tiny")
    assert type(pipe.pipe) is diffusers.StableDiffusionPipeline
    assert type(other.pipe) is diffusers.StableDiffusionImg2ImgPipeline
    assert pipe.pipe.device == torch.device("cpu")
    assert pipe.pipe.unet is not other.pipe.unet
    assert pipe.pipe.unet.conv_in.weight.data_ptr() == other.pipe.unet.conv_in.weight.data_ptr()
    expected = made(pipe)
    pipe.pipe.set_progress_bar_config(disable=True)
    assert same(expected, reference(pipe.pipe))
    recorder = Recorder()
    pipe.listeners.append(recorder)
    assert same(made(pipe), expected)
    assert not recorder.computed  # nothing was changed on it


def test_a_scheduler_set_on_it(pipe: Prompt2ImPipe) -> None:
    theirs = bare("StableDiffusionPipeline")
    for owner in (theirs, pipe.pipe):
        owner.scheduler = diffusers.EulerDiscreteScheduler.from_config(owner.scheduler.config, use_karras_sigmas=True)
    assert same(made(pipe), reference(theirs))
    assert pipe.get_config()["scheduler"]["class_name"] == "EulerDiscreteScheduler"
    named = pipe.gen({"prompt": PROMPT, "generator": generator(), "scheduler": "DDIMScheduler"})
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    assert same(named, reference(theirs))
    pipe.setup(width=64, height=64, steps=2, scheduler="DPMSolverMultistepScheduler")
    assert type(pipe.pipe.scheduler) is diffusers.DPMSolverMultistepScheduler
    theirs = bare("StableDiffusionPipeline")
    theirs.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(theirs.scheduler.config)
    assert same(made(pipe), reference(theirs))
    for owner in (theirs, pipe.pipe):  # what is set there comes after what setup named
        owner.scheduler = diffusers.EulerDiscreteScheduler.from_config(owner.scheduler.config)
    assert same(made(pipe), reference(theirs))


def test_loras_loaded_and_weighted_on_it(pipe: Prompt2ImPipe, tmp_path: Path) -> None:
    plain, theirs, recorder = made(pipe), bare("StableDiffusionPipeline"), Recorder()
    pipe.listeners.append(recorder)
    for owner in (theirs, pipe.pipe):
        owner.load_lora_weights(LORA, adapter_name="style")
    assert same(made(pipe), reference(theirs))
    assert not same(made(pipe), plain)
    recorder.clear()
    made(pipe)
    assert recorder.computed["std.sample"] == 1  # nothing that is made of it is remembered
    assert not recorder.computed["std.encode_prompt"]
    with pytest.raises(WorkflowError, match="UNet2DConditionModel"):
        pipe.graph.save(tmp_path / "pipe.yaml")
    for owner in (theirs, pipe.pipe):
        owner.set_adapters(["style"], [0.4])
    assert same(made(pipe), reference(theirs))
    for owner in (theirs, pipe.pipe):
        owner.unload_lora_weights()
    assert same(made(pipe), plain)
    other = Prompt2ImPipe("tiny")
    other.setup(width=64, height=64, steps=2)
    assert same(made(other), plain)


def test_weights_changed_in_place(pipe: Prompt2ImPipe) -> None:
    plain, theirs = made(pipe), bare("StableDiffusionPipeline")
    for owner in (theirs, pipe.pipe):
        owner.unet.conv_out.weight.data.mul_(1.01)
    assert same(made(pipe), reference(theirs))
    assert not same(made(pipe), plain)
    for owner in (theirs, pipe.pipe):
        owner.load_lora_weights(LORA)
        owner.fuse_lora()
    assert same(made(pipe), reference(theirs))
    other = Prompt2ImPipe("tiny")  # is read again: the memory that both shared was written to
    other.setup(width=64, height=64, steps=2)
    assert same(other.gen({"prompt": PROMPT, "generator": generator(), "eta": 0.0}), plain)
    assert same(other.gen({"prompt": PROMPT, "seed": 7}), plain)


def test_a_component_replaced_on_it(pipe: Prompt2ImPipe) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(TINY / "model" / "vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(0.1)
    expected = reference(bare("StableDiffusionPipeline", vae=vae))
    pipe.pipe.vae = vae
    assert same(made(pipe), expected)
    other = Prompt2ImPipe("tiny", vae=vae)
    other.setup(width=64, height=64, steps=2)
    assert same(made(other), expected)
    assert other.pipe.vae is vae


def test_a_pipeline_handed_in() -> None:
    theirs = bare("StableDiffusionPipeline")
    pipe = Prompt2ImPipe("a label", pipe=theirs)
    assert (pipe.pipe, pipe.model_id) == (theirs, "a label")
    pipe.setup(width=64, height=64, steps=2)
    assert same(made(pipe), reference(theirs))
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    theirs.load_lora_weights(LORA)
    assert same(made(pipe), reference(theirs))
    image = Im2ImPipe("a label", pipe=theirs)
    image.setup(picture(), strength=0.5, steps=4, scheduler="DDIMScheduler")
    assert np.asarray(made(image)).shape == (64, 64, 3)


def test_loras_of_a_pipe(pipe: Prompt2ImPipe) -> None:
    plain, theirs = made(pipe), bare("StableDiffusionPipeline")
    theirs.load_lora_weights(LORA, adapter_name="style")
    theirs.set_adapters(["style"], [0.5])
    pipe.load_lora(LORA, 0.5)
    half = made(pipe)
    assert same(half, reference(theirs))
    assert pipe.get_config()["loras"] == [(str(LORA), 0.5)]
    twice = pipe.gen({"prompt": PROMPT, "generator": generator(), "cross_attention_kwargs": {"scale": 2.0}})
    theirs.set_adapters(["style"], [1.0])
    assert same(twice, reference(theirs))
    other = Prompt2ImPipe("tiny")
    other.setup(width=64, height=64, steps=2, loras=["tiny-blueprint"])
    assert same(made(other), twice)
    other.setup(width=64, height=64, steps=2)
    assert same(made(other), plain)


def test_a_controlnet_replaced_on_it(tmp_path: Path) -> None:
    control = picture()
    pipe = Cond2ImPipe("tiny", ctypes="canny")
    pipe.setup(image=control, steps=2, cscales=1.0)
    plain = made(pipe)
    assert type(pipe.pipe) is diffusers.StableDiffusionControlNetPipeline
    assert same(made(pipe), plain)
    net = diffusers.ControlNetModel.from_pretrained(testing.controlnet(tmp_path / "net"))
    pipe.pipe.controlnet = net
    theirs = bare("StableDiffusionControlNetPipeline", controlnet=net)
    expected = theirs(PROMPT, image=control, generator=generator(), **CALL).images
    assert same(made(pipe), expected)
    handed = Cond2ImPipe("a label", pipe=theirs)
    handed.setup(image=control, steps=2, cscales=1.0)
    assert same(made(handed), expected)


def test_a_pipeline_of_the_loader(pipe: Prompt2ImPipe) -> None:
    loaded = Loader().load_pipeline(Im2ImPipe._class, "tiny", torch_dtype=torch.float32)
    other, recorder = Prompt2ImPipe("tiny", pipe=loaded), Recorder()
    other.listeners.append(recorder)
    other.setup(width=64, height=64, steps=2)
    expected = made(pipe)
    assert same(made(other), expected)
    recorder.clear()
    made(other)
    assert not recorder.computed  # nothing was changed on it: it is the model itself, and pictures are remembered
    loaded.unet.conv_out.bias.data.add_(0.1)
    assert not same(made(other), expected)


def circular(pipe: Any) -> None:
    """Pictures without seams: what scripts do to convolutions."""
    for layer in pipe.unet.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding_mode = "circular"


def one_number(pipe: Any) -> None:
    pipe.unet.conv_in.weight.data[0, 0, 0, 1] = 9.0


def weaker(pipe: Any) -> None:
    pipe.unet.mid_block.register_forward_hook(lambda module, inputs, output: 0.9 * output)


@pytest.mark.parametrize(
    "change",
    [
        circular,
        one_number,
        weaker,
        lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
        lambda pipe: pipe.vae.register_to_config(scaling_factor=0.3),
        lambda pipe: setattr(pipe.unet, "conv_act", torch.nn.Tanh()),
    ],
    ids=["padding", "one number", "hook", "freeu", "configuration", "layer"],
)
def test_whatever_is_set_on_a_layer_counts(pipe: Prompt2ImPipe, change: Any) -> None:
    before = made(pipe)
    change(pipe.pipe)
    after = made(pipe)
    assert not same(after, before)
    assert same(after, reference(pipe.pipe))


def test_a_generator_that_stands_twice_in_a_list_draws_on(pipe: Prompt2ImPipe) -> None:
    mine, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    found = pipe.gen({"prompt": "a", "num_images_per_prompt": 2, "generator": [mine, mine]})
    expected = pipe.pipe("a", num_images_per_prompt=2, generator=[theirs, theirs], **CALL).images
    assert same(found, expected)
    assert torch.equal(mine.get_state(), theirs.get_state())
