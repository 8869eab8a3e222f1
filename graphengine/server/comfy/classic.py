"""ComfyUI's own HTTP API, for its clients and its frontend: prompts, queue, history, files, node definitions.

Every route is there with and without `/api` before it. Errors are JSON in ComfyUI's form, whatever was asked for.
The module is long because each route of the queue has a handler here, and all share how errors of prompts are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web

from graphengine.declare import registry
from graphengine.declare.sockets import File
from graphengine.errors import Problem, WorkflowError
from graphengine.server.async_hub import AsyncHub
from graphengine.server.comfy import jobs as comfy_jobs
from graphengine.server.comfy import prompt as comfy_prompt
from graphengine.server.comfy.annotated import with_held_files
from graphengine.server.comfy.file_routes import FileRoutes
from graphengine.server.comfy.files import PICTURES, Files
from graphengine.server.comfy.objects import all_objects, full_name, is_shown, object_info
from graphengine.server.comfy.prompt import Prompt, Refused
from graphengine.server.comfy.web_socket import Sockets, features
from graphengine.server.contract import Route
from graphengine.server.http import CALLER, json_body
from graphengine.server.job_api import JobApi, JobView, Order
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.queue import NoJob
from graphengine.workflow.formats import is_output

ENDED = (State.DONE, State.FAILED, State.CANCELLED)
ENTRIES, MOST_ENTRIES = 64, 200
"""The entries of `/history`, which some clients ask for many times a second: without `max_items`, and at most."""
MOST_ITEMS = 1000
"""The most jobs of a page of `/api/jobs`."""
MOST_IDS = 1000
FAILED = "prompt_outputs_failed_validation"
STATUS = {"invalid": 400}
"""Statuses in HTTP that ComfyUI's clients know for errors which have another one here."""


