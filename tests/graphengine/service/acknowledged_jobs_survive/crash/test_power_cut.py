"""A power cut at any moment: what was not synced vanishes, all of it or one change alone; then all is in order.

The changes of the real processes are recorded, and disks are made from the record: of the changes up to a moment,
without some of those that no sync has brought to the disk by then. A file's bytes are synced with the file, its name
with the folder in which it stands.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.graphengine.service.acknowledged_jobs_survive.crash.layer import Change, Kind, changes
from tests.graphengine.service.acknowledged_jobs_survive.crash.story import Play
from tests.graphengine.service.acknowledged_jobs_survive.crash.test_crash_points import (
    Players,
    acknowledged,
    check,
    players,
    recover,
)

__all__ = ["players"]  # a fixture
ROLES = ("submitter", "service")


@dataclass
class Node:
    """A file or folder, whatever it is called."""

    number: int
    is_folder: bool = False


@dataclass
class Step:
    """A change with what it changes: a node, and names of it in folders."""

    change: Change
    node: Node
    takes: tuple[int, str] | None = None
    gives: tuple[int, str] | None = None
    durable_from: int | None = None  # the step that brings it to the disk


@dataclass
class Disk:
    """The files as they were at each step, and which steps a power cut may undo."""

    root: str
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of(cls, root: str, log: Path) -> Disk:
        """The disk of a record.

        Args:
            root: The folder that was recorded; the first change makes it.
        """
        disk = cls(root)
        names: dict[str, Node] = {str(Path(root).parent): Node(0, True)}
        for change in changes(log):
            disk._add(names, change)
        return disk

    def _add(self, names: dict[str, Node], change: Change) -> None:
        def entry(path: str) -> tuple[int, str]:
            return names[str(Path(path).parent)].number, Path(path).name

        kind, path, number = change.kind, change.path, len(self.steps)
        node = names.get(path) or Node(number + 1, kind is Kind.MKDIR)
        step = Step(change, node)
        if kind in (Kind.CREATE, Kind.MKDIR):
            step.gives = None if path in names else entry(path)  # else it is emptied
            names[path] = node
        elif kind in (Kind.UNLINK, Kind.RMDIR):
            step.takes = entry(path)
            del names[path]
        elif kind in (Kind.RENAME, Kind.LINK):
            step.gives = entry(change.other)
            if kind is Kind.RENAME:
                step.takes = entry(path)
                del names[path]
            names[change.other] = node
        elif kind is Kind.SYNC:
            for earlier in self.steps:
                name = earlier.gives or earlier.takes
                where = earlier.node.number if name is None else name[0]
                if earlier.durable_from is None and where == node.number:
                    earlier.durable_from = number
        self.steps.append(step)

    def unsynced(self, end: int) -> list[int]:
        """The steps before a moment that a power cut may undo then."""
        held = (Kind.SYNC,)
        return [
            number
            for number, step in enumerate(self.steps[:end])
            if step.change.kind not in held and (step.durable_from is None or step.durable_from >= end)
            if step.change.path != self.root
        ]

    def image(self, end: int, lost: Iterable[int]) -> dict[str, tuple[bytes, int] | None]:
        """The files after a power cut before step `end`, with their times, by path; of folders None."""
        names: dict[tuple[int, str], Node] = {}
        contents: dict[int, tuple[bytearray, int]] = {}
        without = set(lost)
        for number, step in enumerate(self.steps[:end]):
            if number in without:
                continue
            change = step.change
            if step.takes is not None:
                names.pop(step.takes, None)
            if step.gives is not None:
                names[step.gives] = step.node
            if change.kind in (Kind.CREATE, Kind.WRITE, Kind.TRUNCATE):
                content, _ = contents.get(step.node.number, (bytearray(), 0))
                size = {Kind.CREATE: 0, Kind.TRUNCATE: change.offset}.get(change.kind, len(content))
                content = content[:size] + bytes(max(0, size - len(content)))
                if change.kind is Kind.WRITE:
                    content += bytes(max(0, change.offset - len(content)))
                    content[change.offset : change.offset + len(change.data)] = change.data
                contents[step.node.number] = content, change.modified
        found: dict[str, tuple[bytes, int] | None] = {}

        def walk(folder: int, path: Path) -> None:
            for (inside, name), node in names.items():
                if inside == folder:
                    content, modified = contents.get(node.number, (bytearray(), 0))
                    found[str(path / name)] = None if node.is_folder else (bytes(content), modified)
                    if node.is_folder:
                        walk(node.number, path / name)

        walk(0, Path(self.root).parent)
        return found


def lay(image: dict[str, tuple[bytes, int] | None], place: Path) -> None:
    """Write a disk's files where they were."""
    shutil.rmtree(place, ignore_errors=True)
    for path, content in sorted(image.items()):
        if content is None:
            os.mkdir(path)
        else:
            Path(path).write_bytes(content[0])
            os.utime(path, ns=(content[1], content[1]))


