"""Questions about whole graphs: the order of their nodes, whether they have effects, and the packs that they use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphengine.declare.definition import NodeDef
from graphengine.graph.data import GraphData

if TYPE_CHECKING:
    from graphengine.pack import Pack


def acts(kind: Any, known: dict[int, bool] | None = None) -> bool:
    """Whether running a node or graph has an effect: it is an output node (saves or shows), or contains one.

    Args:
        kind: A node definition, a graph, or the name of an unknown node.
        known: Answers for graphs by their `id`, valid as long as no graph is changed; it is filled.
    """
    if not isinstance(kind, GraphData):
        return isinstance(kind, NodeDef) and kind.output
    known = {} if known is None else known
    stack = [kind]
    while stack:
        graph = stack[-1]
        waiting = [part for part in graph.parts.values() if id(part) not in known]
        if id(graph) not in known:
            own = (node.kind for node in graph.nodes.values())
            known[id(graph)] = any(isinstance(k, NodeDef) and k.output for k in own)
            stack.extend(waiting)  # a graph that uses itself is in `known` by now, and adds nothing
        if not waiting or all(id(part) in known for part in graph.parts.values()):
            stack.pop()
            known[id(graph)] |= any(known[id(part)] for part in graph.parts.values())
    return known[id(kind)]


def topological(graph: GraphData) -> list[str]:
    """The ids of all nodes in topological order, sources first; nodes on a cycle come in any order."""
    order: list[str] = []
    seen: set[str] = set()
    for start in graph.nodes:
        stack = [(start, False)]
        while stack:
            id, entered = stack.pop()
            if entered:
                order.append(id)
            elif id not in seen and id in graph.nodes:
                seen.add(id)
                stack.append((id, True))
                stack.extend((link.node, False) for _, link in graph.nodes[id].sources())
    return order


def packs_of(graph: GraphData) -> list[Pack]:
    """The packs whose nodes a graph uses, sorted by name."""
    from graphengine.pack import pack_of  # imports importlib.metadata, which is slow

    return sorted({pack_of(module) for module in _modules(graph)}, key=lambda pack: pack.name)


def _modules(graph: GraphData) -> set[str]:
    kinds = [node.kind for part in graph.with_parts() for node in part.nodes.values()]
    return {kind.fn.__module__ for kind in kinds if isinstance(kind, NodeDef)}
