"""Hashes of module-level data that code reads besides its inputs, such as global tables.

Containers, arrays, tensors and the state of objects are read as Python holds them: no method, property, `__eq__`,
`__hash__`, `__iter__` or `__repr__` of a third party's class is called, nothing is imported and no file is opened. Data
that cannot be read in this way (locks, files, clients, models), or is too large, is refused.

The module is long because it holds one short reader for each built-in class, and the rules by which a class of a third
party has one.
"""

from __future__ import annotations

import array
import collections
import datetime
import enum
import functools
import gc
import logging
import marshal
import operator
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic

from graphengine.keys.mutation import changing_methods
from graphengine.old_names import moved
from graphengine.pack import origin

OBJECTS = 50_000
"""The most objects that are read of one global."""
BYTES = 4 << 20
"""The most bytes that are read of one global."""
_FEW = 16
"""Lists of fewer items are read item by item, which is faster for them."""


class Unfollowed(Exception):
    """Data cannot be followed; the message says what kind of data it is."""


Fact = Any
"""The plain value, or tuple of plain values, that is hashed for one object."""
Read = Callable[["ContentReader", Any, list[Any]], Fact]
"""A function that returns what is hashed for an object itself, and adds the objects in it to a list."""


@dataclass(slots=True)
class ClassLayout:
    """How objects of one class are read.

    Attributes:
        fact: The canonical form of the class.
        read: Reads the content that a built-in base class holds.
        namespace: The descriptor of `__dict__`, if objects have one.
        slots: The descriptors of attributes in slots.
        computed: Attributes that the object computes from others when they are read, and which do not count.
    """

    fact: Any
    read: Read | None = None
    namespace: Any = None
    slots: list[Any] = field(default_factory=list)
    computed: Set[str] = frozenset()


