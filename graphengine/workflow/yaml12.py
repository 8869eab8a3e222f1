"""Parsing YAML 1.2 and JSON: texts to plain data with line numbers.

PyYAML reads scalars by YAML 1.1 (`no` is False, `1e-4` a text); here its events are read by the core schema of YAML 1.2
instead. Features that workflow files do not need are refused: tags, merge keys, several documents, keys that are no
texts, NaN and infinity. Texts may come from strangers, so size, nesting and the expansion of aliases are limited.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from graphengine.errors import Problem, Where, WorkflowError

Lines = dict[tuple[str | int, ...], int]

MAX_SIZE = 10_000_000
"""The most characters (or bytes) of a text."""
MAX_DEPTH = 64
MAX_NODES = 500_000
MAX_EXPANDED = 100_000
"""The most nodes that all aliases of a text together may expand to."""
MAX_PROBLEMS = 50

NULL_WORDS = frozenset({"~", "null", "Null", "NULL"})
_NULL = NULL_WORDS | {""}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASE = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
"""What YAML 1.2 reads as a number: a float, or an integer in tens."""
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which no text may hold."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
# Line breaks in YAML 1.1, which libyaml would fold; in YAML 1.2 they are ordinary characters.
_OLD_BREAKS = "\x85\u2028\u2029"
_PRIVATE = range(0xF0000, 0xF0400)


def load(text: str, name: str) -> tuple[Any, Lines]:
    """Parse one document: JSON if `name` ends in `.json`, else YAML.

    Args:
        text: The text.
        name: The file name, for problems.

    Returns:
        The data (dictionaries with text keys, lists, texts, numbers, booleans, None), and for each path in it, such as
        `("nodes", "model", "with")`, the line number of its key.

    Raises:
        WorkflowError: It cannot be parsed; holds every problem.
    """
    if len(text) > MAX_SIZE:
        _fail(name, None, "too large", f"the text has more than {MAX_SIZE // 1_000_000} million characters")
    text = text.removeprefix("\ufeff")
    return _Json(text, name).read() if name.lower().endswith(".json") else _Yaml(text, name).read()


def _fail(name: str, line: int | None, kind: str, what: str, hint: str = "") -> NoReturn:
    raise WorkflowError(Problem(kind, what, Where(file=name, line=line), hint))


class _Problems:
    """Collects the problems of a text, and the line numbers of its paths."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.found: list[Problem] = []
        self.lines: Lines = {}
        self.count = 0

    def add(self, line: int | None, kind: str, what: str, hint: str = "") -> None:
        self.found.append(Problem(kind, what, Where(file=self.name, line=line), hint))
        if len(self.found) >= MAX_PROBLEMS:
            raise WorkflowError(self.found)

    def stop(self, line: int | None, kind: str, what: str, hint: str = "") -> NoReturn:
        self.add(line, kind, what, hint)
        raise WorkflowError(self.found)

    def line_at(self, index: int) -> int:
        return self.text.count("\n", 0, index) + 1

    def counted(self, line: int, more: int = 1) -> None:
        self.count += more
        if self.count > MAX_NODES:
            self.stop(line, "too large", f"the text holds more than {MAX_NODES:,} values")

    def too_deep(self, line: int | None) -> NoReturn:
        self.stop(line, "too deep", f"it is nested deeper than {MAX_DEPTH} levels")

    def duplicate(self, line: int, key: str, path: tuple[str | int, ...]) -> None:
        first = self.lines.get((*path, key))
        self.add(line, "duplicate key", f"the key {key!r:.60} stands here twice", f"first in line {first}")


# --- YAML -------------------------------------------------------------------------------------------------------------


class _Frame:
    """A collection that is being read."""

    __slots__ = ("anchor", "container", "deepest", "key", "path", "start")

    def __init__(self, container: Any, path: tuple[str | int, ...], anchor: str | None, start: int) -> None:
        self.container, self.path, self.anchor, self.start = container, path, anchor, start
        self.key: str | None = None
        self.deepest = 1


