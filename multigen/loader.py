"""`Loader`: diffusers pipelines over the process's weights, which are in memory once for each device."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from graphengine_nodes import load_model
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store.handed_in import loaded_model
from graphengine_nodes.store.store import store
from graphengine_nodes.values.references import ControlNet, Held, Model

from graphengine.errors import ModelError
from multigen import tracking
from multigen.devices import device_name
from multigen.util import get_allowed_components, quantization, quantize, share, weightshare_copy

__all__ = ["Loader", "ModelDescriptor", "build_pipeline"]

log = logging.getLogger(__name__)

OWN_CLASSES = {
    "stable_diffusion": "StableDiffusionPipeline",
    "stable_diffusion_xl": "StableDiffusionXLPipeline",
}
"""The class of the text-to-image pipeline of each family that is no record; a record names its own."""

SETTINGS = {"force_zeros_for_empty_prompt": "force_zeros", "requires_aesthetics_score": "aesthetics"}
"""Arguments of pipelines that a model's settings decide."""

OPTIONAL: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
}
"""Arguments of pipelines that our models do without."""

READING = frozenset({"use_safetensors", "low_cpu_mem_usage", "local_files_only", "cache_dir", "device_map", "token"})
"""Arguments of `from_pretrained` about fetching and reading files, which the weight store does instead."""


@dataclass(frozen=True)
class ModelDescriptor:
    """The weights of one checkpoint in one type of numbers.

    Attributes:
        model_id: A folder, file or hub id, `tiny`, or the label of a pipeline that was cached.
        precision: `float32`, `float16` or `bfloat16`.
        quantization: `float8`, `int8`, or None.
    """

    model_id: str
    precision: str
    quantization: str | None = None


