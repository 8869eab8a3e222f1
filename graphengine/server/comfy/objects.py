"""Node definitions in ComfyUI's form (`/object_info`), from which its frontend and clients make sockets and widgets."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, TypeVar, get_args, get_origin

from graphengine.declare.definition import NodeDef
from graphengine.declare.node_groups import group_of
from graphengine.declare.sockets import Choices, File, Socket, written
from graphengine.values.socket_types import is_protocol, strip, type_name, union_members
from graphengine.workflow.formats import is_output, opened_inputs

BARE = "comfy"
"""The pack whose nodes have ComfyUI's own names: in prompts, they stand without the name of the pack."""
ANY = "*"
TYPES = {
    "int": "INT", "float": "FLOAT", "str": "STRING", "bool": "BOOLEAN", "path": "STRING", "any": ANY,
    "Image": "IMAGE", "Mask": "MASK", "Video": "VIDEO",
}  # fmt: skip
"""ComfyUI's names of types that have another name here; all others keep theirs."""
PLAIN = ("INT", "FLOAT", "STRING", "BOOLEAN")
"""The types that have widgets."""
GROWING, MOST_LINKS = "COMFY_AUTOGROW_V3", 50
"""ComfyUI's type of an input that takes several links, to which the frontend adds sockets; and how many these are."""
OPENING = "COMFY_DYNAMICCOMBO_V3"
"""ComfyUI's type of an input whose choices open further inputs."""
LARGEST = 2**64 - 1
"""The largest seed that ComfyUI knows."""

FilesOf = Callable[[File], Sequence[str] | None]
"""The names of the files that an input may name; None if they are not known, so that the name is typed."""


def class_type(definition: NodeDef[..., Any]) -> str:
    """The name of a node in prompts: `KSampler` for `comfy.KSampler`, the full name for nodes of other packs."""
    return definition.name if definition.pack == BARE else definition.full_name


def full_name(class_type: str) -> str:
    """The full name of the node with a name in prompts."""
    return class_type if "." in class_type else f"{BARE}.{class_type}"


def is_shown(definition: NodeDef[..., Any]) -> bool:
    """Whether jobs of a server may hold the node: one that writes files by itself is refused."""
    return not any(rule.write for rule in definition.files.values())


def object_info(definition: NodeDef[..., Any], files_of: FilesOf) -> dict[str, Any]:
    """A node as `/object_info` has it.

    Args:
        definition: The node.
        files_of: Lists the files that an input may name, which makes a list to choose from.
    """
    inputs: dict[str, dict[str, Any]] = {"required": {}, "optional": {}, "hidden": {}}
    own, sockets, opening, inner = definition.pack == BARE, definition.sockets, dict[str, list[Any]](), set[str]()
    for name, choices in opened_inputs(definition).items():
        if (shown := _opening(sockets[name], choices, sockets, files_of)) is not None:
            opening[name] = shown
            inner |= {f"{name}_{part}" for parts in choices.values() for part in parts}
    for name, socket in sockets.items():
        if name in inner:
            continue
        # Saved workflows hold the values of widgets in the order of a class's inputs, the required ones first. Those of
        # ComfyUI's own classes are required even where they have a default.
        required = socket.required or (own and socket.default is not None)
        inputs["required" if required else "optional"][name] = opening.get(name) or input_info(socket, files_of)
    shows = is_output(definition)
    outputs = {} if shows else definition.outputs
    types = [comfy_type(annotation) for annotation in outputs.values()]
    name = class_type(definition)
    return {
        "input": inputs,
        "input_order": {part: list(sockets) for part, sockets in inputs.items()},
        "output": types,
        "output_is_list": [False] * len(types),
        "output_name": [port or type for port, type in zip(outputs, types, strict=True)],
        "name": name,
        "display_name": name if definition.pack == BARE else _words(definition.name),
        "description": definition.doc,
        "python_module": "nodes" if definition.pack == BARE else f"custom_nodes.{definition.pack}",
        "category": _category(definition),
        "output_node": shows,
        "deprecated": False,
        "experimental": False,
    }


def input_info(socket: Socket, files_of: FilesOf) -> list[Any]:
    """An input as `/object_info` has it: `[TYPE, options]`, or `[choices, options]`.

    A list of values that come by links is shown as an input that grows. A plain value with the default None is shown as
    a socket without a widget: a widget would always send a value, while no value is what makes the node take its own
    default.
    """
    options: dict[str, Any] = {}
    if socket.doc:
        options["tooltip"] = socket.doc
    if socket.lazy:
        options["lazy"] = True
    choices = _choices(socket, files_of)
    if choices is not None:
        if socket.file is not None and socket.file.kind == "image":
            options["image_upload"] = True
        if not socket.required and written(socket.default) in choices:
            options["default"] = written(socket.default)
        elif not socket.required:
            options["forceInput"] = True
        return [choices, options]
    if (item := _item(socket.type)) is not None:
        prefix = socket.name.removesuffix("s")
        template = {"input": {"required": {prefix: [item, options]}}, "prefix": prefix, "min": int(socket.required),
                    "max": MOST_LINKS}  # fmt: skip
        return [GROWING, {**options, "template": template}]
    type = comfy_type(socket.type)
    if type in PLAIN:
        _widget(socket, type, options)
    return [type, options]


