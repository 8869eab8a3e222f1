"""Places a run's files: numbered names, whole or not at all, never over others; a type's `save` decides the format."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from graphengine.errors import FileError
from graphengine.graph.type_inference import output_type
from graphengine.old_names import moved
from graphengine.pack import FileName
from graphengine.provenance.describe import chunks
from graphengine.results.file_names import file_name
from graphengine.system.opening import check_inside
from graphengine.system.staging import PREFIX, hidden_folder, make_folder, sweep, sync
from graphengine.values.socket_types import is_named_tuple, socket_type

if TYPE_CHECKING:
    from graphengine.execution.run import Result
    from graphengine.graph.data import GraphData

Text = Callable[[str, Any, int | None], Mapping[str, str]]
"""A function of an output's name, a value, and its number in a list; returns the texts to store in a picture."""
Save = Callable[[Any, Path, Mapping[str, str]], list[Path]]
"""A function that writes a value to files whose paths begin with a given one, with texts in them; returns the files."""
Named = Callable[[str, Any, int | None], FileName | None]
"""A function of the same; returns how its files are named, None for the writer's own names."""
HIDDEN = "hidden"
"""The mark (see `marks`) of the hidden folder in which files are made."""


@dataclass(frozen=True, slots=True)
class _Staged:
    """The hidden files of a value.

    Attributes:
        output: The output of which the value is a part.
        stem: What their names begin with, before the number.
        endings: By file, what stands behind the number.
        named: How they are named where a format says so; `stem` begins so then.
    """

    output: str
    stem: str
    endings: Mapping[Path, str]
    named: FileName | None


class OutputWriter:
    """Writes values to files in a folder, named `<prefix>_<output>_00000.png` with the next free number, or as a
    `FileName` says.

    Args:
        folder: The folder; it is made when the first file is written.
        prefix: The beginning of the names.
        about: Called with the marks (see `marks`) of files before they appear.

    Attributes:
        files: The files that were written.
    """

    def __init__(self, folder: Path, prefix: str, about: Callable[[Mapping[str, str]], object] | None = None) -> None:
        self.folder, self.prefix, self.about = folder, prefix, about
        self.files: list[Path] = []
        self._swept = False

    @contextlib.contextmanager
    def delivery(self) -> Iterator[Delivery]:
        """Begin a delivery of files that appear together; files that were not published are removed at the end.

        Raises:
            FileError: A file cannot be written.
        """
        with contextlib.ExitStack() as stack:
            yield Delivery(self, stack)

    def write(self, name: str, value: Any, text: Text) -> tuple[list[Path], list[Any]]:
        """Write an output, completely or not at all; returns the files, and the plain values that are not written."""
        with self.delivery() as delivery:
            values = delivery.add(name, value, text)
            return delivery.publish()[name], values

    def save(
        self, name: str, value: Any, save: Save, text: Mapping[str, str], named: FileName | None = None
    ) -> list[Path]:
        """Write one value by a save function; returns the files.

        Raises:
            FileError: It cannot be written; no part of it is left.
        """
        with self.delivery() as delivery:
            delivery.save(name, name, value, save, text, named)
            return delivery.publish()[name]

    def sweep(self) -> None:
        """Remove, once, the hidden folders that processes which died have left in the folder."""
        for _ in () if self._swept or not self.folder.is_dir() else sweep(self.folder):
            pass
        self._swept = True

    def _stem(self, name: str) -> str:
        stem = f"{self.prefix}_{name}" if name else self.prefix
        return "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)


def check_folder(folder: Path, graph: GraphData | None = None) -> None:
    """Check, before anything is computed, that files can be written into a folder; leaves nothing there.

    Args:
        folder: The folder, which need not exist.
        graph: The graph whose outputs are to be written; if none of them makes files, the folder need not be writable.

    Raises:
        FileError: The folder cannot be made or written in.
    """
    needed = graph is None or any(_is_written(output_type(graph, link)) for link in graph.outputs.values())
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise FileExistsError
        if not needed:
            return
        existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        why = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror or error
        raise FileError(f"the folder {folder} cannot be written: {why}") from None


def _is_written(annotation: Any) -> bool:
    """Whether values of a type are written to files, or parts of them may be (a list, a union)."""
    if isinstance(annotation, type) and (registered := socket_type(annotation)) is not None:
        return registered.save is not None
    return any(map(_is_written, get_args(annotation)))


