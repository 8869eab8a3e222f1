"""Checksums, sizes and copies of values of any class: by them the engine notices that a value was changed in place.

A value is walked without recursion: containers, attributes of objects, the bytes of arrays, tensors and pictures. Three
sorts of objects are not walked for a checksum and never copied:

- immutable objects: numbers, texts, paths, enums, functions, classes, references to weights;
- tools, which are callable objects (a torch module, a pipeline): they change themselves when they are used;
- opaque objects, whose content cannot be seen (an open file, an iterator, a socket): a value that holds one is
  `unseen`.

A class says by `__getstate__` which of its state counts; results kept by `functools.cached_property` do not count.

Checksums, sizes and copies stay in one module because they must agree on what belongs to a value: one walk gives all
three.
"""

from __future__ import annotations

import array
import collections
import contextlib
import copy
import datetime
import dis
import enum
import functools
import gc
import io
import marshal
import pathlib
import re
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from graphengine.old_names import moved
from graphengine.pack import origin
from graphengine.values.buffers import (
    copied_array,
    copied_picture,
    copied_tensor,
    feed_array,
    feed_picture,
    feed_tensor,
    held_by,
)
from graphengine.values.socket_types import socket_type

NUMBERS = frozenset({int, float, bool, complex, type(None)})
TEXTS = frozenset({str, bytes})
PIECE = 10_000
"""The number of items of a list that are hashed at once."""
MOST_ASIDE = 300_000
"""The most objects that are visited for the size of a value only, such as those that its functions close over; a value
with more is `unseen`."""
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType)
"""Classes of immutable objects that keep other objects alive."""
FIXED = (
    type, types.ModuleType, types.WrapperDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType,
    type(Ellipsis), type(NotImplemented), range, enum.Enum, pathlib.PurePath, re.Pattern, uuid.UUID, weakref.ref,
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
)  # fmt: skip
"""Classes of immutable objects."""
_CACHED = type(functools.cache(lambda: None))
LOCKS = (type(threading.Lock()), type(threading.RLock()))


class Content(NamedTuple):
    """The checksum and size of a value when it was computed.

    Attributes:
        sum: Its checksum; None if nothing in it can be changed.
        size: Bytes that it keeps in memory, including whole arrays of which it holds a view.
        unseen: It holds an object that shows neither its content nor its size.
        alive: It holds a tool, a lock or an unseen object.
    """

    sum: bytes | None
    size: int
    unseen: bool
    alive: bool


def measure(value: Any) -> Content:
    """Compute the checksum and the size of a value."""
    walk = ValueWalk(sized=True)
    walk.through(value)
    sum, unseen = walk.sum(), walk.unseen
    alive = walk.alive
    if walk.pickled and sum != checksum(value):  # its class gives another state each time
        sum, unseen, alive = None, True, True
    return Content(sum, walk.size, unseen, alive)


def checksum(value: Any) -> bytes | None:
    """Compute a checksum that differs after a value was changed in place; None if nothing in it can be changed.

    Checksums may be compared within one process only.
    """
    walk = ValueWalk()
    walk.through(value)
    return walk.sum()


def sum_of(value: Any, given: bool = False) -> bytes | None:
    """The checksum of a value (see `checksum`), with a quick answer for numbers and texts.

    Args:
        value: The value.
        given: It comes from a caller: then a value that is alive (see `Content`) has no checksum, because it changes
            by being used.
    """
    cls = type(value)
    if cls in NUMBERS or cls in TEXTS:
        return None
    if given:
        content = measure(value)
        return None if content.alive else content.sum
    return measure(value).sum


def owned(value: Any) -> tuple[Any, bytes | None]:
    """Copy a value that a caller gave; returns the copy and its checksum.

    Immutable values, and those that are alive (see `Content`), are returned as they are, without a checksum.
    """
    cls = type(value)
    if cls in NUMBERS or cls in TEXTS:
        return value, None
    if sum_of(value, given=True) is None:
        return value, None
    twin = twin_of(value)
    return twin, measure(twin).sum


def copied(value: Any) -> Any:
    """Copy a value deeply, so that changes of the copy do not reach the original.

    Raises:
        Exception: A part of it cannot be copied.
    """
    cls = type(value)
    if cls in NUMBERS or cls in TEXTS:
        return value
    if cls is list and _are_plain(value):
        return list(value)
    memo: dict[int, Any] = {}
    ValueWalk(memo=memo).through(value)
    return copy.deepcopy(value, memo)


