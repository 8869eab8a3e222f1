"""Reading weights from files into modules of diffusers and transformers.

Modules are built without weights, in a way that affects this thread alone, and then given their tensors: the libraries'
`from_pretrained` patches torch for all threads while it builds a module, so two calls at once disturb each other.
Tensors are copied out of the file: overwriting a file while it is mapped would end the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError, library_path
from graphengine_nodes.values.types import Tensors
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.scaled import check_scale, multiplied, scales_in
from graphengine_nodes.weights.unread import without_place

if TYPE_CHECKING:
    import torch

Read = Callable[[Location, Any, "torch.dtype", bool], Tensors]
"""Reads the tensors for a module out of a whole checkpoint."""


SAME = {"ControlNetModel_Union": "ControlNetUnionModel"}
"""Names of classes in configurations, and those that diffusers has for them."""


def load_module(
    component: str,
    location: Location,
    stem: str,
    kind: tuple[str, str],
    dtype: torch.dtype,
    read: Read,
    small: bool = False,
) -> Any:
    """Load one component with its weights, ready to compute, on the CPU.

    Args:
        stem: The name of its weight files in diffusers layout.
        kind: Module and name of the class that it must have.
        read: Reads it from a whole checkpoint.
        small: Keep matrices with scales as small as in the files, and multiply them out while they compute.

    Raises:
        ModelError: It is of a class that is not supported, or its files are damaged or incomplete.
    """
    module_name, class_name = kind
    found = files.read_json(location.folder / "config.json")
    names = [SAME.get(name, name) for name in (found.get("_class_name"), *found.get("architectures", []))]
    if class_name not in names and any(names):
        raise ModelError(f"{location.folder} is a {names[0] or names[1]}; {component} must be a {class_name}")
    cls = getattr(importlib.import_module(module_name), class_name)
    module = empty_module(cls, found, location.folder / "config.json")
    if component == "vae":
        _check_scaling(module.config, location.folder / "config.json")
    if location.config is not None:
        try:
            tensors = read(location, module, dtype, small)
        except (KeyError, IndexError) as error:
            raise ModelError(f"{location.path}: its {component} cannot be read ({error} is missing)") from None
        return fill(module, _renamed(tensors, module), location.path)
    paths = files.weight_files(location.path, stem, location.variant).files
    full = in_full(module, dtype)
    tensors = {name: t for path in paths for name, t in read_tensors(path, dtype, None, full, small).items()}
    tensors = _renamed(tensors, module)
    return fill(module, laid_out(module, tensors, dtype, full) if small else tensors, location.path)


def laid_out(module: Any, tensors: Tensors, dtype: torch.dtype, full: frozenset[str]) -> Tensors:
    """The tensors for a module on the meta device, which gets layers for those that stay small; see `lay_out`."""
    import torch

    from graphengine_nodes.weights.quantized import lay_out

    tensors = _renamed(tensors, module)
    return lay_out(module, tensors, lambda name: dtype if full.isdisjoint(name.split(".")) else torch.float32)


def empty_module(cls: Any, config: dict[str, Any], file: Path) -> Any:
    """Build a module without weights from a configuration, which was read from `file`.

    Raises:
        ModelError: The class cannot be built from it.
    """
    try:
        with _without_weights():
            if hasattr(cls, "from_config"):
                return cls.from_config(config).eval()
            return cls(cls.config_class.from_dict(config)).eval()
    except Exception as error:  # the libraries raise errors without a common base for unexpected values
        reason = " ".join(str(error).split())
        raise ModelError(f"{file} describes no {cls.__name__} that can be built: {reason:.300}") from None


def _without_weights() -> Any:
    """A context in which modules are built with parameters on the meta device, and with what they compute from their
    configuration (tables of positions, frequencies), which is in no file. It affects this thread alone.

    The layers of torch make their parameters by `torch.empty`; the few that are made otherwise are small.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            placed = {"device": "meta"} if func is torch.empty and not (kwargs or {}).get("device") else {}
            return func(*args, **{**(kwargs or {}), **placed})

    return Mode()


def _check_scaling(config: Any, file: Path) -> None:
    """Refuse entries of a VAE's configuration that cannot convert to the denoiser's scale.

    Raises:
        ModelError: `scaling_factor` is no number, or `shift_factor` neither one nor null.
    """
    normalised = getattr(config, "latents_mean", None) is not None  # by the mean and deviation of each channel instead
    for name, optional in (("scaling_factor", normalised), ("shift_factor", True)):
        if name not in config:  # a class with a scale of another kind
            continue
        value = config[name]
        if not (optional and value is None) and (not isinstance(value, int | float) or isinstance(value, bool)):
            say = "; leave it out for diffusers' default" if name == "scaling_factor" else " or null"
            raise ModelError(f"{file}: {name} is {value!r:.40}, but must be a number{say}")


