"""What a running node may ask of the run: progress, cancellation, previews, the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Context:
    """Injected into a parameter annotated `Context`; this class itself is the inert one of a plain call.

    Attributes:
        device: Where to compute, as torch writes it (`cpu`, `cuda:0`).
        exact: The result must be exactly what this process computes for this call alone.
        node: The id of the node in its graph.
        watched: Whether anybody may look at previews; where nobody does, none need be made.
        made: How each linked input was made (device, threads, batch, ...), by input.
    """

    device: str = "cpu"
    exact: bool = False
    node: str = ""
    watched: bool = False
    made: Mapping[str, Mapping[str, Any]] = {}

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the result any more."""
        return False

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if nobody wants the result any more. Call it at least once a step."""

    def begin(self) -> None:
        """What computes the node begins to; called by that, not by nodes."""

    def progress(self, step: int, total: int) -> None:
        """Say that `step` of `total` steps are done; raises `Cancelled` like `check_cancelled`."""

    def preview(self, value: Any) -> None:
        """Show an intermediate value (anything whose type says how a person sees it)."""

    def making(self, socket: str, value: Any) -> Mapping[str, str]:
        """The texts that a picture carries which is saved from this linked input; none outside a run."""
        return {}

    def note(self, **facts: Any) -> None:
        """Record how the value is being made; it stands beside the value and in the pictures made of it."""


INERT = Context()
"""The default of context parameters: a plain call outside a run reports to nobody."""
