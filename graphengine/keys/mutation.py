"""Mutations by code: which globals, closure variables and parameters a function changes, read from its bytecode.

Each value on Python's stack is traced to the global, the closure variable or the parameter that it comes from. A store
into the value, or a call of a method that changes its object, counts as a change of its origin. The code is not run.
"""

from __future__ import annotations

import dis
import functools
import types
from dataclasses import dataclass
from typing import Any, Literal

Origin = tuple[Literal["global", "free", "parameter"], str]
Slot = tuple[frozenset[Origin], str]
"""The origins of a value on the stack, and the attribute that was looked up last on the way to it."""

NOTHING: Slot = (frozenset(), "")

CHANGING = frozenset({
    "__delitem__", "__setitem__", "add", "append", "appendleft", "clear", "difference_update", "discard",
    "extend", "extendleft", "fill", "fill_", "copy_", "add_", "mul_", "zero_", "insert", "intersection_update",
    "move_to_end", "pop", "popitem", "popleft", "put", "remove", "reverse", "rotate", "setdefault", "sort", "subtract",
    "symmetric_difference_update", "update", "write", "writelines", "writerow",
})  # fmt: skip
"""Methods of containers, arrays and files that change them."""
VIEWS = frozenset({"__getitem__", "get", "items", "ravel", "reshape", "setdefault", "values", "view"})
"""Methods whose result is part of their object."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes that code makes.

    Attributes:
        of: The origins of changed objects, and the globals and closure variables that are assigned.
        bound: The globals that are assigned.
        passed: The calls of global functions: the function's name, an argument's position, and the argument's origins.
        asked: The attributes that are looked up on values from outside: the value's origin, and the attribute.
    """

    of: frozenset[Origin]
    bound: frozenset[str]
    passed: frozenset[tuple[str, int, frozenset[Origin]]]
    asked: frozenset[tuple[Origin, str]]

    def names(self, kind: str) -> frozenset[str]:
        """The names of the changed origins of one kind: `global`, `free` or `parameter`."""
        return frozenset(name for origin, name in self.of if origin == kind)


@functools.lru_cache(maxsize=10_000)
def changes(code: types.CodeType) -> Changes:
    """The changes that a function's code, and the functions defined inside it, make."""
    return _Reading(code).read()


