"""ComfyUI's own HTTP API, for its clients and its frontend: prompts, queue, history, files, node definitions.

Every route is there with and without `/api` before it. Errors are JSON in ComfyUI's form, whatever was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from aiohttp import BodyPartReader, web

from graphengine.declare import registry
from graphengine.declare.sockets import File
from graphengine.errors import Problem, WorkflowError
from graphengine.server import comfy_jobs, comfy_prompt
from graphengine.server.comfy_files import CHANNELS, FORMATS, MODELS, PICTURES, Files, Named, Upload
from graphengine.server.comfy_objects import all_objects, full_name, is_shown, object_info
from graphengine.server.comfy_prompt import Prompt, Refused
from graphengine.server.comfy_socket import Sockets, features
from graphengine.server.contract import Route
from graphengine.server.event_hub import EventHub
from graphengine.server.http import BODY_SECONDS, CALLER, PIECE, PIECE_SECONDS, SAFE, json_body, send_file
from graphengine.server.job_api import JobApi, JobView, Order
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, State
from graphengine.workflow.files import from_document
from graphengine.workflow.formats import is_output, original_ids

log = logging.getLogger(__name__)

ENDED = (State.DONE, State.FAILED, State.CANCELLED)
MOST_ENTRIES = 200
"""The most entries of `/history`, which some clients ask for many times a second."""
MOST_ITEMS = 1000
"""The most jobs of a page of `/api/jobs`."""
MOST_IDS = 1000
MOST_CONVERSIONS = 2
"""How many pictures are made smaller at once."""
LONGEST_FIELD = 64 << 10
FOLDERS = (
    "checkpoints", "clip_vision", "configs", "controlnet", "diffusion_models", "embeddings", "hypernetworks", "loras",
    "style_models", "text_encoders", "upscale_models", "vae",
)  # fmt: skip
"""ComfyUI's folders of models."""


