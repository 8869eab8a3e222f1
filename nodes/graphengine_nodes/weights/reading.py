"""Reading weights from files into modules of diffusers and transformers.

Modules are built on the meta device, which affects this thread alone, and then given their tensors: the libraries'
`from_pretrained` patches torch for all threads while it builds a module, so two calls at once disturb each other.
Tensors are copied out of the file: overwriting a file while it is mapped would end the process.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError, library_path
from graphengine_nodes.values.types import Tensors
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.scaled import multiplied, scales_in
from graphengine_nodes.weights.unread import without_place

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

LoraState = tuple["Tensors", "dict[str, Any] | None"]
"""A LoRA's tensors with diffusers' names, and its alphas."""

Read = Callable[[Location, Any, "torch.dtype"], Tensors]
"""Reads the tensors for a module out of a whole checkpoint."""


SAME = {"ControlNetModel_Union": "ControlNetUnionModel"}
"""Names of classes in configurations, and those that diffusers has for them."""


def load_module(
    component: str, location: Location, stem: str, kind: tuple[str, str], dtype: torch.dtype, read: Read
) -> Any:
    """Load one component with its weights, ready to compute, on the CPU.

    Args:
        stem: The name of its weight files in diffusers layout.
        kind: Module and name of the class that it must have.
        read: Reads it from a whole checkpoint.

    Raises:
        ModelError: It is of a class that is not supported, or its files are damaged or incomplete.
    """
    module_name, class_name = kind
    found = files.read_json(location.folder / "config.json")
    names = [SAME.get(name, name) for name in (found.get("_class_name"), *found.get("architectures", []))]
    if class_name not in names and any(names):
        raise ModelError(f"{location.folder} is a {names[0] or names[1]}; {component} must be a {class_name}")
    cls = getattr(importlib.import_module(module_name), class_name)
    module = _empty(cls, found, location.folder / "config.json")
    if component == "vae":
        _check_scaling(module.config, location.folder / "config.json")
    if location.config is not None:
        try:
            tensors = read(location, module, dtype)
        except (KeyError, IndexError) as error:
            raise ModelError(f"{location.path}: its {component} cannot be read ({error} is missing)") from None
        return fill(module, _renamed(tensors, module), location.path)
    paths = files.weight_files(location.path, stem, location.variant).files
    full = in_full(module, dtype)
    tensors = {name: t for path in paths for name, t in read_tensors(path, dtype, full=full).items()}
    return fill(module, _renamed(tensors, module), location.path)


def _empty(cls: Any, config: dict[str, Any], file: Path) -> Any:
    """Build a module without weights from a configuration, which was read from `file`."""
    import torch

    try:
        with torch.device("meta"):
            if hasattr(cls, "from_config"):
                return cls.from_config(config).eval()
            return cls(cls.config_class.from_dict(config)).eval()
    except Exception as error:  # the libraries raise errors without a common base for unexpected values
        reason = " ".join(str(error).split())
        raise ModelError(f"{file} describes no {cls.__name__} that can be built: {reason:.300}") from None


def _check_scaling(config: Any, file: Path) -> None:
    """Refuse entries of a VAE's configuration that cannot convert to the denoiser's scale.

    Raises:
        ModelError: `scaling_factor` is no number, or `shift_factor` neither one nor null.
    """
    for name, optional in (("scaling_factor", False), ("shift_factor", True)):
        value = getattr(config, name, None)
        if not (optional and value is None) and (not isinstance(value, int | float) or isinstance(value, bool)):
            say = "; leave it out for diffusers' default" if name == "scaling_factor" else " or null"
            raise ModelError(f"{file}: {name} is {value!r:.40}, but must be a number{say}")


def in_full(module: Any, dtype: torch.dtype) -> frozenset[str]:
    """The layers that stay in single precision in a half-precision module, as in the libraries: T5 overflows."""
    import torch

    return frozenset(getattr(module, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else frozenset()


def read_tensors(
    file: Path,
    dtype: torch.dtype | None = None,
    prefixes: tuple[str, ...] = ("",),
    full: frozenset[str] = frozenset(),
) -> Tensors:
    """Read the tensors of a safetensors file whose names begin with `prefixes`, floating-point tensors as `dtype`.

    Tensors with scales beside them are multiplied out.

    Args:
        dtype: None for the dtypes in the file.
        full: Layers whose tensors are in single precision.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    def kind(name: str, tensor: torch.Tensor) -> torch.dtype:
        if dtype is None or not tensor.is_floating_point():
            return tensor.dtype
        return dtype if full.isdisjoint(name.split(".")) else torch.float32

    tensors = {}
    try:
        with library_path(file) as path, safe_open(path, "pt") as source:
            scales = scales_in(source.keys(), file)
            for name in source.keys():  # noqa: SIM118 - no mapping
                if name.startswith(prefixes) and name not in scales.extra:
                    tensor = source.get_tensor(name)
                    if (scale := scales.of.get(name)) is not None:
                        tensor = multiplied(tensor, source.get_tensor(scale), name, file)
                    tensors[name] = _copied(tensor, kind(name, tensor))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or no safetensors file ({error}); copy it again") from None
    return tensors


