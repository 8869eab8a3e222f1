"""Files under the names that ComfyUI gives them: in the history, in messages, by `/view`, and as inputs of nodes."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.graphengine.sample import until
from tests.graphengine.server.comfy.test_classic import ended, error, run, send, talk
from tests.graphengine.server.conftest import Server


def prompt(prefix: str = "circle", colour: int = 255) -> dict[str, Any]:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 24, "batch_size": 2, "color": colour}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
        "10": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def load(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    }


def view(server: Server, facts: dict[str, str]) -> Any:
    return server.ask("GET", f"/view?{urllib.parse.urlencode(facts)}")


def test_history_messages_and_view_name_files_alike(server: Server) -> None:
    async def work() -> None:
        async with talk(server, "names") as client:
            id = send(server, prompt("round/circle"), client_id="names")["prompt_id"]
            await client.end_of(id)
            told = {one["data"]["node"]: one["data"]["output"] for one in client.told if one["type"] == "executed"}
            outputs = ended(server, id)["outputs"]
            assert told == outputs
            assert outputs["9"]["images"] == [
                {"filename": f"circle_0000{number}_.png", "subfolder": "round", "type": "output"} for number in (1, 2)
            ]
            shown = outputs["10"]["images"]
            assert [(one["subfolder"], one["type"]) for one in shown] == [("", "temp")] * 2
            assert all(re.fullmatch(r"ComfyUI_temp_[a-z]+_0000\d_\.png", one["filename"]) for one in shown)
            for facts in (*outputs["9"]["images"], *shown):
                assert view(server, facts).body.startswith(b"\x89PNG")
            assert (server.folder / "out" / "round" / "circle_00001_.png").is_file()

    run(work())


def test_outputs_and_previews_are_inputs_of_the_next_prompt(server: Server) -> None:
    made = ended(server, send(server, prompt("next", 0xFF0000))["prompt_id"])["outputs"]
    pictures = [*made["9"]["images"][:1], *made["10"]["images"][:1]]
    for facts in pictures:
        entry = ended(server, send(server, load(f"{facts['filename']} [{facts['type']}]"))["prompt_id"])
        assert entry["status"]["status_str"] == "success", entry
        [loaded] = entry["outputs"]["9"]["images"]
        assert loaded["filename"].startswith("loaded_")
        assert view(server, loaded | {"channel": "rgb"}).body == view(server, facts | {"channel": "rgb"}).body
    (server.folder / "in" / "cat.png").write_bytes(view(server, pictures[0]).body)
    assert ended(server, send(server, load("cat.png [input]"))["prompt_id"])["status"]["status_str"] == "success"
    for name in ("none.png [output]", "../in/cat.png [output]", "cat.png [temp]", "cat.png [models]"):
        assert "1" in error(server, {"prompt": load(name)})["node_errors"]


def test_a_failure_names_the_node_as_its_client_does_wherever_it_is_told(server: Server) -> None:
    async def work() -> None:
        async with talk(server, "fails") as client:
            id = send(server, prompt("../x"), client_id="fails")["prompt_id"]
            told = {one["type"]: one["data"] for one in await client.end_of(id)}
            [entry] = [data for type, data in ended(server, id)["status"]["messages"] if type == "execution_error"]
            listed = server.ask("GET", f"/api/jobs/{id}").data["execution_error"]
            for error in (told["execution_error"], entry, listed):
                assert (error["node_id"], error["node_type"]) == ("9", "SaveImage")
                assert error["exception_message"].startswith("node 9 (comfy.SaveImage) failed: ValueError")
            error = server.ask("GET", f"/api/v2/jobs/{id}").data["error"]
            assert (error["node_id"], error["class_type"]) == ("9", "SaveImage")
            assert error["message"].startswith("node 9 (comfy.SaveImage) failed")
            assert not (server.folder / "x_00001_.png").exists()

    run(work())


def test_files_of_one_job_have_names_of_their_own(server: Server) -> None:
    """Our own API names files without their folders."""
    other = {
        "11": {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "b/x"}},
        "12": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    }
    id = send(server, prompt("a/x") | other)["prompt_id"]
    made = ended(server, id)["outputs"]
    job = server.ask("GET", f"/v1/jobs/{id}").data
    for node in ("9", "11"):
        for facts, file in zip(made[node]["images"], job["outputs"][f"n{node}"]["files"], strict=True):
            assert server.ask("GET", file["url"]).body == view(server, facts).body


def test_what_others_made_is_no_input(tokens: tuple[Server, dict[str, str]]) -> None:
    server, token = tokens
    server.token = token["ann"]
    made = ended(server, send(server, prompt())["prompt_id"])["outputs"]
    pictures = [made["9"]["images"][0], made["10"]["images"][0]]
    for facts in pictures:
        assert view(server, facts).status == 200
        send(server, load(f"{facts['filename']} [{facts['type']}]"))
    server.token = token["ben"]
    for facts in pictures:
        assert view(server, facts).status == 404
        assert "1" in error(server, {"prompt": load(f"{facts['filename']} [{facts['type']}]")})["node_errors"]


def test_previews_go_after_a_week(serve: Callable[..., Server], tmp_path: Path) -> None:
    folder = tmp_path / "out" / "temp"
    folder.mkdir(parents=True)
    files = {"ComfyUI_temp_old_00001_.png": 8, "ComfyUI_temp_new_00001_.png": 6, "mine.png": 8}
    for name, days in files.items():
        (folder / name).write_bytes(b"")
        then = (folder / name).stat().st_mtime - days * 24 * 3600
        os.utime(folder / name, (then, then))
    serve()
    until(lambda: sorted(file.name for file in folder.iterdir()) == ["ComfyUI_temp_new_00001_.png", "mine.png"])
