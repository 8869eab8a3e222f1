"""Options of a model equal what diffusers does to one pipeline, and change the keys only of the parts they concern."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store import changes
from graphengine_nodes.store.store import WeightStore, store
from graphengine_nodes.values.references import OPTIONS
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import TINY

from graphengine import Graph, ModelError
from graphengine import Store as Values
from tests.graphengine_nodes import cases

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

Change = Callable[[std.Model], std.Model]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    store.clear()


def picture(model: std.Model, size: int = 64) -> np.ndarray[Any, Any]:
    latent = std.sample(model, std.encode_prompt(model, cases.PROMPT), seed=1, steps=2, width=size, height=size)
    return std.decode_latent(model, latent).pixels.numpy()


def reference(*changes: Callable[[Any], Any], size: int = 64) -> np.ndarray[Any, Any]:
    """What diffusers' pipeline gives with the same options set on it."""
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", safety_checker=None)
    for change in changes:
        change(pipe)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(1)]
    found: np.ndarray[Any, Any] = pipe(
        cases.PROMPT, num_inference_steps=2, width=size, height=size, generator=generator, output_type="np",
        guidance_scale=std.load_model("tiny").setting("guidance_scale"),
    ).images  # fmt: skip
    return found


def with_lora(pipe: Any) -> None:
    pipe.load_lora_weights(TINY / "lora" / "blueprint.safetensors", adapter_name="a")
    pipe.set_adapters(["a"], [0.7])


def quantized(pipe: Any) -> None:
    library = changes.torchao()
    library.quantize_(pipe.unet, library.Int8WeightOnlyConfig())


FLOAT8: Any = (
    std.quantize_model,
    lambda pipe: pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
)
INT8: Any = (lambda model: std.quantize_model(model, "int8"), quantized)
LAYOUT: Any = (
    lambda model: std.optimize_model(model, channels_last=True),
    lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
)


@pytest.mark.parametrize(
    ("change", "same", "size"),
    [
        pytest.param(*FLOAT8, 64, id="float8"),
        pytest.param(*INT8, 64, id="int8"),
        pytest.param(*LAYOUT, 64, id="channels_last"),
        pytest.param(std.tile_vae, lambda pipe: pipe.vae.enable_tiling(), 144, id="tiling"),
        pytest.param(
            lambda model: std.tile_vae(model, False, True), lambda pipe: pipe.vae.enable_slicing(), 64, id="slicing"
        ),
        pytest.param(
            lambda model: std.change_precision(model, "bfloat16"),
            lambda pipe: pipe.to(torch.bfloat16),
            64,
            id="bfloat16",
        ),
    ],
)
def test_an_option_is_what_diffusers_does(change: Change, same: Callable[[Any], Any], size: int) -> None:
    plain = std.load_model("tiny")
    before = picture(plain, size)
    found = picture(change(plain), size)
    assert np.array_equal(found, reference(same, size=size))
    # Slices are the whole where there is one picture; a layout may happen to give the same bits.
    assert change(plain).option("slicing") or change(plain).option("channels_last") or not np.array_equal(found, before)
    assert np.array_equal(picture(plain, size), before), "nothing of it reached the shared weights"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param(FLOAT8[0], [with_lora, FLOAT8[1]], id="float8"),
        pytest.param(INT8[0], [INT8[1], with_lora], id="int8"),
        pytest.param(LAYOUT[0], [LAYOUT[1], with_lora], id="channels_last"),
    ],
)
def test_an_option_with_a_lora(change: Change, same: list[Callable[[Any], Any]]) -> None:
    model = std.apply_lora(std.load_model("tiny"), std.load_lora("tiny-blueprint"), 0.7)
    assert np.array_equal(picture(change(model)), reference(*same))


def test_weights_in_int8_exist_once_for_all_loras() -> None:
    model = std.quantize_model(std.load_model("tiny"), "int8")
    changed = std.apply_lora(model, std.load_lora("tiny-blueprint"), 0.7)
    with store.component(model, "unet", "cpu") as base, store.component(changed, "unet", "cpu") as clone:
        own = {getattr(p, "qdata", p).data_ptr() for p in base.parameters()}
        assert own <= {getattr(p, "qdata", p).data_ptr() for p in clone.parameters()}


@pytest.mark.parametrize("kind", ["float8", "int8"])
@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_quantized_denoisers_of_other_families(family: str, kind: str, tmp_path: Path) -> None:
    import diffusers
    from graphengine_nodes.testing import flux as testing_flux
    from graphengine_nodes.testing import sdxl as testing_xl

    xl = family == "stable_diffusion_xl"
    (testing_xl.xl_model if xl else testing_flux.flux_model)(tmp_path / "model")
    cls: Any = diffusers.StableDiffusionXLPipeline if xl else diffusers.FluxPipeline
    pipe = cls.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    denoiser = pipe.unet if xl else pipe.transformer
    if kind == "float8":
        denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    else:
        changes.torchao().quantize_(denoiser, changes.torchao().Int8WeightOnlyConfig())
    call = {"num_inference_steps": 1, "guidance_scale": 3.5, "width": 64, "height": 64, "output_type": "np"}
    expected = pipe(cases.PROMPT, generator=[torch.Generator().manual_seed(1)], **call).images
    model = std.quantize_model(std.load_model(tmp_path / "model"), kind)
    text = std.encode_prompt(model, cases.PROMPT)
    latent = std.sample(model, text, seed=1, steps=1, guidance_scale=3.5, width=64, height=64)
    assert np.array_equal(std.decode_latent(model, latent).pixels.numpy(), expected)


