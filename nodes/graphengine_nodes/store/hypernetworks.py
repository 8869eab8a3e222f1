"""Hypernetworks: small networks before the keys and values of a UNet's attention, in the WebUI's `.pt` format.

Such a file holds two networks, one for keys and one for values, for each width of a context: that of the prompt's
embeddings for cross attention, those of the pictures' features for self attention. Where an attention's context has
one of these widths, `context + network(context) * multiplier` takes its place.
"""

from __future__ import annotations

import functools
import logging
import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO

from graphengine import Doc, File, ModelError, Range, fingerprint, node, open_file
from graphengine_nodes.families.lookup import family
from graphengine_nodes.values.types import Hypernetwork, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@node(version=1)
def load_hypernetwork(source: Annotated[str | Path, File("weights"), Doc("A .pt file of the WebUI.")]) -> Hypernetwork:
    """Make a reference to a hypernetwork; its weights are read, without running code, when a node computes with them.

    In ComfyUI: `HypernetworkLoader`.

    Raises:
        ModelError: There is no such file, or it holds something else than tensors and numbers.
    """
    path = files.on_disk(source)
    if path is None or not path.is_file():
        raise ModelError(f"there is no hypernetwork {source}; give a .pt file")
    try:
        file = open_file(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    with file:
        for data in _pickles(path, file):
            _refuse_code(path, data)
    digest = fingerprint(path)
    files.note(digest, Location(path))
    return Hypernetwork(digest, path.name)


@node(version=1)
def apply_hypernetwork(
    model: Model,
    hypernetwork: Hypernetwork,
    multiplier: Annotated[float, Range(-10, 10, 0.05), Doc("1.0 is the strength it was trained at.")] = 1.0,
) -> Model:
    """Add a hypernetwork before a model's attention; each further one takes another such node, in their order.

    Raises:
        ModelError: The model has no UNet.
    """
    if "unet" not in family(model.family).stems:
        raise ModelError(f"hypernetworks change the attention of a UNet; {model.source}, {model.family}, has none")
    return replace(model, hypernetworks=(*model.hypernetworks, (hypernetwork, float(multiplier))))


@node(version=1)
def clear_hypernetworks(model: Model) -> Model:
    """Remove all hypernetworks from a model."""
    return replace(model, hypernetworks=())


# --- what a file may hold ---------------------------------------------------------------------------------------------

TRUSTED = frozenset({"collections", "torch", "torch._utils", "torch.storage"})
"""The modules that a pickle of tensors may name; torch decides which of their functions run when it reads the file."""

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of files of torch before 1.6."""


def _pickles(path: Path, file: BinaryIO) -> Iterable[IO[bytes]]:
    """The pickles in a file of torch, to be inspected, not loaded; all but the last from one stream, in order."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                name = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
                if name is not None:
                    with archive.open(name) as data:
                        yield data
                    return
        else:
            file.seek(0)
            start = file.read(len(LEGACY))
            file.seek(0)
            if start[:1] == b"\x80":  # the first bytes of every pickle that torch reads
                for _ in range(4 if start == LEGACY else 1):
                    yield file
                return
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is damaged or cannot be read ({error!s:.100}); copy it again") from None
    raise ModelError(f"{path} is no hypernetwork; give a .pt file of the WebUI")


def _refuse_code(path: Path, data: IO[bytes]) -> None:
    """Inspect one pickle, without running it, for code that has no place in a file of tensors."""
    try:
        for operation, argument, _ in pickletools.genops(data):
            named = operation.name in ("GLOBAL", "INST")
            if (named and str(argument).split(" ")[0] not in TRUSTED) or operation.name.startswith(("STACK_G", "EXT")):
                raise ModelError(
                    f"{path} holds code that would run when it is read ({argument or operation.name}): it is not "
                    "opened; take the file from a source that you trust"
                )
    except (ValueError, EOFError, IndexError, zipfile.BadZipFile, zlib.error, OSError) as error:
        raise ModelError(f"{path} is damaged or no hypernetwork ({error!s:.100}); copy it again") from None


def read(path: Path) -> dict[Any, Any]:
    """Read a hypernetwork's file.

    Raises:
        ModelError: It is damaged, or holds more than data.
    """
    import torch

    try:
        with open_file(path) as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds something else than tensors and numbers, which could run code: it is not opened "
            f"({str(error).splitlines()[0]:.200})"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged or no hypernetwork ({error!s:.200}); copy it again") from None
    if not isinstance(found, dict) or not any(isinstance(width, int) for width in found):
        raise ModelError(f"{path} is no hypernetwork: it has no networks for contexts of any width")
    return found


# --- networks ---------------------------------------------------------------------------------------------------------

ACTIVATIONS = (
    *("ReLU", "LeakyReLU", "ELU", "Hardswish", "Tanh", "Sigmoid", "SiLU", "Mish", "GELU", "SELU", "CELU", "ReLU6"),
    *("RReLU", "Softplus", "Softsign", "Hardtanh", "Hardsigmoid", "LogSigmoid", "Hardshrink", "Softshrink"),
    "Tanhshrink",
)
"""torch's functions without weights; files name them in small letters, and Hardswish also `swish`."""


def networks(path: Path, dtype: torch.dtype) -> dict[int, tuple[Any, Any]]:
    """Read the networks of a file, for keys and for values, by the width of the context.

    Raises:
        ModelError: It is damaged, or its layers or activation are unknown.
    """
    found = read(path)
    try:
        return {
            width: (_network(pair[0], width, found, dtype), _network(pair[1], width, found, dtype))
            for width, pair in found.items()
            if isinstance(width, int)
        }
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"{path} is no hypernetwork that can be used: {error}") from None


