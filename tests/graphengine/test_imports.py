"""What an import costs, and that the package says what it has."""

import subprocess
import sys
from types import ModuleType

import pytest

import graphengine
import graphengine.service
from tests import ROOT

HEAVY = ("torch", "numpy", "diffusers", "transformers", "networkx", "PIL", "jsonschema", "rich", "typer")


def loaded(code: str) -> list[str]:
    program = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_is_light() -> None:
    assert loaded("import graphengine") == []


def test_building_checking_and_running_are_light() -> None:
    assert (
        loaded(
            """
from graphengine import *
import graphengine
@node
def inc(x: int) -> int:
    return x + 1
with Graph() as g:
    total = inc(when(True, inc(1), 2))
    each([1, 2], inc)
assert g.problems() == []
assert g.run(want=total) == 3
assert g.copy() == g
"""
        )
        == []
    )


def test_loading_a_workflow_is_light() -> None:
    assert loaded("import graphengine; graphengine.loads('version: 1\\nnodes: {}\\n').problems()") == []


def test_helpers_for_tests_are_light() -> None:
    assert loaded("import graphengine.testing") == []


@pytest.mark.parametrize("package", [graphengine, graphengine.service])
def test_all_names_are_there_and_sorted(package: ModuleType) -> None:
    names = package.__all__
    constants = [n for n in names if n.isupper()]
    classes = [n for n in names if n[0].isupper() and n not in constants]
    functions = [n for n in names if n not in constants and n not in classes]
    assert names == sorted(constants) + sorted(classes) + sorted(functions)
    for name in names:
        assert getattr(package, name) is not None
        assert name in vars(package)  # from now on
        assert name in dir(package)
    assert set(names) == {name for names in package._HOMES.values() for name in names}


@pytest.mark.parametrize("package", [graphengine, graphengine.service])
def test_what_is_not_there_is_told(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_submodules_do_not_hide_the_functions() -> None:
    import graphengine.cache
    import graphengine.graph.data

    assert callable(graphengine.node)
    assert callable(graphengine.run)
    assert callable(graphengine.load)


def test_every_public_class_has_a_docstring() -> None:
    for name in graphengine.__all__:
        assert name == "INERT" or getattr(graphengine, name).__doc__, name
