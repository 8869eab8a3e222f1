"""The keys of a graph's nodes, kept from run to run: a second run asks only for what changed.

Keys of plain nodes are known before anything runs. Those that depend on an expansion, on a path that comes through a
link or on something that is never remembered are None here, and found as the run reaches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.errors import NodeError, as_exception
from graphengine.graph.data import GraphData, Node, folder_of
from graphengine.graph.elements import INPUTS, VALUES, Link, links_in
from graphengine.keys.call_key import identity, is_current, node_key
from graphengine.planning.arguments import (
    Resolver,
    default_paths,
    holds_paths,
    is_computed_anew,
    is_default,
    keyed,
    make_reference,
    own_salt,
    source_of,
    token_of,
    value_of,
)
from graphengine.planning.task import Const, constant, is_volatile
from graphengine.values.canonical import NotData, canonical

_NO_LITERALS: dict[str, Any] = {}
_NOWHERE = Resolver(Path(), None)
MOST_IDLE = 4
"""How many plans a graph keeps for later runs."""


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
        self.resolver = _NOWHERE
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
        if settings != self.settings:
            self.resolver, self.salt, self.settings = Resolver(base, roots), salt, settings
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
            return tokens, own_salt(node.kind, values, self.salt)
        except Exception:
            return None  # it is told if the node is needed

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
                key = self.keys.get(link.node)
                if key is not None:
                    tokens[name] = keyed(key, link.port)
                elif link.node in self.references:
                    tokens[name] = token_of(self.source(link), kind.sockets[name].uses)
                elif link.node != INPUTS and link.node != VALUES:
                    return None  # found during the run
            if kind.files and any(name in kind.files and link.node in self.keys for name, link in node.links):
                return None  # so are paths that come from a node
            for name, items in node.lists:
                if name in kind.files or not all(map(self._is_known, links_in(items))):
                    return None
                listed = source_of(items, self.source)
                if is_volatile(listed):
                    return None
                tokens[name] = token_of(listed, kind.sockets[name].uses)
        except NotData:
            return None
        except BaseException as error:
            given = node.literals | {name: self.const(link).value for name, link in node.bound}
            raise NodeError(id, node.type, given, as_exception(error)) from error
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
        if is_computed_anew(kind) or (kind.fingerprint_fn is not None and node.before):
            return None
        try:
            salt = own_salt(kind, values, self.salt)
        except BaseException as error:
            raise NodeError(id, node.type, values, as_exception(error)) from error
        self.watched[id] = tokens, salt
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
        arguments = node.literals | default_paths(kind, node.args) if kind.files else node.literals
        if node.bound:
            arguments = arguments | {name: self.const(link) for name, link in node.bound}
        for name, argument in arguments.items():
            if type(argument) is Const and is_default(kind.sockets[name], argument.value):
                continue
            values[name], tokens[name], sum = self.resolver.given(kind, name, argument)
            if sum is not None:
                sums[name] = sum
        return values, tokens, sums

    def const(self, link: Link) -> Const:
        """What a link to a declared input or a value brings."""
        if link.node == INPUTS:
            return self.inputs[link.port]
        if link.port not in self.constants:
            self.constants[link.port] = constant(self.graph.values[link.port])
        return self.constants[link.port]

    def source(self, link: Link) -> Const:
        """What a link brings whose source is known before the run: a node's value only where it is a reference."""
        if link.node == INPUTS or link.node == VALUES:
            return self.const(link)
        key = self.keys.get(link.node)
        if key is not None:
            return Const(None, keyed(key, link.port))
        value = self.references[link.node][0]
        return Const(getattr(value, link.port) if link.port else value)

    def _is_known(self, link: Link) -> bool:
        """Whether what a link adds to a key is known before the run."""
        known = link.node == INPUTS or link.node == VALUES or link.node in self.references
        return known or self.keys[link.node] is not None

    def _reference(self, id: str, node: Node, values: Mapping[str, Any]) -> tuple[Any, float]:
        kind = node.kind
        assert isinstance(kind, NodeDef)
        arguments = dict(values)
        for name, link in node.links:
            if link.node in self.references:
                arguments[name] = value_of(self.source(link))
        for name, items in node.lists:
            arguments[name] = value_of(source_of(items, self.source))
        try:
            return make_reference(kind, arguments)
        except BaseException as error:
            raise NodeError(id, node.type, arguments, as_exception(error)) from error


def take_plan(
    graph: GraphData, inputs: Mapping[str, Const], roots: Sequence[str | Path] | None, salt: Any = None
) -> Plan:
    """A plan of the graph that no other run is using, brought up to date."""
    try:
        plan: Plan = graph.idle_plans.pop()  # on GraphData, but only this module touches it
    except IndexError:
        plan = Plan(graph)
    allowed = None if roots is None else [Path(root).absolute() for root in roots]
    plan.sync(inputs, folder_of(graph), allowed, salt)
    return plan


def give_back(plan: Plan) -> None:
    """Keep a plan for later runs of its graph, up to `MOST_IDLE` of them; the caller no longer uses it."""
    idle = plan.graph.idle_plans
    if len(idle) < MOST_IDLE:
        idle.append(plan)


def forget_plans(graph: GraphData) -> None:
    """Forget the plans kept for later runs: literals in them may have been changed in place."""
    graph.idle_plans.clear()
