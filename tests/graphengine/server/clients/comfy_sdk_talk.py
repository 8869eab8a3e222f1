"""What a user of `comfy-sdk` does, all of it, against a server; run by the Python of an environment that has the SDK.

    python comfy_sdk_talk.py URL FOLDER [RECORDING]

It ends with an error if anything is not as the SDK's documentation says. With a third argument, all that went over the
wire is written there.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from comfy_sdk import (
    AsyncComfy,
    Comfy,
    ComfyError,
    IdempotencyKeyReuse,
    InvalidWorkflow,
    JobFailed,
    MissingAsset,
    NotFound,
    OutputReady,
    Progress,
    StatusChange,
)

SAID: list[dict[str, Any]] = []


def note(request: httpx.Request, answer: httpx.Response, content: bytes) -> None:
    """Keep what went over the wire."""
    names = ("content-type", "idempotency-key", "range", "accept")
    SAID.append({
        "method": request.method,
        "path": request.url.raw_path.decode(),
        "headers": {name: request.headers[name] for name in names if name in request.headers},
        "body": text_of(request.content),
        "status": answer.status_code,
        "type": answer.headers.get("content-type", ""),
        "answer": text_of(content),
    })  # fmt: skip


def text_of(content: bytes) -> str:
    """Bytes as text: as they are if they are one, else in base64."""
    known = content.replace(os.environ["FOLDER"].encode(), b"FOLDER")
    try:
        return known.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(known).decode()


class Heard(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer, which is kept when it was read."""

    def __init__(self, request: httpx.Request, answer: httpx.Response) -> None:
        self.request, self.answer, self.stream, self.content = request, answer, answer.stream, b""

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.stream:  # type: ignore[union-attr]
            self.content += piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self.stream:  # type: ignore[union-attr]
            self.content += piece
            yield piece

    def close(self) -> None:
        note(self.request, self.answer, self.content)
        self.stream.close()  # type: ignore[union-attr]

    async def aclose(self) -> None:
        note(self.request, self.answer, self.content)
        await self.stream.aclose()  # type: ignore[union-attr]


def record() -> None:
    """Keep all that goes over the wire from now on."""
    handle, handle_async = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def heard(self: Any, request: httpx.Request) -> httpx.Response:
        request.read()
        answer = handle(self, request)
        answer.stream = Heard(request, answer)
        return answer

    async def heard_async(self: Any, request: httpx.Request) -> httpx.Response:
        await request.aread()
        answer = await handle_async(self, request)
        answer.stream = Heard(request, answer)
        return answer

    httpx.HTTPTransport.handle_request = heard  # type: ignore[method-assign]
    httpx.AsyncHTTPTransport.handle_async_request = heard_async  # type: ignore[method-assign]


def prompt(node: str, **inputs: Any) -> dict[str, Any]:
    """A prompt of a node of the test pack, whose text is shown."""
    return {
        "7": {"class_type": f"door.{node}", "inputs": inputs},
        "9": {"class_type": "door.show", "inputs": {"text": ["7", 0]}, "_meta": {"title": "Page"}},
    }


def refused(error: type[Exception], code: str, call: Any) -> Any:
    """The exception that a call raises."""
    found = None
    try:
        call()
    except error as caught:
        found = caught
    assert found is not None, f"{code} was not refused"
    assert getattr(found, "code", code) == code, found
    return found


