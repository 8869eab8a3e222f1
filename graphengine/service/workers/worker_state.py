"""The state of each worker of a pool, and of each call that the pool was given."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphengine.execution.runner import Call
from graphengine.service import retry
from graphengine.service.scheduling.scheduler import Item, WorkerView
from graphengine.service.workers.calls import JobPolicy, Status, WorkerError
from graphengine.service.workers.deaths import End
from graphengine.service.workers.process import Handle
from graphengine.system.threads import CALL_GRACE


@dataclass(eq=False)
class PendingCall:
    """A call that the pool was given and whose outcome is not known yet.

    Attributes:
        number: The number under which its worker knows it.
        together: How many calls are computed with it, itself counted.
        losses: The workers that were lost while they computed it alone.
        loads: How many models its worker has to load for it.
        memory_error: The message of a worker that lacked memory for it.
        last_sign: When its worker said something last of it, or of a call that is computed together with it
            (`time.monotonic`).
        acknowledge_by: When its worker must have acknowledged it; 0 once it has.
        cancelled_at: When its worker was told that it is cancelled; 0 if it was not.
        alone: Nothing may be computed beside it: a worker was lost while it computed several calls.
        may_share: Its values may go through the folder of the store; not once some were lost there.
        watched: Its worker was told to send previews.
        submitted, waited: When the pool was given it, in seconds since the epoch, and for how long it waited.
    """

    call: Call
    item: Item
    job: JobPolicy
    number: int = 0
    together: int = 1
    losses: retry.Losses = field(default_factory=retry.Losses)
    loads: int = 0
    memory_error: str = ""
    last_sign: float = 0.0
    acknowledge_by: float = 0.0
    cancelled_at: float = 0.0
    alone: bool = False
    may_share: bool = True
    watched: bool = False
    submitted: float = field(default_factory=time.time)
    waited: float = 0.0

    def survives(self, end: End, beside: bool = False) -> bool:
        """Count the end of its worker; whether it is tried again, then by itself: a call that ends workers should not
        take others with it, and only a worker that computes nothing else shows which call has ended it.

        Args:
            beside: Its worker computed other calls at the same time.
        """
        if self.together == 1 and not beside:
            self.losses = self.losses.and_another(end.fault)
        self.item.group = None
        return self.losses.leave_another_try(self.job.node_attempts)

    def why_given_up(self, end: End) -> WorkerError:
        """The error of a call that has lost too many workers."""
        name, count = self.call.definition.full_name, self.losses.count
        lost = f"{count} workers were lost while they" if count > 1 else "a worker was lost while it"
        return WorkerError(f"{lost} computed {name}: {end.why}")

    def why_hopeless(self) -> WorkerError:
        """The error of a call that no worker may take: each lacked memory, or has another environment than an exact
        job needs."""
        if not self.memory_error:
            return WorkerError("no worker computes any more as those that the exact job began with; submit it again")
        return WorkerError(
            f"{self.call.definition.full_name} needs more memory than any worker has ({self.memory_error}); make "
            "smaller pictures, fewer at once, or hold the model in less memory (offload, tiling, quantization)"
        )


@dataclass(eq=False)
class WorkerState:
    """A worker and what the pool knows of it.

    Attributes:
        slots: How many groups of calls it computes at once; a worker with several is started when it is needed.
        state: `starting`, `ready`, `ending` (it is being ended) or `dead`.
        loading: The models that it was told to load, and has not told of yet; it is given no calls before.
        loaded: The digests of the weights that it held of each model when it had loaded it.
        not_loaded: Why it does not hold models that it was to load, by their names.
        abandoned: The models of these that it is not to load again: it was lost meanwhile.
        held, free: The models that it holds in memory, by digest, and the bytes that it has room for, if known.
        memory: As in `Status`.
        computing: The calls that it computes, by number.
        blocked_since: Since when cancelled calls that do not end keep it from other work; it is given none. 0 if none
            do.
        environment_due: When it must have acknowledged the question for its environment; 0 once it has, or without a
            question.
        environment_asked: It was asked for its environment, and has not answered.
        unresponsive: It did not acknowledge a call, which was taken back; it is given none until it says something.
        stopped_since: Since when its process is seen to be stopped by a signal; 0 while it is not.
        reading: The pool is working on a message of it: later messages have to wait, and so have their deadlines.
        since: When it began with its calls, or was started last.
        busy_until: When it is expected to be idle; of a dead worker, when it is started again.
        pause: Seconds before it is started again if it is lost without computing anything.
        landed, deaths, loads: As in `Status`.
        ending: How it is being ended, if the service ends it.
        last_warning: The last sentence about its end.
        failed_starts, why_unusable: How often in a row it has ended before it was ready, and why it did last.
        environment, environment_digest: Its environment (versions, device), and a digest to compare; None until it
            has told it.
        environment_error: Why it cannot tell its environment.
    """

    handle: Handle
    slots: int = 1
    state: str = "starting"
    held: frozenset[str] = frozenset()
    free: int | None = None
    memory: tuple[int, int] | None = None
    computing: dict[int, PendingCall] = field(default_factory=dict)
    loading: list[str] = field(default_factory=list)
    loaded: dict[str, frozenset[str]] = field(default_factory=dict)
    not_loaded: dict[str, str] = field(default_factory=dict)
    abandoned: dict[str, str] = field(default_factory=dict)
    blocked_since: float = 0.0
    environment_due: float = 0.0
    environment_asked: bool = False
    unresponsive: bool = False
    stopped_since: float = 0.0
    reading: bool = False
    since: float = 0.0
    busy_until: float = 0.0
    pause: float = retry.WORKER_PAUSES.first
    landed: int = 0
    deaths: int = 0
    loads: int = 0
    ending: End | None = None
    last_warning: str = ""
    failed_starts: int = 0
    why_unusable: str = ""
    environment: Mapping[str, Any] | None = None
    environment_digest: bytes | None = None
    environment_error: str = ""

    def note_memory(self, held: frozenset[str], free: int | None) -> int:
        """Note what it holds now; returns the bytes of one model that it has loaded since, 0 if unknown."""
        new, before = len(held - self.held), self.free
        self.loads += new
        self.held, self.free = held, free
        return 0 if not new or before is None or free is None else max(0, (before - free) // new)

    def note_loaded(self, name: str, needs: frozenset[str], error: str | None) -> dict[str, str]:
        """Note that it has loaded a model that it was told to load, or why not; returns why it does not hold models, by
        their names: this one, and once it has loaded all, those that were dropped for others.

        Args:
            needs: The digests of the model's weights.
        """
        self.loading.remove(name)
        lacks: dict[str, str] = {}
        if error is not None:
            lacks[name] = error
        else:
            self.loaded[name] = needs & self.held
        if not self.loading:
            gone = [known for known, digests in self.loaded.items() if not digests <= self.held]
            lacks |= dict.fromkeys(gone, "it does not fit into the memory together with the other models")
        self.not_loaded |= lacks
        return lacks

    def note_failed_start(self, why: str, for_good: bool) -> None:
        """Note that it ended before it was ready; `for_good` if another start would end in the same way."""
        self.failed_starts, self.why_unusable = retry.STARTS if for_good else self.failed_starts + 1, why

    def note_end(self) -> None:
        """Note that it has ended: all that was known of its process is forgotten."""
        self.held, self.free, self.memory, self.state = frozenset(), None, None, "dead"
        self.environment, self.environment_digest, self.environment_error = None, None, ""
        self.environment_due, self.environment_asked = 0.0, False
        self.blocked_since, self.stopped_since, self.unresponsive = 0.0, 0.0, False
        self.loading, self.loaded, self.not_loaded = [], {}, {}

    def why_cold(self, names: Iterable[str]) -> str:
        """Why it does not hold all models that it is to load; empty if it does."""
        if self.state != "ready":
            return f"it has not started: {self.why_unusable}" if self.why_unusable else "it is starting"
        if self.loading:
            return f"it loads {self.loading[0]}"
        lacks = [name for name in names if name in self.not_loaded]
        return "; ".join(f"it does not hold {name}: {self.not_loaded[name]}" for name in lacks)

    def note_lost(self, why: str) -> str:
        """Note that it was lost; returns the model that it was loading, which it is not to load again."""
        name = self.loading[0] if self.loading and not self.computing else ""
        if name:
            self.abandoned[name] = why
        return name

    @property
    def is_unusable(self) -> bool:
        """Whether it is not ready, and cannot be expected to be soon."""
        return retry.is_unusable(self.failed_starts)

    @property
    def has_room(self) -> bool:
        """Whether it may begin with more calls."""
        if self.state != "ready" or self.loading or self.blocked_since or self.unresponsive:
            return False
        if len(self.computing) >= self.slots:
            return False
        return not any(call.alone for call in self.computing.values())

    def note_sign(self, number: int, now: float) -> None:
        """Note that it has said something of a call; calls that are computed together give one sign for all."""
        self.unresponsive = False
        this = self.computing.get(number)
        for call in self.computing.values() if self.slots == 1 else filter(None, [this]):
            call.last_sign = now
        if this is not None:
            this.acknowledge_by = 0.0

    def note_acknowledged(self, numbers: Sequence[int]) -> None:
        """Note that it has received calls; without numbers, the question for its environment."""
        if not numbers:
            self.environment_due = 0.0
        for number in numbers:
            if number in self.computing:
                self.computing[number].acknowledge_by = 0.0

    def extend_deadlines(self, seconds: float) -> None:
        """Give it more time to acknowledge messages and to go on: for so many seconds the pool could not read what it
        says."""
        if self.stopped_since:
            self.stopped_since += seconds
        if self.environment_due:
            self.environment_due += seconds
        for call in self.computing.values():
            if call.acknowledge_by:
                call.acknowledge_by += seconds

    def unacknowledged(self, now: float) -> dict[int, PendingCall]:
        """The calls that it should have acknowledged, by number: its process is stopped, or a node holds the
        interpreter's lock."""
        calls = self.computing.items()
        return {number: call for number, call in calls if call.acknowledge_by and now > call.acknowledge_by}

    def is_stopped(self, now: float) -> bool:
        """Whether it acknowledges nothing, and computes no call that is wanted and could be the reason."""
        if not self.unacknowledged(now) and not (self.environment_due and now > self.environment_due):
            return False
        if self.loading or (self.environment_asked and not self.environment_due):  # it imports what computes
            return False
        return all(call.acknowledge_by or call.cancelled_at for call in self.computing.values())

    def has_been_stopped(self, now: float) -> bool:
        """Whether its process has been stopped by a signal for long in the middle of its calls: none of them goes on.

        The system is asked only when it has given no sign for a second.
        """
        works = bool(self.computing or self.loading)
        silent = works and all(now - call.last_sign > 1 for call in self.computing.values())
        stopped = silent and self.handle.is_stopped()
        self.stopped_since = (self.stopped_since or now) if stopped else 0.0
        return stopped and now - self.stopped_since > retry.STOPPED

    def is_blocked(self, now: float) -> bool:
        """Whether it is to be ended for cancelled calls that do not end: at once where it computes nothing else, else
        after other calls have had their time to end."""
        calls = self.computing.values()
        hung = any(call.cancelled_at and now - call.cancelled_at > CALL_GRACE for call in calls)
        self.blocked_since = (self.blocked_since or now) if hung else 0.0
        return hung and (now - self.blocked_since > retry.OTHERS or all(call.cancelled_at for call in calls))

    def may_ever_take(self, item: Item) -> bool:
        """Whether an item may go to it, now or once its environment is known."""
        fits = item.environment is None or self.environment_digest in (None, item.environment)
        return fits and self.handle.name not in item.refused

    def seconds_left(self, now: float) -> float:
        """Seconds until the calls that it computes are expected to end.

        An overdue worker is given as long again as it has taken (the ski-rental rule, Karlin et al. 1988): so calls
        that are left to it wait at most twice as long as they would by the best choice.
        """
        return self.busy_until - now if now < self.busy_until else now - self.since

    def view(self, now: float, load: float, size: int) -> WorkerView:
        """The worker as the scheduler sees it.

        Args:
            load, size: Seconds that loading a model takes, and its bytes.
        """
        free_in, room = 0.0, math.inf if self.free is None or size == 0 else self.free / size
        if self.computing or self.loading or self.state != "ready":
            free_in, room = self.seconds_left(now) if self.computing else math.inf, 0.0
        return WorkerView(self.handle.name, self.held, free_in, load, self.environment_digest, room)

    def status(self) -> Status:
        """The worker as users see it."""
        state = "computing" if self.computing else "loading" if self.loading else self.state
        return Status(
            self.handle.name, self.handle.device, state,
            tuple(pending.call.definition.full_name for pending in self.computing.values()),
            len(self.held), self.landed, self.deaths, self.loads, self.free, self.memory,
        )  # fmt: skip
