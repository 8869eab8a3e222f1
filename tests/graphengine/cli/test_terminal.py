"""Characters that a terminal acts on never reach one, whoever's text they stand in."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from graphengine.system.terminal import Screened, console, printable
from tests.graphengine.cli.conftest import Run, command, environment

EVIL = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b31m\r\x7fend"
ACTED_ON = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
QUOTED = json.dumps(EVIL)
"""As YAML and JSON hold it."""


def test_what_a_terminal_acts_on_stands_as_its_escape() -> None:
    assert printable("a\x1b[31mb\x9b\x07\r\x00\x7f\u202e") == "a\\x1b[31mb\\x9b\\x07\\r\\x00\\x7f\\u202e"
    assert printable("plain\ttext\r\nин 😀 ünï\n") == "plain\ttext\r\nин 😀 ünï\n"
    for number in (*range(32), *range(127, 160)):
        assert (printable(chr(number)) == chr(number)) == (chr(number) in "\t\n")


def test_a_screened_stream_lets_bars_of_libraries_draw_over_themselves() -> None:
    below = io.StringIO()
    stream = Screened(below)
    for text in ("\r 10 %", "\r 20 %", "\n", "id \r", "x", "\rspoofed"):
        stream.write(text)
    assert below.getvalue() == "\r 10 %\r 20 %\nid \\rx\\rspoofed"
    with pytest.raises(TypeError):
        stream.write(b"")  # type: ignore[arg-type]


def test_a_console_draws_colours_of_its_own_and_no_others() -> None:
    from rich.table import Table
    from rich.text import Text

    below = io.StringIO()
    below.isatty = lambda: True  # type: ignore[method-assign]
    table = Table("id")
    table.add_row(Text(EVIL, "blue"))
    console(Screened(below), 200).print(table)  # type: ignore[arg-type]
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", below.getvalue().replace("\x1b[31m", "LEAK"))
    assert "LEAK" not in drawn
    assert not ACTED_ON.search(drawn)
    assert "\\x1b]0;title" in drawn


FLOW = f"""\
version: 1
inputs: {{t: {{type: str, default: {QUOTED}}}}}
nodes:
  n: {{node: toy.%s, from: {{text: inputs.t}}}}
outputs: {{o: n}}
"""
WRONG = f"""\
version: 1
title: {QUOTED}
inputs: {{{QUOTED}: {{type: {QUOTED}}}}}
nodes:
  {QUOTED}: {{node: {QUOTED}, from: {{{QUOTED}: {QUOTED}}}}}
  b: {{node: toy.say, with: {{{QUOTED}: {QUOTED}}}}}
  c: {{workflow: {QUOTED}}}
outputs: {{o: {QUOTED}}}
"""


def test_no_command_sends_control_characters_to_the_terminal(
    cli: Run, workflow: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "say.yaml").write_text(FLOW % "say")
    (tmp_path / "fail.yaml").write_text(FLOW % "fail")
    (tmp_path / "wrong.yaml").write_text(WRONG)
    (tmp_path / "na\x1b[31mme.yaml").write_text(FLOW % "fail")
    queue = {"GRAPHENGINE_STATE": str(tmp_path / "state")}
    runs = [
        ("run", "say.yaml"), ("run", "fail.yaml"), ("run", "wrong.yaml"), ("run", "na\x1b[31mme.yaml"),
        ("run", f"{EVIL}.yaml"), ("run", "say.yaml", "--set", f"{EVIL}=1"), ("why", "say.yaml"), ("nodes", EVIL),
        ("queue", "submit", "fail.yaml", "--user", EVIL), ("queue", "submit", "fail.yaml"), ("queue", "list"),
    ]  # fmt: skip
    shown = []
    for arguments in runs:
        done = cli(*arguments, **queue)
        assert not ACTED_ON.search(done.out + done.err), (arguments, done)
        shown.append("\\x1b]0;title" in done.out + done.err)
    assert shown[:3] == [True] * 3


def test_what_a_picture_says_does_not_reach_the_terminal(cli: Run, paint: Path, tmp_path: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    assert cli("run", paint.name, "--out", "out").code == 0
    (picture,) = (tmp_path / "out").glob("*.png")
    with Image.open(picture) as image:
        record = json.loads(image.info["graphengine"])
        record["versions"] |= {"graphengine": EVIL, "packs": {EVIL: [EVIL]}}
        record["made"] |= {EVIL: EVIL}
        info = PngInfo()
        info.add_text("graphengine", json.dumps(record))
        image.save(tmp_path / "evil.png", pnginfo=info)
    done = cli("rerun", "evil.png", "--out", "again")
    assert done.code == 0
    assert "\\x1b]0;title" in done.err
    assert not ACTED_ON.search(done.out + done.err)


def test_the_list_of_jobs_in_a_terminal_is_clean(cli: Run, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    (tmp_path / "fail.yaml").write_text(FLOW % "fail")
    state = {"GRAPHENGINE_STATE": str(tmp_path / "state")}
    assert cli("queue", "submit", "fail.yaml", **state).code == 0
    from graphengine.service.jobs.lease import take
    from graphengine.service.jobs.queue import Queue

    queue = Queue(tmp_path / "state" / "queue.sqlite")
    lease = take(queue, "test")
    assert lease is not None
    (number,) = [job.id for job in queue.waiting(10)][-1:]
    lease.claim(number, "w")
    lease.failed(number, 1, EVIL, {"error": "X", "cause": "X"})
    queue.close()
    master, slave = pty.openpty()
    process = subprocess.Popen(command("queue", "list"), cwd=tmp_path, env=environment(tmp_path, **state), stdout=slave)
    os.close(slave)
    drawn = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        drawn += part
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", drawn.decode().replace("\x1b[31m", "LEAK")).replace("\r\n", "\n")
    assert "failed" in text
    assert "LEAK" not in text
    assert not ACTED_ON.search(text), text
