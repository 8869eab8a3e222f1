"""ComfyUI's WebSocket: tells clients how many jobs there are, and each client what happens to the jobs that it sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import struct
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import WSCloseCode, WSMsgType, web

from graphengine.events import Kind, Reuse
from graphengine.server.async_hub import AsyncHub
from graphengine.server.comfy.connection import Socket
from graphengine.server.comfy.jobs import cached, end_of, facts_of, node_of, outputs
from graphengine.server.http import CALLER, Pace
from graphengine.server.job_api import JobApi
from graphengine.server.problems import ApiError
from graphengine.server.thumbnails import enlarged
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Change, Job, JobEventKind
from graphengine.service.jobs.queue import NoJob
from graphengine.service.watcher import WatchEvent

log = logging.getLogger(__name__)

MOST_SOCKETS, MOST_OF_USER = 4000, 200
"""The most connections, and the most of a user who is no admin."""
PAUSE = 0.05
"""Seconds between two messages about the queue."""
DELIVERY_SECONDS = 60.0
"""The most seconds for which the message that a job has left the queue waits for the messages about its end."""
REMEMBERED = 1000
LONGEST_ID = 200
JPEG, PNG = 1, 2
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
PREVIEW_SIDE = 256
"""Pixels of the longer side of previews, at least: the frontend shows pictures no larger than they are."""
_COUNTED = (
    JobEventKind.QUEUED, JobEventKind.RUNNING, JobEventKind.DONE, JobEventKind.FAILED, JobEventKind.CANCELLED,
    JobEventKind.LOST, JobEventKind.LEFT, JobEventKind.DELETED,
)  # fmt: skip

ENDED = (JobEventKind.DONE, JobEventKind.FAILED, JobEventKind.CANCELLED)
T = TypeVar("T")

Client = tuple[str, str]
"""A user, and the name that a program of that user gave itself."""


@dataclass
class _Run:
    """A job that is told to its client.

    Attributes:
        node: The node that is computed, if any was begun.
        states: What was told last of the nodes that are computed.
        known: The nodes whose values were known already, as told.
    """

    job: Job
    client: Client
    started: bool = False
    node: str | None = None
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)


class Sockets:
    """All connections. Everything but what is said to run in a thread is used on the loop's thread only.

    Args:
        api: Knows the jobs.
        hub: The events of jobs.
    """

    def __init__(self, api: JobApi, hub: AsyncHub) -> None:
        self.api, self.hub = api, hub
        self._all: set[Socket] = set()
        self._of: dict[Client, Socket] = {}
        self._waiting: dict[int, Client] = {}
        self._runs: dict[int, _Run] = {}
        self._seen: OrderedDict[int, bool] = OrderedDict()  # jobs begun before their client was known, if ended
        self._told: OrderedDict[int, None] = OrderedDict()  # jobs whose end their client was told
        self._dirty = asyncio.Event()
        self._known, self._news = 0, asyncio.Event()  # the number of the last change that was heard
        self._counting = asyncio.Lock()  # held while a client is greeted with a count: newer ones come after it
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._teller: asyncio.Task[None] | None = None
        hub.listen(self._changed)

    # --- connections --------------------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """`GET /ws`."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError("bad_request", "this is a WebSocket: connect with ws:// and ?clientId=NAME")
        if len(self._all) >= MOST_SOCKETS:
            raise ApiError("unavailable", "too many clients are connected", headers={"Retry-After": "5"})
        caller: Caller = request[CALLER]
        if not caller.admin and sum(one.caller.user == caller.user for one in self._all) >= MOST_OF_USER:
            raise ApiError("busy", f"a user has at most {MOST_OF_USER} sockets", headers={"Retry-After": "5"})
        name = request.query.get("clientId", "")[:LONGEST_ID] or uuid.uuid4().hex
        client, socket = (caller.user, name), Socket(caller, request)
        self._all.add(socket)  # before anything waits, so that the limit holds
        tasks: list[asyncio.Task[None]] = []
        try:
            await socket.answer.prepare(request)
            async with self._counting:
                remaining = await asyncio.to_thread(self.api.remaining, caller)
                socket.send("status", {"status": {"exec_info": {"queue_remaining": remaining}}, "sid": name})
                socket.welcomed = True
            self._of[client] = socket  # replaces an older connection of the same program
            await self._resume(client, socket)
            tasks += [asyncio.create_task(work) for work in (socket.write(), self._close_at_end(socket))]
            pace = Pace()
            async for message in socket.answer:
                await pace.keep()
                if message.type is WSMsgType.TEXT:
                    self._heard(socket, message.data)
        finally:
            self._all.discard(socket)
            if self._of.get(client) is socket:
                del self._of[client]
            for task in tasks:
                task.cancel()
        return socket.answer

    async def _close_at_end(self, socket: Socket) -> None:
        """End a connection when the server ends."""
        await self.hub.closed.wait()
        await socket.answer.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")

    def _heard(self, socket: Socket, text: str) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(text)
            if isinstance(message, dict) and message.get("type") == "feature_flags":
                flags = message.get("data")
                socket.previews = isinstance(flags, dict) and flags.get("supports_preview_metadata") is True
                socket.send("feature_flags", features(self.api))

    async def _resume(self, client: Client, socket: Socket) -> None:
        """Tell a client that comes, maybe again, of its jobs that run."""
        for run in list(self._runs.values()):
            if run.client == client and run.started:
                self._tell_place(run, socket)
        for job in await asyncio.to_thread(self.api.unfinished, socket.caller):
            known = job.id in self._tasks or job.id in self._told  # it was begun, and maybe ended, meanwhile
            if not known and (job.user, facts_of(job).get("client")) == client:
                self.expect(job, client)

    def _tell_place(self, run: _Run, socket: Socket) -> None:
        id = run.job.uuid
        socket.send("execution_start", {"prompt_id": id, "timestamp": _now()})
        if run.known:
            socket.send("execution_cached", {"nodes": sorted(run.known), "prompt_id": id, "timestamp": _now()})
        if run.node is not None:
            socket.send("executing", {"node": run.node, "display_node": run.node, "prompt_id": id})
        if run.states:
            socket.send("progress_state", {"prompt_id": id, "nodes": run.states})

    # --- what happens -------------------------------------------------------------------------------------------------

    def expect(self, job: Job, client: Client) -> None:
        """Tell a client of a job from now on, if it is connected or comes before the job has ended."""
        self._waiting[job.id] = client
        ended = job.state.ended or self._seen.get(job.id, False)
        if ended or job.started is not None or job.id in self._seen:
            self._begin(job.id)
            if ended:
                self._waiting.pop(job.id, None)

    def _changed(self, changes: Sequence[Change]) -> None:
        """Hear of changes of the queue."""
        for change in changes:
            if change.kind not in _COUNTED:
                continue
            if change.kind not in (JobEventKind.QUEUED, JobEventKind.DELETED):
                if change.job in self._waiting:
                    self._begin(change.job)
                elif change.job not in self._tasks:
                    _remember(self._seen, change.job, change.kind in ENDED)
            if change.kind in ENDED:
                self._waiting.pop(change.job, None)
                if (task := self._tasks.get(change.job)) is not None:
                    self._ending.add(task)
            self._dirty.set()
        self._known = max([self._known, *(change.number for change in changes)])
        self._news.set()
        if self._teller is None:
            self._teller = asyncio.create_task(self._tell_counts())

    async def _tell_counts(self) -> None:
        """Tell all clients how many jobs there are, whenever that may have changed."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                callers = {socket.caller.scope: socket.caller for socket in self._all}
                counts, last = await asyncio.to_thread(self._counts, callers)
                await self._delivered(last)
                async with self._counting:
                    for socket in self._all:
                        if socket.welcomed and socket.caller.scope in counts:
                            remaining = counts[socket.caller.scope]
                            socket.send("status", {"status": {"exec_info": {"queue_remaining": remaining}}})
            except Exception:  # of the queue's file; the next change tells again
                log.exception("the number of jobs could not be told")
            await asyncio.sleep(PAUSE)

    def _counts(self, callers: Mapping[str | None, Caller]) -> tuple[dict[str | None, int], int]:
        """How many jobs there are for callers, by their scope, and the number of the last change in that."""
        return {scope: self.api.remaining(caller) for scope, caller in callers.items()}, self.api.queue.last_change()

    async def _delivered(self, last: int) -> None:
        """Wait until clients were told of the ends of jobs up to a change: who leaves at a count of zero must know."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELIVERY_SECONDS):
                while self._known < last:
                    self._news.clear()
                    await self._news.wait()
                ending, self._ending = self._ending, set()
                if ending:
                    await asyncio.wait(ending)

    def _begin(self, number: int) -> None:
        """Begin to tell of a job that has begun, if its client is connected."""
        client = self._waiting.get(number)
        if number not in self._tasks and client in self._of:
            del self._waiting[number]
            task = self._tasks[number] = asyncio.create_task(self._follow(number, client))
            task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _follow(self, number: int, client: Client) -> None:
        """Tell a client what happens to a job, until its end."""
        try:
            job = await asyncio.to_thread(self.api.job, number)
        except NoJob:
            return
        run = self._runs[number] = _Run(job, client)
        try:
            previews, is_first = self._sees_previews(run), True
            async with contextlib.aclosing(self.hub.watch(job, previews=previews)) as events:
                async for event in events:
                    # Looked up when the hub watches already, so that the end of the node is not missed.
                    if is_first and (node := self.api.service.doing().get(number, {}).get("node")):
                        self._enter(run, node_of(job, node))
                    is_first = False
                    if event.last:
                        _remember(self._told, number, None)
                        await self._end(run)
                    else:
                        await self._tell(run, event)
        except ApiError as error:  # too many clients watch
            log.warning("job %s is not told to its client: %s", job.uuid, error)
        finally:
            del self._runs[number]

    async def _tell(self, run: _Run, event: WatchEvent) -> None:
        """Tell one event of a job's run, or of its life."""
        id, node = run.job.uuid, node_of(run.job, str(event.data.get("node", "")))
        match event.kind:
            case JobEventKind.RUNNING:
                self._start(run)
            case JobEventKind.LOST | JobEventKind.LEFT:  # it waits again
                run.started, run.node = False, None
                run.states.clear()
            case Kind.NODE_STARTED:
                self._enter(run, node)
            case Kind.PROGRESS:
                self._enter(run, node)
                value, most = event.data.get("step", 0), event.data.get("total", 0)
                self._send(run, "progress", {"value": value, "max": most, "prompt_id": id, "node": node})
                self._progress(run, node, "running", value, most)
            case Kind.NODE_FINISHED if event.data.get("reuse") != Reuse.COMPUTED and node not in run.states:
                if node not in run.known:
                    self._start(run)
                    run.known.add(node)
                    self._send(run, "execution_cached", {"nodes": [node], "prompt_id": id, "timestamp": _now()})
            case Kind.NODE_FINISHED:
                most = run.states.get(node, {}).get("max", 1)
                self._progress(run, node, "finished", most, most)
                run.states.pop(node, None)
            case Kind.PREVIEW:
                await self._preview(run, node, event.data)

    def _start(self, run: _Run) -> None:
        """Tell that a job runs, once."""
        if not run.started:
            run.started = True
            self._send(run, "execution_start", {"prompt_id": run.job.uuid, "timestamp": _now()})

    def _enter(self, run: _Run, node: str) -> None:
        """Tell that a node is computed now, unless that was told last."""
        self._start(run)
        if run.node != node:
            run.node = node
            self._send(run, "executing", {"node": node, "display_node": node, "prompt_id": run.job.uuid})
        if node not in run.states:
            self._progress(run, node, "running", 0, 1)

    def _progress(self, run: _Run, node: str, state: str, value: float, most: float) -> None:
        """Tell the state of a node, and of all others that are computed."""
        id = run.job.uuid
        run.states[node] = {
            "value": value, "max": most, "state": state, "node_id": node, "prompt_id": id, "display_node_id": node,
            "parent_node_id": None, "real_node_id": node,
        }  # fmt: skip
        self._send(run, "progress_state", {"prompt_id": id, "nodes": run.states})

    async def _preview(self, run: _Run, node: str, data: dict[str, Any]) -> None:
        """Show a preview, to a client that has said that it understands it: others take it for a result."""
        socket = self._of.get(run.client)
        if socket is None or socket.busy or not self._sees_previews(run):
            return
        content, type = await asyncio.to_thread(_large_preview, data["data"]), str(data["type"])
        if socket.previews:
            about = {
                "node_id": node, "prompt_id": run.job.uuid, "display_node_id": node, "parent_node_id": None,
                "real_node_id": node, "image_type": type,
            }  # fmt: skip
            head = json.dumps(about).encode()
            socket.put(struct.pack(">II", PREVIEW_WITH_METADATA, len(head)) + head + content)
        else:
            socket.put(struct.pack(">II", PREVIEW, PNG if type == "image/png" else JPEG) + content)

    def _sees_previews(self, run: _Run) -> bool:
        socket = self._of.get(run.client)
        return bool(facts_of(run.job).get("previews")) or (socket is not None and socket.previews)

    async def _end(self, run: _Run) -> None:
        """Tell the end of a job. Its entry in the history is there already."""
        id = run.job.uuid
        try:
            job = await asyncio.to_thread(self.api.job, run.job.id)
        except NoJob:
            self._send(run, "executing", {"node": None, "prompt_id": id})
            return
        if (known := [node for node in cached(job) if node not in run.known]) and run.started:
            self._send(run, "execution_cached", {"nodes": known, "prompt_id": id, "timestamp": _now()})
        for node, output in outputs(job, self.api.folders.output).items():
            self._send(run, "executed", {"node": node, "display_node": node, "output": output, "prompt_id": id})
        type, data = end_of(job)
        if type == "execution_interrupted" and run.node is not None:
            prompt = facts_of(job).get("prompt", {})
            data |= {"node_id": run.node, "node_type": prompt.get(run.node, {}).get("class_type", "")}
        self._send(run, type, data)
        # To the frontend this ends whatever it shows, so that it is left out for a job that never ran beside one which
        # does. Some clients know no other end, also of jobs that failed.
        others = any(other.client == run.client and other is not run for other in self._runs.values())
        if run.started or not others:
            self._send(run, "executing", {"node": None, "prompt_id": id})

    def _send(self, run: _Run, type: str, data: dict[str, Any]) -> None:
        if (socket := self._of.get(run.client)) is not None:
            socket.send(type, data)


def _remember(known: OrderedDict[int, T], job: int, what: T) -> None:
    """Note something of a job, and forget it of the oldest of many."""
    known[job] = what
    while len(known) > REMEMBERED:
        known.popitem(last=False)


def _large_preview(data: str) -> bytes:
    """A preview as a picture that can be seen, from its base64 text."""
    return enlarged(base64.b64decode(data), PREVIEW_SIDE)


def features(api: JobApi) -> dict[str, Any]:
    """What this server can do, as the frontend asks for it."""
    return {"supports_preview_metadata": True, "max_upload_size": api.files.most}


def _now() -> int:
    return round(time.time() * 1000)