class _Reading:
    """A trace of the values on the stack from one instruction to the next; jumps are not followed."""

    def __init__(self, code: types.CodeType) -> None:
        self.code = code
        count = code.co_argcount + code.co_kwonlyargcount
        self.local: dict[str, Slot] = {n: (frozenset({("parameter", n)}), "") for n in code.co_varnames[:count]}
        self.stack: list[Slot] = []
        self.of: set[Origin] = set()
        self.bound: set[str] = set()
        self.passed: set[tuple[str, int, frozenset[Origin]]] = set()
        self.asked: set[tuple[Origin, str]] = set()

    def read(self) -> Changes:
        for step in dis.get_instructions(self.code):
            self._step(step)
        for inner in self.code.co_consts:
            if isinstance(inner, types.CodeType):
                found = changes(inner)
                self.bound |= found.bound
                self.passed |= {p for p in found.passed if all(kind == "global" for kind, _ in p[2])}
                for kind, name in found.of:
                    if kind == "global":
                        self.of.add((kind, name))
                    elif kind == "free":
                        self.of |= self._variable(name)[0]
        return Changes(frozenset(self.of), frozenset(self.bound), frozenset(self.passed), frozenset(self.asked))

    def _variable(self, name: str) -> Slot:
        if name in self.local:
            return self.local[name]
        return (frozenset({("free", name)}), "") if name in self.code.co_freevars else NOTHING

    def _pop(self, count: int = 1) -> list[Slot]:
        """Take values from the stack, the topmost last; a value that is not known there has no origin."""
        taken = self.stack[-count:] if count else []
        del self.stack[len(self.stack) - len(taken) :]
        return [NOTHING] * (count - len(taken)) + taken

    def _changed(self, slot: Slot) -> None:
        self.of |= slot[0]

    def _step(self, step: dis.Instruction) -> None:
        name, value, stack = step.opname, step.argval, self.stack
        names: tuple[str, ...] = value if isinstance(value, tuple) else (value,)
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            stack += [(frozenset({("global", value)}), "")] * max(1, dis.stack_effect(step.opcode, step.arg))
        elif name == "STORE_FAST_LOAD_FAST":
            (self.local[names[0]],) = self._pop()
            stack.append(self._variable(names[1]))
        elif name.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE", "LOAD_CLASSDEREF")):
            stack += [self._variable(each) for each in names]
        elif name.startswith(("STORE_FAST", "STORE_DEREF")):
            for each in names:
                (slot,) = self._pop()
                if name == "STORE_DEREF" and each in self.code.co_freevars:
                    self.of.add(("free", each))
                else:
                    self.local[each] = slot
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            (owner,) = self._pop()
            self.asked |= {(origin, str(value)) for origin in owner[0] if not owner[1]}
            if value in CHANGING:
                self._changed(owner)
            stack += [(owner[0], str(value))] * (1 + max(0, dis.stack_effect(step.opcode, step.arg)))
        elif name == "BINARY_SUBSCR" or (name == "BINARY_OP" and step.argrepr == "[]"):
            stack.append((self._pop(2)[0][0], ""))
        elif name in ("BINARY_OP", "COMPARE_OP", "IS_OP", "CONTAINS_OP"):
            self._pop(2)
            stack.append(NOTHING)
        elif name == "STORE_SUBSCR":
            self._changed(self._pop(3)[1])
        elif name == "STORE_SLICE":
            self._changed(self._pop(4)[1])
        elif name == "DELETE_SUBSCR":
            self._changed(self._pop(2)[0])
        elif name == "STORE_ATTR":
            self._changed(self._pop(2)[1])
        elif name == "DELETE_ATTR":
            self._changed(self._pop()[0])
        elif name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            self._pop(1 if name == "STORE_GLOBAL" else 0)
            self.of.add(("global", value))
            self.bound.add(value)
        elif name in ("GET_ITER", "PRECALL"):
            pass
        elif name in ("CALL", "CALL_KW"):
            self._call(step.arg or 0, name == "CALL_KW")
        elif name == "FOR_ITER":
            stack.append((stack[-1][0], "") if stack else NOTHING)
        elif name == "UNPACK_SEQUENCE":
            (whole,) = self._pop()
            stack += [whole] * (step.arg or 0)
        elif name == "COPY":
            stack.append(stack[-(step.arg or 1)] if len(stack) >= (step.arg or 1) else NOTHING)
        elif name == "SWAP":
            if len(stack) >= (step.arg or 1):
                stack[-1], stack[-(step.arg or 1)] = stack[-(step.arg or 1)], stack[-1]
        else:
            effect = dis.stack_effect(step.opcode, step.arg, jump=False)
            self._pop(max(0, -effect))
            stack += [NOTHING] * effect

    def _call(self, count: int, by_name: bool) -> None:
        if by_name:
            self._pop()
        taken = self._pop(count + 2)
        (origin, attribute), arguments = max(taken[:2], key=lambda slot: (bool(slot[1]), bool(slot[0]))), taken[2:]
        self.stack.append((origin, "") if attribute in VIEWS else NOTHING)
        for kind, name in origin if not attribute else ():
            if kind == "global":
                self.passed |= {(name, n, slot[0]) for n, slot in enumerate(arguments) if slot[0]}


def changing_methods(functions: dict[str, types.FunctionType]) -> dict[str, str]:
    """The methods of a class that change their object, directly or through other methods.

    Args:
        functions: The class's methods by name.

    Returns:
        For each changing method, the name of the method that makes the change.
    """
    found: dict[str, str] = {}
    calls: dict[str, set[str]] = {}
    for name, function in functions.items():
        itself = ("parameter", next(iter(function.__code__.co_varnames), ""))
        change = changes(function.__code__)
        calls[name] = {asked for origin, asked in change.asked if origin == itself}
        if itself in change.of:
            found[name] = name
    while more := {name: other for name, all in calls.items() if name not in found for other in all & found.keys()}:
        found.update(more)
    return found


def argument_changes(function: Any, number: int) -> bool:
    """Whether a function changes the object that it gets as its positional argument `number`."""
    if not isinstance(function, types.FunctionType):
        return False
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return number < len(names) and ("parameter", names[number]) in changes(function.__code__).of
