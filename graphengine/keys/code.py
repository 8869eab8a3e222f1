"""Hashes of code: everything that a function uses, as the version of a node that declares none.

Code is followed through the functions and classes of the node's own pack, and of modules that belong to no pack and no
installed distribution. Code of another pack counts by that pack's version stamp, code of a library by its name. Data is
hashed by its content (see `content`). Data that the code itself changes, or that has no readable content, counts as the
one object that it is.

The module is long because functions, classes, modules and the data they use lead to one another: one walk follows them
all. Reading the data itself is cut off, in `content`.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphengine.declare.callables import made_of
from graphengine.declare.definition import NodeDef
from graphengine.keys.content import ContentReader, Unfollowed, module_of
from graphengine.keys.mutation import argument_changes, changes
from graphengine.old_names import moved, place_in_keys
from graphengine.pack import Pack, loose_sources, origin, pack_of, version_stamp
from graphengine.values.canonical import PLAIN, digest, token
from graphengine.values.checksum import owned

MISSING = object()


def code_hash(function: Any) -> bytes:
    """Hash a function's code with everything it uses: constants, defaults, closure, and names of its module."""
    return follow(function).hash


@dataclass(slots=True)
class Followed:
    """Everything that a function's code uses, as it was when it was followed.

    Attributes:
        hash: The hash of all of it.
        unfollowed: By a name for people, the data that could not be followed, and why.
        names: The names in modules and classes that were read, each as (namespace, name, function that returns the
            object it meant, or `MISSING`).
        cells: The closure variables that were read, likewise.
        functions: The functions, with their code and defaults, which an editor's reload may replace in place.
        data: The data, with the names of attributes that the code uses and the hash of the content in this process.
        kept: The code that was followed, kept alive so that no other object gets its id.
    """

    hash: bytes = b""
    unfollowed: dict[str, str] = field(default_factory=dict)
    names: list[tuple[Mapping[str, Any], str, Callable[[], Any]]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Callable[[], Any]]] = field(default_factory=list)
    functions: list[tuple[types.FunctionType, Any, Any, Any]] = field(default_factory=list)
    data: list[tuple[Any, Set[str], bytes]] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def stands(self) -> bool:
        """Whether nothing of it has changed."""
        return self.names_stand() and self.data_stands()

    def names_stand(self) -> bool:
        """Whether each name still means the same object, and each function still has the same code."""
        return (
            all(space.get(name, MISSING) is was() for space, name, was in self.names)
            and all(_content_of(cell) is was() for cell, was in self.cells)
            and all(
                f.__code__ is code and f.__defaults__ is defaults and f.__kwdefaults__ is by_name
                for f, code, defaults, by_name in self.functions
            )
        )

    def data_stands(self) -> bool:
        """Whether the content of the data is unchanged."""
        try:
            return all(_content_here(used).of(value) == was for value, used, was in self.data)
        except Unfollowed:
            return False


def follow(function: Any) -> Followed:
    """Follow everything that a function's code uses."""
    walk = CodeWalk(function, frozenset())
    while walk.changed - walk.known:  # these were hashed as data before it was seen that the code changes them
        walk = CodeWalk(function, walk.changed | walk.known)
    return walk.found


Place = tuple[int, str]
"""A name in a module or a variable of an enclosing function: the id of what holds it, and the name."""


