"""Contents of a single file, told by its header alone: of which family it is, which components it holds, in which
spelling, where their tensors lie, and their configurations. No torch.

`read` accounts for every tensor of the file: its name is read into a component, belongs to a component that nobody
asked for, is a scale of a small format, or stands in the table of `weights.unread`. Anything else is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graphengine import ModelError
from graphengine_nodes.layouts import flux, texts, unet, vae
from graphengine_nodes.layouts.places import Place, Places, Shapes
from graphengine_nodes.weights.headers import Header, HeaderAndMetadata
from graphengine_nodes.weights.scaled import check_small, scales_in
from graphengine_nodes.weights.unread import without_place

DENOISER = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "")
CLIP = (
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
    "text_encoders.clip_l.transformer.",
    "text_encoder.",
    "text_encoder_2.",
    "",
)
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.", "")

SECOND = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
"""What stands before the names of Stable Diffusion 2.x's text encoder: the second in SD-Turbo, and before those of
SDXL's second one in the refiner."""

REFINED = 1280
"""The width of the prompts that SDXL's refiner takes: those of the second text encoder alone."""

COMPONENTS = {
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.t5xxl.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
}
"""The component of a model that a text encoder is, by the beginning of its names."""


def _same(pattern: str) -> Callable[[Shapes], Places]:
    """Places in a file that has diffusers' names already: those of them that fit the pattern."""
    known = re.compile(pattern)
    return lambda shapes: {name: Place(name) for name in shapes if known.fullmatch(name)}


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way in which files name a component's tensors.

    Attributes:
        kind: `unet`, `controlnet`, `transformer`, `flux_controlnet`, `vae`, `clip` or `t5`.
        name: Whose names they are.
        signs: Names that a file with it has, after the prefix.
        prefixes: What may stand before its names.
        places: Finds the places among the names without their prefix.
    """

    kind: str
    name: str
    signs: tuple[str, ...]
    prefixes: tuple[str, ...]
    places: Callable[[Shapes], Places]

    def prefix(self, names: Iterable[str]) -> str | None:
        """What stands before the names in a file with it; None in other files."""
        return next((p for p in self.prefixes if all(f"{p}{sign}" in names for sign in self.signs)), None)


SPELLINGS = (
    Spelling("unet", "original", ("input_blocks.0.0.weight", "out.2.weight"), DENOISER, unet.places),
    Spelling("unet", "diffusers", ("conv_in.weight", "conv_norm_out.weight"), DENOISER, _same(unet.DIFFUSERS)),
    Spelling(
        "controlnet",
        "original",
        ("input_blocks.0.0.weight", "zero_convs.0.0.weight"),
        ("control_model.", ""),
        unet.places,
    ),
    Spelling("controlnet", "diffusers", (unet.CONTROLNET, "conv_in.weight"), ("",), _same(unet.DIFFUSERS)),
    Spelling(
        "transformer",
        "original",
        ("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight"),
        DENOISER,
        flux.places,
    ),
    Spelling("transformer", "diffusers", (*flux.SIGNS, "proj_out.weight"), DENOISER, _same(flux.DIFFUSERS)),
    Spelling("flux_controlnet", "diffusers", (*flux.SIGNS, flux.CONTROLNET), ("",), _same(flux.DIFFUSERS)),
    Spelling("vae", "original", ("decoder.up.0.block.0.norm1.weight",), ("first_stage_model.", "vae.", ""), vae.places),
    Spelling("vae", "diffusers", ("decoder.up_blocks.0.resnets.0.norm1.weight",), ("vae.", ""), vae.diffusers_places),
    *(
        Spelling(
            "clip", "transformers", (f"{start}embeddings.position_embedding.weight",), (prefix,), texts.clip_places
        )
        for prefix in CLIP
        for start in ("text_model.", "")
    ),
    *(
        Spelling("clip", "OpenCLIP", ("positional_embedding", "ln_final.weight"), (prefix,), texts.open_clip_places)
        for prefix in OPEN_CLIP
    ),
    Spelling(
        "t5",
        "transformers",
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
        ("text_encoders.t5xxl.transformer.", "text_encoder_2.", ""),
        texts.t5_places,
    ),
    Spelling("t5", "llama.cpp", ("enc.blk.0.attn_q.weight", "enc.output_norm.weight"), ("",), texts.llama_cpp_places),
)

UNSEEN = {
    "unet": ("attention_head_dim", "norm_num_groups"),
    "controlnet": ("attention_head_dim", "norm_num_groups"),
    "vae": ("norm_num_groups",),
    "clip": ("num_attention_heads",),
    "transformer": ("axes_dims_rope",),
    "flux_controlnet": ("axes_dims_rope",),
}
"""What no shape tells: it is known for the widths of published models alone."""

WIDTHS = {
    "unet": ("block_out_channels", "cross_attention_dim", "in_channels"),
    "controlnet": ("block_out_channels", "cross_attention_dim"),
    "vae": ("block_out_channels", "latent_channels"),
    "clip": ("hidden_size", "vocab_size"),
    "t5": ("d_model", "vocab_size"),
    "transformer": ("in_channels", "num_attention_heads"),
}
"""What both shapes and configurations tell."""


@dataclass(frozen=True)
class Component:
    """One component in a file.

    Attributes:
        kind: See `Spelling`.
        name: Which component of a model it is (`unet`, `text_encoder_2`); empty for a text encoder alone in its file.
        prefix: What its names begin with in the file.
        spelling: Whose names they are.
        places: Where its tensors lie in the file, by diffusers' or transformers' names.
        shapes: The shapes of its tensors by these names.
        said: What the file's metadata say of its configuration.
        skipped: Names of tensors that it has and a model does not read.
        where: The file, for messages.
    """

    kind: str
    name: str
    prefix: str
    spelling: str
    places: Places = field(repr=False)
    shapes: Shapes = field(repr=False)
    said: Mapping[str, Any]
    skipped: frozenset[str] = field(repr=False)
    where: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration as diffusers or transformers would write it, without the scale of a VAE.

        Raises:
            ModelError: A tensor is missing, or its widths are unknown and the file does not say what they leave open.
        """
        try:
            found = self._derived() | dict(self.said)
        except (LookupError, ValueError) as error:
            raise ModelError(
                f"{self.where}: its {self.name or self.kind} lacks {error}; the file is incomplete"
            ) from None
        open_ = [name for name in UNSEEN.get(self.kind, ()) if name not in found]
        if open_:
            raise ModelError(
                f"{self.where}: its {self.name or self.kind} has widths of no published model, and no shape tells "
                f"{' and '.join(open_)}; give config, a folder with its configurations"
            )
        return found

    def _derived(self) -> dict[str, Any]:
        if self.kind in ("unet", "controlnet"):
            return unet.config(self.shapes)
        if self.kind in ("transformer", "flux_controlnet"):
            return flux.config(self.shapes)
        if self.kind == "vae":
            return vae.config(self.shapes)
        if self.kind == "t5":
            return texts.t5_config(self.shapes)
        width = self.shapes["text_model.embeddings.token_embedding.weight"][1]
        return texts.clip_config(self.shapes, self.spelling == "OpenCLIP" or width > min(texts.WIDTHS))

    def check(self, config: Mapping[str, Any], folder: Path) -> None:
        """Refuse a configuration of another model, in a folder, whose widths the file's shapes contradict.

        Raises:
            ModelError: They do.
        """
        try:
            derived = self._derived()
        except (LookupError, ValueError):  # what is missing is told when the component is read
            return
        for name in WIDTHS.get(self.kind, ()):
            said, found = config.get(name), derived.get(name)
            if None not in (said, found) and said != found:
                raise ModelError(
                    f"{self.where} is no {self.name or self.kind} as {folder} describes it: {name} is {found} by its "
                    f"header, and {said} there; give another config"
                )

    @property
    def names(self) -> frozenset[str]:
        """The names in the file that it consists of."""
        return frozenset(place.name for place in self.places.values()) | self.skipped

    def as_text_encoder(self, name: str) -> Component:
        """A CLIP as a component of a model: only the second text encoder of SDXL has a projection."""
        if self.kind != "clip" or name != "text_encoder":
            return replace(self, name=name)
        places = {n: place for n, place in self.places.items() if not n.startswith("text_projection.")}
        return replace(
            self,
            name=name,
            places=places,
            shapes={n: self.shapes[n] for n in places},
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

    def component(self, name: str) -> Component | None:
        """A component of a model by name; a text encoder alone in its file is any one of its kind."""
        if name in self.components:
            return self.components[name]
        if name == "controlnet":
            return self.components.get("flux_controlnet")
        alone = self.components.get("")
        return alone.as_text_encoder(name) if alone is not None and name.startswith("text_encoder") else None


def family_of(header: Header) -> str | None:
    """The family of a file's denoiser, by its names alone; None of a file without one."""
    found = {spelling.kind for spelling, _ in _spellings(header)}
    if "transformer" in found:
        return "flux"
    if "unet" not in found:
        return None
    if not _is_xl(header):
        return "stable_diffusion"
    width = next((entry["shape"][1] for name, entry in header.items() if name.endswith(".attn2.to_k.weight")), None)
    alone = f"{SECOND[1]}ln_final.weight" in header or width == REFINED
    return "stable_diffusion_xl_refiner" if alone else "stable_diffusion_xl"


def kinds_in(header: Header) -> list[str]:
    """The kinds of a file's components (see `Spelling`), by its names alone."""
    return list(dict.fromkeys(spelling.kind for spelling, _ in _spellings(header)))


def _is_xl(names: Iterable[str]) -> bool:
    """Whether a UNet takes sizes beside prompts, as those of SDXL do."""
    sizes = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
    return any(f"{prefix}{name}" in names for prefix in DENOISER for name in sizes)


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
    for spelling, prefix in _spellings(header):
        component = _component(spelling, prefix, shapes, said, where)
        components.setdefault(component.name, component)
    if not components:
        raise ModelError(
            f"{where} holds no component of a known model; the first of its tensors is {min(header, default='missing')}"
        )
    read = {name for component in components.values() for name in component.names}
    left = shapes.keys() - read
    families = [name for name in components if name in ("unet", "transformer", "controlnet")]
    if strange := without_place(left):
        more = f"{len(strange)} tensors, the first is" if len(strange) > 1 else "the tensor"
        raise ModelError(
            f"{where}: nothing is known about {more} {strange[0]}; the file is of another model, or changed in an "
            f"unknown way (it holds {', '.join(c.name or c.kind for c in components.values())})"
        )
    family = family_of(header) if families else None
    return Contents(family, components, said, frozenset(header) & MARKERS)


def _spellings(names: Iterable[str]) -> list[tuple[Spelling, str]]:
    """The spellings that a file's names are of, with what stands before the names; one for each component."""
    return [(spelling, prefix) for spelling in SPELLINGS if (prefix := spelling.prefix(names)) is not None]


def _component(
    spelling: Spelling, prefix: str, shapes: Shapes, said: Mapping[str, Mapping[str, Any]], where: Path
) -> Component:
    inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    try:
        places = spelling.places(inside)
    except (LookupError, ValueError) as error:
        raise ModelError(f"{where}: its {spelling.kind} lacks {error}; the file is incomplete") from None
    every = {f"{prefix}{place.name}" for place in places.values()}
    if prefix in SECOND and not _is_xl(shapes):
        places = texts.without_last_layer(places)
    stored = {name: place.shape(inside[place.name]) for name, place in places.items()}
    places = {name: replace(place, name=f"{prefix}{place.name}") for name, place in places.items()}
    kind = spelling.kind
    name = kind if kind not in ("clip", "t5") else next((c for p, c in COMPONENTS.items() if prefix.startswith(p)), "")
    if prefix == SECOND[1] and _is_xl(shapes):
        name = "text_encoder_2"
    skipped = frozenset(every - {place.name for place in places.values()})
    component = Component(kind, name, prefix, spelling.name, places, stored, said.get(name, {}), skipped, where)
    return component.as_text_encoder(name)


def _said(metadata: Mapping[str, str], where: Path) -> dict[str, dict[str, Any]]:
    """The configurations in a file's metadata, by component."""
    if "config" not in metadata:
        return {}
    try:
        found = json.loads(metadata["config"])
        return {name: dict(entries) for name, entries in found.items() if isinstance(entries, dict)}
    except (ValueError, AttributeError, RecursionError):
        raise ModelError(f"{where}: the config in its metadata is no JSON object; the file is damaged") from None