def digest(image: dict[str, tuple[bytes, int] | None], acks: int) -> bytes:
    """What tells whether two cuts leave the same and promise the same."""
    found = hashlib.blake2b(str(acks).encode())
    for path, content in sorted(image.items()):
        found.update(path.encode() + b"\0" + (b"/" if content is None else hashlib.blake2b(content[0]).digest()))
    return found.digest()


def cuts(disk: Disk, ends: Sequence[int], singly: bool) -> Iterator[tuple[int, list[int]]]:
    """Moments, and what vanishes then."""
    for end in ends:
        unsynced = disk.unsynced(end)
        yield end, unsynced
        if singly:
            yield from ((end, [number]) for number in unsynced)


def try_cuts(play: Play, disk: Disk, wanted: Iterable[tuple[int, list[int]]]) -> tuple[int, list[str]]:
    """Lay each disk, let a service take over, check; how many different ones there were, and what was wrong."""
    seen, wrong = set[bytes](), []
    for end, lost in wanted:
        until = disk.steps[end - 1].change.place
        image = disk.image(end, lost)
        mark = digest(image, len(acknowledged(play, until)))
        if mark in seen:
            continue
        seen.add(mark)
        try:
            lay(image, play.place)
            recover(play)
            check(play, until)
        except Exception as error:
            undone = [disk.steps[number].change for number in lost]
            told = [f"{change.kind.name} {change.path} {change.other}" for change in undone]
            wrong.append(f"{play.role}: a cut before step {end}, without {told[:6]}: {error!r:.600}")
    return len(seen), wrong


def recorded(players: Players, role: str) -> tuple[Play, Disk]:
    """The story as it was played, and its disk."""
    play, status = players.play(role, "record", 0)
    assert status == 0
    disk = Disk.of(play.folder, play.log)
    whole = disk.image(len(disk.steps), [])
    real = {str(play.place), *(str(path) for path in play.place.rglob("*") if not path.name.endswith("-shm"))}
    assert whole.keys() == real  # the record tells all that happened
    for path, content in whole.items():
        assert content is None or Path(path).read_bytes() == content[0], path
    return play, disk


@pytest.mark.parametrize("role", ROLES)
def test_what_was_acknowledged_is_there_after_a_power_cut(players: Players, role: str) -> None:
    """Right after each promise, when all that was not synced vanishes."""
    play, disk = recorded(players, role)
    places = [step.change.place for step in disk.steps]
    sizes = {int(line[1 : line.index(",")]) for line in play.acks.read_text().splitlines()}
    ends = [places.index(size) + 1 for size in sorted(sizes)]
    if role == "service":  # and while files appear, and when all has ended
        made = [step.change.kind is Kind.LINK and "/out/" in step.change.other for step in disk.steps]
        ends = [ends[-1], made.index(True) + 1, len(made) - made[::-1].index(True), len(made)]
    count, wrong = try_cuts(play, disk, cuts(disk, ends, singly=False))
    assert wrong == []
    assert count >= 3


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_every_power_cut(players: Players, role: str, capsys: pytest.CaptureFixture[str]) -> None:
    play, disk = recorded(players, role)
    count, wrong = try_cuts(play, disk, cuts(disk, range(1, len(disk.steps) + 1), singly=True))
    with capsys.disabled():
        print(f"\n{role}: {count} disks after power cuts at {len(disk.steps)} moments: {len(wrong)} wrong")
    assert wrong == []