def synchronous(client: Comfy, folder: Path) -> None:
    """Everything with the synchronous client."""
    content = b"\x89PNG\r\n\x1a\n" + uuid.uuid4().bytes
    (folder / "photo.png").write_bytes(content)
    photo = client.assets.from_file(folder / "photo.png")
    workflow = client.workflows.from_json(prompt("digest"))
    workflow.set_input("7", "path", photo)
    result = client.run(workflow, timeout=600)
    assert (result.status, photo.created_new) == ("succeeded", True)
    (output,) = result.get_outputs("9")
    assert output.to_bytes() == hashlib.sha256(content).hexdigest().encode()
    assert output.to_bytes(range=(2, 5)) == output.to_bytes()[2:6]
    assert output.to_file(folder / "page.txt").read_bytes() == output.to_bytes()
    assert output.get_download_url().url.startswith("http")
    assert output.job_id == result.id

    again = client.assets.from_bytes(content, filename="photo.png")
    assert (again.commit(), again.created_new) == (photo.id, False)
    other = client.assets.from_bytes(content, filename="other.png")
    other.commit()
    photo.delete()
    found = client.assets.get(other.id)
    assert found.hash == other.hash
    other.delete()
    refused(NotFound, "not_found", lambda: client.assets.get(found.id))

    go = folder / "go-sync"
    job = client.submit(client.workflows.from_json(prompt("gate", text="through", file=str(go))),
                        metadata={"set": "sdk", "number": "1"})  # fmt: skip
    assert job.metadata == {"set": "sdk", "number": "1"}
    seen = []
    for event in job.events():
        seen.append(event)
        if isinstance(event, Progress) and event.step == 1:
            go.touch()
    assert isinstance(seen[-1], StatusChange), seen
    assert seen[-1].status == "succeeded"
    assert [event.output.node_id for event in seen if isinstance(event, OutputReady)] == ["9"], seen
    progress = next(event for event in seen if isinstance(event, Progress) and event.step == 1)
    assert (progress.current_node, progress.nodes_total, progress.steps) == ("7", 2, 2)
    assert [type(event) for event in job.events()] == [OutputReady, StatusChange]
    assert client.jobs.get(job.id).wait(timeout=600).outputs[0].to_bytes() == b"through"
    assert client.jobs.get(job.id).get_workflow().graph["7"]["class_type"] == "door.gate"

    waits = client.submit(client.workflows.from_json(prompt("gate", text="x", file=str(folder / "never"))))
    for event in waits.events():
        if isinstance(event, Progress) and event.step == 1:
            break
    assert waits.cancel().status in ("canceling", "canceled")
    assert waits.wait(timeout=600).status == "canceled"
    assert waits.cancel().status == "canceled"

    failing = client.workflows.from_json(prompt("fails", text="four"))
    failed = refused(JobFailed, "node_execution_error", lambda: client.run(failing))
    assert (failed.error.node_id, failed.error.class_type) == ("7", "door.fails")
    assert "four is not lucky" in failed.error.message

    unknown = client.workflows.from_json(prompt("digst", path="x"))
    error = refused(InvalidWorkflow, "invalid_workflow", lambda: client.submit(unknown))
    assert error.details["node_errors"]["7"]
    assert error.request_id
    gone = prompt("digest", path={"__type": "core/ASSET", "info": {"id": str(uuid.uuid4())}})
    refused(MissingAsset, "missing_asset", lambda: client.submit(client.workflows.from_json(gone)))
    refused(NotFound, "not_found", lambda: client.jobs.get(str(uuid.uuid4())))
    key = str(uuid.uuid4())
    fine = client.workflows.from_json(prompt("digest", path="words.txt"))
    client.submit(fine, idempotency_key=key).result()
    refused(IdempotencyKeyReuse, "idempotency_key_reuse", lambda: client.submit(fine, idempotency_key=key))
    refused(ComfyError, "metadata_invalid", lambda: client.submit(fine, metadata={"a b": "x"}))

    made = [client.submit(fine, metadata={"set": "listed", "number": str(number)}).result().id for number in range(3)]
    listed = list(client.list_jobs(metadata={"set": "listed"}, limit=2))
    assert [one.id for one in listed] == made[::-1]
    assert (listed[0].status, listed[0].metadata["number"]) == ("succeeded", "2")
    assert listed[0].create_time is not None
    refused(ComfyError, "invalid_metadata_filter", lambda: list(client.list_jobs(metadata={"a b": "x"})))
    with httpx.Client() as plain:
        body = {"content_type": (None, "image/png"), "file_path": (None, "x.png"),
                "expected_hash": (None, "blake3:00"), "file": ("x.png", content)}  # fmt: skip
        answer = plain.post(f"{os.environ['COMFY_BASE_URL']}/api/v2/assets", files=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "hash_mismatch")


async def asynchronous(client: AsyncComfy, folder: Path) -> None:
    """The same, in short, with the asynchronous client."""
    content = uuid.uuid4().bytes
    asset = client.assets.from_bytes(content, filename="data.bin")
    workflow = client.workflows.from_json(prompt("digest"))
    workflow.set_input("7", "path", asset)
    result = await client.run(workflow, timeout=600)
    assert await result.outputs[0].to_bytes() == hashlib.sha256(content).hexdigest().encode()
    go = folder / "go-async"
    job = await client.submit(client.workflows.from_json(prompt("gate", text="async", file=str(go))))
    seen = []
    async for event in job.events():
        seen.append(event)
        if isinstance(event, Progress) and event.step == 1:
            go.touch()
    assert seen[-1].status == "succeeded"
    assert [event.output.node_id for event in seen if isinstance(event, OutputReady)] == ["9"]
    waits = await client.submit(client.workflows.from_json(prompt("gate", text="x", file=str(folder / "never"))),
                                metadata={"set": "async"})  # fmt: skip
    await waits.cancel()
    assert (await waits.wait(timeout=600)).status == "canceled"
    assert [one.id async for one in client.list_jobs(metadata={"set": "async"})] == [waits.id]
    await client.assets.delete(asset.id)


if __name__ == "__main__":
    url, place = sys.argv[1], Path(sys.argv[2])
    os.environ["COMFY_BASE_URL"], os.environ["FOLDER"] = url, str(place)
    if len(sys.argv) > 3:
        record()
    with Comfy() as comfy:
        synchronous(comfy, place)

    async def main() -> None:
        async with AsyncComfy() as comfy:
            await asynchronous(comfy, place)

    asyncio.run(main())
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(json.dumps(SAID, indent=1) + "\n")
    print("all said")
