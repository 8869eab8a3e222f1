"""Where ready calls are computed: on this process's threads. A worker pool stands behind the same interface."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from graphengine.declare.context import Context
from graphengine.declare.definition import NodeDef
from graphengine.declare.registry import modules
from graphengine.errors import Cancelled, lacks_memory
from graphengine.execution.guard import Guard
from graphengine.pack import environment, pack_of
from graphengine.system.threads import CALL_GRACE, Lane, start
from graphengine.values.canonical import canonical

_DEVICE, _WAIT = "graphengine-device", "graphengine-wait"
"""What the names of a runner's threads begin with."""


class Call:
    """A node, its inputs, and what to do with the outcome.

    Attributes:
        definition, inputs: What to call; the context is among neither.
        key: The call's key.
        tokens: What each input adds to the key; calls with equal tokens outside `batch` can be joined.
        context: For the node's context parameter.
        exact: Never join it with others.
        guard: Of those inputs that can be changed in place; None where there are none.
        order: What is smaller is computed first: earlier runs, and in a run what comes after most, so that values
            are let go of soon.
        kept: Whether its value may be remembered: it was computed with the data that its key says.
        landed: Told the outcome (a value or an exception), the seconds it took and how it was made. It never raises,
            and what it is told after the first time changes nothing.
    """

    __slots__ = ("context", "definition", "exact", "guard", "inputs", "kept", "key", "landed", "order", "tokens")

    def __init__(
        self,
        definition: NodeDef[..., Any],
        inputs: dict[str, Any],
        key: bytes,
        tokens: Mapping[str, Any],
        context: Context,
        exact: bool,
        order: tuple[int, int],
        landed: Callable[[Any, float, Mapping[str, Any]], None],
        guard: Guard | None = None,
    ) -> None:
        self.definition, self.inputs, self.key, self.tokens = definition, inputs, key, tokens
        self.context, self.exact, self.order, self.landed = context, exact, order, landed
        self.guard = guard
        self.kept = True

    def group(self) -> Any:
        """Calls of equal groups may be computed together; None for one that may not.

        Raises:
            Exception: The node's group function fails, or what it gives is no data.
        """
        definition = self.definition
        if definition.many_fn is None or self.exact or (self.guard is not None and self.guard.alone):
            return None
        same = tuple((n, repr(self.tokens.get(n))) for n in definition.sockets if n not in definition.batch)
        more = canonical(definition.group_fn(**self.inputs)) if definition.group_fn is not None else None
        return definition, same, more


def on_device_thread() -> bool:
    """Whether this is one of a runner's threads for the device: a node runs a graph itself."""
    return threading.current_thread().name.startswith(_DEVICE)


class Runner(Protocol):
    """Takes ready calls of any number of runs and sees to it that each lands once.

    It may also have `in_place(definition)`, whether the thread that drives a run computes a node with `on="here"`
    itself (without it, each), and `unwanted()`, which is called when a run has ended before its time: calls that nobody
    wants any more must not hold up others.

    Attributes:
        environment: How it computes, if not as this process: what exact runs share only with their like.
    """

    environment: Mapping[str, Any] | None

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls; they land on other threads."""

    def close(self) -> None:
        """Wait for what runs and take nothing more."""


class ThreadRunner:
    """Calls on threads of this process.

    Args:
        device_threads: How many calls of nodes that need the device run at once.
        threads: How many calls of nodes that wait for something run at once.
        batch: How many calls of one node with a batched form are joined at most; 1 joins none.
    """

    environment: Mapping[str, Any] | None = None

    def __init__(self, device_threads: int = 1, threads: int = 32, batch: int = 1) -> None:
        self.batch = batch
        self._device = Lane(_DEVICE, device_threads, compute, self._joined if batch > 1 else None)
        self._threads = Lane(_WAIT, threads, compute)

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls. A call that comes from one of the runner's own threads and would need another of them is
        computed right there: else it could wait for ever."""
        here = threading.current_thread().name
        for name, lane in ((_DEVICE, self._device), (_WAIT, self._threads)):
            mine = [call for call in calls if (call.definition.on == "device") == (lane is self._device)]
            if not here.startswith(name):
                lane.put(mine)
                continue
            for call in mine:
                compute([call])

    def unwanted(self) -> None:
        """Leave the threads of calls that nobody wants any more and that do not end soon."""
        hung = [(lane, *work) for lane in (self._device, self._threads) for work in lane.unwanted()]

        def leave() -> None:
            time.sleep(CALL_GRACE)
            for lane, thread, calls in hung:
                lane.leave(thread, calls)

        if hung:
            start(leave, "graphengine-unwanted")

    def _joined(self, first: Call, others: Iterable[Call]) -> list[Call]:
        """What is computed together with a call."""
        group = self._group(first)
        if group is None:
            return []
        return list(itertools.islice((call for call in others if self._group(call) == group), self.batch - 1))

    def _group(self, call: Call) -> Any:
        try:
            return call.group()
        except BaseException:  # a group function that does not take these inputs: the call alone tells what is wrong
            return None

    def close(self) -> None:
        self._device.close()
        self._threads.close()


