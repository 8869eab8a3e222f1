"""Workers on a Ray cluster: one actor each, with as many GPUs as it claims.

Ray places the actors, carries bytes and reports deaths; queue, scheduling, retries and restarts are the service's, as
with workers on one machine. The actors belong to the service and end with it, as a process with a pipe does; Ray never
restarts them, as it does not know what killed them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphengine.service.retry import RAY_START, Fault
from graphengine.service.workers.deaths import End
from graphengine.service.workers.in_process_pipe import InProcessPipe
from graphengine.service.workers.process import OnLost, OnMessage
from graphengine.service.workers.ray_cluster import NAMESPACE, RayError, first_line
from graphengine.service.workers.wire import Message, pack, unpack
from graphengine.version import __version__

SPACING = 0.05
"""Seconds between messages with steps: each message costs Ray about a millisecond at either end."""


# --- in the cluster ---------------------------------------------------------------------------------------------------


class Actor:
    """The worker of `graphengine.service.workers.worker` in an actor.

    Args:
        config: As a worker's, with `threads`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        # Before torch is imported: it cannot be changed for all threads later.
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(config["threads"]))
        self._config, self._inbox = config, InProcessPipe()

    def hello(self) -> Message:
        """Tell its node, version and token mode, which the service checks before it sends calls."""
        import ray

        node = ray.util.get_node_ip_address()
        auth = os.environ.get("RAY_AUTH_MODE")
        return {"node": node, "pid": os.getpid(), "version": __version__, "auth": auth}

    def run(self) -> Iterator[list[bytes]]:
        """Start the worker and yield its messages in groups until it has ended."""
        threading.Thread(target=self._work, name="graphengine-worker", daemon=True).start()
        yield from self._inbox.told(SPACING)

    def order(self, data: bytes) -> None:
        """Hand a message to the worker."""
        self._inbox.order(data)

    def _work(self) -> None:
        from graphengine.service.workers.worker import Worker

        error: BaseException | None = None
        try:
            Worker(self._inbox, self._config).run()
        except Exception as found:
            error = found
        self._inbox.end(error)


# --- in the service ---------------------------------------------------------------------------------------------------


