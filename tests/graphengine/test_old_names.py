"""Modules and names that have moved import from their old homes for one version more, and keys know them by these."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphengine.old_names import NAMES, place_in_keys, place_now

MOVED = [(old, name, new) for old, names in NAMES.items() for name, new in names.items()]


def alone(script: str, *arguments: str) -> None:
    """Run a script in a process of its own, in which nothing has been imported from old homes yet."""
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)


def test_every_module_imports_by_its_old_name_with_a_warning() -> None:
    alone("""
import importlib, warnings
from graphengine.old_names import MODULES, NAMES
for old, new in MODULES.items():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        module, now = importlib.import_module(old), importlib.import_module(new)
        names = [name for name in vars(now) if not name.startswith("__") and name not in NAMES.get(old, ())]
        assert names
        for name in names:
            assert getattr(module, name) is getattr(now, name), (old, name)
    assert now.__spec__.name == new, (old, now.__spec__)
    assert any(old in str(w.message) and new in str(w.message) for w in told), old
""")


@pytest.mark.parametrize(("old", "name", "new"), MOVED)
def test_a_name_that_went_elsewhere_is_the_same_object_and_warns(old: str, name: str, new: str) -> None:
    module = importlib.import_module(old)
    place, _, renamed = new.partition(":")
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old}.{name} is {place}.{renamed or name} now")):
        assert getattr(module, name) is getattr(importlib.import_module(place), renamed or name)


@pytest.mark.parametrize(("old", "name", "new"), MOVED)
def test_what_keys_and_stored_values_name_is_found_where_it_is_now(old: str, name: str, new: str) -> None:
    place, _, renamed = new.partition(":")
    now = (place, f"{renamed or name}.Inner")
    first = place_in_keys(*now)
    assert first[1] == f"{name}.Inner"
    assert place_now(*first) == place_now(old, f"{name}.Inner") == now


@pytest.mark.parametrize("old", ["graphengine.graph", "graphengine.files"])
def test_a_name_that_was_never_there_is_an_error(old: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{old}' has no attribute 'nothing'"):
        _ = importlib.import_module(old).nothing


def test_a_module_that_was_never_there_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'graphengine\.nothing'"):
        importlib.import_module("graphengine.nothing")


def test_a_module_can_be_imported_from_its_package_by_its_old_name() -> None:
    alone("from graphengine import registry\nassert registry.load_pack.__module__ == 'graphengine.declare.registry'")


def test_keys_name_what_has_moved_by_its_old_home(tmp_path: Path) -> None:
    """The hash is that of code that defines such names where they were."""
    (tmp_path / "elsewhere.py").write_text("class Graph: ...\nGraph.__module__ = 'graphengine.graph'\n")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from graphengine.keys.code import _named\n"
        "import graphengine, elsewhere\n"
        "graph = _named(graphengine.Graph)[:3]\n"
        "assert graph == _named(elsewhere.Graph)[:3] == ('named', 'graphengine.graph', 'Graph')\n"
        "assert _named(graphengine.load)[:3] == ('named', 'graphengine.workflow', 'load')\n"
        "assert _named(graphengine.SocketType)[:3] == ('named', 'graphengine.types', 'SocketType')\n"
        "from graphengine.results.outputs import OutputWriter\n"
        "assert _named(OutputWriter)[:3] == ('named', 'graphengine.outputs', 'Writer')\n"
    )
    alone(script, str(tmp_path))
