"""The story that is ended at every point: jobs that are submitted, claimed, computed, written and done; one that
fails while it writes, one that is cancelled, one that is put back.

    python -m tests.graphengine.service.acknowledged_jobs_survive.crash.story

plays it for each line of JSON that it reads (`Play`), in a process forked for it, and answers with a line: the status
of that process. What the story's processes were promised is appended to the file `acks`, beside its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.declare import registry
from graphengine.declare.registry import find
from graphengine.errors import GraphEngineError
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import delete, submit, submit_all
from graphengine.service.service import Backend, Service
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from tests.graphengine.service.acknowledged_jobs_survive.crash.layer import arm

T = TypeVar("T")
PACK = Path(__file__).parents[2] / "pack"
LENGTH, LONG = 3000, 100_000
"""Lines of a page; of one that a worker hands on through the disk store."""
PATIENCE = 120
"""Seconds after which a part that hangs is ended."""


@dataclass(frozen=True, slots=True)
class Play:
    """Which part is played, where, and what happens to it.

    Attributes:
        role: One of `ROLES`.
        folder: Where everything lies; what is beside it is not counted.
        mode, at: As the layer's.
    """

    role: str
    folder: str
    mode: str
    at: int

    @property
    def place(self) -> Path:
        return Path(self.folder)

    @property
    def log(self) -> Path:
        return Path(f"{self.folder}.log")

    @property
    def once(self) -> Path:
        return Path(f"{self.folder}.struck")

    @property
    def acks(self) -> Path:
        return Path(f"{self.folder}.acks")


# --- the jobs ---------------------------------------------------------------------------------------------------------


def job(place: Path, name: str) -> dict[str, Any]:
    """The arguments of `submit` for a job of the story: its name says what it is."""
    common: dict[str, Any] = {"out": place / "out", "name": name}
    what = name.partition("-")[0]
    if what in ("pages", "long"):  # two files
        graph = Graph()
        x = graph.input("x", int)
        for output, shift in (("a", 0), ("b", 1)):
            graph.add("pack.plus", f"{output}0", x=x, y=shift)
            graph.add("pack.page", output, x=graph[f"{output}0"], length=LONG if what == "long" else LENGTH)
            graph.output(output, graph[output])
        return {"graph": graph, "inputs": {"x": 7}, **common}
    if what in ("bytes", "finished"):  # bytes with the job, before and after
        graph = Graph()
        graph.add("pack.echo", "n", value=graph.input("value", Any))
        graph.output("a", graph["n"])
        page = find("pack.page").fn(0)
        finish = {"finish": ("nothing", None), "out": None} if what == "finished" else {}
        return {"graph": graph, "inputs": {"value": replace(page, text="7\n" * LENGTH)}, **common, **finish}
    if what == "torn":  # the second file cannot be written
        graph = Graph()
        x = graph.input("x", int)
        graph.add("pack.page", "a", x=x, length=LENGTH)
        graph.add("pack.torn", "b", x=x)
        graph.output("a", graph["a"])
        graph.output("b", graph["b"])
        return {"graph": graph, "inputs": {"x": 7}, **common}
    assert what in ("cancelled", "back"), what
    graph = Graph()  # a file, once it may go on
    graph.add("pack.gate", "g", x=graph.input("x", int), file=str(place.with_name(f"{place.name}.open")))
    graph.add("pack.page", "a", x=graph["g"], length=LENGTH)
    graph.output("a", graph["a"])
    return {"graph": graph, "inputs": {"x": 7}, **common}


def files(name: str) -> dict[str, str]:
    """The files of a job that is done, by name, and what they hold."""
    what = name.partition("-")[0]
    lines = LONG if what == "long" else LENGTH
    two = {"a": "7\n", "b": "8\n"}
    texts = {"finished": {}, "pages": two, "long": two}.get(what, {"a": "7\n"})
    return {f"{name}_{output}_00000.txt": text * lines for output, text in texts.items()}


# --- the parts --------------------------------------------------------------------------------------------------------


def queue(place: Path, ahead: float = 0.0) -> Queue:
    """The story's queue, with a clock that is ahead."""
    return Queue(place / "q.sqlite", lambda: time.time() + ahead)


def serving(place: Path, ahead: float = 0.0, backend: Backend | None = None, at_once: int = 1) -> Service:
    """A service of the story's queue."""
    made = queue(place, ahead)
    finishers = {"nothing": lambda data, outputs: []}
    runner = InlineRunner() if backend is None else backend
    return Service(made, runner, DiskStore(place / "store"), concurrency=at_once, finishers=finishers)


