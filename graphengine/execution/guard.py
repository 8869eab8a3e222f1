"""Checks that a node left its inputs as they were: what a computation changed in place is found and named.

A node that changes an input is not always the one whose check finds it: others may have held the same value. So what
was found changed is told as `Spoiled`, the run begins again, and everything in it is then computed on copies that
nobody else holds (`alone`). What changes such a copy is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphengine.errors import InputChanged, Spoiled
from graphengine.planning.task import Const, Port, Source, Task
from graphengine.values.canonical import PLAIN
from graphengine.values.checksum import checksum, twin_of

Guarded = tuple[str, Any, bytes]
"""An input's name, a value in it, and that value's checksum when it landed."""


class Guard:
    """The changeable inputs of one computation.

    Args:
        inputs: The values, as they stand in memory.
        alone: Compute on copies that nobody else holds.
        private: The inputs are such copies already.
    """

    __slots__ = ("alone", "inputs", "private")

    def __init__(self, inputs: Sequence[Guarded], alone: bool = False, private: bool = False) -> None:
        self.inputs, self.alone, self.private = inputs, alone, private

    def enter(self, arguments: dict[str, Any]) -> None:
        """Before the computation: every value must be what it was when it landed.

        Raises:
            Spoiled: One is not.
        """
        if self.private:
            return
        twins: list[Guarded] = []
        if self.alone:
            for name in dict.fromkeys(name for name, *_ in self.inputs):
                twin = arguments[name] = twin_of(arguments[name])
                twins.append((name, twin, checksum(twin) or b""))
        self.check()
        if self.alone:
            self.inputs = twins

    def call(self, fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call a function between `enter` and `leave`."""
        self.enter(arguments)
        value = fn(**arguments)
        self.leave()
        return value

    def check(self) -> None:
        """Raise `Spoiled` where a value is not what it was when it landed."""
        if (name := self._changed()) is not None:
            raise Spoiled(f"{name} was changed in place after it had landed")

    def leave(self) -> None:
        """After the computation.

        Raises:
            InputChanged: It has changed an input.
            Spoiled: It has, or another that held the same value.
        """
        name = self._changed()
        if name is None:
            return
        if self.alone or self.private:
            raise InputChanged(
                f"it changed its input {name} in place, which others may hold: change a copy and return that"
            )
        raise Spoiled(f"{name} was changed in place while it was computed")

    def _changed(self) -> str | None:
        seen = set[int]()
        for name, value, sum in self.inputs:
            if id(value) not in seen:
                seen.add(id(value))
                if (checksum(value) or b"") != sum:
                    return name
        return None


def guard_of(links: Sequence[tuple[str, Source]], alone: bool, task: Task | None = None) -> Guard | None:
    """What guards linked inputs, and the literals of a task; None where nothing in them can be changed."""
    found = [(name, value, sum) for name, source in links for value, sum in _guarded(source)]
    if task is not None and task.sums is not None:
        found += [(name, task.values[name], sum) for name, sum in task.sums.items()]
    return Guard(found, alone) if found else None


def _guarded(source: Source) -> Iterator[tuple[Any, bytes]]:
    if type(source) is Task or type(source) is Const:
        if source.sum is not None:
            yield source.value, source.sum
    elif type(source) is Port:
        if source.task.sum is not None:
            yield source.task.value, source.task.sum
    else:
        for item in source.items:
            yield from _guarded(item)


def handed_out(source: Source, value: Any) -> Any:
    """What a caller gets: a copy of a value, theirs to change.

    Raises:
        Spoiled: The value is not what it was when it landed.
    """
    if type(value) in PLAIN:
        return value
    twin = twin_of(value)
    Guard([("its result", value, sum) for value, sum in _guarded(source)]).check()
    return twin
