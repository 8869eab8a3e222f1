"""Assets of the Comfy API v2 under `/api/v2/assets`: uploaded files and the outputs of jobs, and references to them in
workflows."""

from __future__ import annotations

import asyncio
import io
import re
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import IO, Any

from aiohttp import web

from graphengine.server.comfy.v2_views import (
    KEPT,
    PREFIX,
    Produced,
    Refused,
    answer,
    error_answer,
    output_data,
    produced,
    request_id,
    time_text,
)
from graphengine.server.contract import Route
from graphengine.server.file_store import UNKNOWN, Asset, NewAsset, open_inside, type_of
from graphengine.server.http import CALLER, ENVELOPE, form_parts, json_body, origin_of, send_file
from graphengine.server.job_api import JobApi
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Job

HASH = "blake3:"
REFERENCE = "core/ASSET"
SHORTEST_TIME, LONGEST_TIME = 60, 604_800
"""Seconds for which an asset may be kept."""
MOST_TAGS = 50
_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}", re.ASCII)
_OUTPUT = re.compile(r"([0-9a-f-]{36})_(\d{1,9})", re.ASCII)


class ComfyV2Assets:
    """The handlers of `/api/v2/assets`.

    Args:
        api: What they render.
    """

    prefixes = (f"{PREFIX}/assets",)
    without_token = ()

    def __init__(self, api: JobApi) -> None:
        self.api = api

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error in the envelope of this API."""
        return error_answer(error)

    def routes(self) -> list[Route]:
        """All routes."""
        assets, asset = f"{PREFIX}/assets", f"{PREFIX}/assets/{{id}}"
        made = {"200": "object", "201": "object"}
        return [
            Route("POST", assets, self.upload, "Upload a file", made),
            Route("POST", f"{assets}/from-hash", self.from_hash, "Make an asset of bytes that are here", made),
            Route("HEAD", f"{assets}/by-hash/{{hash}}", self.by_hash, "Whether bytes are here", {"200": ""}),
            Route("GET", asset, self.asset, "An asset", {"200": "object"}),
            Route("DELETE", asset, self.delete, "Remove an asset", {"204": ""}),
            Route("GET", f"{asset}/content", self.content, "The bytes of an asset", {"200": "bytes", "206": "bytes"}),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        """`POST /api/v2/assets`."""
        files, user = self.api.files, request[CALLER].user
        fields: dict[str, list[str]] = {}
        key = request.headers.get("Idempotency-Key")
        if key is not None and not (1 <= len(key) <= 255 and key.isprintable()):
            raise ApiError("bad_request", "an Idempotency-Key has 1 to 255 printable characters")
        await asyncio.to_thread(files.expire, user)
        upload = await asyncio.to_thread(files.upload, user)
        try:
            try:
                await form_parts(request, files.most + ENVELOPE, fields, upload.write)
            except ApiError as error:
                raise _as_wrong(error) from None
            wanted = _asset_of(fields, key)
            for expected in fields.get("expected_hash", ()):
                if expected.lower() != HASH + upload.blake3:
                    what = f"the file that arrived is {HASH}{upload.blake3}, not {expected[:80]}"
                    raise Refused(409, "hash_mismatch", what)
            asset = await asyncio.to_thread(upload.keep_as, wanted)
        finally:
            await asyncio.to_thread(upload.close)
        return answer(asset_data(asset, origin_of(request)) | {"created_new": asset.new}, 201 if asset.new else 200)

    async def from_hash(self, request: web.Request) -> web.Response:
        """`POST /api/v2/assets/from-hash`."""
        data = await json_body(request)
        given, tags, seconds = data.get("hash"), data.get("tags"), data.get("expires_in")
        if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            raise Refused(422, "invalid_request", "tags must be a list of texts")
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int)):
            raise Refused(422, "invalid_request", "expires_in must be a whole number of seconds")
        for name in ("hash", "file_path"):
            if data.get(name) is not None and not isinstance(data[name], str):
                raise Refused(422, "invalid_request", f"{name} must be a text")
        if given is None:
            raise Refused(422, "invalid_request", "hash is needed: blake3: and 64 hexadecimal digits")
        texts = {"file_path": data.get("file_path"), "expires_in": None if seconds is None else str(seconds)}
        fields = {name: [text] for name, text in texts.items() if text is not None} | {"tags": tags or []}
        wanted = _asset_of(fields, None, named=False)
        user = request[CALLER].user
        asset = await asyncio.to_thread(self.api.files.hold, user, _digest(given), wanted)
        if asset is None:
            raise Refused(404, "blob_not_found", "there are no bytes of this hash; upload the file")
        return answer(asset_data(asset, origin_of(request)) | {"created_new": False}, 201 if asset.made else 200)

    async def by_hash(self, request: web.Request) -> web.Response:
        """`HEAD /api/v2/assets/by-hash/{hash}`."""
        user, hash = request[CALLER].user, _digest(request.match_info["hash"])
        found = await asyncio.to_thread(self.api.files.with_hash, user, hash)
        return web.Response(status=404 if found is None else 200, headers=request_id())

    async def asset(self, request: web.Request) -> web.Response:
        """`GET /api/v2/assets/{id}`."""
        origin = origin_of(request)

        def read() -> dict[str, Any]:
            found = find(self.api, request[CALLER], request.match_info["id"])
            if isinstance(found, Asset):
                return asset_data(found, origin)
            job, output = found
            return produced_data(job, output, origin)

        return answer(await asyncio.to_thread(read))

    async def delete(self, request: web.Request) -> web.Response:
        """`DELETE /api/v2/assets/{id}`."""

        def remove() -> None:
            found = find(self.api, request[CALLER], request.match_info["id"])
            if not isinstance(found, Asset):
                raise Refused(409, "asset_in_use", "the asset cannot be removed now")
            self.api.files.delete_asset(request[CALLER].user, found.record.id)

        await asyncio.to_thread(remove)
        return web.Response(status=204, headers=request_id())

    async def content(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/v2/assets/{id}/content`."""
        caller, id = request[CALLER], request.match_info["id"]
        file, size, type, name = await asyncio.to_thread(open_asset, self.api, caller, id)
        return await send_file(request, file, size, type, name, request_id())


