"""Light nodes for the tests of the service: they sleep, fail, hang, and kill the process that computes them."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from graphengine import INERT, Cancelled, Context, Doc, ModelError, Pack, SocketType, View, node, register_type


def _spare(device: str, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The inputs of `hungry` that need less and less; those of others once more."""
    _freed.append(device)
    yield inputs
    if "eaten" in inputs:
        for less in (1, 2):
            yield {**inputs, "eaten": inputs["eaten"] - less}


def _held(device: str) -> frozenset[str]:
    return frozenset(_shelves[device])


def _free(device: str) -> int | None:
    """A shelf has room for two books of 100 bytes."""
    return 200 - 100 * len(_shelves[device]) if _shelves[device] else None


def _load(book: Any, part: str | None, device: str) -> None:
    """Put a book on the shelf: once the file is there that its title names after "when ", unless it is torn; a deadly
    one ends the process."""
    word, _, rest = book.title.partition(" ")
    while word == "when" and not Path(rest).exists():
        time.sleep(0.01)
    if word == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "torn":
        raise ModelError(f"{book.title} has no pages")
    _put(book, device)


def _put(book: Any, device: str) -> None:
    """Put a book on the shelf; where that is full, the first on it goes."""
    shelf = _shelves[device]
    shelf.setdefault(book.title)
    if len(shelf) > 2:
        del shelf[next(iter(shelf))]


def _memory(device: str) -> tuple[int, int] | None:
    """300 bytes of 500 are free."""
    return 300, 500


__pack__ = Pack("pack", spare=_spare, held=_held, free=_free, memory=_memory, model="volume", load=_load)

_shelves: defaultdict[str, dict[str, None]] = defaultdict(dict)
"""By device, the books that this process holds there."""

_freed: list[str] = []
"""Where memory was let go."""
_taken: list[weakref.ref[_Memory]] = []
"""What the attempts of `hungry` have taken."""


class _Memory:
    """What a node computes in."""


@dataclass(frozen=True)
class Page:
    """A text that is written into a file."""

    text: str


def _save(page: Page, path: Path, text: Mapping[str, str]) -> list[Path]:
    file = path.with_name(f"{path.name}.txt")
    file.write_text(page.text)
    return [file]


@dataclass(frozen=True)
class Torn:
    """A text that cannot be written to its end."""

    text: str


