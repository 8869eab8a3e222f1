"""Running a graph from the command line: the disk store, slow imports in parallel, and cancellation by Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from graphengine.cache import DiskStore, Store
from graphengine.cli.common import CANCELLED, print_problems
from graphengine.cli.process import pause_garbage_search, resume_garbage_search
from graphengine.declare.definition import NodeDef
from graphengine.execution.launcher import Cancellation
from graphengine.execution.runner import Call, Runner, ThreadRunner
from graphengine.graph.combine import subgraph
from graphengine.graph.data import GraphData
from graphengine.graph.missing_files import missing_files
from graphengine.graph.revalidate import warnings
from graphengine.system.folders import cache_folder

if TYPE_CHECKING:
    from graphengine.execution.run import Result
    from graphengine.planning.inputs import BoundInputs
    from graphengine.service.workers.pool import WorkerRunner
    from graphengine.service.workers.process import Handle


WARN_SECONDS = 3.0
"""Seconds after which a cancelled run that has not ended prints a message."""


def open_store(no_cache: bool) -> Store:
    """Open the store for a run: memory, and unless `no_cache`, the user's disk store."""
    return Store(disk=None if no_cache else DiskStore(cache_folder() / "store"))


class Preload:
    """Imports what nodes for a device will need, on a thread of its own, while the workflow is read and checked.

    Python's search for garbage rests meanwhile: imports make none, and it would take a fifth of their time.
    """

    def __init__(self, graph: GraphData) -> None:
        self.names = list(dict.fromkeys(name for pack in _device_packs(graph) for name in pack.preload))
        self._thread = threading.Thread(target=self._import, name="graphengine-preload", daemon=True)
        if self.names:
            os.getcwd()  # raises if it is not there any more, where torch would end the process without an error
            pause_garbage_search()
            self._thread.start()
        else:
            resume_garbage_search()

    def _import(self) -> None:
        try:
            for name in self.names:
                with contextlib.suppress(Exception):  # reported by the node that needs the module
                    importlib.import_module(name)
        finally:
            resume_garbage_search(skip_existing=True)  # modules stay

    def wait(self, cancellation: Cancellation) -> None:
        """Wait until everything is imported: threads that import circular modules at once may see incomplete ones."""
        while self.names and self._thread.is_alive() and not cancellation.cancelled:
            self._thread.join(0.1)


def _device_packs(graph: GraphData) -> list[Any]:
    kinds = [node.kind for part in graph.with_parts() for node in part.nodes.values()]
    packs = {kind.module_pack: None for kind in kinds if isinstance(kind, NodeDef) and kind.on == "device"}
    return list(packs)


class PatientRunner(ThreadRunner):
    """A runner that starts to compute when the preloading of modules has ended."""

    def __init__(self, preload: Preload, cancellation: Cancellation) -> None:
        super().__init__()
        self.preload, self.cancellation = preload, cancellation

    def submit(self, calls: Sequence[Call]) -> None:
        self.preload.wait(self.cancellation)
        super().submit(calls)


class Session:
    """The store, the threads and the cancellation that the runs of one command share.

        with Session(graph, no_cache) as session:
            result = session.run(graph, inputs)

    Inside the `with` block, Ctrl-C and SIGTERM cancel the run at its next step; a second one ends the process at once.

    Args:
        graph: The graph that will be run, whose packs' modules are preloaded.
        no_cache: Use no disk store.
        workers: Worker processes to compute in, for these runs only; None: threads of this process.
    """

    def __init__(self, graph: GraphData, no_cache: bool = False, workers: Sequence[Handle] | None = None) -> None:
        self.store = open_store(no_cache)
        self.cancellation = Cancellation()
        self.runner: PatientRunner | WorkerRunner
        if workers is None:
            self.runner = PatientRunner(Preload(graph), self.cancellation)
        else:
            from graphengine.service.workers.pool import WorkerRunner

            resume_garbage_search()
            # No batches, whose results differ in their last bits: a run gives the same as on this process's threads.
            self.runner = WorkerRunner(workers, self.store.disk, batch=1, on_warning=_say)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Session:
        self._stack.enter_context(interruptible(self.cancellation))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is not None:
                self.cancellation.cancel()
            self.runner.close()  # threads end the step that is under way

    def run(self, graph: GraphData, inputs: Mapping[str, Any], want: Any = None, **options: Any) -> Result:
        """Run a graph in this session; the options are those of `graphengine.run`."""
        from graphengine.execution.run import run

        if isinstance(self.runner, PatientRunner):
            runner: Runner = self.runner
        else:
            from graphengine.service.workers.calls import JobPolicy

            exact = options.get("exact", False)
            runner = self.runner.of(JobPolicy(exact=exact, is_cancelled=lambda: self.cancellation.cancelled))
        return run(graph, want, inputs, store=self.store, runner=runner, cancellation=self.cancellation, **options)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


@contextlib.contextmanager
def interruptible(cancellation: Cancellation) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM cancel a run inside a `with` block; a second one ends the process at once.

    A node that does not check for cancellation cannot be stopped. After a while a message says so; after a SIGTERM,
    whose sender may not send another, the process is ended then.
    """
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended = threading.Event()
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            os.write(2, b"cancelled\n")
            os._exit(CANCELLED)
        # Cancelling takes locks that the interrupted thread may hold, so it is done on another thread.
        asked.put(number)

    def watch() -> None:
        number = asked.get()
        if not number:
            return
        cancellation.cancel()
        if not ended.wait(WARN_SECONDS):
            os.write(2, b"waiting for a node that cannot be interrupted; once more (Ctrl-C) ends it at once\n")
        if number == signal.SIGTERM and not ended.wait(WARN_SECONDS):
            os.write(2, b"cancelled\n")
            os._exit(CANCELLED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    threading.Thread(target=watch, name="graphengine-interrupt", daemon=True).start()
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        ended.set()
        asked.put(0)


def needed(graph: GraphData) -> int:
    """The most nodes that a run of the whole graph may need."""
    from graphengine.graph.selection import wanted_links

    _, links, extra = wanted_links(graph, None)
    return len(subgraph(graph, [*links, *extra]).nodes)


def print_drawn(inputs: BoundInputs) -> None:
    """Print the numbers that were drawn for a run, on standard error: with them it can be made again."""
    for place, number in inputs.drawn.items():
        print(f"{place}: {number} was drawn", file=sys.stderr)


def print_warnings(graph: GraphData, given: Mapping[str, Any] | None = None) -> None:
    """Print the warnings of a graph on standard error.

    Args:
        graph: The graph.
        given: The values that the declared inputs get.
    """
    listed = [*warnings(graph), *missing_files(graph, given)]
    print_problems(problem for problem in listed if problem.severity == "warning")