# --- finding ----------------------------------------------------------------------------------------------------------


def find(api: JobApi, caller: Caller, id: str) -> Asset | tuple[Job, Produced]:
    """An asset of the caller by its id: an uploaded file, or an output of a job.

    Raises:
        ApiError: There is none.
    """
    if match := _OUTPUT.fullmatch(id):
        job = api.find(caller, match[1])
        for output in produced(job):
            if output.id == id:
                return job, output
    try:
        return api.files.asset(caller.user, str(uuid.UUID(id)))
    except ValueError:
        raise ApiError("not_found", f"there is no asset {id[:80]!r}") from None


def open_asset(api: JobApi, caller: Caller, id: str) -> tuple[IO[bytes], int, str, str]:
    """The bytes of an asset, their number, type and name."""
    found = find(api, caller, id)
    try:
        if isinstance(found, Asset):
            file, size, type = open_inside(found.path, [api.files.of(caller.user)])
            return file, size, type, found.record.name or id
        _, output = found
        if output.path is None:
            return io.BytesIO(output.text), len(output.text), type_of(output.text[:64]), output.name
        file, size, type = open_inside(output.path, [api.folders.output])
        return file, size, type, output.name
    except ApiError:
        raise Refused(404, "output_unavailable", "the bytes of this asset are gone") from None


# --- references in workflows ------------------------------------------------------------------------------------------


def with_files(api: JobApi, caller: Caller, workflow: Any, as_ids: bool = False) -> Any:
    """A workflow whose references to assets (`core/ASSET`) are paths of their files.

    Args:
        workflow: Which is not changed.
        as_ids: Put the ids of files (`sha256:...`) in their place, as inputs by name take them.

    Raises:
        ApiError: An asset is not there; names all that are not.
    """
    missing: list[str] = []

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("__type") == REFERENCE:
                return resolve(value.get("info"))
            return {name: walk(part) for name, part in value.items()}
        return [walk(part) for part in value] if isinstance(value, list) else value

    def resolve(info: Any) -> Any:
        try:
            found = _referenced(api, caller, info)
        except ApiError:
            missing.append(str(info.get("id"))[:200] if isinstance(info, dict) else "")
            return None
        return f"sha256:{found.record.digest}" if as_ids else str(api.files.path_like(found))

    made = walk(workflow)
    if missing:
        what = f"the workflow names assets that are not here: {', '.join(missing[:20])}"
        raise Refused(422, "missing_asset", what, {"missing_ids": missing})
    return made


