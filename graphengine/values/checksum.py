"""What a value holds, whatever its class: a checksum of it, the bytes that it keeps in memory, a copy of its own.

A value is walked without recursion: containers, attributes of objects, the bytes of arrays, tensors and pictures. Three
sorts of objects are not walked for a checksum and never copied:

- what cannot be changed: numbers, texts, paths, enums, functions, classes, references to weights;
- tools, which are objects that can be called (a torch module, a pipeline): they work by changing themselves;
- what shows nothing of itself (an open file, an iterator, a socket): a value with such an object in it is `unseen`.

A class says by `__getstate__` what of it counts; what `functools.cached_property` keeps does not count.
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
from graphengine.values.types import socket_type

NUMBERS = frozenset({int, float, bool, complex, type(None)})
TEXTS = frozenset({str, bytes})
PIECE = 10_000
"""Numbers of a list that are hashed at once."""
MOST_ASIDE = 300_000
"""Objects that are looked at for the size of a value only, such as what its functions close over; a value with more is
`unseen`."""
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType)
"""What cannot be changed, and keeps other objects alive."""
FIXED = (
    type, types.ModuleType, types.WrapperDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType,
    type(Ellipsis), type(NotImplemented), range, enum.Enum, pathlib.PurePath, re.Pattern, uuid.UUID, weakref.ref,
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
)  # fmt: skip
"""What cannot be changed."""
_CACHED = type(functools.cache(lambda: None))
LOCKS = (type(threading.Lock()), type(threading.RLock()))


class Content(NamedTuple):
    """What is known of a value when it lands.

    Attributes:
        sum: Its checksum; None where nothing in it can be changed.
        size: Bytes that it keeps in memory, those of whole arrays that it is a view of included.
        unseen: Something in it shows neither its content nor its size.
        alive: A tool, a lock or something unseen is in it.
    """

    sum: bytes | None
    size: int
    unseen: bool
    alive: bool


def measure(value: Any) -> Content:
    """The checksum and the size of a value."""
    walk = ValueWalk(sized=True)
    walk.through(value)
    sum, unseen = walk.sum(), walk.unseen
    alive = walk.alive
    if walk.told and sum != checksum(value):  # what its class tells of itself is never the same
        sum, unseen, alive = None, True, True
    return Content(sum, walk.size, unseen, alive)


def checksum(value: Any) -> bytes | None:
    """What changes when a value is changed in place; None where nothing in it can be changed.

    It is compared within one process only.
    """
    walk = ValueWalk()
    walk.through(value)
    return walk.sum()


def sum_of(value: Any, given: bool = False) -> bytes | None:
    """The checksum of a value, see `checksum`; plain values are told at once.

    Args:
        given: It was given by a caller: then what is alive (see `Content`) has none, since it works by changing.
    """
    kind = type(value)
    if kind in NUMBERS or kind in TEXTS:
        return None
    if given:
        content = measure(value)
        return None if content.alive else content.sum
    return measure(value).sum


def owned(value: Any) -> tuple[Any, bytes | None]:
    """A copy of what somebody gave, with its checksum.

    What cannot be changed is itself, and so is what is alive (see `Content`), which has no checksum.
    """
    kind = type(value)
    if kind in NUMBERS or kind in TEXTS:
        return value, None
    if sum_of(value, given=True) is None:
        return value, None
    twin = twin_of(value)
    return twin, measure(twin).sum


def copied(value: Any) -> Any:
    """A value of one's own: whatever is done to it is not done to the original.

    Raises:
        Exception: Something in it cannot be copied.
    """
    kind = type(value)
    if kind in NUMBERS or kind in TEXTS:
        return value
    if kind is list and _are_plain(value):
        return list(value)
    memo: dict[int, Any] = {}
    ValueWalk(memo=memo).through(value)
    return copy.deepcopy(value, memo)


def twin_of(value: Any) -> Any:
    """A copy of a value; the value itself where it cannot be copied."""
    try:
        return copied(value)
    except Exception:  # whatever a class raises that is to be copied
        return value


class ValueWalk:
    """One walk through a value.

    Args:
        sized: Find out the size as well, that of tools included.
        memo: Filled with copies of what `copy.deepcopy` does not copy well, and with what is not to be copied.
        sets: By `id` the walks through the items of sets that were met; shared by the walks of one value.
    """

    def __init__(
        self, sized: bool = False, memo: dict[int, Any] | None = None, sets: dict[int, list[ValueWalk]] | None = None
    ) -> None:
        self.sized, self.memo = sized, memo
        self.size = 0
        self.unseen = self.changeable = self.alive = False
        self.muted = self.told = False
        self._hash = xxhash.xxh3_128()
        self._seen: dict[int, int] = {}
        self._memories: set[int] = set()
        self._sets: dict[int, list[ValueWalk]] = {} if sets is None else sets
        self._stack: list[Any] = []
        self._aside: list[tuple[Reader, Any]] = []  # what counts for the size only
        self._made: list[Any] = []  # states that were made for the walk: their ids must not be given again

    def sum(self) -> bytes | None:
        """The checksum of what was walked."""
        return self._hash.digest() if self.changeable else None

    def through(self, value: Any) -> None:
        """Walk through a value, then through what counts for its size only."""
        stack = self._stack
        stack.append(value)
        while stack:
            self._visit(stack.pop())
        if self._aside:
            self._size_aside()

    def _size_aside(self) -> None:
        """Add the size of what does not count for the checksum: nothing else comes of it."""
        changeable, alive, told = self.changeable, self.alive, self.told
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
        if self._aside or self._stack:  # it leads to half of the program: nobody can say what it keeps
            self.unseen = True
            self._aside.clear()
            self._stack.clear()
        self.changeable, self.alive, self.told, self.muted = changeable, alive, told, False

    def _visit(self, value: Any) -> None:
        kind: Any = type(value)
        if kind in NUMBERS:
            self.feed(marshal.dumps(value, 2))
            self.size += 28
        elif kind in TEXTS:
            self.feed(b"%d" % hash(value))
            self.size += sys.getsizeof(value)
        elif (known := self._seen.get(id(value))) is not None:
            self.feed(b"again %d" % known)
        else:
            self._seen[id(value)] = len(self._seen)
            self.feed(b"tuple" if isinstance(value, tuple) else kind.__name__.encode())
            try:
                _reader(kind)(self, value)
            except Exception:  # whatever a class raises that is looked into
                self.unknown(value)

    def feed(self, content: Any) -> None:
        """Add bytes to the checksum."""
        if not self.muted:
            self._hash.update(content)

    def keep(self, owner: int, size: int) -> None:
        """Count memory that several arrays may share, once."""
        if owner not in self._memories:
            self._memories.add(owner)
            self.size += size

    def push(self, values: Sequence[Any]) -> None:
        """Walk through these next."""
        self.feed(b"%d" % len(values))
        self._stack.extend(reversed(values))

    def same(self, value: Any) -> None:
        """What is known by its identity only, and not copied."""
        self.feed(b"%d" % id(value))
        self._leave(value)

    def fixed(self, value: Any) -> None:
        """What cannot be changed: another one in its place is told by its hash."""
        self.feed(b"%d" % hash(value))
        self._leave(value)

    def _leave(self, value: Any) -> None:
        self.size += sys.getsizeof(value)
        if self.memo is not None:
            self.memo[id(value)] = value

    def lock(self, value: Any) -> None:
        """What other threads wait for."""
        self.alive = True
        self.same(value)

    def unknown(self, value: Any) -> None:
        """What shows nothing of itself."""
        self.unseen = self.alive = True
        self.same(value)

    def tool(self, value: Any) -> None:
        """What can be called: only its size matters."""
        if self.muted:
            self._inside(value)
            return
        self.alive = True
        self.same(value)
        if self.sized:
            self._aside.append((ValueWalk._inside, value))

    def function(self, value: Any) -> None:
        """A function or a method: it cannot be changed, and keeps what it closes over and the object that it is of."""
        self.fixed(value)
        if self.sized:
            self._aside += [(ValueWalk._visit, kept) for kept in _kept_by(value)]

    def cached(self, value: Any) -> None:
        """A function with a memory of its results."""
        self.alive = True
        self.same(value)
        inner = value.__wrapped__
        if self.sized and (type(inner) is types.MethodType or "<" in value.__qualname__):  # no module's own
            self._aside += [(ValueWalk._visit, kept) for kept in (inner, *_results(value))]

    # --- readers ---------------------------------------------------------------------------------------------------

    def sequence(self, items: list[Any] | tuple[Any, ...]) -> None:
        """The items of a list, many at once where they are plain."""
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
        """The items in whatever order."""
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
            self.told = self.told or any(walk.told for walk in inner)
            self.sequence(sorted(walk._hash.digest() for walk in inner))
            if self.sized:  # each once, however many sets it is in
                self._aside += [(ValueWalk._visit, item) for item in items]
        self._more(value, base)

    def _apart_from_others(self, item: Any) -> ValueWalk:
        """A walk of its own through an item of a set: items come in no order that says which was met before."""
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
        """Count the memory that an array or a tensor keeps."""
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
        with contextlib.suppress(Exception):  # a wrong size is no reason to lose a value
            self.size = max(self.size, before + registered.size(value))

    def _apart(self, value: Any) -> None:
        """Look into an object to its end, before what else is to be walked."""
        waiting, self._stack = self._stack, []
        try:
            self._inside(value)
            while self._stack:
                self._visit(self._stack.pop())
        finally:
            self._stack = waiting

    def _inside(self, value: Any) -> None:
        if _tells_its_state(_class(value)):
            self._state(value)
        else:
            object.__reduce_ex__(value, 4)  # raises where there is a state that Python does not see
            self._attributes(value)

    def _attributes(self, value: Any) -> None:
        """The attributes of an object of a plain class."""
        self.size += sys.getsizeof(value)
        if (attributes := _instance_dict(value)) is not None:
            self.size += sys.getsizeof(attributes)
        found = self._found(value)
        self.sequence(list(found))
        self.push(list(found.values()))

    def _found(self, value: Any) -> dict[str, Any]:
        """The attributes of an object by name, without what its cached properties keep, which counts for the size."""
        kind = _class(value)
        slots, skipped = _slots(kind)
        if self.sized:
            _fill(value, kind)
        found = {}
        for name, attribute in list((_instance_dict(value) or {}).items()):
            if name not in skipped:
                found[name] = attribute
            elif self.sized:
                self._aside.append((ValueWalk._visit, attribute))
        for name, slot in slots:
            with contextlib.suppress(AttributeError):
                found[name] = slot.__get__(value)
        return found

    def _state(self, value: Any) -> None:
        """What an object tells of itself for pickling."""
        self.size += sys.getsizeof(value)
        self.told = True
        _instance_dict(value)  # some classes tell whether it was ever looked at
        found = value.__reduce_ex__(4)
        if isinstance(found, str):
            self.same(value)
            return
        make, arguments, *rest = found
        state, items, pairs = (*rest, None, None, None)[:3]
        parts = [arguments, state, None if items is None else list(items), None if pairs is None else list(pairs)]
        self._made.append(parts)
        self.feed(getattr(make, "__qualname__", "").encode())
        self.push(parts)
        if self.sized:  # it may keep more than it tells
            self._aside.append((ValueWalk._attributes, value))

    def _more(self, value: Any, base: type) -> None:
        """The attributes that a subclass of a built-in class adds."""
        if type(value) is not base and (found := self._found(value)):
            self._made.append(found)
            self._stack.append(found)


def _are_plain(items: list[Any]) -> bool:
    return set(map(type, items)) <= NUMBERS | TEXTS


def _class(value: Any) -> Any:
    return type(value)


def _numpy() -> Any:
    return sys.modules["numpy"]


def _instance_dict(value: Any) -> dict[str, Any] | None:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


@functools.lru_cache(4096)
def _slots(kind: Any) -> tuple[list[tuple[str, Any]], frozenset[str]]:
    """The slots of a class, and the names of its cached properties."""
    slots, skipped = [], set[str]()
    for base in kind.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType) and base.__module__ != "builtins":
                slots.append((name, member))
            elif isinstance(member, functools.cached_property):
                skipped.add(name)
    return slots, frozenset(skipped)


def _fill(value: Any, kind: Any) -> None:
    """Have an object of a library compute what its properties keep once they are asked, so that asking changes
    nothing."""
    for name, getter in _lazy(kind):
        if getattr(value, name, None) is None:
            with contextlib.suppress(Exception):  # whatever a property raises
                getter(value)


@functools.lru_cache(4096)
def _lazy(kind: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """The private attributes of a library's class that a property fills when it is asked, each with its getter."""
    found: list[tuple[str, Callable[[Any], Any]]] = []
    for base in kind.__mro__:
        for member in vars(base).values() if origin(base.__module__) == "library" else ():
            getter = member.fget if isinstance(member, property) else None
            if isinstance(getter, types.FunctionType):
                stored = {step.argval for step in dis.get_instructions(getter) if step.opname == "STORE_ATTR"}
                found += [(name, getter) for name in sorted(stored) if name.startswith("_")]
    return found


