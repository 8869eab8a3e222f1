"""One node in one run, and where its inputs come from.

A value lives as long as a task that may still need it: tasks point to the tasks they take inputs from and let go of
them when they have run, so that Python's own reference counting frees what nobody needs any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from graphengine.cache import Entry
from graphengine.cache.memory import NOTHING
from graphengine.graph.data import Node
from graphengine.values.canonical import PLAIN, NotData, canonical
from graphengine.values.checksum import owned, sum_of


@final
class Stage:
    """The stages of a task, in their order. Plain numbers: members of an enum take several times as long to compare."""

    KEY = 0
    """Its key is not known yet."""
    LOOKUP = 1
    """Its key is known; whether its value is remembered is not."""
    INPUTS = 2
    """It has no key, being a wanted output: which of its inputs are to be computed is asked next."""
    READY = 3
    """It begins as soon as it waits for no other task."""
    RUNNING = 4
    """It is being computed, here or elsewhere."""
    DONE = 5
    """It has its value."""
    FAILED = 6
    """It has an error in place of a value: its own, or that of a task that it depends on."""


_serials = itertools.count()


@final
class Const:
    """A value that is there: a literal, an input of the run, an item of a list."""

    __slots__ = ("base", "form", "key", "made", "sum", "value", "volatile")

    def __init__(
        self,
        value: Any,
        key: Any = None,
        base: Any = None,
        volatile: bool = False,
        form: Any = None,
        sum: bytes | None = None,
    ) -> None:
        self.value, self.key, self.base, self.volatile = value, key, base, volatile
        self.sum = sum  # its checksum, where it can be changed
        self.form = form  # canonical form, computed now: the caller may mutate the value later
        self.made: Mapping[str, Any] = NOTHING

    def token(self, part: str | None) -> Any:
        """What it adds to the key of a node that uses this part of it."""
        if self.key is not None:
            return self.key
        return canonical(self.value, part) if part is not None or self.form is None else self.form


def constant(value: Any, base: Any = None, is_copy: bool = False) -> Const:
    """A literal; one that is no data is volatile. It is a copy, so that nothing that runs do reaches whoever gave it.

    Args:
        is_copy: The value is one already.
    """
    if type(value) in PLAIN:
        return Const(value, base=base, form=value)
    value, sum = (value, sum_of(value, given=True)) if is_copy else owned(value)
    try:
        return Const(value, base=base, form=canonical(value), sum=sum)
    except NotData:
        return Const(value, ("volatile", next(_serials)), base, volatile=True, sum=sum)


@final
class Port:
    """One of several outputs of a task; the only output of a task is the task itself."""

    __slots__ = ("port", "task")

    def __init__(self, task: Task, port: str) -> None:
        self.task, self.port = task, port


@final
class Many:
    """Several sources as one list, or as the named tuple `make`."""

    __slots__ = ("items", "make")

    def __init__(self, items: list[Source], make: Any = None) -> None:
        self.items, self.make = items, make


@final
class Task:
    """One node in one run.

    Attributes:
        values: Inputs that are literals, as the node takes them.
        tokens: What these add to the key.
        links: Inputs that come from elsewhere, by name.
        became: For an expanding node that has been expanded: by port, what its outputs became.
        children: For a mapped node: a task for each item.
        pending: How many tasks it waits for.
        impure: For an expanding node: something in its expansion acts or is never remembered.
        depth: How many calls that went to the runner it comes after, at most.
        aliases: Ids of further nodes that have the same key.
        sum: The checksum of its value, where that can be changed.
        sums: Those of its literals that can be changed, by name.
        effect: Identifies a side effect, so that a run that begins again does not do it twice; None without one.
        stage: How far it is, of `Stage`.
        outer: The expanding task whose expansion it is part of.
        tolerant: Its error stands in the place of its value.
    """

    # Defaults stand in the class: a task of a small node should cost as little as the node.
    key: bytes | None = None
    tokens: dict[str, Any] | None = None
    stage = Stage.KEY
    pending = 0
    wanted = volatile = False
    waiters: list[Task] | None = None
    key_waiters: list[Task] | None = None
    entry: Entry | None = None
    became: dict[str, Source] | None = None
    children: list[Task] | None = None
    outer: Task | None = None
    impure = tolerant = False
    depth = 0
    aliases: list[str] | None = None
    value: Any = None
    made: Mapping[str, Any] = NOTHING
    serial = 0
    sum: bytes | None = None
    sums: Mapping[str, bytes] | None = None
    effect: Any = None

    def __init__(self, id: str, node: Node | None, links: list[tuple[str, Source]], values: dict[str, Any]) -> None:
        self.id, self.node, self.links, self.values = id, node, links, values


Source = Const | Task | Port | Many


def output(task: Task, port: str) -> Source:
    """An output of a task by its port."""
    return Port(task, port) if port else task


def follow(source: Source) -> Source:
    """What a source stands for by now: an expanded task's output is that of what it became."""
    while True:
        if type(source) is Task:
            task, port = source, ""
        elif type(source) is Port:
            task, port = source.task, source.port
        else:
            return source
        if task.children is not None:
            return Many([output(child, port) for child in task.children])
        if task.became is None:
            return source
        source = _became(task, port)


def _became(task: Task, port: str) -> Source:
    assert task.became is not None
    found = task.became.get(port)
    if found is None:
        whole = task.became.get("")
        if whole is None:  # a workflow with one output, which the link did not name
            return next(iter(task.became.values()))
        whole = follow(whole)
        if type(whole) is Task:
            found = Port(whole, port)
        elif type(whole) is Const:
            found = Const(getattr(whole.value, port), (whole.token(None), port), volatile=whole.volatile)
        elif type(whole) is Many and whole.make is not None:
            found = whole.items[whole.make._fields.index(port)]
        else:
            raise AssertionError("neither a list nor an output has ports")
        task.became[port] = found
    return found


def tasks_of(source: Source) -> Sequence[Task]:
    """The tasks whose values a (followed) source is made of."""
    if type(source) is Task:
        return (source,)
    if type(source) is Port:
        return (source.task,)
    if type(source) is Const:
        return ()
    found: list[Task] = []
    for n, item in enumerate(source.items):
        source.items[n] = item = follow(item)
        found.extend(tasks_of(item))
    return found


def is_volatile(source: Source) -> bool:
    """Whether a source is computed anew in each run."""
    if type(source) is Task:
        return source.volatile
    if type(source) is Port:
        return source.task.volatile
    return any(map(is_volatile, source.items)) if type(source) is Many else source.volatile


def made_of(source: Source) -> Mapping[str, Any]:
    """How a source's value was made."""
    if type(source) is Task:
        return source.made
    if type(source) is Port:
        return source.task.made
    if type(source) is Many:
        return merge_made(map(made_of, source.items))
    return source.made


def is_tolerated(task: Task) -> bool:
    """Whether a task's error stands in the place of a value: it is an item of such a list, or makes one."""
    found: Task | None = task
    while found is not None and not found.tolerant:
        found = found.outer
    return found is not None


def merge_made(parts: Iterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    """How a value was made that was made of others."""
    found: dict[str, Any] = {}
    for made in parts:
        if made is not NOTHING:
            found.update(made)
    return found or NOTHING
