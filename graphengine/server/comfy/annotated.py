"""Files of the folders `output` and `temp` as inputs of nodes: `circle_00001_.png [output]`, as ComfyUI writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from graphengine.declare import registry
from graphengine.server.comfy.files import Files, Named
from graphengine.server.comfy.objects import full_name
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller

_ANNOTATED = re.compile(r"(.+?)\s*\[(output|temp)\]", re.DOTALL)


def with_held_files(files: Files, caller: Caller, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt in which a file that an input names with its folder is a copy that the caller holds: jobs may not name
    files of the output folder, where those of others lie too.

    A file that is not there, or is not the caller's, stays as it is written: the checks of the prompt tell of it.

    Args:
        prompt: Which is not changed.
    """
    found = dict(prompt)
    for id, node in prompt.items():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        definition = registry.find(full_name(node["class_type"])) if inputs and _has_class(node) else None
        if definition is None or not isinstance(inputs, Mapping):
            continue
        for name, value in inputs.items():
            socket = definition.sockets.get(name)
            match = _ANNOTATED.fullmatch(value) if isinstance(value, str) else None
            if match is not None and socket is not None and socket.file is not None:
                held = _held(files, caller, match[1], match[2])
                found[id] = {**found[id], "inputs": {**found[id]["inputs"], name: held or value}}
    return found


def _has_class(node: Mapping[str, Any]) -> bool:
    return isinstance(node.get("class_type"), str)


def _held(files: Files, caller: Caller, path: str, type: str) -> str | None:
    """The path of a file as jobs may name it; None if there is no such file of the caller."""
    inside = PurePosixPath(path.replace("\\", "/"))
    subfolder = inside.parent.as_posix()
    try:
        return files.held(caller, Named(inside.name, "" if subfolder == "." else subfolder, type))
    except ApiError as error:
        if error.code in ("not_found", "bad_request"):
            return None
        raise