class ComfyClassic:
    """The handlers of ComfyUI's API.

    Args:
        api: What they render.
        hub: The events of jobs.
    """

    prefixes = (
        "/api/", "/object_info", "/prompt", "/queue", "/history", "/interrupt", "/view", "/upload/", "/system_stats",
        "/embeddings", "/models", "/experiment/", "/free", "/features", "/ws",
    )  # fmt: skip
    without_token = ()

    def __init__(self, api: JobApi, hub: AsyncHub) -> None:
        self.api, self.files, self.sockets = api, Files(api), Sockets(api, hub)
        self.file_routes = FileRoutes(api, self.files)

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error as ComfyUI has it."""
        details, type, nodes = "", error.code, dict[str, Any]()
        if isinstance(error, Refused):
            details, type, nodes = error.details, error.type, error.node_errors
        told = {"type": type, "message": error.detail, "details": details, "extra_info": {}}
        return web.json_response(
            {"error": told, "node_errors": nodes}, status=STATUS.get(error.code, error.status), headers=error.headers
        )

    def routes(self) -> list[Route]:
        """All routes, with and without `/api`."""
        found: list[Route] = []

        def add(method: str, path: str, handler: Any, summary: str) -> None:
            found.append(Route(method, f"/api{path}", handler, summary, {"200": "object"}))
            if not path.startswith("/jobs"):
                found.append(Route(method, path, handler, summary, {"200": "object"}))

        add("GET", "/ws", self.sockets.handle, "What happens (WebSocket)")
        add("GET", "/features", self.features, "What this server can do")
        add("GET", "/object_info", self.objects, "All nodes")
        add("GET", "/object_info/{name}", self.object, "A node")
        add("GET", "/prompt", self.remaining, "How many jobs there are")
        add("POST", "/prompt", self.submit, "Run a prompt")
        add("GET", "/queue", self.queue, "What runs and what waits")
        add("POST", "/queue", self.change_queue, "Take prompts out of the queue")
        add("POST", "/interrupt", self.interrupt, "Cancel what runs")
        add("GET", "/history", self.history, "The newest jobs that have ended")
        add("GET", "/history/{id}", self.history_of, "A job that has ended")
        add("POST", "/history", self.change_history, "Remove jobs that have ended")
        add("GET", "/jobs", self.jobs, "A page of jobs")
        add("POST", "/jobs/cancel", self.cancel_all, "Cancel jobs")
        add("GET", "/jobs/{id}", self.job, "A job")
        add("POST", "/jobs/{id}/cancel", self.cancel, "Cancel a job")
        add("GET", "/view", self.file_routes.view, "A file")
        add("POST", "/upload/image", self.file_routes.upload, "Upload a file")
        add("POST", "/upload/mask", self.file_routes.upload_mask, "Upload a painted mask")
        add("GET", "/system_stats", self.file_routes.system, "The machine")
        add("GET", "/embeddings", self.file_routes.embeddings, "The names of embeddings")
        add("GET", "/models", self.file_routes.model_folders, "The folders of models")
        add("GET", "/models/{folder}", self.file_routes.models, "The models in a folder")
        add("GET", "/experiment/models", self.file_routes.model_lists, "The folders of models, for the frontend")
        add("GET", "/experiment/models/{folder}", self.file_routes.model_list, "The models in a folder")
        add("POST", "/free", self.file_routes.free, "Free memory")
        return found

    # --- nodes --------------------------------------------------------------------------------------------------------

    async def features(self, request: web.Request) -> web.Response:
        """`GET /features`."""
        return web.json_response(features(self.api))

    async def objects(self, request: web.Request) -> web.Response:
        """`GET /object_info`."""
        caller = request[CALLER]

        def text() -> str:
            return json.dumps(self.nodes_for(caller), default=str)

        return web.json_response(text=await asyncio.to_thread(text))

    def nodes_for(self, caller: Caller) -> dict[str, Any]:
        """All nodes, as the frontend of a caller knows them."""
        return all_objects(registry.nodes(), self._files_of(caller))

    async def object(self, request: web.Request) -> web.Response:
        """`GET /object_info/{name}`: empty if there is no such node."""
        name, caller = request.match_info["name"], request[CALLER]

        def text() -> str:
            known = registry.find(full_name(name))
            if known is None or not is_shown(known):
                return "{}"
            return json.dumps({name: object_info(known, self._files_of(caller))}, default=str)

        return web.json_response(text=await asyncio.to_thread(text))

    def _files_of(self, caller: Caller) -> Callable[[File], Sequence[str] | None]:
        """Lists the files that an input may name: pictures in the input folder. Other names are typed."""
        pictures: list[str] = []

        def files_of(rule: File) -> Sequence[str] | None:
            if rule.kind != "image":
                return None
            if not pictures:
                pictures.extend(self.files.listed(caller, self.api.folders.input, PICTURES))
            return pictures

        return files_of

    # --- prompts ------------------------------------------------------------------------------------------------------

    async def remaining(self, request: web.Request) -> web.Response:
        """`GET /prompt`."""
        count = await asyncio.to_thread(self.api.remaining, request[CALLER])
        return web.json_response({"exec_info": {"queue_remaining": count}})

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /prompt`."""
        prompt = comfy_prompt.read(await json_body(request, any_type=True))
        caller: Caller = request[CALLER]
        # A client that goes away now has still submitted its job.
        view, errors = await asyncio.shield(asyncio.to_thread(self._submit, caller, prompt))
        if prompt.client:
            self.sockets.expect(view.job, (caller.user, prompt.client))
        number = comfy_jobs.queue_entry(view.job)[0]
        return web.json_response({"prompt_id": view.job.uuid, "number": number, "node_errors": errors})

    def _submit(self, caller: Caller, prompt: Prompt) -> tuple[JobView, dict[str, Any]]:
        """Put a prompt into the queue, without the outputs that cannot be made; returns what is wrong with these."""
        outputs = self._outputs(prompt)
        nodes = prompt.nodes if prompt.targets is None else comfy_prompt.needed(prompt.nodes, outputs)
        errors: dict[str, Any] = {}
        try:
            view = self._order(caller, prompt, nodes, outputs)
        except WorkflowError as error:
            refused = self._refused(prompt, outputs, nodes, error.problems)
            errors = refused.node_errors
            rest = comfy_prompt.unharmed(errors, outputs)
            if refused.type != FAILED or not errors or not rest:
                raise refused from None
            try:
                view = self._order(caller, prompt, comfy_prompt.needed(prompt.nodes, rest), rest)
            except WorkflowError:
                raise refused from None
        self._place(caller, prompt, view.job)
        return view, errors

    def _outputs(self, prompt: Prompt) -> list[str]:
        """The ids of the wanted output nodes, of those whose classes are known."""
        known = {node["class_type"]: registry.find(full_name(node["class_type"])) for node in prompt.nodes.values()}
        shown = {name for name, definition in known.items() if definition is not None and is_output(definition)}
        found = [id for id, node in prompt.nodes.items() if node["class_type"] in shown]
        if prompt.targets is not None:
            found = [id for id in found if id in prompt.targets]
            if not found:
                raise Refused("prompt_no_outputs", "None of partial_execution_targets is an output of the prompt", {})
        return found

    def _order(self, caller: Caller, prompt: Prompt, nodes: Mapping[str, Any], outputs: Sequence[str]) -> JobView:
        nodes = with_held_files(self.files, caller, nodes)
        order = Order(nodes, uuid=prompt.uuid, facts=prompt.facts(outputs), texts=prompt.texts())
        return self.api.submit(caller, order)

    def _refused(self, prompt: Prompt, outputs: Sequence[str], nodes: Mapping[str, Any],
                 problems: Sequence[Problem]) -> Refused:  # fmt: skip
        """Why a prompt is refused."""
        ids = comfy_prompt.client_ids(nodes, self.api.folders.input)
        found = [problem for problem in problems if problem.severity == "error"] or list(problems)
        first = found[0] if found else Problem("invalid", "the prompt cannot be run")
        errors = comfy_prompt.node_errors(prompt.nodes, outputs, found, ids)
        if first.kind == "no outputs":
            return Refused("prompt_no_outputs", "Prompt has no outputs", {}, first.hint)
        if first.kind in ("unknown node", "unknown classes"):
            return Refused("missing_node_type", str(first), errors)
        if not errors:
            return Refused("invalid_prompt", str(first), {})
        return Refused(FAILED, "Prompt outputs failed validation", errors, comfy_prompt.in_ids(str(first), ids))

    def _place(self, caller: Caller, prompt: Prompt, job: Job) -> None:
        """Give a job the place that its client asks for, before the caller's own jobs; an admin's goes before all."""
        if not prompt.front and prompt.number is None:
            return
        with contextlib.suppress(ApiError, QueueError):  # it is not waiting any more
            if prompt.front and caller.admin:
                self.api.move(caller, job.uuid)
            else:
                number = comfy_jobs.queue_entry(job)[0]
                self.api.place(caller, job.uuid,
                               lambda other: prompt.front or comfy_jobs.queue_entry(other)[0] > number)  # fmt: skip

    # --- the queue ----------------------------------------------------------------------------------------------------

    async def queue(self, request: web.Request) -> web.Response:
        """`GET /queue`."""
        jobs = await asyncio.to_thread(self.api.unfinished, request[CALLER])
        doing = self.api.service.doing()
        found: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
        for job in jobs:
            part = "queue_pending" if comfy_jobs.waits(job, doing) else "queue_running"
            found[part].append(comfy_jobs.queue_entry(job))
        return web.json_response(found)

    async def change_queue(self, request: web.Request) -> web.Response:
        """`POST /queue`: `{"clear": true}` or `{"delete": [id, ...]}`, for jobs that wait."""
        data = await json_body(request, any_type=True)
        caller, ids = request[CALLER], _ids(data, "delete")

        def change() -> None:
            chosen = self._found(caller, ids)
            if data.get("clear") is True:
                chosen += [job for job in self.api.unfinished(caller) if job.user == caller.user]
            doing = self.api.service.doing()
            self._cancel_jobs(job for job in chosen if comfy_jobs.waits(job, doing))

        await asyncio.to_thread(change)
        return web.json_response({})

    async def interrupt(self, request: web.Request) -> web.Response:
        """`POST /interrupt`: cancels the job `prompt_id` if it runs; without one, what of the caller's is computed now,
        or the job that comes next where none is begun yet, but none that waits behind it."""
        data = await json_body(request, any_type=True) if request.body_exists else {}
        caller, wanted = request[CALLER], data.get("prompt_id")

        def cancel() -> None:
            running = [job for job in self.api.unfinished(caller) if job.state is State.RUNNING]
            if wanted is not None:
                self._cancel_jobs(job for job in running if job.uuid == str(wanted).lower())
                return
            mine, doing = [job for job in running if job.user == caller.user], self.api.service.doing()
            waiting = [job for job in mine if comfy_jobs.waits(job, doing) or comfy_jobs.is_idle(job, doing)]
            self._cancel_jobs([job for job in mine if job not in waiting] or mine[:1])

        await asyncio.to_thread(cancel)
        return web.json_response({})

    def _cancel_jobs(self, jobs: Iterable[Job]) -> bool:
        """Cancel jobs, but those that were deleted meanwhile; returns whether there were any."""
        found = False
        for job in jobs:
            with contextlib.suppress(NoJob):
                self.api.service.cancel(job.id)
                found = True
        return found

    def _found(self, caller: Caller, ids: Sequence[str]) -> list[Job]:
        """The caller's jobs of these ids; an id of no job is left out."""
        found = []
        for id in ids:
            with contextlib.suppress(ApiError):
                found.append(self.api.find(caller, id))
        return found

    # --- what was done ------------------------------------------------------------------------------------------------

    async def history(self, request: web.Request) -> web.Response:
        """`GET /history`: the newest `max_items` jobs, the oldest of them first."""
        most = min(_whole(request, "max_items", ENTRIES), MOST_ENTRIES)
        skip = max(0, _whole(request, "offset", 0, least=-1))

        def text() -> str:
            jobs, _ = self.api.recent(request[CALLER], ENDED, skip, most)
            return self._entries(reversed(jobs))

        return web.json_response(text=await asyncio.to_thread(text))

    async def history_of(self, request: web.Request) -> web.Response:
        """`GET /history/{id}`: empty while the job has not ended."""
        caller, id = request[CALLER], request.match_info["id"]

        def text() -> str:
            return self._entries(job for job in self._found(caller, [id]) if job.state.ended)

        return web.json_response(text=await asyncio.to_thread(text))

    def _entries(self, jobs: Any) -> str:
        output = self.api.folders.output
        return json.dumps({job.uuid: comfy_jobs.history_entry(job, output) for job in jobs}, default=str)

    async def change_history(self, request: web.Request) -> web.Response:
        """`POST /history`: `{"clear": true}` or `{"delete": [id, ...]}`; the files stay."""
        data = await json_body(request, any_type=True)
        caller, ids = request[CALLER], _ids(data, "delete")

        def change() -> None:
            chosen = self._found(caller, ids)
            while data.get("clear") is True and (jobs := self.api.queue.history(ENDED, caller.user)):
                for job in jobs:
                    with contextlib.suppress(QueueError):
                        self.api.service.delete(job.id)
            for job in chosen:
                if job.state.ended:
                    with contextlib.suppress(QueueError):
                        self.api.service.delete(job.id)

        await asyncio.to_thread(change)
        return web.json_response({})

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def jobs(self, request: web.Request) -> web.Response:
        """`GET /api/jobs`."""
        query = request.query
        words = {word: state for state, word in comfy_jobs.STATUS.items()}
        wanted = [word for word in query.get("status", "").split(",") if word]
        if wrong := [word for word in wanted if word not in words]:
            raise ApiError("bad_request", f"{wrong[0][:40]!r} is no status; there are {', '.join(words)}")
        states = [words[word] for word in wanted] or list(State)
        skip, limit = _whole(request, "offset", 0), min(_whole(request, "limit", 100) or MOST_ITEMS, MOST_ITEMS)
        newest_first, workflow = query.get("sort_order", "desc") != "asc", query.get("workflow_id")

        def text() -> str:
            caller = request[CALLER]
            if workflow is None:
                jobs, total = self.api.recent(caller, states, skip, limit, newest_first)
            else:
                jobs, _ = self.api.recent(caller, states, 0, MOST_ITEMS, newest_first)
                jobs = [job for job in jobs if comfy_jobs.workflow_id(job) == workflow]
                jobs, total = jobs[skip : skip + limit], len(jobs)
            doing = self.api.service.doing()
            items = [comfy_jobs.job_item(job, self.api.folders.output, doing) for job in jobs]
            page = {"offset": skip, "limit": limit, "total": total, "has_more": skip + len(jobs) < total}
            return json.dumps({"jobs": items, "pagination": page}, default=str)

        return web.json_response(text=await asyncio.to_thread(text))

    async def job(self, request: web.Request) -> web.Response:
        """`GET /api/jobs/{id}`."""
        job = await asyncio.to_thread(self.api.find, request[CALLER], request.match_info["id"])
        detail = comfy_jobs.job_detail(job, self.api.folders.output, self.api.service.doing())
        return web.json_response(text=json.dumps(detail, default=str))

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /api/jobs/{id}/cancel`."""
        return await self._cancel(request, [request.match_info["id"]])

    async def cancel_all(self, request: web.Request) -> web.Response:
        """`POST /api/jobs/cancel`: `{"job_ids": [id, ...]}`."""
        return await self._cancel(request, _ids(await json_body(request, any_type=True), "job_ids"))

    async def _cancel(self, request: web.Request, ids: Sequence[str]) -> web.Response:
        caller = request[CALLER]

        def cancel() -> bool:
            return self._cancel_jobs(job for job in self._found(caller, ids) if not job.state.ended)

        return web.json_response({"cancelled": await asyncio.to_thread(cancel)})


def _ids(data: Mapping[str, Any], name: str) -> list[str]:
    value = data.get(name, [])
    if not isinstance(value, list) or len(value) > MOST_IDS or not all(isinstance(id, str) for id in value):
        raise ApiError("bad_request", f"{name} must be a list of at most {MOST_IDS:,} ids")
    return value


def _whole(request: web.Request, name: str, default: int, least: int = 0) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    try:
        number = int(text) if text.isascii() and len(text) < 10 else -2
    except ValueError:
        number = -2
    if number < least:
        raise ApiError("bad_request", f"{name} must be a whole number, not {text[:40]!r}")
    return number
