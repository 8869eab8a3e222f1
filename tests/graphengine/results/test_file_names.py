"""Names of output files that a format of another tool gives: numbers, folders, and what they may not be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphengine.errors import FileError
from graphengine.pack import FileName
from graphengine.results.outputs import OutputWriter


def save(value: Any, path: Path, text: Mapping[str, str]) -> list[Path]:
    """Write a file for each item."""
    files = [path.with_name(f"{path.name}_{number}.txt") for number in range(len(value))]
    for file, item in zip(files, value, strict=True):
        file.write_text(item)
    return files


def write(folder: Path, *values: tuple[str, FileName]) -> list[str]:
    """Write values together; returns their files, which hold what they should."""
    writer = OutputWriter(folder, "job")
    with writer.delivery() as delivery:
        for number, (value, named) in enumerate(values):
            delivery.save(f"o{number}", f"o{number}", value, save, {}, named)
        files = delivery.publish()
    for number, (value, _) in enumerate(values):
        assert "".join(file.read_text() for file in files[f"o{number}"]) == value
    return [file.relative_to(folder).as_posix() for file in writer.files]


def test_each_file_takes_the_next_number(tmp_path: Path) -> None:
    assert write(tmp_path, ("ab", FileName("x")), ("c", FileName("x"))) == [f"x_0000{n}_.txt" for n in (1, 2, 3)]
    assert write(tmp_path, ("d", FileName("x"))) == ["x_00004_.txt"]
    (tmp_path / "x_00041_.png").write_text("")
    (tmp_path / "xy_00050_.png").write_text("")
    assert write(tmp_path, ("d", FileName("x"))) == ["x_00042_.txt"]
    assert write(tmp_path, ("ab", FileName("#/n", "#"))) == ["0/n_00001_.txt", "1/n_00002_.txt"]


def test_no_two_files_of_a_delivery_have_one_name(tmp_path: Path) -> None:
    assert write(tmp_path, ("a", FileName("x/n")), ("b", FileName("y/n"))) == ["x/n_00001_.txt", "y/n_00002_.txt"]


@pytest.mark.parametrize("path", ["link/x", "link/deep/x", "file/x", "file/deep/x", "../x"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, path: str) -> None:
    folder, other = tmp_path / "out", tmp_path / "elsewhere"
    folder.mkdir()
    other.mkdir()
    (folder / "link").symlink_to(other)
    (folder / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        write(folder, ("a", FileName(path)))
    assert list(other.iterdir()) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere", "out"]
    assert sorted(file.name for file in folder.iterdir()) == ["file", "link"]
