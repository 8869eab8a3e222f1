"""Image encoders of IP-Adapters: CLIP's picture side, in a folder of transformers or in one file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.reading import empty_module, fill, read_tensors
from graphengine_nodes.weights.vocabulary import written

if TYPE_CHECKING:
    import torch

STEM = "model"
"""The name of the weight files in an image encoder's folder."""

HEADS = {1024: (16, "quick_gelu"), 1280: (16, "gelu"), 1664: (16, "gelu")}
"""Heads and activation, which no shape tells, by width: of OpenAI's ViT-L, and LAION's ViT-H and ViT-bigG."""

OF_TEXT = ("text_model.", "text_projection.", "logit_scale")
"""What the names of a whole CLIP model's other tensors begin with."""


def encoder_at(path: Path) -> Location:
    """The location of an image encoder: a folder, or a file with its configuration beside it or told by its shapes.

    Raises:
        ModelError: A file holds none, or one whose heads are not known.
    """
    if not path.is_file():
        return Location(path)
    if (path.parent / "config.json").is_file():
        return Location(path, "image_encoder", path.parent)
    header = {name: entry["shape"] for name, entry in files.read_header(path).items()}
    strange = [n for n in header if not n.startswith(("vision_model.", "visual_projection.", *OF_TEXT))]
    try:
        width, _, patch, _ = header["vision_model.embeddings.patch_embedding.weight"]
        places = header["vision_model.embeddings.position_embedding.weight"][0]
        inner = header["vision_model.encoder.layers.0.mlp.fc1.weight"][0]
        embedding = header["visual_projection.weight"][0]
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} holds no image encoder with transformers' names: {error} is missing") from None
    if strange:
        raise ModelError(f"{path} holds {len(strange)} tensors that nothing is known about, the first is {strange[0]}")
    if width not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise ModelError(
            f"{path} is an image encoder {width} wide, of which no shape tells the heads (known are {known}): give its "
            "folder, with config.json"
        )
    heads, activation = HEADS[width]
    config = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len({name.split(".")[3] for name in header if name.startswith("vision_model.encoder.")}),
        "num_attention_heads": heads,
        "hidden_act": activation,
        "patch_size": patch,
        "image_size": patch * math.isqrt(places - 1),
        "projection_dim": embedding,
    }
    texts = {"image_encoder/config.json": json.dumps(config, indent=1, sort_keys=True)}
    return Location(path, "image_encoder", written(digest_of(texts), texts) / "image_encoder")


def encoder_config(folder: Path) -> dict[str, Any]:
    """The configuration of the image encoder in a folder: CLIP's picture side, alone or in a whole CLIP model.

    Raises:
        ModelError: There is none, or it is of another kind.
    """
    config = files.read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "clip" and isinstance(config.get("vision_config"), dict):
        config = config["vision_config"]
    elif kind != "clip_vision_model":
        raise ModelError(f"{folder} is a {kind or 'model of no type'}, and no image encoder of CLIP")
    for name in ("image_size", "hidden_size", "projection_dim"):
        if not isinstance(config.get(name), int):
            raise ModelError(f"{folder / 'config.json'} says no {name}; copy it again")
    return dict(config)


def load_encoder(location: Location, dtype: torch.dtype) -> Any:
    """Load an image encoder, on the CPU.

    Raises:
        ModelError: Its files are damaged or incomplete.
    """
    from transformers import CLIPVisionModelWithProjection

    folder = location.folder
    module = empty_module(CLIPVisionModelWithProjection, encoder_config(folder), folder / "config.json")
    alone = location.config is not None
    paths = [location.path] if alone else files.weight_files(location.path, STEM).files
    tensors = {name: t for path in paths for name, t in read_tensors(path, dtype).items()}
    return fill(module, {n: t for n, t in tensors.items() if not n.startswith(OF_TEXT)}, location.path)
