"""Parts of models in files of their own: VAEs, text encoders and ControlNets, told by their headers.

Their configurations come from a folder, where one is given or lies beside the file, else from the names and shapes in
the header. What no shape tells (a VAE's scale) is that of the family's published model.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from graphengine import ModelError
from graphengine_nodes.families.family import Family
from graphengine_nodes.families.lookup import families, family
from graphengine_nodes.layouts import contents
from graphengine_nodes.layouts.contents import Component, Contents
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location, read_json
from graphengine_nodes.weights.headers import read_headers
from graphengine_nodes.weights.inner_tokenizers import tokenizer_inside
from graphengine_nodes.weights.vocabulary import check_size, written

SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")
"""What a VAE's configuration says of the scale of its latents: it is the denoiser's, and no tensor tells it."""


class Part(NamedTuple):
    """A component in a file.

    Attributes:
        kind: The family.
        location: Where it lies, and where its configuration does.
        config: Its configuration.
    """

    kind: Family
    location: Location
    config: dict[str, Any]


def is_alone(path: Path) -> bool:
    """Whether a path is a file without a denoiser.

    Raises:
        ModelError: It cannot be read.
    """
    return path.is_file() and contents.family_of(read_headers(path).header) is None


def held_in(path: Path) -> Contents:
    """What a file holds; every tensor in it is accounted for.

    Raises:
        ModelError: It cannot be read, or holds what is not known.
    """
    return contents.read(*read_headers(path), path)


# --- VAEs -------------------------------------------------------------------------------------------------------------


def vae_in(path: Path, config: str | Path | None, family_name: str | None) -> Part:
    """A VAE in a file, of a family that is told by its configuration, its shape, or the caller.

    Raises:
        ModelError: The file holds none, it fits no family, or several whose scales differ.
    """
    part = _component(held_in(path), "vae", path)
    if (named := families().get(family_name or "")) is not None:
        family_name = named.latents or family_name
    if (folder := _described(path, config, "vae", _is_vae)) is not None:
        described = read_json(folder / "config.json")
        part.check(described, folder)
        fitting = [f for f in families().values() if not f.latents and f.owns_vae(described)]
        kind = _one_of(fitting, family_name or next((f.name for f in fitting), None), path)
        return Part(kind, Location(path, "vae", folder), described)
    fitting_with = {
        f.name: {**f.vae_scale, **described}
        for f in families().values()
        for described in part.configs
        if not f.latents and f.owns_vae({**f.vae_scale, **described})
    }
    told = family_name or _architecture(path) or _published(path, fitting_with)
    kind = _one_of([family(name) for name in fitting_with], told, path)
    classes = {described.get("_class_name") for described in fitting_with.values()}
    if told is None and len(classes) > 1:
        raise ModelError(f"{path} may be of {' or '.join(fitting_with)}, which have the same tensors: give family")
    return _written(kind, "vae", path, fitting_with[kind.name])


def vae_for(path: Path, kind: Family, own: Mapping[str, Any]) -> Part:
    """A VAE in a file for a model that has one already, whose configuration says what the file leaves open.

    Raises:
        ModelError: The file holds none, or a model of another family.
    """
    held = held_in(path)
    if held.family not in (None, kind.name):
        raise ModelError(f"{path} is a {held.family} model, whose VAE does not fit a {kind.name} model")
    part = _component(held, "vae", path)
    said = {name: own[name] for name in (*part.of.unseen, *SCALE) if own.get(name) is not None}
    cls = own.get("_class_name", "AutoencoderKL")
    if (found := replace(part, said={**said, **part.said}).config_as(cls)) is None:
        raise ModelError(f"{path} holds no {cls}, which is the VAE of a {kind.name} model, but a {part.kind}")
    return _written(kind, "vae", path, found)


def _is_vae(config: Mapping[str, Any]) -> bool:
    return str(config.get("_class_name", "")).startswith("Autoencoder")


def _architecture(path: Path) -> str | None:
    """The family that a file's metadata name."""
    said = read_headers(path).metadata.get("modelspec.architecture", "")
    return next((name for start, name in ARCHITECTURES.items() if said.lower().startswith(start)), None)


def _published(path: Path, fitting: Iterable[str]) -> str | None:
    """The family of a VAE by its file's name, if it is one of those that it fits."""
    name = path.stem.lower().replace("-", "_")
    return next((kind for said, kind in FILE_NAMES if kind in fitting and re.search(said, name)), None)


ARCHITECTURES = {
    "stable-diffusion-xl": "stable_diffusion_xl",
    "stable-diffusion-v3": "stable_diffusion_3",
    "stable-diffusion-3": "stable_diffusion_3",
    "stable-diffusion-v": "stable_diffusion",
    "flux": "flux",
}
"""Families by the beginnings of `modelspec.architecture`."""