class _Yaml(_Problems):
    """Parser of a YAML text: from events to data, without recursion."""

    def read(self) -> tuple[Any, Lines]:
        if found := _CONTROL.search(self.text):
            code = f"U+{ord(found.group()):04X}"
            self.stop(self.line_at(found.start()), "bad character", f"the text has a control character, {code}",
                      'write it in double quotes as an escape, say "\\x07"')
        self.restore = self._hide_old_breaks()
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        self.open_anchors: set[str] = set()
        self.expanded = 0
        self.documents = 0
        self.root: Any = None
        for event in self._events():
            self._event(event)
        if self.found:
            raise WorkflowError(self.found)
        return self.root, self.lines

    def _hide_old_breaks(self) -> dict[int, str]:
        used = [c for c in _OLD_BREAKS if c in self.text]
        free = (chr(code) for code in _PRIVATE if chr(code) not in self.text)
        hidden = dict(zip(used, free, strict=False))
        for char, stand_in in hidden.items():
            self.text = self.text.replace(char, stand_in)
        return {ord(stand_in): char for char, stand_in in hidden.items()}

    def _events(self) -> Iterator[Any]:
        import yaml

        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(self.text)
        try:
            while loader.check_event():
                yield loader.get_event()
        except yaml.YAMLError as error:
            self._syntax(error)
        finally:
            loader.dispose()

    def _syntax(self, error: Any) -> NoReturn:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = None if mark is None else mark.line + 1
        what, hint = str(getattr(error, "problem", None) or error), str(getattr(error, "context", None) or "")
        rows = self.text.splitlines()
        row = rows[line - 1] if line is not None and line <= len(rows) else ""
        if "nesting depth" in what:  # newer versions of libyaml have a limit of their own, and scan ahead
            self.too_deep(line)
        if "\t" in row[: len(row) - len(row.lstrip())] or "'\\t'" in what:
            self.stop(line, "syntax", "a tab indents this line", "YAML is indented with blanks")
        self.stop(line, "syntax", f"this is no YAML: {what}", hint)

    def _event(self, event: Any) -> None:
        kind = type(event).__name__
        line = event.start_mark.line + 1
        if kind == "ScalarEvent":
            self._scalar(event, line)
        elif kind == "AliasEvent":
            self._alias(event, line)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._start({} if kind == "MappingStartEvent" else [], event, line)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._end()
        elif kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                self.stop(line, "several documents", "a second document begins here",
                          "a file holds one; take out the line `---`")

    def _refuse_tag(self, tag: str | None, line: int) -> None:
        if tag is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            self.add(line, "tag", f"the tag {short!r:.60} is not read", "workflow files are plain data without tags")

    def _scalar(self, event: Any, line: int) -> None:
        self.counted(line)
        self._refuse_tag(event.tag, line)
        text: str = event.value.translate(self.restore) if self.restore else event.value
        value = text if event.style else self._resolve(text, line)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1 + len(text) // 100, 0)
        frame = self.stack[-1] if self.stack else None
        if frame is not None and type(frame.container) is dict and frame.key is None:
            if not event.style and text == "<<":
                self.add(line, "merge key", "merge keys (`<<`) are no part of YAML 1.2", "write the keys out")
                frame.key = f"<<{line}"
            else:
                self._key(frame, value, text, line)
        else:
            self._place(value, line)

    def _key(self, frame: _Frame, value: Any, text: str, line: int) -> None:
        if not isinstance(value, str):
            self.add(line, "bad key", f"the key {text!r:.60} is no text", f'write it in quotes: "{text:.60}"')
        if text in frame.container:
            self.duplicate(line, text, frame.path)
        frame.key = text
        self.lines.setdefault((*frame.path, text), line)

    def _resolve(self, text: str, line: int) -> Any:
        """The value of a plain scalar by the core schema of YAML 1.2."""
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in "-+.0123456789":
            return text
        if _NOT_FINITE.match(text):
            return self._not_finite(text, line)
        try:
            if _INT.match(text):
                return int(text)
            if _BASE.match(text):
                return int(text[2:], 8 if text[1] == "o" else 16)
        except ValueError:  # Python reads no numbers of more than 4,300 digits
            self.add(line, "bad number", f"the number {text:.20}… has too many digits")
            return 0
        if FLOAT.match(text):
            return float(text) if math.isfinite(float(text)) else self._not_finite(text, line)
        return text

    def _not_finite(self, text: str, line: int) -> Any:
        self.add(line, "not a number", f"{text:.40} is no finite number", "write a text in quotes, or a number")
        return 0.0

    def _start(self, container: Any, event: Any, line: int) -> None:
        self.counted(line)
        self._refuse_tag(event.tag, line)
        if len(self.stack) >= MAX_DEPTH:
            self.too_deep(line)
        path: tuple[str | int, ...] = ()
        if self.stack:
            parent = self.stack[-1]
            if type(parent.container) is dict and parent.key is None:
                self.stop(line, "bad key", "a list or a mapping cannot be a key", "keys are texts")
            path = self._path(parent, line)
        self.open_anchors |= {event.anchor} - {None}
        self.stack.append(_Frame(container, path, event.anchor, self.count))

    def _path(self, frame: _Frame, line: int) -> tuple[str | int, ...]:
        if type(frame.container) is dict:
            assert frame.key is not None
            return (*frame.path, frame.key)
        path = (*frame.path, len(frame.container))
        self.lines[path] = line
        return path

    def _end(self) -> None:
        frame = self.stack.pop()
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (frame.container, self.count - frame.start + 1, frame.deepest)
            self.open_anchors.discard(frame.anchor)
        if self.stack:
            self.stack[-1].deepest = max(self.stack[-1].deepest, frame.deepest + 1)
            self._insert(self.stack[-1], frame.container)
        else:
            self.root = frame.container

    def _place(self, value: Any, line: int) -> None:
        if not self.stack:
            self.root = value
            return
        if type(self.stack[-1].container) is list:
            self._path(self.stack[-1], line)
        self._insert(self.stack[-1], value)

    def _insert(self, frame: _Frame, value: Any) -> None:
        if type(frame.container) is list:
            frame.container.append(value)
        else:
            frame.container[frame.key] = value
            frame.key = None

    def _alias(self, event: Any, line: int) -> None:
        name = event.anchor
        if name not in self.anchors or name in self.open_anchors:
            inside = name in self.open_anchors
            why = "stands inside what it names" if inside else "has no anchor before it"
            self.stop(line, "bad alias", f"the alias *{name:.60} {why}")
        value, size, depth = self.anchors[name]
        self.expanded += size
        if self.expanded > MAX_EXPANDED:
            self.stop(line, "too large", f"the aliases of this text stand for more than {MAX_EXPANDED:,} values")
        if len(self.stack) + depth > MAX_DEPTH:
            self.too_deep(line)
        self.counted(line, size)
        frame = self.stack[-1]  # an alias never stands alone: its anchor is in the same document
        if type(frame.container) is dict and frame.key is None:
            if not isinstance(value, str):
                self.stop(line, "bad key", f"the alias *{name:.60} is a key, but no text")
            self._key(frame, value, value, line)
        else:
            frame.deepest = max(frame.deepest, depth + 1)
            self._place(_copy(value), line)


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if type(value) is list else value


