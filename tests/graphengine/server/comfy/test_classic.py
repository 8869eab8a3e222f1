"""ComfyUI's classic API: conversations of its clients, message by message, with a real server."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import PIL.Image
import pytest

from tests.graphengine.sample import until
from tests.graphengine.server.conftest import PIXEL, Server

PAGE = {
    "3": {"class_type": "door.page", "inputs": {"width": 20, "look": "plain", "seed": 7}, "_meta": {"title": "Page"}},
    "9": {"class_type": "door.present", "inputs": {"sheet": ["3", 0]}},
}


def gated(server: Server, name: str) -> dict[str, Any]:
    """A prompt that waits for a file."""
    return {
        "1": {"class_type": "door.gate", "inputs": {"text": name, "file": str(server.folder / name)}},
        "57:3": {"class_type": "door.tell", "inputs": {"text": ["1", 0]}},
    }


def send(server: Server, prompt: Any, **more: Any) -> Any:
    """Send a prompt; returns the answer, which must be good."""
    answer = server.ask("POST", "/prompt", {"prompt": prompt, **more})
    assert answer.status == 200, answer.body
    return answer.data


def ended(server: Server, id: str) -> dict[str, Any]:
    """A job's entry in the history, once it has ended: as clients poll for it."""
    end = time.monotonic() + 600
    while not (found := server.ask("GET", f"/history/{id}").data):
        assert time.monotonic() < end, f"{id} has not ended"
    assert list(found) == [id]
    entry: dict[str, Any] = found[id]
    return entry


def error(server: Server, body: Any, status: int = 400) -> dict[str, Any]:
    """Send what is refused; returns the answer, well formed."""
    answer = server.ask("POST", "/prompt", body)
    assert answer.status == status, answer.body
    found: dict[str, Any] = answer.data
    assert {"type", "message", "details", "extra_info"} == set(found["error"])
    assert b"Traceback" not in answer.body
    return found