def _referenced(api: JobApi, caller: Caller, info: Any) -> Asset:
    """The asset that a reference names, by its id, else by its hash."""
    id, hash = (info.get("id"), info.get("hash")) if isinstance(info, Mapping) else (None, None)
    if not isinstance(id, str):
        raise ApiError("not_found", "the reference has no id")
    try:
        found = find(api, caller, id)
    except ApiError:
        held = None
        if isinstance(hash, str) and hash.startswith(HASH):
            held = api.files.hold(caller.user, _digest(hash), NewAsset())
        if held is None:
            raise
        return held
    if isinstance(found, Asset):
        return found
    file, _, type, name = open_asset(api, caller, id)
    with file:
        return api.files.copy(caller.user, file, NewAsset(name, type))


# --- what is asked for and answered -----------------------------------------------------------------------------------


def asset_data(asset: Asset, origin: str) -> dict[str, Any]:
    """An uploaded file as JSON data.

    Args:
        origin: The scheme and host by which the client calls this server.
    """
    record = asset.record
    return {
        "id": record.id,
        "hash": HASH + record.blake3,
        "size_bytes": record.size,
        "content_type": record.type,
        "file_path": record.name,
        "tags": list(record.tags),
        "created_at": time_text(record.created),
        "url": f"{origin}{PREFIX}/assets/{record.id}/content",
        "url_expires_at": time_text(record.expires or record.created, timedelta() if record.expires else KEPT),
        "expires_at": time_text(record.expires),
    }


def produced_data(job: Job, output: Produced, origin: str) -> dict[str, Any]:
    """An output of a job as an asset."""
    data = output_data(job, output, origin)
    names = ("id", "hash", "size_bytes", "content_type", "url", "url_expires_at", "job_id")
    made = time_text(job.ended or job.created)
    return {name: data[name] for name in names} | {"file_path": output.name, "created_at": made, "expires_at": None}


def _asset_of(fields: Mapping[str, list[str]], key: str | None, named: bool = True) -> NewAsset:
    """What a request says of an asset."""
    for name, values in fields.items():
        if name not in ("content_type", "file_path", "expected_hash", "tags", "expires_in"):
            raise Refused(422, "invalid_request", f"{name[:60]!r} is unknown here")
        if name != "tags" and len(values) > 1:
            raise Refused(422, "invalid_request", f"{name} is given {len(values)} times")
    path, type, seconds = (fields.get(name, [None])[0] for name in ("file_path", "content_type", "expires_in"))
    if path is None and named:
        raise Refused(422, "invalid_request", "file_path is needed: the file's name")
    if path is not None:
        parts = PurePosixPath(path).parts
        if not path or path[0] in "/\\" or ".." in parts or "\0" in path or len(path) > 1024 or not path.isprintable():
            raise Refused(422, "invalid_request", f"{path[:80]!r} is no relative path of a file")
    if type is not None and _TYPE.fullmatch(type.partition(";")[0].strip()) is None:
        raise Refused(422, "invalid_request", f"{type[:80]!r} is no media type")
    tags = tuple(fields.get("tags", ()))
    if len(tags) > MOST_TAGS or any(len(tag) > 256 for tag in tags):
        raise Refused(422, "invalid_request", f"an asset has at most {MOST_TAGS} tags of 256 characters")
    if seconds is not None and (not re.fullmatch(r"\d{1,9}", seconds, re.ASCII)
                                or not SHORTEST_TIME <= int(seconds) <= LONGEST_TIME):  # fmt: skip
        raise Refused(422, "invalid_request", f"expires_in is from {SHORTEST_TIME} to {LONGEST_TIME:,} seconds")
    known = (type or UNKNOWN).partition(";")[0].strip()
    return NewAsset(path, known if type else None, tags, None if seconds is None else int(seconds), key)


def _digest(hash: str) -> str:
    return hash.removeprefix(HASH).lower()


def _as_wrong(error: ApiError) -> ApiError:
    """A form that cannot be read, as the contract calls it."""
    if error.code in ("bad_request", "bad_type"):
        return Refused(422, "invalid_request", error.detail, headers=error.headers)
    return error