def _opening(
    socket: Socket, choices: Mapping[str, Sequence[str]], sockets: Mapping[str, Socket], files_of: FilesOf
) -> list[Any] | None:
    """An input whose choices open further inputs, which the frontend shows below it while they count; None where one of
    these has no widget, as the frontend does not know that."""
    options = dict(input_info(socket, files_of)[1])
    first, shown = options.pop("default", None), []
    for choice, parts in choices.items():
        inner = {part: input_info(sockets[f"{socket.name}_{part}"], files_of) for part in parts}
        if any(info[1].get("forceInput") for info in inner.values()):
            return None
        shown.append({"key": choice, "inputs": {"required": inner}})
    shown.sort(key=lambda one: one["key"] != first)  # the frontend begins with the first one
    return [OPENING, options | {"options": shown}]


def _item(annotation: Any) -> str | None:
    """What a list holds that is made of links (`images.image0`, `images.image1`, ...); None for any other type."""
    lists = [member for member in union_members(strip(annotation)) if get_origin(strip(member)) is list]
    items = [comfy_type(get_args(strip(member))[0]) for member in lists]
    return items[0] if len(items) == 1 and items[0] not in PLAIN else None


def comfy_type(annotation: Any) -> str:
    """ComfyUI's name of a type: that of a plain value where a union holds one, else the names of all members, which
    its frontend takes as any of these."""
    members = [strip(member) for member in union_members(strip(annotation))]
    members = [member for member in members if member is not type(None)] or [Any]
    if any(_is_any(member) for member in members):
        return ANY
    names = [_name(member) for member in members]
    plain = [name for name in names if name in PLAIN]
    return plain[0] if plain else ",".join(dict.fromkeys(names))


def _is_any(member: Any) -> bool:
    return member is Any or member is object or isinstance(member, TypeVar) or is_protocol(member)


def _name(member: Any) -> str:
    if get_origin(member) is Literal:
        return TYPES.get(type_name(type(get_args(member)[0])), "STRING")
    if isinstance(member, type) and issubclass(member, enum.Enum):
        return "STRING"
    if isinstance(member, type) and issubclass(member, PurePath):
        return "STRING"
    name = type_name(member)
    if args := get_args(member):
        head = name.partition("[")[0]
        inside = [comfy_type(part) for part in args if part is not ...]
        return f"{head}[{' '.join(inside)}]"
    return TYPES.get(name, name)


def _choices(socket: Socket, files_of: FilesOf) -> list[Any] | None:
    """The values to choose from; None where any value is taken."""
    if socket.file is not None:
        files = files_of(socket.file)
        return None if files is None else list(dict.fromkeys([*socket.file.known, *files]))
    if isinstance(socket.choices, Choices):
        return [written(choice) for choice in socket.choices.values()]
    members = [member for member in union_members(strip(socket.type)) if member is not type(None)]
    found: list[Any] = []
    for member in members:
        if get_origin(member) is Literal:
            found += get_args(member)
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            found += [written(choice) for choice in member]
        else:
            return None
    return found or None


def _widget(socket: Socket, type: str, options: dict[str, Any]) -> None:
    """Add what a widget of a plain value needs."""
    if not socket.required and socket.default is None and not socket.drawn:
        options["forceInput"] = True
        return
    default = socket.default if not socket.required else None
    match type:
        case "INT" | "FLOAT":
            low, high, step = (
                (None, None, None) if socket.range is None else (socket.range.min, socket.range.max, socket.range.step)
            )
            number = default if isinstance(default, int | float) and math.isfinite(default) else low or 0
            if socket.drawn:
                options["control_after_generate"] = True
                number, low = max(0, int(number)), low or 0
            options["default"] = number
            options["min"] = low if low is not None else -LARGEST
            options["max"] = high if high is not None else LARGEST
            if step is not None:
                options["step"] = step
            elif type == "FLOAT":
                options["step"] = 0.01
        case "STRING":
            options["multiline"] = socket.multiline
            options["default"] = default if isinstance(default, str) else ""
        case "BOOLEAN":
            options["default"] = bool(default)


def _category(definition: NodeDef[..., Any]) -> str:
    group = group_of(definition)
    return group if definition.pack == BARE else f"{definition.pack}/{group}"


def _words(name: str) -> str:
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def all_objects(definitions: Mapping[str, NodeDef[..., Any]], files_of: FilesOf) -> dict[str, Any]:
    """All nodes that jobs of a server may hold, by their names in prompts."""
    return {class_type(found): object_info(found, files_of) for found in definitions.values() if is_shown(found)}
