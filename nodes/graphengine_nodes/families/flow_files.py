"""Files of the families that are records: which are theirs, and what their configurations say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine import ModelError
from graphengine_nodes.families.pipelines import Pipelines, in_pixels
from graphengine_nodes.families.record import Guidance, Record, Text, Variant
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.types import Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.headers import Header


class FlowFiles(Pipelines):
    """The part of `flow.Flow` that knows files; see `graphengine_nodes.families.Family`."""

    denoiser = "transformer"

    def __init__(self, record: Record) -> None:
        self.record = record
        self.name, self.schedulers, self.preview = record.name, record.schedulers, record.preview
        self.parts, self.optional, self.classes = record.parts, record.optional, record.classes
        self.encoder_widths = record.encoder_widths
        self.lora_names, self.vae_scale = record.lora_names, record.vae_scale
        self.latents, self.picture_scales = record.latents.family, record.picture_scales
        self.needs: Mapping[str, Sequence[str]] = {"denoiser": ("vae",)}

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return str(index.get("_class_name", "")) in self.record.pipelines

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return config.get("_class_name") == self.classes[self.denoiser][1]

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        known = self.classes.get("controlnet")
        return known is not None and config.get("_class_name") == known[1]

    def owns_vae(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return self.record.owns_vae(config)

    def owns_lora(self, header: Header) -> bool:
        """See `Family`."""
        return self.record.owns_lora(header)

    def modes_of(self, config: Mapping[str, Any]) -> int | None:
        """See `Family`."""
        return self.record.modes(config)

    def packaged_tokenizer(self, component: str, held: Contents) -> Path | None:
        """See `Family`."""
        return self.record.tokenizer(component, held) or super().packaged_tokenizer(component, held)

    def scheduler_config(self, held: Contents) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.record.scheduler(held)

    def pipeline_name(self, held: Contents) -> str:
        """See `Pipelines`."""
        if (name := self.record.pipeline(held)) is not None:
            return name
        part = held.component(self.denoiser)
        variant = self.record.variant({}, {} if part is None else part.config)
        return next(iter(self.record.variants[variant].tasks.values())).class_name

    def configurations(self, held: Contents) -> dict[str, dict[str, Any]]:
        """See `Family`."""
        found = super().configurations(held)
        return found | {"model_index.json": {**self.record.index(held), **found["model_index.json"]}}

    def prompt_widths(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        """See `Family`."""
        return self.record.prompt_widths(configs)

    def settings(self, folder: Path) -> dict[str, Any]:
        """See `Family`."""
        file = folder / "model_index.json"
        index = files.read_json(file) if file.is_file() else {}
        denoiser = files.read_json(folder / self.denoiser / "config.json")
        vae = self.vae_settings(files.read_json(folder / "vae" / "config.json"))
        return in_pixels(self._settings_of(index, denoiser, folder), vae)

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        """See `Family`."""
        file = where.parent / "model_index.json"  # of a folder in diffusers layout, or one written by us
        index = files.read_json(file) if file.is_file() else {}
        return self._settings_of(index if self.owns_folder(index) else {}, config, where)

    def _settings_of(self, index: Mapping[str, Any], config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        try:
            name = self.record.variant(index, config)
        except ValueError as error:
            raise ModelError(f"the denoiser in {where} {error}") from None
        variant = self.record.variants[name]
        found = variant.settings(index, config)
        options = {option: index[option] for option in variant.options if index.get(option) is not None}
        found |= {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return found | ({"variant": name} if name else {})

    def paired_settings(self, config: Mapping[str, Any], boundary_ratio: float | None, source: str) -> dict[str, Any]:
        """See `Family`."""
        ratio = self.record.boundary(config) if boundary_ratio is None else boundary_ratio
        if ratio is None:
            return super().paired_settings(config, boundary_ratio, source)
        found = self._settings_of({"boundary_ratio": ratio}, config, Path(source))
        return {name: value for name, value in found.items() if name not in ("width", "height")}

    def vae_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family`."""
        found = self.record.vae_settings(config)
        return found | {"multiple": self.record.latents.patch * found["factor"]}

    def encoder_classes(self, component: str) -> frozenset[str]:
        """See `Family`: those of all variants."""
        return frozenset(names_of([self.classes[component], *self._variants_classes(component)]))

    def class_of(self, component: str, location: Location) -> tuple[str, str]:
        """See `Pipelines`: of variants with several classes the one that the component's configurations name."""
        found = self._variants_classes(component)
        said = _said_classes(location.folder) if found else ""
        return next((one for one in found if f'"{one[1]}"' in said), self.classes[component])

    def _variants_classes(self, component: str) -> list[tuple[str, str]]:
        return [cls for one in self.record.variants.values() for cls in one.classes.get(component, ())]

    def _variant(self, model: Model) -> Variant:
        return self.record.variants[model.setting("variant", "")]

    def _guidance(self, model: Model) -> Guidance:
        return self._variant(model).guidance or self.record.guidance

    def _text(self, model: Model) -> Text:
        return self._variant(model).text or self.record.text


def names_of(classes: Sequence[tuple[str, str]]) -> list[str]:
    return [name for _, name in classes]


def _said_classes(folder: Path) -> str:
    """The configurations of a component, where its class stands: a model's, a tokenizer's or a processor's."""
    names = ("config.json", "tokenizer_config.json", "processor_config.json")
    return "".join((folder / name).read_text() for name in names if (folder / name).is_file())
