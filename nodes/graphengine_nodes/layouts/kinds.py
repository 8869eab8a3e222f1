"""Kinds of components that files hold: how a header tells each, where its tensors lie, and its configuration.

A kind is one record, in the module of its layout; `contents` collects them and has no rule for any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine_nodes.layouts.places import Place, Places, Shapes
from graphengine_nodes.weights.headers import Header

DENOISER = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "")
"""What may stand before the names of a denoiser."""

VAE = ("first_stage_model.", "vae.", "")
"""What may stand before the names of a VAE."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way in which files name a component's tensors.

    Attributes:
        name: Whose names they are.
        signs: Names that a file with it has, after the prefix.
        prefixes: What may stand before its names.
        places: Finds the places among the names without their prefix.
        lacks: Names of a kind that has all the signs too, and that a file with this one does not have.
        says: Entries of the configuration that the spelling tells.
        marks: Names in files that are no tensors of the component, and the entries of the configuration that each
            tells.
    """

    name: str
    signs: tuple[str, ...]
    prefixes: tuple[str, ...]
    places: Callable[[Shapes], Places]
    lacks: tuple[str, ...] = ()
    says: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def found(self, names: Container[str]) -> list[str]:
        """What stands before the names in a file with it, for each component that has it."""
        first = self.signs[0]  # which most files lack: a file is asked for all spellings, by each family
        return [prefix for prefix in self.prefixes if prefix + first in names and self._fits(prefix, names)]

    def _fits(self, prefix: str, names: Container[str]) -> bool:
        return all(f"{prefix}{sign}" in names for sign in self.signs) and not any(
            f"{prefix}{name}" in names for name in self.lacks
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of component.

    Attributes:
        name: What messages call it.
        component: Which component of a model it is; empty for text encoders, of which a model may have several.
        spellings: How files name its tensors; the first that fits is taken.
        config: Its configuration as diffusers or transformers would write it, by the shapes of its tensors under their
            names; a LookupError or ValueError says which tensor is missing.
        family: The family whose denoiser it is, or tells it by the header; None for what is no denoiser.
        unseen: Entries of the configuration that no shape tells: `config` has them for published widths alone.
        classes: The classes of transformers that a text encoder of it may be.
        encoders: Which component of its model a text encoder is, by its name in ComfyUI's whole files: what stands
            after `text_encoders.`; those that are not in it are `text_encoder`.
        widths: Entries that both shapes and configurations tell, and that must agree.
        twins: Other classes of diffusers that have the very same tensors, each with what makes its configuration of
            that of the first class.
    """

    name: str
    component: str
    spellings: tuple[Spelling, ...]
    config: Callable[[Shapes], dict[str, Any]]
    family: str | Callable[[Header], str] | None = None
    unseen: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    twins: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)

    def family_of(self, header: Header) -> str | None:
        """The family of a file's denoiser of this kind; None where it is no denoiser."""
        return self.family(header) if callable(self.family) else self.family


def same(pattern: str) -> Callable[[Shapes], Places]:
    """Places in a file that has diffusers' names already: those of them that fit the pattern."""
    known = re.compile(pattern)
    return lambda shapes: {name: Place(name) for name in shapes if known.fullmatch(name)}