class Delivery:
    """Output files made in a hidden folder and then put in place all together; made by `OutputWriter.delivery`."""

    def __init__(self, writer: OutputWriter, stack: contextlib.ExitStack) -> None:
        self._writer, self._stack = writer, stack
        self._hidden: Path | None = None  # made when something is written
        self._staged: list[_Staged] = []
        self._names: list[str] = []

    def add(self, name: str, value: Any, text: Text, named: Named = lambda name, value, number: None) -> list[Any]:
        """Write an output to hidden files, a list item by item; returns the plain values that are not written."""
        self._names.append(name)
        values: list[Any] = []
        for part, item, number in _parts(name, value):
            registered = socket_type(type(item))
            if registered is None or registered.save is None:
                values.append(item)
            else:
                self.save(name, part, item, registered.save, text(name, item, number), named(name, item, number))
        return values

    def save(
        self, output: str, name: str, value: Any, save: Save, text: Mapping[str, str], named: FileName | None = None
    ) -> None:
        """Write one value to hidden files.

        Args:
            output: The output of which it is a part.
            name: The name of the files, after the writer's prefix.
            value: The value.
            save: The function that writes it.
            text: The texts to store in a picture.
            named: How the files are named; by default by the writer's prefix and the name.
        """
        stem = self._writer._stem(name) if named is None else named.path
        shown = self._writer.folder / stem
        try:
            if self._hidden is None:
                make_folder(self._writer.folder)
                self._writer.sweep()
                self._hidden = self._stack.enter_context(hidden_folder(self._writer.folder))
            path = self._hidden / str(len(self._staged)) / "value"
            path.parent.mkdir()
            try:
                made = save(value, path, text)
            except FileError as error:  # show the final name, not that in the hidden folder
                raise FileError(str(error).replace(str(path), str(shown))) from None
            for file in made:
                sync(file)
        except OSError as error:
            raise FileError(f"{shown} cannot be written: {error.strerror or error}") from None
        endings = {file: file.suffix if named else file.name.removeprefix("value") for file in made}
        self._staged.append(_Staged(output, stem, endings, named))

    def publish(self) -> dict[str, list[Path]]:
        """Move all files to their final names; returns the files of each output. They are on the disk then (fsync)."""
        while True:
            found: dict[str, list[Path]] = {name: [] for name in self._names}
            try:
                finals = self._finals(found)
                about = marks(finals)
                if self._writer.about is not None and finals:
                    self._writer.about({str(self._hidden): HIDDEN, **about})
                self._place(finals, about)
                return found
            except FileExistsError:  # another process took a number meanwhile
                continue
            except OSError as error:
                stem = self._staged[0].stem if self._staged else ""
                raise FileError(f"{self._writer.folder / stem} cannot be written: {error.strerror or error}") from None

    def _place(self, finals: Mapping[Path, Path], about: Mapping[str, str]) -> None:
        placed: list[Path] = []
        try:
            for file, final in finals.items():
                self._make(final.parent)
                place(file, final)
                placed.append(final)
            for folder in {final.parent for final in placed}:
                sync(folder)
        except BaseException:
            remove_marked({str(final): about[str(final)] for final in placed})
            raise
        self._writer.files += placed

    def _make(self, folder: Path) -> None:
        """Make a folder inside that of the writer."""
        try:
            make_folder(folder)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the place of its folder") from None
        check_inside(folder, [self._writer.folder], links=False)

    def _finals(self, found: dict[str, list[Path]]) -> dict[Path, Path]:
        """A free name for each file; no two have the same name, even in several folders."""
        folder, numbers = self._writer.folder, dict[str, int]()
        finals: dict[Path, Path] = {}
        taken: set[str] = set()

        def next_of(stem: str, first: int) -> int:
            if stem not in numbers:
                path = folder / stem
                check_inside(path.parent, [folder], links=False)
                numbers[stem] = next_number(path.parent, path.name, first)
            return numbers[stem]

        for staged in self._staged:
            files = found.setdefault(staged.output, [])
            if staged.named is None:
                number = next_of(staged.stem, 0)
                numbers[staged.stem] = number + 1
                for file, ending in staged.endings.items():
                    finals[file] = folder / f"{staged.stem}_{number:05d}{ending}"
            else:
                for index, (file, ending) in enumerate(staged.endings.items()):
                    mark = staged.named.mark
                    stem = staged.stem.replace(mark, str(index)) if mark else staged.stem
                    number = next_of(stem, 1)
                    while (name := f"{Path(stem).name}_{number:05d}_{ending}") in taken:
                        number += 1
                    taken.add(name)
                    numbers[stem] = number + 1
                    finals[file] = (folder / stem).with_name(name)
            files += [finals[file] for file in staged.endings]
        return finals


