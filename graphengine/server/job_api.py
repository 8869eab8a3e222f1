"""`JobApi`: what the server does for its callers, typed and without HTTP; each contract renders it in its own form.

The module is long because everything that callers may ask for has a method here, as all contracts share them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from graphengine.cache.tree import blobs_of
from graphengine.declare import registry
from graphengine.declare.node_facts import node_facts
from graphengine.errors import WorkflowError, nearest
from graphengine.graph.data import GraphData
from graphengine.planning.inputs import BoundInputs
from graphengine.server.catalog import Catalog
from graphengine.server.fetching import Fetcher
from graphengine.server.file_store import FileStore, open_inside
from graphengine.server.given import Folders, bind, put_uploads
from graphengine.server.places import Places
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.queue import ALL, NameTaken, NoJob
from graphengine.service.jobs.submit import in_short
from graphengine.service.service import Service
from graphengine.service.warming import Warming
from graphengine.system.folders import cache_folder, state_folder
from graphengine.workflow.files import from_document
from graphengine.workflow.formats import original_ids, original_outputs

MOST_LABELS, LONGEST_LABEL = 16, 256
MOST_PRIORITY = 1_000_000
MOST_LISTED = 100
"""The most jobs of a page."""
NODES, MAKERS, IDS = "nodes", "makers", "ids"
"""Facts of a job: how many nodes its graph has; by output, the node that makes it; by node, its id in the file of
another format from which the graph was converted."""
LONGEST_NUMBER = 18
"""Digits of a job's number."""
MOST_VALUE = 512 << 20
"""The most bytes of an output's value."""
MOST_FACTS = 4 << 20
"""The most bytes that a contract keeps with a job: lists of jobs read them of each."""
NO_WORKER = "no worker can compute now"
KEYS = uuid.UUID("a0c4f8a1-6f0a-5d3e-8d6c-3f7f3b1f2a55")
"""The namespace of the UUIDs of jobs that were submitted with an Idempotency-Key."""
LABEL_NAME = "[A-Za-z0-9_.-]{1,40}"
"""The pattern of names of labels."""
_LABEL = re.compile(LABEL_NAME)


