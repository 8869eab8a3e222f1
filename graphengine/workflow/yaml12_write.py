"""Plain data to YAML, by PyYAML's own writer: short collections in one line, texts of several lines as blocks."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from graphengine.errors import Problem, WorkflowError
from graphengine.workflow.yaml12 import FLOAT, MAX_DEPTH, SURROGATE

WIDTH = 100
"""Collections that fit into this many columns may stand in one line."""
INDENT = 2

# Line breaks of YAML 1.1 that are none in 1.2, and what would be lost at the end of a block: escaped in double quotes.
_ESCAPED = re.compile("[\x85\u2028\u2029]|[ \t]\n|\n[ \t]|^[ \t]")


def dump(data: Any) -> str:
    """Write plain data as YAML that `yaml12.load` reads back exactly; texts that YAML 1.1 or 1.2 misreads are quoted.

    Raises:
        WorkflowError: Part of it is no JSON (NaN, a key that is no text, an object), or it is nested too deeply.
    """
    _check(data, 0)
    return yaml.dump(
        data, Dumper=_Writer, allow_unicode=True, sort_keys=False, width=1 << 30, indent=INDENT, version=None
    ).removesuffix("...\n")


def _check(data: Any, depth: int) -> None:
    """Refuse what JSON cannot hold."""
    if isinstance(data, dict | list):
        if depth >= MAX_DEPTH:
            raise WorkflowError(Problem("too deep", f"the data is nested deeper than {MAX_DEPTH} levels"))
        if isinstance(data, dict):
            for key in data:
                if not isinstance(key, str):
                    raise WorkflowError(Problem("bad key", f"the key {key!r:.60} is no text"))
                _check(key, depth)
        for value in data.values() if isinstance(data, dict) else data:
            _check(value, depth + 1)
    elif isinstance(data, str):
        if SURROGATE.search(data):
            raise WorkflowError(Problem("bad character", "a text has half a surrogate pair", found=ascii(data)[:60]))
    elif isinstance(data, int):
        try:
            int.__repr__(data)
        except ValueError:
            raise WorkflowError(Problem("bad number", "a number has too many digits")) from None
    elif data is not None and not (isinstance(data, float) and math.isfinite(data)):
        raise WorkflowError(Problem("no data", f"{data!r:.60} cannot be written: it is no JSON"))


class _Writer(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's writer, with a layout for people and quotes around what YAML 1.2 reads as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def serialize(self, node: yaml.Node) -> None:
        _lay_out(node, 0, WIDTH)
        super().serialize(node)


def _lay_out(node: yaml.Node, depth: int, room: int) -> None:
    """Choose for each collection between one line and a block.

    The document, and what stands directly in it, are blocks unless they hold nothing but values.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    pairs = [(None, v) for v in node.value] if isinstance(node, yaml.SequenceNode) else node.value
    nested = any(isinstance(value, yaml.CollectionNode) and value.value for _, value in pairs)
    node.flow_style = not pairs or (depth > 0 and not (nested and depth == 1) and _width(node, room, 3) <= room)
    for key, value in pairs:
        used = 2 if key is None else len(key.value) + 2
        _lay_out(value, depth + 1, room if node.flow_style else WIDTH - INDENT * depth - used)


def _width(node: yaml.Node, room: int, levels: int) -> float:
    """Columns that a value takes in one line; infinite where it reads better as a block, or takes more than `room`."""
    if isinstance(node, yaml.ScalarNode):
        return math.inf if "\n" in node.value else len(node.value)
    if levels == 0 and node.value:
        return math.inf
    total: float = 2
    for item in node.value:
        parts = item if isinstance(node, yaml.MappingNode) else (item,)
        total += sum(_width(part, room, levels - 1) + 2 for part in parts)
        if total > room + 2:
            return math.inf
    return max(2, total - 2)


def _text(writer: Any, text: str) -> yaml.Node:
    several = "\n" in text.rstrip("\n") and not text.endswith("\n\n")
    style = '"' if _ESCAPED.search(text) else "|" if several else None
    node: yaml.Node = writer.represent_scalar("tag:yaml.org,2002:str", str(text), style=style)
    return node


_Writer.add_representer(str, _text)
_Writer.add_multi_representer(str, _text)
# What YAML 1.2 reads as a number and 1.1 does not: a text of that form needs quotes.
_Writer.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
_Writer.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"0o[0-7]+\Z|0[0-9]+\Z"), ["0"])
# Words that people take for booleans, though neither version does.
_Writer.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]\Z"), list("yYnN"))
