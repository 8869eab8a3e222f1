"""ControlNets of kinds of control: their folders and their default scales."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphengine_nodes as std
from graphengine_nodes.values.types import ControlNet

from graphengine import ModelError
from multigen.pipes.arguments import numbers, path
from multigen.pipes.kinds import ModelType

__all__ = ["Net", "find", "scales"]

FOLDERS = {
    "canny": "sd-controlnet-canny",
    "pose": "control_v11p_sd15_openpose",
    "ip2p": "control_v11e_sd15_ip2p",
    "soft": "control_v11p_sd15_softedge",
    "soft-sobel": "control_v11p_sd15_softedge",
    "scribble": "control_v11p_sd15_scribble",
    "depth": "control_v11f1p_sd15_depth",
    "inpaint": "control_v11p_sd15_inpaint",
    "qr": "controlnet_qrcode-control_v1p_sd15",
}
FOLDERS_XL = {
    "canny": "controlnet-canny-sdxl",
    "pose": "controlnet-openpose-sdxl",
    "soft": "controlnet-softedge-sdxl",
    "scribble": "controlnet-scribble-sdxl",
    "depth": "controlnet-depth-sdxl",
    "inpaint": "controlnet-inpaint-sdxl",
    "qr": "controlnet-qr-pattern-sdxl",
}
DEFAULT_SCALE = 0.8
SCALES = {
    "canny": 0.75,
    "pose": 1.0,
    "ip2p": 0.5,
    "soft": 0.95,
    "soft-sobel": 0.3,
    "scribble": 0.95,
    "depth": 0.5,
    "inpaint": 1.0,
    "qr": 1.5,
}
SCALES_XL = {"canny": 0.75, "pose": 1.0, "soft": 0.95, "scribble": 0.95, "depth": 0.5, "inpaint": 1.0, "qr": 0.5}
SCALES_FLUX = {"canny-dev": 0.6}


@dataclass(frozen=True)
class Net:
    """A ControlNet of a Pipe.

    Attributes:
        reference: The reference to its weights.
        source: The folder or hub id of the weights; None for an object that a caller handed in.
    """

    reference: ControlNet
    source: str | None
    precision: str | None = None

    def node(self) -> ControlNet:
        """The node that refers to it."""
        return self.reference if self.source is None else std.load_controlnet(self.source, self.precision)


def find(pipe: Any, objects: Sequence[Any], ids: Sequence[Any]) -> list[Net]:
    """Find the ControlNets of a Pipe: those handed in, else those of the ids, else those of its kinds of control.

    Raises:
        ModelError: A ControlNet is not where it should be, or is for another type of model.
        ValueError: An id is no path and no name.
    """
    if objects:
        found = [Net(std.loaded_controlnet(one), None) for one in objects]
    else:
        if not ids and pipe.model_type is ModelType.FLUX:
            raise ModelError("FLUX takes its ControlNets by cnet_ids: give their folders or hub ids")
        precision = pipe.precision
        sources = [_of_id(pipe, one) for one in ids] or [_of_kind(pipe, kind) for kind in pipe.ctypes]
        found = [Net(std.load_controlnet(source, precision), source, precision) for source in sources]
    for net in found:
        if net.reference.family != pipe.model_type.family:
            kind = ModelType.of(net.reference.family).name
            raise ModelError(f"{net.reference.source} steers models of type {kind}; {pipe.model_id} is none")
    if len(pipe.ctypes) not in (1, len(found)):
        raise ModelError(f"{len(pipe.ctypes)} ctypes for {len(found)} ControlNets; give one, or one for each")
    return found


def scales(pipe: Any, given: float | Sequence[float] | None, count: int) -> list[float]:
    """The scale of each ControlNet; where none is given, the default of its kind.

    Raises:
        ValueError: There is neither one scale nor one for each ControlNet.
    """
    names = ("cond_scales_defaults", "cond_scales_defaults_xl", "cond_scales_defaults_flux")
    defaults = getattr(pipe, names[pipe.model_type.value - 1])
    if given is None:
        kinds = pipe.ctypes * count if len(pipe.ctypes) == 1 else pipe.ctypes
        return [float(defaults.get(kind, DEFAULT_SCALE)) for kind in kinds]
    found = numbers("cscales", given) if isinstance(given, Iterable) else numbers("cscales", [given]) * count
    if len(found) != count:
        raise ValueError(f"{len(found)} cscales for {count} ControlNets; give one number, or one for each")
    return found


def _folder(pipe: Any) -> Path:
    return Path((pipe.cpath, pipe.cpathxl, pipe.cpathflux)[pipe.model_type.value - 1]).expanduser()


def _of_id(pipe: Any, source: Any) -> str:
    """Resolve an id: a path, a path in the folder of ControlNets, an embedded name or a hub id."""
    source = path("a ControlNet (cnet_ids, or cnet of no known kind)", source)
    inside = _folder(pipe) / source
    return str(inside) if not os.path.exists(source) and inside.exists() else source


def _of_kind(pipe: Any, kind: str) -> str:
    kind = path("a kind of control (cnet, ctypes)", kind)
    if pipe.model_id == "tiny" and kind == "canny":
        return "tiny-canny"
    table = pipe.cmodels if pipe.model_type is ModelType.SD else pipe.cmodelsxl
    if kind not in table:
        return _of_id(pipe, kind)
    folder = _folder(pipe) / table[kind]
    if not folder.is_dir():
        raise ModelError(
            f"the ControlNet for {kind!r} is to lie in {folder}, and there is no such folder; fetch it "
            f"(hf download OWNER/{table[kind]} --local-dir {folder}), set {type(pipe).__name__}.cpath to where it is, "
            "or give its folder or hub id as cnet_ids"
        )
    return str(folder)
