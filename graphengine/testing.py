"""For tests of nodes, graphs and workflows: what happened in a run, why each node did or did not run, and workers
without processes or GPUs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from graphengine.events import Event, Kind, Reuse
from graphengine.service.workers.deaths import End, Fault
from graphengine.service.workers.in_process import Inbox
from graphengine.service.workers.process import Lost, Told
from graphengine.service.workers.wire import Message, pack, unpack
from graphengine.service.workers.worker import Worker

__all__ = ["FakeWorker", "Recorder"]


class Recorder:
    """A listener that keeps every event and answers for the nodes.

        recorder = Recorder()
        graph.run(listeners=[recorder])
        assert recorder.why["sample"] is Reuse.COMPUTED
        assert recorder.computed == Counter({"std.sample": 1})

    One recorder may listen to any number of runs, from any threads; `clear` forgets what it heard.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def clear(self) -> None:
        """Forget what was heard."""
        self.events.clear()

    def of(self, kind: Kind) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in list(self.events) if event.kind is kind]

    @property
    def why(self) -> dict[str, Reuse]:
        """By node id, how its value came last; nodes that were not needed are missing."""
        return {event.node: event.reuse for event in self.of(Kind.NODE_FINISHED) if event.reuse is not None}

    @property
    def computed(self) -> Counter[str]:
        """How often each type of node was computed, by its full name."""
        return self.counts(Reuse.COMPUTED)

    def counts(self, reuse: Reuse) -> Counter[str]:
        """How many values of each type of node came in one way, by full name."""
        return Counter(event.type for event in self.of(Kind.NODE_FINISHED) if event.reuse is reuse)

    @property
    def failed(self) -> dict[str, str]:
        """By node id, the message of each node that failed."""
        return {event.node: event.error or "" for event in self.of(Kind.NODE_FAILED)}


class FakeWorker:
    """A worker on threads of this process, with the nodes of this process; for the rest it is as any other.

        with Service("queue.sqlite", WorkerRunner([FakeWorker("a"), FakeWorker("b", device="cuda:0")])) as service:
            ...

    What it is given and what it tells crosses as bytes. `kill` loses it as the death of a process does: nothing more
    is heard of it, and the service starts it anew. But no thread can be ended from without: a node that does not look
    whether it is cancelled computes on unheard, and one that ends its process ends the tests.

    Args:
        name: Unique in its service.
        device: What its nodes are told; there need be no such device.
        store: The folder of the disk store that it shares with the service.
    """

    def __init__(self, name: str, device: str = "cpu", store: str | None = None) -> None:
        self.name, self.device = name, device
        self.config: Message = {"device": device, "store": store, "packs": []}
        self._inbox = Inbox()

    def start(self, told: Told, lost: Lost) -> None:
        """Start it, or start it anew after it was lost."""
        inbox = self._inbox = Inbox()
        for work, arguments in ((self._work, (inbox,)), (self._listen, (inbox, told, lost))):
            threading.Thread(target=work, args=arguments, name=f"graphengine-{self.name}", daemon=True).start()

    def send(self, message: Message, blobs: Mapping[str, bytes]) -> None:
        """Say something to it."""
        self._inbox.order(pack(message, blobs))

    def kill(self) -> None:
        """Lose it at once."""
        self._inbox.close()

    def _work(self, inbox: Inbox) -> None:
        error: BaseException | None = None
        try:
            _ThreadWorker(inbox, self.config).run()
        except Exception as found:
            error = found
        inbox.end(error)

    def _listen(self, inbox: Inbox, told: Told, lost: Lost) -> None:
        end = End("it was killed")
        try:
            for group in inbox.told():
                for data in group:
                    told(self, *unpack(data))
        except Exception as error:
            end = End(f"it failed: {error!r}", Fault.CALL)
        lost(self, end)


class _ThreadWorker(Worker):
    def absent(self) -> str | None:
        """Its device is only said to be there."""
        return None

    def end(self) -> None:
        """There is nobody to work for any more: what it computes is cancelled."""
        for context in list(self._contexts.values()):
            context.stopped = True
        self._orders.put(None)
