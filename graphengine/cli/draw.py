"""`graphengine draw`: draw a workflow as Mermaid, DOT or SVG. Imports no torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphengine.cli.common import Debug, Packs, Workflow, guarded, load_workflow


class Format(StrEnum):
    """The format of a drawing."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


_ENDINGS = {".mmd": Format.MERMAID, ".mermaid": Format.MERMAID, ".md": Format.MERMAID, ".dot": Format.DOT,
            ".gv": Format.DOT, ".svg": Format.SVG}  # fmt: skip


@guarded
def command(
    file: Workflow,
    format: Annotated[
        Format | None, typer.Option("--format", help="By default what the name of --out says, else mermaid.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.")] = None,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """Draw a workflow, with the types on its links: as Mermaid, Graphviz DOT or SVG."""
    graph = load_workflow(file, packs)
    from graphengine.show import draw

    if format is None:
        format = _ENDINGS.get(out.suffix.lower(), Format.MERMAID) if out is not None else Format.MERMAID
    text = {Format.MERMAID: draw.mermaid, Format.DOT: draw.dot, Format.SVG: draw.svg}[format](graph)
    text = text.rstrip("\n") + "\n"
    if out is None:
        print(text, end="")
        return
    from graphengine.system.staging import write_file

    write_file(out, text.encode())
    print(out)
