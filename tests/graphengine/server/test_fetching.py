"""Files by URL: what is fetched, and what an attacker cannot have fetched."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine.server.fetching import Fetcher, PublicResolver, is_public
from graphengine.server.file_store import FileStore
from graphengine.server.problems import ApiError

from .conftest import PIXEL, Server


class Site(http.server.BaseHTTPRequestHandler):
    """Sends a picture, redirects, too much, packed bytes, nothing."""

    asked: list[str] = []  # noqa: RUF012 - of all requests

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        port = self.server.server_address[1]
        target = {
            "/moved": "/pixel.png",
            "/round": "/round",
            "/away": f"http://localhost:{port}/pixel.png",
            "/file": "file:///etc/passwd",
        }.get(self.path)
        body = {"/large": bytes(2000), "/empty": b""}.get(self.path, PIXEL)
        self.send_response(302 if target else 404 if self.path == "/missing" else 200)
        if target:
            self.send_header("Location", target)
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        if self.path != "/large":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A site on this machine: its host and port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "files", most=1000)


@pytest.mark.parametrize("path", ["/pixel.png", "/moved"])
def test_a_file_of_a_host_that_was_named_is_fetched(site: str, files: FileStore, path: str) -> None:
    stored = Fetcher([site], files).fetch("anna", f"http://{site}{path}")
    assert (stored.path.read_bytes(), stored.type) == (PIXEL, "image/png")
    assert files.get("anna", stored.id).path == stored.path


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/round", "from one address to the next"),
        ("/away", "sends elsewhere"),
        ("/file", "sends elsewhere"),
        ("/missing", "answers 404"),
        ("/large", "at most 1,000"),
        ("/packed", "packed"),
        ("/empty", "empty"),
    ],
)
def test_what_a_host_sends_that_is_no_file(site: str, files: FileStore, path: str, says: str) -> None:
    with pytest.raises(ApiError, match=says):
        Fetcher([site], files).fetch("", f"http://{site}{path}")
    assert not list(files.folder.glob("*/*"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://[::1]/x", "http://10.0.0.1/x", "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:127.0.0.1]/x", "http://[fe80::1]/x", "http://0.0.0.0/x", "http://100.64.0.1/", "http://[fd00::1]/",
        "http://2130706433/x", "http://127.1/x", "http://0x7f.0.0.1/x", "http://localhost/x", "http://[64:ff9b::7f00:1]/",
        "http://127.0.0.1./x",
    ],
)  # fmt: skip
def test_addresses_of_private_networks_are_not_asked(files: FileStore, url: str) -> None:
    """With all public hosts allowed: no way to write an address of this machine or its network is asked."""
    with pytest.raises(ApiError, match=r"private network|no URL|no host"):
        Fetcher(["*"], files).fetch("", url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://elsewhere.example/x.png", "not fetched"),
        ("http://known.example:6379/x", "not fetched"),
        ("https://name:password@known.example/x", "name and a password"),
        ("http:///x", "no URL"),
        ("http://known.example\n.evil/x", "no URL"),
        ("http://known.example:99999/", "no URL"),
        (f"http://known.example/{'x' * 5000}", "no URL"),
    ],
)
def test_what_was_not_named_is_not_asked(files: FileStore, url: str, says: str) -> None:
    with pytest.raises(ApiError, match=says):
        Fetcher(["known.example"], files).fetch("", url)


def test_without_a_host_nothing_is_fetched(site: str, files: FileStore) -> None:
    before = len(Site.asked)
    with pytest.raises(ApiError, match="--allow-fetch"):
        Fetcher((), files).fetch("", f"http://{site}/pixel.png")
    assert len(Site.asked) == before


async def resolved(name: str) -> list[Any]:
    return list(await PublicResolver().resolve(name, 80))


def test_a_name_is_resolved_to_public_addresses_only() -> None:
    with pytest.raises(ApiError, match="localhost leads to an address of a private network"):
        asyncio.run(resolved("localhost"))
    assert [is_public(address) for address in ("8.8.8.8", "2001:4860:4860::8888")] == [True, True]
    assert not any(is_public(address) for address in ("224.0.0.1", "fe80::1%eth0", "2002:7f00:1::", "192.0.2.1"))


def test_a_job_names_a_file_by_its_url(serve: Callable[..., Server], site: str) -> None:
    server = serve("--allow-fetch", site)
    done = server.run("digest", {"file": f"http://{site}/pixel.png"})
    assert done["outputs"]["digest"]["value"] == hashlib.sha256(PIXEL).hexdigest()
    answer = server.ask("POST", "/v1/workflows/digest/jobs", {"inputs": {"file": "http://127.0.0.1:1/x"}})
    assert (answer.status, answer.problem["problems"][0]["where"]["socket"]) == (422, "file")
