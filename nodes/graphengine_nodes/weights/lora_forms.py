"""The forms of LoRAs' changes as modules: each computes from its factors what it adds to a layer's output.

A change of a layer with weight W is a matrix D of W's shape, which is never kept: W + scale * D is computed as
W(x) + D(x) * scale, and D(x) from the factors. Low-rank changes compute it by the very operations of peft's layers, so
that bits are those of `load_lora_weights`. The layers that are changed are only called, so they may be quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional


class Layer:
    """The layer that is changed, as forms are given it: accelerate's hooks move modules among a module's arguments."""

    def __init__(self, module: Any) -> None:
        self.module = module


class LowRank(torch.nn.Module):
    """up(down(x)) with `down` [r, in, ...] and `up` [out, r, ...]; for convolutions also up(mid(down(x))) (Tucker)."""

    def __init__(self, base: torch.nn.Module, factors: Mapping[str, torch.Tensor], gradients: bool = False) -> None:
        super().__init__()
        self.down: torch.nn.Linear | torch.nn.Conv2d
        self.mid: torch.nn.Conv2d | None = None
        self.up: torch.nn.Linear | torch.nn.Conv2d
        down, up, mid = factors["down"], factors["up"], factors.get("mid")
        if isinstance(base, torch.nn.Conv2d):
            wide = {name: getattr(base, name) for name in ("stride", "padding", "dilation", "padding_mode")}
            self.down = _convolution(down, gradients, **(wide if mid is None else {}))
            self.mid = None if mid is None else _convolution(mid, gradients, **wide)
            self.up = _convolution(up, gradients)
        else:
            self.down, self.up = _linear(down, gradients), _linear(up, gradients)
        if "up_bias" in factors:
            self.up.bias = _kept(factors["up_bias"], gradients)

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that it computes with."""
        return self.down.weight.dtype

    def forward(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Compute what it adds at scale 1."""
        inner = self.down(x) if self.mid is None else self.mid(self.down(x))
        found: torch.Tensor = self.up(inner)
        return found

    def dense(self, shape: torch.Size) -> torch.Tensor:
        """Compute the change of the weight."""
        down, up = self.down.weight.float(), self.up.weight.float()
        if self.mid is not None:
            down = torch.einsum("rskl,si->rikl", self.mid.weight.float(), down.flatten(1))
        return (up.flatten(1) @ down.flatten(1)).reshape(shape)


class Hadamard(torch.nn.Module):
    """LoHa: (w1_a w1_b) * (w2_a w2_b), element by element; with t1 and t2 each product is a Tucker one."""

    w1_a: torch.nn.Parameter
    w1_b: torch.nn.Parameter
    w2_a: torch.nn.Parameter
    w2_b: torch.nn.Parameter
    t1: torch.nn.Parameter | None
    t2: torch.nn.Parameter | None

    def __init__(self, factors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for role in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"):
            tensor = factors.get(f"hada_{role}")
            self.register_parameter(role, None if tensor is None else _kept(tensor))

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that it computes with."""
        return self.w1_a.dtype

    def forward(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Compute what it adds at scale 1."""
        change = self.dense(torch.Size((-1, *weight_shape(layer.module)[1:])))
        return applied(x, change.to(x.dtype), layer.module)

    def dense(self, shape: torch.Size) -> torch.Tensor:
        """Compute the change of the weight."""
        first = product(self.w1_a, self.w1_b, self.t1)
        return (first * product(self.w2_a, self.w2_b, self.t2)).reshape(shape)


class Kronecker(torch.nn.Module):
    """LoKr: the Kronecker product of w1 and w2, each whole or the product of two factors; w2 also a Tucker one."""

    w1: torch.nn.Parameter | None
    w1_a: torch.nn.Parameter
    w1_b: torch.nn.Parameter
    w2: torch.nn.Parameter | None
    w2_a: torch.nn.Parameter
    w2_b: torch.nn.Parameter
    t2: torch.nn.Parameter | None

    def __init__(self, factors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"):
            tensor = factors.get(f"lokr_{role}")
            self.register_parameter(role, None if tensor is None else _kept(tensor))

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that it computes with."""
        return (self.w1_a if self.w1 is None else self.w1).dtype

    def sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides of the product: w1 [a, b] and w2 [c, d] or, for a convolution, [c, d, ...]."""
        first = self.w1.float() if self.w1 is not None else product(self.w1_a, self.w1_b)
        return first, self.w2.float() if self.w2 is not None else product(self.w2_a, self.w2_b, self.t2)

    def forward(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Compute what it adds at scale 1."""
        if isinstance(layer.module, torch.nn.Conv2d):
            return applied(x, self.dense(weight_shape(layer.module)).to(x.dtype), layer.module)
        first, second = (side.to(x.dtype) for side in self.sides())
        rows = functional.linear(x.reshape(*x.shape[:-1], first.shape[1], second.shape[1]), second)  # [..., b, c]
        return torch.einsum("ab,...bc->...ac", first, rows).flatten(-2)

    def dense(self, shape: torch.Size) -> torch.Tensor:
        """Compute the change of the weight."""
        first, second = self.sides()
        first = first.reshape(*first.shape, *(1,) * (second.ndim - first.ndim))
        return torch.kron(first, second.contiguous()).reshape(shape)  # which takes no other ones


class Full(torch.nn.Module):
    """A whole difference of the weight, which the file holds (`.diff`)."""

    def __init__(self, diff: torch.Tensor) -> None:
        super().__init__()
        self.diff = _kept(diff)

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that it computes with."""
        return self.diff.dtype

    def forward(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Compute what it adds at scale 1."""
        return applied(x, self.diff, layer.module)

    def dense(self, shape: torch.Size) -> torch.Tensor:
        """Compute the change of the weight."""
        return self.diff.float().reshape(shape)


class Sum(torch.nn.Module):
    """A form times a factor, and a whole difference of the same weight beside it."""

    def __init__(self, form: Any, factor: float, rest: Full) -> None:
        super().__init__()
        self.form, self.factor, self.rest = form, factor, rest

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that it computes with."""
        found: torch.dtype = self.form.dtype
        return found

    def forward(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Compute what it adds at scale 1."""
        found: torch.Tensor = self.form(x, layer) * self.factor + self.rest(x, layer)
        return found

    def dense(self, shape: torch.Size) -> torch.Tensor:
        """Compute the change of the weight."""
        found: torch.Tensor = self.form.dense(shape) * self.factor + self.rest.dense(shape)
        return found


class Rows(torch.nn.Module):
    """Some rows of another form, for layers that are one in the file and several in the model.

    Args:
        pieces: Beginning and end of each piece of rows, in their order here.
        rows: Of the whole.
    """

    def __init__(self, whole: Any, pieces: tuple[tuple[int, int], ...], rows: int) -> None:
        super().__init__()
        self.whole, self.pieces, self.rows = whole, pieces, rows

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers that it computes with."""
        found: torch.dtype = self.whole.dtype
        return found

    def forward(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Compute what it adds at scale 1."""
        return picked(self.whole(x, layer), self.pieces, -1)

    def dense(self, shape: torch.Size) -> torch.Tensor:
        """Compute the change of the weight."""
        return picked(self.whole.dense(torch.Size((self.rows, *shape[1:]))), self.pieces, 0)


def picked(tensor: torch.Tensor, pieces: tuple[tuple[int, int], ...], axis: int) -> torch.Tensor:
    """Pieces of a tensor along an axis, joined in their order; a view where there is one."""
    found = [tensor.narrow(axis, start, end - start) for start, end in pieces]
    return found[0] if len(found) == 1 else torch.cat(found, dim=axis)


class LayerChange(torch.nn.Module):
    """What one LoRA changes in one layer.

    Args:
        form: The change of the weight, if there is one.
        scale: The LoRA's strength times what its format makes of alpha and rank.
        shift: Added to the output, shaped for it: the change of the bias times the strength; with a factor of rows also
            what takes the factor from the bias again.
        factor: For DoRA, what multiplies rows or columns of the changed weight, shaped for output or input.
        on_input: `factor` multiplies columns.
    """

    factor: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(
        self,
        form: Any,
        scale: float,
        shift: torch.Tensor | None = None,
        factor: torch.Tensor | None = None,
        on_input: bool = False,
    ) -> None:
        super().__init__()
        self.form, self.scale, self.on_input = form, scale, on_input
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("factor", factor, persistent=False)

    def forward(self, x: torch.Tensor, result: torch.Tensor, plain: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Add the change to `result`; `plain` is the output of the layer without any change."""
        if self.form is not None and self.form.dtype.itemsize > 1:  # smaller ones are cast up while they compute
            x = x.to(self.form.dtype)
        if self.factor is None:
            result = result if self.form is None else result + self.form(x, layer) * self.scale
        elif self.on_input:
            moved = x * self.factor
            result = result + (layer.module(moved) - plain) + self.form(moved, layer) * self.scale
        else:
            result = result + (self.factor - 1) * plain + self.factor * (self.form(x, layer) * self.scale)
        return result if self.shift is None else result + self.shift

    def dense(self, base: Any) -> torch.Tensor:
        """Compute the change of the weight at this strength."""
        shape = weight_shape(base)
        change = torch.zeros(shape) if self.form is None else self.form.dense(shape) * self.scale
        if self.factor is None:
            return change
        weight = dense_weight(base)
        # As it multiplies outputs [..., out] and [n, out, h, w], or inputs; here rows or columns of the weight.
        sides = (1, -1) if self.on_input else (-1, 1)
        return (weight + change) * self.factor.reshape(*sides, *(1,) * (len(shape) - 2)) - weight


class ChangedLayer(torch.nn.Module):
    """A layer with the changes of LoRAs over it, added to its output in their order; else it is the layer itself."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_changes = torch.nn.ModuleDict()
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base_layer", "lora_changes"):
                raise
            return getattr(self.base_layer, name)

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """Compute the layer's output with all changes."""
        plain: torch.Tensor = self.base_layer(x, *args, **options)
        result, layer = plain, Layer(self.base_layer)
        for change in self.lora_changes.values():
            result = change(x, result, plain, layer)
        return result.to(plain.dtype)

    def get_delta_weight(self, name: str) -> torch.Tensor:
        """Compute the change of the weight that a LoRA makes, under the name that peft's layers have for it."""
        change = self.lora_changes[name]
        assert isinstance(change, LayerChange)
        return change.dense(self.base_layer)


# --- layers -----------------------------------------------------------------------------------------------------------


def weight_shape(base: Any) -> torch.Size:
    """The shape of a layer's weight; quantized ones may have stored it in another."""
    if isinstance(base, torch.nn.Conv2d):
        return torch.Size((base.out_channels, base.in_channels // base.groups, *base.kernel_size))
    return torch.Size((base.out_features, base.in_features))


def dense_weight(base: Any) -> torch.Tensor:
    """A layer's weight in single precision, also of a quantized layer."""
    weight = base.weight
    plain = weight.dequantize() if hasattr(weight, "__tensor_flatten__") else weight
    found: torch.Tensor = plain.detach().float()
    return found


def shaped(values: torch.Tensor, base: Any) -> torch.Tensor:
    """One value for each channel [c], shaped to be used with a layer's inputs or outputs."""
    return values.reshape(-1, 1, 1) if isinstance(base, torch.nn.Conv2d) else values.reshape(-1)


def applied(x: torch.Tensor, weight: torch.Tensor, base: Any) -> torch.Tensor:
    """Compute a layer's output with another weight, without a bias."""
    if isinstance(base, torch.nn.Conv2d):
        found: torch.Tensor = base._conv_forward(x, weight, None)
        return found
    return functional.linear(x, weight)


def product(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None = None) -> torch.Tensor:
    """a [out, r] times b [r, ...]; with a core [r, r, h, w], a [r, out] and b [r, in] are its sides (Tucker)."""
    if core is None:
        return a.float() @ b.float()
    return torch.einsum("ijkl,jr,ip->prkl", core.float(), b.float(), a.float())


def _kept(tensor: torch.Tensor, gradients: bool = False) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=gradients)


def _linear(weight: torch.Tensor, gradients: bool) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = _kept(weight, gradients)
    return layer


def _convolution(weight: torch.Tensor, gradients: bool, **options: Any) -> torch.nn.Conv2d:
    rows, columns, *kernel = weight.shape
    sides = (kernel[0], kernel[1])
    layer = torch.nn.Conv2d(columns, rows, sides, bias=False, device="meta", **options)
    layer.weight = _kept(weight, gradients)
    return layer
