"""Ready calls of many runs on workers: chosen by the scheduler, joined where they may be, tried again where a worker
was lost or lacked memory, and each landed once."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphengine.cache.disk import DiskStore
from graphengine.definition import NodeDef
from graphengine.errors import Cancelled
from graphengine.keys import identity
from graphengine.runner import Call, ThreadRunner
from graphengine.service.calls import ATTEMPTS, Claims, Landed, Status, how_of, inputs_of, item_of
from graphengine.service.deaths import End, Fault
from graphengine.service.durations import Durations
from graphengine.service.fitness import unfit
from graphengine.service.job_runner import JobRunner
from graphengine.service.limits import Limits
from graphengine.service.local import Handle
from graphengine.service.posts import PAUSE, Post, Waiting
from graphengine.service.schedule import OVERTAKINGS, Item, Scheduler
from graphengine.service.wire import BlobLost, Blobs, Message, Values, error_of

log = logging.getLogger(__name__)

TICK = 0.02
"""Seconds between looks for cancelled calls and hanging workers."""
OVERDUE = 0.25
"""Seconds over what was expected after which others look again at what was left to a worker."""
LULL = 0.01
"""Seconds in which a job's next calls are submitted after one of its calls has landed."""


class WorkerRunner:
    """The runner of a service.

    Args:
        handles: Its workers; they are started here.
        disk: The store whose folder the workers share; None where they share none.
        attempts: Of how many workers' deaths by its own doing a call is not tried again, see `Claims`.
        timeout: Seconds without a sign (progress, a preview, the end) after which a worker is killed; None for never.
        bound: How often a call can be overtaken.
        batch: How many calls are joined at most.
        told: Called with a sentence about each worker that is lost or cannot be started.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        disk: DiskStore | None = None,
        *,
        attempts: int = ATTEMPTS,
        timeout: float | None = None,
        bound: int = OVERTAKINGS,
        batch: int = 32,
        told: Callable[[str], None] = log.warning,
    ) -> None:
        self.attempts, self.timeout, self.told = attempts, timeout, told
        self.values, self.limits = Values(disk), Limits(batch)
        self._scheduler = Scheduler(bound)
        self._waiting: dict[Item, Waiting] = {}
        self._posts = {handle.name: Post(handle) for handle in handles}
        self._numbers = itertools.count(1)
        self.durations = Durations()
        self._size = 0
        self._exact = False
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._here = ThreadRunner(device_threads=1)
        for handle in handles:
            handle.start(self._message, self._lost)
        self._keeper = threading.Thread(target=self._keep, name="graphengine-keeper", daemon=True)
        self._keeper.start()

    # --- taking calls -------------------------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call], job: Claims | None = None, how: bytes | None = None) -> None:
        """Take calls of a job, for workers that compute so; those that need no device are computed by threads of this
        process."""
        job = job or Claims(attempts=self.attempts)
        self._here.submit([call for call in calls if call.definition.on != "device"])
        waiting = [Waiting(call, item_of(call, job, how), job) for call in calls if call.definition.on == "device"]
        with self._lock:
            for one in waiting:
                one.item.cost = self.durations.of(one.call.definition.full_name)
                self._waiting[one.item] = one
            self._scheduler.add(*[one.item for one in waiting])
        self._dispatch()

    def in_place(self, definition: NodeDef[..., Any]) -> bool:
        """Whether a job's own thread computes a node with `on="here"`."""
        return True

    def unwanted(self) -> None:
        """A run has ended before its time: the threads of this process are left to its calls that do not end soon;
        workers are looked after by the keeper."""
        self._here.unwanted()

    def of(self, job: Claims) -> JobRunner:
        """The runner that a job's run is given; an exact job waits for it until a worker has said how it computes.

        Raises:
            Cancelled: The job was, meanwhile.
        """
        return JobRunner(self, job, self._environment(job.cancelled) if job.exact else None)

    def _environment(self, cancelled: Callable[[], bool]) -> Mapping[str, Any]:
        """How most of the workers compute; they say so when they are asked, since it imports what computes."""
        with self._lock:
            first, self._exact = not self._exact, True
            asked = [post.handle for post in self._posts.values() if first and post.state == "ready"]
        for handle in asked:
            handle.send({"op": "environment"}, {})
        while not cancelled() and not self._closing.is_set():
            with self._lock:
                known = [post.environment for post in self._posts.values() if post.environment is not None]
            if known:
                return max(known, key=known.count)
            time.sleep(TICK)
        raise Cancelled("cancelled before a worker was there")

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
            return {one.job.number for one in self._waiting.values()}

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
        self._here.close()
        for one in left:
            one.call.landed(Cancelled("the service is stopping"), 0.0, {})

    # --- giving them to workers ---------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give every idle worker what it should compute next."""
        given: list[tuple[Post, list[Waiting]]] = []
        with self._lock:
            # Again, until none takes anything: what one has left to another, that other may have left for better.
            while more := [(post, group) for post in self._posts.values() if (group := self._take(post))]:
                given += more
        for post, group in given:
            self._send(post, group)

    def _take(self, post: Post) -> list[Waiting]:
        """What a worker begins now; nothing where it is not idle."""
        if post.state != "ready" or post.computing or self._closing.is_set():
            return []
        now, device = time.monotonic(), post.handle.device
        worker, *others = [
            one.view(now, self.durations.load, self._size)
            for one in (post, *(other for other in self._posts.values() if other is not post))
        ]
        limit, seconds = functools.partial(self._limit, device), functools.partial(self._seconds, device)
        items = self._scheduler.take(worker, others, limit, seconds)
        return self._begin(post, [self._waiting[item] for item in items], now) if items else []

    def _limit(self, device: str, item: Item) -> int:
        return self.limits.of(item.group, device)

    def _seconds(self, device: str, item: Item) -> float:
        """What a call is expected to take: as others of its group, else as others of its node."""
        known = self.limits.seconds(item.group, device) if item.group is not None else None
        return known if known is not None else self.durations.of(self._waiting[item].call.definition.full_name)

    def _begin(self, post: Post, group: list[Waiting], now: float) -> list[Waiting]:
        for one in group:
            one.number, one.together, one.stopping = next(self._numbers), len(group), False
            one.waited, one.loads = time.time() - one.submitted, len(one.item.models - post.held)
            post.computing[one.number] = one
            one.job.taken(one.call.context.node, post.handle.name)
            one.call.context.begin()
        post.sign = post.since = now
        seconds = self._seconds(post.handle.device, group[0].item)
        post.until = now + seconds * len(group) + group[0].loads * self.durations.load
        return group

    def _send(self, post: Post, group: list[Waiting]) -> None:
        blobs: Blobs = {}
        items = []
        for one in group:
            call, context = one.call, one.call.context
            try:
                inputs = inputs_of(call, self.values, blobs, one.share)
            except Exception as error:
                self._land(post, one.number, error, 0.0, {})
                continue
            made = {k: dict(v) for k, v in context.made.items()}
            facts = {"node": context.node, "exact": call.exact, "made": made, "watched": context.watched}
            items.append({"call": one.number, "inputs": inputs, "share": one.share, **facts})
        if items:
            name = group[0].call.definition.full_name
            post.handle.send({"op": "calls", "node": name, "items": items}, blobs)
        else:
            self._dispatch()

    # --- what workers say ---------------------------------------------------------------------------------------------

    def _message(self, handle: Handle, message: Message, blobs: Blobs) -> None:
        """Called by each worker's listener."""
        post = self._posts[handle.name]
        op = message["op"]
        with self._lock:
            post.sign = time.monotonic()
            one = post.computing.get(message.get("call", 0))
            if "held" in message:
                size = post.remember(frozenset(message["held"]), message["free"])
                self._size = max(self._size, size)
            if op == "ready" and (why := unfit(message)) is not None:
                post.ending, post.pause, op = End(why, Fault.NOBODY), PAUSE[1], "unfit"
                handle.kill()
            if op == "ready":
                post.state = "ready"
            if op == "environment":
                post.environment, post.how = message["facts"], how_of(message["facts"])
        if op == "ready":
            if self._exact:
                handle.send({"op": "environment"}, {})
            self._dispatch()
        elif op == "environment":
            self._dispatch()
        elif op == "warning":
            self.told(f"worker {handle.name}: {message['text']}")
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
        except Exception:
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
            except Exception as damage:  # a codec that fails
                outcome = damage
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
        with self._lock:
            first = next(iter(self._scheduler), None)
            long = first is not None and self._seconds(post.handle.device, first) > 100 * LULL
        if long and not post.computing:
            time.sleep(LULL)

    def _lacked(self, post: Post, one: Waiting, error: Mapping[str, Any]) -> None:
        """Memory ran out: fewer at once, then another worker, then advice."""
        with self._lock:
            if one.together > 1:
                self.limits.lacked(one.item.group, post.handle.device, one.together)
            else:
                one.item.refused.add(post.handle.name)
                one.lacked = str(error["message"])
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
            post.pause = PAUSE[0]
        error = str(outcome) if isinstance(outcome, BaseException) else None
        one.job.landed(
            Landed(
                one.call.context.node, one.call.definition.full_name, post.handle.name, post.handle.device,
                one.submitted, one.waited, seconds, int(facts.get("batch", 1)), one.loads, error,
            )
        )  # fmt: skip
        one.call.landed(outcome, seconds, {**facts, "worker": post.handle.name})

    def _lost(self, handle: Handle, end: End) -> None:
        """Called by a worker's listener at its end."""
        post = self._posts[handle.name]
        dead: list[Waiting] = []
        with self._lock:
            group, post.computing = list(post.computing.values()), {}
            post.held, post.free, post.state, post.environment, post.how = frozenset(), None, "dead", None, None
            end, post.ending = post.ending or end, None
            if self._closing.is_set():
                return
            post.deaths += 1
            for one in group:
                if one.outlived(end):
                    self._scheduler.put_back(one.item)
                else:
                    dead.append(one)
                    del self._waiting[one.item]
            post.until = time.monotonic() + (0.0 if group else post.pause)
            post.pause = PAUSE[0] if group else min(PAUSE[1], 2 * post.pause)
        names = ", ".join(one.call.definition.full_name for one in group) or "nothing"
        sentence = f"worker {handle.name} was lost while it computed {names}: {end.why}"
        if group or sentence != post.told:  # one that cannot be of use is started again and again
            self.told(sentence)
        post.told = sentence
        for one in group:
            one.job.lost(handle.name, sentence)
        for one in dead:
            one.call.landed(one.why_given_up(end), 0.0, {})
        self._dispatch()

    def _is_hopeless(self, one: Waiting) -> bool:
        """Whether no worker may take it."""
        return not any(post.may_ever_take(one.item) for post in self._posts.values())

    # --- keeping watch ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Tell workers of cancelled calls, let those that wait go, end workers that hang, start lost ones anew."""
        while not self._closing.wait(TICK):
            gone: list[Waiting] = []
            cancels: list[tuple[Handle, int]] = []
            starts: list[Handle] = []
            with self._lock:
                now = time.monotonic()
                for one in list(self._waiting.values()):
                    unwanted = one.call.context.cancelled or self._is_hopeless(one)
                    if unwanted and self._scheduler.remove(one.item):
                        del self._waiting[one.item]
                        gone.append(one)
                for post in self._posts.values():
                    for number, one in post.computing.items():
                        if one.call.context.cancelled and not one.stopping:
                            one.stopping = True
                            cancels.append((post.handle, number))
                    if post.computing and self.timeout is not None and now - post.sign > self.timeout:
                        post.ending = End(f"it gave no sign for {self.timeout:g} s and was ended", Fault.CALL)
                        post.sign = now
                        post.handle.kill()
                    if post.state == "dead" and now >= post.until:
                        post.state = "starting"
                        starts.append(post.handle)
                overdue = any(post.computing and now > post.until + OVERDUE for post in self._posts.values())
            for one in gone:
                cancelled = one.call.context.cancelled
                one.call.landed(Cancelled("cancelled before it began") if cancelled else one.why_hopeless(), 0.0, {})
            for handle, number in cancels:
                handle.send({"op": "cancel", "call": number}, {})
            for handle in starts:
                handle.start(self._message, self._lost)
            if overdue:
                self._dispatch()
