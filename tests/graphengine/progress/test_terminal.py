"""Bars as people see them: programs in a terminal of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graphengine.progress.terminal import SCRIPT, Terminal

LASTING = SCRIPT.replace("while not GO.exists():", "for _ in range(40):")
RUN = "g.run()\nprint('the end', 'rich' in sys.modules)\n"


def test_a_run_that_lasts_shows_steps_rate_and_time_left(tmp_path: Path) -> None:
    with Terminal(tmp_path, SCRIPT + "print('rich' in sys.modules)\n" + RUN) as shown:
        bars = r"slow-graph .*0/1 nodes[\s\S]{0,400}?slow .* \d+/1000 steps +[\d.]+ steps/s +\d+:\d\d left"
        seen = shown.read_until(bars)
        assert seen.startswith("False")  # nothing is imported before it shows
        (tmp_path / "go").touch()
        assert shown.end().rstrip().endswith("the end True")


@pytest.mark.parametrize("how", ["argument", "variable", "no terminal", "dumb"])
def test_bars_are_silent_where_they_are_not_wanted(tmp_path: Path, how: str) -> None:
    """The node ends by itself here, after more than the half second."""
    code = LASTING + RUN
    env: dict[str, str] = {"variable": {"GRAPHENGINE_PROGRESS": "0"}, "dumb": {"TERM": "dumb"}}.get(how, {})
    if how == "argument":
        code = code.replace("g.run()", "g.run(progress=False)")
    if how == "no terminal":
        code = "import os, sys; sys.stderr = open(os.devnull, 'w')\n" + code
    with Terminal(tmp_path, code, None, **env) as shown:
        assert shown.end().split("\r\n")[:-1] == ["the end True" if how == "dumb" else "the end False"]


def test_a_short_run_shows_and_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with Terminal(tmp_path, SCRIPT + RUN) as shown:
        assert shown.end() == "the end False\r\n"


def test_what_a_node_prints_goes_where_it_went(tmp_path: Path) -> None:
    code = SCRIPT.replace("    step = 0\n", "    step = 0\n    time.sleep(1)\n    print('from the node')\n") + RUN
    with (tmp_path / "out").open("wb") as out, Terminal(tmp_path, code, out) as shown:
        assert "from the node" not in shown.read_until("steps/s")
        (tmp_path / "go").touch()
        shown.end()
    assert (tmp_path / "out").read_text().splitlines() == ["from the node", "the end True"]


def test_several_runs_at_once_share_the_terminal(tmp_path: Path) -> None:
    code = SCRIPT + (
        "import threading\n"
        "with Graph('second') as h:\n    h.output('y', slow(2))\n"
        "threads = [threading.Thread(target=graph.run) for graph in (g, h)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print('the end')\n"
    )
    with Terminal(tmp_path, code) as shown:
        shown.read_until(r"slow-graph .*\r\n.*\r\n *second |second .*\r\n.*\r\n *slow-graph ")
        (tmp_path / "go").touch()
        assert shown.end().rstrip().endswith("the end")


def test_an_entry_point_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text("[graphengine.progress]\nbars = nothing.like.this:begin\n")
    code = "import sys; sys.path.insert(0, '.')\n" + LASTING + RUN
    with Terminal(tmp_path, code) as shown:
        assert "the end" in shown.end()


def test_a_gen_of_multigen_shows_its_steps(tmp_path: Path) -> None:
    code = (
        "from multigen import Prompt2ImPipe\n"
        "pipe = Prompt2ImPipe('tiny')\n"
        "pipe.setup(width=64, height=64, steps=60)\n"
        "pipe.gen({'prompt': 'a red circle', 'seed': 1})\n"
    )
    with Terminal(tmp_path, code) as shown:
        shown.read_until(r"Prompt2ImPipe .* nodes[\s\S]{0,400}?sample .*/60 steps +[\d.]+ s")


@pytest.mark.slow
@pytest.mark.process
def test_a_service_thread_shows_the_jobs_that_run(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(
        "base:\n  small: {id: tiny, type: SD}\n"
        "pipes:\n  prompt2image: {classname: Prompt2ImPipe, need_imgs: False, needs_cnet: False}\n"
    )
    (tmp_path / "config.yaml").write_text("model_list: models.yaml\nmodel_dir: .\nthreads: 1\ndevices: [cpu]\n")
    code = (
        "import threading\n"
        "from multigen.worker import ServiceThread\n"
        "if __name__ == '__main__':\n"
        "    worker = ServiceThread('config.yaml')\n"
        "    worker.start()\n"
        "    ended = threading.Event()\n"
        "    opened = worker.open_session('me', 'p', 'prompt2image', 'small')\n"
        "    worker.queue_gen(opened['session_id'], prompt='a red circle', width=64, height=64, steps=60,\n"
        "                     finish_callback=ended.set)\n"
        "    ended.wait(100)\n"
        "    worker.stop()\n"
        "    worker.join()\n"
        "    print('the end')\n"
    )
    with Terminal(tmp_path, code) as shown:
        shown.read_until(r"job 1 .* nodes[\s\S]{0,400}?/60 steps")
        assert shown.end().rstrip().endswith("the end")
