"""What a runner keeps of each worker, and of each call that it was given."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphengine.execution.runner import Call
from graphengine.old_names import moved
from graphengine.service import retry
from graphengine.service.scheduling.scheduler import Item, Worker
from graphengine.service.workers.calls import Claims, Status, WorkerError
from graphengine.service.workers.deaths import End
from graphengine.service.workers.process import Handle
from graphengine.system.threads import CALL_GRACE


@dataclass(eq=False)
class Waiting:
    """A call that was taken and has not landed.

    Attributes:
        number: Under which its worker knows it.
        together: With how many it is computed.
        losses: The workers that were lost while they computed it alone.
        loads: How many models its worker has to load for it.
        lacked: What was said when a worker lacked memory for it.
        sign: When its worker said something of it last (`time.monotonic`), or of what it computes together with it.
        due: When its worker must have acknowledged it; 0 once it has.
        stopping: When its worker was told that it is cancelled; 0 if it was not.
        alone: Nothing else is computed beside it: its worker was lost while it computed several.
        share: Whether its values may go through the folder of the store; not any more when some were lost there.
        submitted, waited: When it was taken, in seconds since the epoch, and for how long it waited.
    """

    call: Call
    item: Item
    job: Claims
    number: int = 0
    together: int = 1
    losses: retry.Losses = field(default_factory=retry.Losses)
    loads: int = 0
    lacked: str = ""
    sign: float = 0.0
    due: float = 0.0
    stopping: float = 0.0
    alone: bool = False
    share: bool = True
    submitted: float = field(default_factory=time.time)
    waited: float = 0.0

    def outlived(self, end: End, beside: bool = False) -> bool:
        """Count the end of its worker; whether it is to be tried again, then by itself: what ends a worker should not
        take others with it, and only what dies alone is known to have done it.

        Args:
            beside: Its worker computed others at the same time.
        """
        if self.together == 1 and not beside:
            self.losses = self.losses.and_another(end.fault)
        self.item.group = None
        return self.losses.leave_another_try(self.job.attempts)

    def why_given_up(self, end: End) -> WorkerError:
        """What is told where too many workers were lost of it."""
        name, count = self.call.definition.full_name, self.losses.count
        lost = f"{count} workers were lost while they" if count > 1 else "a worker was lost while it"
        return WorkerError(f"{lost} computed {name}: {end.why}")

    def why_hopeless(self) -> WorkerError:
        """What is told where no worker may take it: each lacked memory, or computes otherwise than an exact job
        needs."""
        if not self.lacked:
            return WorkerError("no worker computes any more as those that the exact job began with; submit it again")
        return WorkerError(
            f"{self.call.definition.full_name} needs more memory than any worker has ({self.lacked}); make smaller "
            "pictures, fewer at once, or hold the model in less memory (offload, tiling, quantization)"
        )


@dataclass(eq=False)
class Post:
    """A worker with what is known of it.

    Attributes:
        slots: How many groups of calls it computes at once; one of more than one is started when it is needed.
        state: `starting`, `ready`, `ending` (it is being ended) or `dead`.
        held, free: What it holds in memory, by digest, and the bytes that it has room for, if known.
        computing: What it computes, by number.
        leaving: Since when calls that nobody wants keep it from its work, and it is given no more; 0 if none do.
        asked: When it must have acknowledged that it is asked how it computes; 0 once it has, or where it is not.
        answering: It has been asked so, and has not answered.
        deaf: It did not acknowledge a call, which was taken back, and is given no more until it says something.
        heeding: Something that it said is being heeded: what it says meanwhile has to wait.
        since: When it began, or was started last.
        until: When it is expected to be idle; of a dead one, when it is started anew.
        pause: Seconds until then, should it die without computing anything.
        landed, deaths, loads: As `Status` tells them.
        ending: How it is being ended, if it is on purpose.
        told: What was said last of its end.
        starts, useless: How often in a row it has ended before it was ready, and why it did last.
        environment, how: How it computes, and that to be compared; None until it has said so.
        unknown: Why it cannot say that.
    """

    handle: Handle
    slots: int = 1
    state: str = "starting"
    held: frozenset[str] = frozenset()
    free: int | None = None
    computing: dict[int, Waiting] = field(default_factory=dict)
    leaving: float = 0.0
    asked: float = 0.0
    answering: bool = False
    deaf: bool = False
    heeding: bool = False
    since: float = 0.0
    until: float = 0.0
    pause: float = retry.WORKER_PAUSES.first
    landed: int = 0
    deaths: int = 0
    loads: int = 0
    ending: End | None = None
    told: str = ""
    starts: int = 0
    useless: str = ""
    environment: Mapping[str, Any] | None = None
    how: bytes | None = None
    unknown: str = ""

    def remember(self, held: frozenset[str], free: int | None) -> int:
        """What it holds now, as it says; returns the bytes of one model that it has loaded for it, 0 if unknown."""
        new, before = len(held - self.held), self.free
        self.loads += new
        self.held, self.free = held, free
        return 0 if not new or before is None or free is None else max(0, (before - free) // new)

    def failed_to_start(self, why: str, for_good: bool) -> None:
        """It has ended before it was ready; `for_good` if it will not be otherwise when it is started again."""
        self.starts, self.useless = retry.STARTS if for_good else self.starts + 1, why

    @property
    def is_useless(self) -> bool:
        """Whether it is not ready, and nobody can expect it to be soon."""
        return retry.is_unusable(self.starts)

    @property
    def has_room(self) -> bool:
        """Whether it may begin with more."""
        if self.state != "ready" or self.leaving or self.deaf or len(self.computing) >= self.slots:
            return False
        return not any(one.alone for one in self.computing.values())

    def heard(self, number: int, now: float) -> None:
        """It has said something of a call; those that are computed together give one sign for all."""
        self.deaf = False
        this = self.computing.get(number)
        for one in self.computing.values() if self.slots == 1 else filter(None, [this]):
            one.sign = now
        if this is not None:
            this.due = 0.0

    def acknowledged(self, numbers: Sequence[int]) -> None:
        """It has received calls, or with none of them the question how it computes."""
        if not numbers:
            self.asked = 0.0
        for number in numbers:
            if number in self.computing:
                self.computing[number].due = 0.0

    def excuse(self, seconds: float) -> None:
        """Give it more time to acknowledge what it was sent: nobody could hear it for so long."""
        if self.asked:
            self.asked += seconds
        for one in self.computing.values():
            if one.due:
                one.due += seconds

    def late(self, now: float) -> dict[int, Waiting]:
        """The calls that it should have acknowledged, by number: its process is stopped, or a node holds the
        interpreter's lock."""
        return {number: one for number, one in self.computing.items() if one.due and now > one.due}

    def is_stopped(self, now: float) -> bool:
        """Whether it acknowledges nothing, and computes nothing that could be why and that somebody wants."""
        if not self.late(now) and not (self.asked and now > self.asked):
            return False
        if self.answering and not self.asked:  # it imports what computes
            return False
        return all(one.due or one.stopping for one in self.computing.values())

    def is_held_up(self, now: float) -> bool:
        """Whether it is to be ended for calls that nobody wants and that do not end: at once where it computes nothing
        else, else when that has had its time to end."""
        hung = any(one.stopping and now - one.stopping > CALL_GRACE for one in self.computing.values())
        self.leaving = (self.leaving or now) if hung else 0.0
        return hung and (now - self.leaving > retry.OTHERS or all(one.stopping for one in self.computing.values()))

    def may_ever_take(self, item: Item) -> bool:
        """Whether an item may go to it, now or when it is known how it computes."""
        return self.handle.name not in item.refused and (item.how is None or self.how in (None, item.how))

    def left(self, now: float) -> float:
        """Seconds until what it computes is expected to end; what is overdue may take as long again as it has already.

        So what is left to it waits no more than twice as long as need be: loading its models elsewhere, which is
        quicker in the end, begins after as much time as it takes (as one who does not know how often they will ski
        rents until that has cost what skis do: Karlin et al. 1988).
        """
        return self.until - now if now < self.until else now - self.since

    def view(self, now: float, load: float, size: int) -> Worker:
        """As the scheduler sees it.

        Args:
            load, size: Seconds that loading a model takes, and its bytes.
        """
        free_in, room = 0.0, math.inf if self.free is None or size == 0 else self.free / size
        if self.computing or self.state != "ready":
            free_in, room = self.left(now) if self.computing else math.inf, 0.0
        return Worker(self.handle.name, self.held, free_in, load, self.how, room)

    def status(self) -> Status:
        """As people see it."""
        return Status(
            self.handle.name, self.handle.device, "computing" if self.computing else self.state,
            tuple(one.call.definition.full_name for one in self.computing.values()),
            len(self.held), self.landed, self.deaths, self.loads, self.free,
        )  # fmt: skip


if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.service.workers.state")
