"""The Ray backend, in a network that has only `lo`: Ray's ports listen on every address."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from graphengine.service.workers.ray_cluster import RayError, joined
from tests import ROOT
from tests.graphengine.service.workers import alone

SERVICE = "tests.graphengine.service"
CASES = "tests/graphengine/service/workers/ray_cases.py"


def inside(*arguments: str, timeout: float = 1200) -> None:
    """Run tests alone, with a token, and hand on what they say."""
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-p", f"{SERVICE}.workers.ray_fixtures", *arguments]
        done = subprocess.run(
            [sys.executable, "-m", f"{SERVICE}.workers.alone", *command],
            cwd=ROOT, env=alone.for_ray(folder) | {"GRAPHENGINE_TEST_RAY": "1"},
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
    if done.returncode == alone.IMPOSSIBLE:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_one_node() -> None:
    inside(f"{CASES}::test_smoke", timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["workers/test_contract.py", "test_service.py", "workers/test_affinity.py"])
def test_what_holds_for_local_workers_holds_on_two_nodes(file: str) -> None:
    inside(f"tests/graphengine/service/{file}")


@pytest.mark.slow
def test_two_nodes() -> None:
    inside(CASES, "--deselect", f"{CASES}::test_smoke")


def test_without_a_token_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(RayError, match=r"there is no token for Ray in .*token or RAY_AUTH_TOKEN"), joined("local"):
        pass


def test_an_open_cluster_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(RayError, match="Ray must ask for a token; set RAY_AUTH_MODE=token"), joined("local"):
        pass


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a token for Ray."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))


def test_without_ray_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, token: None) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r"Ray is not installed; install graphengine\[ray\]"), joined("local"):
        pass


def test_where_no_cluster_answers_it_is_told_at_once(token: None) -> None:
    pytest.importorskip("ray")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(RayError, match=f"no Ray cluster answers at {address}: .*refused; start its head"):
            joined(address).__enter__()
    for text in ("first", "ray://first:10001", "first:port", ":6379"):
        with pytest.raises(RayError, match="is no address of a Ray cluster; write HOST:PORT"), joined(text):
            pass
