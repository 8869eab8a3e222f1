"""How long calls take: learnt from those that workers have computed."""

from __future__ import annotations

UNKNOWN = 1.0
"""Seconds of a call of a node of which none has been computed."""
LOAD = 5.0
"""Seconds that loading a model is taken for before one has been loaded."""


class Durations:
    """Seconds by node, and of loading a model.

    Attributes:
        load: How much longer a call takes for each model that is loaded for it.
    """

    def __init__(self) -> None:
        self.load = LOAD
        self._nodes: dict[str, float] = {}

    def of(self, node: str) -> float:
        """What a call of a node takes whose models are loaded, by the node's full name."""
        return self._nodes.get(node, UNKNOWN)

    def took(self, node: str, seconds: float, together: int, loads: int) -> None:
        """One of so many calls together took so many seconds, its part of what all took, after so many loads."""
        known = self._nodes.get(node, seconds)
        self._nodes[node] = min(seconds, 0.7 * known + 0.3 * seconds)
        if loads:  # told by each of those together, since each says its part of the seconds
            longer = max(0.0, (seconds - known) * together) / loads
            self.load += 0.5 / together * (longer - self.load)
