"""The keys of a graph's nodes, kept from run to run: a second run asks only for what changed.

Keys of plain nodes are known before anything runs. Those that depend on an expansion, on a path that comes through a
link or on something that is never remembered are None here, and found as the run reaches them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import File, Socket
from graphengine.errors import GraphEngineError, NodeError, as_exception
from graphengine.graph.data import GraphData, Node, folder_of
from graphengine.graph.elements import INPUTS, VALUES, Link
from graphengine.keys.call_key import identity, is_current, node_key, own_fingerprint
from graphengine.keys.files import fingerprint, resolve
from graphengine.old_names import name_in_keys
from graphengine.planning.task import Const, constant
from graphengine.values.canonical import PLAIN, NotData, canonical
from graphengine.values.checksum import owned, sum_of, twin_of
from graphengine.values.literals import coerce, value_fits
from graphengine.values.types import holds_path, is_named_tuple


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


def is_default(socket: Socket, value: Any) -> bool:
    """Whether a null that comes through a declared input stands for the parameter's own default."""
    return value is None and not socket.required and not value_fits(None, socket.type)


def default_paths(kind: NodeDef[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The paths that a node takes because none was given: they are resolved like any other."""
    defaults = {name: kind.sockets[name].default for name in kind.files if name not in given}
    return {name: path for name, path in defaults.items() if path is not None}


_NO_LITERALS: dict[str, Any] = {}
_NOWHERE = Path()


class Plan:
    """What is known of one graph's keys for one set of inputs. Used by one run at a time.

    Attributes:
        keys: By id; None for what is found during the run.
        values: By id the literals as the node takes them.
        sums: By id the checksums of those of them that can be changed in place, by name.
        references: By id the value of each node that makes references, and the seconds that it took.
    """

    def __init__(self, graph: GraphData) -> None:
        self.graph = graph
        self.keys: dict[str, bytes | None] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.values: dict[str, dict[str, Any]] = {}
        self.sums: dict[str, dict[str, bytes]] = {}
        self.references: dict[str, tuple[Any, float]] = {}
        self.users: dict[str, list[str]] = {}
        self.inputs: dict[str, Const] = {}
        self.constants: dict[str, Const] = {}
        self.watched: dict[str, Any] = {}
        self.kinds: dict[NodeDef[..., Any], bytes] = {}
        self._asked: set[NodeDef[..., Any]] = set()
        self.position = 0
        self.settings: tuple[Any, ...] = ()
        self.base = _NOWHERE
        self.roots: Sequence[Path] | None = None
        self.salt: Any = None

    def sync(self, inputs: Mapping[str, Const], base: Path, roots: Sequence[Path] | None, salt: Any) -> None:
        """Bring it up to date with the graph, these inputs and the files as they are now."""
        changes = self.graph.changes
        changed = changes[self.position :]
        self.position = len(changes)
        settings = (base, None if roots is None else tuple(roots), salt)
        self._asked.clear()
        for kind in self.kinds:
            self.ask(kind)
        edited = any(identity(kind) != known for kind, known in self.kinds.items())  # its code or data has changed
        declared = INPUTS in changed or VALUES in changed
        if edited:
            self.kinds.clear()
        if edited or declared or settings != self.settings or len(changed) > len(self.keys):
            self._forget_all()
            changed = []
        self.base, self.roots, self.salt, self.settings = base, roots, salt, settings
        for id in changed:
            self._forget(id)
        for name, const in inputs.items():
            old = self.inputs.get(name)
            if old is None or old.token(None) != const.token(None) or old.base != const.base:
                self._forget(f"{INPUTS}.{name}")
        self.inputs = dict(inputs)
        for name, const in list(self.constants.items()):
            if self.graph.values.get(name) is not const.value:
                del self.constants[name]
                self._forget(f"{VALUES}.{name}")
        for id, seen in list(self.watched.items()):
            if id in self.keys and self._state(id) != seen:
                self._forget(id)

    def ask(self, kind: NodeDef[..., Any]) -> None:
        """See to it that a node's identity is that of this run: what it reads is looked at once in each."""
        if kind not in self._asked:
            self._asked.add(kind)
            is_current(kind)

    def _forget_all(self) -> None:
        for known in (
            self.keys, self.tokens, self.values, self.sums, self.references, self.users, self.watched, self.constants
        ):  # fmt: skip
            known.clear()

    def _forget(self, id: str) -> None:
        stack, seen = [id], {id}
        while stack:
            current = stack.pop()
            for known in (self.keys, self.tokens, self.values, self.sums, self.references, self.watched):
                known.pop(current, None)
            for user in self.users.pop(current, ()):
                if user not in seen:
                    seen.add(user)
                    stack.append(user)

    def _state(self, id: str) -> Any:
        """What a node depends on besides the graph: its files, its own fingerprint, the weights it refers to."""
        node = self.graph.nodes[id]
        assert isinstance(node.kind, NodeDef)
        try:
            values, tokens, _ = self.literals(node)
            if node.kind.makes_reference:
                self.references[id] = self._reference(id, node, values)
                return canonical(self.references[id][0])
            if node.kind.fingerprint_fn is not None:
                tokens["*fingerprint"] = own_fingerprint(node.kind, values)
        except Exception:
            return None  # it is told if the node is needed
        return tokens

    # --- keys -----------------------------------------------------------------------------------------------------

    def assign(self, wanted: Iterable[str], keep_going: bool = False) -> None:
        """Find the keys of the wanted nodes and of all they need.

        Args:
            keep_going: A node whose literals are wrong (a file is missing, a model) has no key, and fails in the run;
                else nothing is run.

        Raises:
            NodeError: The literals of a node are wrong.
        """
        nodes, keys = self.graph.nodes, self.keys
        stack = [id for id in wanted if id not in keys]
        while stack:
            id = stack[-1]
            if id in keys:
                stack.pop()
                continue
            node, waiting = nodes[id], False
            for source in node.before:
                if source not in keys:
                    stack.append(source)
                    waiting = True
            if not waiting:
                stack.pop()
                try:
                    keys[id] = self._assign(id, node)
                except NodeError:
                    if not keep_going:
                        raise
                    keys[id] = None

    def _assign(self, id: str, node: Node) -> bytes | None:
        users = self.users
        for source in node.before:
            if source in users:
                users[source].append(id)
            else:
                users[source] = [id]
        if node.bound or node.lists:
            for _, link in node.sources():
                if link.node == INPUTS or link.node == VALUES:
                    users.setdefault(str(link), []).append(id)
        kind = node.kind
        if type(kind) is not NodeDef or node.each or kind.expand:
            return None
        if kind not in self.kinds:
            self.ask(kind)
            self.kinds[kind] = identity(kind)
        try:
            literals = node.literals or node.bound or kind.files
            values, tokens, sums = self.literals(node) if literals else (_NO_LITERALS, {}, None)
            for name, link in node.links:
                key: Any = self.keys.get(link.node)
                if key is not None:
                    tokens[name] = (key, link.port) if link.port else key
                elif link.node != INPUTS and link.node != VALUES:
                    tokens[name] = self._reference_token(link, kind.sockets[name].uses)
                    if tokens[name] is None:
                        return None  # found during the run
            if kind.files and any(name in kind.files and link.node in self.keys for name, link in node.links):
                return None  # so are paths that come from a node
            for name, items in node.lists:
                if name in kind.files:
                    return None
                tokens[name] = self._list_token(items, kind.sockets[name].uses)
                if tokens[name] is None:
                    return None
        except NotData:
            return None
        except GraphEngineError as error:
            given = node.literals | {name: self.const(link).value for name, link in node.bound}
            raise NodeError(id, node.type, given, error) from error
        self.values[id] = values
        if sums:
            self.sums[id] = sums
        if kind.is_plain and not (literals and any(map(holds_paths, values.values()))):
            if kind.on != "here":
                self.tokens[id] = tokens
            return node_key(kind, tokens, self.salt)
        return self._assign_special(id, node, kind, values, tokens)

    def _assign_special(
        self, id: str, node: Node, kind: NodeDef[..., Any], values: dict[str, Any], tokens: dict[str, Any]
    ) -> bytes | None:
        """Nodes that make references, act, are never remembered, or depend on what is not in the graph."""
        if kind.makes_reference:
            if not all(source in self.references for source in node.before):
                return None
            reference = self._reference(id, node, values)
            try:
                self.watched[id] = canonical(reference[0])
                self.references[id] = reference
            except NotData:
                pass  # it holds an object of this process, and is made anew in each run
            return None
        if kind.cache == "never" or kind.output:
            return None
        salt = self.salt
        if kind.fingerprint_fn is not None:
            if node.before:
                return None
            try:
                tokens["*fingerprint"] = own_fingerprint(kind, values)
            except BaseException as error:
                raise NodeError(id, node.type, values, as_exception(error)) from error
            salt = (salt, tokens["*fingerprint"])
        self.watched[id] = tokens
        if kind.on != "here":
            self.tokens[id] = tokens
        return node_key(kind, tokens, salt)

    def literals(self, node: Node) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
        """The inputs of a node that are literals here, declared inputs and values included: the values, their tokens,
        and the checksums of those that can be changed in place."""
        kind = node.kind
        assert isinstance(kind, NodeDef)
        values: dict[str, Any] = {}
        tokens: dict[str, Any] = {}
        sums: dict[str, bytes] = {}
        sockets, hashed = kind.sockets, not kind.makes_reference
        paths = default_paths(kind, node.args) if kind.files else {}
        for name, value in (node.literals | paths if paths else node.literals).items():
            values[name], tokens[name] = literal(sockets[name], owned(value)[0], self.base, self.roots, hashed)
            if (sum := sum_of(values[name], given=True)) is not None:
                sums[name] = sum
        for name, link in node.bound:
            const = self.const(link)
            socket = sockets[name]
            if is_default(socket, const.value):
                continue
            if const.volatile:
                raise NotData("a value of this process only")
            followed = socket.file is not None or holds_paths(const.value)
            if not followed and coerce(const.value, socket.type) is const.value:
                # What is large is read once, however many nodes take it.
                values[name], tokens[name], known = const.value, const.token(socket.uses), const.sum
            else:
                base = const.base or self.base
                values[name], tokens[name] = literal(socket, const.value, base, self.roots, hashed)
                known = sum_of(values[name], given=True)
            if known is not None:
                sums[name] = known
        return values, tokens, sums

    def const(self, link: Link) -> Const:
        """What a link to a declared input or a value brings."""
        if link.node == INPUTS:
            return self.inputs[link.port]
        if link.port not in self.constants:
            self.constants[link.port] = constant(self.graph.values[link.port])
        return self.constants[link.port]

    def _reference_token(self, link: Link, part: str | None) -> Any:
        """What a link to a reference adds to a key; None if it is none, or not known before the run."""
        known = self.references.get(link.node)
        if known is None:
            return None
        return canonical(getattr(known[0], link.port) if link.port else known[0], part)

    def _list_token(self, items: list[Any], part: str | None) -> Any:
        """What a list with links in it adds to a key; None if one of them is not known before the run."""
        tokens = []
        for item in items:
            token: Any
            if type(item) is list:
                token = self._list_token(item, part)
            elif type(item) is not Link:
                token = canonical(item, part)
                tokens.append(token)
                continue
            elif item.node == INPUTS or item.node == VALUES:
                token = self.const(item).token(part)
            else:
                key = self.keys[item.node]
                token = self._reference_token(item, part) if key is None else (key, item.port) if item.port else key
            if token is None and not (type(item) is Link and item.node in (INPUTS, VALUES)):
                return None
            tokens.append(token)
        return ("list", *tokens)

    def _reference(self, id: str, node: Node, values: Mapping[str, Any]) -> tuple[Any, float]:
        kind = node.kind
        assert isinstance(kind, NodeDef)
        arguments = dict(values)
        for name, link in node.links:
            if link.node in self.references:
                value = self.references[link.node][0]
                arguments[name] = getattr(value, link.port) if link.port else value
        for name, items in node.lists:
            arguments[name] = self._list_value(items)
        arguments = {name: twin_of(value) for name, value in arguments.items()}
        start = time.perf_counter()
        try:
            value = kind.compute(**arguments)
        except BaseException as error:
            raise NodeError(id, node.type, arguments, as_exception(error)) from error
        return value, time.perf_counter() - start

    def _list_value(self, items: list[Any]) -> list[Any]:
        found = []
        for item in items:
            if type(item) is Link:
                if item.node in (INPUTS, VALUES):
                    found.append(self.const(item).value)
                else:
                    value = self.references[item.node][0]
                    found.append(getattr(value, item.port) if item.port else value)
            else:
                found.append(self._list_value(item) if type(item) is list else item)
        return found


def take_plan(
    graph: GraphData, inputs: Mapping[str, Const], roots: Sequence[str | Path] | None, salt: Any = None
) -> Plan:
    """A plan of the graph that no other run is using, brought up to date."""
    try:
        plan: Plan = graph.idle_plans.pop()
    except IndexError:
        plan = Plan(graph)
    allowed = None if roots is None else [Path(root).absolute() for root in roots]
    plan.sync(inputs, folder_of(graph), allowed, salt)
    return plan