@dataclass(frozen=True, slots=True)
class Order:
    """A job that a caller wants.

    Attributes:
        workflow: The name of a workflow, or a graph as a document.
        inputs: Its inputs, as `given.bind` takes them.
        want: The wanted outputs; None for all.
        labels: Texts by which jobs are found again.
        priority: A job with a higher one is run first.
        exact: As `graphengine run --exact`.
        key: The Idempotency-Key: with it, the same order makes one job.
        uuid: The job's UUID, if the caller chooses it.
        facts: What a contract keeps with the job, as JSON data under a name of its own.
        texts: More texts that the job's pictures carry, by their names.
    """

    workflow: str | Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    want: Sequence[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    exact: bool = False
    key: str | None = None
    uuid: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as a caller sees it.

    Attributes:
        job: Its row in the queue.
        ahead: How many jobs wait before it; None if it does not wait.
        doing: What it does now, as `JobActivity.facts` has it; empty if it does not run here.
        replayed: It was submitted before, with the same Idempotency-Key.
    """

    job: Job
    ahead: int | None = None
    doing: Mapping[str, Any] = field(default_factory=dict)
    replayed: bool = False

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """By output, the names of its files (`files`) or its plain value (`value`)."""
        told = self.job.result.get("told", {}) if isinstance(self.job.result, Mapping) else {}
        found: dict[str, dict[str, Any]] = {}
        for name, one in told.items():
            files = [Path(file).name for file in one.get("files", ())]
            found[name] = {"files": files} if files else {"value": one.get("value")}
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """A page of jobs, the newest first; `cursor` leads to the next one, None on the last."""

    jobs: list[JobView]
    cursor: str | None


class JobApi:
    """Jobs, files, workflows, nodes and the queue, for callers who may be strangers. Every method is safe to call from
    any thread, and raises `ApiError`, or an error that `as_api_error` makes one.

    Args:
        service: The service whose queue holds the jobs; it runs them, or another one of the same queue does.
        folders: Where jobs read and write files.
        files: The store of uploaded files.
        fetcher: Fetches files by URL; by default none.

    Attributes:
        warming: What has the workers load models before their first job; None if they are to load none.
    """

    warming: Warming | None = None

    def __init__(self, service: Service, folders: Folders, files: FileStore, fetcher: Fetcher | None = None) -> None:
        self.service, self.folders, self.files = service, folders, files
        self.fetcher = fetcher or Fetcher((), files)
        self.queue = service.queue
        self.catalog = Catalog(folders.workflows, folders.readable())
        known = (folders.input, folders.output, folders.models, folders.workflows, state_folder(), cache_folder())
        self.places = Places(files.folder, known)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(self, caller: Caller, order: Order) -> JobView:
        """Put a job into the queue; it is on disk when this returns."""
        check_labels(order.labels)
        if abs(order.priority) > MOST_PRIORITY:
            raise ApiError("bad_request", f"priority must be from {-MOST_PRIORITY:,} to {MOST_PRIORITY:,}")
        if order.facts and len(json.dumps(order.facts)) > MOST_FACTS:
            raise ApiError("too_large", f"the job has more than {MOST_FACTS:,} bytes; upload pictures, and name them")
        if caller.workflows is not None and order.workflow not in caller.workflows:
            names = ", ".join(caller.workflows)
            raise ApiError("forbidden", f"this token may run only these workflows, by their names at /v1: {names}")
        name, wanted = order.uuid, ""
        if order.key is not None:
            if not 1 <= len(order.key) <= 255 or not order.key.isprintable():
                raise ApiError("bad_request", "an Idempotency-Key has 1 to 255 printable characters")
            name = str(uuid.uuid5(KEYS, f"{caller.user}\0{order.key}"))
            wanted = _digest(order)
            with contextlib.suppress(NoJob):
                return self._replayed(name, wanted)
        try:
            graph, called, roots = self._graph(caller, order.workflow)
            bound = bind(graph, order.inputs, caller.user, self.folders, self.files, roots, self.fetcher.fetch)
        except WorkflowError as error:
            raise WorkflowError(self.places.of_problems(error.problems)) from None
        shown = _shown(order.inputs, bound)
        facts = {**order.facts, "labels": dict(order.labels), "inputs": shown, **_facts_of(graph)}
        if wanted:
            facts["order"] = wanted
        try:
            number = self.service.submit(
                graph, bound, want=order.want, user=caller.user, priority=order.priority, exact=order.exact,
                out=self.folders.output, name=called, roots=roots, base=self.folders.input, facts=facts, uuid=name,
                whole=True, texts=order.texts,
            )  # fmt: skip
        except NameTaken:
            if order.key is None:
                raise ApiError("conflict", f"there is a job {name} already") from None
            return self._replayed(name, wanted)
        return self._view(self.queue.get(number))

    def _replayed(self, name: str, wanted: str) -> JobView:
        job = self.queue.named(name)
        if job.facts.get("order") != wanted:
            what = "this Idempotency-Key was sent with another request; a new request needs a new key"
            raise ApiError("key_reused", what)
        return replace(self._view(job), replayed=True)

    def _graph(self, caller: Caller, workflow: str | Mapping[str, Any]) -> tuple[GraphData, str, list[Path]]:
        """The graph of an order, a name for its files, and the folders that its files may not leave."""
        roots = [*self.folders.readable(), self.files.of(caller.user)]
        if isinstance(workflow, str):
            graph = self.catalog.graph(workflow)
            return graph, _safe(workflow), [*roots, *([graph.folder] if graph.folder else [])]
        try:
            graph = from_document(workflow, name="workflow", base=self.folders.input, roots=roots)
        except RecursionError:
            raise ApiError("bad_request", "the workflow is nested too deep") from None
        put_uploads(graph, caller.user, self.files)
        return graph, _safe(graph.title or "job"), roots

    def get(self, caller: Caller, name: str) -> JobView:
        """A job by its UUID."""
        return self._view(self.find(caller, name))

    def find(self, caller: Caller, name: str) -> Job:
        """A job of the caller by its UUID, in any case, or its number; one of somebody else is not there."""
        try:
            is_number = name.isascii() and name.isdigit() and len(name) <= LONGEST_NUMBER
            job = self.queue.get(int(name)) if is_number else self.queue.named(str(uuid.UUID(name)))
        except (ValueError, NoJob):
            raise ApiError("not_found", f"there is no job {name[:60]!r}") from None
        if caller.scope is not None and job.user != caller.scope:
            raise ApiError("not_found", f"there is no job {name[:60]!r}")
        return self.shown(job)

    def job(self, number: int) -> Job:
        """A job by its number, whoever's it is, as it is shown."""
        return self.shown(self.queue.get(number))

    def shown(self, job: Job) -> Job:
        """A job as callers may see it: its error does not tell where this server keeps files."""
        if not job.error or (error := self.places.without_places(job.error)) == job.error:
            return job
        changed = replace(job, error=error)
        object.__setattr__(changed, "uuid", job.uuid)  # which is no field of it
        return changed

    def _view(self, job: Job) -> JobView:
        doing = self.service.doing().get(job.id, {}) if job.state is State.RUNNING else {}
        return JobView(self.shown(job), self.queue.ahead(job.id) if job.state is State.QUEUED else None, doing)

    def page(
        self,
        caller: Caller,
        states: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = 20,
        workflow: str | None = None,
    ) -> Page:
        """A page of the caller's jobs, the newest first.

        Args:
            states: Only jobs in these; by default in any.
            labels: Only jobs with all of these.
            cursor: That of the page before; the other choices are in it, and need not be given again.
            limit: The most jobs of the page, 1 to 100.
            workflow: Only jobs of the workflow of this name, or of a graph of this title.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise ApiError("bad_request", f"limit is {limit}, but must be from 1 to {MOST_LISTED}")
        check_labels(labels or {})
        known = [state.value for state in State]
        for state in states:
            if state not in known:
                near = nearest(state, known) or known
                raise ApiError("bad_request", f"{state[:40]!r} is no state of a job; did you mean {' or '.join(near)}?")
        before: int | None = None
        if cursor is not None:
            before, kept_states, kept_labels, kept_workflow = _read_cursor(cursor)
            changed = (states and sorted(states) != kept_states) or (labels and dict(labels) != kept_labels)
            if changed or (workflow is not None and workflow != kept_workflow):
                raise ApiError("bad_request", "the cursor belongs to a list with another choice of jobs")
            states, labels, workflow = kept_states, kept_labels, kept_workflow
        wanted = [State(state) for state in states] or list(State)
        jobs = self.queue.history(wanted, caller.scope, before, limit + 1, labels, workflow)
        more = len(jobs) > limit
        next_one = _cursor(jobs[limit - 1].id, sorted(states), dict(labels or {}), workflow) if more else None
        return Page([self._view(job) for job in jobs[:limit]], next_one)

    def recent(
        self, caller: Caller, states: Sequence[State], skip: int, limit: int, newest_first: bool = True
    ) -> tuple[list[Job], int]:
        """Jobs of the caller by their places in the list, for clients that count; returns them, and how many there are.

        Args:
            states: Only jobs in these.
            skip: How many jobs to leave out at the beginning.
        """
        counts = self.queue.counts(caller.scope)
        total = sum(counts[state] for state in states)
        if not newest_first:
            skip, limit = max(0, total - skip - limit), max(0, min(limit, total - skip))
        found = self.queue.history(states, caller.scope, limit=limit, skip=skip) if limit else []
        jobs = [self.shown(job) for job in found]
        return jobs if newest_first else jobs[::-1], total

    def unfinished(self, caller: Caller, limit: int = 1000) -> list[Job]:
        """The caller's jobs that run, then those that wait, paused or not, in their order.

        Args:
            limit: The most jobs that wait.
        """
        waiting = self.queue.waiting(limit, caller.scope, paused=True)  # first: a job that begins meanwhile is in both
        running = [job for job in self.queue.running() if caller.scope in (None, job.user)]
        begun = {job.id for job in running}
        return [self.shown(job) for job in (*running, *(job for job in waiting if job.id not in begun))]

    def remaining(self, caller: Caller) -> int:
        """How many of the caller's jobs run and wait."""
        counts = self.queue.counts(caller.scope)
        return counts[State.RUNNING] + counts[State.QUEUED]

    def place(self, caller: Caller, name: str, is_later: Callable[[Job], bool]) -> None:
        """Put a waiting job before the first of the caller's waiting jobs for which `is_later` holds."""
        job = self.find(caller, name)
        for other in self.queue.waiting(user=caller.user, paused=True):
            if other.id != job.id and is_later(other):
                self.queue.move(job.id, other.id)
                return

    def cancel(self, caller: Caller, name: str) -> JobView:
        """Cancel a job; one that has ended stays as it is."""
        self.service.cancel(self.find(caller, name).id)
        return self.get(caller, name)

    def delete(self, caller: Caller, name: str) -> None:
        """Take a job that has ended out of the history; the files that it wrote stay."""
        self.service.delete(self.find(caller, name).id)

    def move(self, caller: Caller, name: str, before: str | None = None) -> JobView:
        """Put a waiting job before another one of the caller; without another, before all (for admins only)."""
        job = self.find(caller, name)
        if before is None and not caller.admin:
            raise ApiError("forbidden", "only an admin moves a job before those of others; name one of your own")
        self.queue.move(job.id, None if before is None else self.find(caller, before).id)
        return self.get(caller, name)

    def value(self, caller: Caller, name: str, output: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        """An output of a job as a tree (see `cache.tree`), and the bytes of the blobs in it."""
        job = self.find(caller, name)
        trees = job.result.get("outputs", {}) if isinstance(job.result, Mapping) else {}
        if output not in trees:
            near = nearest(output, trees)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ApiError("not_found", f"job {job.uuid} has no output {output[:80]!r}{hint}")
        if trees[output] is None:
            raise ApiError("not_found", f"the value of {output} cannot leave the process that made it")
        folder, blobs = self.queue.body(job.id)["files"], dict[str, bytes]()
        try:
            for blob in blobs_of(trees[output]):
                blobs[blob] = self.service.files.get(folder, blob)
                if sum(map(len, blobs.values())) > MOST_VALUE:
                    what = f"the value of {output} has more than {MOST_VALUE:,} bytes; its files are there"
                    raise ApiError("conflict", what)
        except OSError:
            raise ApiError("not_found", f"the value of {output} is gone") from None
        return trees[output], blobs

    def open_output(self, caller: Caller, name: str, file: str) -> tuple[IO[bytes], int, str]:
        """Open a file that a job wrote, by its name; returns it, its bytes and its type."""
        job = self.find(caller, name)
        files = job.result.get("files", []) if isinstance(job.result, Mapping) else []
        for path in files:
            if Path(path).name == file:
                return open_inside(path, [self.folders.output])
        near = nearest(file, [Path(path).name for path in files])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ApiError("not_found", f"job {job.uuid} has written no file {file[:80]!r}{hint}")

    # --- nodes and the queue ------------------------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes as JSON data."""
        known = registry.nodes()
        return [node_facts(known[name]) for name in sorted(known)]

    def node(self, name: str) -> dict[str, Any]:
        """A node as JSON data."""
        definition = registry.find(name)
        if definition is None:
            sentence, near = registry.why_not(name)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ApiError("not_found", f"{sentence}{hint}")
        return node_facts(definition)

    def queue_facts(self, caller: Caller) -> dict[str, Any]:
        """The queue as the caller sees it: what runs, what waits, in which order, and what is paused."""
        paused, limits = self.queue.paused(), self.queue.limits()
        views = [self._view(job) for job in self.unfinished(caller, MOST_LISTED)]
        limit = limits.get(caller.user, limits.get(ALL))
        return {
            "running": [view for view in views if view.job.state is State.RUNNING],
            "waiting": [view for view in views if view.job.state is not State.RUNNING],
            "paused": ALL in paused or caller.user in paused,
            "limit": limit,
            **({"limits": limits} if caller.admin else {}),
        }

    def pause(self, caller: Caller, paused: bool, user: str | None = None) -> None:
        """Pause the caller's jobs or go on with them; an admin's request is for all users, or for the one named."""
        if user is not None and user != caller.user and not caller.admin:
            raise ApiError("forbidden", "only an admin pauses the jobs of others")
        user = user if user is not None else ALL if caller.admin else caller.user
        if paused:
            self.queue.pause(user)
        else:
            self.queue.resume(user)

    def set_limit(self, caller: Caller, count: int | None, user: str = ALL) -> None:
        """Limit how many jobs of a user may wait, None for any number; without a user, of each who has no own limit."""
        if not caller.admin:
            raise ApiError("forbidden", "only an admin sets limits: `graphengine serve token add NAME --admin`")
        if count is not None and not 0 <= count < 2**63:
            raise ApiError("bad_request", f"limit is {str(count)[:40]}, but must be 0 or more, or null for any number")
        self.queue.set_limit(count, user)

    def why_not_ready(self) -> str:
        """Why a job that is submitted now cannot be computed, or not at once: no worker is usable, or not all have
        loaded the models that they were to load before. Empty if it can."""
        if self.service.stopping or not self.service.active:
            return NO_WORKER
        workers = self.service.backend.status()
        if self.warming is not None and (why := self.warming.lacks()):
            return self.places.without_places(why)
        is_usable = not workers or any(status.state in ("ready", "computing") for status in workers)
        return "" if is_usable else NO_WORKER


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse labels that are none, by an `ApiError`."""
    if len(labels) > MOST_LABELS:
        raise ApiError("bad_request", f"a job has at most {MOST_LABELS} labels, not {len(labels)}")
    for name, value in labels.items():
        if _LABEL.fullmatch(name) is None:
            raise ApiError("bad_request", f"{name[:60]!r} is no name of a label: 1 to 40 of A-Z a-z 0-9 _ . -")
        if not isinstance(value, str) or len(value) > LONGEST_LABEL:
            raise ApiError("bad_request", f"the label {name} must be a text of at most {LONGEST_LABEL} characters")


def _facts_of(graph: GraphData) -> dict[str, Any]:
    """What contracts show of a job's graph."""
    ids = original_ids(graph)
    makers = {output: link.node for output, link in graph.outputs.items()} | original_outputs(graph)
    return {NODES: len(graph.nodes), MAKERS: makers} | ({IDS: ids} if ids else {})


def _shown(inputs: Mapping[str, Any], bound: BoundInputs) -> dict[str, Any]:
    """The inputs as lists of jobs show them: texts as they were sent, not the server's paths that were made of them;
    numbers as they were drawn."""
    sent = {name: isinstance(value, str | list) for name, value in inputs.items()}
    return {name: in_short(inputs[name] if sent[name] else value) for name, value in bound.given.items()}


def _digest(order: Order) -> str:
    facts = [order.workflow, order.inputs, order.want, order.labels, order.priority, order.exact]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _safe(name: str) -> str:
    """A name that is safe in file names."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "-_" else "_" for c in name)[:60] or "job"


def _cursor(before: int, states: list[str], labels: dict[str, str], workflow: str | None) -> str:
    parts = [before, states, labels, *([] if workflow is None else [workflow])]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, list[str], dict[str, str], str | None]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        before, states, labels, *more = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        check_labels(labels)
        known = isinstance(states, list) and len(more) <= 1 and all(isinstance(one, str) for one in more)
        if known and type(before) is int and 0 < before < 2**63:
            return before, [State(state).value for state in states], labels, more[0] if more else None
    except (ValueError, TypeError, AttributeError, ApiError, RecursionError):
        pass
    raise ApiError("bad_request", "the cursor is none that this server gave; begin without one")
