"""Weights that a worker loads before a call needs them: references to them, sent to workers as trees."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphengine.pack import pack_of
from graphengine.service.workers.wire import Blobs, Message, Values
from graphengine.values.socket_types import socket_type


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights to load: those that a reference stands for, or one part of it.

    Attributes:
        reference: A value of a type whose `SocketType` has `needs`.
        part: As that takes it; None for the whole.
    """

    reference: Any
    part: str | None = None

    def needs(self) -> frozenset[str]:
        """The digests of the weights, as a worker tells them that holds them."""
        known = socket_type(type(self.reference))
        return frozenset() if known is None or known.needs is None else known.needs(self.reference, self.part)

    def load(self, device: str) -> None:
        """Load them into this process's memory.

        Raises:
            Exception: Whatever the pack raises: they are not on this machine, are damaged, do not fit into the memory.
        """
        load = pack_of(type(self.reference).__module__).load
        if load is not None:
            load(self.reference, self.part, device)


def load_all(weights: Sequence[Weights], device: str) -> None:
    """Load weights into this process's memory, and import before what nodes import that compute with them.

    Raises:
        Exception: Whatever a pack raises that cannot load them.
    """
    packs = [pack_of(type(one.reference).__module__) for one in weights]
    for name in dict.fromkeys(name for pack in packs for name in pack.preload):
        with contextlib.suppress(Exception):  # the node that needs the module tells
            importlib.import_module(name)
    for one in weights:
        one.load(device)


def order_of(name: str, weights: Sequence[Weights], values: Values) -> tuple[Message, Blobs]:
    """The message that has a worker load weights, and its blobs.

    Args:
        name: By which the worker tells of them.

    Raises:
        NotStorable: A reference cannot leave this process.
    """
    blobs: Blobs = {}
    items = [{"tree": values.encode(one.reference, blobs, share=False), "part": one.part} for one in weights]
    return {"op": "load", "name": name, "weights": items}, blobs


def weights_of(message: Mapping[str, Any], blobs: Blobs, values: Values) -> list[Weights]:
    """The weights that such a message names."""
    return [Weights(values.decode(item["tree"], blobs), item["part"]) for item in message["weights"]]