class Loader:
    """Loads pipelines of diffusers over weights that all loaders, Pipe objects and graphs of the process share.

    Each pipeline has component objects of its own over the shared memory: setting a scheduler, a LoRA or tiling on one
    pipeline does not change another. Only weights cast to float8 are not shared, since the pipeline rewrites them while
    it computes. Weights stay in memory while a pipeline uses them, and longer if the store's budget allows.
    """

    _lock: ClassVar[threading.RLock] = threading.RLock()
    _known: ClassVar[dict[ModelDescriptor, tuple[Any, Model]]] = {}
    """Class and weights of every requested pipeline, the latest last."""

    def load_pipeline(
        self,
        cls: Any,
        path: str | Path,
        torch_dtype: Any = None,
        device: Any = None,
        offload_device: int | None = None,
        quantize_dtype: Any = None,
        **additional_args: Any,
    ) -> Any:
        """Make a pipeline over a checkpoint, which is read if its weights are not in memory.

        Args:
            cls: The pipeline's class; `DiffusionPipeline` or one of `AutoPipelineFor...` for the model's own.
            path: A folder in diffusers layout, a `.safetensors` file, a hub id, or `tiny`.
            torch_dtype: The dtype to compute with; None for bfloat16.
            device: The device of the weights; by default a GPU if there is one.
            offload_device: The number of a GPU to which each layer is moved while it computes.
            quantize_dtype: `multigen.util.qfloat8` or `qint8`; None for weights as they are.
            additional_args: Components in the place of the checkpoint's, and arguments of `from_pretrained`.

        Raises:
            ModelError: There is no such model, or it is damaged.
            RuntimeError: There is no such device.
            ValueError: A dtype is not known.
        """
        where = device_name(device, offload_device)
        precision = "bfloat16" if torch_dtype is None else str(torch_dtype).removeprefix("torch.")
        descriptor = ModelDescriptor(os.path.expanduser(path), precision, quantization(quantize_dtype))
        files = {name: additional_args.pop(name, None) for name in ("config", "revision", "variant")}
        with self._lock:
            _, model = self._known.get(descriptor, (None, None))
        if model is None or not _is_cached(model):
            given = {name: value for name, value in files.items() if value is not None}
            model = load_model(descriptor.model_id, precision=precision, **given)
        with self._lock:
            self._known.pop(descriptor, None)
            self._known[descriptor] = cls, model
        return build_pipeline(
            cls, model, where, offload_device=offload_device, quantize_dtype=descriptor.quantization, **additional_args
        )

    def from_pipe(self, cls: Any, pipe: Any, **additional_args: Any) -> Any:
        """Make a pipeline of another class over the weights of an existing one; arguments replace its components."""
        copied = weightshare_copy(pipe)
        concrete = type(copied) if cls.__name__.startswith("AutoPipeline") else cls
        allowed = get_allowed_components(concrete)
        kept = {name: value for name, value in {**copied.config, **copied.components}.items() if name in allowed}
        return _construct(cls, concrete, {**kept, **additional_args})

    def get_pipeline(self, model_id: str | Path, device: Any = None) -> Any:
        """Make a pipeline over weights in memory, as last requested under this id; None if none are in memory.

        Args:
            device: The device on which they must be; by default any.
        """
        for descriptor, (cls, model) in self._of(model_id):
            places = [place for place in _places(model) if device is None or place == device_name(device)]
            if places:
                return build_pipeline(cls, model, places[0], quantize_dtype=descriptor.quantization)
        return None

    def get_gpu(self, model_id: str | Path) -> list[int]:
        """The numbers of the GPUs that hold a model, whoever loaded it."""
        models = [model for _, (_, model) in self._of(model_id)]
        if not models:
            with contextlib.suppress(ModelError):  # a model that cannot be loaded is on no device
                models = [load_model(os.path.expanduser(model_id))]
        return _numbers({place for model in models for place in _places(model)})

    def cache_pipeline(self, pipe: Any, model_id: str | Path) -> None:
        """Keep the weights of a pipeline that was made elsewhere, under an id, until they are removed or cleared.

        Raises:
            ModelError: It is no pipeline of a known family.
        """
        copied = weightshare_copy(pipe)
        descriptor = ModelDescriptor(os.path.expanduser(model_id), str(copied.dtype).removeprefix("torch."))
        with self._lock:
            self._known[descriptor] = type(copied), loaded_model(copied)

    def remove_pipeline(self, model_id: str | Path) -> None:
        """Drop a model's weights, except those in use."""
        for descriptor, (_, model) in self._of(model_id):
            with self._lock:
                self._known.pop(descriptor, None)
            store.forget(model)

    def clear_cache(self, device: Any = None) -> None:
        """Drop the weights that are not in use, on one device or on all."""
        where = None if device is None else device_name(device)
        with self._lock:
            for descriptor, (_, model) in list(self._known.items()):
                if _is_cached(model) and (where is None or where in _places(model)):
                    del self._known[descriptor]
        store.clear(where)

    # --- what is in memory, as scripts look at it ---------------------------------------------------------------------

    @property
    def _cpu_pipes(self) -> dict[ModelDescriptor, Any]:
        """Pipelines over all models that are in main memory."""
        return self._pipes("cpu")

    @property
    def _gpu_pipes(self) -> dict[int, dict[ModelDescriptor, Any]]:
        """Pipelines over all models that are on a GPU, by the GPU's number."""
        places = {place for _, (_, model) in self._of(None) for place in _places(model)}
        return {number: self._pipes(f"cuda:{number}") for number in _numbers(places)}

    def _pipes(self, place: str) -> dict[ModelDescriptor, Any]:
        found = [(descriptor, cls, model) for descriptor, (cls, model) in self._of(None) if place in _places(model)]
        return {d: build_pipeline(cls, model, place, quantize_dtype=d.quantization) for d, cls, model in found}

    def _of(self, model_id: str | Path | None) -> list[tuple[ModelDescriptor, tuple[Any, Model]]]:
        """The entries under an id, or all entries, the latest first."""
        name = None if model_id is None else os.path.expanduser(model_id)
        with self._lock:
            return [(d, known) for d, known in reversed(self._known.items()) if name in (None, d.model_id)]


def _is_cached(model: Model) -> bool:
    """Whether the weights are objects that a caller handed in."""
    return any(isinstance(digest, Held) for _, digest in model.components)


def _places(model: Model) -> list[str]:
    """The devices that hold a model's denoiser."""
    held = [digest.held for _, digest in model.components if isinstance(digest, Held)]
    return sorted({str(part.device) for part in held if hasattr(part, "parameters")}) or store.devices_of(model)