def twin_of(value: Any) -> Any:
    """Copy a value deeply; returns the value itself if it cannot be copied."""
    try:
        return copied(value)
    except Exception:  # a class may raise anything when it is copied
        return value


class ValueWalk:
    """One walk through a value.

    Args:
        sized: Compute the size as well, including that of tools.
        memo: The memo of a `copy.deepcopy` to fill: with copies of objects that `deepcopy` copies badly, and with
            objects that must not be copied.
        sets: The walks through the items of each set, by the set's `id`; shared by all walks of one value.
    """

    def __init__(
        self, sized: bool = False, memo: dict[int, Any] | None = None, sets: dict[int, list[ValueWalk]] | None = None
    ) -> None:
        self.sized, self.memo = sized, memo
        self.size = 0
        self.unseen = self.changeable = self.alive = False
        self.muted = self.pickled = False  # without a checksum; holds an object that was read by its pickled state
        self._hash = xxhash.xxh3_128()
        self._seen: dict[int, int] = {}
        self._memories: set[int] = set()
        self._sets: dict[int, list[ValueWalk]] = {} if sets is None else sets
        self._stack: list[Any] = []
        self._aside: list[tuple[Reader, Any]] = []  # objects that count for the size only
        self._made: list[Any] = []  # objects made for the walk, kept so that no other object gets their ids

    def sum(self) -> bytes | None:
        """The checksum of everything that was walked."""
        return self._hash.digest() if self.changeable else None

    def through(self, value: Any) -> None:
        """Walk through a value, then through the objects that count for its size only."""
        stack = self._stack
        stack.append(value)
        while stack:
            self._visit(stack.pop())
        if self._aside:
            self._size_aside()

    def _size_aside(self) -> None:
        """Add the size of the objects that do not count for the checksum, and change nothing else."""
        changeable, alive, pickled = self.changeable, self.alive, self.pickled
        self.muted = True
        most = len(self._seen) + MOST_ASIDE
        while self._aside and len(self._seen) < most:
            reader, value = self._aside.pop()
            try:
                reader(self, value)
            except Exception:
                self.unknown(value)
            while self._stack and len(self._seen) < most:
                self._visit(self._stack.pop())
        if self._aside or self._stack:  # it refers to so much of the program that its size cannot be known
            self.unseen = True
            self._aside.clear()
            self._stack.clear()
        self.changeable, self.alive, self.pickled, self.muted = changeable, alive, pickled, False

    def _visit(self, value: Any) -> None:
        cls: Any = type(value)
        if cls in NUMBERS:
            self.feed(marshal.dumps(value, 2))
            self.size += 28
        elif cls in TEXTS:
            self.feed(b"%d" % hash(value))
            self.size += sys.getsizeof(value)
        elif (known := self._seen.get(id(value))) is not None:
            self.feed(b"again %d" % known)
        else:
            self._seen[id(value)] = len(self._seen)
            self.feed(b"tuple" if isinstance(value, tuple) else cls.__name__.encode())
            try:
                _reader(cls)(self, value)
            except Exception:  # a class may raise anything when it is read
                self.unknown(value)

    def feed(self, content: Any) -> None:
        """Add bytes to the checksum."""
        if not self.muted:
            self._hash.update(content)

    def keep(self, owner: int, size: int) -> None:
        """Count a block of memory once, even if several arrays share it."""
        if owner not in self._memories:
            self._memories.add(owner)
            self.size += size

    def push(self, values: Sequence[Any]) -> None:
        """Put values on the stack, to be walked next."""
        self.feed(b"%d" % len(values))
        self._stack.extend(reversed(values))

    def same(self, value: Any) -> None:
        """Read an object by its identity only; it is not copied."""
        self.feed(b"%d" % id(value))
        self._leave(value)

    def fixed(self, value: Any) -> None:
        """Read an immutable object by its hash."""
        self.feed(b"%d" % hash(value))
        self._leave(value)

    def _leave(self, value: Any) -> None:
        self.size += sys.getsizeof(value)
        if self.memo is not None:
            self.memo[id(value)] = value

    def lock(self, value: Any) -> None:
        """Read a lock."""
        self.alive = True
        self.same(value)

    def unknown(self, value: Any) -> None:
        """Read an object whose content cannot be seen."""
        self.unseen = self.alive = True
        self.same(value)

    def tool(self, value: Any) -> None:
        """Read a callable object, of which only the size counts."""
        if self.muted:
            self._inside(value)
            return
        self.alive = True
        self.same(value)
        if self.sized:
            self._aside.append((ValueWalk._inside, value))

    def function(self, value: Any) -> None:
        """Read a function or method: immutable, but it keeps its closure and its object alive."""
        self.fixed(value)
        if self.sized:
            self._aside += [(ValueWalk._visit, kept) for kept in _kept_by(value)]

    def cached(self, value: Any) -> None:
        """Read a function of `functools.lru_cache`, with the results that it keeps."""
        self.alive = True
        self.same(value)
        inner = value.__wrapped__
        if self.sized and (type(inner) is types.MethodType or "<" in value.__qualname__):  # not kept by its module
            self._aside += [(ValueWalk._visit, kept) for kept in (inner, *_results(value))]

    # --- readers ---------------------------------------------------------------------------------------------------

    def sequence(self, items: list[Any] | tuple[Any, ...]) -> None:
        """Read the items of a list, many at once if all are numbers or texts."""
        kinds = set(map(type, items))
        if kinds <= NUMBERS:
            for start in range(0, len(items), PIECE):
                self.feed(marshal.dumps(items[start : start + PIECE], 2))
            self.size += 28 * len(items)
        elif kinds <= TEXTS:
            self.feed(marshal.dumps(list(map(hash, items)), 2))
            self.size += sum(map(sys.getsizeof, items))
        else:
            self.push(items)

    def _list(self, value: Any) -> None:
        self.changeable = True
        self.size += sys.getsizeof(value)
        self.sequence(value if type(value) is list else list(list.__iter__(value)))
        self._more(value, list)

    def _tuple(self, value: Any) -> None:
        self.size += sys.getsizeof(value)
        self.sequence(value if type(value) is tuple else tuple(tuple.__iter__(value)))
        self._more(value, tuple)

    def _dict(self, value: Any) -> None:
        self.changeable = True
        self.size += sys.getsizeof(value)
        ordered = isinstance(value, collections.OrderedDict)
        keys = list(collections.OrderedDict.__iter__(value)) if ordered else list(dict.__iter__(value))
        self.sequence(keys)
        self.sequence([dict.__getitem__(value, key) for key in keys])
        self._more(value, dict)

    def _set(self, value: Any) -> None:
        """Read the items of a set, whose order does not count."""
        base = set if isinstance(value, set) else frozenset
        self.changeable = self.changeable or base is set
        self.size += sys.getsizeof(value)
        items = list(base.__iter__(value))
        if self.muted:
            self.push(items)
        else:
            if id(value) not in self._sets:
                self._sets[id(value)] = list(map(self._apart_from_others, items))
            inner = self._sets[id(value)]
            self.changeable = self.changeable or any(walk.changeable for walk in inner)
            self.unseen = self.unseen or any(walk.unseen for walk in inner)
            self.alive = self.alive or any(walk.alive for walk in inner)
            self.pickled = self.pickled or any(walk.pickled for walk in inner)
            self.sequence(sorted(walk._hash.digest() for walk in inner))
            if self.sized:  # each item counts once, in however many sets it is
                self._aside += [(ValueWalk._visit, item) for item in items]
        self._more(value, base)

    def _apart_from_others(self, item: Any) -> ValueWalk:
        """Walk separately through an item of a set, because a set's order must not decide what was met before."""
        inner = ValueWalk(memo=self.memo, sets=self._sets)
        inner.through(item)
        return inner

    def _deque(self, value: Any) -> None:
        self.changeable = True
        self.size += sys.getsizeof(value)
        self.sequence(list(collections.deque.__iter__(value)))
        self._more(value, collections.deque)

    def _buffer(self, value: Any) -> None:
        self.changeable = True
        with memoryview(value) as view:
            self.feed(b"%d %d" % (view.nbytes, view.itemsize))
            if not self.muted and self.memo is None and view.nbytes:
                self.feed(view.cast("B") if view.contiguous else view.tobytes())
        self._owner(value)

    def _scalar(self, value: Any) -> None:
        self.size += sys.getsizeof(value)
        if isinstance(value, _numpy().void):
            self.changeable = True
        self.feed(value.tobytes())

    def _proxy(self, value: Any) -> None:
        self.push([dict(value)])
        self._made.append(self._stack[-1])

    def _array(self, value: Any) -> None:
        self.changeable = True
        self._owner(value)
        if self.memo is not None:
            if not value.dtype.hasobject:
                self.memo[id(value)] = copied_array(value)
            return
        self.feed(f"{value.dtype.str}{value.dtype.names}{value.shape}{value.strides}".encode())
        if value.dtype.hasobject:
            items = value.reshape(-1).tolist()
            self._made.append(items)
            self.push(items)
        elif not self.muted:
            feed_array(self.feed, value)
        if getattr(value, "_mmap", None) is None:
            self._more(value, _numpy().ndarray)

    def _tensor(self, value: Any) -> None:
        self.changeable = True
        if self.memo is not None:
            if type(value) is sys.modules["torch"].Tensor:
                self.memo[id(value)] = copied_tensor(value)
            return
        self.feed(f"{value.dtype}{tuple(value.shape)}{value.device}{value.requires_grad}".encode())
        inner = feed_tensor(self.feed, value, self.muted)
        self._owner(value)
        for part in (*inner, value.grad if value.is_leaf else None):
            if part is not None:
                self._made.append(part)
                self._stack.append(part)
        if vars(value):
            self._stack.append(vars(value))

    def _picture(self, value: Any) -> None:
        self.changeable = True
        if self.memo is not None:
            self.memo[id(value)] = copied_picture(value)
            return
        self.size += feed_picture(self.feed, value, self.muted)
        self._stack.append(value.info)

    def _owner(self, value: Any) -> None:
        """Count the memory that an array or a tensor keeps alive."""
        if self.sized:
            self.keep(*held_by(value))

    def _object(self, value: Any) -> None:
        self.changeable = True
        registered = socket_type(type(value)) if self.sized else None
        if registered is None or registered.size is None:
            self._inside(value)
            return
        before = self.size
        self._apart(value)
        with contextlib.suppress(Exception):  # a failing size function must not lose the value
            self.size = max(self.size, before + registered.size(value))

    def _apart(self, value: Any) -> None:
        """Walk through an object completely before the rest of the stack."""
        waiting, self._stack = self._stack, []
        try:
            self._inside(value)
            while self._stack:
                self._visit(self._stack.pop())
        finally:
            self._stack = waiting

    def _inside(self, value: Any) -> None:
        if _defines_its_state(_class(value)):
            self._state(value)
        else:
            object.__reduce_ex__(value, 4)  # raises if the object has state that Python cannot see
            self._attributes(value)

    def _attributes(self, value: Any) -> None:
        """Read the attributes of an object."""
        self.size += sys.getsizeof(value)
        if (attributes := _instance_dict(value)) is not None:
            self.size += sys.getsizeof(attributes)
        named = self._named_attributes(value)
        self.sequence(list(named))
        self.push(list(named.values()))

    def _named_attributes(self, value: Any) -> dict[str, Any]:
        """The attributes of an object by name, without the results of cached properties, which count for the size."""
        cls = _class(value)
        slots, skipped = _slots(cls)
        if self.sized:
            _fill(value, cls)
        attributes = {}
        for name, attribute in list((_instance_dict(value) or {}).items()):
            if name not in skipped:
                attributes[name] = attribute
            elif self.sized:
                self._aside.append((ValueWalk._visit, attribute))
        for name, slot in slots:
            with contextlib.suppress(AttributeError):
                attributes[name] = slot.__get__(value)
        return attributes

    def _state(self, value: Any) -> None:
        """Read the state that an object would be pickled with."""
        self.size += sys.getsizeof(value)
        self.pickled = True
        _instance_dict(value)  # the pickled state of some classes depends on whether `__dict__` was ever read
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            self.same(value)
            return
        make, arguments, *rest = reduced
        state, items, pairs = (*rest, None, None, None)[:3]
        parts = [arguments, state, None if items is None else list(items), None if pairs is None else list(pairs)]
        self._made.append(parts)
        self.feed(getattr(make, "__qualname__", "").encode())
        self.push(parts)
        if self.sized:  # it may keep more than its pickled state
            self._aside.append((ValueWalk._attributes, value))

    def _more(self, value: Any, base: type) -> None:
        """Read the attributes that a subclass of a built-in class adds."""
        if type(value) is not base and (attributes := self._named_attributes(value)):
            self._made.append(attributes)
            self._stack.append(attributes)


