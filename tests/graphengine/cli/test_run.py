"""`graphengine run`: outputs, values, events, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.graphengine.cli.conftest import PACKS, Run, command, environment

Write = Callable[..., Path]


def test_writes_the_output_and_prints_its_path(cli: Run, paint: Path, tmp_path: Path) -> None:
    done = cli("run", "paint.yaml")
    assert done.code == 0
    assert done.out == "out/paint_image_00000.png\n"
    assert PIL.Image.open(tmp_path / "out/paint_image_00000.png").size == (16, 16)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["paint_image_00000.png"]


def test_never_writes_over_a_file(cli: Run, paint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "paint_image_00006.png").write_text("mine")
    assert cli("run", "paint.yaml", "--out", "pictures").out == "pictures/paint_image_00007.png\n"
    assert cli("run", "paint.yaml", "--out", "pictures").out == "pictures/paint_image_00008.png\n"
    assert (folder / "paint_image_00006.png").read_text() == "mine"


def test_two_processes_at_once_never_take_one_name(paint: Path, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(command("run", "paint.yaml", "--set", f"seed={n}"), cwd=tmp_path, env=environment(tmp_path),
                         stdout=subprocess.PIPE)
        for n in range(3)
    ]  # fmt: skip
    names = [process.communicate(timeout=120)[0].decode().strip() for process in processes]
    assert sorted(names) == [f"out/paint_image_0000{n}.png" for n in range(3)]
    colours = {PIL.Image.open(tmp_path / name).getpixel((0, 0)) for name in names}
    assert len(colours) == 3


def test_set_reads_by_the_declared_type(cli: Run, workflow: Write) -> None:
    workflow(
        "version: 1\n"
        "inputs:\n"
        "  text: {type: str, default: x}\n"
        "  maybe: {type: str, default: null}\n"
        "  number: {type: float, default: 1.5}\n"
        "  both: {type: 'int | list[int]', default: 1}\n"
        "nodes:\n"
        "  text: {node: collect, from: {items: [inputs.text, inputs.maybe, inputs.number, inputs.both]}}\n"
        "outputs: {text: text}\n"
    )
    values = ["text=7", "maybe=null", "number=1e-4", "both=[1, 2]"]
    done = cli("run", "flow.yaml", *(part for value in values for part in ("--set", value)))
    assert done.out == "text: ['7', None, 0.0001, [1, 2]]\n", done.err
    assert "'[1'" in cli("run", "flow.yaml", "--set", "text=[1").out
    assert "'no'" in cli("run", "flow.yaml", "--set", "maybe=no").out


def test_every_wrong_value_is_told_at_once(cli: Run, paint: Path, tmp_path: Path) -> None:
    done = cli("run", "paint.yaml", "--set", "sede=3", "--set", "seed=1001", "--set", "steps=many", "--set", "prompt")
    assert done.code == 2
    lines = done.err.splitlines()
    assert "no input sede; did you mean side or seed?" in lines[0]
    assert "--set takes name=value, not 'prompt'" in lines[1]
    assert "1001 is outside 0..1000" in lines[2]
    assert "'many' (str) is not int" in lines[3]
    assert len(lines) == 4
    assert not (tmp_path / "out").exists()


def test_a_wrong_workflow_is_told_with_lines_and_nothing_runs(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(
        "version: 1\nnodes:\n  a: {node: toy.add, with: {a: one}}\n  b: {node: toy.ad, with: {a: 1}}\noutputs: {a: a}\n"
    )
    done = cli("run", "flow.yaml")
    assert done.code == 2
    assert "flow.yaml:3: a.a: 'one' (str) is not int" in done.err
    assert "flow.yaml:4: b: " in done.err
    assert "toy.add" in done.err
    assert not (tmp_path / "out").exists()


DEFAULTS = """version: 1
inputs:
  text: {type: str, default: 7}
  number: {type: int, default: 1, min: 3}
  free: {type: int, default: 1}
nodes:
  a: {node: toy.add, from: {a: inputs.number}, with: {b: one}}
