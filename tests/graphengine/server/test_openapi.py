"""The document of the API is true: who reads it finds no answer that it does not describe, and no failure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Server

CONFIG = """\
[checks]
# What a schema cannot say: that a file exists, that a key is new, that a cursor was given out.
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429"]

[[operations]]
include-name = "POST /v1/files"  # an empty body is no file
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "413"]

[[operations]]
include-name = "GET /v1/jobs"  # a cursor is one that was given out
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]

[[operations]]
include-path-regex = "/events$"
enabled = false  # streams last as long as their jobs
"""


def test_an_output_is_wanted_by_its_name(server: Server) -> None:
    order = {"inputs": {"file": "data:;base64,AA=="}, "want": ["model"]}
    answer = server.ask("POST", "/v1/workflows/digest/jobs", order, Prefer="wait=60")
    assert (answer.status, answer.data["outputs"]) == (200, {"model": {"value": "tiny"}})
    document = server.ask("GET", "/v1/openapi.json").data
    body = document["paths"]["/v1/workflows/digest/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["want"]["items"] == {"enum": ["digest", "model"]}


@pytest.mark.slow
def test_schemathesis_finds_no_failure(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Thousands of requests made from the document; the program has an environment of its own, from the registry."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([environment / "bin" / "pip", "install", "-q", "schemathesis"], check=True)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    server = serve()
    done = subprocess.run(
        [environment / "bin" / "st", "--config-file", tmp_path / "schemathesis.toml", "run",
         f"{server.url}/v1/openapi.json", "--checks", "all", "--max-examples", "30", "--suppress-health-check", "all"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    assert "Traceback" not in server.log.read_text()
