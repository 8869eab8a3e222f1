"""The README is one screen, its two commands are those of continuous integration, and its links lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import ROOT, blocks_of

PAGES_OF_THE_ROOT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")


def test_it_is_one_screen() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []


def test_it_begins_with_the_two_commands() -> None:
    first, second, *_ = [block.text.strip() for block in blocks_of("README.md")]
    picture = 'graphengine run workflows/text_to_image.yaml --set prompt="a red circle on a blue background"'
    assert first == f"pip install . && {picture}"
    assert second == "pip install -e '.[dev]' && ./check"


@pytest.mark.parametrize("page", PAGES_OF_THE_ROOT)
def test_links_lead_to_files(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if not link.startswith("http") and not (folder / link).exists()] == []