# --- JSON -------------------------------------------------------------------------------------------------------------

# Possessive quantifiers, so that an unterminated text is not searched again from each of its characters.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},:]|[^\s\[\]{},:"]++', re.DOTALL)


class _Json(_Problems):
    """Parser of a JSON text: the json module parses it, a walk over its tokens finds lines and duplicate keys."""

    def read(self) -> tuple[Any, Lines]:
        if found := SURROGATE.search(self.text):
            self.stop(self.line_at(found.start()), "bad character", "the text has half a surrogate pair")
        self._walk()
        try:
            data = json.loads(self.text, parse_constant=self._constant, parse_float=self._float)
        except json.JSONDecodeError as error:
            self.stop(error.lineno, "syntax", f"this is no JSON: {error.msg}", f"column {error.colno}")
        except ValueError:  # Python reads no numbers of more than 4,300 digits
            self.stop(None, "bad number", "a number has too many digits")
        if self.found:
            raise WorkflowError(self.found)
        return data, self.lines

    def _constant(self, text: str) -> Any:
        self.stop(self.line_at(self.text.find(text)), "not a number", f"{text} is no JSON", "write a text in quotes")

    def _float(self, text: str) -> float:
        if not math.isfinite(number := float(text)):
            self.stop(self.line_at(self.text.find(text)), "not a number", f"{text:.40} is too large for a number")
        return number

    def _walk(self) -> None:
        """Find the lines of all paths, duplicate keys and deep nesting; syntax errors are left to the json module."""
        stack: list[list[Any]] = []  # path, number of the item, pending key
        line, at, before = 1, 0, ""
        keys: set[tuple[str | int, ...]] = set()
        for match in _TOKEN.finditer(self.text):
            token, start = match.group(), match.start()
            line, at = line + self.text.count("\n", at, start), start
            if token in "]}":
                if stack:
                    stack.pop()
            elif token == ",":
                if stack:
                    stack[-1][1] += 1
                    stack[-1][2] = None
            elif token != ":":
                self.counted(line)
                inside = stack[-1] if stack else None
                if inside is not None and inside[3] and before in "{,":
                    key = self._string(token, line)
                    path = (*inside[0], key)
                    if path in keys:
                        self.duplicate(line, key, inside[0])
                    keys.add(path)
                    self.lines.setdefault(path, line)
                    inside[2] = key
                else:
                    path = () if inside is None else (*inside[0], inside[2] if inside[3] else inside[1])
                    self.lines.setdefault(path, line)
                    if token in "[{":
                        if len(stack) >= MAX_DEPTH:
                            self.too_deep(line)
                        stack.append([path, 0, None, token == "{"])
                    elif "\\u" in token:
                        self._string(token, line)
            before = token

    def _string(self, token: str, line: int) -> str:
        try:
            text = json.loads(token)
        except ValueError:
            return token
        if isinstance(text, str) and SURROGATE.search(text):
            self.add(line, "bad character", "a text has half a surrogate pair")
        return text if isinstance(text, str) else token
