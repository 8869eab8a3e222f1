"""Catalogue of a ServiceThread: the Pipes, models and LoRAs of the models file, and the folders of sessions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.errors import GraphEngineError
from graphengine.service.start import devices_here
from multigen import pipes
from multigen.pipes.arguments import path
from multigen.pipes.building import listed
from multigen.service_config import model_path

__all__ = ["PICTURES", "Catalogue", "held_as", "named_devices", "pipes_by_name", "precision_on"]

NEEDED = {"base": ("id", "type"), "lora": ("id",), "pipes": ("classname",)}
"""The keys that an entry of the models file must have."""
PICTURES = ("image", "fimage", "original_image", "image_painted", "mask", "mask_image")
"""Arguments of `setup` that take pictures."""
ROOMY = 23 * 2**30
"""Bytes of GPU memory from which FLUX stays on the GPU, in 8 bits; with less, weights are moved layer by layer."""


def pipes_by_name() -> dict[str, type]:
    """The Pipe classes by name."""
    return {name: kind for name, kind in vars(pipes).items() if isinstance(kind, type) and name.endswith("Pipe")}


def named_devices(config: Mapping[str, Any]) -> list[str]:
    """The devices of a configuration's workers: those that it names, else all of this machine."""
    return list(config.get("devices") or devices_here())


def precision_on(devices: Sequence[str]) -> str:
    """The type of numbers that workers on these devices compute with."""
    return "bfloat16" if _are_gpus(devices) else "float32"


def held_as(family: str, devices: Sequence[str]) -> str | None:
    """The option with which a model fits the smallest of the devices: `float8`, `offload`, or None."""
    if family != "FLUX" or not _are_gpus(devices):
        return None
    import torch

    memory = min(torch.cuda.get_device_properties(device).total_memory for device in devices)
    return "float8" if memory > ROOMY else "offload"


def _are_gpus(devices: Sequence[str]) -> bool:
    return all(device.startswith("cuda") for device in devices)


@dataclass(frozen=True)
class Catalogue:
    """The contents of the two configuration files at a moment.

    Attributes:
        cwd: The folder from which relative paths start.
        config, models: The contents of the files.
    """

    cwd: Path
    config: Mapping[str, Any]
    models: Mapping[str, Any]

    def pipe_class(self, pipe: str) -> type:
        """The class of a Pipe by its name in the models file.

        Raises:
            RuntimeError: There is no such name.
        """
        name = self._entry("pipes", "pipe", pipe)["classname"]
        if name not in pipes_by_name():
            raise RuntimeError(f"the pipe {pipe!r} of the models file has an unknown classname: {name!r:.40}")
        return pipes_by_name()[name]

    def lacking(self, session: Mapping[str, Any], images: Any, setup: Mapping[str, Any]) -> str | None:
        """The sentence about an argument that the session's Pipe needs and was not given; None if there is none."""
        entry = self._entry("pipes", "pipe", session["pipe"])
        given = [*(images if isinstance(images, list | tuple) else [images]), *map(setup.get, PICTURES)]
        if entry.get("need_imgs") and all(one is None for one in given):
            return f"the pipe {session['pipe']} needs images"
        if entry.get("needs_cnet") and not (setup.get("cnet") or setup.get("ctypes") or setup.get("cnet_ids")):
            return f"the pipe {session['pipe']} needs a control type: cnet"
        return None

    def pipe(self, session: Mapping[str, Any], setup: Mapping[str, Any]) -> Any:
        """Make a Pipe of a session's model, with its LoRAs; reads no weights.

        Raises:
            RuntimeError: The models file has no such name, or there is no such file; a type is another one.
        """
        kind: Any = self.pipe_class(session["pipe"])
        model, devices = session["model"], named_devices(self.config)
        base = self._entry("base", "model", model)
        named: dict[str, Any] = {"device": devices[0], "torch_dtype": precision_on(devices)}
        named |= {name: setup[name] for name in ("cnet_ids",) if setup.get(name)}
        if setup.get("cnet"):
            named["ctypes"] = setup["cnet"]
        held = held_as(base["type"], devices)
        if held == "offload":
            named["offload_device"] = int(devices[0].partition(":")[2] or 0)
        else:
            named["quantization"] = held
        try:
            pipe = kind(model_path(self.cwd, self.config, base["id"]), **named)
            if (found := pipe.model_type.name) != base["type"]:
                raise RuntimeError(f"the model {model!r} is of type {found}, not {base['type']}")
            for name in listed(session.get("loras")):
                lora = self._entry("lora", "LoRA", name)
                if lora.get("type", base["type"]) != base["type"]:
                    raise RuntimeError(f"the LoRA {name!r} is for {lora['type']}, not for {model!r}")
                pipe.load_lora(model_path(self.cwd, self.config, lora["id"], "Lora"))
        except GraphEngineError as error:
            where = self.cwd / Path(self.config.get("model_dir") or "").expanduser()
            raise RuntimeError(f"{error}; ids of the models file are looked for in {where} first") from error
        return pipe

    def folder(self, session: Mapping[str, Any], gen_dir: str | Path | None = None) -> Path:
        """The folder of a session's pictures.

        Raises:
            ValueError: User or project would lead out of `_projects`; `gen_dir` is no path.
        """
        given = gen_dir or session.get("gen_dir")
        if given:
            return Path(path("gen_dir", given)).absolute()
        names = [str(session["user"]), str(session.get("project", ""))]
        if not names[0].isprintable() or not names[1].isprintable():
            raise ValueError(f"user {names[0]!a} and project {names[1]!a} are names of folders; some of it is no text")
        root = Path(os.path.abspath(self.cwd / "_projects"))
        folder = Path(os.path.normpath(root.joinpath(*names)))
        if not folder.is_relative_to(root / names[0]) or folder == root or os.path.isabs(names[0]):
            raise ValueError(f"user {names[0]!r} and project {names[1]!r} lead out of {root}")
        return folder

    def _entry(self, section: str, what: str, name: Any) -> Mapping[str, Any]:
        """An entry of the models file, as it is now."""
        entries: Mapping[str, Any] = self.models.get(section) or {}
        if not isinstance(name, str) or name not in entries:
            known = ", ".join(entries) or "none"
            raise RuntimeError(f"there is no {what} {name!r} in the models file; it has {known}")
        entry: Mapping[str, Any] = entries[name]
        for key in NEEDED[section]:
            if not isinstance(entry.get(key), str):
                raise RuntimeError(f"the {what} {name!r} of the models file has no {key}")
        return entry