def write_outputs(
    graph: GraphData,
    inputs: Mapping[str, Any],
    result: Result,
    writer: OutputWriter,
    *,
    exact: bool = False,
    base: Path | None = None,
    show: Callable[[str], object] = lambda line: None,
    together: bool = False,
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write every output of a run; returns by output the files, or the plain value.

    Args:
        graph, inputs, exact: What was run, and whether exactly.
        result: The run's result.
        writer: Writes the files.
        base: The folder at which relative paths among the inputs start; by default the current one.
        show: Called with a line for each file and plain value when it is written.
        together: All files appear at once; by default those of each output appear when they are written.
        texts: More texts that pictures carry, by their names; those that say how a picture was made go before them.
    """
    def text(output: str, part: Any, item: int | None) -> dict[str, str]:
        made = chunks(graph, inputs, output, part, result.made[output], base=base, item=item, exact=exact)
        return {**(texts or {}), **made}

    def named(output: str, part: Any, item: int | None) -> FileName | None:
        return file_name(graph, inputs, output, part, item, base)

    told: dict[str, Any] = {}
    outputs = list(result.outputs.items())
    for group in [outputs] if together else [[output] for output in outputs]:
        with writer.delivery() as delivery:
            plain = {name: delivery.add(name, value, text, named) for name, value in group}
            files = delivery.publish()
        for name, values in plain.items():
            told[name] = {}
            if files[name]:
                told[name]["files"] = [str(file) for file in files[name]]
            if values:
                told[name]["value"] = values[0] if len(values) == 1 else values
            for file in files[name]:
                show(str(file))
            for value in values:
                show(f"{name}: {value}")
    return told


def place(file: Path, final: Path) -> None:
    """Move a file to a new name.

    Raises:
        FileExistsError: The name exists, even if it was made at the same moment.
    """
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
            with contextlib.suppress(OSError):
                final.unlink()
            raise


def marks(finals: Mapping[Path, Path]) -> dict[str, str]:
    """The final names of files, each with a mark that identifies the file (its size and time of change)."""
    return {str(final): _mark(file) for file, final in finals.items()}


def remove_marked(files: Mapping[str, str]) -> None:
    """Remove the files of `marks` that exist and were not changed since.

    Their hidden folder is removed first, so that a process that was wrongly taken for dead cannot publish any more.
    """
    for name, mark in files.items():
        if mark == HIDDEN and Path(name).name.startswith(PREFIX):
            shutil.rmtree(name, ignore_errors=True)
    for name, mark in files.items():
        with contextlib.suppress(OSError):
            if _mark(Path(name)) == mark:
                os.unlink(name)


def _mark(file: Path) -> str:
    found = file.stat()  # a file keeps these when it is linked or moved
    return f"{found.st_size}:{found.st_mtime_ns}"


def next_number(folder: Path, stem: str, first: int = 0) -> int:
    """The number after the highest one of existing files whose names begin with `stem`; `first` without any."""
    pattern = re.compile(rf"{re.escape(stem)}_(\d{{5,}})(?!\d)")
    if not folder.is_dir():
        return first
    with os.scandir(folder) as entries:
        numbers = [int(match[1]) for entry in entries if (match := pattern.match(entry.name))]
    return max(numbers, default=first - 1) + 1


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any, int | None]]:
    """The parts of an output that are written one by one, as (name, value, number in a list)."""
    if is_named_tuple(type(value)):
        for field in type(value)._fields:
            yield from _parts(f"{name}_{field}", getattr(value, field))
    elif isinstance(value, list) and any(_is_saved(item) for item in value):
        for number, item in enumerate(value):
            yield name, item, number
    else:
        yield name, value, None


def _is_saved(value: Any) -> bool:
    registered = socket_type(type(value))
    return registered is not None and registered.save is not None


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
