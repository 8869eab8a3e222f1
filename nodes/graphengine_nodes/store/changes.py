"""Changes to a component's module before it computes: LoRAs, embeddings, hypernetworks, IP-Adapters, and the options of
a model.

Each is a `ModuleChange`, applied by the weight store to a module whose parameters are its own. An option is what
diffusers itself does to a pipeline's module: int8, casting and the layout before LoRAs, offload and compilation after.
"""

from __future__ import annotations

import copy
import functools
import importlib
import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphengine import ModelError, fingerprint
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.prompt_embeddings import NAMES, add_vectors, read_vectors
from graphengine_nodes.store.hypernetworks import add_hypernetworks
from graphengine_nodes.store.ip_adapters import add_ip_adapters
from graphengine_nodes.values.references import Embedding, Held, IPAdapter
from graphengine_nodes.values.types import Hypernetwork, LoRA, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.lora_placing import lora_digest

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModuleChange:
    """One change to a module, such as its LoRAs or its quantization.

    Attributes:
        key: Tells it apart from all other changes to the same module.
        apply: Changes the module in place.
        stored: Makes new weights, which replace those that were read in the store.
        rewrites: The module writes its weights while it computes, so it cannot share them.
        leased: The module is written while it computes, so it serves one call at a time.
        last: Applied on the device, after copying: a copy would not carry it.
    """

    key: Hashable
    apply: Callable[[Any], Any]
    stored: bool = False
    rewrites: bool = False
    leased: bool = False
    last: bool = False


def changes_of(model: Model, name: str, device: str) -> list[ModuleChange]:
    """The changes to a component's module, in order.

    Args:
        device: Where it computes.

    Raises:
        ModelError: The machine or the model cannot do what its options say.
    """
    kind = family(model.family)
    if kind.stems[name] is None:
        return []
    check_options(model)
    part = next(part for part, names in kind.parts.items() if name in names)
    body = next(one for one in kind.parts[part] if kind.stems[one] is not None)
    if part == "denoiser" and kind.classes[name] != kind.classes[body]:  # beside it: an encoder of first pictures
        return list(_options_after(model, "", device))
    before = _options_before(model, part, keeps_scales(model, name))
    return [*before, *_additions(model, name, part), *_options_after(model, part, device)]


def keeps_scales(model: Model, name: str) -> bool:
    """Whether a component's matrices stay in the numbers of its files: float8 is asked for, and they have scales.

    Casting would round them once more, without their scales.
    """
    kind, digest = family(model.family), model.component(name)
    stem = kind.stems[name]
    asked = model.option("quantization") == "float8" and name in kind.parts["denoiser"]
    if not asked or stem is None or isinstance(digest, Held):
        return False
    return files.has_scales(files.locate(digest, f"{model.source}'s {name}"), stem)


def _options_before(model: Model, part: str, scaled: bool) -> Iterator[ModuleChange]:
    if part == "denoiser":
        if model.option("quantization") == "int8":
            yield ModuleChange("int8", _to_int8, stored=True)
        if model.option("channels_last"):
            yield ModuleChange("channels last", _to_channels_last, stored=True)
        if model.option("quantization") == "float8" and not scaled:
            yield ModuleChange("float8", _to_float8, stored=True)
    if part == "vae":
        if model.option("tiling"):
            yield ModuleChange("tiling", lambda module: module.enable_tiling())
        if model.option("slicing"):
            yield ModuleChange("slicing", lambda module: module.enable_slicing())


def _additions(model: Model, name: str, part: str) -> Iterator[ModuleChange]:
    if part == "text_encoder" and name in NAMES.get(model.family, ()) and model.embeddings:

        def add_embeddings(module: Any) -> None:
            found = [read_vectors(locate_weights(one), model.family, name) for _, one in model.embeddings]
            add_vectors(module, found)

        yield ModuleChange(("embeddings", tuple(one.weights for _, one in model.embeddings)), add_embeddings)
    names = family(model.family).lora_names
    if loras := tuple(one for one in model.loras_of(part) if names.reaches(name, one[0].noise)):

        def add_loras(module: Any) -> None:
            named = [(f"lora_{i}", locate_weights(lora), scale) for i, (lora, scale) in enumerate(loras)]
            partial = {f"lora_{i}" for i, (lora, _) in enumerate(loras) if lora.partial}
            family(model.family).add_loras(names.named(name), module, named, partial)

        yield ModuleChange(("loras", tuple((lora.weights, scale, lora.partial) for lora, scale in loras)), add_loras)
    if part == "denoiser" and model.hypernetworks:

        def add_networks(module: Any) -> None:
            add_hypernetworks(module, [(locate_weights(one), multiplier) for one, multiplier in model.hypernetworks])

        yield ModuleChange(("hypernetworks", tuple((one.weights, m) for one, m in model.hypernetworks)), add_networks)
    if part == "denoiser" and model.ip_adapters:

        def add_adapters(module: Any) -> None:
            add_ip_adapters(module, [(locate_weights(one), scale) for one, scale in model.ip_adapters])

        yield ModuleChange(("IP-Adapters", tuple((one.weights, s) for one, s in model.ip_adapters)), add_adapters)


