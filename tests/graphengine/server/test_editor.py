"""The editor's routes without a browser: its page, its policy, ComfyUI's routes below it, and the starter graph."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphengine.errors import WorkflowError
from graphengine.server import editor
from graphengine.server.editor import EXTENSION, frontend_folder
from tests.graphengine.cli.conftest import command, environment

from .conftest import Server

missing = importlib.util.find_spec("comfyui_frontend_package") is None
installed = pytest.mark.skipif(missing, reason="the editor is not installed: pip install 'graphengine[editor]'")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the editor, without tokens."""
    made = Server(tmp_path_factory.mktemp("editor"), "--editor")
    yield made
    assert made.stop() == 0
    assert "Traceback" not in made.log.read_text()


@installed
def test_the_page_and_its_files_have_the_policy(server: Server) -> None:
    page = server.ask("GET", "/editor/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    for part in ("default-src 'self'", "frame-ancestors 'self'"):  # no other site may frame it and have it clicked
        assert part in page.headers["content-security-policy"]
    assert server.ask("GET", "/editor").headers["location"] == "/editor/"
    script = server.ask("GET", "/editor/scripts/app.js")
    assert (script.status, script.headers["content-type"].split(";")[0]) == (200, "text/javascript")
    ours = server.ask("GET", "/editor/api/extensions").data
    for path in (f"/editor{ours[0]}", "/editor/extensions/graphengine/starter.json"):
        assert server.ask("GET", path).body == (EXTENSION / path.rpartition("/")[2]).read_bytes()
    other = server.ask("GET", "/v1/nodes")
    assert "unsafe-eval" not in other.headers.get("content-security-policy", "")


@installed
def test_nothing_that_the_page_always_asks_for_is_missing(server: Server) -> None:
    for path, type in (
        ("/assets/favicon.ico", "image/x-icon"), ("/assets/images/favicon_progress_16x16/frame_9.png", "image/png"),
        ("/editor/user.css", "text/css"), ("/editor/api/userdata/user.css", "text/css"),
    ):  # fmt: skip
        answer = server.ask("GET", path)
        assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, type), path
    assert server.ask("GET", "/assets/images/favicon_progress_16x16/..%2f..%2findex.html").status == 404


@installed
def test_what_is_not_there_is_json(server: Server) -> None:
    for path in ("/editor/nothing.js", "/editor/api/nothing", "/editor/templates/index.json", "/editor/" + "x" * 5000):
        answer = server.ask("GET", path)
        assert answer.status == 404, path
        assert answer.data["error"]["message"]


@installed
def test_the_routes_of_comfyui_are_below_it(server: Server) -> None:
    assert "KSampler" in server.ask("GET", "/editor/api/object_info").data
    assert server.ask("GET", "/editor/api/users").data == {"storage": "server", "migrated": True}
    assert server.ask("GET", "/editor/api/jobs").data["jobs"] == []
    assert server.ask("POST", "/editor/api/prompt", {"prompt": {}}).status == 400


def test_classes_of_the_starter_graph_are_there_and_links_fit() -> None:
    starter = json.loads((EXTENSION / "starter.json").read_text())
    nodes = {node["id"]: node for node in starter["nodes"]}
    for id, source, slot, target, to, type in starter["links"]:
        output, input = nodes[source]["outputs"][slot], nodes[target]["inputs"][to]
        assert id in output["links"]
        assert (input["link"], output["type"], input["type"]) == (id, type, type)


def test_without_the_package_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "PACKAGE", "no_such_package_of_a_frontend")
    with pytest.raises(WorkflowError, match="pip install 'graphengine\\[editor\\]'"):
        frontend_folder()


@installed
def test_serve_says_where_the_editor_is(tmp_path: Path) -> None:
    known = subprocess.run(
        command("serve", "--help"), env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert "--editor" in known.stdout
