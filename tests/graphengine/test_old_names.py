"""Names that have moved import from their old homes for one version more, and keys know them by these."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphengine.old_names import MOVED


@pytest.mark.parametrize(("old", "name"), [(old, name) for old, names in MOVED.items() for name in names])
def test_an_old_home_gives_the_same_object_and_warns_where_it_is_no_import_of_its_own(old: str, name: str) -> None:
    new = getattr(importlib.import_module(MOVED[old][name]), name)
    module: Any = importlib.import_module(old)
    if name in vars(module):  # the module uses it itself
        assert getattr(module, name) is new
        return
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} is {MOVED[old][name]}.{name} now"):
        assert getattr(module, name) is new


def test_a_name_that_was_never_there_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = importlib.import_module("graphengine.graph").nothing


def test_keys_name_what_has_moved_by_its_old_home(tmp_path: Path) -> None:
    """The hash is that of code that defines such names where they were."""
    (tmp_path / "elsewhere.py").write_text(
        "class Graph: ...\nGraph.__module__ = 'graphengine.graph'\n"
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from graphengine.codewalk import _named\n"
        "import graphengine, elsewhere\n"
        "graph = _named(graphengine.Graph)[:3]\n"
        "assert graph == _named(elsewhere.Graph)[:3] == ('named', 'graphengine.graph', 'Graph')\n"
        "assert _named(graphengine.load)[:3] == ('named', 'graphengine.workflow', 'load')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
