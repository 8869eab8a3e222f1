"""Ready calls of many runs on workers: chosen by the scheduler, joined where they may be, tried again where a worker
was lost or lacked memory, and each landed once."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphengine.cache.disk import DiskStore
from graphengine.declare.definition import NodeDef
from graphengine.errors import Cancelled, as_exception, text_of
from graphengine.execution.runner import Call, ThreadRunner
from graphengine.keys.call_key import identity
from graphengine.service import retry
from graphengine.service.retry import Fault
from graphengine.service.scheduling.batch_limits import Limits
from graphengine.service.scheduling.durations import Durations
from graphengine.service.scheduling.fairness import OVERTAKINGS
from graphengine.service.scheduling.scheduler import Item, Scheduler
from graphengine.service.workers.calls import (
    Claims,
    Landed,
    Status,
    WorkerError,
    how_of,
    inputs_of,
    item_of,
    stays,
)
from graphengine.service.workers.compatibility import unfit
from graphengine.service.workers.deaths import End
from graphengine.service.workers.process import Handle
from graphengine.service.workers.share import JobRunner
from graphengine.service.workers.state import Post, Waiting
from graphengine.service.workers.wire import BlobLost, Blobs, Message, Values, error_of
from graphengine.system.threads import start

log = logging.getLogger(__name__)

TICK = 0.02
"""Seconds between looks for cancelled calls and hanging workers."""
OVERDUE = 0.25
"""Seconds over what was expected after which others look again at what was left to a worker."""
ABSENCE = 1.0
"""Seconds between two looks of the keeper after which this process was stopped or asleep, and heard nobody."""
LULL = 0.01
"""Seconds in which a job's next calls are submitted after one of its calls has landed."""
HELPED = 64
"""Calls that need no device, and that a helper computes at once: each has a thread of its own there."""