def in_full(module: Any, dtype: torch.dtype) -> frozenset[str]:
    """The layers that stay in single precision in a half-precision module, as `from_pretrained` of its library has it.

    diffusers keeps those that a class names in every half precision; transformers keeps them in float16 alone (T5
    overflows there), and in both what a class names strictly.
    """
    import torch

    if dtype not in (torch.float16, torch.bfloat16):
        return frozenset()
    names = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16 or type(module).__module__.startswith("diffusers."):
        names.update(getattr(module, "_keep_in_fp32_modules", None) or ())
    return frozenset(names)


def read_tensors(
    file: Path,
    dtype: torch.dtype | None = None,
    names: Collection[str] | None = None,
    full: frozenset[str] = frozenset(),
    small: bool = False,
) -> Tensors:
    """Read the tensors of a safetensors file, floating-point tensors as `dtype`.

    Tensors with scales beside them are multiplied out.

    Args:
        dtype: None for the dtypes in the file.
        names: The tensors to read; None for all.
        full: Layers whose tensors are in single precision.
        small: Matrices with scales stay small, each row with its scale, for `laid_out`.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    from graphengine_nodes.weights.quantized import SMALL, with_scales

    def kind(name: str, tensor: torch.Tensor) -> torch.dtype:
        if dtype is None or not tensor.is_floating_point():
            return tensor.dtype
        return dtype if full.isdisjoint(name.split(".")) else torch.float32

    tensors = {}
    try:
        with library_path(file) as path, safe_open(path, "pt") as source:
            known = set(source.keys())
            scales = scales_in(known, file)
            for name in source.keys():  # noqa: SIM118 - no mapping
                if (names is None or name in names) and name not in scales.extra:
                    tensor = source.get_tensor(name)
                    if (twin := _twin(name)) in known and not _same(tensor, source.get_tensor(twin)):
                        raise ModelError(
                            f"{file}: {twin} and {name} differ, which are one table of embeddings in T5; the file is "
                            "of another model, or changed in an unknown way"
                        )
                    if (place := scales.of.get(name)) is not None:
                        scale = source.get_tensor(place)
                        check_scale(tensor, scale, name, file)
                        packed = small and tensor.ndim == 2 and tensor.dtype in SMALL
                        tensor = (with_scales if packed else multiplied)(tensor, scale)
                    tensors[name] = _copied(tensor, kind(name, tensor))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or no safetensors file ({error}); copy it again") from None
    return tensors


def _twin(name: str) -> str:
    """The other name of T5's embeddings, which stand in some files twice; empty for other tensors."""
    start, found, end = name.rpartition("shared.weight")
    return f"{start}encoder.embed_tokens.weight" if found and not end and start[-1:] in ("", ".") else ""


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return one.shape == other.shape and torch.equal(one.float(), other.float())
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


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


# Models that see pictures and read text, before transformers 4.52.
_OLD_STARTS = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("visual.", "model.visual."),
    ("model.", "model.language_model."),
)
# Attention blocks of diffusers before 0.18, CLIP's text model before transformers 5.6, and language models, whose files
# have the names of the model with what predicts tokens around it, or, of Qwen2.5-VL, those before transformers 4.52.
_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


def _today(name: str, known: Any) -> str:
    if name in known:
        return name
    for outer in ("text_model.", "model."):
        for candidate in (name.removeprefix(outer), f"{outer}{name}"):
            if candidate in known:
                return candidate
    for old, new in _OLD_STARTS:
        if name.startswith(old) and (candidate := new + name.removeprefix(old)) in known:
            return candidate
    for old, new in _OLD_NAMES:
        name = name.replace(old, new)
    return name


def fill(module: Any, tensors: Tensors, where: Path) -> Any:
    """Give a module on the meta device its tensors.

    Raises:
        ModelError: Some are missing, of another shape, or have no place in the module.
    """
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
                raise ModelError(f"{where}: nothing is known about the buffer {name} of {type(parent).__name__}")
    # Its parameters ask for gradients as after `from_pretrained`, though none are computed: torch multiplies batches of
    # matrices in another order for parameters that do.
    return module
