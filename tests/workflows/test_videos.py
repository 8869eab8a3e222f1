"""The shipped workflows of videos run with small Wan models; `run` writes their MP4, and `rerun` makes it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
from graphengine_nodes.testing.wan import wan_model

from graphengine import NodeError, load
from tests.graphengine.cli.conftest import Run, cli  # noqa: F401


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of videos from text, and one of videos from pictures."""
    folder = tmp_path_factory.mktemp("films")
    wan_model(folder / "text")
    wan_model(folder / "picture", variant="2.1-i2v")
    return folder


@pytest.mark.parametrize(("workflow", "model"), [("text_to_video", "text"), ("image_to_video", "picture")])
def test_a_workflow_makes_a_video(workflow: str, model: str, films: Path) -> None:
    inputs: dict[str, Any] = {"model": str(films / model), "frames": 5}
    found: std.Video = load(workflow).run(inputs=inputs)["video"]
    assert (len(found), found.size, found.fps) == (5, (64, 64), 16.0)
    assert found.frames.std() > 0.01
    faster: std.Video = load(workflow).run(inputs={**inputs, "fps": 24.0})["video"]
    assert faster.fps == 24.0
    assert faster.frames.equal(found.frames)


def test_a_model_of_the_other_kind_is_refused_in_a_sentence(films: Path) -> None:
    with pytest.raises(NodeError, match="this model needs a first picture; link one"):
        load("text_to_video").run(inputs={"model": str(films / "picture"), "frames": 5})
    with pytest.raises(NodeError, match="this model takes no first picture; leave it out"):
        load("image_to_video").run(inputs={"model": str(films / "text"), "frames": 5})
    with pytest.raises(NodeError, match="tiny, stable_diffusion, makes no videos; use sample"):
        load("text_to_video").run(inputs={"model": "tiny"})


def test_run_writes_the_mp4_of_a_model_and_rerun_makes_it_again(cli: Run, films: Path) -> None:  # noqa: F811
    done = cli("run", "text_to_video", "--set", f"model={films / 'text'}", "--set", "frames=5", "--set", "steps=1")
    assert done.code == 0, done.err
    (name,) = done.out.splitlines()
    assert name == "out/text_to_video_video_00000.mp4"
    again = cli("rerun", name, "--out", "again", "--no-cache", "--search", str(films))
    assert again.code == 0, again.err
    assert again.out.splitlines()[1] == "the pixels are the same"