def _kept_by(function: Any) -> list[Any]:
    """What a function or a method keeps alive that is no part of a module."""
    if not isinstance(function, types.FunctionType):
        owner = getattr(function, "__self__", None)
        kept = [] if owner is None or isinstance(owner, types.ModuleType | type) else [owner]
        return [*kept, function.__func__] if isinstance(function, types.MethodType) else kept
    kept = [vars(function)] if vars(function) else []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is not set yet
            kept.append(cell.cell_contents)
    if "<" in function.__qualname__:  # made inside a function: no module keeps it
        kept += [function.__defaults__, function.__kwdefaults__]
    return kept


def _results(function: Any) -> Iterator[Any]:
    """What a function of `functools.lru_cache` remembers."""
    for kept in gc.get_referents(function):  # where its memory has a limit, the results themselves
        for result in kept.values() if type(kept) is dict else (kept,):
            if type(result).__name__ != "_lru_list_elem":
                yield result


@functools.lru_cache(4096)
def _tells_its_state(kind: Any) -> bool:
    """Whether a class says for itself what its state is."""
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return True
    state = kind.__getstate__
    return state is not object.__getstate__ and getattr(state, "__module__", "") != "dataclasses"


Reader = Callable[["ValueWalk", Any], None]


@functools.lru_cache(4096)
def _reader(kind: Any) -> Reader:
    """How the values of a class are looked into."""
    registered = socket_type(kind)
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
        if issubclass(kind, base):
            return reader
    for name, library, reader in (  # what is not imported has no values
        ("Decimal", "decimal", ValueWalk.fixed), ("Fraction", "fractions", ValueWalk.fixed),
        ("mmap", "mmap", ValueWalk._buffer), ("generic", "numpy", ValueWalk._scalar),
        ("ndarray", "numpy", ValueWalk._array), ("Tensor", "torch", ValueWalk._tensor),
        ("Image", "PIL.Image", ValueWalk._picture), ("Logger", "logging", ValueWalk.same),
    ):
        found = getattr(sys.modules.get(library), name, None)
        if isinstance(found, type) and issubclass(kind, found):
            return reader
    return ValueWalk.tool if any("__call__" in vars(base) for base in kind.__mro__) else ValueWalk._object


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
