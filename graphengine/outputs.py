"""Writing what a run made: whole files only, never over another one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import FileError
from graphengine.types import is_named_tuple, socket_type

if TYPE_CHECKING:
    from graphengine.evaluate import Result
    from graphengine.graph import Graph

Text = Callable[[str, Any, int | None], Mapping[str, str]]
"""Gives the texts that a picture carries: of an output's name, a value, and its number in a list."""


class Writer:
    """Writes values into a folder as `<prefix>_<output>_00000.png`, each under a number that is free.

    Args:
        folder: Where; made if it is not there.
        prefix: The beginning of the names.
        about: Told before files appear which these are, as `marks` says it.

    Raises:
        FileError: The folder cannot be made or written in; said before anything is computed.
    """

    def __init__(self, folder: Path, prefix: str, about: Callable[[Mapping[str, str]], object] | None = None) -> None:
        self.folder, self.prefix, self.about = folder, prefix, about
        self.files: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".graphengine-"):
                pass
        except OSError as error:
            why = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror or error
            raise FileError(f"the folder {folder} cannot be written: {why}") from None

    def write(self, name: str, value: Any, text: Text) -> tuple[list[Path], list[Any]]:
        """Write an output, a list item by item; returns the files, and the values that are no files but plain."""
        files: list[Path] = []
        values: list[Any] = []
        for part, item, number in _parts(name, value):
            kind = socket_type(type(item))
            if kind is None or kind.save is None:
                values.append(item)
            else:
                files += self.save(part, item, kind.save, text(name, item, number))
        self.files += files
        return files, values

    def save(
        self,
        name: str,
        value: Any,
        save: Callable[[Any, Path, Mapping[str, str]], list[Path]],
        text: Mapping[str, str],
    ) -> list[Path]:
        """Write one value by its type's `save`, first where nobody looks, then under a free number.

        Raises:
            FileError: It cannot be written; nothing is left of it.
        """
        stem = f"{self.prefix}_{name}" if name else self.prefix
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
        try:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".graphengine-") as hidden:
                try:
                    made = save(value, Path(hidden) / "value", text)
                except FileError as error:  # people know nothing of the hidden folder
                    raise FileError(str(error).replace(str(Path(hidden) / "value"), str(self.folder / stem))) from None
                return self._publish(stem, {file: file.name.removeprefix("value") for file in made})
        except OSError as error:
            raise FileError(f"{self.folder / stem} cannot be written: {error.strerror or error}") from None

    def _publish(self, stem: str, made: Mapping[Path, str]) -> list[Path]:
        number = next_number(self.folder, stem)
        while True:
            placed: list[Path] = []
            finals = {file: self.folder / f"{stem}_{number:05d}{ending}" for file, ending in made.items()}
            if self.about is not None:
                self.about(marks(finals))
            try:
                for file, final in finals.items():
                    place(file, final)
                    placed.append(final)
                return placed
            except FileExistsError:  # another process took this number meanwhile
                number += 1
                _remove(placed)
            except BaseException:
                _remove(placed)
                raise


def write_outputs(
    graph: Graph,
    inputs: dict[str, Any],
    result: Result,
    writer: Writer,
    *,
    exact: bool = False,
    base: Path | None = None,
    show: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write every output of a run; returns what was written, by output: files, or a plain value.

    Args:
        base: Where relative paths among the inputs start; by default the current folder.
        show: Told of each file and plain value as soon as it is written.
    """
    from graphengine.metadata import chunks

    told: dict[str, Any] = {}
    for name, value in result.outputs.items():

        def text(output: str, part: Any, item: int | None) -> dict[str, str]:
            return chunks(graph, inputs, output, part, result.made[output], base=base, item=item, exact=exact)

        files, values = writer.write(name, value, text)
        told[name] = {}
        if files:
            told[name]["files"] = [str(file) for file in files]
        if values:
            told[name]["value"] = values[0] if len(values) == 1 else values
        for file in files:
            show(str(file))
        for plain in values:
            show(f"{name}: {plain}")
    return told


def place(file: Path, final: Path) -> None:
    """Move a file to a name that nobody has; FileExistsError if somebody has it, also at the same moment."""
    try:
        os.link(file, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        descriptor = os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.close(descriptor)
        try:
            os.replace(file, final)
        except BaseException:
            _remove([final])
            raise


def marks(finals: Mapping[Path, Path]) -> dict[str, str]:
    """Names that files are about to get, each with a mark by which the file is known from any other of that name."""
    return {str(final): _mark(file) for file, final in finals.items()}


def remove_marked(files: Mapping[str, str]) -> None:
    """Remove those of the files that `marks` told of which are there and were not changed since."""
    for name, mark in files.items():
        with contextlib.suppress(OSError):
            if _mark(Path(name)) == mark:
                os.unlink(name)


def _mark(file: Path) -> str:
    found = file.stat()  # a file keeps these when it is linked or moved
    return f"{found.st_size}:{found.st_mtime_ns}"


def next_number(folder: Path, stem: str) -> int:
    """The number after the highest one that files of this stem have."""
    pattern = re.compile(rf"{re.escape(stem)}_(\d{{5,}})(?!\d)")
    with os.scandir(folder) as entries:
        numbers = [int(match[1]) for entry in entries if (match := pattern.match(entry.name))]
    return max(numbers, default=-1) + 1


def _remove(files: list[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any, int | None]]:
    """The parts of an output that are written one by one: (name, value, number in its list)."""
    if is_named_tuple(type(value)):
        for field in type(value)._fields:
            yield from _parts(f"{name}_{field}", getattr(value, field))
    elif isinstance(value, list) and any(_is_saved(item) for item in value):
        for number, item in enumerate(value):
            yield name, item, number
    else:
        yield name, value, None


def _is_saved(value: Any) -> bool:
    kind = socket_type(type(value))
    return kind is not None and kind.save is not None


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, over an old one of its name.

    Raises:
        FileError: It cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".graphengine-") as hidden:
            file = Path(hidden) / "file"
            file.write_bytes(content)
            shutil.copymode(path, file) if path.exists() else None
            os.replace(file, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None
