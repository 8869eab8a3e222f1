"""Class facts: what reading the editor's files needs to know of a class, from our nodes or from an `/object_info`.

The editor saves the values of a node's widgets as a list without names. Which value is whose follows from the order of
the class's inputs, from which of them have widgets, and from widgets that stand for no input, such as the choice of
what becomes of a seed after each run.
"""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from graphengine import FormatContext, Socket
from graphengine_comfy.formats.api_format import members
from graphengine_comfy.formats.classes import PACK, Definition, definitions_of
from graphengine_comfy.formats.dynamic_inputs import DYNAMIC_COMBOS

PLAIN = ("INT", "FLOAT", "STRING", "BOOLEAN")
SEEDS = ("seed", "noise_seed")
"""Names of numbers that have a widget for what becomes of them after each run, whatever their class says."""
ALTERNATIVES = ("CLIPTextEncode", "TextEncode")
"""Beginnings of the names of classes in whose texts the editor draws one of `{a|b}`."""


@dataclass(frozen=True, slots=True)
class InputFacts:
    """An input of a class.

    Attributes:
        name: Its name.
        widget: It has a widget, with a value in the file; else it is a socket only.
        default: The widget's value where the file has none.
        extra: How many further values stand behind its value in the file.
        draws: The editor draws one of the alternatives `{a|b}` in its text.
        options: For a choice that brings inputs of its own: these, by the choice.
    """

    name: str
    widget: bool = False
    default: Any = None
    extra: int = 0
    draws: bool = False
    options: Mapping[str, tuple[InputFacts, ...]] = field(default_factory=dict)


ClassFacts = tuple[InputFacts, ...]
"""The inputs of a class, in the order in which the editor makes their widgets."""
Classes = Callable[[str], ClassFacts | None]
"""Returns the facts of a class, or None for an unknown class."""


def classes_of(context: FormatContext) -> Classes:
    """The facts of all classes that are nodes here."""
    known: dict[str, ClassFacts | None] = {}
    find = definitions_of(context)

    def facts(name: str) -> ClassFacts | None:
        if name not in known:
            definition = find(name)
            known[name] = None if definition is None else facts_of(definition)
        return known[name]

    return facts


def facts_of(definition: Definition) -> ClassFacts:
    """The facts of the class that a node is."""
    own = definition.pack == PACK
    draws = own and definition.name.startswith(ALTERNATIVES)
    combos = DYNAMIC_COMBOS.get(definition.name, {}) if own else {}
    inside = {f"{combo}_{sub}" for combo, options in combos.items() for subs in options.values() for sub in subs}
    return tuple(
        _input(socket, draws, combos.get(name, {}), definition)
        for name, socket in definition.sockets.items() if name not in inside
    )  # fmt: skip


def _input(
    socket: Socket, draws: bool, options: Mapping[str, tuple[str, ...]], definition: Definition
) -> InputFacts:
    type = widget_type(socket)
    if type is None:
        return InputFacts(socket.name)
    extra = 1 if type == "INT" and (socket.drawn or socket.name in SEEDS) else 0
    inner = {}
    for choice, subs in options.items():
        found = [definition.sockets.get(f"{socket.name}_{sub}") for sub in subs]
        inner[choice] = tuple(
            InputFacts(sub) if it is None else _named(_input(it, False, {}, definition), sub)
            for sub, it in zip(subs, found, strict=True)
        )
    return InputFacts(socket.name, True, _default(socket, type), extra, draws and type == "STRING", inner)


def _named(facts: InputFacts, name: str) -> InputFacts:
    return InputFacts(name, facts.widget, facts.default, facts.extra, facts.draws)


def widget_type(socket: Socket) -> str | None:
    """The type of an input's widget: INT, FLOAT, STRING, BOOLEAN or COMBO; None for an input without a widget.

    A plain value with the default None has none: a widget would always send a value.
    """
    kinds = [member for member in members(socket.type) if member is not type(None)]
    choices = socket.choices is not None or bool(kinds and all(_is_choice(member) for member in kinds))
    plain = next((name for member in kinds if (name := _plain(member))), None)
    if (plain is None and not choices) or (not socket.required and socket.default is None and not socket.drawn):
        return None
    return "COMBO" if choices else plain


def _is_choice(member: Any) -> bool:
    return get_origin(member) is Literal or (isinstance(member, type) and issubclass(member, enum.Enum))


def _plain(member: Any) -> str | None:
    names = {int: "INT", float: "FLOAT", str: "STRING", bool: "BOOLEAN"}
    if isinstance(member, type) and issubclass(member, pathlib.PurePath):
        return "STRING"
    return names.get(member) if isinstance(member, type) else None


def _default(socket: Socket, type: str) -> Any:
    if not socket.required and socket.default is not None:
        value = socket.default.value if isinstance(socket.default, enum.Enum) else socket.default
        return str(value) if isinstance(value, pathlib.PurePath) else value
    if type == "COMBO":
        literals = [get_args(member) for member in members(socket.type) if get_origin(member) is Literal]
        values = socket.choices.values() if socket.choices is not None else literals[0] if literals else ()
        return next(iter(values), None)
    low = socket.range.min if socket.range is not None and socket.range.min is not None else 0
    return {"INT": low, "FLOAT": low, "STRING": "", "BOOLEAN": False}[type]


def classes_in(object_info: Mapping[str, Any]) -> Classes:
    """The facts of the classes in an answer to `GET /object_info`."""
    known: dict[str, ClassFacts | None] = {}

    def facts(name: str) -> ClassFacts | None:
        if name not in known:
            known[name] = tuple(_inputs_in(object_info[name])) if name in object_info else None
        return known[name]

    return facts


def _inputs_in(info: Mapping[str, Any], prefix: str = "") -> Iterator[InputFacts]:
    inputs = info.get("input", info)
    for part in ("required", "optional"):
        declared = inputs.get(part) or {}
        order = (info.get("input_order") or {}).get(part) or list(declared)
        for name in order:
            spec = declared[name]
            options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
            type = "COMBO" if isinstance(spec[0], list) else spec[0]
            if type == "COMFY_DYNAMICCOMBO_V3":
                inner = {it["key"]: tuple(_inputs_in(it["inputs"])) for it in options["options"]}
                yield InputFacts(name, True, next(iter(inner), None), options=inner)
            elif type not in (*PLAIN, "COMBO") or options.get("forceInput"):
                yield InputFacts(name)
            else:
                listed = spec[0] if isinstance(spec[0], list) else options.get("options") or [None]
                default = {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}.get(type, next(iter(listed), None))
                controls = options.get("control_after_generate") or (type == "INT" and name in SEEDS)
                extra = 0 if not controls else 2 if type == "COMBO" else 1
                draws = bool(options.get("dynamicPrompts"))
                yield InputFacts(name, True, options.get("default", default), extra, draws)
