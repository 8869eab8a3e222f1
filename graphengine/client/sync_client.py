"""`Client`: the calls of a service over HTTP, for scripts: those of `AsyncClient`, on an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from graphengine.client.answers import Event, Job, QueueFacts, Workflow
from graphengine.client.async_client import AsyncClient
from graphengine.client.connection import PATIENCE
from graphengine.client.errors import ServerError
from graphengine.client.uploads import Graphs
from graphengine.service.jobs.job import State

T = TypeVar("T")


class Client:
    """A server's client, safe to use from several threads.

        with Client("http://localhost:8188") as client:
            image = client.run("text_to_image", {"prompt": "a red circle"})["image"]

    Methods, arguments and errors are those of `AsyncClient`.

    Args:
        url: The server, as `http://localhost:8188`.
        token: The user's token; by default the value of GRAPHENGINE_TOKEN, if it is set.
        patience: Seconds for which a server that has answered once may be gone.
    """

    def __init__(self, url: str, token: str | None = None, *, patience: float = PATIENCE) -> None:
        self._client = AsyncClient(url, token, patience=patience)
        self._loop, self._ends = asyncio.new_event_loop(), False
        self._thread = threading.Thread(target=self._loop.run_forever, name="graphengine-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; jobs go on. It cannot be used any more then, and calls of other threads end."""
        if not self._ends:
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _end(self) -> None:
        self._ends = True
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop; Ctrl-C cancels it there, and waits for its end."""
        ended, tasks = Future[T](), list[asyncio.Task[T]]()

        def refuse(why: ServerError) -> None:
            work.close()
            ended.set_exception(why)

        def begin() -> None:
            if self._ends:
                refuse(_closed())
                return
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda task: _pass_on(task, ended))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                refuse(_closed())

        try:
            if threading.current_thread() is self._thread:
                refuse(ServerError("`listen` cannot call the client that calls it; follow `events` instead"))
            elif self._loop.is_closed():
                refuse(_closed())
            else:
                self._loop.call_soon_threadsafe(begin)
            return ended.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(cancel)
            ended.exception()
            raise

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator, each when it is asked for."""
        try:
            while (item := self._do(_next(items))) is not _END:
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None and not self._loop.is_closed():
                self._do(close())

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(
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
        """Put a job into the server's queue; it is on the server's disk when this returns."""
        options: dict[str, Any] = {"want": want, "labels": labels, "priority": priority, "exact": exact, "key": key}
        return self._do(self._client.submit(graph, inputs, **options))

    def run(
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
        """Run a graph on the server, as `Graph.run` does in this process. Ctrl-C cancels the job. `listen` is called on
        another thread, and cannot call this client."""
        options: dict[str, Any] = {"want": want, "labels": labels, "priority": priority, "exact": exact, "key": key}
        return self._do(self._client.run(graph, inputs, listen=listen, previews=previews, **options))

    def get(self, job: Job | str) -> Job:
        """A job as it is now, by its UUID."""
        return self._do(self._client.get(job))

    def events(self, job: Job | str, after: int = 0, *, previews: bool = False) -> Iterator[Event]:
        """What happens to a job, until its end."""
        return self._each(self._client.events(job, after, previews=previews))

    def wait(self, *jobs: Job | str, timeout: float | None = None) -> list[Job]:
        """Wait until jobs have ended."""
        return self._do(self._client.wait(*jobs, timeout=timeout))

    def outputs(self, job: Job | str) -> dict[str, Any]:
        """The outputs of a job by name, the very values that it computed."""
        return self._do(self._client.outputs(job))

    def download(self, job: Job | str, folder: str | Path) -> dict[str, list[Path]]:
        """Fetch the files of a job into a folder."""
        return self._do(self._client.download(job, folder))

    def report(self, job: Job | str) -> str:
        """A page in HTML about a job that has ended."""
        return self._do(self._client.report(job))

    def file(self, url: str) -> bytes:
        """The bytes of a file of the server, by its `url` in an answer, a path."""
        return self._do(self._client.file(url))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job."""
        return self._do(self._client.cancel(job))

    def delete(self, job: Job | str) -> None:
        """Take a job that has ended out of the history."""
        self._do(self._client.delete(job))

    def move(self, job: Job | str, before: Job | str | None = None) -> Job:
        """Put a waiting job before another one."""
        return self._do(self._client.move(job, before))

    def jobs(
        self,
        states: str | Sequence[State | str] = (),
        labels: Mapping[str, str] | None = None,
        workflow: str | None = None,
        page: int = 50,
    ) -> Iterator[Job]:
        """The jobs, the newest first, page after page."""
        return self._each(self._client.jobs(states, labels, workflow, page))

    # --- files, workflows, nodes, the queue ---------------------------------------------------------------------------

    def upload(self, file: str | Path | bytes) -> str:
        """Bring a file to the server, if it is not there yet; returns its id."""
        return self._do(self._client.upload(file))

    def workflows(self) -> list[Workflow]:
        """The named workflows of the server."""
        return self._do(self._client.workflows())

    def workflow(self, name: str) -> Workflow:
        """A workflow by its name."""
        return self._do(self._client.workflow(name))

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the server as JSON data."""
        return self._do(self._client.nodes())

    def workers(self) -> list[dict[str, Any]]:
        """Who computes, as JSON data."""
        return self._do(self._client.workers())

    def queue(self) -> QueueFacts:
        """What runs, what waits, and what is paused."""
        return self._do(self._client.queue())

    def pause(self, user: str | None = None) -> QueueFacts:
        """Begin no more jobs."""
        return self._do(self._client.pause(user))

    def resume(self, user: str | None = None) -> QueueFacts:
        """End a pause."""
        return self._do(self._client.resume(user))

    def limit(self, count: int | None, user: str = "") -> QueueFacts:
        """Limit how many jobs of a user may wait."""
        return self._do(self._client.limit(count, user))


_END: Any = object()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items, _END)


def _pass_on(task: asyncio.Task[T], ended: Future[T]) -> None:
    """Give what a task has come to to the thread that waits for it."""
    if task.cancelled():
        ended.set_exception(_closed())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


def _closed() -> ServerError:
    return ServerError("the client is closed")
