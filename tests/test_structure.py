"""The structure of the code: no import circles, counting every import, and no reaching into others' private parts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx

ROOT = Path(__file__).parent.parent
PACKAGES = {"graphengine": ROOT, "graphengine_nodes": ROOT / "nodes", "multigen": ROOT}


def modules() -> dict[str, Path]:
    """All modules of the project's packages, by name."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in sorted((folder / package).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(module: str, file: Path) -> Iterator[str]:
    """The names that a module imports, wherever the import stands."""
    for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            start = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            above = start[: len(start) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            yield from (f"{base}.{alias.name}" for alias in statement.names)


def arrows() -> networkx.DiGraph[str]:
    """An arrow from each module to each that it imports. The faces of packages, which import lazily, are left out."""
    known = modules()
    faces = {module for module, file in known.items() if file.name == "__init__.py"}
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for module, file in known.items():
        for name in imported(module, file):
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name != module and not {name, module} & faces:
                graph.add_edge(module, name)
    return graph


def test_there_is_no_import_circle() -> None:
    graph = arrows()
    assert graph.number_of_edges() > 500  # the walk has seen the project
    circles = [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1]
    assert circles == []


def _targets(tree: ast.AST) -> Iterator[ast.expr]:
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign | ast.Delete):
            yield from statement.targets
        elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
            yield statement.target


def test_no_module_writes_private_attributes_of_what_is_not_its_own() -> None:
    # torch's modules have no other way to replace a buffer, and typer none to change its completion scripts.
    allowed = {
        "graphengine.cli.completion: shared._completion_scripts",
        "graphengine.cli.completion: classes._sanitize_help_text",
        "graphengine_nodes.loading: parent._buffers",
    }
    written = {
        f"{module}: {ast.unparse(part)}"
        for module, file in modules().items()
        for target in _targets(ast.parse(file.read_text(encoding="utf-8")))
        for part in ast.walk(target)
        if isinstance(part, ast.Attribute) and part.attr.startswith("_") and not part.attr.startswith("__")
        if not (isinstance(part.value, ast.Name) and part.value.id in ("self", "cls"))
    }
    assert written == allowed
