"""Contents of a single file, told by its header alone: of which family it is, which components it holds, in which
spelling, where their tensors lie, and their configurations. No torch.

`read` accounts for every tensor of the file: its name is read into a component, belongs to a component that nobody
asked for, is a scale of a small format, or stands in the table of `weights.unread`. Anything else is an error.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graphengine import ModelError
from graphengine_nodes.layouts import (
    chroma,
    flux,
    flux2,
    flux2_vae,
    language_models,
    qwen_image,
    stable_diffusion_3,
    texts,
    umt5,
    unet,
    vae,
    wan,
    wan_vae,
    z_image,
)
from graphengine_nodes.layouts.kinds import Kind, Spelling
from graphengine_nodes.layouts.places import Places, Shapes
from graphengine_nodes.weights.headers import Header, HeaderAndMetadata
from graphengine_nodes.weights.scaled import check_small, scales_in
from graphengine_nodes.weights.unread import without_place

KINDS = (
    *unet.KINDS,
    *flux.KINDS,
    *flux2.KINDS,
    *z_image.KINDS,
    *qwen_image.KINDS,
    *chroma.KINDS,
    *stable_diffusion_3.KINDS,
    *wan.KINDS,
    *vae.KINDS,
    *flux2_vae.KINDS,
    *wan_vae.KINDS,
    *texts.KINDS,
    *umt5.KINDS,
    *language_models.KINDS,
)
"""All kinds, in the order in which a file is searched for them. A new kind is a record in a module of its own, and a
name in this list."""


@dataclass(frozen=True)
class Component:
    """One component in a file.

    Attributes:
        of: Its kind.
        name: Which component of a model it is (`unet`, `text_encoder_2`); empty for a text encoder alone in its file.
        prefix: What its names begin with in the file.
        spelling: Whose names they are.
        places: Where its tensors lie in the file, by diffusers' or transformers' names.
        shapes: The shapes of its tensors by these names.
        said: What its spelling and the file's metadata say of its configuration.
        skipped: Names of tensors that it has and a model does not read.
        where: The file, for messages.
    """

    of: Kind
    name: str
    prefix: str
    spelling: str
    places: Places = field(repr=False)
    shapes: Shapes = field(repr=False)
    said: Mapping[str, Any]
    skipped: frozenset[str] = field(repr=False)
    where: Path

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self.of.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration as diffusers or transformers would write it, without the scale of a VAE.

        Raises:
            ModelError: A tensor is missing, or its widths are unknown and the file does not say what they leave open.
        """
        try:
            found = self.of.config(self.shapes) | dict(self.said)
        except (LookupError, ValueError) as error:
            raise ModelError(
                f"{self.where}: its {self.name or self.kind} lacks {error}; the file is incomplete"
            ) from None
        open_ = [name for name in self.of.unseen if name not in found]
        if open_:
            raise ModelError(
                f"{self.where}: its {self.name or self.kind} has widths of no published model, and no shape tells "
                f"{' and '.join(open_)}; give config, a folder with its configurations"
            )
        return found

    @property
    def configs(self) -> list[dict[str, Any]]:
        """Its configuration, and those of other classes of diffusers that have the very same tensors: no file tells of
        which it was made.

        Raises:
            ModelError: As for `config`.
        """
        return [self.config, *(twin(self.config) for twin in self.of.twins.values())]

    def config_as(self, cls: str) -> dict[str, Any] | None:
        """That of its configurations which is of a class; None where none is."""
        return next((found for found in self.configs if cls in _classes(found)), None)

    def check(self, config: Mapping[str, Any], folder: Path) -> None:
        """Refuse a configuration of another model, in a folder, whose widths the file's shapes contradict.

        Raises:
            ModelError: They do.
        """
        try:
            derived = self.of.config(self.shapes)
        except (LookupError, ValueError):  # what is missing is told when the component is read
            return
        for name in self.of.widths:
            said, found = config.get(name), derived.get(name)
            if None not in (said, found) and said != found:
                raise ModelError(
                    f"{self.where} is no {self.name or self.kind} as {folder} describes it: {name} is {found} by its "
                    f"header, and {said} there; give another config"
                )

    @property
    def width(self) -> int | None:
        """How wide the embeddings of a text encoder are; None where its shapes do not tell it."""
        try:
            derived = self.of.config(self.shapes)
        except (LookupError, ValueError):  # what is missing is told when the component is read
            return None
        found: int | None = derived.get("hidden_size", derived.get("d_model"))
        return found

    @property
    def names(self) -> frozenset[str]:
        """The names in the file that it consists of."""
        return frozenset(place.name for place in self.places.values()) | self.skipped

    def as_text_encoder(self, name: str, projected: bool | None = None) -> Component:
        """A text encoder as a component of a model.

        Args:
            name: The component.
            projected: Whether the model reads a CLIP's projection, as both of Stable Diffusion 3 do; None for that of
                the other families, which read that of the second text encoder only.
        """
        kept = name != "text_encoder" if projected is None else projected
        places = self.places if kept else texts.without_projection(self.places)
        shapes = self.shapes
        if projected and name == "text_encoder":
            places, shapes = texts.with_projection(places, shapes)
        return replace(
            self,
            name=name,
            places=places,
            shapes={n: shapes[n] for n in places},
            skipped=self.skipped | self.names - {place.name for place in places.values()},
        )


MARKERS = frozenset({"v_pred", "ztsnr"})
"""Names of tensors that say how a denoiser was trained, whatever is in them."""


