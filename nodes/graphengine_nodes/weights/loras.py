"""LoRAs put into modules: from a file of any format to changes over the module's layers.

The module is long because scales, shapes and rows of every format are settled at one place, before a layer is changed.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.values.types import Tensors
from graphengine_nodes.weights import files
from graphengine_nodes.weights.lora_names import MAGNITUDES, LoraLayer, LoraNames, Place
from graphengine_nodes.weights.lora_placing import configuration_beside, lost_of, place_layers, refuse_lost
from graphengine_nodes.weights.reading import read_tensors

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

METADATA = "lora_adapter_metadata"
"""Where diffusers writes peft's configuration in a LoRA's header, by component."""


def add_loras(
    component: str,
    module: Any,
    loras: Iterable[tuple[str, Path, float]],
    names: LoraNames,
    partial: Collection[str] = (),
) -> None:
    """Put LoRAs (name, file, strength) into a module that is not shared; its layers are called, and stay as they are.

    Args:
        partial: The names of LoRAs whose changes without a place are left out with a warning.

    Raises:
        ModelError: A LoRA does not fit the module.
    """
    import torch

    layers = {path: layer for path, layer in module.named_modules() if _can_change(layer)}
    for name, file, strength in loras:
        header = files.read_header(file)
        placed = place_layers(file, names, component, list(layers), header)
        refuse_lost(file, component, placed, name in partial)
        if placed.lost:
            log.warning("%s: %s; they are left out", file.name, lost_of(placed, component))
        wanted = {tensor for layer, _ in placed.there for tensor in layer.tensors.values()}
        tensors = read_tensors(file, names=wanted) if wanted else {}
        adding = _Adding(name, file, strength, component, module, layers, _configuration(file, component))
        with torch.no_grad():
            for layer, place in placed.there:
                factors = {role: tensors[tensor] for role, tensor in layer.tensors.items()}
                adding.add(layer, place, factors, names.folds and layer.folded)


def _can_change(layer: Any) -> bool:
    """Whether a layer is one with a weight that LoRAs may change: no embedding table."""
    import torch

    own = layer._parameters.get("weight") is not None or isinstance(layer, torch.nn.Linear)  # whose weight may be made
    return own and not isinstance(layer, torch.nn.Embedding)


def _configuration(file: Path, component: str) -> Mapping[str, Any]:
    """peft's configuration of a LoRA: in the file's header for each component, or in a file beside it."""
    if (beside := configuration_beside(file)) is not None:
        return files.read_json(beside)
    text = files.read_metadata(file).get(METADATA)
    if not text:
        return {}
    try:
        found = json.loads(text)
        return {key.removeprefix(f"{component}."): v for key, v in found.items() if key.startswith(f"{component}.")}
    except (ValueError, AttributeError):
        raise ModelError(f"{file} is damaged: {METADATA} in its header is no JSON object; copy it again") from None


@dataclass(frozen=True, slots=True)
class _Adding:
    """One LoRA being put into a module; `layers` are the module's by their paths, before any LoRA."""

    name: str
    file: Path
    strength: float
    component: str
    module: Any
    layers: Mapping[str, Any]
    configuration: Mapping[str, Any]

    def add(self, layer: LoraLayer, place: Place, factors: Tensors, folds: bool) -> None:
        """Put one change in its place.

        Args:
            folds: Its scale is multiplied into its factors.
        """
        import torch

        from graphengine_nodes.weights import lora_forms as forms
        from graphengine_nodes.weights.cast_layers import computing_dtype

        bases = [self.layers[path] for path in place.paths]
        if not isinstance(bases[0], torch.nn.Linear | torch.nn.Conv2d):
            self._add_to_norm(layer, bases[0], factors)
            return
        shapes = [forms.weight_shape(base) for base in bases]
        rows = sum(shape[0] for shape in shapes)
        whole = torch.Size((rows, *shapes[0][1:]))
        alpha, divisor = self._alpha(layer, place, factors)
        encoder = self.component.startswith("text_encoder")
        if folds and layer.kind == "low-rank":
            factors, alpha = _folded(factors, alpha, divisor, encoder, len(bases) > 1), divisor
        scale = self.strength * alpha / divisor  # in peft's order
        factors = self._fitted(layer, factors, whole, bases[0])
        pieces = _pieces([shape[0] for shape in shapes], place.swapped)
        # diffusers leaves its LoRAs asking for gradients, transformers does not
        parts = _in_parts(layer.kind, factors, bases, pieces, rows, not encoder)
        if len(layer.kinds) > 1:
            beside = _in_parts("full", factors, bases, pieces, rows, not encoder)
            parts = [forms.Sum(form, alpha / divisor, full) for form, full in zip(parts, beside, strict=True)]
            scale = self.strength
        turned, on_input = self._magnitude(factors, whole, bases, pieces, parts, scale)
        shift = factors.get("diff_b")
        for path, base, piece, form, factor in zip(place.paths, bases, pieces, parts, turned, strict=True):
            own = None if shift is None else forms.shaped(forms.picked(shift * self.strength, piece, 0), base)
            if factor is not None and not on_input and base.bias is not None:  # which is no part of the weight
                kept = (1 - factor.float()) * forms.shaped(base.bias.detach().float(), base)
                own = kept if own is None else own + kept
            own = None if own is None else own.to(computing_dtype(base))
            self._over(path).lora_changes[self.name] = forms.LayerChange(form, scale, own, factor, on_input).eval()

    def _over(self, path: str) -> Any:
        """The layer with changes at a path, put there if there is none."""
        from graphengine_nodes.weights.lora_forms import ChangedLayer

        parent, _, leaf = path.rpartition(".")
        holder = self.module.get_submodule(parent)
        found = holder.get_submodule(leaf)
        if not isinstance(found, ChangedLayer):
            found = ChangedLayer(found)
            setattr(holder, leaf, found)
        return found

    def _add_to_norm(self, layer: LoraLayer, base: Any, factors: Tensors) -> None:
        """Change the few numbers of a norm in place: they are the clone's own."""
        import torch

        changed = {"diff": "weight", "diff_b": "bias"}
        if others := sorted(factors.keys() - changed.keys() - {"alpha"}):
            raise ModelError(
                f"{self.file.name} does not fit this model's {self.component}: {layer.tensors[others[0]]} changes a "
                "matrix, but that layer has none"
            )
        for role, of in changed.items():
            if (diff := factors.get(role)) is None:
                continue
            old = getattr(base, of, None)
            if old is None or old.numel() != diff.numel():
                raise self._misfit(layer, role, diff, "none" if old is None else list(old.shape))
            new = (old.float() + diff.float().reshape(old.shape) * self.strength).to(old.dtype)
            setattr(base, of, torch.nn.Parameter(new, requires_grad=old.requires_grad))

    # --- what the format says -----------------------------------------------------------------------------------------

    def _alpha(self, layer: LoraLayer, place: Place, factors: Tensors) -> tuple[float, float]:
        """A layer's alpha, and what divides it: its rank, or for rsLoRA the root of that."""
        told, rank = self.configuration, _rank(factors)
        whole = layer.kind == "lokr" and {"lokr_w1", "lokr_w2"} <= factors.keys()
        if whole and told.get("r"):
            rank = int(told["r"])  # which peft divides by in any case
        elif rank is None or whole:
            return 1.0, 1.0
        root = bool(told.get("use_rslora"))
        if "alpha" in factors:
            alpha = float(factors["alpha"]) if factors["alpha"].numel() == 1 else math.nan
            if not math.isfinite(alpha):
                raise ModelError(f"{self.file} is damaged: {layer.tensors['alpha']} is no number; copy it again")
            return alpha, math.sqrt(rank) if root else rank
        default = told.get("lora_alpha", told.get("alpha"))
        alpha = _matching(told.get("alpha_pattern") or {}, place.paths[0], default)
        if alpha is None:
            return rank, rank  # multiplied and divided as peft does it
        return float(alpha), math.sqrt(rank) if root else rank

    def _fitted(self, layer: LoraLayer, factors: Tensors, shape: torch.Size, base: Any) -> dict[str, torch.Tensor]:
        """The factors in the type of the layer's numbers, and in its shape where a matrix is a 1 x 1 convolution.

        Raises:
            ModelError: They are of another shape than the layer.
        """
        from graphengine_nodes.weights.cast_layers import computing_dtype

        dtype = computing_dtype(base)
        found: dict[str, torch.Tensor] = {}
        for role, tensor in factors.items():
            plain = role in ("alpha", "dora_scale", "magnitude", "diff_b")
            found[role] = tensor.float() if plain else tensor.to(dtype)
        if layer.kind == "low-rank":
            _as_layer(found, len(shape))
        if "diff" in found and found["diff"].numel() == shape.numel():
            found["diff"] = found["diff"].reshape(shape)
        for role, wanted in _wanted(layer.kind, found, shape).items():
            if role in found and tuple(found[role].shape) != wanted:
                raise self._misfit(layer, role, factors[role], list(shape))
        for role in MAGNITUDES:
            if role in found and _axis(role, found[role].shape, shape) is None:
                raise self._misfit(layer, role, factors[role], list(shape))
        return found

    def _misfit(self, layer: LoraLayer, role: str, tensor: torch.Tensor, shape: Any) -> ModelError:
        return ModelError(
            f"{self.file.name} does not fit this model's {self.component}: {layer.tensors[role]} is "
            f"{list(tensor.shape)}, which makes no change of a layer of {shape}"
        )

    def _magnitude(
        self,
        factors: Tensors,
        whole: torch.Size,
        bases: Sequence[Any],
        pieces: Sequence[tuple[tuple[int, int], ...]],
        parts: Sequence[Any],
        scale: float,
    ) -> tuple[list[torch.Tensor | None], bool]:
        """What DoRA multiplies each layer's changed weight by, for each row or column, and whether for each column.

        That is `strength * (magnitude / norm - 1) + 1`, the norm being that of the weight changed at this strength.
        """
        import torch

        from graphengine_nodes.weights import lora_forms as forms
        from graphengine_nodes.weights.cast_layers import computing_dtype

        role = next((role for role in MAGNITUDES if role in factors), None)
        if role is None:
            return [None] * len(bases), False
        magnitude = factors[role]
        on_input = _axis(role, magnitude.shape, whole) == 1
        norms = []
        for base, part in zip(bases, parts, strict=True):
            weight = forms.dense_weight(base)
            weight = weight + part.dense(weight.shape).to(weight.device) * scale
            rest = [axis for axis in range(weight.ndim) if axis != int(on_input)]
            norms.append(torch.linalg.vector_norm(weight, dim=rest))
        numbers = magnitude.flatten().to(norms[0].device)
        sizes = [numbers] * len(bases) if on_input else [forms.picked(numbers, piece, 0) for piece in pieces]
        if on_input:  # a column goes through all of the layers
            norms = [torch.linalg.vector_norm(torch.stack(norms), dim=0)] * len(bases)
        dtype = computing_dtype(bases[0])
        found: list[torch.Tensor | None] = []
        for base, size, norm in zip(bases, sizes, norms, strict=True):
            ratio = size / (norm + torch.finfo(norm.dtype).eps)
            found.append(forms.shaped((self.strength * (ratio - 1) + 1).to(dtype), base))
        return found, on_input