def test_the_scales_of_all_loras_are_multiplied() -> None:
    plain, lora = std.load_model("tiny"), std.load_lora("tiny-blueprint")
    half = std.scale_loras(std.apply_lora(plain, lora, 0.8), 0.5)
    assert half.loras == std.apply_lora(plain, lora, 0.4).loras
    assert half.digest() == std.apply_lora(plain, lora, 0.4).digest()


# --- keys -------------------------------------------------------------------------------------------------------------

EVERY: dict[str, tuple[Change, set[str]]] = {
    "float8": (std.quantize_model, {"denoiser"}),
    "int8": (lambda model: std.quantize_model(model, "int8"), {"denoiser"}),
    "channels_last": (lambda model: std.optimize_model(model, channels_last=True), {"denoiser"}),
    "compile": (lambda model: std.optimize_model(model, compile=True), {"denoiser"}),
    "tiling": (std.tile_vae, {"vae"}),
    "slicing": (lambda model: std.tile_vae(model, False, True), {"vae"}),
    "model": (std.offload_model, set()),
    "group": (lambda model: std.offload_model(model, "group", "cuda:0"), set()),
    "precision": (lambda model: std.change_precision(model, "float32"), {"denoiser", "vae", "text_encoder"}),
}


@pytest.mark.parametrize("name", EVERY)
def test_an_option_enters_the_keys_of_its_part_alone(name: str) -> None:
    change, parts = EVERY[name]
    plain = std.load_model("tiny")
    changed = change(plain)
    differ = {part for part in ("text_encoder", "denoiser", "vae") if plain.digest(part) != changed.digest(part)}
    assert differ == parts


def test_what_is_taken_back_leaves_nothing() -> None:
    plain = std.load_model("tiny")
    assert std.tile_vae(std.tile_vae(plain, True, True), False) == plain
    assert std.optimize_model(std.optimize_model(plain, channels_last=True)) == plain
    assert set(OPTIONS) == {name for change, _ in EVERY.values() for name, _ in change(plain).options} | {"offload"}


def test_tiling_in_a_graph_decodes_again_and_does_nothing_else() -> None:
    def graph(tiling: bool) -> Graph:
        with Graph() as built:
            model = std.load_model("tiny")
            text = std.encode_prompt(model, "a red circle")
            std.decode_latent(std.tile_vae(model, tiling), std.sample(model, text, seed=41, steps=1))
        return built

    graph(False).run()
    from graphengine.execution.run import run

    reuse = run(graph(True)).reuse
    assert {name: found.value for name, found in reuse.items() if found.value == "computed"}.keys() <= {
        "load_model", "tile_vae", "decode_latent"
    }  # fmt: skip
    assert reuse["decode_latent"].value == "computed"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "group", "sequential"])
def test_offload_without_a_gpu_is_a_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    changes._warn_of_offload.cache_clear()
    made = []
    for offloaded in (True, False):
        with Graph() as graph:
            model = std.load_model("tiny")
            model = std.offload_model(model, kind, "cuda:1") if offloaded else model
            graph.output("latent", std.sample(model, std.encode_prompt(model, "a red circle"), seed=1, steps=1))
        made.append(graph.run(device="cpu", store=Values())["latent"].samples)
    assert torch.equal(*made)
    (said,) = [record.getMessage() for record in caplog.records if "offloaded" in record.getMessage()]
    assert said.startswith("tiny is to be offloaded")
    assert said.endswith("this run computes on cpu, where they are anyway: offload_model does nothing")


def test_layout_of_a_transformer_would_change_nothing() -> None:
    transformer = std.Model("flux", (), source="flux")
    with pytest.raises(ModelError, match=r"channels_last would change nothing: the denoiser of flux is a transformer"):
        std.optimize_model(transformer, channels_last=True)


def test_int8_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelError, match=r"int8 needs the library torchao .*graphengine\[int8\].* or take float8"):
        std.encode_prompt(std.quantize_model(std.load_model("tiny"), "int8"), "never encoded")


# --- leases -----------------------------------------------------------------------------------------------------------


def test_what_is_cast_while_it_computes_serves_several_calls_at_once() -> None:
    model = std.quantize_model(std.load_model("tiny"))
    text, start = std.encode_prompt(model, "a"), threading.Barrier(4)
    found: dict[int, torch.Tensor] = {}

    def sampled(seed: int) -> torch.Tensor:
        return std.sample(model, text, seed=seed, steps=2, width=64, height=64).samples

    def run(seed: int) -> None:
        start.wait()
        found[seed] = sampled(seed)

    expected = {seed: sampled(seed) for seed in range(4)}

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], expected[seed]) for seed in range(4))


