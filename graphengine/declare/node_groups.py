"""Groups of nodes for `graphengine nodes` and the reference: by pack, then by the title of their module.

A module's title is the text before the first colon or full stop of its docstring: `"Masks: where to paint."` puts its
nodes into the group Masks. Modules with the same title form one group.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphengine.declare.definition import NodeDef
    from graphengine.pack import Pack

LONGEST_TITLE = 40
"""The most characters of a title; a docstring whose first part is longer has no title."""


def node_groups(nodes: Iterable[NodeDef[..., Any]] | None = None) -> dict[str, dict[str, list[NodeDef[..., Any]]]]:
    """Group nodes by pack and title: `node_groups()["std"]["Masks"]` is a list of nodes, sorted by name.

    The groups that the pack names (`Pack(groups=...)`) come first, in that order, then the others by title.

    Args:
        nodes: The nodes; by default all nodes of all loaded packs.
    """
    from graphengine.declare import registry

    by_pack: dict[str, dict[str, list[NodeDef[..., Any]]]] = {}
    packs: dict[str, Pack] = {}
    chosen = registry.nodes().values() if nodes is None else nodes
    for definition in sorted(chosen, key=lambda definition: definition.full_name):
        packs.setdefault(definition.pack, definition.module_pack)
        by_pack.setdefault(definition.pack, {}).setdefault(group_of(definition), []).append(definition)
    for name, groups in by_pack.items():
        first = [title for title in packs[name].groups if title in groups]
        by_pack[name] = {title: groups[title] for title in [*first, *sorted(groups.keys() - set(first))]}
    return by_pack


def group_of(definition: NodeDef[..., Any]) -> str:
    """The title of the module that defines a node; without a title, the module's name."""
    name = definition.fn.__module__
    doc = getattr(sys.modules.get(name), "__doc__", None) or ""
    title = re.split(r"[:.\n]", doc.strip(), maxsplit=1)[0].strip()
    if title and len(title) <= LONGEST_TITLE:
        return title
    plain = name.rpartition(".")[2].replace("_", " ").strip()
    return plain[:1].upper() + plain[1:]