FILE_NAMES = (
    ("^ae$|^ae_|flux", "flux"),
    ("sd_?3|stable_diffusion_3", "stable_diffusion_3"),
    ("qwen", "qwen_image"),
    ("wan", "wan"),
)
"""Families by what names of VAEs' files say: FLUX.1's is published as `ae`; Stable Diffusion 3's has the same shape,
and Qwen-Image's that of Wan."""


def _one_of(fitting: Sequence[Family], name: str | None, path: Path) -> Family:
    """The one family of a file: the only one that it fits, or that which was named."""
    names = [kind.name for kind in fitting]
    if not names:
        raise ModelError(f"{path} fits no model of a known family ({', '.join(families())})")
    if name is None and any(kind.vae_scale != fitting[0].vae_scale for kind in fitting):
        raise ModelError(f"{path} may be of {' or '.join(names)}, whose scales differ: give family, or config")
    if name is not None and name not in names:
        raise ModelError(f"{path} is for {' or '.join(names)} models, and not for {name} ones")
    return family(name or names[0])


# --- text encoders ----------------------------------------------------------------------------------------------------


def encoders_in(
    paths: Sequence[Path], config: str | Path | None, tokenizer: str | Path | None, family_name: str | None
) -> tuple[Family, dict[str, Location]]:
    """The text encoders in files without denoisers, and their tokenizers.

    Raises:
        ModelError: The files do not hold what a family's models have, or a tokenizer is nowhere.
    """
    folder = None if config is None else files.find(config, "model")
    found = [(path, held, part) for path in paths for held in [held_in(path)] for part in _encoders(held, path)]
    kind = _encoders_family([part for *_, part in found], folder, family_name, paths)
    places: dict[str, Location] = {}
    configs: dict[str, dict[str, Any]] = {}
    for name, (path, held, part) in _named(kind, found).items():
        part = part.as_text_encoder(name, kind.classes[name][1] != "CLIPTextModel")
        inside = folder and folder / name
        if inside is not None and (inside / "config.json").is_file():
            places[name], configs[name] = Location(path, name, inside), read_json(inside / "config.json")
            part.check(configs[name], inside)
        else:
            _, places[name], configs[name] = _written(kind, name, path, part.config)
        words = name.replace("text_encoder", "tokenizer")
        given = _tokenizer(kind, words, held, path, tokenizer, folder)
        if given is None:
            raise ModelError(
                f"{path} needs a {words}, which no package here holds: give tokenizer, a folder with it, or config, a "
                "model's folder in diffusers layout"
            )
        check_size(given, configs[name], path)
        places[words] = Location(given)
    for name in sorted(kind.parts["text_encoder"]):  # encoders before tokenizers
        if name in places:
            continue
        there = folder is not None and (folder / name).is_dir()
        if not there and name in kind.optional:
            continue
        if folder is None or not there:
            names = " and ".join(path.name for path in paths)
            raise ModelError(
                f"{names} holds no {name} of a {kind.name} model: give a file with it as source_2, or config, a "
                "model's folder that has it"
            )
        places[name] = Location(folder / name)
    return kind, places


def _encoders(held: Contents, path: Path) -> list[Component]:
    parts = [part for part in held.components.values() if not part.of.component]
    if not parts:
        names = ", ".join(part.name or part.kind for part in held.components.values())
        raise ModelError(f"{path} holds no text encoder, but {names}")
    return parts