class CodeWalk:
    """A walk through the code that a function uses, and through the code that this uses in turn.

    Args:
        function: The function.
        known: Names whose objects the code is known to change.

    Attributes:
        changed: Names whose objects the walk has seen the code change.
        found: The result.
    """

    def __init__(self, function: Any, known: frozenset[Place]) -> None:
        self.known, self.changed = known, frozenset[Place]()
        self.found = Followed()
        self._seen: dict[int, tuple[int, Any]] = {}
        self._data: dict[tuple[int, frozenset[str]], tuple[int, Any]] = {}
        self._node = function
        while (inner := made_of(self._node)) is not None:
            self._node = inner
        module = str(getattr(function, "__module__", ""))
        self._pack: Pack | None = pack_of(module) if origin(module) == "pack" else None
        try:
            form = self.function(function) if type(function) is types.FunctionType else self.used(function, "")
            self.found.hash = digest(form)
            self.found.kept = [value for _, value in self._seen.values()]
        except RecursionError:
            self.found.unfollowed[getattr(function, "__qualname__", "")] = "nested too deeply"
            self.found.hash = digest(token(function))

    def function(self, function: types.FunctionType) -> Any:
        """The canonical form of a function, with everything that it uses."""
        if (again := self._again(function)) is not None:
            return again
        if (inner := made_of(function)) is not None:
            return ("made of", self.used(inner, function.__qualname__))
        code, space, found = function.__code__, function.__globals__, self.found
        found.functions.append((function, code, function.__defaults__, function.__kwdefaults__))
        if origin(str(space.get("__name__", ""))) == "library":
            return self._of_library(function)
        facts, change = _facts(code), changes(code)
        module = str(space.get("__name__", "")).rpartition(".")[2]
        rebound = dict.fromkeys(change.bound, ("bound",))
        touched = change.names("global") - change.bound | self._passed_on(change.passed, space)
        self.changed |= {(id(space), name) for name in touched}
        free = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
        self.changed |= {(id(free[name]), name) for name in change.names("free") if name in free}
        cells = []
        for name, cell in free.items():
            value = _content_of(cell)
            if (id(cell), name) in self.known:
                cells.append((name, self._changing(value, name)))
            else:
                found.cells.append((cell, _held(value)))
                cells.append((name, None if value is MISSING else self.used(value, name, facts.names)))
        uses: list[Any] = []
        for name in sorted(facts.globals):
            place = f"{module}.{name}"
            if name in rebound:
                found.unfollowed[place] = "set by the node's own code"
                continue
            value = space.get(name, MISSING)
            found.names.append((space, name, _held(value)))
            if value is MISSING:
                continue
            if (id(space), name) in self.known:
                uses.append((name, self._changing(value, place)))
            else:
                uses.append((name, self.used(value, place, facts.names)))
        given = function.__defaults__ or ()
        by_position = zip(code.co_varnames[code.co_argcount - len(given) : code.co_argcount], given, strict=True)
        by_name = sorted((function.__kwdefaults__ or {}).items())
        kept = change.names("parameter")  # defaults that the function changes, and so uses as its memory
        defaults = []
        for name, value in (*by_position, *by_name):
            place = f"{function.__qualname__}({name}=)"
            keeps = name in kept and type(value) not in PLAIN and not self._is_copied(function, value)
            defaults.append((name, self._changing(value, place) if keeps else self.used(value, place)))
        return (
            facts.form,
            defaults,
            cells,
            uses,
            [(name, loose_sources(name)) for name in sorted(facts.imports)],
        )

    def _is_copied(self, function: types.FunctionType, default: Any) -> bool:
        """Whether each call gets its own copy of a default: calls of nodes do, if it can be copied."""
        return function is self._node and owned(default)[0] is not default

    def _of_library(self, function: types.FunctionType) -> Any:
        """A library's function around other functions (a decorator's wrapper); only those others are followed."""
        inside = []
        for cell in function.__closure__ or ():
            value = _content_of(cell)
            self.found.cells.append((cell, _held(value)))
            if value is not MISSING and (type(value) in PLAIN or self._is_code(type(value))):
                inside.append(self.used(value, function.__qualname__))
        registry = vars(function).get("registry")
        if type(registry) is types.MappingProxyType:  # the functions that `functools.singledispatch` chooses from
            inside.append(self.used(registry, function.__qualname__))
        return (_named(function), _facts(function.__code__).form, inside)

    def _passed_on(self, passed: Set[tuple[str, int, Any]], space: Mapping[str, Any]) -> set[str]:
        """The globals that are passed to a function of the module which changes its argument."""
        changed: set[str] = set()
        for name, number, origins in passed:
            callee = space.get(name)
            if argument_changes(callee.fn if type(callee) is NodeDef else callee, number):
                changed |= {origin for where, origin in origins if where == "global"}
        return changed

    def _changing(self, value: Any, place: str) -> Any:
        if type(value) in PLAIN:
            self.found.unfollowed[place] = "set by the node's own code"
            return ("bound",)
        if type(value) in (types.FunctionType, NodeDef):  # it counts its calls, say
            return self.used(value, place)
        self.found.unfollowed[place] = "changed by the node's own code"
        return ("object", token(value))

    def used(self, value: Any, place: str, names: Set[str] = frozenset()) -> Any:
        """The canonical form of an object that code uses.

        Args:
            value: The object, code or data.
            place: Its name for people.
            names: All attribute names that occur in the code.
        """
        cls = type(value)
        if id(cls) in _PLAIN:
            return value
        if self._is_code(cls):
            return self.code(value, place, names)
        met = (id(value), frozenset(names))
        if met in self._data:
            return ("again", self._data[met][0])
        self._data[met] = (len(self._data), value)
        holds_code = False

        def code(part: Any) -> Any:
            nonlocal holds_code
            holds_code = True
            return self.code(part, place, names)

        try:
            content = ContentReader(code, self._is_code, names).of(value)
            here = _content_here(names).of(value) if holds_code else content
            self.found.data.append((value, names, here))
            return ("data", content)
        except Unfollowed as reason:
            self.found.unfollowed[place] = str(reason)
            return ("object", token(value))

    # --- code --------------------------------------------------------------------------------------------------------

    def _is_code(self, cls: type) -> bool:
        return _is_code(cls)

    def code(self, value: Any, place: str, names: Set[str] = frozenset()) -> Any:
        """The canonical form of a function, a class, a module, a node or a graph."""
        cls = type(value)
        if cls is NodeDef:
            if value.version is not None and origin(value.fn.__module__) != "loose":
                return ("node", value.full_name, value.version)
            return self.code(value.fn, place, names) if self._is_code(type(value.fn)) else self.used(value.fn, place)
        if cls is types.FunctionType:
            return self.function(value) if value.__closure__ or self._is_own(value.__module__) else _named(value)
        if issubclass(cls, type):
            return self._class(value) if self._is_own(module_of(value)) else _named(value)
        if cls is types.ModuleType:
            return self._module(value, names)
        if cls is types.MethodType:
            return ("method", self.used(value.__func__, place), self.used(value.__self__, place, names))
        if cls is types.BuiltinFunctionType:
            owner = value.__self__
            if owner is None or type(owner) is types.ModuleType:
                return _named(value)
            return ("method", value.__qualname__, self.used(owner, place, names))
        if cls is property:
            return ("property", *[f and self.used(f, place) for f in (value.fget, value.fset, value.fdel)])
        if cls is staticmethod or cls is classmethod:
            return (cls.__name__, self.used(value.__func__, place))
        if cls is functools.cached_property:
            return ("cached", self.used(value.func, place))
        if cls is _CACHED:
            return ("wraps", self.used(value.__wrapped__, place))
        if cls in _DESCRIPTORS:
            return ("descriptor", _named(value.__objclass__), value.__name__)
        return self._graph(value)

    def _graph(self, graph: Any) -> Any:
        inside = {node.kind for node in graph.nodes.values() if isinstance(node.kind, NodeDef)}
        nodes = sorted(inside, key=lambda definition: definition.full_name)
        return ("graph", graph.__graphengine_key__(), [self.code(definition, definition.name) for definition in nodes])

    def _is_own(self, module: str) -> bool:
        """Whether code of a module is followed: it is loose, or belongs to the node's own pack."""
        where = origin(module or "")
        return where == "loose" or (where == "pack" and self._pack is not None and pack_of(module) is self._pack)

    def _class(self, cls: type) -> Any:
        if (again := self._again(cls)) is not None:
            return again
        members: list[Any] = []
        space, meta = type.__dict__["__dict__"].__get__(cls), type(cls)
        making = _MAKING | _MAKING_OF_CLASSES if issubclass(cls, type) else _MAKING
        for name, value in list(space.items()):
            if name in UNUSED:
                continue
            self.found.names.append((space, name, _held(value)))
            made = value.__func__ if type(value) in (classmethod, staticmethod) else value
            if name in making and type(made) is types.FunctionType:
                members.append((name, _facts(made.__code__).form))
            else:
                members.append((name, self.used(value, f"{cls.__qualname__}.{name}")))
        if self._is_own(module_of(meta)):
            members.append(("metaclass", self._class(meta)))
        return ("class", _named(cls), [self.code(base, base.__qualname__) for base in cls.__bases__], members)

    def _module(self, module: types.ModuleType, names: Set[str]) -> Any:
        """The canonical form of a module, with the names that are used of it unless it is a library."""
        if origin(module.__name__) == "library":
            return _named(module)
        if (again := self._again(module)) is not None:
            return again
        uses, space = [], vars(module)
        for name in sorted(names & space.keys()):
            self.found.names.append((space, name, _held(space[name])))
            uses.append((name, self.used(space[name], f"{module.__name__.rpartition('.')[2]}.{name}", names)))
        return ("module", module.__name__, uses)

    def _again(self, value: Any) -> Any:
        """A reference by number to an object that was met before (code may use itself); None if it is new."""
        if id(value) in self._seen:
            return ("again", self._seen[id(value)][0])
        self._seen[id(value)] = (len(self._seen), value)
        return None


