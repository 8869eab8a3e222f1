"""Helpers for tests of nodes, graphs and workflows: a recorder of a run's events, and workers without processes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from graphengine.events import Event, Kind, Reuse
from graphengine.service.retry import Fault
from graphengine.service.workers.deaths import End
from graphengine.service.workers.in_process_pipe import InProcessPipe
from graphengine.service.workers.process import OnLost, OnMessage
from graphengine.service.workers.wire import Message, pack, unpack
from graphengine.service.workers.worker import Worker

__all__ = ["FakeWorker", "Recorder"]


class Recorder:
    """A listener that keeps every event, and says which nodes were computed, reused or failed.

        recorder = Recorder()
        graph.run(listeners=[recorder])
        assert recorder.why["sample"] is Reuse.COMPUTED
        assert recorder.computed == Counter({"std.sample": 1})

    One recorder may listen to any number of runs, from any threads; `clear` forgets their events.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def clear(self) -> None:
        """Forget all events."""
        self.events.clear()

    def of(self, kind: Kind) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in list(self.events) if event.kind is kind]

    @property
    def why(self) -> dict[str, Reuse]:
        """How each node's value was obtained last, by node id; nodes that were not needed are missing."""
        return {event.node: event.reuse for event in self.of(Kind.NODE_FINISHED) if event.reuse is not None}

    @property
    def computed(self) -> Counter[str]:
        """How often each node type was computed, by its full name."""
        return self.counts(Reuse.COMPUTED)

    def counts(self, reuse: Reuse) -> Counter[str]:
        """How many values of each node type were obtained in one way, by full name."""
        return Counter(event.type for event in self.of(Kind.NODE_FINISHED) if event.reuse is reuse)

    @property
    def failed(self) -> dict[str, str]:
        """The error message of each node that failed, by node id."""
        return {event.node: event.error or "" for event in self.of(Kind.NODE_FAILED)}


class FakeWorker:
    """A worker on threads of this process, with this process's nodes; otherwise it behaves as any other worker.

        with Service("queue.sqlite", WorkerRunner([FakeWorker("a"), FakeWorker("b", device="cuda:0")])) as service:
            ...

    Messages to and from it are bytes, as with a process. `kill` has the effect of a process that dies: no message
    comes any more, and the service starts the worker again. But a thread cannot be ended from outside: a node that
    never checks for cancellation computes on unnoticed, and a node that ends its process ends the tests.

    Args:
        name: Unique in its service.
        device: The device that its nodes see in their context; it need not exist.
        store: The folder of the disk store that it shares with the service.
    """

    def __init__(self, name: str, device: str = "cpu", store: str | None = None) -> None:
        self.name, self.device = name, device
        self.config: Message = {"device": device, "store": store, "packs": []}
        self._inbox = InProcessPipe()

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """Start the worker, for the first time or after it was lost."""
        inbox = self._inbox = InProcessPipe()
        for work, arguments in ((self._work, (inbox,)), (self._listen, (inbox, on_message, on_lost))):
            threading.Thread(target=work, args=arguments, name=f"graphengine-{self.name}", daemon=True).start()

    def send(self, message: Message, blobs: Mapping[str, bytes]) -> None:
        """Send the worker a message."""
        self._inbox.order(pack(message, blobs))

    def kill(self) -> None:
        """End the connection at once, as the death of a process does."""
        self._inbox.close()

    def is_stopped(self) -> bool:
        """Whether its process is stopped; it has none of its own."""
        return False

    def _work(self, inbox: InProcessPipe) -> None:
        error: BaseException | None = None
        try:
            _ThreadWorker(inbox, self.config).run()
        except Exception as raised:
            error = raised
        inbox.end(error)

    def _listen(self, inbox: InProcessPipe, on_message: OnMessage, on_lost: OnLost) -> None:
        end = End("it was killed")
        try:
            for group in inbox.told():
                for data in group:
                    on_message(self, *unpack(data))
        except Exception as error:
            end = End(f"it failed: {error!r}", Fault.CALL)
        on_lost(self, end)


class _ThreadWorker(Worker):
    def missing_device(self) -> str | None:
        """None: its device need not exist."""
        return None

    def end(self) -> None:
        """Cancel what it computes, because the connection has ended."""
        for context in list(self._contexts.values()):
            context.stopped = True
        self._orders.put(None)