def leased(store: WeightStore, name: str) -> AbstractContextManager[Any]:
    """`tiny`'s UNet, whose weights move while it computes, as for a GPU; under a name of its own."""
    location = files.locate(std.load_model("tiny").component("unet"), "")
    read = functools.partial(family("stable_diffusion").load, "unet", location, torch.float32)
    return store._computing((name,), "cpu", read, [changes.sequential_offload("cpu")], "sequential")


def test_leases_of_several_components_in_any_order_end() -> None:
    small, both = WeightStore(), threading.Barrier(2, timeout=5)
    inside: list[int] = []
    most: list[int] = []

    def run(names: str) -> None:
        both.wait()
        with leased(small, names[0]), leased(small, names[1]):
            inside.append(1)
            time.sleep(0.05)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=run, args=(names,)) for names in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [1, 1]


def test_a_failed_call_gives_its_lease_back() -> None:
    small = WeightStore()
    with pytest.raises(RuntimeError), leased(small, "a"):
        raise RuntimeError

    def again() -> None:
        with leased(small, "b"):
            pass

    done = threading.Thread(target=again)
    done.start()
    done.join(20)
    assert not done.is_alive()


# --- memory -----------------------------------------------------------------------------------------------------------


def test_bytes_that_each_option_takes() -> None:
    plain = std.load_model("tiny")

    def held(*models: std.Model, name: str = "unet") -> int:
        small = WeightStore()
        for model in models:
            with small.component(model, name, "cpu"):
                pass
        return small.size()

    whole = held(plain)
    assert held(std.quantize_model(plain)) < 0.32 * whole
    assert held(std.quantize_model(plain, "int8")) < 0.75 * whole, "convolutions stay"
    assert held(std.change_precision(plain, "bfloat16")) == whole // 2
    assert held(std.optimize_model(plain, channels_last=True)) == whole
    assert held(plain, std.change_precision(plain, "float32")) == whole, "the same numbers, whoever asks"
    assert held(plain, std.tile_vae(plain), std.tile_vae(plain, True, True), name="vae") == held(plain, name="vae")


@pytest.mark.parametrize("offload", [changes.sequential_offload, changes.group_offload])
def test_weights_in_pieces_give_the_same_result(offload: Callable[[str], changes.ModuleChange]) -> None:
    """The mechanism itself, from the CPU to the CPU; a run needs a GPU for it."""
    plain = std.load_model("tiny")
    with store.component(plain, "unet", "cpu") as base, torch.no_grad():
        clone = changes.shared_clone(base)
        offload("cpu").apply(clone)
        latents, text = torch.randn(2, 4, 16, 16), torch.randn(2, 77, base.config.cross_attention_dim)
        assert torch.equal(clone(latents, 5, text).sample, base(latents, 5, text).sample)
        assert not any(parameter.is_meta for parameter in base.parameters())


# --- what needs a compiler or a GPU -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_compiled_blocks_give_nearly_the_same() -> None:
    plain = std.load_model("tiny")
    found = picture(std.optimize_model(plain, compile=True))
    assert np.allclose(found, picture(plain), atol=1e-3)
    with store.component(std.optimize_model(plain, compile=True), "unet", "cpu") as unet:
        assert any(module._compiled_call_impl is not None for module in unet.modules())
    with store.component(plain, "unet", "cpu") as unet:
        assert all(module._compiled_call_impl is None for module in unet.modules())


class TestOnAGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("kind", ["model", "group", "sequential"])
    def test_offload_gives_the_same_picture(self, kind: str) -> None:
        def on_gpu(model: std.Model) -> np.ndarray[Any, Any]:
            with Graph() as graph:
                text = std.encode_prompt(model, cases.PROMPT)
                std.decode_latent(model, std.sample(model, text, seed=1, steps=2))
            from graphengine.cache import Store as Memory
            from graphengine.execution.run import run

            found: std.Image = run(graph, device="cuda", store=Memory())["decode_latent"]
            return found.pixels.numpy()

        plain = std.load_model("tiny")
        before = on_gpu(plain)
        assert np.array_equal(on_gpu(std.offload_model(plain, kind)), before)
        store.clear()
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        on_gpu(std.offload_model(plain, kind))
        assert torch.cuda.memory_allocated() - held < 4 << 20, "nothing stays on the GPU"

    def test_half_precision_is_near(self) -> None:
        plain = std.load_model("tiny")
        text = std.encode_prompt(plain, cases.PROMPT)
        with Graph() as graph:
            std.sample(std.change_precision(plain, "float16"), text, seed=1, steps=2)
        found = graph.run(device="cuda")["sample"]
        away = (found.samples.float() - std.sample(plain, text, seed=1, steps=2).samples).abs().mean()
        assert 0 < away < 0.1  # of latents of about 1
