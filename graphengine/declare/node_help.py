"""A node's help: its docstring, its inputs with limits and defaults, its outputs, in lines that wrap at words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from graphengine.values.types import type_name

if TYPE_CHECKING:
    from graphengine.declare.definition import NodeDef
    from graphengine.declare.sockets import Socket


def help_of(definition: NodeDef[..., Any], width: int = 100) -> str:
    """All of a node's help, headed by its name and version.

    Args:
        width: Columns of a line.
    """
    version = f"@{definition.version}" if definition.version is not None else ""
    return f"{definition.full_name}{version}\n\n{described(definition, width)}"


def described(definition: NodeDef[..., Any], width: int = 100) -> str:
    """A node's docstring, inputs and outputs."""
    lines = [definition.doc or "(no help)", "", "Inputs:"]
    for socket in definition.sockets.values():
        lines += wrapped("  ", f"{socket.name}: {type_name(socket.type)}{_default(socket)}", "", width)
        if text := limits(socket):
            lines += wrapped("      ", text, "", width)
    if not definition.sockets:
        lines.append("  none")
    lines += ["", "Outputs:"]
    lines += [f"  {name + ': ' if name else ''}{type_name(kind)}" for name, kind in definition.outputs.items()]
    return "\n".join(lines)


def wrapped(head: str, text: str, more: str, width: int) -> Iterator[str]:
    """Text in lines of a width; the first begins with `head`, the others as far in, with `more` before them."""
    indent = " " * len(head) + more
    found = textwrap.wrap(text, max(20, width), initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
    yield from found or [head.rstrip()]


def _default(socket: Socket) -> str:
    return "" if socket.required else f" = {socket.default!r}"


def limits(socket: Socket) -> str:
    """What an input takes, beyond its type, and its help; empty if it says nothing."""
    parts = []
    if socket.range is not None:
        low, high = socket.range.min, socket.range.max
        parts.append(f"{_number(low)}..{_number(high)}")
    if socket.choices is not None:
        parts.append(f"one of {', '.join(map(str, socket.choices.values()))}")
    if socket.lazy:
        parts.append("lazy")
    if socket.file is not None:
        parts.append(f"{socket.file.kind} to write" if socket.file.write else f"{socket.file.kind} path")
    if socket.doc:
        parts.append(socket.doc)
    return "; ".join(parts)


def _number(limit: float | None) -> str:
    return "" if limit is None else str(limit) if isinstance(limit, int) else f"{limit:g}"
