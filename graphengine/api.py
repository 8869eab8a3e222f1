"""`Graph` as users import it, with the verbs that build, run, draw and save it; `load` and `loads` read one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.declare.building import building
from graphengine.graph.build import GraphBuilder

# Few scripts read or write files, so those modules are imported when that is done.
if TYPE_CHECKING:
    from graphengine.workflow.read import Fetch

__all__ = ["Graph", "load", "loads"]


class Graph(GraphBuilder):
    """Nodes and links, with declared inputs and outputs; a workflow file holds one graph.

    It is built by calling nodes inside `with Graph() as g:`, or by `add`, `connect`, `set`, `replace` and `merge`.
    """

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run with these inputs and return the output, or a dictionary of several; inside a graph, add it as a node."""
        graph = building()
        if graph is not None and graph is not self:
            return graph.call(self, args, kwargs)
        from graphengine.execution.run import run

        result = run(self, inputs=self.bind(args, kwargs))
        return next(iter(result.values())) if len(result) == 1 else dict(result)

    def run(self, want: Any = None, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run and return the value of `want`: a list of values for a list, a dictionary of all outputs for None.

        The options are those of `graphengine.run`.
        """
        from graphengine.execution.run import run

        result = run(self, want=want, inputs=inputs, **options)
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

    The nodes of the running script or notebook are found as `main.NAME`, if they are defined before the call.

    Args:
        source: The path of a `.yaml`, `.yml` or `.json` file, or the name of a shipped workflow. A file may be in a
            format that a pack has registered (`Pack(formats=...)`), and so may a PNG in whose texts a workflow stands.
        packs: Folders of nodes, or `.py` files, to load first (see `load_pack`).
        roots: Folders that must contain the file and every file that it names; None allows all.
        anywhere: The file itself may lie outside `roots`, since the user named it; the files that it names may not.

    Returns:
        The graph. Mistakes that do not prevent reading are among its `problems()`.

    Raises:
        WorkflowError: The file cannot be read; holds the problems with their lines.
        PackError: A pack cannot be loaded.
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
    """Read a workflow from a text: JSON if `name` ends in `.json`, else YAML (which nearly all JSON is).

    Args:
        text: The contents of a workflow file.
        name: The file name to show in problems.
        base: The folder at which relative paths start; by default the current one.
        roots: Folders that must contain every file that the workflow names; None allows all.
        fetch: Returns the bytes of a stored value, given their digest.

    Raises:
        WorkflowError: The text cannot be read; holds the problems with their lines.
    """
    from graphengine.workflow.files import from_document
    from graphengine.workflow.yaml12 import load as parse

    data, lines = parse(text, name)
    return from_document(  # type: ignore[return-value]
        data, name=name, lines=lines, base=base, roots=roots, fetch=fetch, make=Graph
    )
