"""Objects that Python callers hand in (pipelines, ControlNets, components, generators, pictures) are used as is."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.weights.files import TINY

import graphengine
from graphengine import Graph, ModelError, WorkflowError
from graphengine.cache import Store as Memory
from graphengine.execution.run import run
from graphengine.values.socket_types import SocketType, socket_type
from tests.graphengine_nodes import cases


def kind_of(value: Any) -> SocketType[Any]:
    found = socket_type(type(value))
    assert found is not None
    return found


def pipeline(**components: Any) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", safety_checker=None, **components)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return pipeline()


@pytest.fixture
def pipe(loaded: Any) -> Any:
    """A pipeline to do things to."""
    return diffusers.StableDiffusionPipeline(
        **{name: copy.deepcopy(part) for name, part in loaded.components.items()}, requires_safety_checker=False
    )


def graph_of(pipe: Any, seed: int = 1) -> Graph:
    with Graph() as graph:
        model = std.loaded_model(pipe)
        text = std.encode_prompt(model, cases.PROMPT)
        latent = std.sample(model, text, seed=seed, steps=2, guidance_scale=3.5, width=64, height=64)
        graph.output("picture", std.decode_latent(model, latent))
    return graph


def called(pipe: Any, seed: int = 1) -> np.ndarray[Any, Any]:
    pipe.set_progress_bar_config(disable=True)
    found: np.ndarray[Any, Any] = pipe(
        cases.PROMPT, num_inference_steps=2, guidance_scale=3.5, width=64, height=64, output_type="np",
        generator=[torch.Generator().manual_seed(seed)],
    ).images  # fmt: skip
    return found


def pixels(graph: Graph) -> np.ndarray[Any, Any]:
    found: std.Image = graph.run()["picture"]
    return found.pixels.numpy()


# --- pipelines --------------------------------------------------------------------------------------------------------


def test_a_loaded_pipeline_is_a_model(pipe: Any) -> None:
    model = std.loaded_model(pipe)
    assert model.family == "stable_diffusion"
    own = std.load_model("tiny")
    assert all(model.setting(name) == own.setting(name) for name in ("width", "factor", "latent_channels"))
    assert np.array_equal(pixels(graph_of(pipe)), called(pipe))


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_pipelines_of_other_families(family: str, tmp_path: Path) -> None:
    from graphengine_nodes.testing import flux as testing_flux
    from graphengine_nodes.testing import sdxl as testing_xl

    xl = family == "stable_diffusion_xl"
    (testing_xl.xl_model if xl else testing_flux.flux_model)(tmp_path / "model")
    cls: Any = diffusers.StableDiffusionXLPipeline if xl else diffusers.FluxPipeline
    pipe = cls.from_pretrained(tmp_path / "model")
    graph = graph_of(pipe)
    assert std.loaded_model(pipe).family == family
    before = pixels(graph)
    assert np.array_equal(before, called(pipe))
    with torch.no_grad():
        pipe.text_encoder_2.get_input_embeddings().weight.mul_(1.1)
    assert np.array_equal(after := pixels(graph), called(pipe))
    assert not np.array_equal(before, after)


def test_what_is_done_to_it_is_used_by_the_next_run(pipe: Any) -> None:
    graph = graph_of(pipe)
    found = [pixels(graph)]
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1.01)
    found.append(pixels(graph))
    assert np.array_equal(found[1], called(pipe))
    with torch.no_grad():
        pipe.text_encoder.final_layer_norm.bias.add_(0.1)
    found.append(pixels(graph))
    assert np.array_equal(found[2], called(pipe)), "the absent prompt is encoded anew too"
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    found.append(pixels(graph))
    assert np.array_equal(found[3], called(pipe))
    pipe.load_lora_weights(TINY / "lora" / "blueprint.safetensors")
    found.append(pixels(graph))
    assert np.array_equal(found[4], called(pipe))
    assert all(not np.array_equal(a, b) for a, b in pairwise(found))


def test_nothing_made_from_it_is_remembered(pipe: Any, tmp_path: Path) -> None:
    memory = Memory(disk=graphengine.cache.DiskStore(tmp_path))
    graph = graph_of(pipe)
    first, second = (run(graph, store=memory) for _ in range(2))
    assert {name for name, reuse in second.reuse.items() if reuse.value != "computed"} == set()
    assert np.array_equal(first["picture"].pixels, second["picture"].pixels)


def test_a_value_made_outside_a_graph_is_the_same(pipe: Any) -> None:
    model = std.loaded_model(pipe)
    with Graph() as graph:
        lora = std.apply_lora(model, std.load_lora("tiny-blueprint"), 0.5)
        text = std.encode_prompt(model, cases.PROMPT)
        latent = std.sample(lora, text, seed=1, steps=2, guidance_scale=3.5, width=64, height=64)
        graph.output("picture", std.decode_latent(model, latent))
    before = pixels(graph)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.add_(0.05)
    after = pixels(graph)
    assert not np.array_equal(before, after)
    pipe.load_lora_weights(TINY / "lora" / "blueprint.safetensors", adapter_name="a")
    pipe.set_adapters(["a"], [0.5])
    assert np.array_equal(after, called(pipe))


def test_people_are_told_what_it_is(pipe: Any) -> None:
    view = kind_of(std.loaded_model(pipe)).view
    assert view is not None
    assert "a loaded StableDiffusionPipeline holds a " in str(view(std.loaded_model(pipe)))


@pytest.mark.parametrize("outside", [True, False])
def test_it_cannot_be_written(pipe: Any, outside: bool, tmp_path: Path) -> None:
    if outside:
        with Graph() as graph:
            std.encode_prompt(std.loaded_model(pipe), "a")
    else:
        model = std.loaded_model(pipe)
        with Graph() as graph:
            std.encode_prompt(model, "a")
    with pytest.raises(WorkflowError, match=r"StableDiffusionPipeline|UNet2DConditionModel|CLIPTokenizer"):
        graph.save(tmp_path / "graph.yaml")
    assert not list(tmp_path.iterdir())


def test_it_lives_as_long_as_its_callers_have_it(pipe: Any) -> None:
    unet = weakref.ref(pipe.unet)
    own = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    graph = graph_of(own)
    pixels(graph)
    model = std.apply_lora(std.loaded_model(own), std.load_lora("tiny-blueprint"), 0.5)
    std.sample(model, std.encode_prompt(model, "a"), steps=1, width=64, height=64)
    del graph, model, own
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        setattr(pipe, part, None)
    gc.collect()
    assert unet() is None


def test_options_and_loras_are_put_on_clones(pipe: Any) -> None:
    before = called(pipe)
    model = std.quantize_model(std.apply_lora(std.loaded_model(pipe), std.load_lora("tiny-blueprint"), 0.5))
    text = std.encode_prompt(model, cases.PROMPT)
    found = std.sample(model, text, steps=1, width=64, height=64).samples
    own = std.quantize_model(std.apply_lora(std.load_model("tiny"), std.load_lora("tiny-blueprint"), 0.5))
    assert torch.equal(found, std.sample(own, text, steps=1, width=64, height=64, guidance_scale=7.5).samples)
    half = std.change_precision(std.loaded_model(pipe), "bfloat16")
    assert std.encode_prompt(half, "a").embeds.dtype is torch.bfloat16
    assert np.array_equal(called(pipe), before), "the caller's own is as it was"
    assert not store.devices_of(model)


def test_hooks_of_its_own_stay(pipe: Any) -> None:
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert np.array_equal(pixels(graph_of(pipe)), called(pipe))
    changed = std.apply_lora(std.loaded_model(pipe), std.load_lora("tiny-blueprint"))
    with pytest.raises(ModelError, match=r"the unet that was handed in is offloaded or cast by hooks of its own"):
        std.sample(changed, std.encode_prompt(changed, "a"), steps=1)


def test_loras_of_its_own_are_not_dropped_for_others(pipe: Any) -> None:
    pipe.load_lora_weights(TINY / "lora" / "blueprint.safetensors")
    changed = std.apply_lora(std.loaded_model(pipe), std.load_lora("tiny-blueprint"))
    with pytest.raises(ModelError, match=r"the unet that was handed in has LoRAs of its own; fuse them there"):
        std.sample(changed, std.encode_prompt(changed, "a"), steps=1)


def test_threads_share_a_tokenizer_that_was_handed_in(pipe: Any) -> None:
    first, second = std.loaded_model(pipe), std.loaded_model(pipe)
    with store.component(first, "tokenizer", "cpu") as one, store.component(second, "tokenizer", "cpu") as two:
        assert one.lock is two.lock
    prompts = ["a", "a red circle " * 9, "a green tree in a field", "b " * 40]
    expected = [std.encode_prompt(first, prompt).embeds for prompt in prompts]
    wrong: list[str] = []

    def encode(index: int) -> None:
        for model in (first, second) * 5:
            if not torch.equal(std.encode_prompt(model, prompts[index]).embeds, expected[index]):
                wrong.append(prompts[index])

    threads = [threading.Thread(target=encode, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_no_pipeline_says_so(pipe: Any) -> None:
    with pytest.raises(ModelError, match=r"a UNet2DConditionModel is no pipeline of a known family \(.*stable_diff"):
        std.loaded_model(pipe.unet)
    pipe.text_encoder = None
    with pytest.raises(ModelError, match=r"this StableDiffusionPipeline has no text_encoder; a model consists of"):
        std.loaded_model(pipe)


# --- components and ControlNets ---------------------------------------------------------------------------------------


def test_a_replaced_component_is_computed_with_and_others_are_remembered_parts(pipe: Any) -> None:
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.add_(0.05)
    own = std.load_model("tiny")
    model = std.replace_component(own, "vae", pipe.vae)
    assert model.digest("denoiser") == own.digest("denoiser")
    with pytest.raises(TypeError, match=r"tiny holds a AutoencoderKL that was handed in from Python"):
        model.digest("vae")
    with Graph() as graph:
        changed = std.replace_component(std.load_model("tiny"), "vae", pipe.vae)
        text = std.encode_prompt(changed, cases.PROMPT)
        latent = std.sample(changed, text, seed=1, steps=2, guidance_scale=3.5, width=64, height=64)
        graph.output("picture", std.decode_latent(changed, latent))
    assert np.array_equal(pixels(graph), called(pipe))
    with pytest.raises(ModelError, match=r"tiny has no transformer; it has tokenizer, text_encoder, unet"):
        std.replace_component(own, "transformer", pipe.vae)


def test_a_loaded_controlnet_steers(pipe: Any) -> None:
    net = diffusers.ControlNetModel.from_pretrained(TINY / "controlnet")
    edges = images.from_pil(cases.edges())

    def steered(loaded: bool) -> torch.Tensor:
        with Graph() as graph:
            model = std.load_model("tiny")
            control = std.loaded_controlnet(net) if loaded else std.load_controlnet("tiny-canny")
            applied = std.apply_controlnet(control, edges)
            std.sample(model, std.encode_prompt(model, "a"), control=applied, steps=1)
        found: std.Latent = graph.run()["sample"]
        return found.samples

    before = steered(True)
    assert torch.equal(before, steered(False))
    with torch.no_grad():
        net.controlnet_mid_block.bias.add_(0.5)
    assert not torch.equal(steered(True), before)
    with pytest.raises(ModelError, match=r"a AutoencoderKL is no ControlNet of a known family"):
        std.loaded_controlnet(pipe.vae)
    with pytest.raises(TypeError, match=r"holds a ControlNetModel that was handed in"):
        graphengine.keys.call_key.canonical(std.apply_controlnet(std.loaded_controlnet(net), edges))


# --- generators, pictures, masks --------------------------------------------------------------------------------------


def test_a_generator_is_keyed_by_its_state_and_left_as_it_would_be(pipe: Any, tmp_path: Path) -> None:
    def stores() -> Memory:
        return Memory(disk=graphengine.cache.DiskStore(tmp_path))

    def drawn(memory: Memory, generator: torch.Generator) -> tuple[torch.Tensor, str]:
        with Graph() as graph:
            model = std.load_model("tiny")
            text = std.encode_prompt(model, cases.PROMPT)
            std.sample(
                model, text, seed=std.RandomState.of(generator), steps=2, guidance_scale=3.5, width=64, height=64
            )
        result = run(graph, store=memory)
        latent: std.Latent = result["sample"]
        latent.random[0].restore(generator)
        return latent.samples, result.reuse["sample"].value

    memory, generator, other = stores(), torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    pipe.set_progress_bar_config(disable=True)
    found = []
    for _ in range(2):
        samples, _ = drawn(memory, generator)
        expected = pipe(
            cases.PROMPT, num_inference_steps=2, guidance_scale=3.5, width=64, height=64, output_type="latent",
            generator=other,
        ).images  # fmt: skip
        assert torch.equal(samples, expected)
        assert torch.equal(generator.get_state(), other.get_state())
        found.append(samples)
    assert not torch.equal(*found)
    for place, where in ((memory, "memory"), (stores(), "disk")):
        again = torch.Generator().manual_seed(5)
        for expected in found:
            samples, reuse = drawn(place, again)
            assert torch.equal(samples, expected)
            assert reuse == where
        assert torch.equal(again.get_state(), other.get_state())


def test_literals_are_written_beside_the_graph_and_read_again(tmp_path: Path) -> None:
    picture = std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    mask = std.Mask((torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(2)) > 0.5).float())
    with Graph() as graph:
        model = std.load_model("tiny")
        state = std.RandomState.of(torch.Generator().manual_seed(3))
        latent = std.inpaint(model, std.encode_prompt(model, "a"), picture, mask, seed=state, steps=2)
        graph.output("painted", std.decode_latent(model, latent))
    graph.save(tmp_path / "graph.yaml")
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    read = graphengine.load(tmp_path / "graph.yaml")
    memory = Memory()
    first, second = run(graph, store=Memory()), run(read, store=memory)
    assert torch.equal(first["painted"].pixels, second["painted"].pixels)
    assert run(graph, store=memory).reuse["decode_latent"].value == "memory", "the same content, so the same key"


def test_a_picture_made_from_an_object_is_saved_without_its_making(
    pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = graph_of(pipe)
    with graph:
        std.save_image(graph["decode_latent"], tmp_path / "picture.png")
    graph.run()
    with PIL.Image.open(tmp_path / "picture.png") as picture:
        assert picture.info == {}
    assert "will not carry how it was made" in caplog.text
    assert "loaded_model.pipeline: a value of type diffusers.pipelines" in caplog.text
