"""Jobs over HTTP from files of ComfyUI."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.graphengine.server.conftest import Server
from tests.graphengine_comfy.workflow_files.test_workflow_files import PROMPT

EDITOR = {
    "version": 0.4, "last_node_id": 2, "last_link_id": 1, "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "nodes": [
        {"id": 1, "type": "EmptyImage", "widgets_values": [16, 24, 1, 255], "outputs": [{"name": "IMAGE"}]},
        {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize("workflow", [PROMPT, EDITOR])
def test_a_job_is_made_of_a_file(server: Server, workflow: Any) -> None:
    answer = server.ask("POST", "/v1/jobs", {"workflow": workflow}, Prefer="wait=60")
    assert answer.status in (200, 201), answer.body
    assert answer.data["state"] == "done", answer.data


def test_what_is_wrong_is_said_with_node_and_input(server: Server) -> None:
    wrong = copy.deepcopy(PROMPT)
    wrong["3"]["inputs"]["width"] = "wide"
    del wrong["9"]["inputs"]["filename_prefix"]
    wrong["9"]["inputs"]["prefix"] = 3
    answer = server.ask("POST", "/v1/jobs", {"workflow": wrong})
    assert answer.status == 422, answer.body
    places = {(p["where"]["node"], p["where"]["socket"]) for p in answer.data["problems"]}
    assert {("n3", "width"), ("n9", "prefix")} <= places
    wrong["3"]["class_type"] = "EmptyImag"
    answer = server.ask("POST", "/v1/jobs", {"workflow": wrong})
    (problem,) = answer.data["problems"]
    assert problem["kind"] == "unknown classes"
    assert "did you mean EmptyImage" in problem["what"]
