"""Settings and files of the editor's users, over HTTP: names, sizes, other users."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graphengine.server.tokens import Tokens
from graphengine.server.user_files import LARGEST, LARGEST_SETTINGS, checked

from .conftest import Answer, Server

pytest.importorskip("comfyui_frontend_package", reason="the editor is not installed: pip install 'graphengine[editor]'")

API = "/editor/api"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the editor, without tokens."""
    made = Server(tmp_path_factory.mktemp("editor"), "--editor")
    yield made
    assert made.stop() == 0
    assert "Traceback" not in made.log.read_text()


def file(name: str, query: str = "") -> str:
    return f"{API}/userdata/{urllib.parse.quote(name, safe='')}{query and '?' + query}"


def write(server: Server, name: str, content: bytes, query: str = "", **headers: str) -> Answer:
    return server.ask("POST", file(name, query), content, **headers)


def test_a_workflow_is_saved_as_a_file_listed_read_moved_and_removed(server: Server) -> None:
    saved = write(server, "workflows/people/anna.json", b'{"nodes": []}', "full_info=true&overwrite=false")
    assert saved.status == 200
    assert (saved.data["path"], saved.data["size"]) == ("workflows/people/anna.json", 13)
    assert (server.folder / "flows" / "people" / "anna.json").read_bytes() == b'{"nodes": []}'
    listed = server.ask("GET", f"{API}/userdata?dir=workflows&recurse=true&split=false&full_info=true").data
    assert "people/anna.json" in [entry["path"] for entry in listed]
    assert server.ask("GET", file("workflows/people/anna.json")).body == b'{"nodes": []}'
    again = write(server, "workflows/people/anna.json", b"{}", "overwrite=false")
    assert again.status == 409
    to = urllib.parse.quote("workflows/berta.json", safe="")
    moved = server.ask("POST", f"{file('workflows/people/anna.json')}/move/{to}?overwrite=false&full_info=true", b"")
    assert (moved.status, moved.data["path"]) == (200, "workflows/berta.json")
    assert server.ask("GET", file("workflows/people/anna.json")).status == 404
    assert server.ask("DELETE", file("workflows/berta.json")).status == 204
    assert server.ask("DELETE", file("workflows/berta.json")).status == 404


@pytest.mark.parametrize(
    "name",
    [
        "../x", "workflows/../../x", "/etc/passwd", "workflows/\0", "a\\..\\b", "a/" * 13 + "x", "x" * 500, "~/x", "",
        ".",
    ],
)
def test_names_that_lead_elsewhere_are_refused(server: Server, name: str) -> None:
    for method, body in (("GET", None), ("POST", b"{}"), ("DELETE", None)):
        answer = server.ask(method, file(name), body)
        assert answer.status in (400, 403, 404, 405), (method, name, answer.body)
        assert b"Traceback" not in answer.body
    assert not (server.folder.parent / "x").exists()
    assert not (server.folder / "x").exists()


def test_unescaped_paths_are_refused(server: Server) -> None:
    for path in (f"{API}/userdata/../../../x", f"{API}/userdata/%2e%2e/x", "/editor/..%2f..%2f..%2fetc/passwd",
                 "/editor/%2fetc%2fpasswd", "/editor/extensions/graphengine/..%2feditor.py"):  # fmt: skip
        assert server.ask("GET", path).status in (400, 403, 404), path


def test_links_lead_nowhere(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('"hidden"')
    (server.folder / "flows" / "link.json").symlink_to(tmp_path / "secret.json")
    (server.folder / "flows" / "linked").symlink_to(tmp_path)
    for name in ("workflows/link.json", "workflows/linked/secret.json"):
        assert b"hidden" not in server.ask("GET", file(name)).body
        assert write(server, name, b"changed", "overwrite=true").status in (200, 403)
    assert write(server, "workflows/linked/new.json", b"{}").status == 403
    assert (tmp_path / "secret.json").read_text() == '"hidden"'
    assert not (tmp_path / "new.json").exists()


def test_what_is_too_large_is_refused(server: Server) -> None:
    assert write(server, "workflows/large.json", bytes(LARGEST + 1)).status == 413
    assert server.ask("GET", file("workflows/large.json")).status == 404
    large = b'"' + b"a" * (LARGEST_SETTINGS // 2) + b'"'
    assert server.ask("POST", f"{API}/settings/One", large).status == 200
    assert server.ask("POST", f"{API}/settings/Two", large).status == 413
    assert server.ask("POST", f"{API}/settings/One", b"1").status == 200


def test_settings_are_kept_beside_the_defaults(server: Server) -> None:
    assert server.ask("GET", f"{API}/settings").data["Comfy.TutorialCompleted"] is True
    assert server.ask("POST", f"{API}/settings/Comfy.Ours", b"false").status == 200
    assert server.ask("POST", f"{API}/settings", {"Comfy.More": [1, 2]}).status == 200
    found = server.ask("GET", f"{API}/settings").data
    assert (found["Comfy.Ours"], found["Comfy.More"], found["Comfy.TutorialCompleted"]) == (False, [1, 2], True)
    for body in (b"[1]", b"nothing", b"\xff", b"NaN", b""):
        answer = server.ask("POST", f"{API}/settings", body)
        assert answer.status == 400, body
        assert answer.data["error"]["message"]


def test_users_have_files_and_settings_of_their_own(serve: Callable[..., Server], tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    ann, ben, root = (
        {"Authorization": f"Bearer {tokens.add(name, admin=name == 'root')}"} for name in ("ann", "ben", "root")
    )
    server = serve("--editor", "--token-file", tmp_path / "tokens.json")
    for name in ("workflows/mine.json", "user.css"):
        assert write(server, name, b"of ann", **ann).status == 200
        assert server.ask("GET", file(name), **ann).body == b"of ann"
        for other in (ben, root):
            answer = server.ask("GET", file(name), **other)
            assert answer.body == b"" if name == "user.css" else answer.status == 404
    assert server.ask("POST", f"{API}/settings/Comfy.Ours", b"1", **ann).status == 200
    assert "Comfy.Ours" not in server.ask("GET", f"{API}/settings", **ben).data
    assert server.ask("GET", f"{API}/userdata?dir=workflows", **ben).data == []
    assert not (tmp_path / "flows" / "mine.json").exists()  # the workflows of the server are an admin's
    assert write(server, "workflows/all.json", b"{}", **root).status == 200
    assert (tmp_path / "flows" / "all.json").exists()
    assert server.ask("GET", f"{API}/settings").status == 401
    page = server.ask("GET", "/editor/", Accept="text/html")
    assert (page.status, page.headers["location"]) == (303, "/login?next=%2Feditor%2F")
    assert server.ask("GET", "/editor/", Accept="text/html", **ann).status == 200


def test_a_name_has_parts() -> None:
    assert checked("workflows/a b/ä.json") == ("workflows", "a b", "ä.json")
