"""Weights of a Pipe: from files or from a pipeline of diffusers, with the changes that scripts make to it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphengine_nodes as std
from graphengine_nodes.families import noise_schedulers
from graphengine_nodes.families.arguments import sides_of
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lookup import family
from graphengine_nodes.nodes.models import PRECISIONS
from graphengine_nodes.store.store import store
from graphengine_nodes.values.types import ControlNet, Model
from graphengine_nodes.weights.devices import dtype_of

from graphengine.declare.building import not_building
from graphengine.old_names import moved
from multigen import tracking
from multigen.devices import device_name
from multigen.pipes.kinds import add_scheduler, scheduler_class

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("multigen.pipes.weights")

Scheduling = tuple[str | None, str | None]
"""Name and timestep spacing of a scheduler; None for the model's own."""


class PipeWeights:
    """A model, its device, and the diffusers pipeline over its weights that scripts work on.

    Args:
        model_id: As in a Pipe's constructor.
        pipeline: A loaded pipeline in its place.
        device, offload_device: As in a Pipe's constructor.
        args: The constructor's other arguments, those of `from_pretrained`.

    Attributes:
        device: The device to compute on, as torch writes it.
        scheduler: The name of the scheduler that the constructor was given.
        precision: The type of numbers to compute with; None for the device's default.
        quantization: How the denoiser's weights are stored, as `quantize_model` takes it.
        controlnets: The ControlNets of the pipeline that is made.
        changes: By name, components that were handed in, or that a script has changed.
        changed_nets: The pipeline's ControlNets, if a script has changed them.

    Raises:
        ModelError: There is no such model, or it is damaged.
        RuntimeError: There is no such device.
        ValueError: `torch_dtype` is nothing to compute with.
    """

    def __init__(
        self, model_id: str, pipeline: Any, device: Any, offload_device: int | None, args: Mapping[str, Any]
    ) -> None:
        if device is None and offload_device is None and pipeline is not None:
            device = pipeline.device
        self.device = device_name(device, offload_device)
        self.offload_device = offload_device
        self.quantization: str | None = args.get("quantization")
        self.controlnets: Sequence[ControlNet] = ()
        origin = None if pipeline is None else tracking.origin(pipeline)
        self._pipeline, self._made, self._foreign = pipeline, False, pipeline is not None and origin is None
        self.precision = _precision(args.get("torch_dtype"))
        named = {"precision": self.precision} | {name: args.get(name) for name in ("config", "revision", "variant")}
        self._source = {"source": model_id} | {name: value for name, value in named.items() if value is not None}
        if self._foreign:
            self._own = std.loaded_model(pipeline)
            tracking.note(pipeline, None)
        else:
            self._own = origin or std.load_model(**self._source)
        self._is_file, self._forgotten = pipeline is None, False
        scheduler = args.get("scheduler")
        self.scheduler = str(scheduler_class(scheduler).__name__) if isinstance(scheduler, str) else None
        components = dict(self._own.components)
        self.changes: dict[str, Any] = {}
        self.changed_nets: list[Any] = []
        self._objects = {n: v for n, v in args.items() if n in components and v is not None and not isinstance(v, str)}

    @property
    def family(self) -> str:
        """The model's family."""
        return self._own.family

    def pipeline_class(self, task: str | None) -> Any:
        """The class of diffusers' pipeline for a task of the family's record; None if the model has none."""
        kind = family(self.family)
        return kind.pipeline_of(self._own, task) if isinstance(kind, Flow) and task is not None else None

    @property
    def guidance(self) -> str:
        """The pipelines' argument that the guidance scale is for."""
        kind = family(self.family)
        return kind.record.guidance.argument if isinstance(kind, Flow) else "guidance_scale"

    @property
    def multiple(self) -> int:
        """The number that sides of pictures must be multiples of."""
        return sides_of(self._own)

    @property
    def dtype(self) -> str:
        """The dtype it computes with."""
        if self._foreign:
            return str(self._pipeline.dtype)
        return str(dtype_of(self._own.precision, self.device))

    def look(self) -> None:
        """Find the components that a script has changed; called once before every call."""
        components = dict(self._own.components)
        found = {} if self._pipeline is None else tracking.changes(self._pipeline)
        self.changed_nets = nets_of(found.get("controlnet"))
        found = self._objects if self._foreign else {**self._objects, **found}
        self.changes = {name: part for name, part in found.items() if name in components and part is not None}
        if self.changes and self._pipeline is not None and not self._forgotten and tracking.written(self._pipeline):
            self._forgotten = True
            store.abandon(self._own)

    @property
    def reference(self) -> Model:
        """The reference to the model, with all components that a caller handed in or changed on the pipeline."""
        model = std.loaded_model(self._pipeline) if self._foreign else self._own
        for name, part in self.changes.items():
            model = std.replace_component(model, name, part)
        return model

    @property
    def own_nets(self) -> list[Any]:
        """The ControlNets of a pipeline that was handed in."""
        return [] if self._made else nets_of(getattr(self._pipeline, "controlnet", None))

    @property
    def state(self) -> Any:
        """The state that two graphs over these weights must share; equal to nothing where it cannot be known."""
        return object() if self._foreign or self.changes or self.changed_nets else self._own

    @property
    def has_own_scheduler(self) -> bool:
        """Whether a script has set a scheduler on the pipeline, or handed one in, since a scheduler was last named."""
        if self._foreign:
            return "scheduler" in tracking.changes(self._pipeline)
        return "scheduler" in self.changes

    def node(
        self, loras: Sequence[tuple[str, float]], hypernetworks: Sequence[tuple[str, float]], lora_scale: float = 1.0
    ) -> Model:
        """Make the nodes that load the model, apply LoRAs and hypernetworks, and set its options.

        A model with objects of this process is a value instead: results that do not depend on them are then remembered.
        """
        if self._is_file and not self.changes:
            return self._applied(std.load_model(**self._source), loras, hypernetworks, lora_scale)
        with not_building():
            return self._applied(self.reference, loras, hypernetworks, lora_scale)

    def _applied(self, model: Model, loras: Any, hypernetworks: Any, lora_scale: float) -> Model:
        for path, multiplier in loras:
            model = std.apply_lora(model, std.load_lora(path), multiplier)
        if lora_scale != 1.0:
            model = std.scale_loras(model, lora_scale)
        for path, multiplier in hypernetworks:
            model = std.apply_hypernetwork(model, std.load_hypernetwork(Path(path)), multiplier)
        if self.quantization is not None:
            model = std.quantize_model(model, self.quantization)
        if self.offload_device is not None:
            model = std.offload_model(model, "sequential")
        theirs = self.changes.get("vae")
        changed = theirs is not None and theirs is not self._objects.get("vae")
        return model if changed else std.tile_vae(model)  # a VAE that a script has changed keeps the script's settings

    # --- the pipeline that scripts work on ----------------------------------------------------------------------------

    def pipeline(self, cls: Any, scheduling: Scheduling) -> Any:
        """The pipeline that was handed in, or a pipeline of a class over the same weights, made at its first use."""
        if self._pipeline is None:
            from multigen.loader import build_pipeline

            made = build_pipeline(cls, self._own, self.device, self.controlnets, self.offload_device)
            made.vae.enable_tiling()
            tracking.note_one(made, "vae")
            made.register_modules(**self._objects)
            self._pipeline, self._made = made, True
            self.set_scheduler(scheduling)
        return self._pipeline

    def set_scheduler(self, scheduling: Scheduling) -> None:
        """Set the scheduler of the parameters, in place of any that a script has set on the pipeline."""
        name, spacing = scheduling
        if self._pipeline is None:
            return
        if self._made and name is not None:
            add_scheduler(self._pipeline, name, **({} if spacing is None else {"timestep_spacing": spacing}))
        tracking.note_one(self._pipeline, "scheduler")

    def scheduler_config(self, scheduling: Scheduling) -> dict[str, Any]:
        """The configuration of the scheduler in use, with the name of its class."""
        kind, name = family(self.family), None if self.has_own_scheduler else scheduling[0]
        with store.component(self.reference, "scheduler", "cpu") as config:
            own = noise_schedulers.own(config, name, [0], kind.schedulers, kind.name)
        found = noise_schedulers.make(own, name, spacing_of(name or type(own).__name__, scheduling[1]), [0])
        return {**found.config, "class_name": type(found).__name__}


def nets_of(controlnet: Any) -> list[Any]:
    """The ControlNets of a pipeline as a list: none, one, or several."""
    return [] if controlnet is None else list(getattr(controlnet, "nets", [controlnet]))


def spacing_of(scheduler: str, spacing: str | None) -> str | None:
    """The timestep spacing, or None for a scheduler that has no choice of spacings."""
    known = inspect.signature(scheduler_class(scheduler).__init__).parameters
    return spacing if "timestep_spacing" in known else None


def _precision(dtype: Any) -> str | None:
    """The name of a dtype of torch, or of its name, as `load_model` takes it.

    Raises:
        ValueError: Models cannot compute with it.
    """
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in PRECISIONS:
        raise ValueError(f"torch_dtype is {dtype}, but must be one of {', '.join(PRECISIONS)}")
    return name
