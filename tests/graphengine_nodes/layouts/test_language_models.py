"""Language models that read prompts, each alone in its file."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers

from graphengine import ModelError

from . import originals
from .originals import Tensors

QWEN3_4B: dict[str, Any] = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN3_8B = QWEN3_4B | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
QWEN_VL: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
}
MISTRAL: dict[str, Any] = {
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
}


def model(cls: str, config: dict[str, Any]) -> Any:
    made = getattr(transformers, cls)
    with torch.device("meta"):
        return made(made.config_class.from_dict(config))


def stored(module: Any) -> Tensors:
    """What a file has of a model: a table that two places share is in it once."""
    tied = module.config.tie_word_embeddings
    return {name: t for name, t in module.state_dict().items() if not (tied and name == "lm_head.weight")}


def check(tensors: Tensors, cls: str, expected: Any, prefix: str = "") -> dict[str, Any]:
    """A model that is built by the configuration has the tensors that the file has, under its own names."""
    found = originals.read(originals.prefixed(prefix, tensors))
    (component,) = found.components.values()
    assert found.family is None
    assert cls in component.of.classes
    assert cls in component.config["architectures"]
    shapes = {name: tuple(tensor.shape) for name, tensor in stored(model(cls, component.config)).items()}
    assert component.shapes == shapes == {name: tuple(t.shape) for name, t in stored(expected).items()}
    return component.config


@pytest.mark.parametrize("prefix", ["", "text_encoders.qwen3_4b.transformer.", "text_encoder."])
def test_qwen3_of_4_billions(prefix: str) -> None:
    expected = model("Qwen3ForCausalLM", QWEN3_4B)
    config = check(stored(expected), "Qwen3ForCausalLM", expected, prefix)
    assert {name: config[name] for name in QWEN3_4B} == QWEN3_4B
    assert model("Qwen3Model", config).config.rope_parameters["rope_theta"] == 1e6


def test_qwen3_of_8_billions_without_what_is_around_it_and_as_gguf() -> None:
    expected = model("Qwen3ForCausalLM", QWEN3_8B)
    config = check(stored(expected), "Qwen3ForCausalLM", expected)
    assert {name: config[name] for name in QWEN3_8B} == QWEN3_8B
    inner = {name.removeprefix("model."): t for name, t in stored(expected).items() if name != "lm_head.weight"}
    (component,) = originals.read(inner).components.values()
    assert component.places.keys() == stored(expected).keys() - {"lm_head.weight"}
    assert originals.read(gguf(stored(expected))).components[""].shapes == {
        name: tuple(tensor.shape) for name, tensor in stored(expected).items()
    }


def gguf(tensors: Tensors) -> Tensors:
    rules = (
        (r"^model\.layers\.", "blk."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn_\1."),
        (r"\.self_attn\.([qk])_norm\.", r".attn_\1_norm."),
        (r"\.self_attn\.o_proj\.", ".attn_output."),
        (r"\.mlp\.(gate|up|down)_proj\.", r".ffn_\1."),
        (r"\.input_layernorm\.", ".attn_norm."),
        (r"\.post_attention_layernorm\.", ".ffn_norm."),
        (r"^model\.embed_tokens\.", "token_embd."),
        (r"^model\.norm\.", "output_norm."),
        (r"^lm_head\.", "output."),
    )
    return originals.original(tensors, rules)


@pytest.mark.parametrize("names", ["old", "new"])
def test_qwen_2_5_vl(names: str) -> None:
    expected = model("Qwen2_5_VLForConditionalGeneration", QWEN_VL)
    rules = ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual."))
    tensors = stored(expected) if names == "new" else originals.original(stored(expected), rules)
    prefix = "" if names == "new" else "text_encoders.qwen25_7b.transformer."
    config = check(tensors, "Qwen2_5_VLForConditionalGeneration", expected, prefix)
    for part, sizes in QWEN_VL.items():
        assert {name: config[part][name] for name in sizes} == sizes
    assert config["text_config"]["rope_parameters"]["mrope_section"] == [16, 24, 24]


def test_mistral_small() -> None:
    expected = model("MistralForCausalLM", MISTRAL)
    config = check(stored(expected) | {"tekken_model": torch.empty(9)}, "MistralForCausalLM", expected)
    assert {name: config[name] for name in MISTRAL} == MISTRAL
    short = {n: t for n, t in stored(expected).items() if not re.match(r"model\.layers\.3\d\.", n)}
    with pytest.raises(ModelError, match=r"lacks .*model\.layers\.30.* is normalised"):
        originals.read(short).components[""].config  # noqa: B018 - raises


def test_widths_of_no_published_model_are_refused() -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 90, "head_dim": 16}
    with pytest.raises(ModelError, match="no shape tells rope_theta; give config"):
        originals.read(stored(model("Qwen3ForCausalLM", small))).components[""].config  # noqa: B018 - raises
    with pytest.raises(ModelError, match="no shape tells rope_theta; give config"):
        originals.read(stored(model("LlamaForCausalLM", small))).components[""].config  # noqa: B018 - raises


# --- UMT5 -------------------------------------------------------------------------------------------------------------

UMT5: dict[str, Any] = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 256384,
    "feed_forward_proj": "gated-gelu",
}
WANS = (
    (r"^encoder\.block\.", "blocks."),
    (r"\.layer\.0\.layer_norm\.", ".norm1."),
    (r"\.layer\.1\.layer_norm\.", ".norm2."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
    (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
)
LLAMA_CPP = (
    (r"^encoder\.block\.", "enc.blk."),
    (r"\.layer\.0\.layer_norm\.", ".attn_norm."),
    (r"\.layer\.1\.layer_norm\.", ".ffn_norm."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".attn_rel_b."),
    (r"\.layer\.0\.SelfAttention\.", ".attn_"),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn_gate."),
    (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn_up."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn_down."),
    (r"^shared\.", "token_embd."),
    (r"^encoder\.final_layer_norm\.", "enc.output_norm."),
)


@pytest.mark.parametrize("rules", [(), WANS, LLAMA_CPP], ids=["transformers", "Wan's own", "llama.cpp"])
def test_umt5_xxl(rules: originals.Rules) -> None:
    expected = model("UMT5EncoderModel", UMT5)
    tensors = {n: t for n, t in expected.state_dict().items() if n != "encoder.embed_tokens.weight"}
    (component,) = originals.read(originals.original(tensors, rules)).components.values()
    assert component.kind == "UMT5"
    assert {name: component.config[name] for name in UMT5} == UMT5
    assert component.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    built = model("UMT5EncoderModel", component.config)
    assert {
        n: tuple(t.shape) for n, t in built.state_dict().items() if n != "encoder.embed_tokens.weight"
    } == component.shapes


# --- whole files ------------------------------------------------------------------------------------------------------


def test_text_encoders_of_stable_diffusion_3_in_one_file() -> None:
    """Its first CLIP lacks a projection, which then changes nothing."""
    from . import published, test_stable_diffusion_3

    transformer = originals.made("SD3Transformer2DModel", test_stable_diffusion_3.MEDIUM).state_dict()
    shapes = {name: tuple(t.shape) for name, t in test_stable_diffusion_3.sd3(transformer, 24).items()}
    shapes = published.prefixed("model.diffusion_model.", shapes)
    shapes |= published.prefixed("first_stage_model.", published.vae(channels=16, quant=False))
    shapes |= published.prefixed("text_encoders.clip_l.transformer.", published.clip())
    second = published.clip(1280, 32) | {"text_projection.weight": (1280, 1280)}
    shapes |= published.prefixed("text_encoders.clip_g.transformer.", second)
    shapes |= published.prefixed("text_encoders.t5xxl.transformer.", published.t5())
    found = originals.read({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert found.family == "stable_diffusion_3"
    kinds = {"text_encoder": "clip", "text_encoder_2": "clip", "text_encoder_3": "t5"}
    assert {name: part.kind for name, part in found.components.items() if name.startswith("text")} == kinds
    first, big = (found.components[name] for name in ("text_encoder", "text_encoder_2"))
    assert first.config["architectures"] == big.config["architectures"] == ["CLIPTextModelWithProjection"]
    assert (first.config["projection_dim"], big.config["projection_dim"]) == (768, 1280)
    assert (first.config["hidden_act"], big.config["hidden_act"]) == ("quick_gelu", "gelu")
    place = first.places["text_projection.weight"]
    assert torch.equal(place.read(torch.zeros(768)), torch.eye(768))
    assert place.shape((768,)) == (768, 768)


def test_a_whole_file_of_chroma_reads_prompts_with_its_only_text_encoder() -> None:
    from . import published, test_chroma

    tensors = originals.prefixed("model.diffusion_model.", originals.made(test_chroma.CLASS, {}).state_dict())
    shapes = published.prefixed("text_encoders.t5xxl.transformer.", published.t5())
    tensors |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = originals.read(tensors)
    assert found.family == "chroma"
    assert found.components.keys() == {"transformer", "text_encoder"}