# --- data as this process sees it -------------------------------------------------------------------------------------


def _content_here(used: Set[str]) -> ContentReader:
    """A reader that identifies code by its address, which suffices to see a change within this process."""
    return ContentReader(id, _is_code, used)


def _held(value: Any) -> Callable[[], Any]:
    """A function that returns an object, by a weak reference where that is possible."""
    if id(type(value)) not in _PLAIN:
        try:
            return _Weak(weakref.ref(value))
        except TypeError:
            pass
    return lambda: value


class _Weak:
    """A function that returns an object while it is alive, and then itself, which equals no other object."""

    __slots__ = ("ref",)

    def __init__(self, ref: weakref.ref[Any]) -> None:
        self.ref = ref

    def __call__(self) -> Any:
        value = self.ref()
        return self if value is None else value


def _content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


# --- code -------------------------------------------------------------------------------------------------------------

_PLAIN = frozenset(map(id, PLAIN))
_CACHED = type(functools.cache(lambda: None))
_DESCRIPTORS = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip
_MAKING = frozenset({"__init_subclass__", "__set_name__"})
"""Methods that Python calls when a class is made, before any node runs: only their code counts, not their changes."""
_MAKING_OF_CLASSES = frozenset({"__new__", "__init__", "__prepare__"})
"""Such methods of metaclasses."""
UNUSED = frozenset({"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__",
                    "__static_attributes__", "__annotate__", "__annotations_cache__", "_abc_impl",
                    "__abstractmethods__", "__dataclass_params__", "__dataclass_fields__", "__slots__",
                    "__match_args__", "__parameters__", "__orig_bases__", "__slotnames__"})  # fmt: skip


