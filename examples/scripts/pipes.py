"""Makes pictures with the classes of multigen, and saves the graph behind one: `python pipes.py [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from multigen import Cfgen, GenSession, Im2ImPipe, Prompt2ImPipe


def main(folder: Path) -> None:
    """Draw a picture, change it, and fill a folder from a template of prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    text = Prompt2ImPipe("tiny")
    text.setup(width=64, height=64, steps=8)  # pictures of tiny are small; by default 512 x 512
    drawn = text.gen({"prompt": "a green tree on a yellow background", "seed": 3})
    drawn.save(folder / "tree.png")

    change = Im2ImPipe("tiny")
    change.setup(str(folder / "tree.png"), strength=0.6, steps=8)
    change.gen({"prompt": "a red tree on a blue background", "seed": 4}).save(folder / "changed.png")

    template = [["a red", "a blue"], ["+", ["circle", "house"], "on a green background"]]
    GenSession(folder / "session", text, Cfgen(template, "blurry", seeds=[1, 2])).gen_sess(add_count=2)
    text.graph.save(folder / "pipe.yaml")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]))