def _are_plain(items: list[Any]) -> bool:
    return set(map(type, items)) <= NUMBERS | TEXTS


def _class(value: Any) -> Any:
    return type(value)


def _numpy() -> Any:
    return sys.modules["numpy"]


def _instance_dict(value: Any) -> dict[str, Any] | None:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if type(attributes) is dict else None


@functools.lru_cache(4096)
def _slots(cls: Any) -> tuple[list[tuple[str, Any]], frozenset[str]]:
    """The slots of a class, and the names of its cached properties."""
    slots, skipped = [], set[str]()
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType) and base.__module__ != "builtins":
                slots.append((name, member))
            elif isinstance(member, functools.cached_property):
                skipped.add(name)
    return slots, frozenset(skipped)


def _fill(value: Any, cls: Any) -> None:
    """Compute the properties of a library's object that are filled when they are first read.

    Otherwise reading one later would look like a change of the object.
    """
    for name, getter in _lazy(cls):
        if getattr(value, name, None) is None:
            with contextlib.suppress(Exception):  # whatever a property raises
                getter(value)


@functools.lru_cache(4096)
def _lazy(cls: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """The private attributes of a library's class that a property fills when it is read, each with its getter."""
    attributes: list[tuple[str, Callable[[Any], Any]]] = []
    for base in cls.__mro__:
        for member in vars(base).values() if origin(base.__module__) == "library" else ():
            getter = member.fget if isinstance(member, property) else None
            if isinstance(getter, types.FunctionType):
                stored = {step.argval for step in dis.get_instructions(getter) if step.opname == "STORE_ATTR"}
                attributes += [(name, getter) for name in sorted(stored) if name.startswith("_")]
    return attributes


def _kept_by(function: Any) -> list[Any]:
    """The objects that a function or a method keeps alive, without those that its module keeps anyway."""
    if not isinstance(function, types.FunctionType):
        owner = getattr(function, "__self__", None)
        kept = [] if owner is None or isinstance(owner, types.ModuleType | type) else [owner]
        return [*kept, function.__func__] if isinstance(function, types.MethodType) else kept
    kept = [vars(function)] if vars(function) else []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # the variable is not set yet
            kept.append(cell.cell_contents)
    if "<" in function.__qualname__:  # defined inside a function, so that no module keeps it
        kept += [function.__defaults__, function.__kwdefaults__]
    return kept


def _results(function: Any) -> Iterator[Any]:
    """The results that a function of `functools.lru_cache` keeps."""
    for kept in gc.get_referents(function):  # a dictionary of results, or with a size limit the results themselves
        for result in kept.values() if type(kept) is dict else (kept,):
            if type(result).__name__ != "_lru_list_elem":
                yield result


@functools.lru_cache(4096)
def _defines_its_state(cls: Any) -> bool:
    """Whether a class defines its pickled state itself."""
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return True
    state = cls.__getstate__
    return state is not object.__getstate__ and getattr(state, "__module__", "") != "dataclasses"


Reader = Callable[["ValueWalk", Any], None]


@functools.lru_cache(4096)
def _reader(cls: Any) -> Reader:
    """The method of `ValueWalk` that reads values of a class."""
    registered = socket_type(cls)
    if registered is not None and registered.digest is not None:
        return ValueWalk.same
    for base, reader in (
        (FUNCTIONS, ValueWalk.function), (_CACHED, ValueWalk.cached),
        (FIXED, ValueWalk.fixed), (LOCKS, ValueWalk.lock), (list, ValueWalk._list), (tuple, ValueWalk._tuple),
        (dict, ValueWalk._dict), (set, ValueWalk._set), (frozenset, ValueWalk._set),
        (collections.deque, ValueWalk._deque), (bytearray, ValueWalk._buffer),
        (array.array, ValueWalk._buffer), (memoryview, ValueWalk._buffer),
        (types.MappingProxyType, ValueWalk._proxy), ((io.BytesIO, io.StringIO), ValueWalk._object),
        ((io.IOBase, threading.Thread), ValueWalk.unknown),
    ):  # fmt: skip
        if issubclass(cls, base):
            return reader
    for name, library, reader in (  # a library that is not imported has no values
        ("Decimal", "decimal", ValueWalk.fixed), ("Fraction", "fractions", ValueWalk.fixed),
        ("mmap", "mmap", ValueWalk._buffer), ("generic", "numpy", ValueWalk._scalar),
        ("ndarray", "numpy", ValueWalk._array), ("Tensor", "torch", ValueWalk._tensor),
        ("Image", "PIL.Image", ValueWalk._picture), ("Logger", "logging", ValueWalk.same),
    ):
        known = getattr(sys.modules.get(library), name, None)
        if isinstance(known, type) and issubclass(cls, known):
            return reader
    return ValueWalk.tool if any("__call__" in vars(base) for base in cls.__mro__) else ValueWalk._object


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
