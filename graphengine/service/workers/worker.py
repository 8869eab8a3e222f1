"""A worker: a process that computes calls of nodes for one device, until its connection ends.

    python -m graphengine.service.workers.worker FD

It is started by the service, never through the user's `__main__`, and speaks through the one pipe that it is given.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.cache.disk import DiskStore
from graphengine.declare.context import Context
from graphengine.declare.definition import NodeDef
from graphengine.errors import Cancelled, Exhausted, GraphEngineError, NotStorable, as_exception, short_path, text_of
from graphengine.execution.guard import Guard
from graphengine.execution.runner import Call, compute, free_memory
from graphengine.keys.call_key import identity, is_current
from graphengine.service.previews import preview_png
from graphengine.service.workers.compatibility import missing_device, source_hashes
from graphengine.service.workers.loading import load_all, weights_of
from graphengine.service.workers.wire import Blobs, Message, Values, error_facts, pack, unpack
from graphengine.system.channel import pipe_from
from graphengine.system.process_tree import end_own_tree
from graphengine.system.terminal import screened
from graphengine.system.threads import start
from graphengine.values.checksum import sum_of
from graphengine.values.literals import coerce

log = logging.getLogger(__name__)

ALONE = 4
"""The exit code of a worker whose pipe is gone: its service is, or a node has closed it."""


class RemoteContext(Context):
    """The context of a call that a worker computes: it sends steps and previews to the service."""

    def __init__(self, worker: Worker, call: int, facts: Mapping[str, Any]) -> None:
        self._worker, self._call = worker, call
        self.device, self.exact, self.node = worker.device, facts["exact"], facts["node"]
        self.made, self.watched, self.share = facts["made"], facts["watched"], facts.get("share", True)
        self._making: Mapping[str, Mapping[str, str]] = facts.get("making", {})
        self.facts: dict[str, Any] = {}
        self.stopped = False

    def begin(self) -> None:
        self.facts.clear()  # of a batch that came to nothing

    @property
    def cancelled(self) -> bool:
        return self.stopped

    def check_cancelled(self) -> None:
        if self.stopped:
            raise Cancelled(f"{short_path(self.node)} was cancelled")

    def progress(self, step: int, total: int) -> None:
        self.check_cancelled()
        self._worker.tell({"op": "progress", "call": self._call, "step": step, "total": total})

    def preview(self, value: Any) -> None:
        png = preview_png(value) if self.watched else None  # the service need not know the type
        self._worker.tell({"op": "preview", "call": self._call}, {} if png is None else {"png": png})

    def making(self, socket: str, value: Any) -> Mapping[str, str]:
        return dict(self._making.get(socket, {}))

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)


class Worker:
    """Computes calls that come through a pipe, one group after the other or many at once, and sends back what happens.

    Args:
        connection: To the service.
        config: `device`, `store` (the folder of the shared disk store, or null), `packs` (folders), `helps` (it
            computes each group on a thread of its own).
    """

    def __init__(self, connection: Any, config: Mapping[str, Any]) -> None:
        self.connection, self.device = connection, str(config["device"])
        self.values = Values(DiskStore(config["store"]) if config["store"] else None)
        self._packs: Sequence[str] = config["packs"]
        self._helps = bool(config.get("helps"))
        self._contexts: dict[int, RemoteContext] = {}
        self._orders: queue.SimpleQueue[tuple[Message, Blobs] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._serial = itertools.count()

    def run(self) -> None:
        """Work until the service is gone."""
        from graphengine.declare import registry

        for folder in self._packs:
            for failure in registry.load_folder(folder):
                self.tell({"op": "warning", "text": str(failure)})
        start(self._listen, "graphengine-listen")
        self.tell({"op": "ready", "code": source_hashes(), "absent": self.missing_device(), **self._memory()})
        while (order := self._orders.get()) is not None:
            if order[0]["op"] == "environment":
                self._tell_environment()
            elif order[0]["op"] == "load":
                self._load(*order)
            elif order[0]["op"] == "free":
                self._free()
            elif self._helps:
                self._compute_beside(*order)
            else:
                self._compute(*order)

    def missing_device(self) -> str | None:
        """Why nothing can be computed on its device; None if it can."""
        return missing_device(self.device)

    def tell(self, message: Message, blobs: Mapping[str, bytes] | None = None) -> None:
        """Send a message to the service; if the service is gone, end this process."""
        data = pack(message, blobs or {})
        try:
            with self._lock:
                self.connection.send_bytes(data)
        except OSError:
            self.end()

    def end(self) -> None:
        """End this process and those that its nodes have forked: the service is gone."""
        end_own_tree(ALONE)

    def _listen(self) -> None:
        try:
            while True:
                message, blobs = unpack(self.connection.recv_bytes())
                if message["op"] == "calls":
                    for item in message["items"]:
                        self._contexts[item["call"]] = RemoteContext(self, item["call"], item)
                    self.tell({"op": "taken", "calls": [item["call"] for item in message["items"]]})
                    self._orders.put((message, blobs))
                elif message["op"] == "environment":
                    self.tell({"op": "taken", "calls": []})
                    self._orders.put((message, blobs))
                elif message["op"] in ("load", "free"):
                    self._orders.put((message, blobs))
                elif message["op"] == "cancel":
                    context = self._contexts.get(message["call"])
                    if context is not None:
                        context.stopped = True
                elif message["op"] == "watched":
                    context = self._contexts.get(message["call"])
                    if context is not None:
                        context.watched = bool(message["watched"])
        except (EOFError, OSError):  # the service is gone
            self.end()
        except BaseException:  # a worker that reads no messages is of no use
            log.exception("a message of the service could not be worked on")
            self.end()

    def _compute_beside(self, message: Message, blobs: Blobs) -> None:
        """Compute a group of calls on a thread of its own."""
        try:
            start(functools.partial(self._compute, message, blobs), "graphengine-call")
        except Exhausted as error:
            for item in message["items"]:
                self._landed(item["call"], error, 0.0, {})

    def _compute(self, message: Message, blobs: Blobs) -> None:
        calls = []
        for item in message["items"]:
            try:
                calls.append(self._call(message["node"], item, blobs, len(message["items"]) == 1))
            except BaseException as error:  # the node is not installed here, a value cannot be read
                self._landed(item["call"], as_exception(error), 0.0, {})
        if calls:
            compute(calls)

    def _call(self, name: str, item: Mapping[str, Any], blobs: Blobs, alone: bool) -> Call:
        from graphengine.declare import registry

        definition = registry.find(name)
        if definition is None:
            what = f"{registry.why_not(name)[0]}; a worker has the installed packs and those it is given (packs=[...])"
            raise GraphEngineError(what)
        inputs = {}
        for socket, tree in item["inputs"].items():
            inputs[socket] = coerce(self.values.decode(tree, blobs), definition.sockets[socket].type)
        number = item["call"]

        def landed(outcome: Any, seconds: float, facts: Mapping[str, Any]) -> None:
            self._landed(number, outcome, seconds, facts, definition)

        order = (next(self._serial), 0)
        guarded = [(name, value, sum) for name, value in inputs.items() if (sum := sum_of(value)) is not None]
        guard = Guard(guarded, private=alone) if guarded else None
        return Call(definition, inputs, b"", {}, self._contexts[number], item["exact"], order, landed, guard)

    def _landed(
        self, call: int, outcome: Any, seconds: float, facts: Mapping[str, Any],
        definition: NodeDef[..., Any] | None = None,
    ) -> None:  # fmt: skip
        """Send the outcome of a call; if that cannot be sent, the reason."""
        context = self._contexts.pop(call, None)
        if context is None:  # it was sent already
            return
        blobs: Blobs = {}
        message: Message = {"op": "landed", "call": call, "seconds": seconds}
        try:
            message |= self._memory()
            if isinstance(outcome, BaseException):
                message["error"] = error_facts(outcome)
            else:
                message["tree"] = self.values.encode(outcome, blobs, context.share)
                message["facts"] = {**facts, **context.facts}
                if definition is not None and definition.version is None:
                    is_current(definition)
                    message["identity"] = identity(definition).hex()
            self.tell(message, blobs)
        except NotStorable as error:
            self._failed(call, seconds, NotStorable(f"what it gave cannot leave its worker; {error}"))
        except BaseException as error:  # of a codec, a full disk, facts that are no data, a pack's `held`
            self._failed(call, seconds, as_exception(error))

    def _failed(self, call: int, seconds: float, error: Exception) -> None:
        nothing: Message = {"held": [], "free": None}
        self.tell({"op": "landed", "call": call, "seconds": seconds, "error": error_facts(error), **nothing})

    def _load(self, message: Message, blobs: Blobs) -> None:
        """Load weights before a call needs them, and tell how that ended."""
        answer: Message = {"op": "loaded", "name": message["name"], "error": None}
        try:
            load_all(weights_of(message, blobs, self.values), self.device)
            answer |= self._memory()
        except BaseException as raised:  # of a pack: files that are damaged or gone, no memory for them
            error = as_exception(raised)
            own = "" if isinstance(error, GraphEngineError) else f"{type(error).__name__}: "
            answer["error"] = f"{own}{text_of(error)}"
        self.tell(answer)

    def _tell_environment(self) -> None:
        """Send this process's environment; only for exact runs, as it imports torch."""
        from graphengine.declare import registry
        from graphengine.pack import environment, pack_of

        packs = sorted({pack_of(module) for module in registry.modules()}, key=lambda pack: pack.name)
        try:
            facts = environment(packs) | {"device": self.device.partition(":")[0]}
            self.tell({"op": "environment", "facts": facts})
        except BaseException as raised:  # torch or a pack's library cannot be imported
            error = as_exception(raised)
            own = "" if isinstance(error, GraphEngineError) else f"{type(error).__name__}: "
            self.tell({"op": "environment", "error": f"{own}{text_of(error)}"})

    def _free(self) -> None:
        """Drop the models that no call needs, and tell what is still held."""
        try:
            free_memory(self.device)
            self.tell({"op": "freed", **self._memory()})
        except Exception as error:  # of a pack
            what = f"its memory could not be freed: {type(error).__name__}: {text_of(error)}"
            self.tell({"op": "warning", "text": what})

    def _memory(self) -> Message:
        """The models that its packs hold in memory for this device, by digest, the bytes free for more, and those
        of the device's own memory that are free and that it has, if known."""
        from graphengine.declare import registry
        from graphengine.pack import pack_of

        packs = dict.fromkeys(map(pack_of, registry.modules()))
        held = {digest for pack in packs if pack.held is not None for digest in pack.held(self.device)}
        free = [bytes for pack in packs if pack.free is not None and (bytes := pack.free(self.device)) is not None]
        told = (pack.memory(self.device) for pack in packs if pack.memory is not None)
        memory = next((found for found in told if found is not None), None)
        return {"held": sorted(held), "free": min(free, default=None), "memory": memory}


def main() -> None:
    """Serve on the pipe given as the first argument; the first message is the configuration."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a KeyboardInterrupt here is a node's own
    connection = pipe_from(sys.argv[1])
    config, _ = unpack(connection.recv_bytes())
    for stream in (sys.stdout, sys.stderr):  # the service shows it line by line, and reads UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    with screened():
        Worker(connection, config).run()


if __name__ == "__main__":
    main()