def _encoders_family(
    parts: Sequence[Component], folder: Path | None, family_name: str | None, paths: Sequence[Path]
) -> Family:
    """The family whose models read prompts with these text encoders: by a model's folder, or that was named, or else
    the only one that fits."""
    if folder is not None and (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        told = next((kind.name for kind in families().values() if kind.owns_folder(index)), None)
        family_name = family_name or told
    if family_name is not None:
        return family(family_name)
    return family_of_encoders(parts, paths)


def family_of_encoders(parts: Sequence[Component], paths: Sequence[Path]) -> Family:
    """The only family whose models read prompts with just these text encoders, or of several that whose published
    models have ones of their widths.

    Args:
        paths: Their files, for messages.

    Raises:
        ModelError: There is none, or more than one.
    """
    # Of the families on others' latents, a refiner has no encoders of its own, and others are told by widths alone.
    asked = [kind for kind in families().values() if not kind.latents or kind.encoder_widths]
    fitting = [kind for kind in asked if _reads(kind, parts)]
    known = [kind for kind in fitting if _of_known_widths(kind, parts)] or fitting
    held = " and ".join(path.name for path in paths)
    if not known:
        raise ModelError(
            f"{held} holds {' and '.join(sorted(part.kind for part in parts))}, with which no known family reads "
            "prompts: give the other text encoder as source_2, or family and config"
        )
    if len(known) > 1:
        raise ModelError(f"{held} may be of {' or '.join(kind.name for kind in known)}: give family, or config")
    return known[0]


def _reads(kind: Family, parts: Sequence[Component]) -> bool:
    """Whether text encoders are all that a family's models read prompts with, its optional ones too."""
    places = _encoder_names(kind)
    ways = itertools.permutations(places)
    return len(places) == len(parts) and any(
        all(kind.encoder_classes(name) & {*part.of.classes} for name, part in zip(way, parts, strict=True))
        for way in ways
    )


def _of_known_widths(kind: Family, parts: Sequence[Component]) -> bool:
    """Whether these text encoders are as wide as those of a family's published models."""
    return bool(kind.encoder_widths) and all(part.width in kind.encoder_widths for part in parts)


def _encoder_names(kind: Family) -> list[str]:
    return [name for name in kind.parts["text_encoder"] if name.startswith("text_encoder")]


_Found = tuple[Path, Contents, Component]


def _named(kind: Family, found: Sequence[_Found]) -> dict[str, _Found]:
    """Text encoders by the name that they have in a family's models: of two of a kind, the wider one is the second."""
    named: dict[str, _Found] = {one[2].name: one for one in found if one[2].name in kind.parts["text_encoder"]}
    left = sorted((one for one in found if one not in named.values()), key=lambda one: one[2].width or 0)
    while left:
        part = left[0][2]
        alike = [one for one in left if one[2].of is part.of]
        left = [one for one in left if one[2].of is not part.of]
        fits = {*part.of.classes}
        free = [name for name in _encoder_names(kind) if name not in named and kind.encoder_classes(name) & fits]
        if len(alike) > len(free):
            one = alike[len(free)]
            raise ModelError(f"{one[0]} holds a {one[2].kind}, for which a {kind.name} model has no place")
        if len(alike) == 1 < len(free) and "text_projection.weight" in part.places:
            free = free[1:]
        named |= dict(zip(free, alike, strict=False))
    return named


def _tokenizer(
    kind: Family, name: str, held: Contents, path: Path, given: str | Path | None, folder: Path | None
) -> Path | None:
    """The folder of a tokenizer: given, in a model's folder, inside the text encoder's file, or in a package."""
    places = [files.find(given, "model")] if given is not None else []
    for place in (*places, folder, tokenizer_inside(path)):
        if place is None:
            continue
        if (place / name).is_dir():
            return place / name
        if (place / "tokenizer_config.json").is_file():
            said = str(read_json(place / "tokenizer_config.json").get("tokenizer_class", ""))
            if said[:2] == kind.tokenizers[name][:2]:
                return place
    return kind.packaged_tokenizer(name, held)


# --- ControlNets ------------------------------------------------------------------------------------------------------


def controlnet_folder(path: Path) -> Part:
    """A ControlNet in a folder in diffusers layout.

    Raises:
        ModelError: It is of no known family.
    """
    described = read_json(path / "config.json")
    return Part(_owner(described, path), Location(path), described)


def controlnet_in(path: Path, config: str | Path | None) -> Part:
    """A ControlNet in a file.

    Raises:
        ModelError: The file holds none, or one of no known family.
    """
    part = _component(held_in(path), "controlnet", path)
    if (folder := _described(path, config, "controlnet", _is_controlnet)) is not None:
        described = read_json(folder / "config.json")
        part.check(described, folder)
        return Part(_owner(described, path), Location(path, "controlnet", folder), described)
    return _written(_owner(part.config, path), "controlnet", path, part.config)


def _is_controlnet(config: Mapping[str, Any]) -> bool:
    return any(kind.owns_controlnet(config) for kind in families().values())


def _owner(config: Mapping[str, Any], path: Path) -> Family:
    kind = next((f for f in families().values() if f.owns_controlnet(config)), None)
    if kind is None:
        raise ModelError(f"{path} holds a {config.get('_class_name', 'model of no class')}, not a known ControlNet")
    return kind


# --- what they have in common -----------------------------------------------------------------------------------------


def _component(held: Contents, name: str, path: Path) -> Component:
    part = held.component(name)
    if part is None:
        there = ", ".join(one.name or one.kind for one in held.components.values())
        raise ModelError(f"{path} holds no {name}, but {there}")
    return part


def _described(
    path: Path, config: str | Path | None, name: str, fits: Callable[[Mapping[str, Any]], bool]
) -> Path | None:
    """The folder with the configuration of a file: given, of the file's name, or that which the file is in."""
    given = [] if config is None else [files.find(config, "model")]
    beside = given or [path.with_suffix(""), path.parent]
    for folder in (place for one in beside for place in (one / name, one)):
        if (folder / "config.json").is_file() and fits(read_json(folder / "config.json")):
            return folder
    if given:
        raise ModelError(f"{given[0]} holds no configuration of a {name}; give another config")
    return None


def _written(kind: Family, name: str, path: Path, config: Mapping[str, Any]) -> Part:
    """A component with a configuration of ours, which is kept in the user's cache folder."""
    texts = {f"{name}/config.json": json.dumps(dict(config), indent=1, sort_keys=True)}
    return Part(kind, Location(path, name, written(digest_of(texts), texts) / name), dict(config))