class ComfyClassic:
    """The handlers of ComfyUI's API.

    Args:
        api: What they render.
        hub: The events of jobs.
    """

    prefixes = (
        "/api/", "/object_info", "/prompt", "/queue", "/history", "/interrupt", "/view", "/upload/", "/system_stats",
        "/embeddings", "/models", "/free", "/features", "/ws",
    )  # fmt: skip
    without_token = ()

    def __init__(self, api: JobApi, hub: EventHub) -> None:
        self.api, self.files, self.sockets = api, Files(api), Sockets(api, hub)
        self._converting = asyncio.Semaphore(MOST_CONVERSIONS)

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error as ComfyUI has it."""
        return problem_answer(error, request)

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
        add("GET", "/view", self.view, "A file")
        add("POST", "/upload/image", self.upload, "Upload a file")
        add("POST", "/upload/mask", self.upload_mask, "Upload a painted mask")
        add("GET", "/system_stats", self.system, "The machine")
        add("GET", "/embeddings", self.embeddings, "The names of embeddings")
        add("GET", "/models", self.model_folders, "The folders of models")
        add("GET", "/models/{folder}", self.models, "The models in a folder")
        add("POST", "/free", self.free, "Free memory")
        return found

    # --- nodes --------------------------------------------------------------------------------------------------------

    async def features(self, request: web.Request) -> web.Response:
        """`GET /features`."""
        return web.json_response(features(self.api))

    async def objects(self, request: web.Request) -> web.Response:
        """`GET /object_info`."""
        caller = request[CALLER]

        def text() -> str:
            return json.dumps(all_objects(registry.nodes(), self._files_of(caller)), default=str)

        return web.json_response(text=await asyncio.to_thread(text))

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
        """Lists the files that an input may name: pictures in the input folder, models in the folder of their kind."""
        known: dict[str, list[str]] = {}

        def files_of(rule: File) -> Sequence[str] | None:
            if rule.kind not in known:
                if rule.kind == "image":
                    known[rule.kind] = self.files.listed(caller, self.api.folders.input, PICTURES)
                elif rule.kind in FOLDERS and self.api.folders.models is not None:
                    known[rule.kind] = self.files.listed(caller, self.api.folders.models / rule.kind, MODELS)
                elif rule.kind not in FOLDERS:
                    return None
            return known.get(rule.kind, [])

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
        return self.api.submit(caller, Order(nodes, uuid=prompt.uuid, facts=prompt.facts(outputs)))

    def _refused(self, prompt: Prompt, outputs: Sequence[str], nodes: Mapping[str, Any],
                 problems: Sequence[Problem]) -> Refused:  # fmt: skip
        """Why a prompt is refused."""
        ids: Mapping[str, str] = {}
        with contextlib.suppress(WorkflowError):  # then its nodes are named as in the prompt
            ids = original_ids(from_document(nodes, base=self.api.folders.input, roots=[self.api.folders.input]))
        found = [problem for problem in problems if problem.severity == "error"] or list(problems)
        first = found[0] if found else Problem("invalid", "the prompt cannot be run")
        errors = comfy_prompt.node_errors(prompt.nodes, outputs, found, ids)
        if first.kind == "no outputs":
            return Refused("prompt_no_outputs", "Prompt has no outputs", {}, first.hint)
        if first.kind in ("unknown node", "unknown classes"):
            return Refused("missing_node_type", str(first), errors)
        if not errors:
            return Refused("invalid_prompt", str(first), {})
        return Refused(FAILED, "Prompt outputs failed validation", errors, str(first))

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
        found: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
        for job in jobs:
            part = "queue_running" if job.state is State.RUNNING else "queue_pending"
            found[part].append(comfy_jobs.queue_entry(job))
        return web.json_response(found)

    async def change_queue(self, request: web.Request) -> web.Response:
        """`POST /queue`: `{"clear": true}` or `{"delete": [id, ...]}`, for jobs that wait."""
        data = await json_body(request, any_type=True)
        caller, ids = request[CALLER], _ids(data, "delete")

        def change() -> None:
            chosen = [self.api.find(caller, id) for id in ids if self._has(caller, id)]
            if data.get("clear") is True:
                chosen += [job for job in self.api.unfinished(caller) if job.user == caller.user]
            for job in chosen:
                if job.state is State.QUEUED:
                    self.api.service.cancel(job.id)

        await asyncio.to_thread(change)
        return web.json_response({})

    async def interrupt(self, request: web.Request) -> web.Response:
        """`POST /interrupt`: cancels the job `prompt_id` if it runs, or whatever of the caller's runs."""
        data = await json_body(request, any_type=True) if request.body_exists else {}
        caller, wanted = request[CALLER], data.get("prompt_id")

        def cancel() -> None:
            for job in self.api.unfinished(caller):
                mine = job.user == caller.user if wanted is None else job.uuid == str(wanted).lower()
                if mine and job.state is State.RUNNING:
                    self.api.service.cancel(job.id)

        await asyncio.to_thread(cancel)
        return web.json_response({})

    def _has(self, caller: Caller, id: str) -> bool:
        with contextlib.suppress(ApiError):
            return bool(self.api.find(caller, id))
        return False

    # --- what was done ------------------------------------------------------------------------------------------------

    async def history(self, request: web.Request) -> web.Response:
        """`GET /history`: the newest `max_items` jobs, the oldest of them first."""
        most = min(_whole(request, "max_items", MOST_ENTRIES), MOST_ENTRIES)
        skip = max(0, _whole(request, "offset", 0, least=-1))

        def text() -> str:
            jobs, _ = self.api.recent(request[CALLER], ENDED, skip, most)
            return self._entries(reversed(jobs))

        return web.json_response(text=await asyncio.to_thread(text))

    async def history_of(self, request: web.Request) -> web.Response:
        """`GET /history/{id}`: empty while the job has not ended."""
        caller, id = request[CALLER], request.match_info["id"]

        def text() -> str:
            jobs = [self.api.find(caller, id)] if self._has(caller, id) else []
            return self._entries(job for job in jobs if job.state.ended)

        return web.json_response(text=await asyncio.to_thread(text))

    def _entries(self, jobs: Any) -> str:
        output = self.api.folders.output
        return json.dumps({job.uuid: comfy_jobs.history_entry(job, output) for job in jobs}, default=str)

    async def change_history(self, request: web.Request) -> web.Response:
        """`POST /history`: `{"clear": true}` or `{"delete": [id, ...]}`; the files stay."""
        data = await json_body(request, any_type=True)
        caller, ids = request[CALLER], _ids(data, "delete")

        def change() -> None:
            chosen = [self.api.find(caller, id) for id in ids if self._has(caller, id)]
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
            items = [comfy_jobs.job_item(job, self.api.folders.output) for job in jobs]
            page = {"offset": skip, "limit": limit, "total": total, "has_more": skip + len(jobs) < total}
            return json.dumps({"jobs": items, "pagination": page}, default=str)

        return web.json_response(text=await asyncio.to_thread(text))

    async def job(self, request: web.Request) -> web.Response:
        """`GET /api/jobs/{id}`."""
        job = await asyncio.to_thread(self.api.find, request[CALLER], request.match_info["id"])
        return web.json_response(text=json.dumps(comfy_jobs.job_detail(job, self.api.folders.output), default=str))

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /api/jobs/{id}/cancel`."""
        return await self._cancel(request, [request.match_info["id"]])

    async def cancel_all(self, request: web.Request) -> web.Response:
        """`POST /api/jobs/cancel`: `{"job_ids": [id, ...]}`."""
        return await self._cancel(request, _ids(await json_body(request, any_type=True), "job_ids"))

    async def _cancel(self, request: web.Request, ids: Sequence[str]) -> web.Response:
        caller = request[CALLER]

        def cancel() -> bool:
            jobs = [self.api.find(caller, id) for id in ids if self._has(caller, id)]
            going = [job for job in jobs if not job.state.ended]
            for job in going:
                self.api.service.cancel(job.id)
            return bool(going)

        return web.json_response({"cancelled": await asyncio.to_thread(cancel)})

    # --- files --------------------------------------------------------------------------------------------------------

    async def view(self, request: web.Request) -> web.StreamResponse:
        """`GET /view`: a file, or a copy of a picture that is smaller (`preview=webp;75`) or one part of it."""
        query, caller = request.query, request[CALLER]
        named = Named(query.get("filename", ""), query.get("subfolder", ""), query.get("type", "output"))
        file, size, type = await asyncio.to_thread(self.files.open, caller, named)
        preview, channel = query.get("preview", ""), query.get("channel", "rgba")
        if channel not in CHANNELS:
            file.close()
            raise ApiError("bad_request", f"channel must be rgba, rgb or a, not {channel[:40]!r}")
        if not type.startswith("image/") or (not preview and channel == "rgba"):
            return await send_file(request, file, size, type, named.filename)
        with file:
            async with self._converting:
                if preview:
                    format, _, quality = preview.partition(";")
                    known = format if format in FORMATS else "webp"
                    percent = int(quality) if quality.isascii() and quality.isdigit() and len(quality) < 4 else 90
                    done = asyncio.to_thread(self.files.smaller, file, known, max(1, min(percent, 100)))
                else:
                    done = asyncio.to_thread(self.files.channel, file, channel)
                content, type = await asyncio.shield(done)
        headers = {"Cache-Control": "private, no-cache", "Content-Disposition": "inline", **SAFE}
        return web.Response(body=content, content_type=type, headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        """`POST /upload/image`: a form with `image`, `type`, `subfolder` and `overwrite`."""
        upload, name, fields = await self._form(request)
        try:
            named = Named(name, fields.get("subfolder", ""), fields.get("type", "input"))
            overwrite = fields.get("overwrite", "").lower() in ("true", "1")
            kept = await asyncio.to_thread(self.files.keep, request[CALLER], upload, named, overwrite)
        finally:
            await asyncio.to_thread(upload.close)
        return web.json_response(kept.facts())

    async def upload_mask(self, request: web.Request) -> web.Response:
        """`POST /upload/mask`: as `/upload/image`, with `original_ref`: the picture that gets the mask as its alpha."""
        upload, name, fields = await self._form(request)
        caller = request[CALLER]

        def paint() -> Named:
            original = _reference(fields.get("original_ref", ""))
            file, _, _ = self.files.open(caller, original)
            with file:
                content = self.files.painted(file, upload.read())
            result = self.files.begin(self.api.files.most)
            try:
                result.write(content)
                named = Named(name, fields.get("subfolder", ""), fields.get("type", "input"))
                return self.files.keep(caller, result, named, fields.get("overwrite", "").lower() in ("true", "1"))
            finally:
                result.close()

        try:
            async with self._converting:
                kept = await asyncio.shield(asyncio.to_thread(paint))
        finally:
            await asyncio.to_thread(upload.close)
        return web.json_response(kept.facts())

    async def _form(self, request: web.Request) -> tuple[Upload, str, dict[str, str]]:
        """The file of a form, its name, and the other fields; the file is written as it arrives."""
        if not request.content_type.startswith("multipart/"):
            raise ApiError("bad_type", "the body must be a form (multipart/form-data) with the file as `image`")
        upload: Upload | None = None
        name, fields = "", dict[str, str]()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in await request.multipart():
                    if not isinstance(part, BodyPartReader):
                        raise ApiError("bad_request", "a form inside a form is not taken here")
                    if part.name == "image" and part.filename is not None and upload is None:
                        name = part.filename
                        upload = await asyncio.to_thread(self.files.begin, self.api.files.most)
                        await _take(part, upload.write)
                    elif len(fields) < 20:
                        content = bytearray()
                        await _take(part, lambda piece, content=content: _limited(content, piece))  # type: ignore[misc]
                        fields[str(part.name)] = content.decode("utf-8", "replace")
            if upload is None or not upload.size:
                raise ApiError("bad_request", "the form holds no file called `image`")
            return upload, name, fields
        except BaseException as error:
            if upload is not None:
                await asyncio.to_thread(upload.close)
            if isinstance(error, TimeoutError):
                what = "the form did not arrive in time; send it again"
                raise ApiError("slow", what, headers={"Connection": "close"}) from None
            if isinstance(error, ValueError | AssertionError):
                raise ApiError("bad_request", "the form is damaged") from None
            raise

    # --- the machine --------------------------------------------------------------------------------------------------

    async def system(self, request: web.Request) -> web.Response:
        """`GET /system_stats`."""
        return web.json_response(await asyncio.to_thread(self._system))

    def _system(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        devices = []
        for index, status in enumerate(self.api.service.backend.status()):
            free = memory.available if status.free is None else status.free
            total = memory.total if status.device == "cpu" else max(free, 0)
            type = status.device.partition(":")[0]
            devices.append({
                "name": f"{status.device} {status.name}", "type": type, "index": index, "vram_total": total,
                "vram_free": free, "torch_vram_total": total, "torch_vram_free": free,
            })  # fmt: skip
        total, free = memory.total, memory.available
        alone = {
            "name": "cpu", "type": "cpu", "index": 0, "vram_total": total, "vram_free": free,
            "torch_vram_total": total, "torch_vram_free": free,
        }  # fmt: skip
        system = {
            "os": platform.system().lower(), "ram_total": total, "ram_free": free,
            "comfyui_version": _version("graphengine"), "python_version": platform.python_version(),
            "pytorch_version": _version("torch"), "embedded_python": False, "argv": [],
        }  # fmt: skip
        return {"system": system, "devices": devices or [alone]}

    async def embeddings(self, request: web.Request) -> web.Response:
        """`GET /embeddings`."""
        found = await asyncio.to_thread(self._models, request[CALLER], "embeddings")
        return web.json_response([str(Path(name).with_suffix("")) for name in found])

    async def model_folders(self, request: web.Request) -> web.Response:
        """`GET /models`."""
        return web.json_response(await asyncio.to_thread(self._model_folders))

    def _model_folders(self) -> list[str]:
        models, found = self.api.folders.models, set(FOLDERS)
        if models is not None:
            found |= {entry.name for entry in models.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
        return sorted(found)

    async def models(self, request: web.Request) -> web.Response:
        """`GET /models/{folder}`."""
        folder = request.match_info["folder"]
        if folder not in await asyncio.to_thread(self._model_folders):
            raise ApiError("not_found", f"there is no folder of models {folder[:60]!r}")
        return web.json_response(await asyncio.to_thread(self._models, request[CALLER], folder))

    def _models(self, caller: Caller, folder: str) -> list[str]:
        models = self.api.folders.models
        return [] if models is None else self.files.listed(caller, models / folder, MODELS)

    async def free(self, request: web.Request) -> web.Response:
        """`POST /free`: models leave the memory by themselves when their room is needed, so that nothing is done."""
        if request.body_exists:
            await json_body(request, any_type=True)
        return web.json_response({})


FAILED = "prompt_outputs_failed_validation"
STATUS = {"invalid": 400}
"""Statuses in HTTP that ComfyUI's clients know for errors which have another one here."""


def problem_answer(error: ApiError, request: web.Request) -> web.Response:
    """An error as ComfyUI has it."""
    details, type, nodes = "", error.code, dict[str, Any]()
    if isinstance(error, Refused):
        details, type, nodes = error.details, error.type, error.node_errors
    told = {"type": type, "message": error.detail, "details": details, "extra_info": {}}
    return web.json_response(
        {"error": told, "node_errors": nodes}, status=STATUS.get(error.code, error.status), headers=error.headers
    )


async def _take(part: BodyPartReader, take: Callable[[bytes], object]) -> None:
    while True:
        async with asyncio.timeout(PIECE_SECONDS):
            piece = await part.read_chunk(PIECE)
        if not piece:
            return
        await asyncio.to_thread(take, piece)


def _limited(content: bytearray, piece: bytes) -> None:
    content.extend(piece)
    if len(content) > LONGEST_FIELD:
        raise ApiError("too_large", f"a field of the form has at most {LONGEST_FIELD:,} bytes")


def _reference(text: str) -> Named:
    """The file that `original_ref` names."""
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict) or not all(isinstance(data.get(name, ""), str) for name in _NAMES):
        raise ApiError("bad_request", "original_ref must be JSON with filename, subfolder and type")
    return Named(data.get("filename", ""), data.get("subfolder", ""), data.get("type", "output"))


_NAMES = ("filename", "subfolder", "type")


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


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
