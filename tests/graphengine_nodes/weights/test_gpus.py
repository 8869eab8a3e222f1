"""GPUs are counted as torch counts them, without importing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASKS = """
import sys
import graphengine_nodes
print(*graphengine_nodes.__pack__.devices(), "torch" in sys.modules)
"""

DRIVER = """
int cuInit(unsigned flags) { return %d; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
"""

NO_DEVICE, NOT_SUPPORTED = 100, 801


def devices(*paths: Path, **environment: str) -> str:
    """The devices that a fresh process lists, and whether it imported torch."""
    given = {"PYTHONPATH": os.pathsep.join(map(str, [*paths, os.environ.get("PYTHONPATH", "")]))}
    done = subprocess.run(
        [sys.executable, "-c", ASKS], env=os.environ | given | environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def built_for(folder: Path, cuda: str, hip: str) -> Path:
    """A folder with a torch that says what it was built for, and has three GPUs."""
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text(f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\n")
    (folder / "torch" / "__init__.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 3)\n")
    return folder


def driver(folder: Path, code: int = 0) -> Path:
    """A folder with a CUDA driver that has two GPUs, or answers with an error."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no compiler for the stand-in of the driver")
    (folder / "driver.c").write_text(DRIVER % code)
    subprocess.run([compiler, "-shared", "-o", str(folder / "libcuda.so.1"), str(folder / "driver.c")], check=True)
    return folder


def test_the_driver_counts(tmp_path: Path) -> None:
    there = {"LD_LIBRARY_PATH": str(driver(tmp_path))}
    assert devices(built_for(tmp_path, "'13.0'", "None"), **there) == "cuda:0 cuda:1 False"


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    there = {"LD_LIBRARY_PATH": str(driver(tmp_path, NO_DEVICE))}
    assert devices(built_for(tmp_path, "'13.0'", "None"), **there) == "cpu False"


def test_torch_is_asked_where_the_driver_does_not_answer(tmp_path: Path) -> None:
    there = {"LD_LIBRARY_PATH": str(driver(tmp_path, NOT_SUPPORTED))}
    assert devices(built_for(tmp_path, "'13.0'", "None"), **there) == "cuda:0 cuda:1 cuda:2 True"


def test_a_torch_for_the_processor_alone_has_none(tmp_path: Path) -> None:
    there = {"LD_LIBRARY_PATH": str(driver(tmp_path))}
    assert devices(built_for(tmp_path, "None", "None"), **there) == "cpu False"


def test_torch_is_asked_for_other_gpus_and_where_it_does_not_say(tmp_path: Path) -> None:
    assert devices(built_for(tmp_path, "None", "'7.0'")) == "cuda:0 cuda:1 cuda:2 True"
    (tmp_path / "torch" / "version.py").write_text("")
    assert devices(tmp_path) == "cuda:0 cuda:1 cuda:2 True"


def test_the_torch_that_is_installed_agrees() -> None:
    import torch

    count = torch.cuda.device_count()
    *found, imported = devices().split()
    assert found == ([f"cuda:{n}" for n in range(count)] or ["cpu"])
    assert imported == "False"
