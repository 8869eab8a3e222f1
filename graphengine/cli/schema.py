"""`graphengine schema`: write the JSON Schema of workflow files with the installed nodes. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphengine.cli.common import Debug, Packs, guarded, load_packs


@guarded
def command(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.")] = None,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema of workflow files, against which an editor completes and checks them.

    In a YAML file its first line names it: # yaml-language-server: $schema=workflow.schema.json
    """
    from graphengine.workflow.schema import schema

    load_packs(packs)
    text = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    from graphengine.system.staging import write_file

    write_file(out, text.encode())
    print(out)
