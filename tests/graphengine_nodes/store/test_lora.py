"""A LoRA changes what it is applied to and nothing else, and weights exist once."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import graphengine_nodes as std
import psutil
import pytest
import torch
from graphengine_nodes.store.store import WeightStore, store
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights.files import TINY
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


def layer(name: str, width: int = 96) -> dict[str, torch.Tensor]:
    """A change of a layer of `tiny`'s UNet, of nought."""
    return {f"{name}.lora_A.weight": torch.zeros(4, width), f"{name}.lora_B.weight": torch.ones(96, 4)}


RIGHT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def test_one_for_another_model_says_so(tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    save_file(layer(RIGHT, 50), file)
    with pytest.raises(ModelError, match=r"foreign\.safetensors does not fit this model's unet"):
        latent(with_lora(1.0, file))
    wrong = {name: t + 1 for end in ("to_z", "to_y") for name, t in layer(RIGHT.replace("to_q", end)).items()}
    save_file(layer(RIGHT) | wrong, file)
    with pytest.raises(ModelError, match=r"for another model: 2 of its 3 changes .* the unet, .* is .*attn1\.to_[yz]"):
        with_lora(1.0, file)
    save_file(layer(RIGHT), file)
    assert torch.equal(latent(with_lora(1.0, file)), latent(std.load_model("tiny")))  # nothing is left of the failures


def test_what_finds_no_place_is_an_error_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = load_file(testing.lora(tmp_path / "right.safetensors", parts=("unet", "text_encoder"), kohya=True))
    expected = latent(with_lora(1.0, tmp_path / "right.safetensors"))
    name = next(key for key in tensors if "attn1_to_q.lora_down" in key)
    more = {key.replace("to_q", "to_z"): t.clone() for key, t in tensors.items() if key.split(".")[0] in name}
    file = tmp_path / "more.safetensors"
    save_file(tensors | more, file)
    plain, lora = std.load_model("tiny"), std.load_lora(file)
    with pytest.raises(ModelError, match=r"more\.safetensors does not fit: 1 of its \d+ .*to_z.*partial=true"):
        std.apply_lora(plain, lora)
    partial = std.apply_lora(plain, lora, partial=True)
    assert partial.digest("denoiser") != std.apply_lora(plain, std.load_lora("tiny-blueprint")).digest("denoiser")
    assert not caplog.records
    assert torch.equal(latent(partial), expected)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 1
    assert re.match(r"more\.safetensors: 1 of its \d+ changes find no place in the unet, .*to_z", found[0])
    # A change of nought changes nothing, wherever it belongs.
    save_file(tensors | {key: t * ("lora_up" not in key) for key, t in more.items()}, file)
    assert torch.equal(latent(with_lora(1.0, file)), expected)


def test_text_encoders_have_a_scale_of_their_own(models: Path) -> None:
    plain, lora = std.load_model("tiny"), std.load_lora(models / "words.safetensors")
    both = std.apply_lora(plain, lora, 0.5, text_scale=0.8)
    assert both.digest("denoiser") == std.apply_lora(plain, lora, 0.5).digest("denoiser")
    assert both.digest("text_encoder") == std.apply_lora(plain, lora, 0.8).digest("text_encoder")
    assert std.apply_lora(plain, lora, 0.5, text_scale=0.5) == std.apply_lora(plain, lora, 0.5)
    embeds = [std.encode_prompt(std.apply_lora(plain, lora, *s), cases.PROMPT).embeds for s in ((0.5, 0.8), (0.8,))]
    assert torch.equal(*embeds)


FOREIGN = {
    "SDXL's second text encoder": "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
    "FLUX's T5": "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
    "Stable Diffusion 3": "transformer.transformer_blocks.0.attn.to_q",
    "FLUX, kohya": "lora_unet_double_blocks_0_img_attn_qkv",
    "FLUX, ComfyUI": "diffusion_model.single_blocks.0.linear1",
    "Wan": "diffusion_model.blocks.0.self_attn.q",
    "Z-Image": "diffusion_model.layers.0.attention.qkv",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("beside", [False, True])
def test_layers_of_other_families_are_refused_before_anything_is_loaded(
    name: str, beside: bool, tmp_path: Path, models: Path
) -> None:
    foreign = {key: t + 1 for key, t in layer(FOREIGN[name]).items()}
    save_file(foreign | (layer(RIGHT) if beside else {}), tmp_path / "foreign.safetensors")
    single = testing.single_file(tmp_path / "single.safetensors")
    lora, loads = std.load_lora(tmp_path / "foreign.safetensors"), dict(store.loads)
    for model in (std.load_model("tiny"), std.load_model(single, config=TINY / "model")):
        with pytest.raises(ModelError, match=r"foreign\.safetensors (is a LoRA for|is for another model|does not fit)"):
            std.apply_lora(model, lora)
    assert store.loads == loads


@pytest.mark.parametrize("quantization", [None, "int8", "float8"])
def test_a_base_with_and_without_takes_the_memory_of_one(quantization: str | None, tmp_path: Path) -> None:
    plain = std.load_model("tiny")
    if quantization:
        plain = std.quantize_model(plain, quantization)
    file = testing.lora(tmp_path / "small.safetensors", rank=1)
    tensors = load_file(file)
    hada = {name.split(".lora")[0] for name in tensors}
    factors = {}
    for name in hada:
        down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        sides = (up, down, up.clone(), down.clone())
        ends = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        factors |= {f"{name}.{end}": side for end, side in zip(ends, sides, strict=True)}
        magnitude = torch.ones(up.shape[0], 1)
        factors[f"{name}.dora_scale"] = magnitude
    save_file(factors, tmp_path / "loha.safetensors")
    small = WeightStore()
    with small.component(plain, "unet", "cpu"):
        one = small.size()
        for source in (file, tmp_path / "loha.safetensors"):
            changed = std.apply_lora(plain, std.load_lora(source))
            with small.component(changed, "unet", "cpu"):
                assert one < small.size() <= 1.05 * one
            small.clear()


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
    with pytest.raises(ModelError, match=r"half\.safetensors is incomplete: beside .*lora_A\.weight there is no up"):
        std.load_lora(tmp_path / "half.safetensors")