def compute(calls: Sequence[Call]) -> None:
    """Compute one call, or several of one group by the node's batched form, and land each, whatever raises.

    Where the batched form fails, each call is computed by itself; where it lacks memory, whoever made the batch is
    told, and makes smaller ones.
    """
    live = []
    for call in calls:
        if (error := _entered(call)) is None:
            live.append(call)
        else:
            call.landed(error, 0.0, {})
    if not live:
        return
    for call in live:
        call.context.begin()
    definition, began = live[0].definition, time.perf_counter()
    outcomes: Sequence[Any]
    try:
        outcomes = [_alone(live[0])] if len(live) == 1 else _many(definition, live)
        for call in live:
            if call.guard is not None:
                call.guard.leave()
    except Cancelled as error:
        cancelled = [call for call in live if call.context.cancelled]
        if cancelled and len(cancelled) < len(live):  # whoever was cancelled is not the others' concern
            for call in cancelled:
                call.landed(error, 0.0, {})
            compute([call for call in live if call not in cancelled])
            return
        outcomes = [error] * len(live)
    except Exception as error:
        if len(live) > 1 and not lacks_memory(error):  # one of them may be at fault
            _let_go(error)
            for call in live:
                compute([call])
            return
        outcomes = [error] * len(live)
    except BaseException as error:
        outcomes = [error] * len(live)
    seconds, facts = (time.perf_counter() - began) / len(live), dict[str, Any]()
    try:
        facts = {} if definition.on != "device" else environment([definition.module_pack])
    except BaseException as error:  # how it was made is part of what it is
        outcomes = [one if isinstance(one, BaseException) else error for one in outcomes]
    if len(live) > 1:
        facts["batch"] = len(live)
    for call, outcome in zip(live, outcomes, strict=True):
        call.landed(outcome, seconds, facts)


def _entered(call: Call) -> BaseException | None:
    """Why a call is not to be computed; None where its inputs are as they should be."""
    if call.context.cancelled:
        return Cancelled("cancelled before it began")
    try:
        if call.guard is not None:
            call.guard.enter(call.inputs)
    except BaseException as error:
        return error
    return None


def _alone(call: Call) -> Any:
    """Compute one call; where the device lacks memory, again in each way that needs less."""
    definition, lacked = call.definition, None
    for inputs in _ways(call):
        arguments = dict(inputs)
        if definition.context_parameter is not None:
            arguments[definition.context_parameter] = call.context
        try:
            return definition.compute(**arguments)
        except Exception as error:
            if not lacks_memory(error) or call.context.cancelled:
                raise
            lacked = error
        _let_go(lacked)
    assert lacked is not None
    raise lacked


def _ways(call: Call) -> Iterator[Mapping[str, Any]]:
    """The call's inputs, and those that packs give in their place to need less memory: its own pack first."""
    yield call.inputs
    if call.definition.on == "device":
        for pack in dict.fromkeys([call.definition.module_pack, *map(pack_of, modules())]):
            if pack.spare is not None:
                yield from pack.spare(call.context.device, call.inputs)


def free_memory(device: str) -> None:
    """Let all packs drop what they hold in a device's memory and no call needs now."""
    for pack in dict.fromkeys(map(pack_of, modules())):
        if pack.spare is not None:
            next(pack.spare(device, {}), None)  # it frees before it gives the first inputs


def _let_go(error: BaseException) -> None:
    """Let go of what the frames hold that an exception came through: the very memory that was lacking."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__


def _many(definition: NodeDef[..., Any], calls: Sequence[Call]) -> Sequence[Any]:
    assert definition.many_fn is not None
    defaults = {name: socket.default for name, socket in definition.sockets.items() if not socket.required}
    arguments = defaults | definition.copied_defaults() | dict(calls[0].inputs)
    for name in definition.batch:
        arguments[name] = [(defaults | definition.copied_defaults() | dict(call.inputs))[name] for call in calls]
    if definition.context_parameter is not None:
        arguments[definition.context_parameter] = [call.context for call in calls]
    outcomes = list(definition.many_fn(**arguments))
    if len(outcomes) != len(calls):
        error = RuntimeError(f"{definition.full_name}.many returned {len(outcomes)} results for {len(calls)} items")
        return [error] * len(calls)
    return outcomes
