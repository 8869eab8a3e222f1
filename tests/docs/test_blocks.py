"""Every block of Python, shell and YAML in the documentation runs, or says beside it why it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, RUN, Block, blocks_of, users_of
from tests.docs.forking import PATIENCE, environment, order

LANGUAGES = {*RUN.values(), "text", "css", "toml"}
"""What a block may be in: what is run, and what is only read."""
PICTURES = {"photo.png": "tree.png", "painted.png": "tree_painted.png", "mask.png": "mask.png"}
"""Pictures that a page may name as the reader's own."""
LONG = {
    "docs/guides/client.md", "docs/guides/comfyui-clients.md", "docs/guides/http.md", "docs/guides/queue.md",
    "docs/guides/service-thread.md",
}  # fmt: skip
"""Pages that start workers."""


class Reader:
    """Does what a page says, block after block, in a folder of its own."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.server, self.folder = server, folder / "page"
        self.folder.mkdir()
        for name, picture in PICTURES.items():
            shutil.copy(ROOT / "workflows" / "images" / picture, self.folder / name)
        self.blocks = folder / "blocks"
        self.blocks.mkdir()
        self.environment = environment(server, folder)
        self.said = folder / "said.txt"
        self.session: tuple[int, int, Any] | None = None

    def read(self, block: Block, used: bool) -> None:
        """Do what a block says; one that is a file, which another one uses, is only written."""
        if block.title is not None:
            file = self.folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        if block.language == "yaml":
            data = yaml.safe_load(block.text)
            if not used:
                assert "nodes" in data, f"{block}: no workflow, and no block uses it"
                name = block.title or f"block-{block.line}.yaml"
                (self.folder / name).write_text(block.text)
                self.shell(block, f"graphengine run {name} --out out-{block.line}")
        elif block.language == "sh":
            self.shell(block, block.text)
        elif not used:
            self.python(block)

    def shell(self, block: Block, text: str) -> None:
        """Run shell commands, of which none may fail."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"

    def python(self, block: Block) -> None:
        """Run Python with the names of the blocks before it."""
        if self.session is None:
            theirs, orders = os.pipe()
            answers, back = os.pipe()
            with self.said.open("w") as said:
                streams = [theirs, said.fileno(), said.fileno(), back]
                answer = order(self.server, self.folder, self.environment, "session", streams=streams)
            os.close(theirs)
            os.close(back)
            self.session = orders, answers, answer
        orders, answers, _ = self.session
        file = self.blocks / f"block_{block.line}.py"
        file.write_text(block.text)
        os.write(orders, f"{file}\n".encode())
        assert os.read(answers, 100) == b"0\n", f"{block}:\n{self.said.read_text()}"

    def close(self) -> None:
        """End the session."""
        if self.session is not None:
            orders, answers, answer = self.session
            os.close(orders)
            answer.readlines()
            os.close(answers)


def cases() -> list[object]:
    """The pages with blocks."""
    found = [page for page in PAGES if any(block.language in RUN.values() for block in blocks_of(page))]
    return [pytest.param(page, id=page, marks=[pytest.mark.slow] if page in LONG else []) for page in found]


@pytest.mark.parametrize("page", cases())
def test_a_page_does_what_it_says(page: str, server: Path, tmp_path: Path) -> None:
    blocks = [block for block in blocks_of(page) if block.language in RUN.values() and block.reason is None]
    reader = Reader(server, tmp_path)
    try:
        for block in blocks:
            reader.read(block, block.title is not None and bool(users_of(block, blocks)))
    finally:
        reader.close()


def test_what_is_not_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert [f"{block}: no language known here" for block in blocks if block.language not in LANGUAGES] == []
    ours = [block for block in blocks if block.language in RUN.values()]
    run = Counter(block.language for block in ours if block.reason is None)
    reasons = Counter(block.reason for block in ours if block.reason is not None)
    told = ", ".join(f"{count} {language}" for language, count in sorted(run.items()))
    left = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    with capsys.disabled():
        print(f"\nblocks in {len(PAGES)} pages: {run.total()} run ({told}); {reasons.total()} not run: {left}")
    assert run.total() > 3 * reasons.total()
