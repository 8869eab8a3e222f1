"""`graphengine validate`: show all problems of workflow files at once. Imports no torch."""

from __future__ import annotations

import json as json_
from typing import Annotated

import typer

from graphengine.cli import completion
from graphengine.cli.common import OK, WRONG, Debug, Json, Packs, Sets, guarded, load_packs, print_problems
from graphengine.errors import Problem, WorkflowError


@guarded
def command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Workflow files, or names of shipped ones.", autocompletion=completion.workflows
        ),
    ],
    set: Sets = None,
    json: Json = False,
    packs: Packs = None,
    debug: Debug = False,
) -> int:
    """Check workflow files and show every problem with its line. Warnings are shown and change no exit code.

    Of models and their like that lie on this machine, configurations and headers are checked; no weights are loaded.
    With --set they are those of the given inputs.
    """
    load_packs(packs)
    problems_by_file = {file: problems_of(file, set) for file in files}
    wrong = {file for file, problems in problems_by_file.items() if any(p.severity == "error" for p in problems)}
    if json:
        data = [
            {"file": file, "ok": file not in wrong, "problems": [p.as_dict() for p in problems]}
            for file, problems in problems_by_file.items()
        ]
        print(json_.dumps(data, indent=2))
    else:
        for file, problems in problems_by_file.items():
            print_problems(problems)
            if file not in wrong:
                print(f"{file}: ok")
    return WRONG if wrong else OK


def problems_of(file: str, sets: list[str] | None = None) -> list[Problem]:
    """List all problems of a workflow file, also of one that cannot be read, and of inputs given for it."""
    from graphengine.api import load
    from graphengine.cli.values import bind_sets
    from graphengine.graph.missing_files import missing_files
    from graphengine.planning.reference_problems import reference_problems

    try:
        graph = load(file)
        problems = graph.problems()
        wrong = any(p.severity == "error" for p in problems)
        bound = bind_sets(graph, sets) if sets and not wrong else None
        problems += missing_files(graph) if bound is None else missing_files(graph, bound.given, bound.base)
        return problems if wrong else [*problems, *reference_problems(graph, bound)]
    except WorkflowError as error:
        return error.problems
