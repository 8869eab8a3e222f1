"""Resolves arguments: the value that a node gets, and what it adds to the node's key; the same before and in a run.

What is there from the start (a literal, a declared input, a held value, the path that is a parameter's default) is
resolved by `Resolver.given`. What comes through a link adds what `token_of` says, as soon as the node before it has its
key; a path that comes through a link is resolved by `Resolver.linked`, once its value is there. The plan does what it
can before a run, the evaluation the rest during it, by the same functions: a node has one key, wherever it is found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import File, Socket
from graphengine.graph.elements import Link, has_links
from graphengine.keys.call_key import own_fingerprint
from graphengine.keys.files import fingerprint, resolve
from graphengine.old_names import name_in_keys
from graphengine.planning.task import Const, Many, Port, Source, Stage, Task, constant, follow
from graphengine.values.canonical import PLAIN, NotData, canonical
from graphengine.values.checksum import owned, sum_of, twin_of
from graphengine.values.literals import coerce, value_fits
from graphengine.values.socket_types import holds_path, is_named_tuple

# --- sources and what they are worth ----------------------------------------------------------------------------------


def source_of(argument: Any, bring: Callable[[Link], Source], base: Path | None = None) -> Source:
    """The source of an argument as it stands in a graph: a link, a list with links in it, or a literal.

    Args:
        bring: Gives the source that a link stands for.
        base: Where relative paths in literals start; None: where the run's own graph is.
    """
    if type(argument) is list and has_links(argument):
        return _listed(argument, bring, base)
    return bring(argument) if type(argument) is Link else constant(argument, base)


def _listed(items: list[Any], bring: Callable[[Link], Source], base: Path | None) -> Many:
    return Many(
        [_listed(item, bring, base) if type(item) is list else source_of(item, bring, base) for item in items]
    )


def keyed(key: bytes, port: str) -> Any:
    """What an output of a node with this key adds to the key of a node that takes it."""
    return (key, port) if port else key


def token_of(source: Source, part: str | None = None) -> Any:
    """What a source whose tasks are keyed adds to the key of a node that uses this part of it.

    Raises:
        NotData: It has no key, and its value no canonical form.
    """
    if type(source) is Const:
        return source.token(part)
    if type(source) is Many:
        return ("list", *[token_of(item, part) for item in source.items])
    task, port = (source.task, source.port) if type(source) is Port else (source, "")
    if task.key is not None:
        return keyed(task.key, port)
    return canonical(value_of(source), part)  # a reference to weights enters by its own digest


def value_of(source: Source) -> Any:
    """The value of a source whose tasks are done."""
    if type(source) is Task:
        return source.value
    if type(source) is Port:
        return source.task.value if source.task.stage == Stage.FAILED else getattr(source.task.value, source.port)
    if type(source) is Const:
        return source.value
    values = [value_of(item) for item in source.items]
    return values if source.make is None else source.make(*values)


# --- what enters a key beside the arguments ---------------------------------------------------------------------------


def is_computed_anew(kind: NodeDef[..., Any]) -> bool:
    """Whether a node has no key by which it is remembered: it is computed in each run."""
    return kind.cache == "never" or kind.output


def own_salt(kind: NodeDef[..., Any], arguments: Mapping[str, Any], salt: Any) -> Any:
    """The salt of a node's key: that of the run, and with it what the node's `.fingerprint` says of these arguments. If
    that is None, the key is that of a node without one.

    Raises:
        Exception: Whatever `.fingerprint` raises.
    """
    mark = None if kind.fingerprint_fn is None else own_fingerprint(kind, arguments)
    return salt if mark is None else (salt, mark)


def make_reference(kind: NodeDef[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, float]:
    """Call a node that makes references, with copies of these arguments; returns the reference and the seconds it took.

    It enters keys by its own digest: the node that made it has no key.

    Raises:
        Exception: Whatever the node raises.
    """
    copies = {name: twin_of(value) for name, value in arguments.items()}
    start = perf_counter()
    value = kind.compute(**copies)
    return value, perf_counter() - start


# --- the resolver -----------------------------------------------------------------------------------------------------

def is_default(socket: Socket, value: Any) -> bool:
    """Whether a null that comes through a declared input stands for the parameter's own default."""
    return value is None and not socket.required and not value_fits(None, socket.type)