outputs: {a: a}
"""


def test_run_shows_what_validate_shows(cli: Run, workflow: Write) -> None:
    workflow(DEFAULTS)
    shown = cli("validate", "flow.yaml").err
    assert "flow.yaml:3: inputs.text: its default 7 (int) is not str" in shown
    assert "flow.yaml:4: inputs.number: its default 1 is not 3..\N{INFINITY}" in shown
    assert "flow.yaml:7: a.b: 'one' (str) is not int" in shown
    done = cli("run", "flow.yaml")
    assert (done.code, done.err) == (2, shown)


def test_problems_of_a_file_and_of_given_values_are_told_together(cli: Run, workflow: Write) -> None:
    workflow(DEFAULTS)
    shown = cli("validate", "flow.yaml").err
    for words in (["run"], ["queue", "submit"], ["sweep", "--over", "free=1,2"]):
        done = cli(*words, "flow.yaml", "--set", "nmber=1")
        assert done.code == 2
        assert done.err.startswith(shown)
        assert "did you mean number?" in done.err[len(shown) :]


def test_a_default_that_no_node_takes_is_named_with_its_line(cli: Run, workflow: Write) -> None:
    workflow(
        "version: 1\n"
        "inputs:\n"
        "  size: {type: int, default: -5}\n"
        "nodes:\n"
        "  image: {node: mask_rectangle, from: {width: inputs.size}, with: {height: 8, left: 0, top: 0, right: 4, "
        "bottom: 4}}\n"
        "outputs: {image: image}\n"
    )
    done = cli("run", "flow.yaml")
    assert done.code == 2
    assert "flow.yaml:3: inputs.size: -5 is outside" in done.err


def test_a_missing_workflow_names_what_there_is(cli: Run, paint: Path) -> None:
    done = cli("run", "pant.yaml")
    assert done.code == 2
    assert "paint.yaml" in done.err
    done = cli("run", "text_to_imag")
    assert done.code == 2
    assert "text_to_image" in done.err


def test_json_is_one_event_a_line_and_the_files_at_the_end(cli: Run, paint: Path) -> None:
    done = cli("run", "paint.yaml", "--json", "--set", "steps=3")
    kinds = [line["kind"] for line in done.lines]
    assert kinds[0] == "run_started"
    assert kinds[-2:] == ["run_finished", "outputs"]
    progress = [(line["step"], line["total"]) for line in done.lines if line["kind"] == "progress"]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert done.lines[-1]["files"] == ["out/paint_image_00000.png"]
    finished = {line["node"]: line["reuse"] for line in done.lines if line["kind"] == "node_finished"}
    assert finished["image"] == "computed"


def test_what_nodes_print_stays_out_of_the_json(cli: Run, workflow: Write) -> None:
    workflow("version: 1\nnodes:\n  s: {node: toy.say, with: {text: hello}}\noutputs: {s: s}\n")
    done = cli("run", "flow.yaml", "--json")
    assert done.lines[-1]["outputs"] == {"s": {"value": "hello"}}
    assert "a node prints this" in done.err


def test_the_disk_store_is_on_and_can_be_left_out(cli: Run, paint: Path) -> None:
    def reuse(*more: str) -> dict[str, str]:
        lines = cli("run", "paint.yaml", "--json", *more).lines
        return {line["node"]: line["reuse"] for line in lines if line["kind"] == "node_finished"}

    assert reuse("--no-cache")["image"] == "computed"
    assert reuse()["image"] == "computed"
    assert reuse() == {"image": "disk"}
    assert reuse("--set", "seed=4") == {"words": "disk", "brush": "computed", "image": "computed"}
    assert reuse("--no-cache")["image"] == "computed"


def test_a_node_that_fails_is_named(cli: Run, workflow: Write) -> None:
    workflow("version: 1\nnodes:\n  f: {node: toy.fail, with: {text: oh no}}\noutputs: {f: f}\n")
    done = cli("run", "flow.yaml")
    assert done.code == 1
    assert "node f (toy.fail) failed: ValueError: oh no" in done.err
    done = cli("run", "flow.yaml", "--json")
    assert done.code == 1
    assert done.lines[-1]["kind"] == "error"
    assert done.lines[-1]["code"] == 1
    assert "Traceback" in cli("run", "flow.yaml", "--debug").err


def test_a_missing_file_is_another_exit_code(cli: Run, workflow: Write) -> None:
    workflow("version: 1\nnodes:\n  c: {node: toy.load_card, with: {path: gone.png}}\noutputs: {c: c}\n")
    done = cli("run", "flow.yaml")
    assert done.code == 3
    assert "there is no file or folder" in done.err
    assert "gone.png" in done.err


def test_a_file_that_is_not_there_is_named_with_its_line_before_the_run(
    cli: Run, workflow: Write, tmp_path: Path
) -> None:
    workflow(
        "version: 1\n"
        "inputs: {more: {type: path, default: gone.png}}\n"
        "nodes:\n"
        "  a:\n"
        "    node: load_image\n"
        "    with: {path: nothere.png}\n"
        "  b: {node: load_image, from: {path: inputs.more}}\n"
        "  c: {workflow: {nodes: {d: {node: load_image, with: {path: inner.png}}}, outputs: {d: d}}}\n"
        "  e: {node: load_model, with: {source: tiny}}\n"
        "outputs: {a: a, b: b, c: c}\n"
    )
    expected = [
        f"warning: flow.yaml:6: a.path: there is no file or folder {tmp_path / 'nothere.png'}",
        f"warning: flow.yaml:8: d.path: there is no file or folder {tmp_path / 'inner.png'}",
        f"warning: flow.yaml:2: inputs.more: there is no file or folder {tmp_path / 'gone.png'}",
    ]
    done = cli("validate", "flow.yaml")
    assert (done.code, done.out, done.err.splitlines()) == (0, "flow.yaml: ok\n", expected)
    done = cli("run", "flow.yaml", "--set", "more=other.png")
    assert done.code == 3
    assert done.err.splitlines()[:2] == expected[:2]
    assert "gone.png" not in done.err
    for name in ("nothere.png", "inner.png", "gone.png"):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert cli("validate", "flow.yaml").err == ""
    workflow("version: 1\nnodes:\n  a: {workflow: nothere.yaml}\n")
    told = cli("validate", "flow.yaml").err
    what = "the workflow 'nothere.yaml' cannot be read: there is no such file; did you mean nothere.png?"
    assert told == f"flow.yaml:3: a: {what}\n"


def test_a_value_that_does_not_fit_is_told_with_the_type_that_was_declared(cli: Run, workflow: Write) -> None:
    workflow(
        "version: 1\n"
        "inputs: {choice: {type: int, default: 0}, name: {type: int, default: null}}\n"
        "nodes:\n"
        "  a: {node: switch, from: {choice: inputs.choice}, with: {cases: [1, 2]}}\n"
        "  b: {node: collect, from: {items: [inputs.name]}}\n"
        "outputs: {a: a, b: b}\n"
    )
    done = cli("run", "flow.yaml", "--set", "choice=x", "--set", "name=y")
    assert done.err.splitlines() == [
        "inputs.choice: 'x' (str) is not int", "inputs.name: 'y' (str) is not int | null"
    ]  # fmt: skip


def test_files_stay_inside_the_roots(cli: Run, workflow: Write, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    workflow("version: 1\nnodes:\n  c: {node: toy.load_card, with: {path: secret.png}}\noutputs: {c: c}\n")
    done = cli("run", "flow.yaml", "--root", "allowed")
    assert done.code == 3
    assert "outside the allowed folders" in done.err


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(cli: Run, paint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("run", "paint.yaml", "--out", "file", "--json")
    assert done.code == 3
    assert "the folder file cannot be written" in done.err
    assert [line["kind"] for line in done.lines] == ["error"]


LIMITED = """
import resource, sys
from graphengine.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_leaves_no_half_file(paint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "run", "paint.yaml", "--set", "side=500", "--set", "seed=3"], cwd=tmp_path,
        env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "out/paint_image cannot be written: File too large" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_failure(cli: Run, paint: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "store").write_text("a file where a folder should be")
    (tmp_path / "cache" / "runs").write_text("and another")
    assert cli("run", "paint.yaml").code == 0
    assert cli("cache", "show").code == 0
    assert cli("why", "paint.yaml").code == 0
    (tmp_path / "cache" / "store").unlink()
    assert cli("run", "paint.yaml").code == 0
    for file in (tmp_path / "cache" / "store").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * 10)
    done = cli("run", "paint.yaml")
    assert done.code == 0
    names = sorted((tmp_path / "out").iterdir())
    assert len(names) == 3
    assert len({name.read_bytes() for name in names}) == 1