@functools.cache
def _code_kinds() -> frozenset[int]:
    """The classes of code, by id."""
    kinds = (NodeDef, types.FunctionType, types.ModuleType, types.MethodType, types.BuiltinFunctionType,
             property, staticmethod, classmethod, functools.cached_property, _CACHED, *_DESCRIPTORS)  # fmt: skip
    return frozenset(map(id, kinds))


def _is_code(cls: type) -> bool:
    return id(cls) in _code_kinds() or issubclass(cls, type) or _is_graph(cls)


def _is_graph(cls: type) -> bool:
    """Whether a class defines `__graphengine_key__`, as graphs do."""
    return any("__graphengine_key__" in base.__dict__ for base in type.mro(cls)[:-1])


def _named(value: Any) -> Any:
    """The canonical form of code of a library or a pack: its name, and for a pack its version stamp."""
    if issubclass(type(value), type):
        name, qualified = module_of(value), type.__dict__["__qualname__"].__get__(value)
    else:
        name = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
        qualified = getattr(value, "__qualname__", "")
    state = version_stamp(pack_of(name)) if origin(name) == "pack" else ()
    return ("named", *place_in_keys(name, qualified), state)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a code object.

    Attributes:
        globals: The global names that it uses.
        names: All names in it, those of attributes too.
        imports: The modules that it imports when it runs; they need not be imported yet.
        form: The hash of its bytecode and constants.
    """

    globals: frozenset[str]
    names: frozenset[str]
    imports: frozenset[str]
    form: bytes


@functools.lru_cache(maxsize=10_000)
def _facts(code: types.CodeType) -> Facts:
    import dis

    used, names, imports = set[str](), set(code.co_names), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"):
            used.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            imports.add(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more = _facts(inner)
            used |= more.globals
            names |= more.names
            imports |= more.imports
    return Facts(frozenset(used), frozenset(names), frozenset(imports), digest(_code(code)))


def _code(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(_code_constant(c) for c in code.co_consts)
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_exceptiontable, constants)


def _code_constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return ("tuple", *map(_code_constant, value))
    return ("set", *sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
