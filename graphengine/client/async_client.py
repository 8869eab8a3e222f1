"""`AsyncClient`: the calls of a service over HTTP, for programs with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import urllib.parse
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine.cache.tree import UnknownType, from_tree
from graphengine.client.answers import Event, Job, Output, QueueFacts, Workflow, job_of, queue_of, workflow_of
from graphengine.client.connection import PATIENCE, Connection
from graphengine.client.errors import JobFailed, ServerError
from graphengine.client.uploads import Graphs, file_inputs_of, id_of, read, sending
from graphengine.errors import Cancelled, FileError, GraphEngineError
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import State
from graphengine.service.workers.wire import unpack
from graphengine.system.staging import write_file

AT_ONCE = 4
"""Files and values that are sent or fetched at once."""
CANCEL_SECONDS = 20.0
"""Seconds in which the job of a run that is interrupted is cancelled, or is left alone."""


class AsyncClient:
    """A server's client; used on one event loop.

        async with AsyncClient("http://localhost:8188") as client:
            image = (await client.run("text_to_image", {"prompt": "a red circle"}))["image"]

    Every method raises `Unreachable` if the server does not answer, `NotAllowed` where the token does not suffice,
    `NoJob` for a job that is not there, and other errors of the engine as a service in this process does. A request is
    sent again when its connection is lost; a job is not made twice by that.

    Args:
        url: The server, as `http://localhost:8188`.
        token: The user's token; by default the value of GRAPHENGINE_TOKEN, if it is set.
        patience: Seconds for which a server that has answered once may be gone.
    """

    def __init__(self, url: str, token: str | None = None, *, patience: float = PATIENCE) -> None:
        self._connection = Connection(url, token or os.environ.get("GRAPHENGINE_TOKEN"), patience)
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; jobs go on."""
        await self._connection.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def submit(
        self,
        graph: Graphs,
        inputs: Mapping[str, Any] | None = None,
        *,
        want: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        exact: bool = False,
        key: str | None = None,
    ) -> Job:
        """Put a job into the server's queue; it is on the server's disk when this returns.

        Local files that the graph and its inputs name are uploaded if the server lacks them. Models are names, which
        the server must know.

        Args:
            graph: A graph, a document, a workflow file (`Path`, or a text that ends as one), or the name of a workflow
                of the server.
            inputs: Its declared inputs by name: plain data, and files as paths.
            want: The wanted outputs, or the name of the only one; None for all.
            labels: Texts by which jobs are found again.
            priority: A job with a higher one is run first.
            exact: As `graphengine.run(exact=)`.
            key: A text of the caller's, 1 to 255 ASCII characters: the same order with the same key makes one job,
                whenever it is sent.

        Raises:
            WorkflowError: The graph or its inputs are wrong; holds all problems.
            FileError: A file cannot be read.
            ServerFull: The queue takes no more jobs of this user now.
        """
        if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
            raise ServerError("a key has 1 to 255 printable ASCII characters")
        sent, base = await asyncio.to_thread(sending, graph, inputs)
        named: set[str] = set()
        if isinstance(sent.workflow, str) and sent.inputs:
            named = file_inputs_of((await self.workflow(sent.workflow)).inputs)
        await asyncio.to_thread(sent.look_for_files, named, base)
        ids = await asyncio.gather(*(self.upload(file) for file in sent.files))
        for file, id in zip(list(sent.files), ids, strict=True):
            sent.name(file, id)
        order: dict[str, Any] = {"inputs": sent.inputs, "priority": priority, "exact": exact}
        order["labels"] = dict(labels or {})
        if want is not None:
            order["want"] = [want] if isinstance(want, str) else list(want)
        if isinstance(sent.workflow, str):
            path = f"/v1/workflows/{_quoted(sent.workflow)}/jobs"
        else:
            path, order = "/v1/jobs", order | {"workflow": sent.workflow}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return job_of(await self._connection.data("POST", path, json=order, headers=headers))

    async def run(
        self,
        graph: Graphs,
        inputs: Mapping[str, Any] | None = None,
        *,
        want: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        exact: bool = False,
        key: str | None = None,
        listen: Callable[[Event], None] | None = None,
        previews: bool = False,
    ) -> Any:
        """Run a graph on the server, as `Graph.run` does in this process: the value of `want`, a list of values for a
        list, a dictionary of all outputs for None. If this is cancelled, so is the job.

        Args:
            graph, inputs, labels, priority, exact, key: As for `submit`.
            listen: Called with each event of the job.
            previews: Whether `listen` is called with previews too.

        Raises:
            JobFailed: The job failed.
            Cancelled: It was cancelled.
        """
        order = self.submit(graph, inputs, want=want, labels=labels, priority=priority, exact=exact, key=key)
        submitting = asyncio.create_task(order)
        try:
            job = await asyncio.shield(submitting)
            async with contextlib.aclosing(self.events(job, previews=previews and listen is not None)) as events:
                async for event in events:
                    if listen is not None:
                        listen(event)
        except BaseException:
            await self._take_back(submitting)
            raise
        ended = await self.get(job)
        check(ended)
        found = await self.outputs(ended)
        return found[want] if isinstance(want, str) else list(found.values()) if want is not None else found

    async def _take_back(self, submitting: asyncio.Task[Job]) -> None:
        """Cancel a job that is submitted, or is being submitted: also then the server may have it already."""

        async def cancel() -> None:
            with contextlib.suppress(GraphEngineError):
                await self.cancel(await submitting)

        task = asyncio.create_task(cancel())
        _, late = await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        for one in late:
            one.cancel()

    async def get(self, job: Job | str) -> Job:
        """A job as it is now, by its UUID."""
        return job_of(await self._connection.data("GET", f"/v1/jobs/{_id(job)}"))

    async def events(self, job: Job | str, after: int = 0, *, previews: bool = False) -> AsyncGenerator[Event]:
        """What happens to a job, from its beginning or after a number on, until its end; nothing is missed when the
        connection is lost or the server is started again.

        Args:
            after: The number of the last event that is known.
            previews: Whether previews are wanted; where none is, the server makes none.
        """
        async for event in self._connection.events(_id(job), after, previews):
            yield event

    async def wait(self, *jobs: Job | str, timeout: float | None = None) -> list[Job]:
        """Wait until jobs have ended; returns them as they are then, or when the seconds of `timeout` have passed."""

        async def end(job: Job | str) -> None:
            async for _ in self.events(job):
                pass

        tasks = [asyncio.create_task(end(job)) for job in jobs]
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*tasks)
        except TimeoutError:
            pass  # they are what they are
        finally:
            for task in tasks:
                task.cancel()
        return await asyncio.gather(*(self.get(job) for job in jobs))

    async def outputs(self, job: Job | str) -> dict[str, Any]:
        """The outputs of a job by name, the very values that it computed. Of a type that is not installed here, the
        bytes of its file, or a list of those of several.

        Raises:
            QueueError: The job is not done.
        """
        found = await self.get(job)
        if found.state is not State.DONE:
            raise QueueError(f"job {found.id} is {found.state}{f': {found.error}' if found.error else ''}")
        values = await asyncio.gather(*(self._value(found, name, output) for name, output in found.outputs.items()))
        return dict(zip(found.outputs, values, strict=True))

    async def _value(self, job: Job, name: str, output: Output) -> Any:
        async with self._gate:
            try:
                _, body = await self._connection.ask("GET", f"/v1/jobs/{job.id}/values/{_quoted(name)}")
                return await asyncio.to_thread(_decoded, body)
            except (UnknownType, ServerError) as error:
                if isinstance(error, ServerError) and error.problem != "not_found":
                    raise
            if not output.files:
                return output.value
            contents = [await self.file(file.url) for file in output.files]
        return contents[0] if len(contents) == 1 else contents

    async def download(self, job: Job | str, folder: str | Path) -> dict[str, list[Path]]:
        """Fetch the files of a job into a folder, where files of their names are replaced; returns them by output."""
        found = await self.get(job)
        written: dict[str, list[Path]] = {}
        for name, output in found.outputs.items():
            for file in output.files:
                path = Path(folder) / safe_name(file.name)
                content = await self.file(file.url)
                await asyncio.to_thread(_write, path, content)
                written.setdefault(name, []).append(path)
        return written

    async def report(self, job: Job | str) -> str:
        """A page in HTML about a job that has ended: each node's value, how it was obtained, and how long it took.

        Raises:
            QueueError: The job has not ended.
        """
        _, page = await self._connection.ask("GET", f"/v1/jobs/{_id(job)}/report")
        return page.decode() if isinstance(page, bytes) else ""

    async def file(self, url: str) -> bytes:
        """The bytes of a file of the server, by its `url` in an answer, a path."""
        if not url.startswith("/"):
            raise ServerError(f"{url!r:.80} is no path of a file on the server")
        body: bytes = (await self._connection.ask("GET", url))[1]
        return body

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job: at once if it waits, within a step if it runs; one that has ended stays as it is."""
        return job_of(await self._connection.data("POST", f"/v1/jobs/{_id(job)}/cancel"))

    async def delete(self, job: Job | str) -> None:
        """Take a job that has ended out of the history; its files stay on the server."""
        await self._connection.ask("DELETE", f"/v1/jobs/{_id(job)}")

    async def move(self, job: Job | str, before: Job | str | None = None) -> Job:
        """Put a waiting job before another one; without another, before all (for admins only)."""
        order = {} if before is None else {"before": _id(before)}
        return job_of(await self._connection.data("POST", f"/v1/jobs/{_id(job)}/move", json=order))

    async def jobs(
        self,
        states: str | Sequence[State | str] = (),
        labels: Mapping[str, str] | None = None,
        workflow: str | None = None,
        page: int = 50,
    ) -> AsyncIterator[Job]:
        """The jobs, the newest first, page after page.

        Args:
            states: Only jobs in this one, or in these; by default in any.
            labels: Only jobs with all of these.
            workflow: Only those of a workflow.
            page: How many are asked for at once, at most 100.
        """
        wanted = states if isinstance(states, str) else ",".join(map(str, states))
        query = {"limit": str(page)} | ({"state": wanted} if wanted else {})
        query |= {f"label.{name}": value for name, value in (labels or {}).items()}
        query |= {} if workflow is None else {"workflow": workflow}
        while True:
            found = await self._connection.data("GET", "/v1/jobs", query=query)
            for data in found["jobs"]:
                yield job_of(data)
            if "next_cursor" not in found:
                return
            query = {"limit": str(page), "cursor": found["next_cursor"]}

    # --- files, workflows, nodes, the queue ---------------------------------------------------------------------------

    async def upload(self, file: str | Path | bytes) -> str:
        """Bring a file to the server, if it is not there yet; returns its id, which inputs take in the place of a path.

        Raises:
            FileError: It cannot be read.
        """
        async with self._gate:
            if isinstance(file, bytes):
                id, content = id_of(file), file
            else:
                id, content = await asyncio.to_thread(read, Path(file))
            status, _ = await self._connection.ask("HEAD", f"/v1/files/{id}")
            if status == 404:
                query = {"expected": id}
                headers = {"Content-Type": "application/octet-stream"}
                await self._connection.ask("POST", "/v1/files", data=content, query=query, headers=headers)
        return id

    async def workflows(self) -> list[Workflow]:
        """The named workflows of the server."""
        return [workflow_of(data) for data in (await self._connection.data("GET", "/v1/workflows"))["workflows"]]

    async def workflow(self, name: str) -> Workflow:
        """A workflow by its name, with the JSON Schema of its inputs."""
        return workflow_of(await self._connection.data("GET", f"/v1/workflows/{_quoted(name)}"))

    async def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the server as JSON data."""
        found: list[dict[str, Any]] = (await self._connection.data("GET", "/v1/nodes"))["nodes"]
        return found

    async def workers(self) -> list[dict[str, Any]]:
        """Who computes, as JSON data: `name`, `device`, `state`, `parts` of models that are held, `free` bytes, ..."""
        found: list[dict[str, Any]] = (await self._connection.data("GET", "/v1/workers"))["workers"]
        return found

    async def queue(self) -> QueueFacts:
        """What runs, what waits, and what is paused."""
        return queue_of(await self._connection.data("GET", "/v1/queue"))

    async def pause(self, user: str | None = None) -> QueueFacts:
        """Begin no more of the caller's jobs; of an admin, of all, or of the user who is named."""
        return await self._pause("pause", user)

    async def resume(self, user: str | None = None) -> QueueFacts:
        """End a pause."""
        return await self._pause("resume", user)

    async def _pause(self, what: str, user: str | None) -> QueueFacts:
        order = {} if user is None else {"user": user}
        return queue_of(await self._connection.data("POST", f"/v1/queue/{what}", json=order))

    async def limit(self, count: int | None, user: str = "") -> QueueFacts:
        """Limit how many jobs of a user may wait, None for any number; without a user, of each without a limit of
        their own. For admins only."""
        order = {"limit": count, "user": user}
        return queue_of(await self._connection.data("PUT", "/v1/queue/limit", json=order))


def check(job: Job) -> None:
    """Raise the error of a job that has ended without being done."""
    if job.state is State.FAILED:
        raise JobFailed(job.error or f"job {job.id} failed", job.node)
    if job.state is State.CANCELLED:
        raise Cancelled(f"job {job.id} was cancelled")


def safe_name(name: str) -> str:
    """The name of a file that a server gave, if it is one.

    Raises:
        FileError: It leads elsewhere.
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\\0:"):
        raise FileError(f"{name!r:.80}, which the server gave, is no name of a file")
    return name


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path.parent} cannot be made: {error.strerror or error}") from None
    write_file(path, content)


def _decoded(body: bytes) -> Any:
    tree, blobs = unpack(body)
    return from_tree(tree, blobs.__getitem__)


def _id(job: Job | str) -> str:
    return _quoted(job if isinstance(job, str) else job.id)


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
