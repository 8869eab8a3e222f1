"""The store of weights: one load for concurrent calls, a byte budget, errors that are not remembered."""

from __future__ import annotations

import functools
import platform
import threading
import time
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes import families
from graphengine_nodes.store.changes import changes_of, shared_clone
from graphengine_nodes.store.store import WeightStore
from graphengine_nodes.weights import files

from graphengine import ModelError


def module(kilobytes: int) -> torch.nn.Module:
    return torch.nn.Linear(256, kilobytes, bias=False)  # 256 x 4 bytes in a row


def test_one_load_for_all_who_want_it() -> None:
    store, found, wanted = WeightStore(), list[Any](), threading.Semaphore(0)

    def load() -> torch.nn.Module:
        for _ in range(8):  # all want it before there is one
            assert wanted.acquire(timeout=60)
        return module(1)

    def want() -> None:
        wanted.release()
        with store.hold("a", "cpu", load) as value:
            found.append(value)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.loads["a"] == 1
    assert len({id(value) for value in found}) == 1


def test_loads_of_different_things_do_not_wait_for_each_other() -> None:
    store, both = WeightStore(), threading.Barrier(2, timeout=5)

    def load() -> torch.nn.Module:
        both.wait()  # passes only when the other is loading as well
        return module(1)

    def want(key: str) -> None:
        with store.hold(key, "cpu", load):
            pass

    threads = [threading.Thread(target=want, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.loads == {"a": 1, "b": 1}


def test_the_budget_drops_what_is_cheap_and_long_unused() -> None:
    store = WeightStore(budget=2500 * 1024)

    def take(key: str, seconds: float = 0.0) -> None:
        def load() -> torch.nn.Module:
            time.sleep(seconds)
            return module(1000)

        with store.hold(key, "cpu", load):
            pass

    take("dear", 0.1)
    take("cheap")
    take("third", 0.01)
    assert store.evictions == {"cheap": 1}
    assert store.size() <= 2500 * 1024
    take("dear")
    assert store.loads["dear"] == 1


def test_what_is_free_is_what_the_budget_leaves() -> None:
    store = WeightStore(budget=2500 * 1024)
    assert store.free("cpu") is None
    for _ in range(2):
        with store.hold("a", "cpu", lambda: module(1)):
            assert store.free("cpu") == 2500 * 1024 - store.size("cpu") > 0
    assert store.free("cuda:7") is None
    store.budget = 1
    assert store.free("cpu") == 0


@pytest.mark.gpu  # where there is none, offload_model only warns
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["cuda:99", "xpu:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    model = std.offload_model(std.load_model("tiny"), "model", name)
    with pytest.raises(ModelError, match=rf"there is no {name} here: this machine has .*; name another device"):
        std.encode_prompt(model, "a red circle")


def test_what_is_held_is_not_dropped() -> None:
    store = WeightStore(budget=1)
    with store.hold("a", "cpu", lambda: module(10)) as value:
        with store.hold("b", "cpu", lambda: module(10)):
            pass
        assert store.evictions == {"b": 1}
        assert value.weight.shape == (10, 256)
    assert store.evictions == {"a": 1, "b": 1}


def test_where_memory_runs_out_what_nobody_holds_makes_room() -> None:
    store, tries = WeightStore(), []
    with store.hold("old", "cpu", lambda: module(10)):
        pass

    def load() -> torch.nn.Module:
        tries.append(store.size())
        if len(tries) == 1:
            raise torch.OutOfMemoryError
        return module(10)

    with store.hold("new", "cpu", load):
        pass
    assert tries == [10 * 1024, 0]
    assert store.evictions == {"old": 1}


def test_a_failed_load_is_tried_again() -> None:
    store = WeightStore()

    def fail() -> Any:
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"), store.hold("a", "cpu", fail):
        pass
    with store.hold("a", "cpu", lambda: module(1)):
        pass
    assert store.loads["a"] == 1


def test_loading_two_models_at_once_disturbs_neither(models: Path) -> None:
    """The libraries' own loaders patch torch for all threads meanwhile."""
    alone = WeightStore()
    names = ("unet", "vae", "text_encoder")
    wanted = [(model, name) for model in ("tiny", models / "nine") for name in names]
    expected = {}
    for source, name in wanted:
        with alone.component(std.load_model(source), name, "cpu") as found:
            expected[source, name] = {key: tensor.clone() for key, tensor in found.state_dict().items()}
    together, start = WeightStore(), threading.Barrier(len(wanted))
    wrong: list[str] = []

    def load(source: str | Path, name: str) -> None:
        start.wait()
        with together.component(std.load_model(source), name, "cpu") as found:
            for key, tensor in found.state_dict().items():
                if not torch.equal(tensor, expected[source, name][key]):
                    wrong.append(f"{name} {key}")

    threads = [threading.Thread(target=load, args=one) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bytes_are_found_by_digest_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model = std.load_model("tiny")
    monkeypatch.setattr(files, "_locations", {})  # what another process knows
    with WeightStore().component(model, "vae", "cpu") as vae:
        assert vae.config.latent_channels == 4


def test_unknown_digests_say_what_to_do() -> None:
    unknown = std.Model("stable_diffusion", (("vae", "0" * 32),), source="lost model")
    what = rf"lost model's vae .* not known on {platform.node()} \(in .*\); load them there once"
    with pytest.raises(ModelError, match=what), WeightStore().component(unknown, "vae", "cpu"):
        pass


# --- options, and what services ask for -------------------------------------------------------------------------------


def held(small: WeightStore, *models: std.Model, name: str = "unet") -> int:
    """Bytes in a store after these models were used."""
    for model in models:
        with small.component(model, name, "cpu"):
            pass
    return small.size()


def test_weights_exist_once_for_all_that_can_share_them(models: Path) -> None:
    plain = std.load_model("tiny")
    one = held(WeightStore(), plain)
    loras = [std.apply_lora(plain, std.load_lora("tiny-blueprint"), scale) for scale in (0.5, 0.7)]
    many = [plain, std.change_precision(plain, "float32"), *loras, std.tile_vae(plain), std.optimize_model(plain)]
    extra = 2 * sum(file.stat().st_size for file in [files.TINY / "lora" / "blueprint.safetensors"])
    assert held(WeightStore(), *many) <= one + 2 * extra  # LoRAs are kept in float32
    assert held(WeightStore(), plain, std.change_precision(plain, "bfloat16")) == one * 3 // 2


def test_what_moves_or_casts_a_clone_does_not_reach_what_it_shares() -> None:
    original = torch.nn.Linear(4, 4)
    clone = shared_clone(original)
    assert clone.weight.data_ptr() == original.weight.data_ptr()
    clone.to(torch.bfloat16)
    assert original.weight.dtype is torch.float32


def test_what_is_cast_while_it_computes_keeps_no_other_copy() -> None:
    plain = std.load_model("tiny")
    small = WeightStore()
    assert held(small, std.quantize_model(plain)) < 0.32 * held(WeightStore(), plain)
    assert len(small.loads) == 1


def test_the_budget_counts_clones_and_drops_them_before_what_they_share() -> None:
    plain = std.load_model("tiny")
    changed = std.apply_lora(plain, std.load_lora("tiny-blueprint"), 0.5)
    small = WeightStore(budget=held(WeightStore(), plain) + 1000)
    held(small, changed)
    assert sum(small.evictions.values()) == 1
    held(small, plain)
    assert sum(small.loads.values()) == 2, "the weights themselves stayed"


def test_which_devices_hold_a_model_and_forgetting_it(models: Path) -> None:
    small, plain, other = WeightStore(), std.load_model("tiny"), std.load_model(models / "nine")
    assert small.devices_of(plain) == []
    held(small, plain, other)
    held(small, plain, name="vae")
    assert small.devices_of(plain) == ["cpu"]
    rest = held(WeightStore(), other)
    small.forget(plain)
    assert small.devices_of(plain) == []
    assert (small.devices_of(other), small.size()) == (["cpu"], rest)
    with small.component(plain, "unet", "cpu"):
        small.forget(plain)
        assert small.devices_of(plain) == ["cpu"], "it is in use"


def test_switching_between_models_in_memory_loads_nothing(models: Path) -> None:
    small, both = WeightStore(), [std.load_model("tiny"), std.load_model(models / "nine")]
    held(small, *both)
    before = dict(small.loads)
    start = time.perf_counter()
    held(small, *both * 5)
    assert dict(small.loads) == before
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize("change", [lambda m: m, std.quantize_model, lambda m: std.quantize_model(m, "int8")])
def test_a_component_that_is_brought_to_a_device_gives_the_same_and_leaves_nothing(change: Any) -> None:
    """Offload by components, from the CPU to the CPU; a run needs a GPU for it."""
    small = WeightStore()
    model = change(std.apply_lora(std.load_model("tiny"), std.load_lora("tiny-blueprint"), 0.5))
    latents = torch.randn(2, 4, 8, 8)
    with small.component(model, "unet", "cpu") as unet, torch.no_grad():
        text = torch.randn(2, 77, unet.config.cross_attention_dim)
        expected = unet(latents, 5, text).sample
    todo = changes_of(model, "unet", "cpu")
    read = functools.partial(families.family(model.family).load, "unet", files.locate(model.component("unet"), ""))
    for _ in range(2):
        visit = small._computing(("visited",), "cpu", lambda: read(torch.float32), todo, "model")
        with visit as unet, torch.no_grad():
            assert torch.equal(unet(latents, 5, text).sample, expected)
            during = small.size()
    assert small.size() < during