def _copied(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Copy a tensor out of its file, aligned within a cache line as in the file: `from_pretrained` maps files into
    memory, and the last bits of a matrix product depend on the alignment."""
    import torch

    if dtype != tensor.dtype or not tensor.numel():
        return tensor.to(dtype, copy=True)
    room = torch.empty(tensor.nbytes + 64, dtype=torch.uint8)
    start = (tensor.data_ptr() - room.data_ptr()) % 64
    return room[start : start + tensor.nbytes].view(dtype).view(tensor.shape).copy_(tensor)


def _renamed(tensors: Tensors, module: Any) -> Tensors:
    """Rename tensors to the names of the installed versions of the libraries."""
    known = module.state_dict().keys()
    if any(name in known for name in tensors) and all(name in tensors for name in known):
        return tensors
    return {_today(name, known): tensor for name, tensor in tensors.items()}


# Attention blocks of diffusers before 0.18, and CLIP's text model before transformers 5.6.
_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


def _today(name: str, known: Any) -> str:
    if name in known:
        return name
    for candidate in (name.removeprefix("text_model."), f"text_model.{name}"):
        if candidate in known:
            return candidate
    for old, new in _OLD_NAMES:
        name = name.replace(old, new)
    return name


def fill(module: Any, tensors: Tensors, where: Path) -> Any:
    """Give a module on the meta device its tensors.

    Raises:
        ModelError: Some are missing, of another shape, or have no place in the module.
    """
    import torch

    tied = getattr(module, "_tied_weights_keys", None)
    if isinstance(tied, dict):  # a tensor that two places share is in the file once
        tensors = {name: tensors[source] for name, source in tied.items() if source in tensors} | tensors
    try:
        missing, extra = module.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ModelError(f"{where}: the weights do not fit the configuration beside them ({reason:.200})") from None
    if missing:
        raise ModelError(
            f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}; "
            "the weights are incomplete or of another model"
        )
    if unread := without_place(extra):
        raise ModelError(
            f"{where}: {len(unread)} tensors have no place in the {type(module).__name__} that its configuration "
            f"describes, the first is {unread[0]}; the weights are of another model, or changed in an unknown way"
        )
    for parent in module.modules():
        for name, buffer in parent._buffers.items():
            if buffer is not None and buffer.is_meta:
                # The one buffer that is not in files, in every text encoder of transformers: 0, 1, 2, ...
                if name != "position_ids":
                    raise ModelError(f"{where}: nothing is known about the buffer {name} of {type(parent).__name__}")
                parent._buffers[name] = torch.arange(buffer.shape[-1]).expand(buffer.shape)
    # Its parameters ask for gradients as after `from_pretrained`, though none are computed: torch multiplies batches of
    # matrices in another order for parameters that do.
    return module


# --- LoRA -------------------------------------------------------------------------------------------------------------


def add_loras(
    component: str,
    module: Any,
    loras: Sequence[tuple[str, Path, float]],
    mixin: str,
    read: Callable[[str, Any, Tensors], LoraState],
) -> None:
    """Put LoRAs (name, file, scale) into a module that is not shared, as `load_lora_weights` does.

    Args:
        mixin: The class of diffusers that does it for the family.
        read: Takes the component, its module and the file's tensors; returns the arguments of that class.

    Raises:
        ModelError: A LoRA does not fit the module.
    """
    import torch

    methods = getattr(importlib.import_module("diffusers.loaders.lora_pipeline"), mixin)
    peft_utils: Any = importlib.import_module("diffusers.utils.peft_utils")

    for name, file, _ in loras:
        files.read_header(file)
        try:
            state, alphas = read(component, module, read_tensors(file))
            wanted = [key for key in state if key.startswith(f"{component}.") and _is_down(key)]
            if not wanted:  # it changes other components of the part
                continue
            options = {"adapter_name": name, "metadata": _metadata(file)}
            with torch.no_grad():
                if component.startswith("text_encoder"):
                    methods.load_lora_into_text_encoder(state, alphas, module, prefix=component, **options)
                else:
                    getattr(methods, f"load_lora_into_{component}")(state, alphas, module, **options)
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
            reason = str(error).strip().split("\n")[-1].strip()
            raise ModelError(f"{file.name} does not fit this model's {component}: {reason:.300}") from None
        _check_fit(name, file, component, module, wanted)
        _place(name, component, module, state)
        if options["metadata"] is None:  # else ranks and alphas are those of peft's own configuration
            _set_alphas(name, component, module, alphas or {})
    names = [name for name, _, _ in loras]
    peft_utils.set_weights_and_activate_adapters(module, names, [scale for _, _, scale in loras])


def _metadata(file: Path) -> dict[str, Any] | None:
    """The metadata that diffusers wrote into a LoRA's file: ranks, alphas and the like."""
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import safe_open

    with library_path(file) as path, safe_open(path, "pt") as source:
        text = (source.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def _set_alphas(name: str, component: str, module: Any, alphas: Mapping[str, Any]) -> None:
    """Give each layer of a LoRA the strength that its file says: alpha / rank of that layer, 1 where it has no alpha.

    diffusers derives one alpha and one rank for most layers, and is wrong where layers differ (resized and
    block-weighted files).

    Args:
        alphas: By the layers' names, as diffusers has them.
    """
    prefix = f"{component}."
    of_layer = {
        _CLIP_ATTENTION.sub(r".\1.proj", _squashed(key.removesuffix(".alpha").removeprefix(prefix))): float(alpha)
        for key, alpha in alphas.items()
    }
    for layer_name, layer in module.named_modules():
        if name in getattr(layer, "lora_A", ()):
            rank = layer.lora_A[name].weight.shape[0]
            layer.r[name], layer.lora_alpha[name] = rank, of_layer.get(_squashed(layer_name), rank)


# diffusers' old names for the projections of CLIP's attention, squashed.
_CLIP_ATTENTION = re.compile(r"(?<=self\.attn)\.to\.(q|k|v|out)$")


def _place(name: str, component: str, module: Any, state: Tensors) -> None:
    """Give LoRA layers their tensors aligned as in the file, see `_copied`: loading them copied them elsewhere.

    diffusers does not copy them, but builds the LoRA's layers while torch is patched for all threads.
    """
    import torch

    layers = {_squashed(n): layer for n, layer in module.named_modules() if name in getattr(layer, "lora_A", ())}
    for key, tensor in state.items():
        down = key.replace(".lora_B.", ".lora_A.").replace("up.weight", "down.weight")
        layer = layers.get(_squashed(down.removeprefix(f"{component}.")))
        if layer is not None:
            weight = getattr(layer, "lora_A" if down == key else "lora_B")[name].weight
            if weight.dtype == tensor.dtype and torch.equal(weight, tensor):
                weight.data = tensor


def _check_fit(name: str, file: Path, component: str, module: Any, wanted: Sequence[str]) -> None:
    """Warn of LoRA layers that the module lacks; where most are lacking, the LoRA is for another model.

    Raises:
        ModelError: It is for another model.
    """
    fitted = {_squashed(n) for n, layer in module.named_modules() if name in getattr(layer, "lora_A", ())}
    lost = len(wanted) - len(fitted)
    if lost <= 0:
        return
    first = next((key for key in wanted if _squashed(key.removeprefix(f"{component}.")) not in fitted), wanted[0])
    if lost > len(fitted):
        raise ModelError(
            f"{file.name} is for another model: {lost} of its {len(wanted)} changes find no place in the {component}, "
            f"the first is {first}"
        )
    log.warning(
        "%s: %d of its %d changes find no place in the %s and are left out, the first is %s",
        file.name,
        lost,
        len(wanted),
        component,
        first,
    )


def _squashed(name: str) -> str:
    """A layer's name in one form for all LoRA formats: `attn1.processor.to_out_lora.down`, `attn1.to_out.0`, ..."""
    for part in _DOWN:
        name = name.removesuffix(part)
    return name.replace(".processor", "").replace("text_model.", "").replace("_", ".").removesuffix(".0")


_DOWN = (
    ".lora_A.weight",
    ".lora.down.weight",
    ".lora_down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)


def _is_down(key: str) -> bool:
    return key.endswith(_DOWN)
