"""Blocks of code in Markdown pages: their language, the file that they are, and why some are not run.

```yaml title="house.yaml"      a file of that name: a later block of the page uses it
```sh                           run as it is
<!-- not run: needs a GPU -->   before a block: it is not run, and the reader sees why
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
"""Every page whose blocks are run, by its path in the repository."""
RUN = {"python": "python", "sh": "sh", "bash": "sh", "yaml": "yaml", "json": "yaml"}
"""The languages that are run."""
FENCE = re.compile(r"^ *```(?P<language>\w*)(?P<rest>.*)$")
REASON = re.compile(r"<!-- not run: (.+?) -->")
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: The page's path in the repository.
        line: The line of the page on which the code begins.
        title: The file that it is.
        reason: Why it is not run.
    """

    page: str
    line: int
    language: str
    title: str | None
    reason: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, those in other languages too."""
    return list(_blocks(page, (ROOT / page).read_text("utf-8").splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    begun: tuple[int, str, str, str | None] | None = None
    reason: str | None = None
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if begun is None and fence:
            begun = number + 1, fence["language"], fence["rest"], reason
        elif begun is not None and line.strip() == "```":
            first, language, rest, why = begun
            title = TITLE.search(rest)
            text = "\n".join(lines[first - 1 : number - 1]) + "\n"
            yield Block(page, first, RUN.get(language, language), title and title[1], why, text)
            begun = None
        if begun is None and line.strip():
            found = REASON.search(line)
            reason = found and found[1]


def users_of(block: Block, blocks: list[Block]) -> list[Block]:
    """The other blocks of a page that use a block which is a file: they name it, its folder or its module."""
    path = Path(block.title or "")
    names = {path.name, path.stem, *path.parts[:-1]}
    word = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(names)))})(?![\w-])")
    return [other for other in blocks if other is not block and not other.reason and word.search(other.text)]