def test_a_pack_that_does_not_load_is_a_warning(cli: Run, workflow: Write) -> None:
    workflow("version: 1\nnodes:\n  w: {node: broken.whole}\noutputs: {w: w}\n")
    done = cli("run", "flow.yaml", "--packs", PACKS / "broken")
    assert (done.code, done.out) == (0, "w: 1\n")
    assert "warning: node pack broken.broken: " in done.err
    assert "this pack is broken" in done.err
    done = cli("run", "flow.yaml", "--packs", "nowhere")
    assert done.code == 2
    assert "node pack nowhere" in done.err


def test_the_reader_of_the_output_may_go_away(paint: Path, tmp_path: Path) -> None:
    for arguments in (["run", "paint.yaml", "--json", "--set", "steps=100", "--no-cache"], ["nodes", "--json"]):
        read, write = os.pipe()
        os.close(read)
        process = subprocess.Popen(
            command(*arguments), cwd=tmp_path, env=environment(tmp_path), stdout=write, stderr=subprocess.PIPE
        )
        os.close(write)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 141
        assert err == b""


def test_a_report_shows_every_node(cli: Run, paint: Path, tmp_path: Path) -> None:
    assert cli("run", "paint.yaml", "--report", "run.html", "--set", "prompt=<script>alert(1)</script>").code == 0
    text = (tmp_path / "run.html").read_text()
    assert "<script" not in text.lower()
    assert "&lt;SCRIPT&gt;" in text
    assert text.count("data:image/png;base64,") == 1
    for id in ("brush", "words", "image"):
        assert f"<h3>{id} " in text
    assert "computed" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


