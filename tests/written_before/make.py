"""Makes what lies in `made`, from what this project is now: `python -m tests.written_before.make`, by hand.

It was run before the modules of graphengine were moved. To run it again is to give up what was promised: what is added
goes beside it. `python -m tests.written_before.make keys` prints the keys of now, which `test_keys` compares.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MADE = Path(__file__).parent / "made"
PLACE = "/written-before"
"""Stands in queues for the folder in which they were made."""


def keys(names: dict[str, str]) -> dict[str, Any]:
    """All keys of now; of what cannot be made, why.

    Args:
        names: Functions and classes as they were called, with their keys.
    """
    from .pinned import pin

    pin()
    from . import cases

    found = cases.defined()
    now = {name: told(lambda name=name: cases.key_with(cases.called(name, found, names[name]))) for name in names}
    return {
        "python": list(sys.version_info[:2]),
        "packs": {name: told(lambda case=case: cases.keys_of(case())) for name, case in cases.pack_cases()},
        "script": {name: told(lambda case=case: cases.keys_of(case())) for name, case in cases.script_cases()},
        "names": now or {name: cases.key_with(value) for name, value in found.items()},
    }


def told(make: Callable[..., Any]) -> Any:
    """What a function gives, or why it does not."""
    try:
        return make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def store(folder: Path) -> None:
    """A store of values that are known."""
    from graphengine.cache import DiskStore, Entry

    from .values import VALUES, key_of

    disk = DiskStore(folder)
    for name, value in VALUES.items():
        assert disk.put(key_of(name), Entry(value, {"device": "cpu", "about": name}, 1.5)), name


def filled(folder: Path) -> dict[str, str]:
    """Run a graph with a store, which it fills, or finds filled; by node how its value came."""
    from .pinned import pin

    pin()
    from graphengine import DiskStore
    from graphengine.testing import Recorder

    from . import cases

    recorder = Recorder()
    cases.one(cases.text_to_image)().run(store=cases.Keys(DiskStore(folder)), listeners=[recorder])
    return {node: reuse.value for node, reuse in recorder.why.items()}


def queue(folder: Path) -> None:
    """A queue with jobs that are done, failed, cancelled, and wait."""
    from graphengine_nodes import Image

    from graphengine.service import Service
    from graphengine.service.jobs.queue import Queue
    from graphengine.service.jobs.submit import submit
    from graphengine.service.workers.inline import InlineRunner

    from . import jobs
    from .values import VALUES, ramp

    folder.mkdir()
    with contextlib.chdir(folder):
        file = folder / "queue.sqlite"
        service = Service(Queue(file), InlineRunner())
        service.name = "writer"
        given = {"number": 3, "image": Image(ramp(1, 2, 2, 3)), "given": jobs.DONE["given"]}
        with service:
            numbers = [
                service.submit(jobs.done(), given, user="ann", name="done", priority=2),
                service.submit(jobs.failing(), {"number": 4}, user="ann", keep_going=True, whole=True),
                service.submit(jobs.unlucky(), user="ben"),
            ]
            service.wait(*numbers)
        service.queue.close()
        waits = {"number": 4, "where": VALUES["Where"], "drawing": VALUES["Drawing"]}
        last = Queue(file)
        submit(last, jobs.waiting(), waits, user="ann", priority=1, facts={"more": [1]})
        last.cancel(submit(last, jobs.unlucky(), user="ben"))
        last.set_limit(7, "ben")
        submit(last, jobs.unlucky(), user="late")
        last.pause("late")
        last.close()
    base = sqlite3.connect(file)
    base.execute("pragma journal_mode = delete")
    base.execute("update jobs set body = replace(body, ?, ?)", (str(folder), PLACE))
    base.commit()
    base.execute("vacuum")
    base.close()


def workflows(folder: Path) -> dict[str, Any]:
    """Workflow files of each feature; the key of their graph, and what it gives."""
    from graphengine import save

    from . import jobs
    from .values import key_of

    folder.mkdir()
    graph = jobs.everything()
    for name in ("everything.yaml", "everything.json"):
        save(graph, folder / name)
    shutil.copy(MADE.parents[2] / "workflows" / "text_to_image.yaml", folder)
    store_results(folder / "results", graph.run(), key_of)
    return {"everything": graph.key}


def store_results(folder: Path, results: dict[str, Any], key_of: Callable[[str], bytes]) -> None:
    """Keep what a graph gave."""
    from graphengine import DiskStore
    from graphengine.cache import Entry

    for name, value in results.items():
        assert DiskStore(folder).put(key_of(name), Entry(value)), name


def picture(folder: Path) -> None:
    """A picture that says how it was made."""
    made = run("-m", "graphengine.cli", "run", MADE / "workflows" / "text_to_image.yaml", "--set", "steps=2",
               "--set", "width=16", "--set", "height=16", "--set", "seed=5", "--out", folder / "out")  # fmt: skip
    print(made)
    shutil.copy(folder / "out" / "text_to_image_image_00000.png", MADE / "made.png")


def run(*arguments: object, given: str = "") -> str:
    """What another Python says, which has our sources and no network."""
    root = MADE.parents[2]
    path = os.pathsep.join([str(root), str(root / "nodes")])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=given,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    ).stdout


def leave_out_large(folder: Path) -> None:
    """Take prompts out of a store: nobody needs them who has the picture."""
    large = [file for file in folder.glob("blobs/*/*") if file.stat().st_size > 20_000]
    names = [file.parent.name + file.name for file in large]
    large += [file for file in folder.glob("keys/*/*") if any(name in file.read_text() for name in names)]
    for file in large:
        file.unlink()


def make(folder: Path) -> None:
    """Make all of it anew, in folders that are made in one."""
    for name in ("store", "filled", "queue", "workflows"):
        shutil.rmtree(MADE / name, ignore_errors=True)
    graphs = workflows(MADE / "workflows")
    store(MADE / "store")
    queue(folder / "queue")
    shutil.copytree(folder / "queue", MADE / "queue")
    run("-m", "tests.written_before.make", "fill", MADE / "filled")
    leave_out_large(MADE / "filled")
    picture(folder)
    from .values import VALUES

    (MADE / "values.json").write_text(json.dumps(list(VALUES), indent=1) + "\n")
    (MADE / "graphs.json").write_text(json.dumps(graphs, indent=1) + "\n")
    found = json.loads(run("-m", "tests.written_before.make", "keys"))
    (MADE / "keys.json").write_text(json.dumps(found, indent=0) + "\n")
    print(sum(len(found[part]) for part in ("packs", "script")), "calls,", len(found["names"]), "names")


def main() -> None:
    """Do what is asked."""
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    if what == "keys":
        print(json.dumps(keys(json.loads(sys.stdin.read() or "{}"))))
    elif what == "fill":
        print(json.dumps(filled(Path(sys.argv[2]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.update(GRAPHENGINE_CACHE=f"{folder}/cache", GRAPHENGINE_STATE=f"{folder}/state")
            make(Path(folder).resolve())


if __name__ == "__main__":
    main()
