"""Places of a LoRA's changes: which layers of a model's component each layer of a file belongs to. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphengine import ModelError, fingerprint
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.weights import files
from graphengine_nodes.weights.headers import SIZES, Header, read_bytes
from graphengine_nodes.weights.lora_names import LoraLayer, LoraNames, Place, lora_layers

CONFIGURATION = ("adapter_model.safetensors", "adapter_config.json")
"""The name of peft's own file, and of the file with its configuration beside it."""


def lora_digest(file: Path) -> str:
    """The digest of a LoRA: of its file, and of peft's configuration beside it."""
    told = configuration_beside(file)
    return fingerprint(file) if told is None else digest_of([fingerprint(file), fingerprint(told)])


def configuration_beside(file: Path) -> Path | None:
    """peft's configuration beside a LoRA's file."""
    name, configuration = CONFIGURATION
    told = file.with_name(configuration)
    return told if file.name == name and told.is_file() else None


@dataclass(frozen=True, slots=True)
class Placed:
    """The layers of a file that belong to one component.

    Attributes:
        there: Each with the place that it has in the component.
        lost: Those that have none.
    """

    there: list[tuple[LoraLayer, Place]] = field(default_factory=list)
    lost: list[LoraLayer] = field(default_factory=list)


def place_layers(
    file: Path, names: LoraNames, component: str, paths: Sequence[str], header: Header | None = None
) -> Placed:
    """Find the place of each change of a LoRA's file in one component.

    Changes that are zero (published files hold such) need no place.

    Args:
        paths: Of the component's layers.

    Raises:
        ModelError: It is no LoRA that is read, or changes a layer by two of its names.
    """
    header = files.read_header(file) if header is None else header
    known = names.places(component, paths)
    layers = lora_layers(header, file)
    # What belongs to no component of the family is told with the first one.
    first = next((belongs for layer in layers if (belongs := names.component(layer)) is not None), "text_encoder")
    found, changed = Placed(), dict[str, LoraLayer]()
    for layer in layers:
        if (names.component(layer) or first) != component:
            continue
        place = known.get(layer.name) if names.component(layer) is not None else None
        if place is not None:
            for path in place.paths:
                if (other := changed.setdefault(path, layer)) is not layer:
                    raise ModelError(f"{file} changes one layer twice, by {other.first} and by {layer.first}")
            found.there.append((layer, place))
        elif not _is_zero(layer, file):
            found.lost.append(layer)
    return found


def refuse_lost(file: Path, what: str, placed: Placed, partial: bool) -> None:
    """Refuse changes without a place in `what`.

    Args:
        partial: The caller wants the others alone, if there are any.

    Raises:
        ModelError: There are some; or none has a place, and the LoRA is for another model.
    """
    if not placed.lost or (partial and placed.there):
        return
    foreign = len(placed.lost) > len(placed.there)
    says = "is for another model" if foreign else "does not fit"
    advice = "" if foreign else "; apply_lora(partial=true) leaves these out"
    raise ModelError(f"{file.name} {says}: {lost_of(placed, what)}{advice}")


def lost_of(placed: Placed, what: str) -> str:
    """Say how many changes have no place in `what`, and the first of them."""
    count, total = len(placed.lost), len(placed.lost) + len(placed.there)
    return f"{count} of its {total} changes find no place in the {what}, the first is {placed.lost[0].first}"


def _is_zero(layer: LoraLayer, file: Path) -> bool:
    """Whether a change is zero because one of its factors is."""
    factors = {"low-rank": ("up", "down"), "full": ("diff",), "bias": ("diff_b",)}.get(layer.kind, ())
    if layer.tensors.keys() - {*factors, "mid", "alpha"}:
        return False
    return any(_all_zero(file, layer.tensors[role]) for role in factors)


def _all_zero(file: Path, name: str) -> bool:
    """Whether all numbers of a tensor in a safetensors file are zero, with either sign."""
    header = files.read_header(file)
    data, size = bytearray(read_bytes(file, header, [name])[name]), SIZES[header[name]["dtype"]]
    signs = set(data[size - 1 :: size])  # the last byte of each number begins with its sign
    data[size - 1 :: size] = bytes(len(data) // size)
    return signs <= {0, 0x80} and not any(data)
