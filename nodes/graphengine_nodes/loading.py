"""Weights from files into modules of diffusers and transformers.

Modules are built on the meta device, which is this thread's own business, and given their tensors: the libraries'
`from_pretrained` patches torch for all threads while it builds a module, so two of them at once disturb each other.
Tensors are copied out of the file: one that is overwritten while it is mapped would end the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import ModelError
from graphengine_nodes import checkpoints
from graphengine_nodes.checkpoints import Location

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]

CLASSES = {
    "unet": ("diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel"),
    "vae": ("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL"),
    "controlnet": ("diffusers.models.controlnets.controlnet", "ControlNetModel"),
    "text_encoder": ("transformers", "CLIPTextModel"),
}

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
"""How the names of each component's tensors begin in a single-file checkpoint."""


def load_module(component: str, location: Location, stem: str | None, dtype: torch.dtype | None) -> Any:
    """One component with its weights, ready to compute, on the CPU.

    Raises:
        ModelError: It is of a class that is not supported, or its files are damaged or incomplete.
    """
    assert stem is not None
    assert dtype is not None
    module_name, class_name = CLASSES[component]
    found = checkpoints.read_json(location.folder / "config.json")
    names = [found.get("_class_name"), *found.get("architectures", [])]
    if class_name not in names and any(names):
        raise ModelError(f"{location.folder} is a {names[0] or names[1]}; {component} must be a {class_name}")
    cls = getattr(importlib.import_module(module_name), class_name)
    if location.config is not None:
        return _from_single_file(cls, component, location, dtype)
    module = _empty(cls, found)
    files = checkpoints.weight_files(location.path, stem).files
    tensors = {name: t for file in files for name, t in read_tensors(file, dtype).items()}
    return fill(module, _renamed(tensors, module), location.path)


def _empty(cls: Any, config: dict[str, Any]) -> Any:
    """A module without weights."""
    import torch

    with torch.device("meta"):
        if hasattr(cls, "from_config"):
            return cls.from_config(config).eval()
        return cls(cls.config_class.from_dict(config)).eval()


def read_tensors(file: Path, dtype: torch.dtype, prefix: str = "") -> Tensors:
    """The tensors of a safetensors file whose names begin with a prefix; floating point ones as `dtype`."""
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(file, "pt") as source:
            for name in source.keys():  # noqa: SIM118 - no mapping
                if name.startswith(prefix):
                    tensor = source.get_tensor(name)
                    tensors[name] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or no safetensors file ({error}); copy it again") from None
    return tensors


def _renamed(tensors: Tensors, module: Any) -> Tensors:
    """Names as this version of the libraries has them."""
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
        ModelError: Some are missing or of another shape.
    """
    import torch

    try:
        missing, _ = module.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ModelError(f"{where}: the weights do not fit the configuration beside them ({reason:.200})") from None
    if missing:
        raise ModelError(
            f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}; "
            "the weights are incomplete or of another model"
        )
    for parent in module.modules():
        for name, buffer in parent._buffers.items():
            if buffer is not None and buffer.is_meta:
                # The one buffer that is not in files, in every text encoder of transformers: 0, 1, 2, ...
                if name != "position_ids":
                    raise ModelError(f"{where}: nothing is known about the buffer {name} of {type(parent).__name__}")
                parent._buffers[name] = torch.arange(buffer.shape[-1]).expand(buffer.shape)
    return module.requires_grad_(False)


def _from_single_file(cls: Any, component: str, location: Location, dtype: torch.dtype) -> Any:
    """A component out of a whole checkpoint in the original layout, through diffusers' own converters."""
    converters: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    tensors = read_tensors(location.path, dtype, PREFIXES[component])
    module = _empty(cls, checkpoints.read_json(location.folder / "config.json"))
    try:
        if component == "unet":
            converted = converters.convert_ldm_unet_checkpoint(tensors, dict(module.config))
        elif component == "vae":
            converted = converters.convert_ldm_vae_checkpoint(tensors, dict(module.config))
        elif any(name.startswith("cond_stage_model.model.") for name in tensors):
            converted = converters.convert_open_clip_checkpoint(module, tensors, prefix="cond_stage_model.model.")
        else:
            converted = converters.convert_ldm_clip_checkpoint(tensors)
    except (KeyError, IndexError) as error:
        raise ModelError(f"{location.path}: its {component} cannot be read ({error} is missing)") from None
    return fill(module, _renamed(dict(converted), module), location.path)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def add_loras(component: str, module: Any, loras: Sequence[tuple[str, Path, float]]) -> None:
    """Put LoRAs (name, file, scale) into a module that nobody else uses, as `load_lora_weights` does.

    Raises:
        ModelError: One does not fit the module.
    """
    import torch
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Mixin
    from safetensors.torch import load_file

    peft_utils: Any = importlib.import_module("diffusers.utils.peft_utils")

    for name, file, _ in loras:
        checkpoints.read_header(file)
        tensors = load_file(file)
        state, alphas, metadata = Mixin.lora_state_dict(
            tensors, unet_config=getattr(module, "config", None), return_lora_metadata=True
        )
        state = {key if key.startswith(("unet.", "text_encoder.")) else f"unet.{key}": t for key, t in state.items()}
        wanted = sum(key.startswith(f"{component}.") and _is_down(key) for key in state)
        with torch.no_grad():
            try:
                if component == "unet":
                    Mixin.load_lora_into_unet(state, alphas, module, adapter_name=name, metadata=metadata)
                else:
                    Mixin.load_lora_into_text_encoder(state, alphas, module, adapter_name=name, metadata=metadata)
            except (ValueError, RuntimeError, KeyError) as error:
                reason = str(error).strip().split("\n")[-1].strip()
                raise ModelError(f"{file.name} does not fit this model's {component}: {reason:.300}") from None
        fitted = sum(name in getattr(layer, "lora_A", ()) for layer in module.modules())
        if fitted < wanted:
            raise ModelError(
                f"{file.name} is for another model: {wanted - fitted} of its {wanted} changes find no place in the "
                f"{component}"
            )
    names = [name for name, _, _ in loras]
    peft_utils.set_weights_and_activate_adapters(module, names, [scale for _, _, scale in loras])
    module.requires_grad_(False)


def _is_down(key: str) -> bool:
    return key.endswith((".lora_A.weight", ".lora.down.weight", ".lora_down.weight", "_lora.down.weight"))