@dataclass(frozen=True)
class Contents:
    """The contents of a single file.

    Attributes:
        family: The family of its denoiser or ControlNet; None where there is none, as of a VAE alone.
        components: Its components by name.
        said: The configurations in its metadata by component, among them that of the scheduler.
        markers: Names in it that say how its denoiser was trained: `v_pred`, `ztsnr`.
    """

    family: str | None
    components: Mapping[str, Component]
    said: Mapping[str, Mapping[str, Any]]
    markers: frozenset[str] = frozenset()

    def component(self, name: str, projected: bool | None = None) -> Component | None:
        """A component of a model by name; a text encoder alone in its file is any one of its kind.

        Args:
            projected: Whether the model reads the projection of a CLIP alone in its file; see `as_text_encoder`.
        """
        if name in self.components:
            return self.components[name]
        alone = self.components.get("")
        return alone.as_text_encoder(name, projected) if alone is not None and name.startswith("text_encoder") else None


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of diffusers or transformers that a configuration names."""
    return (config.get("_class_name", ""), *config.get("architectures", ()))


def family_of(header: Header) -> str | None:
    """The family of a file's denoiser, by its header alone; None of a file without one."""
    found = [kind.family_of(header) for kind, _, _ in _found(header)]
    return next((family for family in found if family is not None), None)


def kinds_in(header: Header) -> list[str]:
    """The names of the kinds of a file's components, by its names alone."""
    return [kind.name for kind, _, _ in _found(header)]


def read(header: Header, metadata: Mapping[str, str], where: Path) -> Contents:
    """Tell what a file holds, and account for every tensor in it.

    Args:
        header: Its names, types and shapes.
        metadata: The texts in its header; `config`, where it is there, is a JSON object that holds by component
            entries of its configuration, as ComfyUI's files of newer models have it.
        where: The file, for messages.

    Raises:
        ModelError: It holds no component of a known kind, a tensor that is accounted for by nothing, or a small format
            that is not read.
    """
    scales = scales_in(header, where)
    check_small(HeaderAndMetadata(header, dict(metadata)), where)
    said = _said(metadata, where)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name not in scales.extra}
    components: dict[str, Component] = {}
    found = _found(header)
    encoders = next((kind.encoders for kind, _, _ in found if kind.family is not None), texts.encoders_in(header))
    for kind, spelling, prefix in found:
        component = _component(kind, spelling, prefix, shapes, said, encoders, where)
        components.setdefault(component.name, component)
    if not components:
        raise ModelError(
            f"{where} holds no component of a known model; the first of its tensors is {min(header, default='missing')}"
        )
    read = {name for component in components.values() for name in component.names}
    left = shapes.keys() - read
    if strange := without_place(left):
        more = f"{len(strange)} tensors, the first is" if len(strange) > 1 else "the tensor"
        raise ModelError(
            f"{where}: nothing is known about {more} {strange[0]}; the file is of another model, or changed in an "
            f"unknown way (it holds {', '.join(c.name or c.kind for c in components.values())})"
        )
    return Contents(family_of(header), components, said, frozenset(header) & MARKERS)


def _found(names: Collection[str]) -> list[tuple[Kind, Spelling, str]]:
    """The kinds that a file holds, each in the spelling of its names, with what stands before them.

    A file may hold several of one kind, with different beginnings of their names.
    """
    found: dict[tuple[str, str], tuple[Kind, Spelling, str]] = {}
    for kind in KINDS:
        for spelling in kind.spellings:
            for prefix in spelling.found(names):
                found.setdefault((kind.name, prefix), (kind, spelling, prefix))
    return list(found.values())


def _component(
    kind: Kind,
    spelling: Spelling,
    prefix: str,
    shapes: Shapes,
    said: Mapping[str, Mapping[str, Any]],
    encoders: Mapping[str, str],
    where: Path,
) -> Component:
    inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    try:
        places = spelling.places(inside)
    except (LookupError, ValueError) as error:
        raise ModelError(f"{where}: its {kind.component or kind.name} lacks {error}; the file is incomplete") from None
    every = {f"{prefix}{place.name}" for place in places.values()}
    name = kind.component or texts.component(prefix, encoders, shapes)
    if not kind.component:
        places = texts.as_read(places, prefix, name, encoders, shapes)
    stored = {name: place.shape(inside[place.name]) for name, place in places.items()}
    places = {name: replace(place, name=f"{prefix}{place.name}") for name, place in places.items()}
    skipped = frozenset(every - {place.name for place in places.values()})
    marks = [mark for mark in spelling.marks if mark in inside]
    skipped |= {f"{prefix}{mark}" for mark in marks}
    of_marks = {entry: value for mark in marks for entry, value in spelling.marks[mark].items()}
    told = {**spelling.says, **of_marks, **(said.get(name) or said.get(kind.name, {}))}
    return Component(kind, name, prefix, spelling.name, places, stored, told, skipped, where)


def _said(metadata: Mapping[str, str], where: Path) -> dict[str, dict[str, Any]]:
    """The configurations in a file's metadata, by component."""
    if "config" not in metadata:
        return {}
    try:
        found = json.loads(metadata["config"])
        return {name: dict(entries) for name, entries in found.items() if isinstance(entries, dict)}
    except (ValueError, AttributeError, RecursionError):
        raise ModelError(f"{where}: the config in its metadata is no JSON object; the file is damaged") from None
