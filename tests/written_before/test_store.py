"""Promise: what a disk store holds is read, of whatever class it is, wherever that class is defined now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from graphengine import DiskStore

MADE = Path(__file__).parent / "made"
NAMES: list[str] = json.loads((MADE / "values.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def disk(values: Any, tmp_path_factory: pytest.TempPathFactory) -> DiskStore:
    """A copy of the store that was written before."""
    folder = tmp_path_factory.mktemp("before") / "store"
    shutil.copytree(MADE / "store", folder)
    return DiskStore(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_is_read_as_it_was_written(disk: DiskStore, values: Any, name: str) -> None:
    entry = disk.get(values.key_of(name))
    assert entry is not None
    assert values.same(entry.value, values.VALUES[name])
    assert (dict(entry.made), entry.cost) == ({"device": "cpu", "about": name}, 1.5)


def test_nothing_of_it_is_taken_for_damaged(disk: DiskStore, values: Any) -> None:
    before = sum(file.is_file() for file in (MADE / "store").rglob("*"))
    disk.evict()
    assert [disk.get(values.key_of(name)) is not None for name in NAMES] == [True] * len(NAMES)
    assert sum(file.is_file() for file in disk.folder.rglob("*")) == before


def test_every_value_was_written(values: Any) -> None:
    assert list(values.VALUES) == NAMES
