"""Help texts of nodes: the docstring, the inputs with limits and defaults, and the outputs, wrapped to a width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from graphengine.values.socket_types import type_name

if TYPE_CHECKING:
    from graphengine.declare.definition import NodeDef
    from graphengine.declare.sockets import Socket


def help_of(definition: NodeDef[..., Any], width: int = 100) -> str:
    """The full help of a node, headed by its name and version.

    Args:
        definition: The node.
        width: The most columns of a line.
    """
    version = f"@{definition.version}" if definition.version is not None else ""
    return f"{definition.full_name}{version}\n\n{described(definition, width)}"


def described(definition: NodeDef[..., Any], width: int = 100) -> str:
    """The help of a node without a heading: docstring, inputs and outputs."""
    lines = [definition.doc or "(no help)", "", "Inputs:"]
    for socket in definition.sockets.values():
        lines += wrapped("  ", f"{socket.name}: {type_name(socket.type)}{_default(socket)}", "", width)
        if text := limits(socket):
            lines += wrapped("      ", text, "", width)
    if not definition.sockets:
        lines.append("  none")
    lines += ["", "Outputs:"]
    lines += [f"  {name + ': ' if name else ''}{type_name(type)}" for name, type in definition.outputs.items()]
    return "\n".join(lines)


def wrapped(head: str, text: str, more: str, width: int) -> Iterator[str]:
    """Wrap a text into lines of a width; the first begins with `head`, the others are indented as far, then `more`."""
    indent = " " * len(head) + more
    lines = textwrap.wrap(text, max(20, width), initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
    yield from lines or [head.rstrip()]


def _default(socket: Socket) -> str:
    return "" if socket.required else f" = {socket.default!r}"


def limits(socket: Socket) -> str:
    """The range, choices and help of an input in one line; empty if it declares none."""
    parts = []
    if socket.range is not None:
        low, high = socket.range.min, socket.range.max
        parts.append(f"{_number(low)}..{_number(high)}")
    if socket.drawn:
        parts.append("-1 or null draws one")
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
