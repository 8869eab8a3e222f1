"""Every promise that the documentation makes names the test that holds it, and that test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests import ROOT

PAGE = ROOT / "docs" / "promises.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[str]:
    """The lines of the page's tables, without their heads."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    return [line for line in lines if not re.fullmatch(r"\|( --- \|)+", line) and not line.startswith("| promise |")]


def names_in(file: Path) -> set[str]:
    """The functions and classes that a file of tests defines."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
    found = {node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, named)}
    targets = {t.id for n in found if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return targets | {node.name for node in found if not isinstance(node, ast.Assign)}


def test_each_promise_names_a_test_that_is_there() -> None:
    assert len(rows()) > 20
    missing = []
    for row in rows():
        tests = TEST.findall(row)
        missing += [] if tests else [f"no test: {row}"]
        for file, name in tests:
            path = ROOT / file
            if not path.is_file() or (name and name not in names_in(path)):
                missing.append(f"{file}::{name}")
    assert missing == []
