"""`@node` and `NodeDef`: a node is a function whose annotations give its name, sockets, defaults, limits and help.

Outside a graph, calling a node calls its function. While a graph is being built, a call adds a node to that graph and
returns a `Ref`, which type checkers see as the declared return type.

The module is long because users meet one class, `NodeDef`, with all that can be said of a node; sockets, help and
groups of nodes are modules of their own.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from graphengine.declare.building import building
from graphengine.declare.callables import is_async, is_generator, name_of, plain_function
from graphengine.declare.context import Context
from graphengine.declare.sockets import Added, Choices, Doc, Drawn, File, Lazy, Multiline, Range, Socket, Uses
from graphengine.errors import NodeDefinitionError
from graphengine.values.checksum import owned, twin_of
from graphengine.values.socket_types import (
    declare,
    has_variables,
    holds_path,
    is_named_tuple,
    is_reference,
    strip,
    type_name,
    union_members,
)

if TYPE_CHECKING:
    from graphengine.pack import Pack

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
S = TypeVar("S")
V = TypeVar("V")

Cache = Literal["disk", "memory", "never"]
On = Literal["here", "thread", "device"]
KeyTemplate = tuple[Any, tuple[str, ...], tuple[Any, ...], Mapping[str, Any], bool]
"""What all keys of a node share: the hash object to copy and continue; the names of the inputs; the tokens of their
defaults; by name those of inputs that were added later; and whether the node's values are remembered in this process
only."""


_PYTHON_NAMES = {"null": "None", "any": "Any", "path": "Path"}


def _in_python(annotation: Any) -> str:
    """The name of a type as Python writes it (`None`, `Path`) instead of files (`null`, `path`)."""
    words = r"'[^']*'|\b(?:null|any|path)\b"  # quoted choices are kept
    return re.sub(words, lambda match: _PYTHON_NAMES.get(match.group(), match.group()), type_name(annotation))


class _Name(str):
    """A text that signatures show without quotation marks."""

    __slots__ = ()
    __repr__ = str.__str__


class NodeDef(Generic[P, R]):
    """The definition of a node: its function, and everything that is read from the function's signature.

    Attributes:
        fn: The function.
        name, pack: The node's name and that of its pack; together the full name `pack.name`, which stands in keys and
            in workflow files.
        version: The declared version; None: a hash of the code takes its place in keys.
        cache: Where results may be remembered: on disk (and in memory), in memory, or never.
        on: Where the node runs. `here`: on the thread that drives the run. `thread`: on a thread of its own, because
            it waits for something; every `async def` node without `on` does. `device`: on the device's thread.
        output: The node has an effect (it saves or shows something). It runs whenever the whole graph runs or it is
            wanted; equal calls are not merged, and nothing is remembered.
        expand: The function builds a graph and returns a value or a reference.
        batch: Names of the inputs that the batched form (`many`) takes as lists.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        version: int | None = None,
        cache: Cache = "disk",
        on: On = "here",
        output: bool = False,
        expand: bool = False,
        batch: Sequence[str] = (),
    ) -> None:
        self.fn: Callable[P, R] = plain_function(fn)
        self.name = name or name_of(fn)
        if not re.fullmatch(r"[^\W\d]\w*", self.name):
            raise NodeDefinitionError(f"{self.name!r} is no name for a node; give one: @node(name='...')")
        if is_generator(fn):
            raise NodeDefinitionError(
                f"{self.name} yields, so that its values could be read only once; return a list instead"
            )
        if is_async(fn):
            if expand:
                raise NodeDefinitionError(f"{self.name} builds a graph, so nothing in it waits: leave out the async")
            on = "thread" if on == "here" else on
        self.version, self.cache, self.on, self.output, self.expand = version, cache, on, output, expand
        self.is_static = isinstance(fn, staticmethod)
        self.batch = tuple(batch)
        self.many_fn: Callable[..., Sequence[Any]] | None = None
        self.group_fn: Callable[..., Any] | None = None
        self.check_fn: Callable[..., Iterable[str]] | None = None
        self.foresee_fn: Callable[..., Iterable[str]] | None = None
        self.fingerprint_fn: Callable[..., Any] | None = None
        self.migrations: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self.key_identity: Any = None
        self.key_template: KeyTemplate | None = None  # both are written by graphengine.keys.call_key
        functools.update_wrapper(self, self.fn, updated=())

    @functools.cached_property
    def module_pack(self) -> Pack:
        """The pack whose module defines the node."""
        from graphengine.pack import pack_of

        return pack_of(self.fn.__module__)

    @property
    def pack(self) -> str:
        """The name of the node's pack."""
        return self.module_pack.name

    @functools.cached_property
    def full_name(self) -> str:
        """The node's name with that of its pack: `pack.name`."""
        return f"{self.pack}.{self.name}"

    @property
    def doc(self) -> str:
        """The function's docstring, without indentation."""
        return inspect.cleandoc(self.fn.__doc__ or "")

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature that `help` and editors show: the sockets with their types as Python writes them."""
        own = inspect.signature(self.fn)
        shown = [
            parameter.replace(annotation=_Name(_in_python(self.sockets[parameter.name].type)))
            for parameter in own.parameters.values()
            if parameter.name in self.sockets
        ]
        outputs = [f"{name}: {_in_python(type)}" if name else _in_python(type) for name, type in self.outputs.items()]
        return own.replace(parameters=shown, return_annotation=_Name(", ".join(outputs)))

    def __repr__(self) -> str:
        return f"<node {self.full_name}>"

    # --- read from the signature, when first needed, so that importing a pack is fast ---------------------------

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self.fn, include_extras=True)
        except Exception as error:
            raise NodeDefinitionError(
                f"{self.full_name}: an annotation cannot be read ({error}); types must be importable at run time, "
                "not only under TYPE_CHECKING or inside a function"
            ) from None

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        try:
            return inspect.signature(self.fn)
        except ValueError as error:
            raise NodeDefinitionError(f"{self.full_name}: its signature cannot be read ({error})") from None

    @functools.cached_property
    def sockets(self) -> dict[str, Socket]:
        """The inputs by name, in the order of the function's parameters."""
        sockets: dict[str, Socket] = {}
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise NodeDefinitionError(f"{self.full_name}: a node has no *args or **kwargs; use a list")
            if parameter.name not in self._hints:
                is_method = not sockets and parameter.name in ("self", "cls") and "." in self.fn.__qualname__
                remedy = "a method becomes a node when it is taken from its object" if is_method else "add one"
                raise NodeDefinitionError(
                    f"{self.full_name}: the parameter {parameter.name} has no annotation; {remedy}"
                )
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise NodeDefinitionError(
                    f"{self.full_name}: {parameter.name} is positional-only, but inputs are given by name; "
                    "leave out the / of the signature"
                )
            members = [strip(member) for member in union_members(strip(self._hints[parameter.name]))]
            if len(members) > 1 and Context in members:
                raise NodeDefinitionError(
                    f"{self.full_name}: {parameter.name} must be a Context and nothing else; write "
                    f"{parameter.name}: Context = INERT"
                )
            if members != [Context]:
                sockets[parameter.name] = self._socket(parameter, self._hints[parameter.name])
        for name in self.batch:
            if name not in sockets:
                raise NodeDefinitionError(f"{self.full_name}: batch names {name}, which is no input")
        for socket in sockets.values():
            declare(socket.type, _name_of_pack)
        return sockets

    def _socket(self, parameter: inspect.Parameter, hint: Any) -> Socket:
        required = parameter.default is parameter.empty
        extras: dict[str, Any] = {}
        for item in getattr(hint, "__metadata__", ()):
            match item:
                case Range():
                    extras["range"] = item
                case Choices():
                    extras["choices"] = item
                case Drawn():
                    extras["drawn"] = True
                case Multiline():
                    extras["multiline"] = True
                case Lazy():
                    extras["lazy"] = True
                case Doc():
                    extras["doc"] = item.text
                case Uses():
                    extras["uses"] = item.part
                case Added():
                    extras["added"] = True
                case File():
                    extras["file"] = item
        if "file" not in extras and holds_path(hint):
            members = [strip(member) for member in union_members(strip(hint))]
            extras["file"] = File(names=str in members, missing=True)
        if extras.get("lazy") and not self.expand:
            raise NodeDefinitionError(f"{self.full_name}: only expanding nodes have lazy inputs ({parameter.name})")
        if extras.get("added") and required:
            raise NodeDefinitionError(f"{self.full_name}: an added input has a default ({parameter.name})")
        return Socket(parameter.name, strip(hint), required, None if required else parameter.default, **extras)

    @functools.cached_property
    def drawn(self) -> frozenset[str]:
        """The names of the inputs for which a number is drawn if -1 or null is given."""
        return frozenset(name for name, socket in self.sockets.items() if socket.drawn)

    @functools.cached_property
    def context_parameter(self) -> str | None:
        """The name of the parameter that takes the run's context; None if there is none."""
        return next((name for name, hint in self._hints.items() if name != "return" and strip(hint) is Context), None)

    @functools.cached_property
    def result(self) -> Any:
        """The annotated return type."""
        if "return" not in self._hints:
            raise NodeDefinitionError(f"{self.full_name}: the return type has no annotation; add one")
        return strip(self._hints["return"])

    @functools.cached_property
    def outputs(self) -> dict[str, Any]:
        """The types of the outputs by name; a single output is called ''."""
        declare(self.result, _name_of_pack)
        if is_named_tuple(self.result):
            return {name: strip(hint) for name, hint in typing.get_type_hints(self.result).items()}
        return {"": self.result}

    @functools.cached_property
    def is_generic(self) -> bool:
        """Whether the type of its result depends on the types of its inputs (it has type variables)."""
        return any(has_variables(t) for t in (self.result, *self.outputs.values()))

    @functools.cached_property
    def makes_reference(self) -> bool:
        """Whether every output is a reference to weights; such nodes run first in every run."""
        return not self.expand and all(is_reference(t) for t in self.outputs.values())

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether its key needs nothing but its arguments: no files, no references to weights, no fingerprint.

        It is also remembered, and does not expand.
        """
        return not (
            self.expand or self.output or self.cache == "never" or self.files or self.fingerprint_fn is not None
            or self.makes_reference
        )

    @functools.cached_property
    def files(self) -> dict[str, File]:
        """The `File` rules of the inputs that are paths, by name."""
        return {name: socket.file for name, socket in self.sockets.items() if socket.file is not None}

    @functools.cached_property
    def own_defaults(self) -> dict[str, Any]:
        """Copies of the mutable defaults, made when the node's first key was made."""
        copies = {name: owned(socket.default)[0] for name, socket in self.sockets.items() if not socket.required}
        return {name: twin for name, twin in copies.items() if twin is not self.sockets[name].default}

    @functools.cached_property
    def compute(self) -> Callable[..., R]:
        """The function as the engine calls it: each call gets its own copies of mutable defaults."""
        fn: Callable[..., R] = self.fn
        if not self.own_defaults:
            return fn

        def compute(**arguments: Any) -> R:
            return fn(**self.copied_defaults(arguments), **arguments)

        return compute

    def copied_defaults(self, given: Container[str] = ()) -> dict[str, Any]:
        """Copies of the mutable defaults of all inputs that are not in `given`."""
        return {name: twin_of(default) for name, default in self.own_defaults.items() if name not in given}

    def begin_keys(self) -> None:
        """Forget what its keys hold of the node, because its code or its defaults have changed."""
        self.key_identity = self.key_template = None
        for known in ("own_defaults", "compute"):
            vars(self).pop(known, None)

    # --- further functions of the node ----------------------------------------------------------------------------

    def many(self, fn: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        """Register the batched form, which computes several calls at once.

        It takes the same parameters, but lists for those named in `batch`, and a list of contexts if the node has a
        context. It returns a value or an exception for each item, in order.
        """
        if not self.batch:
            raise NodeDefinitionError(f"{self.full_name}: a batched form needs @node(batch=('name', ...))")
        self.many_fn = plain_function(fn)
        return fn

    def group(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Register a function of the inputs; a batch holds only calls for which it returns the same value."""
        self.group_fn = plain_function(fn)
        return fn

    def check(self, fn: Callable[..., Iterable[str]]) -> Callable[..., Iterable[str]]:
        """Register a validator, which takes the literal inputs as a dictionary and yields a sentence for each mistake.

        Lists for lazy inputs are included, even if their items are links.
        """
        self.check_fn = fn
        return fn

    def foresee(self, fn: Callable[..., Iterable[str]]) -> Callable[..., Iterable[str]]:
        """Register a validator that `graphengine validate` calls when it has made the references to weights.

        It takes a dictionary with what is known of each given input before anything is computed (literals, and
        references that come through links; an `Unknown` for what other links bring), and yields a sentence for each
        mistake.
        """
        self.foresee_fn = fn
        return fn

    def fingerprint(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Register a function of the inputs that is called in each run; what it returns enters the key."""
        self.fingerprint_fn = plain_function(fn)
        return fn

    def migration(
        self, version: int
    ) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Callable[[dict[str, Any]], dict[str, Any]]]:
        """Register a function that rewrites inputs written for `version` for the version after it.

        The function takes and returns a dictionary from socket names to arguments (literals or links).
        """

        def register(fn: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
            self.migrations[version] = fn
            return fn

        return register

    # --- as a method ------------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> NodeDef[P, R]: ...

    @overload
    def __get__(self: NodeDef[Concatenate[S, Q], V], instance: S, owner: type[Any] | None = None) -> NodeDef[Q, V]: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> NodeDef[..., Any]:
        """Bind a node made of a method to an object, which becomes a part of the node and is none of its inputs."""
        if instance is None or self.is_static:
            return self
        bound: NodeDef[..., Any] = NodeDef(
            types.MethodType(self.fn, instance), name=self.name, version=self.version, cache=self.cache, on=self.on,
            output=self.output, expand=self.expand, batch=self.batch,
        )
        for beside in ("many_fn", "group_fn", "check_fn", "foresee_fn", "fingerprint_fn"):
            if (fn := getattr(self, beside)) is not None:
                setattr(bound, beside, types.MethodType(fn, instance))
        bound.migrations = self.migrations
        return bound

    # --- calling --------------------------------------------------------------------------------------------------

    @overload  # an async function: the call gives its value
    def __call__(self: NodeDef[P, Coroutine[Any, Any, V]], /, *args: P.args, **kwargs: P.kwargs) -> V: ...

    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        graph = building()
        if graph is None:
            return self.fn(*args, **kwargs)
        return graph.call(self, args, kwargs)

    @overload
    def named(self: NodeDef[P, Coroutine[Any, Any, V]], id: str) -> Callable[P, V]: ...

    @overload
    def named(self, id: str) -> Callable[P, R]: ...

    def named(self, id: str) -> Callable[..., Any]:
        """The same node with a given id in the graph: `encode_prompt.named("negative")(model, "blurry")`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            graph = building()
            if graph is None:
                return self.fn(*args, **kwargs)
            return graph.call(self, args, kwargs, id=id)

        return call

    @functools.cached_property
    def _parameters(self) -> tuple[list[str], frozenset[str]]:
        """The names of the positional parameters in order, and the names of all parameters."""
        parameters = self._signature.parameters.values()
        return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY], frozenset(p.name for p in parameters)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Bind the arguments of a call to socket names; raises TypeError as a function call would."""
        by_position, names = self._parameters
        bound = dict(zip(by_position, args, strict=False))
        if len(args) > len(by_position) or not names.issuperset(kwargs) or not bound.keys().isdisjoint(kwargs):
            self._signature.bind_partial(*args, **kwargs)  # raises
        bound.update(kwargs)
        if self.context_parameter is not None:
            bound.pop(self.context_parameter, None)
        return bound


def _name_of_pack(module: str) -> str:
    from graphengine.pack import pack_of

    return pack_of(module).name


@overload
def node(fn: Callable[P, R], /) -> NodeDef[P, R]: ...


@overload
def node(
    *,
    name: str | None = None,
    version: int | None = None,
    cache: Cache = "disk",
    on: On = "here",
    output: bool = False,
    expand: bool = False,
    batch: Sequence[str] = (),
) -> Callable[[Callable[P, R]], NodeDef[P, R]]: ...


def node(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a node from an annotated function; see `NodeDef` for the options.

    Raises:
        NodeDefinitionError: The function cannot be made a node. A missing annotation is reported when the node's
            sockets are first needed.
    """
    if fn is not None:
        return NodeDef(fn)
    return lambda function: NodeDef(function, **options)
