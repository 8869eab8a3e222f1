"""The structure of the code: no import circles, faces that say the truth, no reaching into others' private parts.

`lint-imports` (in `./check`, rules in pyproject.toml) holds the floors. Here is what it cannot see: imports of a
package's own face from inside it, the tables of lazy faces, and modules imported by name.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

from tests import ROOT

PACKAGES = {
    "graphengine": ROOT, "graphengine_nodes": ROOT / "nodes", "graphengine_comfy": ROOT / "nodes", "multigen": ROOT,
}  # fmt: skip


@functools.cache
def modules() -> dict[str, Path]:
    """All modules of the project's packages, by name."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in sorted((folder / package).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(module: str, file: Path) -> Iterator[str]:
    """The names that a module imports, wherever the import stands."""
    for statement in ast.walk(parsed(file)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            start = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            above = start[: len(start) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            yield from (f"{base}.{alias.name}" for alias in statement.names)


@functools.cache
def arrows() -> networkx.DiGraph[str]:
    """An arrow from each module to each that it imports; a lazy face imports all that its table names."""
    known = modules()
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for module, file in known.items():
        for name in imported(module, file):
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name != module:
                graph.add_edge(module, name)
    return graph


def circles(graph: networkx.DiGraph[str]) -> list[list[str]]:
    return [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1]


def test_there_is_no_import_circle_of_modules() -> None:
    """Faces too: what a lazy face names counts as its imports."""
    graph = arrows()
    assert graph.number_of_edges() > 500  # the walk has seen the project
    assert circles(graph) == []


def test_there_is_no_import_circle_of_packages() -> None:
    """Siblings at every level: the modules and sub-packages of one package. Its face is above them all."""
    packages = {module for module, file in modules().items() if file.name == "__init__.py"}
    for package in packages:
        graph: networkx.DiGraph[str] = networkx.DiGraph()
        depth = package.count(".") + 2
        for one, other in arrows().edges:
            if one.startswith(f"{package}.") and other.startswith(f"{package}."):
                first, second = (".".join(name.split(".")[:depth]) for name in (one, other))
                if first != second:
                    graph.add_edge(first, second)
        assert circles(graph) == [], package


def test_nothing_inside_a_package_imports_from_its_face_or_a_higher_one() -> None:
    packages = {module for module, file in modules().items() if file.name == "__init__.py"}
    wrong = [(one, other) for one, other in arrows().edges if other in packages and one.startswith(f"{other}.")]
    assert [arrow for arrow in wrong if not arrow[0].endswith(".__main__")] == []  # `python -m` runs what is in a face


def _table(tree: ast.Module) -> dict[str, set[str]] | None:
    """The names by module in a face's `_HOMES`."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_HOMES":
            return {module: set(names) for module, names in ast.literal_eval(statement.value).items()}
    return None


FACES = [module for module, file in modules().items() if _table(parsed(file)) is not None]


@pytest.mark.parametrize("face", FACES)
def test_the_table_of_a_lazy_face_is_what_a_type_checker_reads(face: str) -> None:
    tree = parsed(modules()[face])
    block = next(s for s in tree.body if isinstance(s, ast.If) and ast.unparse(s.test) == "TYPE_CHECKING")
    declared: dict[str, set[str]] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        declared.setdefault(statement.module, set()).update(alias.name for alias in statement.names)
    table = _table(tree)
    assert table == declared
    exported = next(s for s in tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "__all__")
    assert set(ast.literal_eval(exported.value)) == {name for names in declared.values() for name in names}


def test_modules_are_imported_by_name_in_named_places_only() -> None:
    """What such an import brings is no arrow that can be read off the code; each place says in a comment why."""
    allowed = {
        "graphengine.cli.app": "the module of one command",
        "graphengine.cli.execute": "the heavy modules that packs name, before they are needed",
        "graphengine.declare.registry": "packs, by their entry points",
        "graphengine.lazy": "what a face exports",
        "graphengine.old_modules": "modules that have moved",
        "graphengine.old_names": "names that have moved",
        "graphengine.service.workers.loading": "the heavy modules that packs name, before models are loaded",
        "graphengine.service.workers.ray_cluster": "a private module of Ray",
        "graphengine.values.socket_types": "what registers a type that is promised",
        "graphengine_nodes.families.lookup": "the families, by the files of the folder",
        "graphengine_nodes.families.pipelines": "diffusers' pipelines",
        "graphengine_nodes.families.noise_schedulers": "diffusers' schedulers",
        "graphengine_nodes.nodes.annotator_kinds": "annotators of controlnet-aux",
        "graphengine_nodes.store.changes": "torchao, where it is installed",
        "graphengine_nodes.weights.reading": "diffusers' and transformers' classes, by the names in model_index.json",
        "multigen.loader": "diffusers' pipelines, by the names in model_index.json",
        "multigen.pipes.kinds": "diffusers' pipelines and schedulers",
    }
    places = {
        module
        for module, file in modules().items()
        for call in ast.walk(parsed(file))
        if isinstance(call, ast.Call)
        if ast.unparse(call.func) in ("importlib.import_module", "import_module", "__import__")
    }
    assert places == set(allowed)


def test_the_standard_pack_uses_only_what_every_pack_is_offered() -> None:
    """Names at the top of `graphengine`. The table of old names is no part of what a pack is made of."""
    table = _table(parsed(modules()["graphengine"])) or {}
    offered = {f"graphengine.{name}" for names in table.values() for name in names}
    used = {
        name
        for module, file in modules().items()
        if module.partition(".")[0] == "graphengine_nodes"
        for name in imported(module, file)
        if name.partition(".")[0] == "graphengine"
    }
    assert len(used) > 20
    assert used - offered == {"graphengine.old_names.moved"}


def _targets(tree: ast.AST) -> Iterator[ast.expr]:
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign | ast.Delete):
            yield from statement.targets
        elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
            yield statement.target


def test_no_module_writes_private_attributes_of_what_is_not_its_own() -> None:
    # typer has no other way to change its completion scripts.
    allowed = {
        "graphengine.cli.completion: shared._completion_scripts",
        "graphengine.cli.completion: classes._sanitize_help_text",
    }
    written = {
        f"{module}: {ast.unparse(part)}"
        for module, file in modules().items()
        for target in _targets(parsed(file))
        for part in ast.walk(target)
        if isinstance(part, ast.Attribute) and part.attr.startswith("_") and not part.attr.startswith("__")
        if not (isinstance(part.value, ast.Name) and part.value.id in ("self", "cls"))
    }
    assert written == allowed


def test_no_constant_means_two_things_where_graphs_are_planned_and_run() -> None:
    """Upper-case names at the top of modules: whoever reads two of these modules needs one meaning for each."""
    homes: dict[str, list[str]] = {}
    for module, file in modules().items():
        if module.startswith(("graphengine.graph.", "graphengine.planning.", "graphengine.execution.")):
            for statement in parsed(file).body:
                if not isinstance(statement, ast.Assign | ast.AnnAssign) or "TypeVar(" in ast.unparse(statement):
                    continue
                for target in _targets(statement):
                    names = [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]
                    for name in filter(str.isupper, names):
                        homes.setdefault(name.lstrip("_"), []).append(module)
    assert {"INPUTS", "VALUES"} <= set(homes)  # from one assignment
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


@pytest.mark.parametrize("package", ["graphengine", "graphengine_nodes", "graphengine_comfy"])
def test_folders_of_tests_are_those_of_the_package_or_named_for_a_promise(package: str) -> None:
    home = PACKAGES[package] / package
    mirrored = 0
    for face in (ROOT / "tests" / package).rglob("__init__.py"):
        place = face.parent.relative_to(ROOT / "tests" / package)
        if (home / place).is_dir() or (home / place.with_suffix(".py")).is_file():
            mirrored += 1
            continue
        title = ast.get_docstring(ast.parse(face.read_text())) or ""
        assert title.startswith("The promise that"), f"tests/{package}/{place} is no folder of {package} and no promise"
    assert mirrored > 3