def test_lists_are_written_item_by_item(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(
        "version: 1\n"
        "inputs: {seeds: {type: 'list[int]', default: [1, 2, 1]}}\n"
        "nodes:\n"
        "  brush: {node: toy.load_brush}\n"
        "  cards: {node: toy.paint, from: {brush: brush, seed: inputs.seeds}, with: {prompt: x}, each: [seed]}\n"
        "outputs: {cards: cards}\n"
    )
    done = cli("run", "flow.yaml")
    assert done.out.split() == [f"out/flow_cards_0000{n}.png" for n in range(3)]
    first, second, third = (PIL.Image.open(tmp_path / name).convert("RGB").tobytes() for name in done.out.split())
    assert first == third != second


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"]])
def test_help_says_what_there_is(cli: Run, arguments: list[str]) -> None:
    done = cli(*arguments)
    text = done.out + done.err
    assert "Usage: graphengine" in text
    assert ("--set" if "run" in arguments else "Exit codes") in text


@pytest.mark.slow
def test_the_embedded_model_makes_a_picture_and_remembers_it(cli: Run, tmp_path: Path) -> None:
    first = cli("run", "text_to_image", "--set", "steps=3", "--json")
    assert (first.code, first.err) == (0, "")
    # The second run ends while heavy imports, which it turns out not to need, are still under way.
    second = cli("run", "text_to_image", "--set", "steps=3", "--json")
    assert (second.code, second.err) == (0, "")
    assert [line["reuse"] for line in second.lines if line["kind"] == "node_finished"] == ["disk"]
    pictures = [PIL.Image.open(tmp_path / done.lines[-1]["files"][0]) for done in (first, second)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert pictures[0].info == pictures[1].info


HALF = """\
version: 1
nodes:
  brush: {node: toy.load_brush, with: {source: plain}}
  good: {node: toy.paint, from: {brush: brush}, with: {prompt: x, seed: 1, steps: 1, side: 8}}
  bad: {node: toy.fail, with: {text: oh no}}
  late: {node: toy.turn, from: {card: made}}
  made: {node: toy.paint, from: {brush: brush, seed: bad}, with: {prompt: x, steps: 1, side: 8}}
outputs: {good: good, late: late}
"""


def test_outputs_that_do_not_depend_on_a_failure_are_written(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(HALF)
    done = cli("run", "flow.yaml", "--keep-going", "--out", "o")
    assert done.code == 1
    assert "node bad (toy.fail) failed: ValueError: oh no" in done.err
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["flow_good_00000.png"]
    assert "flow_good_00000.png" in done.out
    done = cli("run", "flow.yaml", "--out", "p")  # it is remembered by now: written without `--keep-going` too
    assert done.code == 1
    assert [file.name for file in (tmp_path / "p").iterdir()] == ["flow_good_00000.png"]
    done = cli("run", "flow.yaml", "--keep-going", "--json", "--out", "q")
    assert [line["kind"] for line in done.lines[-2:]] == ["outputs", "error"]
    assert len(done.lines[-2]["files"]) == 1


def test_a_seed_that_is_drawn_is_told_and_makes_the_picture_again(cli: Run, paint: Path, tmp_path: Path) -> None:
    done = cli("run", "paint.yaml", "--set", "seed=-1", "--json")
    seed = done.lines[-1]["drawn"]["seed"]
    assert done.err == f"seed: {seed} was drawn\n"
    again = cli("run", "paint.yaml", "--set", f"seed={seed}", "--json")
    assert {line["reuse"] for line in again.lines if line["kind"] == "node_finished"} <= {"disk", "computed"}
    assert [line["reuse"] for line in again.lines if line.get("node") == "image" and "reuse" in line] == ["disk"]
    assert again.lines[-1]["drawn"] == {}
    assert f"Seed: {seed}," in PIL.Image.open(tmp_path / "out/paint_image_00000.png").info["parameters"]
    rerun = cli("rerun", "out/paint_image_00000.png", "--out", "again")
    assert "the pixels are the same" in rerun.out, rerun.err


def test_a_seed_in_a_file_is_drawn(cli: Run, paint: Path, tmp_path: Path) -> None:
    text = paint.read_text().replace("seed: inputs.seed, ", "")
    paint.write_text(text.replace("side: inputs.side}", "side: inputs.side}\n    with: {seed: -1}"))
    assert cli("validate", "paint.yaml").code == 0
    done = cli("run", "paint.yaml", "--json")
    seed = done.lines[-1]["drawn"]["image.seed"]
    assert f"Seed: {seed}," in PIL.Image.open(tmp_path / "out/paint_image_00000.png").info["parameters"]
    assert "the pixels are the same" in cli("rerun", "out/paint_image_00000.png", "--out", "again").out
