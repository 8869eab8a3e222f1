"""Graphs as users have them: built, read from files, run, drawn and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.declare.building import building
from graphengine.graph.build import GraphBuilder

# Files are read and written by few scripts: what does it is imported then.
if TYPE_CHECKING:
    from graphengine.workflow.read import Fetch

__all__ = ["Graph", "load", "loads"]


class Graph(GraphBuilder):
    """Nodes and links, with declared inputs and outputs; a workflow file is one of these.

    It is built by calling nodes inside `with Graph() as g:`, or by `add`, `connect`, `set`, `replace` and `merge`.
    """

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run with these inputs and return the output (several: a dictionary); inside a graph, add it as a node."""
        graph = building()
        if graph is not None and graph is not self:
            return graph.call(self, args, kwargs)
        from graphengine.execution.evaluate import run

        result = run(self, inputs=self.bind(args, kwargs))
        return next(iter(result.values())) if len(result) == 1 else dict(result)

    def run(self, want: Any = None, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run and return the value of `want`, a list for a list, or with none the outputs by name.

        Options are those of `graphengine.run`.
        """
        from graphengine.execution.evaluate import run

        result = run(self, want=want, inputs=inputs or {}, **options)
        if want is None:
            return dict(result)
        return list(result.values()) if isinstance(want, list | tuple) else next(iter(result.values()))

    def _repr_html_(self) -> str:
        from graphengine.show.draw import svg

        return svg(self)

    def save(self, path: str | Path) -> None:
        """Write the graph as a workflow file, YAML or JSON by the name's ending."""
        from graphengine.workflow.files import save

        save(self, path)


def load(
    source: str | Path,
    *,
    roots: Sequence[str | Path] | None = None,
    packs: Sequence[str | Path] = (),
    anywhere: bool = False,
) -> Graph:
    """Read a workflow file, or a shipped workflow by its name.

    The nodes of the script or notebook that runs are found as `main.NAME`, if they are defined by then.

    Args:
        packs: Folders of nodes, or `.py` files, that are loaded first (see `load_pack`).
        roots: Folders that the file, and the files it names, may not leave; None allows all.
        anywhere: The file itself may lie outside of `roots`, as its user has named it; what it names may not.

    Returns:
        The graph. What is wrong with it but does not keep it from being one is among its `problems()`.

    Raises:
        WorkflowError: It cannot be read; holds the problems with their lines.
        PackError: A pack does not load.
    """
    if packs:
        from graphengine.declare.registry import load_pack

        for pack in packs:
            load_pack(pack)
    from graphengine.workflow.files import load_file

    return load_file(source, roots, anywhere, Graph)  # type: ignore[return-value]


def loads(
    text: str,
    name: str = "<text>",
    *,
    base: str | Path | None = None,
    roots: Sequence[str | Path] | None = None,
    fetch: Fetch | None = None,
) -> Graph:
    """Read a workflow from a text; JSON if the name ends in `.json`, else YAML (which JSON is, nearly).

    Args:
        name: What problems call it.
        base: Where its relative paths start; the current folder if nothing is given.
        roots: Folders that it may not leave.
        fetch: Finds the bytes of its values by their digests.

    Raises:
        WorkflowError: As `load` does.
    """
    from graphengine.workflow.files import from_document
    from graphengine.workflow.yaml12 import load as parse

    data, lines = parse(text, name)
    return from_document(  # type: ignore[return-value]
        data, name=name, lines=lines, base=base, roots=roots, fetch=fetch, make=Graph
    )
