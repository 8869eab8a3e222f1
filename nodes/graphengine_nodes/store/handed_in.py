"""Loaded objects: pipelines, ControlNets and components that Python callers hand in, as values of this process only.

The objects stay the caller's: they stay on their device, the next run uses every change that the caller makes to them,
and no result that depends on them is remembered. The value keeps the object alive; the store does not.
"""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from graphengine import Doc, ModelError, node
from graphengine_nodes.families.family import Family
from graphengine_nodes.families.lookup import families, family
from graphengine_nodes.store.changes import ModuleChange, shared_clone
from graphengine_nodes.values.references import ControlNet, Held, Model
from graphengine_nodes.weights.reading import in_full

if TYPE_CHECKING:
    import torch

Object = Annotated[Any, Doc("From Python only; it cannot be written to a file.")]


@node(version=1, cache="never")
def loaded_model(pipeline: Object) -> Model:
    """Make a reference to a loaded pipeline of diffusers; its components are used where they are.

    Raises:
        ModelError: It is no pipeline of a known family, or lacks a component.
    """
    found: Mapping[str, Any] = getattr(pipeline, "components", {})
    name = type(pipeline).__name__
    index = {"_class_name": name, **found}
    kind = next((f for f in families().values() if found and f.owns_folder(index)), None)
    if kind is None:
        raise ModelError(f"a {name} is no pipeline of a known family ({', '.join(families())})")
    every = [component for names in kind.parts.values() for component in names]
    wanted = [component for component in every if component not in kind.optional or found.get(component) is not None]
    if missing := [component for component in wanted if found.get(component) is None]:
        raise ModelError(f"this {name} has no {missing[0]}; a model consists of {', '.join(wanted)}")
    components = tuple((component, Held.of(found[component])) for component in wanted)
    return Model(kind.name, components, tuple(sorted(_settings(kind, pipeline).items())), source=f"a loaded {name}")


@node(version=1, cache="never")
def loaded_controlnet(module: Object) -> ControlNet:
    """Make a reference to a loaded ControlNet; it is used where it is.

    Raises:
        ModelError: It is no known ControlNet.
    """
    name = type(module).__name__
    config = {**getattr(module, "config", {}), "_class_name": name}
    kind = next((f for f in families().values() if f.owns_controlnet(config)), None)
    if kind is None:
        raise ModelError(f"a {name} is no ControlNet of a known family ({', '.join(families())})")
    return ControlNet(kind.name, Held.of(module), source=f"a loaded {name}", modes=kind.modes_of(config))


@node(version=1, cache="never")
def replace_component(
    model: Model, name: Annotated[str, Doc("`unet`, `vae`, `scheduler`, ...")], module: Object
) -> Model:
    """Replace a component of a model by a loaded one.

    Raises:
        ModelError: Models of this family have no such component.
    """
    if name not in dict(model.components):
        raise ModelError(f"{model.source} has no {name}; it has {', '.join(dict(model.components))}")
    return model.with_component(name, Held.of(module))


def _settings(kind: Family, pipeline: Any) -> dict[str, Any]:
    """The family's settings of a pipeline, read from its configurations after writing them to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write(root / "model_index.json", pipeline.config)
        for name, component in pipeline.components.items():
            if hasattr(component, "save_config"):
                component.save_config(root / name)
            elif hasattr(component, "parameters"):
                _write(root / name / "config.json", component.config.to_dict())
        return kind.settings(root)


def _write(file: Path, config: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(dict(config), default=str), "utf-8")


# --- how the weight store gets them -----------------------------------------------------------------------------------


def held(model: Model, name: str, device: str, changes: Sequence[ModuleChange]) -> Any:
    """A component that was handed in, with changes: the object itself, or a clone for this call alone.

    Raises:
        ModelError: The component has hooks of its own, or LoRAs of its own besides the model's.
    """
    digest, kind = model.component(name), family(model.family)
    assert isinstance(digest, Held)
    if kind.stems[name] is None:
        return _as_loaded(digest.held)
    dtype = _dtype(model.precision)
    if changes or model.option("offload"):
        if _has_hooks(digest.held):
            raise ModelError(
                f"the {name} that was handed in is offloaded or cast by hooks of its own, so no LoRA and no option can "
                "be put over it; do it there, or hand it in without them"
            )
        if model.loras and getattr(digest.held, "peft_config", None):
            raise ModelError(f"the {name} that was handed in has LoRAs of its own; fuse them there before adding more")
    home = "cpu" if model.option("offload") in ("sequential", "group") else device
    module = placed(digest.held, home, dtype)
    if module is digest.held and changes:
        module = shared_clone(module)
    for change in changes:
        change.apply(module)
    return module


def placed(module: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """A module on a device, with a dtype: itself if it has both already or moves by hooks, else a clone.

    Layers that its library keeps in single precision are so in the clone.
    """
    import torch

    first = next(module.parameters())
    computes = getattr(module, "dtype", first.dtype)  # its first parameter may be one that stays in single precision
    there = first.device == torch.device(device) and dtype in (None, computes)
    if there or _has_hooks(module):
        return module
    full = frozenset() if dtype is None else in_full(module, dtype)

    def place(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        return tensor.to(device, dtype if full.isdisjoint(name.split(".")) else torch.float32)

    return shared_clone(module, place)


def _dtype(precision: str | None) -> torch.dtype | None:
    import torch

    return None if precision is None else getattr(torch, precision)


def _has_hooks(module: Any) -> bool:
    return any(hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook") for part in module.modules())


_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()


def _as_loaded(found: Any) -> Any:
    """Wrap a scheduler or a tokenizer as families load them."""
    if hasattr(found, "to_json_string") and hasattr(found, "config"):
        return json.loads(found.to_json_string())
    from graphengine_nodes.families.pipelines import Tokenizer

    return Tokenizer(found, _locks.setdefault(found, threading.Lock()))
