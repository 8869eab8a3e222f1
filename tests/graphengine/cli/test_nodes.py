"""`graphengine nodes`: groups and the search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.graphengine.cli.conftest import Run

PACK = '''\
"""Weather: for tests of the search."""

from typing import Annotated

from graphengine import Doc, node


@node(version=1)
def weather_storm(wind: Annotated[int, Doc("From a SIROCCO on.")] = 1) -> int:
    """Blow hard."""
    return wind


@node(version=1)
def sirocco(dust: int = 1) -> int:
    """Blow warm."""
    return dust


@node(version=1)
def sirocco_and_more(dust: int = 1) -> int:
    """Blow on."""
    return dust


@node(version=1)
def dusty_sirocco(dust: int = 1) -> int:
    """Blow \\x1b[31mred."""
    return dust


@node(version=1)
def weather_fan(sirocco: bool = False) -> int:
    """Turn."""
    return 1
'''


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    (tmp_path / "weather").mkdir()
    (tmp_path / "weather" / "winds.py").write_text(PACK)
    return tmp_path / "weather"


def test_nodes_are_listed_by_pack_and_group(cli: Run, weather: Path) -> None:
    lines = cli("nodes", "--packs", weather).out.splitlines()
    headings = [line for line in lines if line and not line.startswith((" ", "comfy"))]
    assert headings[:4] == ["flow: Flow", "std: Models", "std: Model parts", "std: LoRAs"]
    assert headings[-1] == "weather: Weather"
    assert lines[lines.index("std: Sampling") + 1].split()[0] == "std.inpaint"
    assert "\x1b" not in "".join(lines)


def test_each_node_has_its_group_in_the_json(cli: Run, weather: Path) -> None:
    groups = {fact["name"]: fact["group"] for fact in json.loads(cli("nodes", "--json", "--packs", weather).out)}
    assert (groups["std.sample"], groups["flow.when"], groups["weather.sirocco"]) == ("Sampling", "Flow", "Weather")
    assert list(groups) == sorted(groups)
    assert json.loads(cli("nodes", "sample", "--json").out)["group"] == "Sampling"


def test_a_search_looks_at_names_then_inputs_then_help(cli: Run, weather: Path) -> None:
    done = cli("nodes", "--search", "SiRocco", "--packs", weather)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "weather.sirocco", "weather.sirocco_and_more", "weather.dusty_sirocco", "weather.weather_fan",
        "weather.weather_storm",
    ]  # fmt: skip
    assert "\\x1b[31mred" in done.out
    told = json.loads(cli("nodes", "--search", "sirocco", "--packs", weather, "--json").out)
    assert [fact["name"] for fact in told][:2] == ["weather.sirocco", "weather.sirocco_and_more"]


def test_every_word_of_a_search_must_occur(cli: Run, weather: Path) -> None:
    done = cli("nodes", "--search", "blow sirocco", "--packs", weather)
    assert {line.split()[0] for line in done.out.splitlines()} == {
        "weather.sirocco", "weather.sirocco_and_more", "weather.dusty_sirocco", "weather.weather_storm",
    }  # fmt: skip


def test_a_search_without_a_result_says_so(cli: Run) -> None:
    done = cli("nodes", "--search", "xylophone")
    assert (done.code, done.out) == (2, "")
    assert done.err == "no node has 'xylophone' in its name, inputs or help (`graphengine nodes` lists all)\n"
    done = cli("nodes", "sample", "--search", "x")
    assert (done.code, done.err) == (2, "give the name of a node or --search, not both\n")