def default_paths(kind: NodeDef[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The paths that a node takes because none was given: they are resolved like any other."""
    defaults = {name: kind.sockets[name].default for name in kind.files if name not in given}
    return {name: path for name, path in defaults.items() if path is not None}


Resolved = tuple[Any, Any, bytes | None]
"""An argument as the node takes it, what it adds to the key, and its checksum where it can be changed in place."""


class Resolver:
    """Resolves the arguments of nodes.

    Args:
        base: Where relative paths start, where an argument does not say.
        roots: Folders that paths may not leave; None allows all.
    """

    __slots__ = ("base", "roots")

    def __init__(self, base: Path, roots: Sequence[Path] | None) -> None:
        self.base, self.roots = base, roots

    def given(self, kind: NodeDef[..., Any], name: str, argument: Any) -> Resolved:
        """Resolve an argument that is there: a literal of a graph, of which the node gets a copy, or a constant.

        Raises:
            NotData: It has no canonical form: what is computed from it is not remembered.
            FileError: A path in it cannot be read.
        """
        socket, base = kind.sockets[name], self.base
        const = argument if type(argument) is Const else None
        value = argument if const is None else const.value
        exact = type(value) is socket.type
        if exact and socket.file is None and type(value) in PLAIN:
            return value, value, None
        if const is None:
            value = owned(value)[0]
        elif const.volatile:
            raise NotData("a value of this process only")
        elif socket.file is None and not holds_paths(value) and (exact or coerce(value, socket.type) is value):
            return value, const.token(socket.uses), const.sum  # what is large is read once, however many nodes take it
        else:
            base = const.base or base
        value, token = literal(socket, value, base, self.roots, not kind.makes_reference)
        return value, token, sum_of(value, given=True)

    def linked(self, kind: NodeDef[..., Any], name: str, source: Source) -> Resolved:
        """Resolve a path that comes through a link, or several, each as if it were a literal. Its tasks are done.

        Raises:
            FileError: A path in it cannot be read.
        """
        value, token = self._path(kind.sockets[name], source, not kind.makes_reference)
        return value, token, sum_of(value, given=type(follow(source)) is Const)

    def _path(self, socket: Socket, source: Source, hashed: bool) -> tuple[Any, Any]:
        source = follow(source)
        if type(source) is Many:
            pairs = [self._path(socket, item, hashed) for item in source.items]
            return [value for value, _ in pairs], ("list", *[token for _, token in pairs])
        base = source.base if type(source) is Const else None
        opaque = ("linked", token_of(source, socket.uses))
        return literal(socket, value_of(source), base or self.base, self.roots, hashed, opaque)


# --- literals and the paths in them -----------------------------------------------------------------------------------


def literal(
    socket: Socket, value: Any, base: Path, roots: Sequence[Path] | None, hashed: bool = True, opaque: Any = None
) -> tuple[Any, Any]:
    """A literal as the node takes it, and what it adds to the key; paths resolved and fingerprinted.

    Args:
        opaque: Stands for what is no data beside the paths; None: that is an error.
    """
    rule = socket.file or (_UNDECLARED if holds_paths(value) else None)
    if rule is not None and value is not None:
        value = coerce(value, socket.type) if rule.missing else value
        return _Paths(rule, base, roots, hashed, socket.uses, opaque).follow(value)
    kind = type(value)
    if kind is socket.type and kind in PLAIN:
        return value, value
    if kind is not socket.type:
        value = coerce(value, socket.type)
    return value, canonical(value, socket.uses)


_UNDECLARED = File(missing=True)
"""The rule for paths in an input whose type does not say that it takes paths."""


def holds_paths(value: Any) -> bool:
    """Whether a literal is a path, or holds paths in containers or in the fields of a class."""
    kind = type(value)
    if kind in PLAIN:
        return False
    if kind in (list, tuple, set, frozenset):
        return any(map(holds_paths, value))
    if kind is dict:
        return any(map(holds_paths, value)) or any(map(holds_paths, value.values()))
    return isinstance(value, Path) or (_fields(value) is not None and holds_path(kind))


@dataclasses.dataclass(frozen=True, slots=True)
class _Paths:
    """How the paths in one input are resolved, and whether their content enters the key."""

    rule: File
    base: Path
    roots: Sequence[Path] | None
    hashed: bool
    part: str | None
    opaque: Any

    def follow(self, value: Any) -> tuple[Any, Any]:
        """A value with its paths resolved, and what it adds to the key.

        Paths in the fields of a class are followed as this process would open them, and the object is handed on.
        """
        rule = self.rule
        if isinstance(value, Path) or (type(value) is str and (rule.names or not rule.missing)):
            path = resolve(value, rule, self.base, self.roots)
            absent = rule.missing and isinstance(path, Path) and not path.exists()
            if rule.write or isinstance(path, str) or not self.hashed or absent:
                return path, ("path", str(path))
            return path, ("file", fingerprint(path))
        if type(value) in (list, tuple):
            pairs = list(map(self.follow, value))
            return type(value)(v for v, _ in pairs), ("list", *[token for _, token in pairs])
        if type(value) in (set, frozenset):
            pairs = list(map(self.follow, value))
            return type(value)(v for v, _ in pairs), ("set", *sorted((token for _, token in pairs), key=repr))
        if type(value) is dict:
            items = [(self._key(key), self.follow(v)) for key, v in value.items()]
            tokens = sorted(((name, token) for (_, name), (_, token) in items), key=repr)
            return {key: v for (key, _), (v, _) in items}, ("dict", *tokens)
        if (names := _fields(value)) is not None:
            inside = dataclasses.replace(self, base=Path.cwd(), rule=dataclasses.replace(rule, names=False))
            tokens = [(name, inside.follow(getattr(value, name))[1]) for name in names]
            return value, ("fields", *name_in_keys(type(value)), *tokens)
        try:
            return value, canonical(value, self.part)
        except NotData:
            if self.opaque is None:
                raise
            return value, self.opaque

    def _key(self, key: Any) -> tuple[Any, Any]:
        """A key of a dictionary: a text is no path there."""
        if not holds_paths(key):
            return key, canonical(key)
        return dataclasses.replace(self, rule=dataclasses.replace(self.rule, names=False, missing=True)).follow(key)


def _fields(value: Any) -> list[str] | None:
    """The names of the fields of an object whose type says what they hold."""
    if isinstance(value, tuple) and is_named_tuple(type(value)):
        return list(value._fields)  # type: ignore[attr-defined]
    if dataclasses.is_dataclass(value) and holds_path(type(value)):
        return [field.name for field in dataclasses.fields(value)]
    return None
