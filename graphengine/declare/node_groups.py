"""Groups of nodes, as `graphengine nodes` and the reference list them: by pack, then by the title of their module.

A module's title is what stands before the first colon, or full stop, of its docstring: `"Masks: where to paint."` puts
its nodes into the group Masks. Modules with the same title make one group.
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
"""Characters of a title. A docstring that begins with a longer sentence has none."""


def node_groups(nodes: Iterable[NodeDef[..., Any]] | None = None) -> dict[str, dict[str, list[NodeDef[..., Any]]]]:
    """Nodes by pack and group: `node_groups()["std"]["Masks"]` is a list of nodes, sorted by name.

    Groups come in the order in which their pack names them (`Pack(groups=...)`), then those that it does not name, by
    their titles.

    Args:
        nodes: By default all nodes of all packs that are loaded.
    """
    from graphengine.declare import registry

    found: dict[str, dict[str, list[NodeDef[..., Any]]]] = {}
    packs: dict[str, Pack] = {}
    chosen = registry.nodes().values() if nodes is None else nodes
    for definition in sorted(chosen, key=lambda definition: definition.full_name):
        packs.setdefault(definition.pack, definition.module_pack)
        found.setdefault(definition.pack, {}).setdefault(group_of(definition), []).append(definition)
    for name, groups in found.items():
        first = [title for title in packs[name].groups if title in groups]
        found[name] = {title: groups[title] for title in [*first, *sorted(groups.keys() - set(first))]}
    return found


def group_of(definition: NodeDef[..., Any]) -> str:
    """The title of the module that defines a node; where its docstring has none, the module's name."""
    name = definition.fn.__module__
    doc = getattr(sys.modules.get(name), "__doc__", None) or ""
    title = re.split(r"[:.\n]", doc.strip(), maxsplit=1)[0].strip()
    if title and len(title) <= LONGEST_TITLE:
        return title
    plain = name.rpartition(".")[2].replace("_", " ").strip()
    return plain[:1].upper() + plain[1:]