class ContentReader:
    """Reads and hashes the content of data.

    Args:
        code: Returns the canonical form of code in the data: a function, class, module or node.
        is_code: Whether objects of a class are code.
        used: The attribute names in the code that reads the data. If one is a method that changes its object, the
            code may change the data, which is then refused.
    """

    def __init__(
        self, code: Callable[[Any], Any], is_code: Callable[[type], bool], used: Set[str] = frozenset()
    ) -> None:
        self.code, self.is_code, self.used = code, is_code, used
        self._layouts: dict[int, ClassLayout] = {}
        self._objects = self._bytes = 0

    def of(self, value: Any) -> bytes:
        """Hash a value's content: 16 bytes of BLAKE2b.

        Raises:
            Unfollowed: The content cannot be read, or is too large.
        """
        self._objects = self._bytes = 0
        try:
            return self._hash([value])
        except RecursionError:
            raise Unfollowed("nested too deeply") from None
        except RuntimeError:
            raise Unfollowed("changed by another thread while it was read") from None

    def _hash(self, level: list[Any]) -> bytes:
        """Hash objects level by level; an object that was met before (it may hold itself) counts by its number."""
        hash = blake2b(digest_size=16)
        seen: dict[int, int] = {}
        while level:
            self._objects += len(level)
            if self._objects > OBJECTS:
                raise Unfollowed(f"more than {OBJECTS:,} objects")
            below: list[Any] = []
            facts: list[Fact] = []
            for value in level:
                kind = id(type(value))
                if kind in _PLAIN:
                    facts.append(value)
                elif (number := seen.get(id(value))) is not None:
                    facts.append(("again", number))
                else:
                    seen[id(value)] = len(seen)
                    read = _EXACT.get(kind)
                    if read is _list and len(value) < _FEW:  # as `_list` does, for there may be thousands
                        facts.append(("list", len(value)))
                        below += value
                        continue
                    facts.append(read(self, value, below) if read is not None else self._object(value, below))
            self._take_lengths(facts)
            hash.update(marshal.dumps(facts, 0))
            if len(below) + self._objects > OBJECTS:
                raise Unfollowed(f"more than {OBJECTS:,} objects")
            level = below
        return hash.digest()

    def items(self, values: Iterable[Any], below: list[Any]) -> Fact:
        """The fact for the items of a container: the items themselves if all are plain, else only their number."""
        items = list(values)
        if len(items) < _FEW or not _PLAIN.issuperset(map(id, map(type, items))):
            below += items
            return len(items)
        self._objects += len(items)
        if self._objects > OBJECTS:
            raise Unfollowed(f"more than {OBJECTS:,} objects")
        self._take_lengths(items)
        return marshal.dumps(items, 0)

    def _take_lengths(self, values: list[Any]) -> None:
        """Count the bytes of texts among plain values."""
        try:
            count = sum(map(len, values))
        except TypeError:
            count = sum([len(value) for value in values if type(value) is str or type(value) is bytes])
        self.take(count)

    def take(self, count: int) -> None:
        """Count bytes that are about to be read, against the limit `BYTES`."""
        self._bytes += count
        if self._bytes > BYTES:
            raise Unfollowed(f"more than {BYTES >> 20} MB")

    def unordered(self, values: Iterable[Any]) -> Fact:
        """The fact for a set: its items in an order that does not depend on their addresses."""
        items = list(values)
        self._objects += len(items)
        if self._objects > OBJECTS:
            raise Unfollowed(f"more than {OBJECTS:,} objects")
        if _PLAIN.issuperset(map(id, map(type, items))):
            self._take_lengths(items)
            return ("set", *sorted(marshal.dumps(item, 0) for item in items))
        return ("set", *sorted(self._hash([item]) for item in items))

    def _object(self, value: Any, below: list[Any]) -> Fact:
        kind = type(value)
        layout = self._layouts.get(id(kind))
        if layout is None:
            layout = self._layouts[id(kind)] = self._layout(kind)
        inside = ()
        if layout.read is not None:
            inside = layout.read(self, value, below)
        if layout.namespace is not None:
            space = layout.namespace.__get__(value)
            if layout.computed:
                names = [name for name in dict.keys(space) if name not in layout.computed]
                space = {name: dict.__getitem__(space, name) for name in names}
            inside = (inside, _dict(self, space, below))  # type: ignore[assignment]
        for slot in layout.slots:
            try:
                below.append(slot.__get__(value))
            except AttributeError:  # the attribute is not set
                below.append(None)
                inside = (inside, "unset")  # type: ignore[assignment]
        return (layout.fact, inside)

    def _layout(self, kind: type) -> ClassLayout:
        """How objects of a class are read."""
        if self.is_code(kind):
            return ClassLayout("code", read=lambda content, value, below: content.code_fact(value))
        bases = _bases(kind)
        if (special := _special(kind, bases)) is not None:
            return ClassLayout(self.code_fact(kind), special)
        layout = ClassLayout(self.code_fact(kind))
        functions: dict[str, types.FunctionType] = {}
        for cls in bases:
            if (read := _EXACT.get(id(cls))) is not None or (read := _special(cls, bases)) is not None:
                layout.read = read
                break
            space = _space(cls)
            if id(cls) not in _VISIBLE and _has_hidden_state(cls, space):
                raise Unfollowed(f"an object of {_called(cls)}")
            for name, found in space.items():
                if name == "__dict__" and type(found) in (types.GetSetDescriptorType, types.MemberDescriptorType):
                    layout.namespace = layout.namespace or found
                elif type(found) is types.MemberDescriptorType and name not in _OFFSETS:
                    layout.slots.append(found)
                elif type(found) is functools.cached_property:
                    layout.computed |= {name}
                elif type(found) is types.FunctionType and origin(module_of(cls)) != "library":
                    functions.setdefault(name, found)
        if issubclass(kind, enum.Enum):
            layout.computed |= {"__objclass__", "_sort_order_"}
        used = self.used | _ASKED
        for name in sorted(changing_methods(functions).keys() & used):
            raise Unfollowed(f"an object of {_called(kind)}, which its {name}() changes")
        return layout

    def code_fact(self, value: Any) -> str:
        """The fact for code: a function, a class, a module."""
        return repr(self.code(value))


_ASKED = frozenset({"__call__", "__getitem__", "__missing__", "__enter__", "__exit__", "__iter__", "__next__",
                    "__getattr__", "__getattribute__", "__contains__", "__len__"})  # fmt: skip
