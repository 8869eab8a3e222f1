"""Files of IP-Adapters: what they hold, told by names and shapes, with every tensor accounted for.

A file holds layers beside each cross attention of a denoiser (`ip_adapter`), and the projection that makes words of
what an image encoder gives (`image_proj`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphengine import ModelError, open_file
from graphengine_nodes.weights import files
from graphengine_nodes.weights.reading import read_tensors

if TYPE_CHECKING:
    import torch

TOKENS = 4
"""How many words a plain adapter makes of a picture."""

MANY = 65536
"""The numbers of all words that XLabs' second adapter for FLUX makes of a picture, which are 16."""

XLABS = (
    (re.compile(r"^ip_adapter_proj_model\."), "image_proj."),
    (
        re.compile(r"^double_blocks\.(\d+)\.processor\.ip_adapter_double_stream_([kv])_proj\."),
        r"ip_adapter.\1.to_\2_ip.",
    ),
)
"""XLabs' names for FLUX, and those of the others."""

_LINEAR, _NORM = ("weight", "bias"), ("weight", "bias")
_LAYER = (
    *(f"0.{norm}.{end}" for norm in ("norm1", "norm2") for end in _NORM),
    *(f"0.{name}.weight" for name in ("to_q", "to_kv", "to_out")),
    *("1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight"),
)
PROJECTIONS: Mapping[str, frozenset[str]] = {
    "plain": frozenset({"proj.weight", "proj.bias", "norm.weight", "norm.bias"}),
    "full": frozenset(f"proj.{n}.{end}" for n in (0, 2, 3) for end in _LINEAR),
    "plus": frozenset(
        {"latents"}
        | {f"{name}.{end}" for name in ("proj_in", "proj_out", "norm_out") for end in _LINEAR}
        | {f"layers.{n}.{name}" for n in range(4) for name in _LAYER}
    ),
}
"""The names of a projection's tensors by its kind: of a picture's embedding, or (full faces, plus) of its patches."""

FAMILIES = {768: ("stable_diffusion",), 1024: ("stable_diffusion",), 2048: ("stable_diffusion_xl",)}
"""The families by the width of the prompts that a UNet attends to."""


class AdapterFile(NamedTuple):
    """What a file of an IP-Adapter holds.

    Attributes:
        kind: One of `PROJECTIONS`.
        families: Those whose models it can be for; empty where no width tells.
        width: Of what its projection reads: a picture's embedding, or the image encoder's patches.
        layers: Rows and columns of the layers for keys, in the order of the denoiser's cross attentions.
    """

    kind: str
    families: tuple[str, ...]
    width: int
    layers: tuple[tuple[int, int], ...]


def read_adapter_file(file: Path) -> AdapterFile:
    """Read what a file of an IP-Adapter holds, from its header alone where it is safetensors.

    Raises:
        ModelError: It is missing, damaged or no IP-Adapter; it is of a kind that is not read; a tensor is unknown.
    """
    shapes = {_name(name): shape for name, shape in _shapes(file).items()}
    projection = {n.removeprefix("image_proj."): s for n, s in shapes.items() if n.startswith("image_proj.")}
    attention = {n.removeprefix("ip_adapter."): s for n, s in shapes.items() if n.startswith("ip_adapter.")}
    if not projection or not attention:
        raise ModelError(f"{file} is no IP-Adapter: it holds no image_proj and ip_adapter, but {_first(shapes)}")
    _refuse_others(file, projection, attention)
    kind = next((kind for kind, names in PROJECTIONS.items() if names <= projection.keys()), None)
    if kind is None:
        raise ModelError(f"{file} is an IP-Adapter of an unknown kind: its image_proj holds {_first(projection)}")
    strange = [name for name in shapes if not name.startswith(("image_proj.", "ip_adapter."))]
    strange += [f"image_proj.{name}" for name in sorted(projection.keys() - PROJECTIONS[kind])]
    flux = any(name.endswith("_ip.bias") for name in attention)
    layers, unknown = _layers(file, attention, flux)
    if strange := strange + [f"ip_adapter.{name}" for name in unknown]:
        raise ModelError(f"{file} holds {len(strange)} tensors that nothing is known about, the first is {strange[0]}")
    words = _words(file, kind, projection, flux)
    if any(columns != words for _, columns in layers):
        raise ModelError(f"{file} is damaged: its projection makes words of {words} numbers, its layers read others")
    reads = {"plain": "proj.weight", "full": "proj.0.weight", "plus": "proj_in.weight"}[kind]
    return AdapterFile(kind, ("flux",) if flux else FAMILIES.get(words, ()), projection[reads][1], layers)


