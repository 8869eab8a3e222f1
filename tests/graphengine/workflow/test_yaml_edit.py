from __future__ import annotations

from typing import Any

import pytest

from graphengine.workflow.yaml12 import load
from graphengine.workflow.yaml_edit import edited

TEXT = """\
# The first line.
version: 1   # of the format

inputs:
  seed: {type: int, default: 0}   # any number
  prompt:
    type: str
    default: a red circle
nodes:
  # What paints.
  paint: {node: toy.paint, from: {seed: inputs.seed}, with: {sides: [1, 2]}}
"""


def data(text: str) -> Any:
    return load(text, "x.yaml")[0]


def test_values_change_where_they_stand() -> None:
    old, new = data(TEXT), data(TEXT)
    new["inputs"]["seed"]["default"] = 5
    new["inputs"]["prompt"]["default"] = "yes: {no}, # all"
    new["nodes"]["paint"]["with"]["sides"] = [3]
    new["ui"] = {"editor": {"nodes": {"paint": {"pos": [1, 2]}}}}
    made = edited(TEXT, old, new)
    assert data(made) == new
    assert "seed: {type: int, default: 5}   # any number\n" in made
    for comment in ("# The first line.", "# of the format", "# What paints."):
        assert comment in made
    moved = data(made)
    moved["ui"]["editor"]["nodes"]["paint"]["pos"] = [3, 4]
    again = edited(made, new, moved)
    assert data(again) == moved
    assert again.replace("[3, 4]", "[1, 2]") == made


def test_nothing_changes_where_nothing_differs() -> None:
    turned = data(TEXT)
    turned["inputs"] = dict(reversed(turned["inputs"].items()))
    assert edited(TEXT, data(TEXT), turned) == TEXT
    assert edited(TEXT, data(TEXT), data(TEXT)) == TEXT
    as_float = data(TEXT)
    as_float["inputs"]["seed"]["default"] = 0.0
    assert edited(TEXT, data(TEXT), as_float) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "# The first line.\n{version: 1, nodes: {}}\n",
        "# The first line.\nui: {a: 1}\nversion: 1\nnodes: {}\n",
        "# The first line.\nversion: 1\nnodes: {}\ntext: |\n  some\n  lines\n",
    ],
)
def test_what_is_added_or_taken_away_keeps_the_first_comment(text: str) -> None:
    new = data(text)
    new["nodes"] = {"other": {"node": "toy.other"}}
    new["text"] = "another\ntext\n"
    made = edited(text, data(text), new)
    assert data(made) == new
    assert made.startswith("# The first line.\n")
