"""Names of the files of ComfyUI's output nodes: prefixes with their patterns, as the command line writes them too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
from graphengine_comfy.file_names import path_of

from tests.graphengine.cli.conftest import environment

NOW = time.struct_time((2026, 2, 3, 4, 5, 6, 1, 34, 0))


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("ComfyUI", "ComfyUI"),
        ("a/b\\c", "a/b/c"),
        ("./a//b/", "a/b"),
        ("", "ComfyUI"),
        ("%year%-%month%-%day% %hour%.%minute%.%second%", "2026-02-03 04.05.06"),
        ("%width%x%height%", "32x48"),
        ("%date:yyyy-MM-dd%/%date:yy.M.d-hhmmss%", "2026-02-03/26.2.3-040506"),
        ("%KSampler.seed% 50%", "%KSampler.seed% 50%"),
        ("круг\u3000円", "круг\u3000円"),
    ],
)
def test_patterns_of_a_prefix(prefix: str, path: str) -> None:
    assert path_of(prefix, (32, 48), NOW) == path


@pytest.mark.parametrize("prefix", ["../x", "/x", "a/../../x", "\\x", ".x", "a/.hidden", "a\0b", "a\nb", "x" * 201])
def test_a_prefix_that_leads_out_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="filename_prefix"):
        path_of(prefix, (32, 48), NOW)
    with pytest.raises(ValueError, match="filename_prefix"):
        comfy.SaveText(text="a", filename_prefix=prefix)


def run(folder: Path, prompt: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "p.json").write_text(json.dumps(prompt))
    words = [sys.executable, "-m", "graphengine.cli", "run", "p.json", *options]
    return subprocess.run(words, cwd=folder, env=environment(folder), text=True, capture_output=True, timeout=300)


def save(prefix: Any) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}}


def test_the_command_line_names_files_as_comfyui_does(tmp_path: Path) -> None:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 24, "batch_size": 2, "color": 255}},
        "2": {"class_type": "PrimitiveString", "inputs": {"value": "linked"}},
        "3": {"class_type": "StringConcatenate", "inputs": {"string_a": ["2", 0], "string_b": "%width%",
                                                            "delimiter": "/"}},
        "9": save("x"), "10": save("y/x"), "11": save(["3", 0]), "12": save("n_%batch_num%"),
        "13": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x_00006_.png").write_text("mine")
    done = run(tmp_path, prompt)
    assert done.returncode == 0, done.stderr
    *named, first, second = done.stdout.split()
    assert named == [
        f"out/{name}_.png" for name in ("x_00007", "x_00008", "y/x_00001", "y/x_00002", "linked/16_00001",
                                        "linked/16_00002", "n_0_00001", "n_1_00001")
    ]  # fmt: skip
    assert re.fullmatch(r"out/temp/ComfyUI_temp_[a-z]{10}_00001_\.png", first)
    assert second == first.replace("_00001_", "_00002_")
    made = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(made) == sorted([*done.stdout.split(), "out/x_00006_.png"])  # written once, and no folder is left
    assert (tmp_path / "out" / "x_00006_.png").read_text() == "mine"