def _tear(torn: Torn, path: Path, text: Mapping[str, str]) -> list[Path]:
    path.with_name(f"{path.name}.txt").write_text(torn.text[: len(torn.text) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


register_type(
    SocketType(
        Torn, "Torn", encode=lambda torn: torn.text.encode(), decode=lambda data: Torn(data.decode()),
        size=lambda torn: len(torn.text), save=_tear,
    )
)  # fmt: skip
register_type(
    SocketType(
        Page, "Page", encode=lambda page: page.text.encode(), decode=lambda data: Page(data.decode()),
        size=lambda page: len(page.text), save=_save,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Book:
    """What must be in memory to be read."""

    title: str


register_type(
    SocketType(
        Book, "Book", encode=lambda book: book.title.encode(), decode=lambda data: Book(data.decode()),
        digest=lambda book, part: book.title, needs=lambda book, part: frozenset({book.title}),
    )
)  # fmt: skip


@node(version=1)
def book(title: str) -> Book:
    """A book, not in memory yet."""
    return Book(title)


@node(version=1)
def volume(title: str) -> Book:
    """A book of those that are there."""
    if not title.startswith("when ") and title.split()[-1] not in ("Emma", "Ulysses", "Persuasion"):
        raise ModelError(f"there is no book {title}")
    return Book(title)


@node(version=1, on="device", cache="never")
def read(book: Book, seconds: float = 0.0, ctx: Context = INERT) -> str:
    """Read a book for a while; where the shelf is full, the first on it goes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ctx.check_cancelled()
        time.sleep(0.01)
    _put(book, ctx.device)
    return book.title


@node(version=1, on="device")
def page(x: int, length: int = 1) -> Page:
    """A page that says a number, over and over."""
    return Page(f"{x}\n" * length)


@node(version=1, on="device")
def torn(x: int) -> Torn:
    """What can be computed, and not be written."""
    return Torn(f"{x}\n" * 100)


@node(version=1, on="device")
def plus(x: int, y: int) -> int:
    """The sum."""
    return x + y


@node(version=1, on="device")
def gate(x: int, file: Annotated[str, Doc("A file that is there once this may go on.")], ctx: Context = INERT) -> int:
    """Wait for a file."""
    while not Path(file).exists():
        ctx.check_cancelled()
        time.sleep(0.01)
    return x


@node(version=1, on="device")
def double(x: int) -> int:
    """Twice a number."""
    return 2 * x


@node(version=1, on="device")
def whose(x: int) -> int:
    """The process that computes it."""
    return os.getpid()


@node(version=1, on="device")
def where(x: int, seconds: float = 0.0, ctx: Context = INERT) -> str:
    """The device it computes on, after a while."""
    time.sleep(seconds)
    return ctx.device


@node(version=1, on="device", cache="never")
def looked_at(ctx: Context = INERT) -> bool:
    """Whether anybody may look at previews."""
    return ctx.watched


@node(version=1, on="device", cache="never")
def shows(x: int, file: str, ctx: Context = INERT) -> int:
    """Tell steps and show previews until a file is there; a step is a preview that was made as somebody watched."""
    made = 0
    while not Path(file).exists():
        time.sleep(0.01)
        made += ctx.watched
        ctx.progress(made, 1_000_000)
        ctx.preview(View(png=b"picture"))
    return made


@node(version=1, on="device")
def nap(x: int, seconds: float = 0.2, ctx: Context = INERT) -> int:
    """Sleep in steps of 10 ms, each of which is told."""
    steps = max(1, round(seconds / 0.01))
    for step in range(steps):
        time.sleep(0.01)
        ctx.progress(step + 1, steps)
    return x


@node(version=1, on="device")
def until(x: int, file: str, ctx: Context = INERT) -> int:
    """Tell the first of 10 steps, and wait until there is a file."""
    ctx.progress(1, 10)
    while not Path(file).exists():
        ctx.check_cancelled()
        time.sleep(0.01)
    return x


@node(version=1, on="device")
def hang(x: int) -> int:
    """Sleep without a sign."""
    time.sleep(600)
    return x


@node(version=1, on="device")
def fail(x: int) -> int:
    """Fail by its own fault."""
    raise ValueError(f"{x} is not to its taste")


@node(version=1, on="device")
def poison(x: int) -> int:
    """End the process that computes it."""
    os._exit(7)


@node(version=1, on="device", batch=("x",))
def deadly(
    x: int,
    how: Annotated[int, Doc("The signal, or negative the exit code, that ends the process; 0 for none.")],
    mark: Annotated[str, Doc("A file with a line for each death.")] = "",
    deaths: Annotated[int, Doc("After how many it is computed.")] = 1000,
    worst: Annotated[int, Doc("The only x that does it; 0 for all.")] = 0,
) -> int:
    """End the processes that compute it."""
    return _deadly([x], how, mark, deaths, worst)[0]


@deadly.many
def _many_deadly(x: Sequence[int], how: int, mark: str, deaths: int, worst: int) -> list[int | BaseException]:
    return [*_deadly(x, how, mark, deaths, worst)]


def _deadly(x: Sequence[int], how: int, mark: str, deaths: int, worst: int) -> Sequence[int]:
    if how and (not worst or worst in x) and (not mark or Path(mark).read_text().count("\n") < deaths):
        if mark:
            with Path(mark).open("a") as marks:
                marks.write(f"{len(x)}\n")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if how < 0:
            os._exit(-how)
        os.kill(os.getpid(), how)
        signal.pause()  # until it has come
    return x


@node(version=1)
def dies_here(x: int) -> int:
    """End the process of the service."""
    time.sleep(0.3)
    os._exit(7)


@node(version=1, on="device")
def deadly_once(x: int, mark: Annotated[str, Doc("A file that says that it has killed already.")]) -> int:
    """End the first process that computes it."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@node(version=1, on="device")
def fork_and_die(x: int, mark: Annotated[str, Doc("A file that says which process was forked.")]) -> int:
    """Fork a process that sleeps, and end the first process that computes this."""
    if not Path(mark).exists():
        child = os.fork()
        if child == 0:
            time.sleep(600)
        Path(mark).write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@node(version=1, on="device", batch=("x",))
def greedy(x: int, room: int = 2, ctx: Context = INERT) -> int:
    """A batched node whose device has room for few at once, and for none above 100."""
    return _greedy([x], room, [ctx])[0]


@greedy.many
def _many_greedy(x: Sequence[int], room: int, ctx: Sequence[Context]) -> list[int | BaseException]:
    return [*_greedy(x, room, ctx)]


def _greedy(x: Sequence[int], room: int, ctx: Sequence[Context]) -> list[int]:
    import torch

    if len(x) > room or max(x) > 100:
        raise torch.OutOfMemoryError(f"no room for {len(x)}")
    for one in ctx:
        one.note(together=len(x))
    return [10 * value for value in x]


@node(version=1, on="device", cache="never")
def hungry(eaten: int, room: int = 0, ctx: Context = INERT) -> list[Any]:
    """A node that computes where memory was let go and it takes no more than there is room; says where and who."""
    import torch

    held = _Memory()
    if any(one() is not None for one in _taken):
        raise ValueError("an attempt that failed still holds its memory")
    _taken.append(weakref.ref(held))
    if not _freed or eaten > room:
        raise torch.OutOfMemoryError(f"no room for {eaten}")
    return [eaten, _freed, os.getpid()]


@node(version=1, on="device", batch=("x",))
def together(x: int, seconds: float = 0.05, ctx: Context = INERT) -> int:
    """A batched node that takes as long for many as for one."""
    return _slow([x], seconds, [ctx])[0]


@together.many
def _many_together(x: Sequence[int], seconds: float, ctx: Sequence[Context]) -> list[int | BaseException]:
    return [*_slow(x, seconds, ctx)]


def _slow(x: Sequence[int], seconds: float, ctx: Sequence[Context]) -> list[int]:
    stopped: set[int] = set()
    for step in range(5):
        time.sleep(seconds / 5)
        for index, one in enumerate(ctx):
            try:
                one.progress(step + 1, 5)
            except Cancelled:
                stopped.add(index)
        if len(stopped) == len(x):
            raise Cancelled("all of it was cancelled")
    for one in ctx:
        one.note(together=len(x))
    return list(x)


class Unknown:
    """A class that is not registered."""


@node(version=1, on="device")
def unknown() -> Unknown:
    """What cannot be sent."""
    return Unknown()


@node(version=1, on="device")
def echo(value: Any) -> Any:
    """What it is given."""
    return value