def read_adapter(file: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read the tensors of an IP-Adapter: `image_proj` and `ip_adapter`, each by name, as diffusers converts them.

    Raises:
        ModelError: It is damaged.
    """
    tensors = read_tensors(file) if file.suffix == ".safetensors" else _unpickled(file, "cpu")
    found: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        side, _, rest = _name(name).partition(".")
        found[side][rest] = tensor
    return found


def _name(name: str) -> str:
    """A tensor's name as all but XLabs call it."""
    for theirs, ours in XLABS:
        name = theirs.sub(ours, name)
    return name


def _shapes(file: Path) -> dict[str, Sequence[int]]:
    """The shapes of a file's tensors by name."""
    if file.suffix == ".safetensors":
        return {name: entry["shape"] for name, entry in files.read_header(file).items()}
    return {name: list(tensor.shape) for name, tensor in _unpickled(file, "meta").items()}


def _unpickled(file: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` file; nothing else in it is unpickled."""
    import torch

    try:
        with open_file(file) as data:
            found = torch.load(data, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no file {file}") from None
    except pickle.UnpicklingError:
        raise ModelError(
            f"{file} is damaged or holds more than tensors, which could run code: it is not read"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{file} is damaged or no file of weights ({error!s:.200}); copy it again") from None
    sides = found if isinstance(found, dict) else {}
    flat = {f"{side}.{n}": t for side, part in sides.items() if isinstance(part, dict) for n, t in part.items()}
    if len(sides) != sum(isinstance(part, dict) for part in sides.values()) or not all(
        isinstance(tensor, torch.Tensor) for tensor in flat.values()
    ):
        raise ModelError(f"{file} is no IP-Adapter: it holds something else than image_proj and ip_adapter")
    return flat


def _refuse_others(file: Path, projection: Mapping[str, Any], attention: Mapping[str, Any]) -> None:
    """Refuse kinds that are known and not read."""
    if "0.to_k_ip.weight" in attention and "0.to_k_ip.bias" not in attention:
        raise ModelError(
            f"{file} is an IP-Adapter for FLUX as InstantX makes them, which reads pictures by SigLIP: diffusers has "
            "no place for it; take one of XLabs"
        )
    lora = any("_lora." in name for name in attention)
    faces = "perceiver_resampler.proj_in.weight" in projection or {"norm.weight", "proj.0.weight"} <= projection.keys()
    if lora or faces:
        raise ModelError(
            f"{file} is an IP-Adapter of the kind FaceID, which reads faces by the program insightface and not by an "
            "image encoder; take one of the others (plain, plus, plus-face, full-face)"
        )


def _layers(
    file: Path, attention: Mapping[str, Sequence[int]], flux: bool
) -> tuple[tuple[tuple[int, int], ...], list[str]]:
    """The layers' shapes in order, and the names that are none of theirs.

    A UNet's attentions have odd numbers, those of FLUX all numbers, and biases.
    """
    known = re.compile(r"(\d+)\.to_([kv])_ip\.(weight|bias)" if flux else r"(\d*[13579])\.to_([kv])_ip\.(weight)")
    found: dict[int, dict[str, Sequence[int]]] = {}
    unknown = []
    for name, shape in attention.items():
        match = known.fullmatch(name)
        if match is None or len(shape) != (2 if match[3] == "weight" else 1):
            unknown.append(name)
            continue
        found.setdefault(int(match[1]), {})[f"{match[2]} {match[3]}"] = shape
    layers = []
    for place, number in enumerate(sorted(found)):
        sides, expected = found[number], place if flux else 2 * place + 1
        rows, columns = sides.get("k weight", (0, 0))
        whole = {f"{side} weight": [rows, columns] for side in "kv"}
        whole |= {f"{side} bias": [rows] for side in "kv"} if flux else {}
        if number != expected or {name: list(shape) for name, shape in sides.items()} != whole:
            raise ModelError(f"{file} is damaged: its layers beside attention {expected} are not whole")
        layers.append((int(rows), int(columns)))
    return tuple(layers), sorted(unknown)


def _words(file: Path, kind: str, projection: Mapping[str, Sequence[int]], flux: bool) -> int:
    """The width of the words that a projection makes."""
    last = {"plain": "norm.weight", "full": "proj.3.weight", "plus": "norm_out.weight"}[kind]
    width = int(projection[last][0])
    if kind != "plain" and flux:
        raise ModelError(f"{file} is an IP-Adapter for FLUX of the kind {kind}, which diffusers does not read")
    if kind == "plain":
        rows = projection["proj.weight"][0]
        tokens = 4 * TOKENS if flux and rows == MANY else TOKENS
        if rows != tokens * width:
            raise ModelError(
                f"{file} makes {rows / width:g} words of a picture; only adapters that make {tokens} are known"
            )
    return width


def _first(names: Mapping[str, Any]) -> str:
    return ", ".join(list(names)[:3]) or "nothing"