def _network(tensors: Mapping[str, Any], width: int, facts: Mapping[Any, Any], dtype: torch.dtype) -> Any:
    """Build one network as the file describes it, without its dropout, which is for training."""
    import torch

    layers: list[dict[str, Any]] = _layers(tensors)
    linear = [index for index, layer in enumerate(layers) if layer["weight"].ndim == 2]
    modules: list[Any] = []
    inside = width
    for index, layer in enumerate(layers):
        weight, bias = (torch.nn.Parameter(layer[name].to(dtype), requires_grad=False) for name in ("weight", "bias"))
        if weight.shape[-1] != inside or bias.shape[0] != weight.shape[0]:
            raise ValueError(f"a layer for {inside} numbers takes {weight.shape[-1]}")
        inside = weight.shape[0]
        module: Any
        if index in linear:
            module = torch.nn.Linear(weight.shape[1], inside, device="meta")
        else:
            module = torch.nn.LayerNorm(inside, device="meta")
        module.weight, module.bias = weight, bias
        modules.append(module)
        if index in linear and (index != linear[-1] or facts.get("activate_output", True)):
            modules += _activation(facts.get("activation_func"))
    if inside != width or not linear:
        raise ValueError(f"a network for {width} numbers gives {inside}")
    return torch.nn.Sequential(*modules).eval()


def _layers(tensors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layers that have weights, in order: `linear.3.weight`, or as old files have it `linear2.weight`."""
    found: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"linear\.?(\d+)\.(weight|bias)", name)
        if match is None:
            raise ValueError(f"nothing is known about its {name}")
        found.setdefault(int(match[1]), {})[match[2]] = tensor
    return [layer for _, layer in sorted(found.items())]


def _activation(name: str | None) -> list[Any]:
    import torch

    if name is None or name == "linear":
        return []
    known = {function.lower(): function for function in ACTIVATIONS} | {"swish": "Hardswish"}
    if name.lower() not in known:
        raise ValueError(f"nothing is known about the activation function {name}")
    return [getattr(torch.nn, known[name.lower()])()]


# --- on a UNet --------------------------------------------------------------------------------------------------------


def add_hypernetworks(unet: Any, hypernetworks: Sequence[tuple[Path, float]]) -> None:
    """Put hypernetworks (file, multiplier), one after the other, before the attention of a UNet that is not shared.

    They change the inputs of the projections to keys and values, whichever way attention is computed; LoRAs on these
    projections must be there before.

    Raises:
        ModelError: A file is damaged, or no hypernetwork.
    """
    import torch
    from diffusers.models.attention_processor import Attention

    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    widths = {attention.cross_attention_dim for attention in attentions}
    every = []
    for file, multiplier in hypernetworks:
        by_width = networks(file, unet.dtype)
        every.append((by_width, multiplier))
        if not widths & by_width.keys():
            log.warning(
                "%s is for another model and changes nothing: its networks are for contexts %s wide, not %s",
                *(file.name, _listed(by_width), _listed(widths)),
            )
    # So that they are moved, counted and copied with the UNet.
    unet.hypernetworks = torch.nn.ModuleList(n for by_width, _ in every for pair in by_width.values() for n in pair)
    unet.hypernetworks.to(unet.device)
    for attention in attentions:
        width = attention.cross_attention_dim
        fitting = [(by_width[width], multiplier) for by_width, multiplier in every if multiplier and width in by_width]
        for index, projection in enumerate((attention.to_k, attention.to_v)):
            if fitting:
                mine = [(pair[index], multiplier) for pair, multiplier in fitting]
                projection.register_forward_pre_hook(functools.partial(_changed, mine))


def _changed(mine: Sequence[tuple[Any, float]], projection: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pass a projection's input through each network in turn."""
    context, *others = given
    for network, multiplier in mine:
        context = context + network(context) * multiplier
    return (context, *others)


def _listed(widths: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(widths)))
