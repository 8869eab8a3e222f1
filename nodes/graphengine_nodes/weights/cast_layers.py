"""Layers whose weights are stored in a small type of numbers and cast up while they compute, without being written.

diffusers' own layerwise casting replaces a layer's weights before and after it computes, so that modules with it can
share no memory and serve one call at a time. Results are the same.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch.nn import functional


class CastLinear(torch.nn.Linear):
    """A linear layer that casts its weight and bias to `computes` for each call."""

    computes: torch.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer's output."""
        return functional.linear(x, self.weight.to(self.computes), _cast(self.bias, self.computes))


class CastConv2d(torch.nn.Conv2d):
    """A convolution that casts its weight and bias to `computes` for each call."""

    computes: torch.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer's output."""
        found: torch.Tensor = self._conv_forward(x, self.weight.to(self.computes), _cast(self.bias, self.computes))
        return found


CASTING: dict[type, type] = {torch.nn.Linear: CastLinear, torch.nn.Conv2d: CastConv2d}


def _cast(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if bias is None else bias.to(dtype)


def computing_dtype(layer: Any) -> torch.dtype:
    """The type of numbers that a layer computes with, which may not be that of its weight."""
    found: torch.dtype = getattr(layer, "computes", None) or layer.weight.dtype
    return found


def cast_layers(module: Any, storage: torch.dtype) -> None:
    """Store the layers of a module of diffusers in a small type, but for those that its class and diffusers leave out.

    Its linear layers and convolutions are cast, norms and the like not, as by `enable_layerwise_casting`.
    """
    patterns = [*DEFAULT_SKIP_MODULES_PATTERN]
    for name in ("_keep_in_fp32_modules", "_skip_layerwise_casting_patterns"):
        patterns += getattr(module, name, None) or ()
    computes = module.dtype
    for path, layer in list(module.named_modules()):
        steps = path.split(".")
        inside = (".".join(steps[:count]) for count in range(1, len(steps) + 1))
        if type(layer) not in CASTING or any(re.search(pattern, name) for name in inside for pattern in patterns):
            continue
        layer.to(storage)
        layer.__class__ = CASTING[type(layer)]
        layer.computes = computes
    # A module computes in the type of its first parameter, for diffusers and its pipelines. Its own are the first, and
    # those of diffusers' denoisers have none.
    module.register_parameter("computes", torch.nn.Parameter(torch.empty(0, dtype=computes), requires_grad=False))
    assert module.dtype == computes
