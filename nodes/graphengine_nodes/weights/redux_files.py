"""Files of FLUX.1 Redux: SigLIP's image encoder and the embedder that makes a prompt's tokens of what it sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.image_encoders import STEM
from graphengine_nodes.weights.reading import empty_module, fill, read_tensors
from graphengine_nodes.weights.vocabulary import written

if TYPE_CHECKING:
    import torch

EMBEDDER = "diffusion_pytorch_model"
"""The name of the weight files in an embedder's folder."""

TENSORS = {f"redux_{side}.{kind}" for side in ("up", "down") for kind in ("weight", "bias")}
"""All that an embedder's file holds."""

PUBLISHED = (1152, 14, 729)
"""Width, patch and places of SigLIP so400m at 384 pixels, the only one of whose heads a file alone leaves no doubt."""


def embedder_at(path: Path) -> Location:
    """The location of an embedder: in Redux's folder in diffusers layout, or a file.

    Raises:
        ModelError: There is none.
    """
    if path.is_dir():
        folder = path / "image_embedder" if (path / "image_embedder").is_dir() else path
        if files.read_json(folder / "config.json").get("_class_name") != "ReduxImageEncoder":
            raise ModelError(f"{folder} holds no image embedder of FLUX.1 Redux (ReduxImageEncoder)")
        return Location(folder)
    header = files.read_header(path)
    names = set(header)
    if names != TENSORS:
        strange = sorted(names ^ TENSORS)[0]
        raise ModelError(f"{path} is no FLUX.1 Redux: {strange} is {'unknown' if strange in names else 'missing'}")
    inner, width = header["redux_up.weight"]["shape"]
    return _told(path, "image_embedder", {"redux_dim": width, "txt_in_features": inner // 3})


def _told(path: Path, component: str, config: dict[str, Any]) -> Location:
    """The location of a file whose configuration its header tells."""
    texts = {f"{component}/config.json": json.dumps(config, indent=1, sort_keys=True)}
    return Location(path, component, written(digest_of(texts), texts) / component)


def siglip_at(path: Path) -> Location:
    """The location of an image encoder: a folder, or a file with its configuration beside it, or the published one.

    Raises:
        ModelError: There is none, or its pictures are prepared in an unknown way.
    """
    if path.is_dir():
        _check_preparing(path)
        siglip_config(path)
        return Location(path)
    if (path.parent / "config.json").is_file():
        siglip_config(path.parent)
        return Location(path, "image_encoder", path.parent)
    header = {name.removeprefix("vision_model."): e["shape"] for name, e in files.read_header(path).items()}
    try:
        width, _, patch, _ = header["embeddings.patch_embedding.weight"]
        places = header["embeddings.position_embedding.weight"][0]
        inner = header["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} holds no SigLIP with transformers' names: {error} is missing") from None
    if (width, patch, places) != PUBLISHED:
        raise ModelError(f"{path} is not SigLIP so400m at 384 pixels: give its folder, with config.json")
    config = {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len({name.split(".")[2] for name in header if name.startswith("encoder.layers.")}),
        "num_attention_heads": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "patch_size": patch,
        "image_size": 384,
    }
    return _told(path, "image_encoder", config)


def siglip_config(folder: Path) -> dict[str, Any]:
    """The configuration of the image encoder in a folder: SigLIP's picture side, alone or in a whole SigLIP.

    Raises:
        ModelError: It is of another kind.
    """
    config = files.read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "siglip" and isinstance(config.get("vision_config"), dict):
        return dict(config["vision_config"])
    if kind != "siglip_vision_model":
        raise ModelError(f"{folder} is a {kind or 'model of no type'}, and no image encoder of SigLIP")
    return config


def _check_preparing(folder: Path) -> None:
    """Refuse pictures that are prepared otherwise than SigLIP's own are: resized to the encoder's size, in -1..1."""
    places = (folder.parent / "feature_extractor" / "preprocessor_config.json", folder / "preprocessor_config.json")
    file = next((one for one in places if one.is_file()), None)
    if file is None:
        return
    said, side = files.read_json(file), siglip_config(folder).get("image_size", 224)
    usual = {"size": {"height": side, "width": side}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for name, value in usual.items():
        if said.get(name, value) != value:
            raise ModelError(f"{file}: {name} is {said[name]!r:.60}, but pictures for Redux are prepared with {value}")


def load_redux(embedder: Location, encoder: Location, dtype: torch.dtype) -> Any:
    """Load both networks, on the CPU, as the modules `encoder` and `embedder` of one.

    Raises:
        ModelError: Files are damaged or incomplete, or the embedder reads something else than the encoder gives.
    """
    import torch
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipVisionModel

    folder = encoder.folder
    module = empty_module(SiglipVisionModel, siglip_config(folder), folder / "config.json")
    tensors = _tensors(encoder, STEM, dtype)
    of_text = ("text_model.", "logit_scale", "logit_bias")
    plain = not any(name.startswith("vision_model.") for name in module.state_dict())
    seen = {
        name.removeprefix("vision_model.") if plain else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(of_text)
    }
    seeing = fill(module, seen, encoder.path)
    weights = _tensors(embedder, EMBEDDER, dtype)
    try:
        inner, width = weights["redux_up.weight"].shape
    except (KeyError, ValueError):
        raise ModelError(f"{embedder.path} holds no image embedder of FLUX.1 Redux") from None
    if width != seeing.config.hidden_size:
        raise ModelError(
            f"{embedder.path} reads {width} numbers of each patch, and {encoder.path} gives {seeing.config.hidden_size}"
        )
    config = {"redux_dim": width, "txt_in_features": inner // 3}
    making = fill(empty_module(ReduxImageEncoder, config, embedder.path), weights, embedder.path)
    return torch.nn.ModuleDict({"encoder": seeing, "embedder": making})


def _tensors(location: Location, stem: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    paths = files.weight_files(location.path, stem).files if location.path.is_dir() else [location.path]
    return {name: tensor for path in paths for name, tensor in read_tensors(path, dtype).items()}
