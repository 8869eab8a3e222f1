"""Callables that can become nodes: coroutine functions, partials, bound methods and callable objects as functions."""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from collections.abc import Callable, Coroutine
from typing import Any

from graphengine.errors import NodeDefinitionError


def plain_function(fn: Any) -> Callable[..., Any]:
    """Wrap a callable in a plain function with the same annotations, signature and module.

    A plain function is returned as it is. A coroutine function becomes a function that runs an event loop until the
    coroutine has ended.

    Raises:
        NodeDefinitionError: It cannot be made a node; the message says what to do.
    """
    if isinstance(fn, staticmethod):
        return plain_function(fn.__func__)
    if isinstance(fn, type) or not callable(fn):
        what = f"the class {fn.__name__}" if isinstance(fn, type) else f"{fn!r:.60}"
        hint = "put @node under @classmethod" if isinstance(fn, classmethod) else "write a function that returns it"
        raise NodeDefinitionError(f"{what} cannot be a node, which is made of a function; {hint}")
    if _dispatches(fn):
        raise NodeDefinitionError(
            f"{name_of(fn)} cannot be a node: it is made by singledispatch, which finds its argument by place, and "
            "nodes are called by names; write a function that calls it"
        )
    inner = _annotated(fn)
    if is_async(fn):
        return _like(fn, inner, lambda *args, **kwargs: _finish(fn(*args, **kwargs)))
    if isinstance(fn, types.FunctionType | functools._lru_cache_wrapper) and fn.__module__:
        return fn
    return _like(fn, inner, lambda *args, **kwargs: fn(*args, **kwargs))


def _dispatches(fn: Any) -> bool:
    """Whether a callable was made by `functools.singledispatch` or `singledispatchmethod`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    here = fn.__globals__ if isinstance(fn, types.FunctionType) else None
    return here is vars(functools) and hasattr(fn, "register")


def made_of(function: Any) -> Any:
    """The callable that `plain_function` wrapped in this function; None for any other function."""
    return getattr(function, "__graphengine_callable__", None)


def is_async(fn: Any) -> bool:
    """Whether calling a callable returns a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_annotated(fn))


def is_generator(fn: Any) -> bool:
    """Whether calling a callable returns a generator, whose values can be read only once."""
    inner = _annotated(fn)
    return inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)


def name_of(fn: Any) -> str:
    """The name of a callable: of a partial, that of its function; of an object, that of its class."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    if inner is not fn:
        return name_of(inner)
    return str(getattr(fn, "__name__", type(fn).__name__))


def _annotated(fn: Any) -> Any:
    """The function that carries a callable's annotations."""
    if isinstance(fn, functools.partial):
        return _annotated(fn.func)
    if isinstance(fn, types.MethodType):
        return _annotated(fn.__func__)
    if isinstance(fn, types.FunctionType | types.BuiltinFunctionType) or hasattr(fn, "__wrapped__"):
        return fn
    return getattr(type(fn), "__call__", fn)  # noqa: B004 - the method itself, not whether there is one


def _like(fn: Any, inner: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Give `call`, which calls `fn`, the name, signature, annotations, module and docstring of a node."""
    functools.update_wrapper(call, inner, updated=())
    try:
        signature = inspect.signature(fn)
    except ValueError as error:
        raise NodeDefinitionError(f"{name_of(fn)}: its signature cannot be read ({error})") from None
    named = {*signature.parameters, "return"}
    call.__annotations__ = {n: a for n, a in getattr(inner, "__annotations__", {}).items() if n in named}
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__graphengine_callable__ = fn  # type: ignore[attr-defined]
    call.__name__ = name_of(fn)
    call.__module__ = getattr(inner, "__module__", None) or "__main__"  # code from `exec` has no module
    if not isinstance(fn, types.FunctionType):
        call.__doc__ = getattr(fn, "__doc__", None) if isinstance(fn, types.MethodType) else inner.__doc__
    return call


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine and return its result; on another thread if this one runs an event loop already."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1, thread_name_prefix="graphengine-async") as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()