"""Methods that Python calls although their names do not occur in the code."""

_OFFSETS = frozenset({"__vectorcalloffset__", "__weaklistoffset__", "__dictoffset__"})
"""Members of C classes that hold offsets in memory, which are no content."""


# --- built-in classes: what each holds -----------------------------------------------------------------------------


def _list(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    return ("list", content.items(list.__iter__(value), below))


def _tuple(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    return ("tuple", content.items(tuple.__iter__(value), below))


def _dict(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    return ("dict", content.items(dict.keys(value), below), content.items(dict.values(value), below))


def _default_dict(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    below.append(vars(collections.defaultdict)["default_factory"].__get__(value))
    return ("defaultdict", _dict(content, value, below))


def _ordered_dict(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    if not _PLAIN.issuperset(map(id, map(type, dict.keys(value)))):  # iterating would call the keys' own `__hash__`
        return ("OrderedDict", _dict(content, value, below))
    order = content.items(collections.OrderedDict.__iter__(value), below)
    return ("OrderedDict", order, _dict(content, value, below))


def _deque(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    return ("deque", content.items(collections.deque.__iter__(value), below), collections.deque.maxlen.__get__(value))


def _set(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    return content.unordered(set.__iter__(value))


def _frozenset(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    return ("frozen", content.unordered(frozenset.__iter__(value)))


def _proxy(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    below.extend(gc.get_referents(value))  # calling a method would call that of the mapping inside
    return ("mappingproxy",)


def _bytearray(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    content.take(bytearray.__len__(value))
    return ("bytearray", bytes(bytearray.__getitem__(value, slice(None))))


def _array(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    content.take(array.array.__len__(value) * 8)
    return ("array", array.array.typecode.__get__(value), array.array.tobytes(value))


def _datetime(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    below.append(value.tzinfo)
    return ("time", repr(value.replace(tzinfo=None)))


def _reduced(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    below.extend(value.__reduce__()[1:])
    return ("reduced",)


def _written(value_repr: Callable[[Any], str]) -> Read:
    """A reader for objects that their text describes completely."""
    return lambda content, value, below: ("text", value_repr(value))


def _plain(exact: Callable[[Any], Any]) -> Read:
    return lambda content, value, below: (exact(value),)


_FIELD = vars(collections.namedtuple("_FIELD", "field"))["field"]
_PLAIN = frozenset(map(id, (int, str, float, bool, type(None), bytes, complex)))
"""Classes of single values, by id, because a metaclass may define how its classes are hashed."""
_EXACT: dict[int, Read] = {
    id(cls): read
    for cls, read in (
        (list, _list), (tuple, _tuple), (dict, _dict), (set, _set), (frozenset, _frozenset),
        (collections.defaultdict, _default_dict), (collections.OrderedDict, _ordered_dict),
        (collections.deque, _deque), (types.MappingProxyType, _proxy), (bytearray, _bytearray), (array.array, _array),
        (int, _plain(int.__index__)), (float, _plain(float.__float__)), (str, _plain(str.__str__)),
        (bytes, _plain(lambda value: bytes.__getitem__(value, slice(None)))), (complex, _written(complex.__repr__)),
        (datetime.date, _written(datetime.date.__repr__)),
        (datetime.timedelta, _written(datetime.timedelta.__repr__)),
        (datetime.timezone, _written(datetime.timezone.__repr__)), (datetime.datetime, _datetime),
        (datetime.time, _datetime), (operator.itemgetter, _reduced), (operator.attrgetter, _reduced),
        (operator.methodcaller, _reduced), (type(_FIELD), _reduced),
        (object, lambda content, value, below: ("object",)),
        (type(Ellipsis), _written(repr)), (type(NotImplemented), _written(repr)),
        (pathlib.PurePosixPath, _written(str)), (pathlib.PureWindowsPath, _written(str)),
    )
}  # fmt: skip
_VISIBLE = frozenset(map(id, (
    functools.partial, types.SimpleNamespace, slice, range, re.Pattern, types.GenericAlias, types.UnionType, Generic,
)))  # fmt: skip
"""Classes written in C whose attributes show all of their state."""


# --- classes ---------------------------------------------------------------------------------------------------------


def _bases(kind: type) -> tuple[type, ...]:
    return type.__dict__["__mro__"].__get__(kind)  # type: ignore[no-any-return]


def _space(cls: type) -> dict[str, Any]:
    return dict(type.__dict__["__dict__"].__get__(cls))


_IN_C = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
)  # fmt: skip


def _has_hidden_state(cls: type, space: dict[str, Any]) -> bool:
    """Whether a class is written in C, so that its objects may hold state that Python cannot see."""
    for name, found in space.items():
        if type(found) in _IN_C and name not in ("__dict__", "__weakref__") and found.__objclass__ is cls:
            return True
        if name == "__new__" and type(found) is types.BuiltinFunctionType:
            return True
    return False


def _special(kind: type, bases: tuple[type, ...]) -> Read | None:
    """How objects of some libraries' classes written in C are read; None for other classes."""
    names = {(module_of(cls), type.__dict__["__name__"].__get__(cls)) for cls in bases}
    module, name = module_of(kind), type.__dict__["__name__"].__get__(kind)
    if kind is getattr(sys.modules.get("decimal"), "Decimal", None):
        return _written(kind.__str__)
    if ("torch.nn.modules.module", "Module") in names:
        raise Unfollowed("a model")
    if issubclass(kind, logging.Logger):
        return _written(lambda value: value.name)
    if issubclass(kind, pathlib.PurePath):
        raise Unfollowed("a path, whose file is not read")
    if ("torch", "Tensor") in names:
        if (module, name) in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")):
            return _tensor
        raise Unfollowed(f"an object of {_called(kind)}")
    if module == "torch" and name in ("device", "dtype", "layout", "memory_format"):
        return _written(repr)
    if module == "numpy" and name == "ndarray":
        return _ndarray
    if ("numpy", "generic") in names or ("numpy", "dtype") in names:
        if module.partition(".")[0] != "numpy":
            raise Unfollowed(f"an object of {_called(kind)}")
        return _written(repr) if ("numpy", "dtype") in names else _scalar
    if module in ("typing", "zoneinfo") and name in ("TypeVar", "ParamSpec", "TypeVarTuple", "ZoneInfo"):
        return _written(str)
    return None


def _tensor(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    torch: Any = sys.modules["torch"]
    size = value.numel() * value.element_size()
    if size > BYTES or value.device.type != "cpu":
        raise Unfollowed("a tensor " + (f"of more than {BYTES >> 20} MB" if size > BYTES else f"on {value.device}"))
    content.take(size)
    try:
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    except Exception:
        raise Unfollowed(f"a tensor of {value.dtype}, {value.layout}") from None
    return ("tensor", str(value.dtype), tuple(map(int, value.shape)), blake2b(data, digest_size=16).digest())


def _ndarray(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    numpy: Any = sys.modules["numpy"]
    value = numpy.ndarray.view(value, numpy.ndarray)  # a subclass may override what is read
    size, dtype = int(value.nbytes), value.dtype
    if size > BYTES:
        raise Unfollowed(f"an array of more than {BYTES >> 20} MB")
    content.take(size)
    described = repr(dtype.descr) if dtype.names else dtype.str
    shape = tuple(map(int, value.shape))
    if dtype.hasobject:
        if dtype.names:
            raise Unfollowed("an array of objects with fields")
        below.extend(value.ravel().tolist())
        return ("array", described, shape)
    return ("array", described, shape, blake2b(value.tobytes(), digest_size=16).digest())


def _scalar(content: ContentReader, value: Any, below: list[Any]) -> Fact:
    if value.dtype.hasobject:
        raise Unfollowed("an object of numpy")
    return ("scalar", value.dtype.str, value.tobytes())


def module_of(cls: type) -> str:
    """The module that defines a class, read without the class's metaclass."""
    try:
        module = type.__dict__["__module__"].__get__(cls)
    except AttributeError:
        module = None
    return module if type(module) is str else "builtins"


def _called(cls: type) -> str:
    """The name of a class for people, with its module."""
    name: str = type.__dict__["__qualname__"].__get__(cls)
    module = module_of(cls)
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