def _numbers(places: set[str]) -> list[int]:
    return sorted(int(place.removeprefix("cuda:")) for place in places if place.startswith("cuda:"))


# --- pipelines --------------------------------------------------------------------------------------------------------


def build_pipeline(
    cls: Any,
    model: Model,
    device: str,
    controlnets: Sequence[ControlNet] = (),
    offload_device: int | None = None,
    quantize_dtype: Any = None,
    **given: Any,
) -> Any:
    """Make a diffusers pipeline of a class, with components of its own over the store's weights.

    Args:
        device: The device of the weights.
        controlnets: The ControlNets that steer it, in classes that take them.
        offload_device, quantize_dtype: As in `Loader.load_pipeline`.
        given: Components in the place of the model's; other arguments of the class; unknown ones are ignored.

    Raises:
        ModelError: Weights are not on this machine, or damaged.
    """
    kind = quantization(quantize_dtype)
    place = "cpu" if offload_device is not None else device
    concrete, kind_of = _concrete(cls, model), family(model.family)
    allowed = get_allowed_components(concrete)
    plain = replace(model, options=()).with_options(quantization=kind if kind == "int8" else None)
    components = {**OPTIONAL, **{n: model.setting(s) for n, s in SETTINGS.items() if model.setting(s) is not None}}
    components |= {name: None for name in kind_of.optional if name in allowed}
    components |= kind_of.options_of(model) if isinstance(kind_of, Flow) else {}
    for name, _ in model.components:
        if name in allowed and name not in given:
            cast = kind == "float8" and name in ("unet", "transformer")
            components[name] = _component(functools.partial(store.component, plain, name, place), held=not cast)
    if "controlnet" in allowed and "controlnet" not in given:
        nets = [_component(functools.partial(store.controlnet, net, place)) for net in controlnets]
        components["controlnet"] = nets[0] if len(nets) == 1 else nets or None
    pipeline = _construct(cls, concrete, components | given)
    if kind == "float8":
        quantize(pipeline, kind)
    if offload_device is not None:
        pipeline.enable_sequential_cpu_offload(offload_device)
    if kind is None and not given:
        tracking.note(pipeline, model)  # so that a Pipe computes with the model until a script changes a component
    return pipeline


def _concrete(cls: Any, model: Model) -> Any:
    """A concrete pipeline class: in the place of a general class, the family's."""
    diffusers = importlib.import_module("diffusers")
    if cls is not diffusers.DiffusionPipeline and not cls.__name__.startswith("AutoPipeline"):
        return cls
    kind = family(model.family)
    return kind.pipeline_of(model) if isinstance(kind, Flow) else getattr(diffusers, OWN_CLASSES[model.family])


def _construct(cls: Any, concrete: Any, arguments: dict[str, Any]) -> Any:
    allowed = get_allowed_components(concrete)
    unknown = sorted(arguments.keys() - allowed - READING - OPTIONAL.keys() - SETTINGS.keys())
    if unknown:
        log.warning("%s has no %s; ignored", concrete.__name__, ", ".join(unknown))
    pipeline = concrete(**{name: value for name, value in arguments.items() if name in allowed})
    return cls.from_pipe(pipeline) if cls.__name__.startswith("AutoPipeline") else pipeline


def _component(hold: Callable[[], Any], held: bool = True) -> Any:
    """Make a component for one pipeline; its weights stay in the store as long as it lives, unless `held` is False."""
    stack = ExitStack()
    found = stack.enter_context(hold())
    if isinstance(found, dict):
        stack.close()
        return getattr(importlib.import_module("diffusers"), found["_class_name"]).from_config(found)
    if not hasattr(found, "parameters"):
        stack.close()
        return copy.deepcopy(found.tokenizer)  # its padding is state inside it, which the store's users lock
    own = share(found)
    if not held:
        stack.close()
        return own
    _release_what_is_gone()
    weakref.finalize(own, _gone.put, stack).atexit = False
    return own


_gone: queue.SimpleQueue[ExitStack] = queue.SimpleQueue()
"""Holds to release, of components that were garbage-collected: that can happen while the store is locked."""


@functools.cache
def _release_what_is_gone() -> None:
    def release() -> None:
        while True:
            _gone.get().close()

    threading.Thread(target=release, name="multigen-loader", daemon=True).start()
