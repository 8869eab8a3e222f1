"""Saying a recorded talk of a client again to a server, and comparing what it answers."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.graphengine.sample import until

from ..conftest import Answer, Server

NAMES = ("id", "request_id", "job_id", "next_cursor", "hash")
"""The keys of what a server draws: said again with what this server has drawn."""
CHANCE = ("progress", "queue_position", "started_at", "completed_at", "metrics")
"""The keys of what a job has done at the moment at which it is asked for."""
ENDED = ("succeeded", "failed", "canceled")
PATIENCE = 300.0


class Replay:
    """A recorded talk and the server to which it is said again.

    Args:
        on_progress: Called when a stream first tells of progress, on which the client may have done something.
    """

    def __init__(self, server: Server, file: Path, on_progress: Callable[[], object]) -> None:
        self.server, self.on_progress = server, on_progress
        self.talk: list[dict[str, Any]] = json.loads(file.read_text())
        self.known: dict[str, str] = {"FOLDER": str(server.folder)}

    def run(self) -> int:
        """Say all of it; returns how many requests there were.

        Where the client saw that a job had ended, it is asked for until it has. A stream is read to its end, or where
        the client left it before, until the kind of event at which it did.
        """
        for said in self.talk:
            self._say(said)
        return len(self.talk)

    def _say(self, said: dict[str, Any]) -> None:
        heard = _bytes(said["answer"])
        what = f"{said['method']} {said['path']}"

        def is_answered() -> bool:
            nonlocal answer
            answer = self._watch(said, heard) if said["type"].startswith("text/event-stream") else self._ask(said)
            assert answer.status == said["status"], (what, answer.status, answer.body, heard)
            return "json" not in said["type"] or not self._waits(json.loads(heard), answer.data)

        answer = Answer(0, {}, b"")
        until(is_answered, PATIENCE)
        assert answer.headers.get("content-type", "") == said["type"], what
        if "json" in said["type"]:
            self._compare(json.loads(heard), answer.data, what)
        elif said["type"].startswith("text/event-stream"):
            assert set(_events(heard)) - {"preview"} <= set(_events(answer.body)), (what, answer.body)
            self._compare(_last(heard), _last(answer.body), what)

    def _ask(self, said: dict[str, Any]) -> Answer:
        body = _bytes(said["body"])
        headers = {name.replace("-", "_"): value for name, value in said["headers"].items()}
        path = self._now(said["path"])
        return self.server.ask(said["method"], path, self._now_bytes(body) or None, **headers)

    def _watch(self, said: dict[str, Any], heard: bytes) -> Answer:
        """A stream, up to where the client left it."""
        left_at = "" if _last(heard).get("status") in ENDED else _events(heard)[-1]
        connection, answer = self.server.send(said["method"], self._now(said["path"]))
        lines, has_progress = [], False
        with contextlib.closing(connection):
            for line in answer:
                lines.append(line)
                event = _events(b"".join(lines))[-1:] if line == b"\n" else []
                if event == [left_at]:
                    break
                if event == ["progress"] and not has_progress:
                    has_progress = True
                    self.on_progress()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, b"".join(lines))

    def _now(self, text: str) -> str:
        for old, new in self.known.items():
            text = text.replace(old, new).replace(urllib.parse.quote(old), urllib.parse.quote(new))
        return text

    def _now_bytes(self, body: bytes) -> bytes:
        for old, new in self.known.items():
            body = body.replace(old.encode(), new.encode())
        return body

    @staticmethod
    def _waits(heard: Any, now: Any) -> bool:
        """Whether a job had ended for the client, and has not yet here."""
        ended = isinstance(heard, dict) and "urls" in heard and heard["status"] in ENDED
        return ended and now["status"] not in ENDED

    def _compare(self, heard: Any, now: Any, what: str) -> None:
        """Compare shapes: the same keys, and values of the same types; and note the new names of things."""
        if isinstance(heard, dict):
            assert isinstance(now, dict), (what, heard, now)
            assert set(heard) == set(now), (what, heard, now)
            for name, value in heard.items():
                if name in NAMES and isinstance(value, str) and isinstance(now[name], str) and value != now[name]:
                    self.known[value] = now[name]
                is_same = "urls" not in heard or heard["status"] == now["status"]
                if is_same and name not in CHANCE:
                    self._compare(value, now[name], f"{what} {name}")
        elif isinstance(heard, list):
            assert len(heard) == len(now), (what, heard, now)
            for one, other in zip(heard, now, strict=True):
                self._compare(one, other, what)
        elif heard is not None:
            assert type(now) is type(heard), (what, heard, now)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()


def _events(content: bytes) -> list[str]:
    return re.findall(r"^event: (\w+)$", content.decode(), re.MULTILINE)


def _last(content: bytes) -> Any:
    """The data of a stream's last event."""
    return json.loads(re.findall(r"^data: (.*)$", content.decode(), re.MULTILINE)[-1])
