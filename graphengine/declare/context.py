"""`Context`: what a running node can ask of its run (device, cancellation) and report to it (progress, previews)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Context:
    """The context of a running node, passed to its parameter annotated `Context`.

    This class itself is used when a node is called outside a run; it reports to nobody.

    Attributes:
        device: The device to compute on, as torch writes it (`cpu`, `cuda:0`).
        exact: The result must be exactly what this process computes for this call alone, not in a batch.
        node: The id of the node in its graph.
        watched: Whether previews may be shown; if not, none need be made.
        made: By input, how each linked input was made (device, threads, batch, ...).
    """

    device: str = "cpu"
    exact: bool = False
    node: str = ""
    watched: bool = False
    made: Mapping[str, Mapping[str, Any]] = {}

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return False

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the call was cancelled. A node that takes long should call it at least once a step."""

    def begin(self) -> None:
        """Note that computing begins; called by the engine, not by nodes."""

    def progress(self, step: int, total: int) -> None:
        """Report that `step` of `total` steps are done; raises `Cancelled` as `check_cancelled` does."""

    def preview(self, value: Any) -> None:
        """Show an intermediate value; its type must have a `view` (see `SocketType`)."""

    def making(self, socket: str, value: Any) -> Mapping[str, str]:
        """The texts to store in a picture that is saved from a linked input: how it was made. Empty outside a run.

        Args:
            socket: The name of the input.
            value: The value to be saved.
        """
        return {}

    def note(self, **facts: Any) -> None:
        """Record facts about how the value is made; they are kept with the value and in pictures made from it."""


INERT = Context()
"""The default of context parameters, for calls outside a run."""
