"""The store of weights: one load for all who want the same, a byte budget, errors that are not remembered."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes import checkpoints
from graphengine_nodes.weights import Store

from graphengine import ModelError


def module(kilobytes: int) -> torch.nn.Module:
    return torch.nn.Linear(256, kilobytes, bias=False)  # 256 x 4 bytes in a row


def test_one_load_for_all_who_want_it() -> None:
    store, start = Store(), threading.Barrier(8)
    found: list[Any] = []

    def load() -> torch.nn.Module:
        time.sleep(0.05)
        return module(1)

    def want() -> None:
        start.wait()
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
    store, both = Store(), threading.Barrier(2, timeout=5)

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
    store = Store(budget=2500 * 1024)

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


def test_what_is_held_is_not_dropped() -> None:
    store = Store(budget=1)
    with store.hold("a", "cpu", lambda: module(10)) as value:
        with store.hold("b", "cpu", lambda: module(10)):
            pass
        assert store.evictions == {"b": 1}
        assert value.weight.shape == (10, 256)
    assert store.evictions == {"a": 1, "b": 1}


def test_where_memory_runs_out_what_nobody_holds_makes_room() -> None:
    store, tries = Store(), []
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
    store = Store()

    def fail() -> Any:
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"), store.hold("a", "cpu", fail):
        pass
    with store.hold("a", "cpu", lambda: module(1)):
        pass
    assert store.loads["a"] == 1


def test_loading_two_models_at_once_disturbs_neither(models: Path) -> None:
    """The libraries' own loaders patch torch for all threads meanwhile."""
    alone = Store()
    names = ("unet", "vae", "text_encoder")
    wanted = [(model, name) for model in ("tiny", models / "nine") for name in names]
    expected = {}
    for source, name in wanted:
        with alone.component(std.load_model(source), name, "cpu") as found:
            expected[source, name] = {key: tensor.clone() for key, tensor in found.state_dict().items()}
    together, start = Store(), threading.Barrier(len(wanted))
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
    monkeypatch.setattr(checkpoints, "_locations", {})  # what another process knows
    with Store().component(model, "vae", "cpu") as vae:
        assert vae.config.latent_channels == 4


def test_unknown_digests_say_what_to_do() -> None:
    unknown = std.Model("stable_diffusion", (("vae", "0" * 32),), source="lost model")
    lost = pytest.raises(ModelError, match=r"lost model's vae .* not known on this machine; load them here once")
    with lost, Store().component(unknown, "vae", "cpu"):
        pass