def _options_after(model: Model, part: str, device: str) -> Iterator[ModuleChange]:
    if model.option("offload") in OFFLOADERS:
        yield OFFLOADERS[model.option("offload")](device)
    if part == "denoiser" and model.option("compile"):
        yield ModuleChange("compile", _compile, last=True)


def locate_weights(weights: LoRA | Hypernetwork | Embedding | IPAdapter) -> Any:
    """Find the file of a LoRA, a hypernetwork, an embedding or an IP-Adapter, unchanged since it was loaded.

    Raises:
        ModelError: It is not on this machine, or has changed.
    """
    location = files.locate(weights.weights, weights.source)
    found = lora_digest(location.path) if isinstance(weights, LoRA) else fingerprint(location.path)
    if found != weights.weights:
        raise ModelError(f"{location.path} has changed since it was loaded; load it again")
    return location.path


# --- options ----------------------------------------------------------------------------------------------------------


def held_for(model: Model, device: str) -> Model:
    """The model as it is held for a device: without its offload where that is no GPU, with one warning, so that one
    workflow serves machines with and without a GPU."""
    if not model.option("offload") or device.startswith("cuda"):
        return model
    _warn_of_offload(model.source, device)
    return model.with_options(offload=None, offload_device=None)


@functools.cache
def _warn_of_offload(source: str, device: str) -> None:
    log.warning(
        "%s is to be offloaded, which keeps weights in main memory while a GPU computes; this run computes on %s, "
        "where they are anyway: offload_model does nothing", source, device,
    )  # fmt: skip


def check_options(model: Model) -> None:
    """Refuse options that this machine cannot serve, before anything is loaded.

    Raises:
        ModelError: int8 without its library.
    """
    if model.option("quantization") == "int8":
        torchao()


def torchao() -> Any:
    """Import torchao, which int8 needs.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise ModelError(
            f"int8 needs the library torchao ({error}): pip install 'graphengine[int8]', or take float8"
        ) from None


def _check_not_in_blocks(module: Any, kind: str) -> None:
    """Refuse to quantize what a GGUF file has quantized.

    Raises:
        ModelError: Its weights are in blocks.
    """
    if any(name.endswith(".blocks") for name, _ in module.named_parameters()):
        raise ModelError(f"a GGUF model is quantized already, {kind} cannot be put over it: leave quantize_model out")


def _to_int8(module: Any) -> None:
    _check_not_in_blocks(module, "int8")
    library = torchao()
    library.quantize_(module, library.Int8WeightOnlyConfig())


def _to_channels_last(module: Any) -> None:
    import torch

    module.to(memory_format=torch.channels_last)


def _to_float8(module: Any) -> None:
    import torch

    from graphengine_nodes.weights.cast_layers import cast_layers

    _check_not_in_blocks(module, "float8")
    cast_layers(module, torch.float8_e4m3fn)


def _compile(module: Any) -> None:
    try:
        module.compile_repeated_blocks()
    except ValueError as error:
        raise ModelError(f"{type(module).__name__} has no blocks that could be compiled ({error})") from None


def sequential_offload(device: str) -> ModuleChange:
    """The change that brings each layer's weights to the device only while the layer computes."""

    def apply(module: Any) -> None:
        import accelerate
        import torch

        accelerate.cpu_offload(module, torch.device(device), offload_buffers=bool(module._parameters))

    return ModuleChange(("sequential", device), apply, leased=True)


def group_offload(device: str) -> ModuleChange:
    """The change that brings groups of layers to the device, the next group while one computes."""

    def apply(module: Any) -> None:
        import torch
        from diffusers.hooks.group_offloading import apply_group_offloading

        onload = torch.device(device)
        apply_group_offloading(module, onload, offload_type="leaf_level", use_stream=onload.type == "cuda")

    return ModuleChange(("group", device), apply, rewrites=True, leased=True)


OFFLOADERS: dict[str, Callable[[str], ModuleChange]] = {"sequential": sequential_offload, "group": group_offload}
"""By kind of offload, the change for weights that come to the device in pieces; `model` brings a component whole."""


def shared_clone(module: Any, place: Callable[[str, torch.Tensor], torch.Tensor] | None = None) -> Any:
    """Copy a module's structure over the very same memory: changes to the copy do not reach the original.

    Args:
        place: Gives the tensor to use in place of each tensor, by its name; it may be the same one.
    """
    import torch

    memo: dict[int, Any] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        found = tensor.detach() if place is None else place(name, tensor.detach())
        # The copy has parameters of its own: moving or casting a module replaces the memory inside its parameters.
        memo[id(tensor)] = (
            torch.nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else found
        )
    return copy.deepcopy(module, memo)
