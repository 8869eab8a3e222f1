"""A LoRA changes what it is applied to and nothing else, and weights exist once."""

from __future__ import annotations

import threading
from pathlib import Path

import graphengine_nodes as std
import psutil
import pytest
import torch
from graphengine_nodes.store.store import WeightStore, store
from graphengine_nodes.testing import sd as testing
from safetensors.torch import load_file, save_file

from graphengine import ModelError
from tests.graphengine_nodes import cases


def latent(model: std.Model) -> torch.Tensor:
    return std.sample(model, std.encode_prompt(model, cases.PROMPT), seed=1, steps=2).samples


def with_lora(scale: float, source: str | Path = "tiny-blueprint") -> std.Model:
    return std.apply_lora(std.load_model("tiny"), std.load_lora(source), scale)


def test_with_and_without_in_any_order_and_at_once() -> None:
    plain = std.load_model("tiny")
    store.clear()
    before = latent(plain)
    changed = latent(with_lora(0.8))
    assert not torch.equal(before, changed)
    assert torch.equal(latent(plain), before)
    store.clear()
    assert torch.equal(latent(with_lora(0.8)), changed)  # the LoRA first
    assert torch.equal(latent(plain), before)
    found: dict[int, torch.Tensor] = {}
    start = threading.Barrier(4)

    def run(index: int) -> None:
        start.wait()
        found[index] = latent(plain if index % 2 else with_lora(0.8))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(4):
        assert torch.equal(found[index], before if index % 2 else changed)


def test_scale_nought_is_the_model_itself() -> None:
    assert torch.equal(latent(with_lora(0.0)), latent(std.load_model("tiny")))


def test_weights_exist_once() -> None:
    plain, changed = std.load_model("tiny"), with_lora(0.8)
    with store.component(plain, "unet", "cpu") as base, store.component(changed, "unet", "cpu") as clone:
        assert base is not clone
        assert not any("lora" in name for name, _ in base.named_parameters())
        assert not hasattr(base, "peft_config")
        own = {p.data_ptr() for p in base.parameters()}
        others = {p.data_ptr() for name, p in clone.named_parameters() if "lora" not in name}
        assert own == others


def test_ten_scales_take_little_memory() -> None:
    latent(with_lora(0.5))
    before, held = psutil.Process().memory_info().rss, store.size()
    for scale in range(1, 11):
        latent(with_lora(scale / 100))
    assert psutil.Process().memory_info().rss - before < 120e6, "ten copies of the UNet would take 220 MB"
    assert store.size() - held < 20e6


def test_one_on_the_text_encoder_enters_its_digest_and_others_do_not(models: Path) -> None:
    plain, words = std.load_model("tiny"), with_lora(1.0, models / "words.safetensors")
    assert with_lora(0.5).digest("text_encoder") == plain.digest("text_encoder")
    assert with_lora(0.5).digest("vae") == plain.digest("vae")
    assert with_lora(0.5).digest("denoiser") != plain.digest("denoiser")
    assert with_lora(0.5).digest("denoiser") != with_lora(0.6).digest("denoiser")
    assert words.digest("text_encoder") != plain.digest("text_encoder")
    assert words.digest() != plain.digest()


def test_one_for_another_model_says_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "foreign.safetensors"
    name = "unet.down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.zeros(4, 96), f"{name}.lora_B.weight": torch.zeros(96, 4)}, file)
    with pytest.raises(ModelError, match=r"foreign\.safetensors (is for another model|does not fit)"):
        latent(with_lora(1.0, file))
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.zeros(4, 50), f"{name}.lora_B.weight": torch.zeros(96, 4)}, file)
    with pytest.raises(ModelError, match=r"foreign\.safetensors does not fit this model's unet"):
        latent(with_lora(1.0, file))
    right = {f"{name}.lora_A.weight": torch.zeros(4, 96), f"{name}.lora_B.weight": torch.zeros(96, 4)}
    wrong = {key.replace("to_q", end): t.clone() for key, t in right.items() for end in ("to_z", "to_y")}
    save_file(right | wrong, file)
    with pytest.raises(ModelError, match=r"for another model: 2 of its 3 changes .* the first is .*attn1\.to_[yz]"):
        latent(with_lora(1.0, file))
    save_file(right, file)
    assert torch.equal(latent(with_lora(1.0, file)), latent(std.load_model("tiny")))  # nothing is left of the failures


def test_what_finds_no_place_is_told_where_the_rest_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from graphengine_nodes.testing import sd as testing
    from safetensors.torch import load_file, save_file

    tensors = load_file(testing.lora(tmp_path / "right.safetensors", parts=("unet", "text_encoder"), kohya=True))
    expected = latent(with_lora(1.0, tmp_path / "right.safetensors"))
    assert not caplog.records
    name = next(key for key in tensors if "attn1_to_q.lora_down" in key)
    more = {key.replace("to_q", "to_z"): t.clone() for key, t in tensors.items() if key.split(".")[0] in name}
    save_file(tensors | more, tmp_path / "more.safetensors")
    assert torch.equal(latent(with_lora(1.0, tmp_path / "more.safetensors")), expected)
    found = [record.getMessage() for record in caplog.records if record.name == "graphengine_nodes.weights.reading"]
    assert len(found) == 1
    assert "more.safetensors: 1 of its" in found[0]
    assert "to_z" in found[0] or "to.z" in found[0]


def test_a_dropped_base_stays_while_clones_use_it() -> None:
    small = WeightStore(budget=1)
    plain, changed = std.load_model("tiny"), with_lora(0.8)
    with small.component(changed, "unet", "cpu") as clone:
        assert small.size() > 1  # in use, so nothing was dropped
        assert clone is not None
    with small.component(plain, "vae", "cpu"):
        pass
    assert small.size() == 0


def test_half_a_lora(tmp_path: Path) -> None:
    whole = load_file(testing.lora(tmp_path / "whole.safetensors"))
    save_file({name: tensor for name, tensor in whole.items() if "lora_A" in name}, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match=r"half\.safetensors does not fit this model's unet"):
        latent(with_lora(1.0, tmp_path / "half.safetensors"))
