"""`docs/retries.md` says what the constants say."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import graphengine

PAGE = Path(graphengine.__file__).parents[1] / "docs" / "retries.md"


def test_the_table_of_limits_has_the_values_of_the_constants() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text("utf-8").splitlines()]
    stated = [(row[-2], name) for row in rows if row for name in re.findall(r"`([\w.]+\.[A-Z_]+)`", row[-1])]
    assert len(stated) >= 13
    for limit, name in stated:
        module, _, constant = name.rpartition(".")
        value = getattr(importlib.import_module(f"graphengine.service.{module}"), constant)
        numbers = [float(number) for number in re.findall(r"[\d.]+", limit.replace(",", ""))]
        wanted = [*map(float, value)] if isinstance(value, tuple) else [float(value)]
        assert numbers[: len(wanted)] == wanted, f"{name} is {value}, the table says {limit}"
