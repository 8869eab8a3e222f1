"""Durations: how long calls of a node and loads of a model take, learnt from the calls that workers computed."""

from __future__ import annotations

UNKNOWN = 1.0
"""Seconds that a call is expected to take before one of its node was computed."""
LOAD = 5.0
"""Seconds that loading a model is expected to take before one was loaded."""


class Durations:
    """Seconds by node, and of loading a model.

    Attributes:
        load: Seconds that a call takes longer for each model that is loaded for it.
    """

    def __init__(self) -> None:
        self.load = LOAD
        self._nodes: dict[str, float] = {}

    def of(self, node: str) -> float:
        """The seconds that a call of a node takes once its models are loaded.

        Args:
            node: The node's full name.
        """
        return self._nodes.get(node, UNKNOWN)

    def took(self, node: str, seconds: float, together: int, loads: int) -> None:
        """Note how long a call took.

        Args:
            node: The node's full name.
            seconds: The call's part of the seconds of its batch.
            together: How many calls were in the batch.
            loads: How many models were loaded for it.
        """
        known = self._nodes.get(node, seconds)
        self._nodes[node] = min(seconds, 0.7 * known + 0.3 * seconds)
        if loads:  # each call of a batch notes its part
            longer = max(0.0, (seconds - known) * together) / loads
            self.load += 0.5 / together * (longer - self.load)