class RayWorker:
    """A worker that is an actor of the cluster that this process has joined.

    Args:
        name: Unique in its service.
        num_gpus: How many GPUs it claims; with none it computes on the processor.
        threads: How many threads it computes with, and how many CPUs it claims.
        store: A folder of a disk store that the service and all nodes share; None where they share none.
        packs: Folders of nodes to load, at the same place on every node.
        patience: Seconds until it must have been placed and started; the cluster may be growing.
        options: More for Ray: `label_selector`, `resources`, ...
    """

    def __init__(
        self,
        name: str,
        num_gpus: float = 1,
        threads: int = 1,
        store: str | None = None,
        packs: tuple[str, ...] = (),
        patience: float = RAY_START,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.threads, self.num_gpus, self.patience = name, threads, num_gpus, patience
        self._kind = "cuda:0" if num_gpus else "cpu"  # Ray shows an actor the GPUs that it was given, and no others
        self.device = self._kind
        self.config: Message = {"device": self._kind, "store": store, "packs": list(packs), "threads": threads}
        self.placement: Mapping[str, Any] = options or {}
        self._actor: Any = None
        self._thread: threading.Thread | None = None

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        arguments, name = (on_message, on_lost), f"graphengine-{self.name}"
        self._thread = threading.Thread(target=self._live, args=arguments, name=name, daemon=True)
        self._thread.start()

    def _live(self, on_message: OnMessage, on_lost: OnLost) -> None:
        import ray

        actor, where = None, "the cluster"
        try:
            actor = self._actor = self._create()
            facts = self._greet(actor)
            where = facts["node"]
            self.device = f"{self._kind} at {where}"
            for item in actor.run.options(num_returns="streaming").remote():
                group = ray.get(item)
                del item  # the last reference: Ray may forget the bytes
                for data in group:
                    on_message(self, *unpack(data))
            end = End(f"it ended on {where}")
        except RayError as error:
            end = End(str(error), Fault.NOBODY)
        except ray.exceptions.RayActorError as error:  # Ray does not tell a crash from a kill
            end = End(f"its actor on {where} {_reason(error)}")
        except ray.exceptions.OutOfMemoryError as error:
            end = End(f"{where} was out of memory: {first_line(error)}", Fault.CALL)
        except ray.exceptions.RayTaskError as error:
            end = End(f"it failed on {where}: {error.cause!r}", Fault.CALL)
        except Exception as error:  # the connection to the cluster is lost, or was closed
            end = End(f"Ray lost it: {first_line(error)}", Fault.NOBODY)
        if actor is not None:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        on_lost(self, end)

    def _create(self) -> Any:
        import ray

        options: dict[str, Any] = {
            "num_cpus": self.threads,
            "num_gpus": self.num_gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "name": f"{self.name}-{uuid.uuid4().hex[:8]}",
            "namespace": NAMESPACE,
            "scheduling_strategy": "SPREAD",
        }
        kind = ray.remote(concurrency_groups={"orders": 1})(Actor)  # orders: one thread, which keeps them in order
        return kind.options(**{**options, **self.placement}).remote(self.config)

    def _greet(self, actor: Any) -> Message:
        """Wait until the actor has started; returns what it tells of itself."""
        import ray

        try:
            facts: Message = ray.get(actor.hello.remote(), timeout=self.patience)
        except ray.exceptions.GetTimeoutError:
            raise RayError(
                f"no node started it with {self._wish()} within {self.patience:g} s; of "
                f"{_amount(ray.cluster_resources())} in the cluster, {_amount(ray.available_resources())} are free"
            ) from None
        if facts["auth"] != "token":
            raise RayError(f"Ray on {facts['node']} takes orders from anyone; start it with RAY_AUTH_MODE=token")
        if facts["version"] != __version__:
            raise RayError(f"{facts['node']} has graphengine {facts['version']}, the service {__version__}; install it")
        return facts

    def _wish(self) -> str:
        """The resources that it claims, in words."""
        claims = [f"{self.threads} CPU", f"{self.num_gpus:g} GPU"][: 2 if self.num_gpus else 1]
        return " and ".join(claims + [f"{name} {what}" for name, what in self.placement.items()])

    def send(self, message: Message, blobs: Mapping[str, bytes]) -> None:
        with contextlib.suppress(Exception):  # it is gone; its thread calls on_lost
            self._actor.order.options(concurrency_group="orders").remote(pack(message, blobs))

    def kill(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # it is gone already, or the cluster is
            ray.kill(self._actor)

    def is_stopped(self) -> bool:
        return False  # Ray does not tell

    def wait(self, seconds: float) -> None:
        """Wait until the thread that listens to its actor has ended: Ray can crash a process that leaves the cluster
        while another thread calls Ray."""
        if self._thread is not None:
            self._thread.join(seconds)


def _reason(error: Exception) -> str:
    """What became of an actor, from the lines of Ray's error."""
    from ray.exceptions import ActorUnavailableError

    if isinstance(error, ActorUnavailableError):  # Ray would wait for it; the messages that were under way are lost
        return "cannot be reached: its process, its node or the network between has failed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    if "creation task" in lines[0]:
        return f"is gone: {lines[-1]}"  # of a traceback: the exception
    text = " ".join(lines[1:] or lines).replace("Worker exit type: SYSTEM_ERROR Worker exit detail: ", "")
    for advice in (" Some common causes", " There are some potential root causes"):
        text = text.partition(advice)[0]
    return f"is gone: {text.rstrip('.')}"


def _amount(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"


# --- all together -----------------------------------------------------------------------------------------------------


def ray_workers(
    count: int | None = None,
    *,
    num_gpus: float | None = None,
    threads: int = 1,
    store: str | None = None,
    packs: Sequence[str] = (),
    patience: float = RAY_START,
    options: Mapping[str, Any] | None = None,
) -> list[RayWorker]:
    """Workers on the cluster that this process has joined.

    Args:
        count: How many; by default one for each share of `num_gpus` in the cluster, or on processors one for each node.
        num_gpus: GPUs of each; by default one if the cluster has any, else none.
        threads, store, packs, patience, options: Those of `RayWorker`.
    """
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    each = num_gpus if num_gpus is not None else float(gpus > 0)
    nodes = sum(node["Alive"] for node in ray.nodes())
    number = count or (int(gpus / each) if each else nodes) or 1
    return [RayWorker(f"worker-{n}", each, threads, store, tuple(packs), patience, options) for n in range(number)]
