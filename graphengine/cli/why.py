"""`graphengine why`: say what a run would compute, and why. Imports no torch."""

from __future__ import annotations

import json as json_

from graphengine.cli.common import Debug, Json, Packs, Roots, Sets, Workflow, guarded, load_workflow

_WORDS = {
    "runs": "runs",
    "memory": "memory",
    "disk": "disk",
    "always": "always runs",
    "reference": "reference",
    "later": "known later",
    "not needed": "not needed",
}


@guarded
def command(
    file: Workflow, set: Sets = None, json: Json = False, packs: Packs = None, root: Roots = None, debug: Debug = False
) -> None:
    """Say which nodes a run would compute and which values it would take from the disk.

    For each node that must run: which of its inputs is not as it was in the last run of this workflow. A reference
    to weights is made in every run and costs little; mapped and expanding nodes are known when the run reaches them.
    """
    graph = load_workflow(file, packs, root)
    from graphengine.cache import DiskStore, Store
    from graphengine.cli.values import bind_sets
    from graphengine.results.history import why
    from graphengine.system.folders import cache_folder

    store = Store(disk=DiskStore(cache_folder() / "store"))
    reasons = why(graph, bind_sets(graph, set), store, cache_folder(), root)
    if json:
        print(json_.dumps([reason.as_dict() for reason in reasons], indent=2))
        return
    width = max((len(reason.node) for reason in reasons), default=0)
    for reason in reasons:
        print(f"{_WORDS[reason.state]:<11}  {reason.node:<{width}}  {'; '.join(reason.differs)}".rstrip())
