"""Routes of ComfyUI's HTTP API for files and for the machine: `/view`, uploads, models, `/system_stats`."""

from __future__ import annotations

import asyncio
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from aiohttp import web

from graphengine.server.comfy.files import CHANNELS, FORMATS, MODELS, Files, Named, Upload
from graphengine.server.http import CALLER, ENVELOPE, SAFE, form_parts, json_body, send_file
from graphengine.server.job_api import JobApi
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller

MOST_CONVERSIONS = 2
"""How many pictures are made smaller at once."""
SPOKEN = "0.3.64"
"""The version of ComfyUI whose API this is, in the form in which clients compare versions."""
FOLDERS = (
    "checkpoints", "clip_vision", "configs", "controlnet", "diffusion_models", "embeddings", "hypernetworks", "loras",
    "style_models", "text_encoders", "upscale_models", "vae",
)  # fmt: skip
"""ComfyUI's folders of models."""


class FileRoutes:
    """The handlers of these routes.

    Args:
        api: What they render.
        files: The files that clients name.
    """

    def __init__(self, api: JobApi, files: Files) -> None:
        self.api, self.files = api, files
        self._converting = asyncio.Semaphore(MOST_CONVERSIONS)

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
        fields: dict[str, list[str]] = {}
        upload = await asyncio.to_thread(self.files.begin, self.api.files.most)
        try:
            name = await form_parts(request, self.api.files.most + ENVELOPE, fields, upload.write, file="image")
            if name is None or not upload.size:
                raise ApiError("bad_request", "the form holds no file called `image`")
            return upload, name, {field: values[-1] for field, values in fields.items()}
        except BaseException:
            await asyncio.to_thread(upload.close)
            raise

    # --- the machine --------------------------------------------------------------------------------------------------

    async def system(self, request: web.Request) -> web.Response:
        """`GET /system_stats`."""
        return web.json_response(await asyncio.to_thread(self._system))

    def _system(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        devices = []
        for index, status in enumerate(self.api.service.backend.status()):
            # The processor computes in the main memory; of a GPU that has not computed yet nothing is known.
            known = (memory.available, memory.total) if status.device == "cpu" else status.memory or (0, 0)
            free, total = known
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
            "comfyui_version": SPOKEN, "graphengine_version": _version("graphengine"),
            "python_version": platform.python_version(), "pytorch_version": _version("torch"), "embedded_python": False,
            "argv": [],
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
        return web.json_response(await self._listed(request))

    async def model_lists(self, request: web.Request) -> web.Response:
        """`GET /experiment/models`: the folders, without their places on this machine."""
        names = await asyncio.to_thread(self._model_folders)
        return web.json_response([{"name": name, "folders": []} for name in names])

    async def model_list(self, request: web.Request) -> web.Response:
        """`GET /experiment/models/{folder}`."""
        return web.json_response([{"name": name, "pathIndex": 0} for name in await self._listed(request)])

    async def _listed(self, request: web.Request) -> list[str]:
        folder = request.match_info["folder"]
        if folder not in await asyncio.to_thread(self._model_folders):
            raise ApiError("not_found", f"there is no folder of models {folder[:60]!r}")
        return await asyncio.to_thread(self._models, request[CALLER], folder)

    def _models(self, caller: Caller, folder: str) -> list[str]:
        models = self.api.folders.models
        return [] if models is None else self.files.listed(caller, models / folder, MODELS)

    async def free(self, request: web.Request) -> web.Response:
        """`POST /free`: `unload_models` lets the workers drop the models that no call needs, once their calls have
        ended; `free_memory` lets the service forget values besides, those on the disk excepted. For admins only."""
        data = await json_body(request, any_type=True) if request.body_exists else {}
        if not request[CALLER].admin:
            raise ApiError("forbidden", "only an admin frees memory, which the jobs of all use")
        models, values = data.get("unload_models") is True, data.get("free_memory") is True
        await asyncio.to_thread(self.api.service.free, models or values, values)
        return web.json_response({})


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


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