class Talk:
    """A client's connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.told: list[dict[str, Any]] = []
        self.frames: list[bytes] = []

    async def until(self, is_last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The messages up to one."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(300):
            while not found or not is_last(found[-1]):
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.frames.append(message.data)
                    continue
                assert message.type is aiohttp.WSMsgType.TEXT, (message, found)
                found.append(json.loads(message.data))
        self.told += found
        return found

    async def end_of(self, id: str) -> list[dict[str, Any]]:
        """The messages up to the end of a job."""
        return await self.until(lambda one: one["type"] == "executing" and one["data"]["node"] is None
                                and one["data"]["prompt_id"] == id)  # fmt: skip


@asynccontextmanager
async def talk(server: Server, client: str, flags: bool = False, **headers: str) -> AsyncIterator[Talk]:
    """Connect as a client does."""
    async with aiohttp.ClientSession() as session:
        url = f"{server.url}/ws?clientId={client}"
        async with session.ws_connect(url, headers=headers) as socket:
            found = Talk(socket)
            [first] = await found.until(lambda one: True)
            assert first["type"] == "status"
            assert first["data"]["sid"] == client
            if flags:
                asked = {"supports_preview_metadata": True, "supports_manager_v4_ui": True}
                await socket.send_json({"type": "feature_flags", "data": asked})
                answer = (await found.until(lambda one: one["type"] == "feature_flags"))[-1]
                assert answer["data"] == {"supports_preview_metadata": True, "max_upload_size": 100 << 20}
            yield found


def is_empty(message: dict[str, Any]) -> bool:
    """Whether a message tells that the queue is empty."""
    return message["type"] == "status" and not message["data"]["status"]["exec_info"]["queue_remaining"]


def until_empty(server: Server) -> None:
    """Wait until the jobs of other tests have ended."""
    until(lambda: server.ask("GET", "/prompt").data["exec_info"]["queue_remaining"] == 0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def post(server: Server, path: str, body: Any) -> Any:
    """Post while a connection is open."""
    return (await asyncio.to_thread(server.ask, "POST", path, body)).data


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_nodes_are_shown_with_widgets_and_choices_in_the_form_that_all_clients_read(server: Server) -> None:
    known = server.ask("GET", "/object_info").data
    assert known == server.ask("GET", "/api/object_info").data
    page = known["door.page"]
    assert page["input"]["optional"] == {
        "width": ["INT", {"tooltip": "How wide.", "default": 10, "min": 1, "max": 100}],
        "look": [["plain", "bold"], {"default": "plain"}],
        "seed": ["INT", {"control_after_generate": True, "default": 0, "min": 0, "max": 2**64 - 1}],
    }
    assert page["input_order"]["optional"] == ["width", "look", "seed"]
    assert page["output"] == ["Sheet"]
    assert not page["output_node"]
    assert page["description"] == "A picture."
    assert known["door.present"]["output_node"]
    assert known["std.sample"]["input"]["required"]["model"] == ["Model", {}]
    assert known["std.sample"]["input"]["optional"]["steps"][1]["forceInput"], "no value is the model's own"
    assert known["BatchImagesNode"]["input"]["required"]["images"] == [
        "COMFY_AUTOGROW_V3",
        {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 50}},
    ]
    cases = known["flow.switch"]["input"]["required"]["cases"][1]["template"]
    assert cases["input"]["required"]["case"][0] == "*"
    assert cases["input"]["required"]["case"][1]["lazy"], "only the one that is chosen is computed"
    assert "IMAGE" in known["std.decode_latent"]["output"]
    assert "std.save_image" not in known, "jobs of a server write no files by themselves"
    assert "door.store" not in known
    assert server.ask("GET", "/object_info/door.page").data == {"door.page": page}
    assert server.ask("GET", "/object_info/NoSuchNode").data == {}


# --- conversations ----------------------------------------------------------------------------------------------------


def test_a_client_that_polls_the_history(server: Server) -> None:
    """As comfyapi and comfy-headless: post, poll `/history/{id}`, get the file."""
    answer = send(server, PAGE)
    assert set(answer) == {"prompt_id", "number", "node_errors"}
    assert answer["node_errors"] == {}
    assert str(uuid.UUID(answer["prompt_id"])) == answer["prompt_id"]
    entry = ended(server, answer["prompt_id"])
    assert entry["prompt"][:3] == [answer["number"], answer["prompt_id"], PAGE]
    assert entry["prompt"][4] == ["9"]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert [name for name, _ in entry["status"]["messages"]] == [
        "execution_start", "execution_cached", "execution_success",
    ]  # fmt: skip
    [picture] = entry["outputs"]["9"]["images"]
    assert picture["type"] == "output"
    query = "&".join(f"{name}={value}" for name, value in picture.items())
    for prefix in ("", "/api"):
        seen = server.ask("GET", f"{prefix}/view?{query}")
        assert (seen.status, seen.headers["content-type"], seen.body) == (200, "image/png", PIXEL)
    small = server.ask("GET", f"/view?{query}&preview=webp;75")
    assert small.headers["content-type"] == "image/webp"
    assert small.body[8:12] == b"WEBP"
    assert server.ask("GET", f"/view?{query}&channel=rgb").headers["content-type"] == "image/png"


def test_a_client_that_listens_before_it_posts(server: Server) -> None:
    """As comfy-script and comfy-cli: connect, post, listen until `executing` of no node, ask the history."""
    until_empty(server)

    async def work() -> None:
        async with talk(server, "listener") as client:
            answer = await post(server, "/prompt", {"prompt": PAGE | gated(server, "through"), "client_id": "listener"})
            id = answer["prompt_id"]
            await client.until(lambda one: one["type"] == "progress")
            (server.folder / "through").touch()
            await client.end_of(id)
            told = [one for one in client.told if one["type"] != "status"]
            assert all(one["data"]["prompt_id"] == id for one in told)
            kinds = [one["type"] for one in told]
            assert kinds[0] == "execution_start"
            assert kinds[-2:] == ["execution_success", "executing"]
            executed = {one["data"]["node"]: one["data"]["output"] for one in told if one["type"] == "executed"}
            assert executed["57:3"] == {"text": ["through"]}
            assert len(executed["9"]["images"]) == 1
            progress = [one["data"] for one in told if one["type"] == "progress"]
            assert progress[0] == {"value": 1, "max": 2, "prompt_id": id, "node": "1"}
            states = [one["data"]["nodes"] for one in told if one["type"] == "progress_state"]
            assert states[-1].keys() <= {"1", "3", "9", "57:3"}
            assert server.ask("GET", f"/history/{id}").data[id]["outputs"] == executed
            await client.until(is_empty)
            assert not client.frames

    run(work())


def test_a_client_that_listens_after_it_posts(server: Server) -> None:
    """As comfy-api-simplified: post, then connect, and end at `queue_remaining` 0."""
    until_empty(server)

    async def work() -> None:
        answer = await post(server, "/prompt", {"prompt": gated(server, "late"), "client_id": "late"})
        async with talk(server, "late") as client:
            assert client.told[0]["data"]["status"]["exec_info"]["queue_remaining"] == 1
            (server.folder / "late").touch()
            await client.until(is_empty)
            assert server.ask("GET", f"/history/{answer['prompt_id']}").data, "the history holds it before"
            assert any(one["type"] == "executing" and one["data"]["node"] is None for one in client.told)

    run(work())


def test_others_are_told_nothing_of_a_job_but_the_length_of_the_queue(server: Server) -> None:
    async def work() -> None:
        async with talk(server, "mine") as mine, talk(server, "yours") as yours:
            answer = await post(server, "/prompt", {"prompt": PAGE, "client_id": "mine"})
            await mine.end_of(answer["prompt_id"])
            other = await post(server, "/prompt", {"prompt": PAGE, "client_id": "yours"})
            told = await yours.end_of(other["prompt_id"])
            assert {one["data"]["prompt_id"] for one in told if one["type"] != "status"} == {other["prompt_id"]}
            await yours.until(lambda one: one["type"] == "status")

    run(work())


def test_a_client_that_comes_back_in_the_middle_of_a_run_is_told_where_it_is(server: Server) -> None:
    async def work() -> None:
        async with talk(server, "again") as client:
            answer = await post(server, "/prompt", {"prompt": gated(server, "back"), "client_id": "again"})
            await client.until(lambda one: one["type"] == "progress")
        async with talk(server, "again") as client:
            told = await client.until(lambda one: one["type"] == "executing")
            assert told[-1]["data"] == {"node": "1", "display_node": "1", "prompt_id": answer["prompt_id"]}
            (server.folder / "back").touch()
            await client.end_of(answer["prompt_id"])
            assert any(one["type"] == "executed" for one in client.told)

    run(work())


def test_a_failure_names_the_node_and_ends_like_a_run(server: Server) -> None:
    prompt = {
        "5": {"class_type": "door.fails", "inputs": {"text": "four"}},
        "6": {"class_type": "door.tell", "inputs": {"text": ["5", 0]}},
    }

    async def work() -> None:
        async with talk(server, "unlucky") as client:
            answer = await post(server, "/prompt", {"prompt": prompt, "client_id": "unlucky"})
            told = await client.end_of(answer["prompt_id"])
            failed = next(one["data"] for one in told if one["type"] == "execution_error")
            assert (failed["node_id"], failed["node_type"]) == ("5", "door.fails")
            assert failed["exception_type"] == "ValueError"
            assert failed["exception_message"].startswith("node 5 (door.fails) failed: ValueError: four is not lucky")
            assert failed["traceback"] == []
            entry = ended(server, answer["prompt_id"])
            assert entry["status"]["status_str"] == "error"
            assert entry["status"]["completed"] is False
            job = server.ask("GET", f"/api/jobs/{answer['prompt_id']}").data
            assert (job["status"], job["execution_error"]["node_id"]) == ("failed", "5")

    run(work())


def test_an_interrupted_run_ends_like_a_run(server: Server) -> None:
    async def work() -> None:
        async with talk(server, "impatient") as client:
            answer = await post(server, "/prompt", {"prompt": gated(server, "never"), "client_id": "impatient"})
            await client.until(lambda one: one["type"] == "progress")
            waiting = await post(server, "/prompt", {"prompt": gated(server, "never2"), "client_id": "impatient"})
            await post(server, "/api/interrupt", {"prompt_id": answer["prompt_id"]})
            told = await client.end_of(answer["prompt_id"])
            cut = next(one["data"] for one in told if one["type"] == "execution_interrupted")
            assert (cut["node_id"], cut["node_type"]) == ("1", "door.gate")
            cancelled = await post(server, "/api/jobs/cancel", {"job_ids": [waiting["prompt_id"]]})
            assert cancelled == {"cancelled": True}
            assert ended(server, waiting["prompt_id"])["status"]["messages"][-1][0] == "execution_interrupted"
            assert await post(server, f"/api/jobs/{waiting['prompt_id']}/cancel", {}) == {"cancelled": False}
            assert (await asyncio.to_thread(server.ask, "POST", "/interrupt")).status == 200, "nothing runs"

    run(work())


def test_an_interrupt_without_an_id_leaves_what_waits(server: Server) -> None:
    def on_device(name: str) -> dict[str, Any]:
        file = str(server.folder / name)
        return {
            "1": {"class_type": "door.page", "inputs": {}},
            "2": {"class_type": "door.gate_of_device", "inputs": {"sheet": ["1", 0], "file": file}},
            "9": {"class_type": "door.present", "inputs": {"sheet": ["2", 0]}},
        }

    def queue() -> list[list[str]]:
        found = server.ask("GET", "/queue").data
        return [[entry[1] for entry in found[part]] for part in ("queue_running", "queue_pending")]

    def states() -> dict[str, str]:
        jobs = server.ask("GET", "/api/jobs?status=pending,in_progress").data["jobs"]
        return {job["id"]: job["status"] for job in jobs}

    async def work() -> None:
        async with talk(server, "hasty") as client:
            ids = []
            for name in ("wait1", "wait2", "wait3"):
                sent = await post(server, "/prompt", {"prompt": on_device(name), "client_id": "hasty"})
                ids.append(sent["prompt_id"])
            await client.until(lambda one: one["type"] == "progress" and one["data"]["prompt_id"] == ids[0])
            for number in (0, 1):
                # the light nodes of all jobs may be computed at once, and jobs are begun while this looks
                await asyncio.to_thread(until, lambda n=number: queue() == [ids[n : n + 1], ids[n + 1 :]])
                await asyncio.to_thread(until, lambda n=number: list(map(states().get, ids[n:]))
                                        == ["in_progress", *["pending"] * (2 - n)])  # fmt: skip
                await post(server, "/interrupt", {})
                await client.end_of(ids[number])
                if not any(one["type"] == "progress" and one["data"]["prompt_id"] == ids[number + 1]
                           for one in client.told):  # it may have come before that end
                    await client.until(lambda one, n=number: one["type"] == "progress"
                                       and one["data"]["prompt_id"] == ids[n + 1])  # fmt: skip
            assert [ended(server, id)["status"]["messages"][-1][0] for id in ids[:2]] == ["execution_interrupted"] * 2
            waiting = await post(server, "/prompt", {"prompt": on_device("wait4"), "client_id": "hasty"})
            await asyncio.to_thread(until, lambda: queue() == [[ids[2]], [waiting["prompt_id"]]])
            await post(server, "/queue", {"clear": True})
            assert ended(server, waiting["prompt_id"])["status"]["messages"][-1][0] == "execution_interrupted"
            (server.folder / "wait3").touch()
            told = await client.end_of(ids[2])
            assert "execution_success" in [one["type"] for one in told]

    run(work())


def test_a_cleared_queue_beside_deletions_is_no_error(server: Server) -> None:
    async def work() -> None:
        async with talk(server, "tidy") as client:
            first = await post(server, "/prompt", {"prompt": gated(server, "tidy1"), "client_id": "tidy"})
            await client.until(lambda one: one["type"] == "progress")

            async def vanish() -> None:
                sent = await post(server, "/prompt", {"prompt": PAGE})
                await post(server, "/queue", {"delete": [sent["prompt_id"]]})
                await post(server, "/history", {"delete": [sent["prompt_id"]]})

            async def clear() -> int:
                return (await asyncio.to_thread(server.ask, "POST", "/queue", {"clear": True})).status

            for _ in range(10):
                _, *answers = await asyncio.gather(vanish(), *(clear() for _ in range(4)))
                assert answers == [200] * 4
            (server.folder / "tidy1").touch()
            assert "execution_success" in [one["type"] for one in await client.end_of(first["prompt_id"])]

    run(work())


def test_previews_go_only_to_sockets_that_say_they_know_them(server: Server) -> None:
    """Some clients take every binary message for a result."""
    prompt = {
        "4": {"class_type": "door.shows", "inputs": {"file": str(server.folder / "seen")}},
        "8": {"class_type": "door.tell", "inputs": {"text": "ends"}},
        "9": {"class_type": "door.count", "inputs": {"number": ["4", 0]}},
    }

    async def work() -> None:
        async with talk(server, "frontend", flags=True) as client:
            await post(server, "/prompt", {"prompt": prompt, "client_id": "frontend"})
            async with asyncio.timeout(300):
                while (message := await client.socket.receive()).type is not aiohttp.WSMsgType.BINARY:
                    pass
            kind, length = struct.unpack(">II", message.data[:8])
            about = json.loads(message.data[8 : 8 + length])
            assert kind == 4
            assert (about["node_id"], about["display_node_id"]) == ("4", "4")
            assert about["image_type"] in ("image/png", "image/jpeg")
            assert message.data[8 + length :][:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")
            with PIL.Image.open(io.BytesIO(message.data[8 + length :])) as picture:
                assert picture.size == (256, 256), "the picture of one pixel is enlarged so that it is seen"
            (server.folder / "seen").touch()
        prompt["4"]["inputs"]["file"] = str(server.folder / "unseen")
        async with talk(server, "plain") as client:
            id = (await post(server, "/prompt", {"prompt": prompt, "client_id": "plain"}))["prompt_id"]
            await client.until(lambda one: one["type"] == "executing" and one["data"]["node"] == "4")
            (server.folder / "unseen").touch()
            told = await client.end_of(id)
            assert not client.frames
            made = [one["data"]["output"]["text"] for one in told if one["type"] == "executed"]
            assert ["0"] in made, "none were made for nobody"
        prompt["4"]["inputs"]["file"] = str(server.folder / "asked")
        async with talk(server, "asks") as client:
            asked = {"prompt": prompt, "client_id": "asks", "extra_data": {"preview_method": "auto"}}
            await post(server, "/prompt", asked)
            async with asyncio.timeout(300):
                while (message := await client.socket.receive()).type is not aiohttp.WSMsgType.BINARY:
                    pass
            kind, format = struct.unpack(">II", message.data[:8])
            assert (kind, format) in ((1, 1), (1, 2))
            (server.folder / "asked").touch()

    run(work())


# --- the queue --------------------------------------------------------------------------------------------------------


def test_a_job_is_in_the_queue_from_the_answer_on_until_it_is_in_the_history(server: Server) -> None:
    until_empty(server)
    names = ["q1", "q2", "q3"]
    ids = [send(server, gated(server, name))["prompt_id"] for name in names]
    chosen = str(uuid.uuid4())
    send(server, gated(server, "q4"), prompt_id=chosen, front=True)
    queue = server.ask("GET", "/queue").data
    places = [entry[1] for part in ("queue_running", "queue_pending") for entry in queue[part]]
    assert set(places) >= {*ids, chosen}
    assert server.ask("GET", "/prompt").data["exec_info"]["queue_remaining"] == len(places)
    assert server.ask("GET", f"/history/{chosen}").data == {}
    page = server.ask("GET", "/api/jobs?status=pending,in_progress&limit=50").data
    assert {job["id"] for job in page["jobs"]} == set(places)
    assert page["pagination"] == {"offset": 0, "limit": 50, "total": len(places), "has_more": False}
    assert server.ask("POST", "/queue", {"delete": [ids[2]]}).status == 200
    for name in [*names, "q4"]:
        (server.folder / name).touch()
    for id in [*ids[:2], chosen]:
        assert ended(server, id)["status"]["completed"]
    listed = server.ask("GET", "/history?max_items=3").data
    assert len(listed) == 3
    assert error(server, {"prompt": PAGE, "prompt_id": chosen}, 409)["error"]["type"] == "conflict"
    assert server.ask("POST", "/history", {"delete": [chosen]}).status == 200
    assert server.ask("GET", f"/history/{chosen}").data == {}


def test_a_list_of_links_comes_as_sockets_that_were_added(server: Server) -> None:
    prompt = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "a"}},
        "2": {"class_type": "PrimitiveString", "inputs": {"value": "b"}},
        "3": {"class_type": "flow.switch", "inputs": {"choice": 1, "cases.case0": ["1", 0], "cases.case1": ["2", 0]}},
        "4": {"class_type": "door.tell", "inputs": {"text": ["3", 0]}},
    }
    assert ended(server, send(server, prompt)["prompt_id"])["outputs"] == {"4": {"text": ["b"]}}


# --- what is refused --------------------------------------------------------------------------------------------------


def test_choices_that_open_inputs_are_shown_so_and_come_so(server: Server) -> None:
    info = server.ask("GET", "/object_info/ResizeImageMaskNode").data["ResizeImageMaskNode"]
    assert info["input_order"]["required"] == ["input", "resize_type", "scale_method"]
    type, options = info["input"]["required"]["resize_type"]
    assert type == "COMFY_DYNAMICCOMBO_V3"
    opened = {one["key"]: list(one["inputs"]["required"]) for one in options["options"]}
    assert opened["scale dimensions"] == ["width", "height", "crop"]
    assert opened["scale by multiplier"] == ["multiplier"]
    assert options["options"][0]["inputs"]["required"]["width"][1]["default"] == 512
    flat = server.ask("GET", "/object_info/SaveImageAdvanced").data["SaveImageAdvanced"]["input_order"]
    assert "format_bit_depth" in [*flat["required"], *flat["optional"]]  # it has no widget
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 24, "batch_size": 1, "color": 0}},
        "2": {"class_type": "ResizeImageMaskNode", "inputs": {
            "input": ["1", 0], "resize_type": "scale dimensions", "resize_type.width": 40, "resize_type.height": 20,
            "resize_type.crop": "disabled", "scale_method": "area",
        }},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "sized"}},
    }  # fmt: skip
    [made] = ended(server, send(server, prompt)["prompt_id"])["outputs"]["9"]["images"]
    head = server.ask("GET", f"/view?filename={made['filename']}").body
    assert struct.unpack(">II", head[16:24]) == (40, 20)
    prompt["2"]["inputs"]["resize_type.width"] = -1
    [wrong] = error(server, {"prompt": prompt})["node_errors"]["2"]["errors"]
    assert (wrong["extra_info"]["input_name"], wrong["extra_info"]["received_value"]) == ("resize_type.width", -1)


def test_what_is_wrong_is_told_in_the_words_that_the_frontend_knows(server: Server) -> None:
    prompt = {
        "1": {"class_type": "door.page", "inputs": {"width": 500, "look": "bald"}},
        "2": {"class_type": "door.present", "inputs": {"sheet": ["1", 0]}},
        "3": {"class_type": "door.present", "inputs": {}},
        "4": {"class_type": "door.tell", "inputs": {"text": ["1", 0]}},
    }
    found = error(server, {"prompt": prompt})
    assert found["error"]["type"] == "prompt_outputs_failed_validation"
    types = {
        (id, one["type"], one["extra_info"].get("input_name"))
        for id, node in found["node_errors"].items() for one in node["errors"]
    }  # fmt: skip
    assert types == {
        ("1", "value_bigger_than_max", "width"), ("1", "value_not_in_list", "look"),
        ("3", "required_input_missing", "sheet"), ("4", "return_type_mismatch", "text"),
    }  # fmt: skip
    assert found["node_errors"]["1"]["class_type"] == "door.page"
    assert found["node_errors"]["4"]["errors"][0]["details"].startswith("text: wants str, gets Sheet from 1")
    assert found["node_errors"]["1"]["dependent_outputs"] == ["2", "4"]


def test_outputs_that_can_be_made_are_made_beside_others_that_cannot(server: Server) -> None:
    answer = send(server, PAGE | {"12": {"class_type": "door.present", "inputs": {}}})
    assert list(answer["node_errors"]) == ["12"]
    entry = ended(server, answer["prompt_id"])
    assert list(entry["outputs"]) == ["9"]
    assert entry["prompt"][4] == ["9"]


@pytest.mark.parametrize("targets", [["9"], [["9"]]])
def test_only_the_wanted_outputs_are_made(server: Server, targets: list[Any]) -> None:
    prompt = PAGE | {"12": {"class_type": "door.tell", "inputs": {"text": "left out"}}}
    answer = send(server, prompt, partial_execution_targets=targets)
    entry = ended(server, answer["prompt_id"])
    assert list(entry["outputs"]) == ["9"]
    assert entry["prompt"][2] == prompt, "the whole prompt can be opened again"


@pytest.mark.parametrize(
    ("body", "type"),
    [
        ({}, "no_prompt"),
        ({"prompt": {}}, "prompt_no_outputs"),
        ({"prompt": {"1": PAGE["3"]}}, "prompt_no_outputs"),
        ({"prompt": {"1": {"class_type": "KSampl", "inputs": {}}}}, "missing_node_type"),
        ({"prompt": PAGE, "prompt_id": "mine"}, "invalid_prompt_id"),
        ({"prompt": PAGE, "partial_execution_targets": []}, "prompt_no_outputs"),
        ({"prompt": {"nodes": [], "links": []}}, "invalid_prompt"),
        ({"prompt": PAGE | {"7": {"class_type": "door.present", "inputs": 5}}}, "invalid_prompt"),
    ],
)  # fmt: skip
def test_prompts_that_are_none_are_refused(server: Server, body: Any, type: str) -> None:
    assert error(server, body)["error"]["type"] == type


@pytest.mark.parametrize("path", ["/api/nothing", "/models/none", "/api/jobs/none", "/view?filename=x"])
def test_errors_are_json_whatever_was_asked_for(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    assert answer.status == 404
    assert answer.headers["content-type"].startswith(("application/json", "application/problem+json"))
    assert "message" in answer.data["error"] or "detail" in answer.data


def test_keys_and_other_extra_data_are_kept_nowhere(server: Server) -> None:
    secret = "sk-do-not-keep"
    extra = {
        "auth_token_comfy_org": secret, "api_key_comfy_org": secret, "other": secret,
        "extra_pnginfo": {"workflow": {"id": "w1", "nodes": []}, "more": secret},
    }  # fmt: skip
    id = send(server, PAGE, extra_data=extra, client_id="c")["prompt_id"]
    entry = ended(server, id)
    assert entry["prompt"][3]["extra_pnginfo"] == {"workflow": {"id": "w1", "nodes": []}}
    job = server.ask("GET", f"/api/jobs/{id}").data
    assert job["workflow"]["extra_data"]["extra_pnginfo"]["workflow"]["id"] == "w1"
    assert job["workflow_id"] == "w1"
    assert [one["id"] for one in server.ask("GET", "/api/jobs?workflow_id=w1").data["jobs"]] == [id]
    for file in server.folder.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


# --- files ------------------------------------------------------------------------------------------------------------


def form(**fields: Any) -> tuple[bytes, str]:
    """A form as clients send it, its file first."""
    parts = []
    for name, value in fields.items():
        content, file = (value[1], f'; filename="{value[0]}"') if isinstance(value, tuple) else (value.encode(), "")
        parts.append(f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content)
    return b"\r\n".join([*parts, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"


def put(server: Server, path: str = "/upload/image", **fields: Any) -> Any:
    body, type = form(**fields)
    return server.ask("POST", path, body, Content_Type=type)


def test_a_picture_is_uploaded_and_seen_again(server: Server) -> None:
    first = put(server, image=("cat.png", PIXEL), type="input")
    assert first.data == {"name": "cat.png", "subfolder": "", "type": "input"}
    assert put(server, image=("cat.png", PIXEL)).data["name"] == "cat.png", "the same content keeps its name"
    other = put(server, image=("cat.png", PIXEL + b"!"), subfolder="pets")
    assert other.data == {"name": "cat.png", "subfolder": "pets", "type": "input"}
    assert put(server, image=("cat.png", PIXEL + b"?"), subfolder="pets").data["name"] == "cat (1).png"
    assert put(server, image=("cat.png", PIXEL), subfolder="pets", overwrite="true").data["name"] == "cat.png"
    seen = server.ask("GET", "/view?filename=cat.png&subfolder=pets&type=input")
    assert seen.body == PIXEL
    page = put(server, image=("../../evil<b>.html", b"<script>"), type="temp").data
    assert page == {"name": "evil_b_.html", "subfolder": "", "type": "temp"}
    seen = server.ask("GET", f"/view?filename={page['name']}&type=temp")
    assert seen.headers["content-type"] == "application/octet-stream"
    assert seen.headers["content-disposition"].startswith("attachment")
    assert not list((server.folder / "in").rglob(".*.tmp"))


@pytest.mark.parametrize(
    "query",
    [
        "filename=../state/queue.db", "filename=/etc/passwd", "filename=passwd&subfolder=/etc", "filename=x&type=a",
        "filename=..%2F..%2Fx", "filename=x&subfolder=..", "filename=link&type=input", "filename=", "filename=.hidden",
        "filename=a%00b",
    ],
)  # fmt: skip
def test_no_file_is_shown_outside_the_folders(server: Server, query: str) -> None:
    link = server.folder / "in" / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    assert server.ask("GET", f"/view?{query}").status in (400, 404)


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "/tmp", ".hidden", "out"])
def test_no_file_is_uploaded_outside_the_input_folder(server: Server, subfolder: str) -> None:
    link = server.folder / "in" / "out"
    if not link.is_symlink():
        link.symlink_to(server.folder)
    assert put(server, image=("x.png", PIXEL), subfolder=subfolder).status == 400
    assert not list(server.folder.glob("x.png"))
    assert put(server, image=("x.png", PIXEL), type="output").status == 403


def test_forms_that_are_none_are_refused(server: Server) -> None:
    assert server.ask("POST", "/upload/image", {"image": "x"}).status == 415
    assert put(server, other="x").status == 400
    assert put(server, image="no file").status == 400
    assert put(server, image=("..", PIXEL)).status == 400
    assert server.ask("POST", "/upload/image", b"nothing", Content_Type="multipart/form-data; boundary=x").status == 400
    assert put(server, image=("x.png", PIXEL), other="x" * 70_000).status == 413
    assert put(server, image=("x.png", PIXEL), **{f"f{number}": "x" for number in range(100)}).status == 400
    large = server.ask("POST", "/upload/image", b"", Content_Type="multipart/form-data; boundary=x",
                       Content_Length=str(200 << 20))  # fmt: skip
    assert large.status == 413
    assert not list((server.folder / "in").rglob(".*.tmp"))


# --- several users ----------------------------------------------------------------------------------------------------


def test_what_is_somebody_elses_is_not_there(tokens: tuple[Server, dict[str, str]]) -> None:
    server, token = tokens
    server.token = token["ann"]
    id = send(server, PAGE, client_id="ann")["prompt_id"]
    [picture] = ended(server, id)["outputs"]["9"]["images"]
    query = "&".join(f"{name}={value}" for name, value in picture.items())
    assert server.ask("GET", f"/view?{query}").body == PIXEL
    upload = put(server, image=("cat.png", PIXEL)).data
    asked = f"/view?filename={upload['name']}&subfolder={upload['subfolder']}&type=input"
    assert server.ask("GET", asked).body == PIXEL
    (server.folder / "in" / "shared.png").write_bytes(PIXEL)
    choices = server.ask("GET", "/object_info/LoadImage").data["LoadImage"]["input"]["required"]["image"][0]
    assert choices == ["shared.png", f"{upload['subfolder']}/cat.png"]
    server.token = token["ben"]
    assert server.ask("GET", f"/view?{query}").status == 404
    assert server.ask("GET", asked).status == 404
    assert server.ask("GET", "/view?filename=shared.png&type=input").status == 200
    assert put(server, image=("shared.png", b"other"), overwrite="true").data["subfolder"].startswith("users/")
    assert (server.folder / "in" / "shared.png").read_bytes() == PIXEL
    choices = server.ask("GET", "/object_info/LoadImage").data["LoadImage"]["input"]["required"]["image"][0]
    assert not any("cat.png" in choice for choice in choices)
    assert server.ask("GET", f"/history/{id}").data == {}
    assert server.ask("GET", "/history").data == {}
    assert server.ask("GET", f"/api/jobs/{id}").status == 404
    assert server.ask("GET", "/api/jobs").data["pagination"]["total"] == 0
    for path, body in (("/history", {"clear": True}), ("/history", {"delete": [id]}), ("/queue", {"clear": True})):
        assert server.ask("POST", path, body).status == 200
    server.token = token["ann"]
    assert server.ask("GET", f"/history/{id}").data


def test_only_an_admin_frees_the_memory_of_all(tokens: tuple[Server, dict[str, str]]) -> None:
    server, token = tokens
    for name, status in (("ann", 403), ("root", 200)):
        server.token = token[name]
        assert server.ask("POST", "/api/free", {"unload_models": True, "free_memory": True}).status == status


def test_sockets_hear_only_of_jobs_of_their_user(tokens: tuple[Server, dict[str, str]]) -> None:
    server, token = tokens
    ann, ben = ({"Authorization": f"Bearer {token[name]}"} for name in ("ann", "ben"))

    async def work() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with talk(server, "same"):
                pass
        assert refused.value.status == 401
        server.token = token["ann"]
        async with talk(server, "same", **ann) as mine, talk(server, "same", **ben) as yours:
            id = (await post(server, "/prompt", {"prompt": PAGE, "client_id": "same"}))["prompt_id"]
            await mine.end_of(id)
            told = await yours.until(lambda one: one["type"] == "status")
            assert {one["type"] for one in told} == {"status"}
            assert told[-1]["data"]["status"]["exec_info"]["queue_remaining"] == 0

    run(work())


@pytest.mark.parametrize("header", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_pages_of_other_sites_get_no_socket(server: Server, header: dict[str, str]) -> None:
    async def work() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with talk(server, "evil", **header):
                pass
        assert refused.value.status == 403

    run(work())


def test_a_bearer_of_nothing_is_nobody_where_no_token_is_needed(server: Server) -> None:
    """Open WebUI sends it always."""
    assert server.ask("GET", "/queue", Authorization="Bearer ").status == 200
    assert server.ask("GET", "/queue", Authorization="Bearer None").status == 200


def test_sockets_are_closed_when_the_server_ends(serve: Callable[..., Server]) -> None:
    server = serve()

    async def work() -> None:
        async with talk(server, "last") as client:
            server.process.terminate()
            message = await asyncio.wait_for(client.socket.receive(), 300)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)

    run(work())
    assert server.stop() == 0


def test_the_mask_of_the_mask_editor_becomes_the_alpha_of_the_picture(server: Server) -> None:
    import io

    import PIL.Image

    def png(mode: str, colour: Any, size: tuple[int, int] = (4, 4)) -> bytes:
        buffer = io.BytesIO()
        PIL.Image.new(mode, size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    put(server, image=("base.png", png("RGB", (10, 20, 30))))
    reference = json.dumps({"filename": "base.png", "subfolder": "", "type": "input"})
    mask = png("RGBA", (0, 0, 0, 99))
    kept = put(server, "/upload/mask", image=("mask.png", mask), original_ref=reference, subfolder="clipspace").data
    assert kept == {"name": "mask.png", "subfolder": "clipspace", "type": "input"}
    painted = server.ask("GET", "/view?filename=mask.png&subfolder=clipspace&type=input").body
    with PIL.Image.open(io.BytesIO(painted)) as picture:
        assert picture.getpixel((0, 0)) == (10, 20, 30, 99)
    alpha = server.ask("GET", "/view?filename=mask.png&subfolder=clipspace&type=input&channel=a").body
    with PIL.Image.open(io.BytesIO(alpha)) as picture:
        assert picture.getpixel((0, 0)) == (0, 0, 0, 99)
    for wrong in ("", "{}", '{"filename": "../x"}', '{"filename": 5}', '{"filename": "none.png", "type": "input"}'):
        answer = put(server, "/upload/mask", image=("mask.png", mask), original_ref=wrong)
        assert answer.status in (400, 404), wrong
    small = put(server, "/upload/mask", image=("m.png", png("RGBA", 0, (2, 2))), original_ref=reference)
    assert "2x2" in small.data["error"]["message"]


def test_the_machine_is_shown_without_its_secrets(server: Server) -> None:
    told = server.ask("GET", "/system_stats").data
    assert told["system"]["argv"] == []
    assert told["devices"][0]["vram_total"] > 0
    assert "checkpoints" in server.ask("GET", "/models").data
    (server.folder / "models" / "loras" / "sub").mkdir(parents=True, exist_ok=True)
    (server.folder / "models" / "loras" / "sub" / "a.safetensors").write_bytes(b"x")
    (server.folder / "models" / "loras" / "notes.txt").write_bytes(b"x")
    assert server.ask("GET", "/models/loras").data == ["sub/a.safetensors"]
    assert server.ask("GET", "/models/%2e%2e").status == 404
    assert {"name": "loras", "folders": []} in server.ask("GET", "/api/experiment/models").data
    listed = server.ask("GET", "/api/experiment/models/loras").data
    assert listed == [{"name": "sub/a.safetensors", "pathIndex": 0}]
    assert server.ask("GET", "/embeddings").data == []
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["system"]["comfyui_version"])
    for body in ({"unload_models": True}, {"unload_models": True, "free_memory": True}, {}):
        assert server.ask("POST", "/free", body).status == 200
    assert server.ask("GET", "/features").data["supports_preview_metadata"] is True


def test_pages_of_jobs_follow_each_other(server: Server) -> None:
    made = []
    for n in range(3):
        made.append(send(server, {"1": {"class_type": "door.tell", "inputs": {"text": f"page {n}"}}})["prompt_id"])
        ended(server, made[-1])
    total = server.ask("GET", "/api/jobs?limit=1").data["pagination"]["total"]
    pages = [server.ask("GET", f"/api/jobs?limit=1&offset={skip}").data["jobs"] for skip in (0, 1, 2, total)]
    assert [[job["id"] for job in page] for page in pages] == [[made[2]], [made[1]], [made[0]], []]
    assert [list(server.ask("GET", f"/history?max_items=1&offset={skip}").data) for skip in (0, 2)] == [
        [made[2]], [made[0]]
    ]
    first = server.ask("GET", "/api/jobs?limit=1&sort_order=asc").data["jobs"][0]["id"]
    assert first == server.ask("GET", f"/api/jobs?limit=1&offset={total - 1}").data["jobs"][0]["id"]


def test_a_user_uploads_no_more_than_may_be(serve: Callable[..., Server], tmp_path: Path) -> None:
    from graphengine.server.tokens import Tokens

    known = Tokens(tmp_path / "tokens.json")
    ann, ben = known.add("ann"), known.add("ben")
    server = serve("--token-file", tmp_path / "tokens.json", "--upload-limit", 1)
    picture = PIXEL + bytes(700_000)
    server.token = ann
    assert put(server, image=("a.png", picture)).status == 200
    refused = put(server, image=("b.png", picture), type="temp")
    assert (refused.status, refused.data["error"]["type"]) == (413, "too_large")
    server.token = ben
    assert put(server, image=("b.png", picture)).status == 200
