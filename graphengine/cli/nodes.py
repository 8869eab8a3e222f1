"""`graphengine nodes`: list nodes, search them, or show the help of one. Imports no torch."""

from __future__ import annotations

import json as json_
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli import completion
from graphengine.cli.common import Debug, Json, Packs, guarded, load_packs
from graphengine.declare.node_facts import node_facts
from graphengine.declare.node_groups import node_groups
from graphengine.declare.node_help import help_of, wrapped
from graphengine.errors import Problem, WorkflowError
from graphengine.old_names import moved

if TYPE_CHECKING:
    from graphengine.declare.definition import NodeDef


@guarded
def command(
    name: Annotated[
        str | None, typer.Argument(help="A node: its help, inputs and outputs.", autocompletion=completion.nodes)
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="List the nodes with this in their names, inputs or help."),
    ] = None,
    json: Json = False,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """List all nodes by group, search them, or show the help of a node."""
    from graphengine.declare import registry

    load_packs(packs)
    if name is not None and search is not None:
        raise WorkflowError(Problem("usage", "give the name of a node or --search, not both"))
    if name is not None:
        definition = registry.find(name)
        if definition is None:
            sentence, near = registry.why_not(name)
            raise WorkflowError(Problem("unknown node", sentence, found=name, nearest=near))
        print(json_.dumps(node_facts(definition), indent=2, default=str) if json else help_of(definition, columns()))
        return
    nodes = registry.nodes()
    listed = [nodes[full] for full in sorted(nodes)] if search is None else matching(search, nodes.values())
    if json:
        print(json_.dumps([node_facts(definition) for definition in listed], indent=2, default=str))
    elif search is not None:
        _table(listed)
    else:
        _groups(listed)


def matching(text: str, nodes: Iterable[NodeDef[..., Any]]) -> list[NodeDef[..., Any]]:
    """Search nodes: those in which every word of a text occurs, best matches first.

    First come nodes with all words in the name, then with words in names of inputs, then with words in help texts:
    whole ones before parts of longer ones.

    Raises:
        WorkflowError: No node matches.
    """
    words = text.casefold().split()
    ranked = [(rank, node.full_name, node) for node in nodes if (rank := _rank(words, node)) is not None]
    if not ranked:
        raise WorkflowError(Problem("unknown node", f"no node has {text!r:.60} in its name, inputs or help",
                                    hint="`graphengine nodes` lists all", found=text))  # fmt: skip
    return [node for _, _, node in sorted(ranked, key=lambda entry: entry[:2])]


def _rank(words: list[str], node: NodeDef[..., Any]) -> int | None:
    """Rank a match: 0 the name, 1 its beginning, 2 in the name, 3 in names of inputs, 4 and 5 in help; None if none."""
    if [node.name.casefold()] == words or [node.full_name.casefold()] == words:
        return 0
    if len(words) == 1 and node.name.casefold().startswith(words[0]):
        return 1
    sockets = node.sockets.values()
    inputs, help = (" ".join(texts) for texts in ((s.name for s in sockets), (node.doc, *(s.doc for s in sockets))))
    seen = ""
    for rank, part in enumerate((node.full_name, inputs, help), 2):
        seen += f" {part.casefold()}"
        if all(word in seen for word in words):
            whole = rank < 4 or all(re.search(rf"\b{re.escape(word)}\b", seen) for word in words)
            return rank if whole else rank + 1
    return None


def _groups(listed: list[NodeDef[..., Any]]) -> None:
    """Print nodes under the names of their packs and groups."""
    between = ""
    for pack, groups in node_groups(listed).items():
        for title, nodes in groups.items():
            print(f"{between}{pack}: {title}")
            _table(nodes, "  ", max(len(definition.full_name) for definition in listed))
            between = "\n"


def _table(nodes: list[NodeDef[..., Any]], indent: str = "", width: int = 0) -> None:
    width = max([width, *(len(definition.full_name) for definition in nodes)])
    for definition in nodes:
        for line in wrapped(f"{indent}{definition.full_name:<{width}}  ", first_line(definition), "", columns()):
            print(line)


def columns() -> int:
    """The columns of the terminal; if standard output is none, so many that no line wraps."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def first_line(definition: NodeDef[..., Any]) -> str:
    """The first line of a node's help."""
    return definition.doc.partition("\n")[0]


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
