"""Every block of Python, shell and YAML in the documentation runs, or says beside it why it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .blocks import PAGES, ROOT, RUN, Block, blocks_of, users_of
from .forking import commands, order

PATIENCE = 300.0
"""Seconds that a block, or the start of the server, may take."""
LANGUAGES = {*RUN.values(), "text", "css", "toml"}
"""What a block may be in: what is run, and what is only read."""
PICTURES = {"photo.png": "tree.png", "painted.png": "tree_painted.png", "mask.png": "mask.png"}
"""Pictures that a page may name as the reader's own."""
LONG = {"docs/guides/queue.md", "docs/guides/service-thread.md"}
"""Pages that start workers."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The address of a server that forks commands."""
    folder: Path = tmp_path_factory.mktemp("server")
    address = folder / "socket"
    path = os.pathsep.join([str(ROOT), str(ROOT / "nodes")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    file = Path(__file__).with_name("forking.py")
    process = subprocess.Popen([sys.executable, str(file), str(address)], env=environment)
    end = time.monotonic() + PATIENCE
    while not address.exists():
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < end, "the server has not begun"
        time.sleep(0.05)
    yield address
    process.kill()
    process.wait()


class Reader:
    """Does what a page says, block after block, in a folder of its own."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.server, self.folder = server, folder / "page"
        self.folder.mkdir()
        for name, picture in PICTURES.items():
            shutil.copy(ROOT / "workflows" / "images" / picture, self.folder / name)
        commands(folder / "bin", server)
        (folder / "blocks").mkdir()
        self.blocks = folder / "blocks"
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "nodes")]),
            "GRAPHENGINE_CACHE": str(folder / "cache"),
            "GRAPHENGINE_STATE": str(folder / "state"),
            "GRAPHENGINE_PROGRESS": "0",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
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
