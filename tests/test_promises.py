"""Every promise that the documentation makes, and every kind of file that it says loads, names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests import ROOT

PAGES = {"promises.md": "| promise |", "guides/what-loads.md": ("| file ", "| format |", "| written as |")}
"""Pages with tables of tests, and how the heads of their tables begin."""
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows(page: str) -> list[str]:
    """The lines of a page's tables, without their heads, and without those of what is not there at all."""
    lines = [line for line in (ROOT / "docs" / page).read_text("utf-8").splitlines() if line.startswith("|")]
    heads = re.compile(r"\|( --- \|)+")
    return [x for x in lines if not (heads.fullmatch(x) or x.startswith(PAGES[page]) or x.endswith("| no | none |"))]


def names_in(file: Path) -> set[str]:
    """The functions and classes that a file of tests defines."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
    found = {node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, named)}
    targets = {t.id for n in found if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return targets | {node.name for node in found if not isinstance(node, ast.Assign)}


@pytest.mark.parametrize("page", PAGES)
def test_each_promise_names_a_test_that_is_there(page: str) -> None:
    assert len(rows(page)) > 20
    missing = []
    for row in rows(page):
        tests = TEST.findall(row)
        missing += [] if tests else [f"no test: {row}"]
        for file, name in tests:
            path = ROOT / file
            if not path.is_file() or (name and name not in names_in(path)):
                missing.append(f"{file}::{name}")
    assert missing == []