def submitting(play: Play, begin: Callable[[], None], ack: Callable[..., None]) -> None:
    """Submit, in all ways; move, pause, cancel, delete."""
    begin()
    numbers: list[int] = []
    base = opened(lambda: queue(play.place))
    with wrong():
        ack("submitted", submit(base, **job(play.place, "bytes-0")), "bytes-0")
    with wrong():
        names = ["bytes-1", "bytes-2", "pages-3"]
        numbers = submit_all(base, [job(play.place, name) for name in names])
        for number, name in zip(numbers, names, strict=True):
            ack("submitted", number, name)
    with wrong():
        base.pause("ann")
    with wrong():
        for number in numbers[:1]:
            base.move(number)
            base.cancel(number)
            ack("cancelled", number)
            delete(base, number)
            ack("deleted", number)
    with wrong():
        base.resume("ann")
    with wrong():
        ack("submitted", submit(base, **job(play.place, "finished-4")), "finished-4")
    base.close()


def running(play: Play, begin: Callable[[], None], ack: Callable[..., None]) -> None:
    """Run jobs one after another: done, torn, finished, cancelled while it runs, put back."""
    numbers = _prepared(play, ack, "pages-0", "torn-1", "bytes-2", "finished-3", "cancelled-4", "back-5")
    begin()
    service = opened(lambda: serving(play.place))
    running = threading.Event()

    def listen(event: JobEvent) -> None:
        if event.kind == "node_started" and event.job == numbers[4]:
            with wrong():
                service.cancel(event.job)
                ack("cancelling", event.job)
        if event.kind == "node_started" and event.job == numbers[5]:
            running.set()

    service.subscribe(listen)
    with service:
        end = time.monotonic() + PATIENCE / 2
        while not running.wait(0.05) and service.queue.unfinished() and time.monotonic() < end:
            if numbers[4] in service.queue.unfinished() and service.queue.get(numbers[4]).attempt > 0:
                with wrong():  # its cancelling may have failed
                    service.cancel(numbers[4])
        service.let_go()


def working(play: Play, begin: Callable[[], None], ack: Callable[..., None]) -> None:
    """Compute for a service, whose own writing is not counted."""
    _prepared(play, ack, "long-0", "bytes-1")
    chosen = {"ROOT": play.place, "LOG": play.log, "MODE": play.mode, "AT": play.at, "ONCE": play.once}
    os.environ.update({f"CRASH_{name}": str(value) for name, value in chosen.items()})
    os.environ["CRASH_ONLY"] = "graphengine.service.workers.worker"
    workers = [LocalWorker("w", threads=1, store=str(play.place / "store"), packs=(str(PACK),))]
    runner = WorkerRunner(workers, DiskStore(play.place / "store"), on_warning=lambda sentence: None)
    with serving(play.place, backend=runner) as service:
        service.wait(*service.queue.unfinished(), timeout=PATIENCE / 2)


ROLES = {"submitter": submitting, "service": running, "worker": working}


def opened(make: Callable[[], T]) -> T:
    """What is opened, at the second try where the first fails."""
    with wrong():
        return make()
    return make()


@contextlib.contextmanager
def wrong() -> Iterator[None]:
    """What fails where a call was made to fail: in a sentence of ours."""
    with contextlib.suppress(GraphEngineError):
        yield


def _prepared(play: Play, ack: Callable[..., None], *names: str) -> list[int]:
    """Jobs that were submitted before anything goes wrong."""
    base = queue(play.place)
    numbers = submit_all(base, [job(play.place, name) for name in names])
    base.close()
    for number, name in zip(numbers, names, strict=True):
        ack("submitted", number, name)
    return numbers


def act(play: Play) -> None:
    """Play a part in this process."""
    play.place.mkdir(parents=True)
    acks = os.open(play.acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def ack(*what: Any) -> None:
        size = play.log.stat().st_size if play.log.exists() else 0  # of what was recorded before
        os.write(acks, json.dumps([size, *what]).encode() + b"\n")

    def begin() -> None:
        if play.mode != "record":
            arm(play.place, play.log, play.mode, play.at, play.once)

    if play.mode == "record":  # all of it, with what is prepared
        play.place.rmdir()
        arm(play.place, play.log, play.mode, play.at)
        play.place.mkdir()
    ROLES[play.role](play, begin, ack)


def main() -> None:
    """Play what is asked for on standard input."""
    assert registry.load_folder(PACK) == []
    print("ready", flush=True)
    for line in sys.stdin:
        play = Play(**json.loads(line))
        process = os.fork()
        if process == 0:
            code = 70
            try:
                signal.alarm(PATIENCE)
                act(play)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def as_line(play: Play) -> str:
    """What `main` reads."""
    return json.dumps(asdict(play)) + "\n"


if __name__ == "__main__":
    main()