class WorkerRunner:
    """The runner of a service.

    Args:
        handles: Its workers; they are started here.
        disk: The store whose folder the workers share; None where they share none.
        attempts: After how many crashes of workers a call that has caused them fails, see `retry.Losses`.
        timeout: Seconds without a sign (progress, a preview, the end) after which a worker is killed; None for never.
        bound: How often a call can be overtaken.
        batch: How many calls are joined at most.
        told: Called with a sentence about each worker that is lost or cannot be started.
        helpers: Workers for what needs no device, started when there is something for them; without them that is
            computed in this process, where a node that does not end cannot be ended.
        slots: How many groups of calls each worker computes at once.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        disk: DiskStore | None = None,
        *,
        attempts: int = retry.CRASHES,
        timeout: float | None = None,
        bound: int = OVERTAKINGS,
        batch: int = 32,
        told: Callable[[str], None] = log.warning,
        helpers: Sequence[Handle] = (),
        slots: int = 1,
    ) -> None:
        self.attempts, self.timeout, self.told = attempts, timeout, told
        self.values, self.limits = Values(disk), Limits(batch)
        self._scheduler = Scheduler(bound)
        self._waiting: dict[Item, Waiting] = {}
        self._slots = slots
        self._posts = {handle.name: Post(handle, slots, "starting" if slots == 1 else "dead") for handle in handles}
        self._numbers = itertools.count(1)
        self.durations = Durations()
        self._size = 0
        self._exact = False
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._looked = time.monotonic()
        self._useless_since = 0.0  # since when no worker is of use; 0 where one is, or may be soon
        self._here = ThreadRunner(device_threads=1)
        self._helpers: WorkerRunner | None = None
        if helpers:
            common: dict[str, Any] = {"attempts": attempts, "timeout": timeout, "bound": bound, "told": told}
            self._helpers = WorkerRunner(helpers, disk, batch=1, slots=HELPED, **common)
        self._keeper = start(self._keep, "graphengine-keeper")
        for post in self._posts.values():
            if post.state == "starting":
                self._start(post.handle)

    # --- taking calls -------------------------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call], job: Claims | None = None, how: bytes | None = None) -> None:
        """Take calls of a job, for workers that compute so; those that need no device are computed by helpers, or by
        threads of this process."""
        job = job or Claims(attempts=self.attempts)
        rest = [call for call in calls if call.definition.on != "device"]
        if self._helpers is not None:
            self._helpers.take([call for call in rest if not stays(call.definition)], job)
            rest = [call for call in rest if stays(call.definition)]
        self._here.submit(rest)
        self.take([call for call in calls if call.definition.on == "device"], job, how)

    def take(self, calls: Sequence[Call], job: Claims, how: bytes | None = None) -> None:
        """Take calls for the workers, whatever they need."""
        waiting: list[Waiting] = []
        for call in calls:
            try:
                waiting.append(Waiting(call, item_of(call, job, how), job))
            except BaseException as error:  # what a pack says its values need
                call.landed(as_exception(error), 0.0, {})
        with self._lock:
            for one in waiting:
                one.item.cost = self.durations.of(one.call.definition.full_name)
                self._waiting[one.item] = one
            self._scheduler.add(*[one.item for one in waiting])
        self._dispatch()

    def in_place(self, definition: NodeDef[..., Any]) -> bool:
        """Whether a job's own thread computes a node with `on="here"`."""
        return self._helpers is None or stays(definition)

    def unwanted(self) -> None:
        """A run has ended before its time: the threads of this process are left to its calls that do not end soon;
        workers are looked after by the keeper."""
        self._here.unwanted()

    def of(self, job: Claims) -> JobRunner:
        """The runner that a job's run is given; an exact job waits for it until a worker has said how it computes.

        Raises:
            Cancelled: The job was, meanwhile.
        """
        return JobRunner(self, job, self._environment(job) if job.exact else None)

    def _environment(self, job: Claims) -> Mapping[str, Any]:
        """How most of the workers compute; they say so when they are asked, since it imports what computes."""
        with self._lock:
            first, self._exact = not self._exact, True
            asked = [post for post in self._posts.values() if first and post.state == "ready"]
        for post in asked:
            self._ask(post)
        while not job.cancelled() and not self._closing.is_set():
            if job.number is None and (why := self.why_useless()) is not None:
                raise WorkerError(why)
            with self._lock:
                known = [post.environment for post in self._posts.values() if post.environment is not None]
                failed = [post.unknown for post in self._posts.values() if post.unknown]
            if known:
                return max(known, key=known.count)
            if len(failed) == len(self._posts):
                raise WorkerError(f"no worker can say how it computes, which an exact job must know: {failed[0]}")
            time.sleep(TICK)
        raise Cancelled("cancelled before a worker was there")

    def _ask(self, post: Post) -> None:
        """Ask a worker how it computes."""
        post.asked, post.answering = retry.acknowledged_by(time.monotonic()), True
        post.handle.send({"op": "environment"}, {})

    def status(self) -> list[Status]:
        """Every worker as it is now."""
        with self._lock:
            return [post.status() for post in self._posts.values()]

    def waiting(self) -> int:
        """How many calls wait for a worker."""
        with self._lock:
            return len(self._scheduler)

    def waiting_jobs(self) -> set[int | None]:
        """The jobs that wait for a worker."""
        with self._lock:
            found = {one.job.number for one in self._waiting.values()}
        return found if self._helpers is None else found | self._helpers.waiting_jobs()

    def lacking(self) -> dict[int | None, str]:
        """The jobs that wait for a worker where none is of use, with why."""
        found = {} if self._helpers is None else self._helpers.lacking()
        if (why := self.why_useless()) is not None:
            with self._lock:
                found |= dict.fromkeys((one.job.number for one in self._waiting.values()), why)
        return found

    def why_useless(self) -> str | None:
        """Why no worker has been of use for a while, and none is to be expected; None if one is."""
        with self._lock:
            if not retry.lack_workers(self._useless_since, time.monotonic()):
                return None
            why = {post.useless: post.handle.name for post in self._posts.values()}
        return "no worker can be used: " + "; ".join(f"{name}: {text}" for text, name in why.items())

    def wait_until_ready(self, timeout: float) -> bool:
        """Wait until every worker has started; whether all have."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if all(status.state != "starting" for status in self.status()):
                return True
            time.sleep(TICK)
        return False

    def close(self) -> None:
        """Stop the workers; what they compute is lost."""
        self._closing.set()
        self._keeper.join()
        with self._lock:
            left = [*self._waiting.values()]
            self._waiting.clear()
        for post in self._posts.values():
            post.handle.kill()
        for one in left:
            one.call.landed(Cancelled("the service is stopping"), 0.0, {})
        if self._helpers is not None:
            self._helpers.close()
        self._here.close()

    # --- giving them to workers ---------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give every idle worker what it should compute next."""
        sent = [True]
        while sent:  # again, where nothing of what was taken could be sent
            given: list[tuple[Post, list[Waiting]]] = []
            with self._lock:
                # Again, until none takes anything: what one has left to another, that other may have left for better.
                while more := [(post, group) for post in self._posts.values() if (group := self._take(post))]:
                    given += more
            sent = [True for post, group in given if not self._send(post, group)]

    def _take(self, post: Post) -> list[Waiting]:
        """What a worker begins now; nothing where it is not idle."""
        if not post.has_room or self._closing.is_set() or not len(self._scheduler):
            return []
        now, device = time.monotonic(), post.handle.device
        worker, *others = [
            one.view(now, self.durations.load, self._size)
            for one in (post, *(other for other in self._posts.values() if other is not post))
        ]
        limit, seconds = functools.partial(self._limit, device), functools.partial(self._seconds, device)
        items = self._scheduler.take(worker, others if self._slots == 1 else (), limit, seconds)
        if post.computing and any(self._waiting[item].alone for item in items):
            for item in items:
                self._scheduler.put_back(item)
            return []
        return self._begin(post, [self._waiting[item] for item in items], now) if items else []

    def _limit(self, device: str, item: Item) -> int:
        return self.limits.of(item.group, device)

    def _seconds(self, device: str, item: Item) -> float:
        """What a call is expected to take: as others of its group, else as others of its node."""
        known = self.limits.seconds(item.group, device) if item.group is not None else None
        return known if known is not None else self.durations.of(self._waiting[item].call.definition.full_name)

    def _begin(self, post: Post, group: list[Waiting], now: float) -> list[Waiting]:
        for one in group:
            one.number, one.together, one.stopping, one.sign = next(self._numbers), len(group), 0.0, now
            one.due = math.inf  # until it is sent
            one.waited, one.loads = time.time() - one.submitted, len(one.item.models - post.held)
            post.computing[one.number] = one
            one.job.taken(one.call.context.node, post.handle.name)
            one.call.context.begin()
        post.since = now
        seconds = self._seconds(post.handle.device, group[0].item)
        post.until = now + seconds * len(group) + group[0].loads * self.durations.load
        return group

    def _send(self, post: Post, group: list[Waiting]) -> bool:
        """Send calls to a worker; whether there was anything to send."""
        blobs: Blobs = {}
        items = []
        for one in group:
            call, context = one.call, one.call.context
            try:
                inputs = inputs_of(call, self.values, blobs, one.share)
                making = {name: dict(context.making(name, call.inputs[name])) for name in _saved(call)}
            except BaseException as error:
                self._land(post, one.number, as_exception(error), 0.0, {})
                continue
            made = {k: dict(v) for k, v in context.made.items()}
            facts = {"node": context.node, "exact": call.exact, "made": made, "watched": context.watched}
            items.append({"call": one.number, "inputs": inputs, "share": one.share, "making": making, **facts})
        if not items:
            return False
        try:
            name = group[0].call.definition.full_name
            due = retry.acknowledged_by(time.monotonic(), sum(map(len, blobs.values())))
            for one in group:
                one.due = due
            post.handle.send({"op": "calls", "node": name, "items": items}, blobs)
        except BaseException as error:  # no memory for the message; a note of a node that is no data
            for one in group:
                self._land(post, one.number, as_exception(error), 0.0, {})
            return False
        return True

    # --- what workers say ---------------------------------------------------------------------------------------------

    def _message(self, handle: Handle, message: Message, blobs: Blobs) -> None:
        """Called by each worker's listener. Whatever raises, no call waits for it for ever."""
        post = self._posts[handle.name]
        post.heeding = True
        try:
            self._heed(post, message, blobs)
        except BaseException as error:
            log.exception("worker %s has said what could not be heeded", handle.name)
            if message.get("op") == "landed":
                self._land(post, message.get("call", 0), as_exception(error), 0.0, {})
                self._dispatch()
        finally:
            post.heeding = False

    def _heed(self, post: Post, message: Message, blobs: Blobs) -> None:
        op, handle = message["op"], post.handle
        with self._lock:
            post.heard(message.get("call", 0), time.monotonic())
            one = post.computing.get(message.get("call", 0))
            if "held" in message:
                size = post.remember(frozenset(message["held"]), message["free"])
                self._size = max(self._size, size)
            if op == "ready" and (why := unfit(message)) is not None:
                post.ending, post.pause, op = End(why, Fault.NOBODY), retry.WORKER_PAUSES.most, "unfit"
                post.failed_to_start(why, for_good=True)
                handle.kill()
            if op == "ready":
                post.state, post.starts = "ready", 0
            if op == "taken":
                post.acknowledged(message["calls"])
            post.answering = post.answering and op != "environment"
            if op == "environment" and "error" in message:
                post.unknown = str(message["error"])
            elif op == "environment":
                post.environment, post.how = message["facts"], how_of(message["facts"])
        if op == "ready":
            if self._exact:
                self._ask(post)
            self._dispatch()
        elif op == "environment":
            self._dispatch()
        elif op == "warning":
            self._say(f"worker {handle.name}: {message['text']}")
        elif one is None:
            return
        elif op == "progress":
            self._tell(one, lambda: one.call.context.progress(message["step"], message["total"]))
        elif op == "preview":
            self._tell(one, lambda: one.call.context.preview(self.values.decode(message["tree"], blobs)))
        elif op == "landed":
            self._answer(post, one, message, blobs)

    def _tell(self, one: Waiting, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Cancelled:
            pass  # the keeper tells the worker
        except BaseException:  # a codec, or who listens
            about = {"job": one.job.number, "node": one.call.context.node}
            log.exception("a preview of %s could not be shown", one.call.definition.full_name, extra=about)

    def _answer(self, post: Post, one: Waiting, message: Message, blobs: Blobs) -> None:
        error, seconds = message.get("error"), float(message["seconds"])
        size = int(message.get("facts", {}).get("batch", 1))
        group, device = one.item.group, post.handle.device
        if error is not None and error["memory"] and not one.call.context.cancelled:
            self._lacked(post, one, error)
        elif error is not None and error["type"] == BlobLost.__name__ and one.share:
            self._send_again(post, one)
        elif error is not None:
            cancelled = error["type"] == "Cancelled"
            outcome = Cancelled(error["message"]) if cancelled else error_of(error)
            self._land(post, one.number, outcome, seconds, {})
        else:
            try:
                outcome = self.values.decode(message["tree"], blobs)
            except BlobLost as lost:
                if one.share:
                    self._send_again(post, one)
                    self._dispatch()
                    return
                outcome = lost
            except BaseException as damage:  # a codec that fails
                outcome = as_exception(damage)
            # What a node reads beside its inputs may be other data in a worker than in this process.
            one.call.kept = message.get("identity") in (None, identity(one.call.definition).hex())
            with self._lock:
                self.durations.took(one.call.definition.full_name, seconds, one.together, one.loads)
            if group is not None:
                self.limits.took(group, device, size, seconds)
            self._land(post, one.number, outcome, seconds, message["facts"])
            self._lull(post)
        self._dispatch()

    def _lull(self, post: Post) -> None:
        """Wait a moment where the next call is long: what follows from the one that landed may be short, and first."""
        if self._slots > 1:
            return
        with self._lock:
            first = next(iter(self._scheduler), None)
            long = first is not None and self._seconds(post.handle.device, first) > 100 * LULL
        if long and not post.computing:
            time.sleep(LULL)

    def _lacked(self, post: Post, one: Waiting, error: Mapping[str, Any]) -> None:
        """Memory ran out: fewer at once, then another worker, then advice."""
        with self._lock:
            if retry.remedy_for_memory(one.together) is retry.Remedy.FEWER:
                self.limits.lacked(one.item.group, post.handle.device, one.together)
            else:
                one.item.refused.add(post.handle.name)
                one.lacked = str(error["message"] or error["type"])
            hopeless = self._is_hopeless(one)
            if not hopeless:
                del post.computing[one.number]
                self._scheduler.put_back(one.item)
        if hopeless:
            self._land(post, one.number, one.why_hopeless(), 0.0, {})

    def _send_again(self, post: Post, one: Waiting) -> None:
        """Bytes of a call were lost in the store's folder: compute it once more, with all bytes in the messages."""
        with self._lock:
            if post.computing.pop(one.number, None) is not None:
                one.share = False
                self._scheduler.put_back(one.item)

    def _land(self, post: Post, number: int, outcome: Any, seconds: float, facts: Mapping[str, Any]) -> None:
        with self._lock:
            one = post.computing.pop(number, None)
            if one is None or self._waiting.pop(one.item, None) is None:
                return
            post.landed += 1
            post.pause = retry.WORKER_PAUSES.first
        try:
            error = text_of(outcome) if isinstance(outcome, BaseException) else None
            one.job.landed(
                Landed(
                    one.call.context.node, one.call.definition.full_name, post.handle.name, post.handle.device,
                    one.submitted, one.waited, seconds, int(facts.get("batch", 1)), one.loads, error,
                )
            )  # fmt: skip
        finally:
            one.call.landed(outcome, seconds, {**facts, "worker": post.handle.name})

    def _lost(self, handle: Handle, end: End) -> None:
        """Called by a worker's listener at its end."""
        post = self._posts[handle.name]
        dead: list[Waiting] = []
        with self._lock:
            group, post.computing = list(post.computing.values()), {}
            on_purpose = post.state == "ending" and not group
            if post.state == "starting" and post.ending is None:
                post.failed_to_start(end.why, for_good=False)
            post.held, post.free, post.state, post.environment, post.how = frozenset(), None, "dead", None, None
            post.leaving, post.asked, post.answering, post.deaf, post.unknown = 0.0, 0.0, False, False, ""
            end, post.ending = post.ending or end, None
            if self._closing.is_set():
                return
            if on_purpose:  # nobody's death
                post.until, post.pause = time.monotonic(), retry.WORKER_PAUSES.first
                return  # the keeper starts it anew at once
            post.deaths += 1
            beside = self._slots > 1 and len(group) > 1  # of which it died is not known: each is tried alone
            for one in group:
                one.alone |= beside
                if one.outlived(end, beside):
                    self._scheduler.put_back(one.item)
                else:
                    dead.append(one)
                    del self._waiting[one.item]
            seconds, post.pause = retry.restart(post.pause, computed=bool(group))
            post.until = time.monotonic() + seconds
        names = ", ".join(one.call.definition.full_name for one in group) or "nothing"
        sentence = f"worker {handle.name} was lost while it computed {names}: {end.why}"
        if group or sentence != post.told:  # one that cannot be of use is started again and again
            self._say(sentence)
        post.told = sentence
        for one in group:
            try:
                one.job.lost(handle.name, sentence)
            except Exception:  # it goes on without this in its history
                log.exception("%s", sentence, extra={"job": one.job.number})
        for one in dead:
            one.call.landed(one.why_given_up(end), 0.0, {})
        self._dispatch()

    def _say(self, sentence: str) -> None:
        """Tell people of a worker; whether that can be heard is no concern of those who wait."""
        try:
            self.told(sentence)
        except Exception:
            log.exception("%s", sentence)

    def _is_hopeless(self, one: Waiting) -> bool:
        """Whether no worker may take it."""
        return not any(post.may_ever_take(one.item) for post in self._posts.values())

    # --- keeping watch ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Look after workers and calls, whatever happens: everything waits for this thread."""
        while not self._closing.wait(TICK):
            try:
                self._look_after()
            except Exception:
                log.exception("the workers could not be looked after; it is tried again")
                self._closing.wait(retry.WORKER_PAUSES.first)

    def _look_after(self) -> None:
        """Tell workers of cancelled calls, let those that wait go, take back what is not acknowledged, end workers that
        hang or are held up, start lost ones anew."""
        gone: list[Waiting] = []
        cancels: list[tuple[Handle, int]] = []
        ended: list[tuple[Post, End]] = []
        taken_back = False
        with self._lock:
            now = time.monotonic()
            passed, self._looked = now - self._looked, now
            useless = all(post.is_useless for post in self._posts.values())
            self._useless_since = (self._useless_since or now) if useless else 0.0
            why = self.why_useless()
            for one in list(self._waiting.values()):
                hopeless = self._is_hopeless(one) or (why is not None and one.job.number is None)
                unwanted = one.call.context.cancelled or hopeless
                if unwanted and self._scheduler.remove(one.item):
                    del self._waiting[one.item]
                    gone.append(one)
            for post in self._posts.values():
                for number, one in post.computing.items():
                    if one.call.context.cancelled and not one.stopping:
                        one.stopping = now
                        cancels.append((post.handle, number))
                if post.heeding or passed > ABSENCE:
                    post.excuse(passed)
                if post.state != "ready":
                    continue
                if (end := self._hangs(post, now)) is not None:
                    post.state, post.ending = "ending", end
                    ended.append((post, end))
                    gone += self._put_back(post, self._blameless(post, now))
                elif late := post.late(now):
                    post.deaf = taken_back = True
                    cancels += [(post.handle, number) for number in late]
                    gone += self._put_back(post, late)
            starts = [post.handle for post in self._posts.values() if self._is_due(post, now)]
            overdue = any(post.computing and now > post.until + OVERDUE for post in self._posts.values())
        for handle, number in cancels:
            handle.send({"op": "cancel", "call": number}, {})
        for post, end in ended:
            post.handle.kill()
            if end.fault is Fault.NOBODY:  # the other is told when it has ended
                self._say(f"worker {post.handle.name} was ended: {end.why}")
        for one in gone:
            cancelled = one.call.context.cancelled
            error = one.why_hopeless() if why is None else WorkerError(why)
            one.call.landed(Cancelled("nobody wants it any more") if cancelled else error, 0.0, {})
        for handle in starts:
            self._start(handle)
        if overdue or ended or taken_back:
            self._dispatch()

    def _hangs(self, post: Post, now: float) -> End | None:
        """Why a worker is to be ended: a call that nobody wants does not end, it takes no call up, or one gives no
        sign."""
        if post.is_held_up(now):
            names = {one.call.definition.full_name for one in post.computing.values() if one.stopping}
            return End(f"{', '.join(sorted(names))} was cancelled and did not end", Fault.NOBODY)
        if post.is_stopped(now):
            return End(f"it did not take up what it was sent within {retry.ACKNOWLEDGED:g} s", Fault.NOBODY)
        if any(self._is_silent(one, now) for one in post.computing.values()):
            return End(f"it gave no sign for {self.timeout:g} s and was ended", Fault.CALL)
        return None

    def _is_silent(self, one: Waiting, now: float) -> bool:
        return self.timeout is not None and not one.due and now - one.sign > self.timeout

    def _blameless(self, post: Post, now: float) -> dict[int, Waiting]:
        """The calls of a worker that is to be ended which its end does not count against, by number."""
        return {n: one for n, one in post.computing.items() if one.stopping or not self._is_silent(one, now)}

    def _put_back(self, post: Post, calls: Mapping[int, Waiting]) -> list[Waiting]:
        """Take calls from a worker, to be computed elsewhere; returns those that nobody wants."""
        unwanted = []
        for number, one in calls.items():
            del post.computing[number]
            if one.stopping:
                del self._waiting[one.item]
                unwanted.append(one)
            else:
                self._scheduler.put_back(one.item)
        return unwanted

    def _is_due(self, post: Post, now: float) -> bool:
        """Whether a worker is to be started; the caller does so."""
        if post.state != "dead" or now < post.until:
            return False
        if self._slots > 1 and not self._is_needed(post):
            return False
        post.state, post.since = "starting", now
        return True

    def _is_needed(self, post: Post) -> bool:
        """Whether there is something for a worker that no other will take soon: what lacked memory there goes to
        another one."""
        coming = [other for other in self._posts.values() if self._is_coming(other, time.monotonic())]
        waiting = (item for item in self._scheduler if item.refused or not coming)
        return any(
            post.may_ever_take(item) and not any(other.may_ever_take(item) for other in coming) for item in waiting
        )

    def _is_coming(self, post: Post, now: float) -> bool:
        return (post.state == "starting" and retry.is_starting(post.since, now)) or post.has_room

    def _start(self, handle: Handle) -> None:
        try:
            handle.start(self._message, self._lost)
        except Exception as error:  # no thread, no memory; it may be otherwise in a while
            self._lost(handle, End(f"it cannot be started: {error}", Fault.NOBODY))


def _saved(call: Call) -> Sequence[str]:
    """The inputs that a node may save with their making, which is known in this process only."""
    definition = call.definition
    return list(call.inputs) if definition.output and definition.context_parameter is not None else ()
