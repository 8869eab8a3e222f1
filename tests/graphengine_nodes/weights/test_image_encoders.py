"""Image encoders in single files are those of their folders; configurations follow from shapes, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing import ip_adapters as testing
from graphengine_nodes.weights.image_encoders import encoder_at, encoder_config
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from graphengine import ModelError
from tests.graphengine_nodes import cases
from tests.graphengine_nodes.weights.test_ip_adapter_files import header_only


def published(width: int, inner: int, layers: int, embedding: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a published encoder's file."""
    vision, layer = "vision_model", {"layer_norm1": 0, "layer_norm2": 0, "mlp.fc1": inner, "mlp.fc2": width}
    found: dict[str, tuple[int, ...]] = {
        f"{vision}.embeddings.class_embedding": (width,),
        f"{vision}.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{vision}.embeddings.position_embedding.weight": (257, width),
        f"{vision}.embeddings.position_ids": (1, 257),
        "visual_projection.weight": (embedding, width),
    }
    found |= {
        f"{vision}.{norm}.{end}": (width,) for norm in ("pre_layrnorm", "post_layernorm") for end in ("weight", "bias")
    }
    for n in range(layers):
        start = f"{vision}.encoder.layers.{n}"
        for name, rows in layer.items():
            columns = inner if name == "mlp.fc2" else width
            found |= {
                f"{start}.{name}.weight": (rows, columns) if rows else (width,),
                f"{start}.{name}.bias": (rows or width,),
            }
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= {f"{start}.self_attn.{name}.weight": (width, width), f"{start}.self_attn.{name}.bias": (width,)}
    return found


@pytest.mark.parametrize(
    ("shape", "activation"),
    [((1024, 4096, 24, 768), "quick_gelu"), ((1280, 5120, 32, 1024), "gelu"), ((1664, 8192, 48, 1280), "gelu")],
    ids=["ViT-L", "ViT-H", "ViT-bigG"],
)
def test_configurations_of_published_encoders(
    shape: tuple[int, int, int, int], activation: str, tmp_path: Path
) -> None:
    place = encoder_at(header_only(tmp_path / "encoder.safetensors", published(*shape)))
    found = encoder_config(place.folder)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "projection_dim")
    assert tuple(found[name] for name in names) == shape
    assert (found["num_attention_heads"], found["hidden_act"]) == (16, activation)
    assert (found["image_size"], found["patch_size"]) == (224, 14)


def embeds(adapter: Path, encoder: Path) -> torch.Tensor:
    found = std.load_ip_adapter(adapter, encoder)
    return std.encode_image_prompt(found, images.from_pil(cases.picture())).embeds


def test_a_file_is_the_encoder_of_its_folder(tmp_path: Path) -> None:
    adapter = testing.ip_adapter(tmp_path / "adapter.safetensors")
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=64, num_hidden_layers=2, num_attention_heads=16, image_size=32,
        patch_size=16, projection_dim=testing.EMBEDDING,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "folder")
    file = tmp_path / "CLIP-ViT-L-14.safetensors"
    shutil.copy(tmp_path / "folder" / "model.safetensors", file)
    assert torch.equal(embeds(adapter, file), embeds(adapter, tmp_path / "folder"))


def test_a_whole_clip_model_and_a_file_beside_its_configuration(tmp_path: Path) -> None:
    adapter = testing.ip_adapter(tmp_path / "adapter.safetensors")
    folder = testing.image_encoder(tmp_path / "image_encoder")
    expected = embeds(adapter, folder)
    assert torch.equal(embeds(adapter, folder / "model.safetensors"), expected)
    vision = json.loads((folder / "config.json").read_text())
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(text_config=small | {"vocab_size": 99}, vision_config=vision, projection_dim=32))
    whole.save_pretrained(tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors") | load_file(folder / "model.safetensors")
    save_file(tensors, tmp_path / "whole" / "model.safetensors")
    # Elsewhere in its file a tensor lies at another alignment, which the last bits of products depend on.
    assert torch.allclose(embeds(adapter, tmp_path / "whole"), expected, atol=1e-4)


def test_files_that_are_no_known_encoders_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    header_only(file, published(48, 96, 2, 32))
    with pytest.raises(ModelError, match=r"is an image encoder 48 wide, of which no shape tells the heads \(known are"):
        encoder_at(file)
    header_only(file, published(1024, 4096, 2, 768) | {"extra.weight": (1,)})
    with pytest.raises(ModelError, match=r"holds 1 tensors that nothing is known about, the first is extra\.weight"):
        encoder_at(file)
    header_only(file, {"visual.conv1.weight": (1024, 3, 14, 14)})
    with pytest.raises(ModelError, match="holds no image encoder with transformers' names: 'vision_model"):
        encoder_at(file)