def _matching(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    """What peft's configuration says of a layer: of the first pattern that its path ends with, else of all layers."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path) or re.match(rf"(.*\.)?({pattern})$", f"text_model.{path}"):
            return value
    return default


def _rank(factors: Tensors) -> int | None:
    """The rank of a change; None for one that has none."""
    for role in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if role in factors:
            return int(factors[role].shape[0])
    return None


def _as_layer(factors: dict[str, torch.Tensor], axes: int) -> None:
    """Give matrices the axes of a convolution, or take axes of 1 x 1 away, as the layer has them."""
    for role in ("down", "up"):
        tensor = factors[role]
        if tensor.ndim == 2 and axes == 4:
            factors[role] = tensor[:, :, None, None]
        elif tensor.ndim == 4 and axes == 2 and tensor.shape[2:] == (1, 1):
            factors[role] = tensor[:, :, 0, 0]


def _wanted(kind: str, factors: Tensors, shape: torch.Size) -> dict[str, tuple[int, ...]]:
    """The shapes that factors must have for a layer's shape."""
    out, columns, *kernel = shape
    found: dict[str, tuple[int, ...]] = {"diff": tuple(shape), "diff_b": (out,)}
    if kind == "low-rank":
        rank, ones = factors["down"].shape[0], (1,) * len(kernel)
        inner = ones if "mid" in factors else tuple(kernel)
        found |= {"down": (rank, columns, *inner), "up": (out, rank, *ones), "up_bias": (out,)}
        return found | {"mid": _core(rank, kernel)}
    if kind == "loha":
        for side in ("hada_w1", "hada_w2"):
            rank, core = factors[f"{side}_b"].shape[0], side.replace("w", "t")
            if core in factors:
                found |= {f"{side}_a": (rank, out), f"{side}_b": (rank, columns), core: _core(rank, kernel)}
            else:
                found |= {f"{side}_a": (out, rank), f"{side}_b": (rank, columns * math.prod(kernel))}
        return found
    return found | (_wanted_of_lokr(factors, out, columns, kernel) if kind == "lokr" else {})


def _wanted_of_lokr(factors: Tensors, out: int, columns: int, kernel: Sequence[int]) -> dict[str, tuple[int, ...]]:
    first, second = factors.get("lokr_w1"), factors.get("lokr_w2")
    a = (factors["lokr_w1_a"] if first is None else first).shape[0]
    b = (factors["lokr_w1_b"] if first is None else first).shape[1]
    if out % a or columns % b:
        return {"lokr_w1_a" if first is None else "lokr_w1": (-1,)}
    c, d, wide = out // a, columns // b, math.prod(kernel)
    found: dict[str, tuple[int, ...]] = {"lokr_w1": (a, b)}
    if first is None:
        rank = factors["lokr_w1_b"].shape[0]
        found |= {"lokr_w1_a": (a, rank), "lokr_w1_b": (rank, b)}
    if second is not None:
        return found | {"lokr_w2": (c, d, *kernel) if second.ndim > 2 else (c, d * wide)}
    rank = factors["lokr_w2_b"].shape[0]
    if "lokr_t2" in factors:
        return found | {"lokr_w2_a": (rank, c), "lokr_w2_b": (rank, d), "lokr_t2": _core(rank, kernel)}
    return found | {"lokr_w2_a": (c, rank), "lokr_w2_b": (rank, d * wide)}


def _core(rank: int, kernel: Sequence[int]) -> tuple[int, ...]:
    """The shape of a core, which convolutions alone have."""
    return (rank, rank, *kernel) if kernel else (-1,)


def _axis(role: str, shape: Sequence[int], whole: Sequence[int]) -> int | None:
    """The axis of a weight along which a magnitude has a number for each place; None if along none."""
    if role == "magnitude":  # peft's are of rows: [out], for convolutions [1, out, 1, 1]
        return _axis("", shape[1:] if len(shape) > 1 else shape, whole[:1])
    for axis, count in enumerate(whole[:2]):
        if len(shape) > axis and all(side == (count if a == axis else 1) for a, side in enumerate(shape)):
            return axis
    return None


def _pieces(rows: Sequence[int], swapped: bool) -> list[tuple[tuple[int, int], ...]]:
    """For each layer its rows in the file's one layer, as pieces from a beginning to an end."""
    found: list[tuple[tuple[int, int], ...]] = []
    start = 0
    for count in rows:
        end = start + count
        half = start + count // 2
        found.append(((half, end), (start, half)) if swapped else ((start, end),))
        start = end
    return found


def _folded(factors: Tensors, alpha: float, divisor: float, in_place: bool, fused: bool) -> dict[str, torch.Tensor]:
    """The factors with their scale in them, as diffusers divides it between FLUX's.

    Args:
        in_place: The tensors keep their memory, on whose alignment the last bits depend; without an alpha nothing is
            done.
        fused: The scale is rounded to the type of numbers in which the file keeps the alpha.
    """
    if in_place and "alpha" not in factors:
        return dict(factors)
    first: Any = alpha / divisor
    if fused and "alpha" in factors:
        first = factors["alpha"].reshape(()) / divisor
    second: Any = 1.0
    while first * 2 < second:
        first, second = first * 2, second / 2
    down, up = (factors["down"], first), (factors["up"], second)
    new = [tensor.mul_(by) if in_place else tensor * by for tensor, by in (down, up)]
    return {**factors, "down": new[0], "up": new[1]}


def _in_parts(
    kind: str,
    factors: Tensors,
    bases: Sequence[Any],
    pieces: Sequence[tuple[tuple[int, int], ...]],
    rows: int,
    gradients: bool,
) -> list[Any]:
    """The form of the change for each layer, which takes its rows of it."""
    from graphengine_nodes.weights import lora_forms as forms

    if kind == "bias":
        return [None] * len(bases)
    if kind == "low-rank":
        downs = _downs(factors, [end - start for ((start, end), *_) in pieces]) if len(bases) > 1 else None
        found = []
        for index, (base, piece) in enumerate(zip(bases, pieces, strict=True)):
            mine = [role for role in ("up", "up_bias") if role in factors]
            own: dict[str, Any] = {role: forms.picked(factors[role], piece, 0) for role in mine}
            if downs is not None:
                width = downs[index].shape[0]
                own |= {"down": downs[index], "up": own["up"][:, index * width : (index + 1) * width].contiguous()}
            found.append(forms.LowRank(base, {**factors, **own}, gradients))
        return found
    if kind == "full":
        return [forms.Full(forms.picked(factors["diff"], piece, 0)) for piece in pieces]
    whole = forms.Hadamard(factors) if kind == "loha" else forms.Kronecker(factors)
    one = len(bases) == 1 and len(pieces[0]) == 1
    return [whole] if one else [forms.Rows(whole, piece, rows) for piece in pieces]


def _downs(factors: Tensors, rows: Sequence[int]) -> Sequence[torch.Tensor] | None:
    """The part of `down` that each of several layers needs, where `up` is made of one block for each; else None."""
    down, up = factors["down"], factors["up"]
    if down.shape[0] % len(rows):
        return None
    width = down.shape[0] // len(rows)
    start = 0
    for index, count in enumerate(rows):
        beside = up[start : start + count].clone()
        beside[:, index * width : (index + 1) * width] = 0
        if beside.any():
            return None
        start += count
    return down.chunk(len(rows), dim=0)
