"""Editing the text of YAML files: changes values where they stand, so that comments and layout stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from graphengine.workflow.yaml12_write import dump

LAST = "ui"
"""The key that is written anew at the end of the file: where nodes lie changes with every save."""


class _CannotStay(Exception):
    """A change needs more than new values where there are some."""


def edited(text: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Change a YAML text that means one document so that it means another.

    Where values differ, only they are written anew. Where something was added or taken away, everything is, without
    the comments but those at the beginning of the text. The key `ui` stands at the end.

    Args:
        text: The text, a mapping.
        old: The document that it means.
        new: The document that the result is to mean.
    """
    try:
        return _changed(text, old, new)
    except (_CannotStay, yaml.YAMLError, KeyError):
        lines = text.splitlines(keepends=True)
        count = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
        return "".join(lines[:count]) + dump(dict(new))


def _changed(text: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The text with other values.

    Raises:
        _CannotStay: Something was added or taken away.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _CannotStay
    end = len(text)
    if LAST in [key.value for key, _ in root.value]:
        key, _ = root.value.pop()
        if key.value != LAST:
            raise _CannotStay
        end = key.start_mark.index
    edits: list[tuple[int, int, str]] = []
    before, after = ({k: v for k, v in document.items() if k != LAST} for document in (old, new))
    _compare(root, before, after, edits, set())
    for start, stop, written in sorted(edits, reverse=True):
        text = text[:start] + written + text[stop:]
        end += len(written) - (stop - start)
    kept = text[:end]
    if LAST not in new:
        return kept
    return (kept if kept.endswith("\n") or not kept else kept + "\n") + dump({LAST: new[LAST]})


def _compare(node: yaml.Node, old: Any, new: Any, edits: list[tuple[int, int, str]], seen: set[int]) -> None:
    """Note the places in the text of the values that differ, with what is to stand there."""
    if id(node) in seen:
        raise _CannotStay  # an alias: its value stands elsewhere
    seen.add(id(node))
    if _equal(old, new):
        return
    both = isinstance(old, dict) and isinstance(new, dict)
    if isinstance(node, yaml.MappingNode) and both and old.keys() == new.keys() and len(node.value) == len(new):
        for key, value in node.value:
            _compare(value, old[key.value], new[key.value], edits, seen)
        return
    start, stop = node.start_mark.index, node.end_mark.index
    in_block = node.style in ("|", ">") if isinstance(node, yaml.ScalarNode) else not getattr(node, "flow_style", False)
    if in_block or start == stop:  # a value of several lines, or one that is not written
        raise _CannotStay
    edits.append((start, stop, _flow(new)))


def _equal(old: Any, new: Any) -> bool:
    """Whether two values are the same in a file, in any order of keys; 1 and 1.0 are, 1 and true are not."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_equal, old, new))
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _flow(value: Any) -> str:
    """A value in one line, as it may stand inside other values."""
    before, after, written = "k: {v: ", "}\n", dump({"k": {"v": value}})
    if written.startswith(before) and written.endswith(after) and written.count("\n") == 1:
        return written[len(before):-len(after)]
    return json.dumps(value, ensure_ascii=False)
