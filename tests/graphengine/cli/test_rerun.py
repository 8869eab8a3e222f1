"""Pictures carry their making, and `graphengine rerun` makes them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin
import pytest

from graphengine.cli.rerun import compare
from tests import ROOT
from tests.graphengine.cli.conftest import Run

Write = Callable[..., Path]

TURN = """\
version: 1
inputs:
  picture: {type: str, default: given/other.png}
nodes:
  card: {node: toy.load_card, from: {path: inputs.picture}}
  turned: {node: toy.turn, from: {card: card}}
outputs: {turned: turned}
"""


def carried(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PIL.Image.open(file).info["graphengine"])
    return found


def pixels(file: Path) -> bytes:
    return PIL.Image.open(file).convert("RGB").tobytes()


def picture(file: Path, colour: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    image = PIL.Image.new("RGB", (8, 8), colour)
    image.putpixel((0, 0), (1, 2, 3))
    image.save(file)
    return file


def test_a_picture_carries_how_it_was_made(cli: Run, paint: Path, tmp_path: Path) -> None:
    (tmp_path / "brushes").mkdir()
    (tmp_path / "brushes" / "my.brush").write_text("bristles")
    assert cli("run", "paint.yaml", "--set", "seed=5", "--set", "brush=brushes/my.brush").code == 0
    file = tmp_path / "out/paint_image_00000.png"
    record = carried(file)
    assert record["inputs"] == {"seed": 5, "brush": "my.brush"}
    assert record["output"] == "image"
    assert set(record["workflow"]["nodes"]) == {"brush", "words", "image"}
    assert record["made"]["device"] == "easel"
    assert record["weights"]["brush"]["name"] == "my.brush"
    assert len(record["weights"]["brush"]["digest"]) == 64
    assert record["versions"]["graphengine"]
    assert "toy" in record["versions"]["packs"]
    assert [f["name"] for f in record["files"]] == ["my.brush"]
    assert PIL.Image.open(file).info["parameters"] == "a red circle\nSeed: 5, Model: my.brush"
    # Nothing of where it was made.
    assert str(tmp_path) not in PIL.Image.open(file).info["graphengine"]
    assert "brushes" not in PIL.Image.open(file).info["graphengine"]


def test_rerun_makes_the_same_pixels_with_an_empty_cache(cli: Run, paint: Path, tmp_path: Path) -> None:
    cli("run", "paint.yaml", "--set", "seed=5", "--set", "prompt=a green tree, ünïcode 树")
    first = tmp_path / "out/paint_image_00000.png"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(first, moved / "p.png")
    paint.unlink()
    shutil.rmtree(tmp_path / "cache")
    done = cli("rerun", "p.png", "--out", "again", "--no-cache", cwd=moved)
    assert done.code == 0
    assert done.out == "again/paint_image_00000.png\nthe pixels are the same\n"
    assert done.err == ""
    assert pixels(moved / "again/paint_image_00000.png") == pixels(moved / "p.png")
    # What was made again can be made again.
    done = cli("rerun", "again/paint_image_00000.png", "--json", cwd=moved)
    assert json.loads(done.out)["same_pixels"] is True


def test_a_moved_input_picture_is_found_by_its_content(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(TURN)
    picture(tmp_path / "given/red.png", "red")
    cli("run", "flow.yaml", "--set", "picture=given/red.png")
    (tmp_path / "deep/er").mkdir(parents=True)
    shutil.move(tmp_path / "given/red.png", tmp_path / "deep/er/renamed.png")
    picture(tmp_path / "given/red.png", "blue")  # of the same name, another picture
    elsewhere = tmp_path / "x"
    elsewhere.mkdir()
    shutil.copy(tmp_path / "out/flow_turned_00000.png", elsewhere / "p.png")
    done = cli("rerun", "p.png", cwd=elsewhere)
    assert done.code == 3
    assert "the file red.png (SHA-256 " in done.err
    assert "--search" in done.err
    done = cli("rerun", "p.png", "--search", "../given", "--search", "../deep", cwd=elsewhere)
    assert done.code == 0
    assert "the pixels are the same" in done.out


def test_a_file_in_the_workflow_itself_is_found_too(cli: Run, workflow: Write, tmp_path: Path) -> None:
    inner = "version: 1\nnodes:\n  c: {node: toy.load_card, with: {path: given/a.png}}\noutputs: {c: c}\n"
    workflow(inner, "inner.yaml")
    outer = "version: 1\nnodes:\n  i: {workflow: inner.yaml}\n  t: {node: toy.turn, from: {card: i.c}}\n"
    workflow(outer + "outputs: {t: t}\n")
    picture(tmp_path / "given/a.png", "green")
    assert cli("run", "flow.yaml").code == 0
    record = carried(tmp_path / "out/flow_t_00000.png")
    assert record["files"][0]["name"] == "a.png"
    assert "given" not in json.dumps(record)
    (tmp_path / "inner.yaml").unlink()
    shutil.move(tmp_path / "given/a.png", tmp_path / "out/b.png")
    done = cli("rerun", "out/flow_t_00000.png", "--no-cache")
    assert done.code == 0, done.err
    assert "the pixels are the same" in done.out


def test_rerun_says_what_differs(cli: Run, paint: Path, tmp_path: Path) -> None:
    cli("run", "paint.yaml")
    file = tmp_path / "out/paint_image_00000.png"
    record = carried(file)
    record["versions"]["graphengine"] = "0.0.1"
    record["weights"]["brush"]["digest"] = "another"
    record["made"]["device"] = "abacus"
    image = PIL.Image.open(file).convert("RGB")
    image.putpixel((0, 0), (0, 0, 0))
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_itxt("graphengine", json.dumps(record))
    image.save(tmp_path / "changed.png", pnginfo=chunks)
    done = cli("rerun", "changed.png")
    assert done.code == 0
    assert "differs: graphengine: 0.0.1 then, " in done.err
    assert "differs: the weights of brush (plain): another then, " in done.err
    assert "differs: device: abacus then, easel now" in done.err
    assert "the pixels are not the same: they differ by up to " in done.out


def test_one_item_of_a_list_is_made_again(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(
        "version: 1\n"
        "nodes:\n"
        "  brush: {node: toy.load_brush}\n"
        "  cards: {node: toy.paint, from: {brush: brush}, with: {prompt: x, seed: [4, 5, 6]}, each: [seed]}\n"
        "outputs: {cards: cards}\n"
    )
    cli("run", "flow.yaml")
    file = tmp_path / "out/flow_cards_00001.png"
    assert "Seed: 5" in PIL.Image.open(file).info["parameters"]
    done = cli("rerun", file, "--out", "again")
    assert done.out == "again/flow_cards_00000.png\nthe pixels are the same\n"
    assert carried(tmp_path / "again/flow_cards_00000.png")["item"] == 1


def test_a_picture_that_writes_files_is_not_run(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(TURN)
    picture(tmp_path / "given/other.png", "red")
    cli("run", "flow.yaml")
    file = tmp_path / "out/flow_turned_00000.png"
    record = carried(file)
    record["workflow"]["nodes"]["turned"] = {
        "node": "toy.keep", "from": {"card": "card"}, "with": {"path": str(tmp_path / "victim")}
    }  # fmt: skip
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_itxt("graphengine", json.dumps(record))
    PIL.Image.open(file).save(tmp_path / "evil.png", pnginfo=chunks)
    done = cli("rerun", "evil.png", "--search", "given")
    assert done.code == 2
    assert "writes files" in done.err
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not carry how it was made"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 9, "workflow": {}, "inputs": {}, "output": "x", "files": []}', "newer graphengine"),
        ('{"format": 1, "workflow": {}, "inputs": {}, "output": "x", "files": [{"at": 3}]}', "is damaged"),
        ('{"format": 1, "workflow": {"version": 1, "nodes": {}}, "inputs": {}, "output": "x", "files": []}', "node x"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_picture_without_a_good_record(cli: Run, tmp_path: Path, text: str | None, message: str) -> None:
    chunks = PIL.PngImagePlugin.PngInfo()
    if text is not None:
        chunks.add_itxt("graphengine", text)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "p.png", pnginfo=chunks)
    done = cli("rerun", "p.png")
    assert done.code in (2, 3)
    assert message in done.err


def test_what_is_no_picture(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_text("no picture")
    assert "p.png is no picture" in cli("rerun", "p.png").err
    done = cli("rerun", "gone.png")
    assert done.code == 3
    assert "gone.png" in done.err
    picture(tmp_path / "q.png", "red")
    (tmp_path / "q.png").write_bytes((tmp_path / "q.png").read_bytes()[:20])
    assert cli("rerun", "q.png").code == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_to_image", "image_to_image"])
def test_rerun_of_the_embedded_model(cli: Run, tmp_path: Path, name: str) -> None:
    done = cli("run", name, "--set", "seed=3", "--set", "steps=4")
    assert done.code == 0, done.err
    first = tmp_path / done.out.strip()
    text = PIL.Image.open(first).info["parameters"]
    assert "Steps: 4, Sampler: DDIM, CFG scale: 3.5, Seed: 3, Size: 128x128" in text
    assert text.startswith("a ")
    shutil.rmtree(tmp_path / "cache")
    done = cli("rerun", first, "--out", "again", "--no-cache", "--search", ROOT / "workflows")
    assert done.code == 0, done.err
    assert "the pixels are the same" in done.out
    assert pixels(tmp_path / done.out.split()[0]) == pixels(first)


def test_pictures_that_differ_in_transparency_alone_are_not_the_same(tmp_path: Path) -> None:
    files = [tmp_path / f"{alpha}.png" for alpha in (0, 10)]
    for file, alpha in zip(files, (0, 10), strict=True):
        PIL.Image.new("RGBA", (4, 4), (1, 2, 3, alpha)).save(file)
    assert compare(files[0], [files[0]])
    assert not compare(files[0], [files[1]])
