"""LoRAs: nodes that make references to LoRAs, and apply them to models. They read headers only, and import no torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from graphengine import Added, Choices, Doc, File, ModelError, Range, node
from graphengine_nodes.families.lookup import families, family
from graphengine_nodes.layouts import contents
from graphengine_nodes.values.references import Held
from graphengine_nodes.values.types import LoRA, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.headers import read_headers
from graphengine_nodes.weights.lora_names import DENOISER, lora_layers
from graphengine_nodes.weights.lora_placing import Placed, lora_digest, place_layers, refuse_lost

Strength = Range(-10, 10, 0.05)

NOISES = ("high", "low", "both")
"""The denoisers of a model with two of them, by the noise of the steps that are theirs."""


@node(version=1)
def load_lora(
    source: Annotated[
        str | Path,
        File("weights", names=True, known=tuple(name for name, _ in files.EMBEDDED.values())),
        Doc("`tiny-blueprint`, a .safetensors file, a folder with one, or a hub id."),
    ],
) -> LoRA:
    """Make a reference to a LoRA of any trainer: LoRA, LoCon, DoRA, LoHa, LoKr, or full differences of layers.

    From a folder `pytorch_lora_weights.safetensors` is taken, else the only .safetensors file in it. Of a file of peft,
    `adapter_model.safetensors`, alphas are in `adapter_config.json` beside it.

    In ComfyUI: `LoraLoader`, `LoraLoaderModelOnly`.

    Raises:
        ModelError: There is no such file, it is damaged, incomplete, a pickle, no LoRA, or of a kind that is not read.
    """
    path = _lora_file(files.find(source, "LoRA"))
    header = files.read_header(path)
    changed = {layer.part == DENOISER for layer in lora_layers(header, path)}
    parts = (*(["denoiser"] if True in changed else []), *(["text_encoder"] if False in changed else []))
    digest = lora_digest(path)
    files.note(digest, Location(path))
    owners = tuple(kind.name for kind in families().values() if kind.owns_lora(header))
    return LoRA(digest, parts, owners, files.name_of(source))


def _lora_file(path: Path) -> Path:
    """Find the LoRA's file in a folder."""
    named = path / "pytorch_lora_weights.safetensors"
    if not path.is_dir() or named.is_file():
        return named if path.is_dir() else path
    paths = sorted(path.glob("*.safetensors"))
    if len(paths) == 1:
        return paths[0]
    found = f"several: {', '.join(file.name for file in paths)}" if paths else "none"
    raise ModelError(f"{path} should hold pytorch_lora_weights.safetensors or one .safetensors file; it holds {found}")


@node(version=1)
def apply_lora(
    model: Model,
    lora: LoRA,
    scale: Annotated[float, Strength, Doc("1.0 is the strength it was trained at.")] = 1.0,
    text_scale: Annotated[float | None, Strength, Added(), Doc("For text encoders; default: as scale.")] = None,
    partial: Annotated[
        bool, Added(), Doc("Leave changes out that have no place in the model, with a warning.")
    ] = False,
    noise: Annotated[
        str | None,
        Added(),
        Choices(*NOISES),
        Doc(
            "For a model with two denoisers (Wan 2.2): that of the steps with much noise (high), with little (low), or "
            "both. Default: as the file's name says."
        ),
    ] = None,
) -> Model:
    """Add a LoRA to a model, whose own weights stay as they are; each further LoRA takes another such node.

    Each layer is changed as strongly as its file's format defines, times the scale.

    In ComfyUI: `LoraLoader`, `LoraLoaderModelOnly`.

    Raises:
        ModelError: The LoRA is for another model family, or changes layers that the model lacks; the model has two
            denoisers, and neither `noise` nor the file's name says which it is for.
    """
    if lora.families and model.family not in lora.families:
        kinds = " or ".join(lora.families)
        raise ModelError(f"{lora.source} is a LoRA for {kinds}; {model.source} is a {model.family} model")
    lora = replace(lora, partial=partial, noise=_noise(model, lora, noise))
    _check_places(model, lora)
    applied = [(lora, float(scale))]
    if text_scale is not None and text_scale != scale:
        scales = {"denoiser": float(scale), "text_encoder": float(text_scale)}
        applied = [(replace(lora, parts=(part,)), scales[part]) for part in lora.parts]
    return replace(model, loras=(*model.loras, *applied))


def _noise(model: Model, lora: LoRA, given: str | None) -> str:
    """Which of a model's denoisers a LoRA is for, as `LoRA.noise`."""
    if family(model.family).lora_names.second not in dict(model.components):
        if given is not None:
            raise ModelError(f"{model.source} has one denoiser for all steps; leave noise out")
        return ""
    if given is not None:
        return given
    try:
        names = [lora.source, files.locate(lora.weights, lora.source).path.name]
    except ModelError:  # on another machine
        names = [lora.source]
    found = {match[1].lower() for name in names for match in re.finditer(r"(?i)(high|low)[-_ ]?noise", name)}
    if len(found) != 1:
        raise ModelError(
            f"{model.source} has two denoisers, and {lora.source} does not say in its name (high_noise, low_noise) "
            "which it is for: give apply_lora noise, which is high, low or both"
        )
    return found.pop()


def _check_places(model: Model, lora: LoRA) -> None:
    """Refuse a LoRA with changes that have no place in a model, as the headers of the files tell it."""
    kind = family(model.family)
    for name, digest in model.components:
        named = kind.lora_names.named(name)
        if named not in kind.lora_names.parts.values() or isinstance(digest, Held):
            continue
        if not kind.lora_names.reaches(name, lora.noise):
            continue
        try:
            placed = _placed(model.family, named, digest, lora.weights)
            refuse_lost(files.locate(lora.weights, lora.source).path, name, placed, lora.partial)
        except _NotHere:
            continue


class _NotHere(Exception):
    """Files are on another machine, where they will be looked at."""


@functools.lru_cache(maxsize=256)
def _placed(family_name: str, component: str, digest: str, lora: str) -> Placed:
    """The places of a LoRA's changes in a component, which digests decide.

    Raises:
        _NotHere: The files are not on this machine.
    """
    kind = family(family_name)
    try:
        file, location = files.locate(lora, "").path, files.locate(digest, "")
    except ModelError:
        raise _NotHere from None
    stem = kind.stems[component]
    assert stem is not None
    paths = list(_layers_in(location, stem))
    return place_layers(file, kind.lora_names, component, paths)


def _layers_in(location: Location, stem: str) -> Iterator[str]:
    """The paths of a component's layers, as the headers of its files tell them."""
    if location.path.is_dir():
        headers = [files.read_header(file) for file in files.weight_files(location.path, stem, location.variant).files]
        names = [name for header in headers for name in header]
    else:
        part = contents.read(*read_headers(location.path), location.path).component(location.component)
        names = [] if part is None else list(part.places)
    yield from (name.removesuffix(".weight") for name in names if name.endswith(".weight"))


@node(version=1)
def scale_loras(model: Model, factor: Annotated[float, Strength, Doc("Factor for the scale of each LoRA.")]) -> Model:
    """Make all LoRAs of a model stronger or weaker, as diffusers does for `scale` in `cross_attention_kwargs`."""
    return replace(model, loras=tuple((lora, scale * factor) for lora, scale in model.loras))
