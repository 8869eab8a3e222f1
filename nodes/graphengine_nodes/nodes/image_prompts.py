"""Pictures as prompts: nodes that load an IP-Adapter, apply it to a model, and encode the pictures that it follows; and
FLUX.1 Redux, which puts pictures into a prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from graphengine import INERT, Added, Choices, Context, Doc, File, ModelError, Range, fingerprint, node
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.picture_prompts import attended, check_fits
from graphengine_nodes.families.picture_scales import blocks_of, check_blocks, check_scale
from graphengine_nodes.layouts import contents
from graphengine_nodes.nodes.models import PRECISIONS
from graphengine_nodes.values.references import Held, IPAdapter, Redux
from graphengine_nodes.values.types import Conditioning, Image, ImagePrompt, Mask, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.headers import read_headers
from graphengine_nodes.weights.image_encoders import STEM, encoder_at, encoder_config
from graphengine_nodes.weights.ip_adapter_files import AdapterFile, read_adapter_file
from graphengine_nodes.weights.redux_files import EMBEDDER, embedder_at, siglip_at


@node(version=1)
def load_ip_adapter(
    source: Annotated[
        str | Path,
        File("weights", names=True),
        Doc("A published file, such as ip-adapter_sd15.safetensors or ip-adapter-plus_sdxl_vit-h.safetensors."),
    ],
    image_encoder: Annotated[
        str | Path | None,
        File("weights", names=True),
        Doc(
            "The folder or file of its image encoder, or a hub id; default: the folder `image_encoder` beside the file."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        Choices(*PRECISIONS),
        Doc("Type of the numbers that the image encoder computes with; default: float32 on a CPU, float16 on a GPU."),
    ] = None,
) -> IPAdapter:
    """Make a reference to an IP-Adapter, by which a model follows pictures; weights are read when a node computes.

    It is what ComfyUI's IPAdapter nodes load. Of the published kinds the plain ones (also light and vit-G) follow a
    picture as a whole, plus, plus-face and full-face each of its patches; XLabs' for FLUX.1 are plain ones. Image
    encoders are CLIP's picture side, in folders or single files. Where that beside the file does not fit, as beside
    SDXL's `vit-h` files, `../models/image_encoder` is looked at as well. A `.bin` is read for its tensors alone.

    In ComfyUI: `IPAdapterModelLoader`.

    Raises:
        ModelError: There is no such file, it is damaged, no IP-Adapter, holds unknown tensors, or is of the kind
            FaceID; there is no image encoder, or it gives something else than the adapter reads.
    """
    path = files.on_disk(source)
    if path is None or not path.is_file():
        raise ModelError(
            f"there is no IP-Adapter {source}; give a file, such as ip-adapter_sd15.safetensors of h94/IP-Adapter"
        )
    held = read_adapter_file(path)
    place = _encoder_place(path, held, image_encoder)
    digest, encoder = fingerprint(path), files.component_digest(place, STEM)
    files.note(digest, Location(path))
    files.note(encoder, place)
    return IPAdapter(digest, encoder, held.kind, held.families, precision, files.name_of(path))


def _encoder_place(path: Path, held: AdapterFile, given: str | Path | None) -> Location:
    """Where an adapter's image encoder lies: given, or beside its file; it gives what the adapter reads.

    Raises:
        ModelError: There is none that fits.
    """
    if given is not None:
        found = files.find(given, "model")
        inside = found / "image_encoder"
        places = [encoder_at(inside if inside.is_dir() else found)]
    else:
        folders = (path.parent / "image_encoder", path.parent.parent / "models" / "image_encoder")
        places = [encoder_at(folder) for folder in folders if folder.is_dir()]
    which = "the folder or file of the CLIP picture encoder that the adapter was trained with"
    if not places:
        raise ModelError(f"there is no folder image_encoder beside {path}: give image_encoder, {which}")
    number = "projection_dim" if held.kind == "plain" else "hidden_size"
    widths = [(place, encoder_config(place.folder)[number]) for place in places]
    fitting = next((place for place, width in widths if width == held.width), None)
    if fitting is None:
        told = ", ".join(f"{place.path} gives {width}" for place, width in widths)
        raise ModelError(
            f"{path} reads {held.width} numbers of a picture ({number}), and {told}: give image_encoder, {which}"
        )
    return fitting


@node(version=1)
def apply_ip_adapter(
    model: Model,
    adapter: IPAdapter,
    scale: Annotated[
        float | list[float] | dict[str, Any],
        Range(-10, 10, 0.05),
        Doc(
            "How strongly pictures act; 1.0 is full strength. A dictionary gives each block its own, as diffusers' "
            "set_ip_adapter_scale takes it: {up: {block_0: [0, 1, 0]}} takes a picture's style alone; for FLUX a list "
            "with a number for each double block."
        ),
    ] = 1.0,
) -> Model:
    """Give a model an IP-Adapter, so that it follows the pictures of `sample(image_prompt=...)`.

    The model's own weights stay as they are, and graphs without the adapter share them. Several adapters are several
    such nodes (ComfyUI: IPAdapter Apply).

    In ComfyUI: `IPAdapter`, `IPAdapterAdvanced`.

    Raises:
        ModelError: The adapter is for another model, or the model's family takes none.
        ValueError: The scales are no numbers by block, or name a block that the model does not have.
    """
    form = family(model.family).picture_scales
    if not form:
        raise ModelError(f"{model.source} is a {model.family} model, which takes no IP-Adapters")
    if adapter.families and model.family not in adapter.families:
        kinds = " or ".join(adapter.families)
        raise ModelError(f"{adapter.source} is an IP-Adapter for {kinds}; {model.source} is a {model.family} model")
    shapes = _check_places(model, adapter)
    check_scale(scale, model, form)
    if isinstance(scale, dict) and shapes:
        check_blocks(scale, blocks_of(shapes), model.source)
    kept = float(scale) if isinstance(scale, (int, float)) else json.dumps(scale, sort_keys=True)
    return replace(model, ip_adapters=(*model.ip_adapters, (adapter, kept)))


def _check_places(model: Model, adapter: IPAdapter) -> dict[str, Any]:
    """Refuse an adapter whose layers do not fit a model's, as the headers of the files tell it, where they are here.

    Returns:
        The shapes of the denoiser's tensors; none where they are not known before it is loaded.
    """
    name = family(model.family).parts["denoiser"][0]
    digest = model.component(name)
    if isinstance(digest, Held):
        return {}
    try:
        file, location = files.locate(adapter.weights, adapter.source).path, files.locate(digest, model.source)
    except ModelError:
        return {}  # on another machine, where they will be looked at
    stem = family(model.family).stems[name]
    assert stem is not None
    if location.path.is_dir():
        paths = files.weight_files(location.path, stem, location.variant).files
        shapes = {n: entry["shape"] for path in paths for n, entry in files.read_header(path).items()}
    else:
        part = contents.read(*read_headers(location.path), location.path).component(name)
        shapes = {} if part is None else dict(part.shapes)
    check_fits(model, adapter.source, read_adapter_file(file).layers, attended(shapes))
    return shapes


@node(version=1, on="device")
def encode_image_prompt(
    adapter: IPAdapter,
    image: Annotated[Image | list[Image], Doc("The picture to follow, or several of any sizes, which act together.")],
    mask: Annotated[
        Mask | list[Mask] | None,
        Added(),
        Doc("Where in the result each picture acts: 1 in a mask of the result's size; default: everywhere."),
    ] = None,
    ctx: Context = INERT,
) -> ImagePrompt:
    """Encode pictures for an IP-Adapter (IPAdapter Encoder); the result is what `sample(image_prompt=...)` takes.

    A picture is scaled to the image encoder's size by its shorter side and cut in its middle, as CLIP's own
    processor does it: what lies outside the middle square is not seen.

    In ComfyUI: `CLIPVisionLoader`, `CLIPVisionEncode`, `IPAdapterEncoder`.

    Raises:
        ValueError: There is no picture, or not one mask for each.
    """
    from graphengine_nodes.store.ip_adapters import encode_pictures
    from graphengine_nodes.store.store import store

    pictures = image if isinstance(image, list) else [image]
    if not pictures:
        raise ValueError("image is an empty list; give a picture")
    masks = mask if isinstance(mask, list) else [] if mask is None else [mask]
    with store.image_encoder(adapter, ctx.device) as encoder:
        embeds, negative = encode_pictures(
            encoder, pictures, patches=adapter.kind != "plain", black="flux" in adapter.families
        )
    found = ImagePrompt(embeds, negative, adapter.digest(), adapter.source)
    return found if mask is None else replace(found, mask=_hard(masks, int(embeds.shape[1])))


def _hard(masks: list[Mask], pictures: int) -> Any:
    """Masks for pictures, [1, n, H, W] of 0 and 1."""
    import torch

    if len({mask.size for mask in masks}) != 1:
        raise ValueError("the masks are of different sizes; all must have the size of the result")
    values = torch.cat([mask.values for mask in masks])
    if len(values) != pictures:
        raise ValueError(f"{len(values)} masks for {pictures} pictures; give one for each")
    return (values >= 0.5).to(values.dtype)[None]


@node(version=1)
def load_redux(
    source: Annotated[
        str | Path,
        File("weights", names=True),
        Doc("FLUX.1 Redux: its folder in diffusers layout, a hub id, or the file with its embedder."),
    ],
    image_encoder: Annotated[
        str | Path | None,
        File("weights", names=True),
        Doc(
            "The folder or file of SigLIP's image encoder; default: the folder `image_encoder` in or beside the source."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        Choices(*PRECISIONS),
        Doc("Type of the numbers that it computes with; default: float32 on a CPU, float16 on a GPU."),
    ] = None,
) -> Redux:
    """Make a reference to FLUX.1 Redux, by which a prompt shows pictures; weights are read when a node computes.

    It is what ComfyUI's Load Style Model and Load CLIP Vision load. A file of SigLIP's image encoder alone is read
    without its folder if it is so400m at 384 pixels, the published one.

    Raises:
        ModelError: There is no such file, it is damaged or of another kind, or there is no image encoder.
    """
    path = files.find(source, "model")
    embedder = embedder_at(path)
    folder = path if (path / "image_encoder").is_dir() else path.parent
    given = folder / "image_encoder" if image_encoder is None else files.find(image_encoder, "model")
    if image_encoder is None and not given.is_dir():
        raise ModelError(f"there is no folder image_encoder in or beside {path}: give image_encoder, SigLIP's")
    encoder = siglip_at(given / "image_encoder" if (given / "image_encoder").is_dir() else given)
    weights, sees = files.component_digest(embedder, EMBEDDER), files.component_digest(encoder, STEM)
    files.note(weights, embedder)
    files.note(sees, encoder)
    return Redux(weights, sees, precision, files.name_of(source))


Factors = float | list[float]


@node(version=1, on="device")
def apply_redux(
    prompt: Annotated[Conditioning, Doc("Of a FLUX.1 model; an empty one leaves it to the pictures.")],
    redux: Redux,
    image: Annotated[Image | list[Image], Doc("The picture to show, or several, whose prompts are summed.")],
    scale: Annotated[Factors, Doc("A factor of the prompt with the picture's tokens; a list has one for each.")] = 1.0,
    pooled_scale: Annotated[Factors, Doc("The same of the pooled embedding.")] = 1.0,
    ctx: Context = INERT,
) -> Conditioning:
    """Put pictures into a prompt of FLUX.1 by Redux: their tokens follow the text's (ComfyUI: Apply Style Model).

    The result is what diffusers' FluxPriorReduxPipeline gives with a prompt: with several pictures all prompts, each
    with its picture and factor, are summed, so that factors of 1 / n are their mean.

    Raises:
        ValueError: The prompt is of another family or width; there is no picture, or not one factor for each.
    """
    from graphengine_nodes.store.redux import with_pictures
    from graphengine_nodes.store.store import store

    if prompt.family != "flux" or prompt.pooled is None:
        raise ValueError(f"Redux is for FLUX.1, and this prompt is of {prompt.family}")
    pictures = image if isinstance(image, list) else [image]
    count = sum(len(one) for one in pictures)
    if not count:
        raise ValueError("image is an empty list; give a picture")
    factors = {"scale": scale, "pooled_scale": pooled_scale}
    each = {name: value if isinstance(value, list) else [value] * count for name, value in factors.items()}
    for name, values in each.items():
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} factors for {count} pictures; give one for each")
    with store.redux(redux, ctx.device) as networks:
        return with_pictures(networks, prompt, pictures, each["scale"], each["pooled_scale"])
