"""For tests of nodes, graphs and workflows: what happened in a run, and why each node did or did not run."""

from __future__ import annotations

from collections import Counter

from graphengine.events import Event, Kind, Reuse

__all__ = ["Recorder"]


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
