"""Group nodes of older files (type `workflow/NAME`): converts their definitions to subgraphs, as today's editor does.

A group node has the inputs and widgets of the nodes in it, one node after another, without those that are linked
inside. Its inputs are told apart by names that are made of those of the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from graphengine import Problem, Where, WorkflowError
from graphengine_comfy.formats.class_facts import Classes

PREFIXES = ("workflow/", "workflow>")
"""How the types of group nodes begin."""


class Group(NamedTuple):
    """A group node's definition.

    Attributes:
        subgraph: The subgraph that it is; the ids of its nodes are their positions in the group.
        widgets: The widgets of the group node in their order: inner node, name, how many further values stand behind.
    """

    subgraph: dict[str, Any]
    widgets: list[tuple[str, str, int]]


def groups_of(workflow: Mapping[str, Any], classes: Classes) -> dict[str, Group]:
    """The group nodes that a workflow defines, by the types of the nodes that are such groups.

    Raises:
        WorkflowError: A definition that a node uses is damaged, or has parts that are not converted.
    """
    extra = workflow.get("extra")
    defined = extra.get("groupNodes") if isinstance(extra, Mapping) else None
    nodes = workflow.get("nodes")
    found: dict[str, Group] = {}
    for node in nodes if isinstance(nodes, list) else ():
        type = node.get("type") if isinstance(node, Mapping) else None
        name = type[len(PREFIXES[0]) :] if isinstance(type, str) and type.startswith(PREFIXES) else None
        if name is None or type in found or not isinstance(defined, Mapping) or name not in defined:
            continue
        try:
            found[str(type)] = _group(str(type), defined[name], classes)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise _wrong(node, f"the definition of the group node {name:.60} is damaged") from None
        except NotImplementedError as error:
            what = f"the group node {name:.60} holds {error}, which is not converted"
            hint = "open the file in today's editor and save it: group nodes become subgraphs"
            raise _wrong(node, what, hint) from None
    return found


def _wrong(node: Mapping[str, Any], what: str, hint: str = "") -> WorkflowError:
    return WorkflowError(Problem("group node", what, Where(node=str(node.get("id"))), hint))


def _group(type: str, data: Mapping[str, Any], classes: Classes) -> Group:
    nodes: list[dict[str, Any]] = [
        dict(node, id=number, inputs=[dict(slot, link=None) for slot in node.get("inputs") or ()])
        for number, node in enumerate(data["nodes"])
    ]
    config = data.get("config") or {}
    links: list[dict[str, Any]] = []
    taken_by: set[tuple[int, int]] = set()
    inside: set[tuple[int, int]] = set()
    for origin, slot, target, target_slot, *_ in data["links"]:
        if origin is not None:
            _connect(nodes, links, (origin, slot), (target, target_slot))
            taken_by.add((target, target_slot))
            inside.add((origin, slot))
    outside = {(int(part[0]), int(part[1])) for part in data.get("external") or () if part[2] is not None}
    seen: dict[str, int] = {}
    widgets: list[tuple[str, str, int]] = []
    inputs: list[dict[str, Any]] = []
    late: list[tuple[int, int, str]] = []

    def declare(number: int, slot: int, name: str) -> None:
        own = _name(nodes[number], name, config.get(str(number)) or {}, seen)
        if _shown(config.get(str(number)) or {}, "input", name):
            _connect(nodes, links, (-10, len(inputs)), (number, slot))
            inputs.append({"name": own, "type": nodes[number]["inputs"][slot].get("type", "*")})

    for number, node in enumerate(nodes):
        if node["type"] in ("PrimitiveNode", "Reroute"):
            raise NotImplementedError(f"a {node['type']}")
        slots = {slot.get("name"): position for position, slot in enumerate(node["inputs"])}
        sockets = []
        for fact in classes(node["type"]) or ():
            if not fact.widget:
                sockets.append(fact.name)
            elif fact.name in slots and node["inputs"][slots[fact.name]].get("widget"):
                late.append((number, slots[fact.name], fact.name))
            else:
                _name(node, fact.name, config.get(str(number)) or {}, seen)
                widgets.append((str(number), fact.name, fact.extra))
        for name in sockets:
            if name not in slots:
                slots[name] = len(node["inputs"])
                node["inputs"].append({"name": name, "type": "*", "link": None})
            if (number, slots[name]) not in taken_by:
                declare(number, slots[name], name)
    for number, slot, name in sorted(late):
        if (number, slot) not in taken_by:
            declare(number, slot, name)
    outputs: list[dict[str, Any]] = []
    for number, node in enumerate(nodes):
        for slot, output in enumerate(node.get("outputs") or ()):
            hidden = (number, slot) in inside and (number, slot) not in outside
            if _shown(config.get(str(number)) or {}, "output", str(slot), not hidden):
                links.append(_link(len(links), (number, slot), (-20, len(outputs))))
                outputs.append({"name": output.get("name"), "type": output.get("type", "*")})
    return Group({"id": type, "nodes": nodes, "links": links, "inputs": inputs, "outputs": outputs}, widgets)


def _shown(config: Mapping[str, Any], side: str, name: str, otherwise: bool = True) -> bool:
    custom = (config.get(side) or {}).get(name) or {}
    return bool(custom.get("visible", otherwise))


def _name(node: Mapping[str, Any], name: str, config: Mapping[str, Any], seen: dict[str, int]) -> str:
    """The name of an input of a node as one of the group: with the node's title before it if the name is taken."""
    label = next((slot.get("label") for slot in node["inputs"] if slot.get("name") == name), None)
    own = key = ((config.get("input") or {}).get(name) or {}).get("name") or label or name
    if own in seen:
        prefix = f"{node.get('title') or node['type']} "
        own = key = f"{prefix}{name}"
        if own in seen:
            own = f"{prefix}{seen[own]} {name}"
    seen[key] = seen.get(key, 1) + 1
    return str(own)


def _connect(
    nodes: list[dict[str, Any]], links: list[dict[str, Any]], origin: tuple[int, int], target: tuple[int, int]
) -> None:
    nodes[target[0]]["inputs"][target[1]]["link"] = len(links)
    links.append(_link(len(links), origin, target))


def _link(id: int, origin: tuple[int, int], target: tuple[int, int]) -> dict[str, Any]:
    ends = {"origin_id": origin[0], "origin_slot": origin[1], "target_id": target[0], "target_slot": target[1]}
    return {"id": id} | ends
