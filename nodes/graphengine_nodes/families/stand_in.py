"""Stand-ins of modules: given to a pipeline in place of a denoiser, they decide what the denoiser is asked.

A stand-in is of a subclass of the module's class and over the same weights, without a copy, so that whatever a pipeline
reads of the module it finds; calling it calls a function with the module and the pipeline's arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

Answer = Callable[..., Any]
"""Takes the module and the arguments of the call; returns what the pipeline gets."""


class _Told(NamedTuple):
    """What a stand-in knows from when it was made."""

    module: Any
    answer: Answer
    config: Any
    dtype: Any
    device: Any


def stand_in(module: Any, answer: Answer) -> Any:
    """Make a stand-in of a module.

    It shares the dictionaries of parameters, buffers and submodules, so that what pipelines read of the module
    (`add_embedding`, `encoder_hid_proj`, `nets`) is the module's; `config`, `dtype` and `device` are those of now.
    Hooks of the module act once, when `answer` calls it.
    """
    cls: type = _class_over(module.__class__)
    made: Any = object.__new__(cls)
    vars(made).update(vars(module))
    vars(made).pop("forward", None)  # hooks of libraries put one into the instance: it is called through the module
    vars(made)["_told"] = _Told(module, answer, getattr(module, "config", None), module.dtype, module.device)
    return made


class _StandIn:
    """What a stand-in has of its own, before the module's class."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        told = _told(self)
        return told.answer(told.module, *args, **kwargs)

    forward = __call__

    @property
    def config(self) -> Any:
        return _told(self).config

    @property
    def dtype(self) -> Any:
        return _told(self).dtype

    @property
    def device(self) -> Any:
        return _told(self).device

    def cache_context(self, *args: Any, **kwargs: Any) -> Any:
        return _told(self).module.cache_context(*args, **kwargs)


def _told(made: Any) -> _Told:
    found: _Told = vars(made)["_told"]
    return found


@functools.cache
def _class_over(cls: type) -> type:
    """The stand-ins' class over a module's class, by whose name and module pipelines know it; that class itself where
    the module is a stand-in already."""
    if issubclass(cls, _StandIn):
        return cls
    return type(cls.__name__, (_StandIn, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})
