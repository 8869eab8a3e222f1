"""Names of model types and schedulers in multigen."""

from __future__ import annotations

import enum
import importlib
from typing import Any

from graphengine_nodes.families import noise_schedulers

from graphengine.errors import ModelError

__all__ = [
    "Diffusers",
    "ModelType",
    "add_scheduler",
    "get_diffusion_scheduler_names",
    "scheduler_class",
    "scheduler_name",
]


class ModelType(enum.Enum):
    """The families of models; all but the first three have Pipe classes for text and for image to image alone."""

    SD = 1
    SDXL = 2
    FLUX = 3
    Z_IMAGE = 4
    QWEN_IMAGE = 5
    FLUX2 = 6
    SD3 = 7
    CHROMA = 8

    @property
    def family(self) -> str:
        """The family's name in graphengine."""
        named = {"SD": "stable_diffusion", "SDXL": "stable_diffusion_xl", "SD3": "stable_diffusion_3"}
        return named.get(self.name, self.name.lower())

    @property
    def is_documented(self) -> bool:
        """Whether the Pipe classes name a pipeline of diffusers for it."""
        return self in (ModelType.SD, ModelType.SDXL, ModelType.FLUX)

    @classmethod
    def of(cls, family: str) -> ModelType:
        """The model type of a family's name.

        Raises:
            ModelError: multigen has no Pipe classes for it.
        """
        found = next((kind for kind in cls if kind.family == family), None)
        if found is None:
            raise ModelError(f"multigen has no Pipe classes for {family} models; take the nodes of graphengine")
        return found


class Diffusers:
    """A descriptor for a class attribute that is a class of diffusers, imported when it is first read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return getattr(importlib.import_module("diffusers"), self.name)


def get_diffusion_scheduler_names() -> list[str]:
    """The names of the schedulers that Stable Diffusion and SDXL take."""
    return list(noise_schedulers.KARRAS)


def add_scheduler(pipe: Any, scheduler: str | None = None, **config: Any) -> str:
    """Give a diffusers pipeline another scheduler, made from the configuration of its present one.

    Args:
        pipe: The pipeline.
        scheduler: The scheduler's class by name; None for DPMSolverMultistepScheduler.
        config: Entries of the configuration to change, such as `timestep_spacing`.

    Returns:
        The class's name.

    Raises:
        ValueError: There is no such scheduler.
    """
    cls = scheduler_class(scheduler or "DPMSolverMultistepScheduler")
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **config)
    return str(cls.__name__)


def scheduler_class(name: str) -> Any:
    """A scheduler of diffusers by its class's name.

    Raises:
        ValueError: There is no such scheduler.
    """
    known = (*noise_schedulers.KARRAS, *noise_schedulers.DISTILLED, *noise_schedulers.FLOW)
    if name not in known:
        noise_schedulers.check_name(name, known, "multigen")
    return getattr(importlib.import_module("diffusers"), name)


def scheduler_name(scheduler: Any) -> str:
    """The name of a scheduler that is given by name, as a class of diffusers, or as an object.

    Raises:
        ValueError: There is no such scheduler.
    """
    name = scheduler if isinstance(scheduler, str) else getattr(scheduler, "__name__", type(scheduler).__name__)
    return str(scheduler_class(name).__name__)
