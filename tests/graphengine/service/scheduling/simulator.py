"""Virtual time for the real scheduler: devices that hold a few models each, jobs that arrive, loads that cost."""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphengine.service.scheduling.scheduler import Item, Scheduler, WorkerView


@dataclass
class Job:
    """A job of one picture."""

    arrival: float
    model: str
    seconds: float = 1.0
    user: str = ""
    priority: int = 0


@dataclass
class Outcome:
    """What a simulation gave."""

    loads: int = 0
    makespan: float = 0.0
    waits: list[float] = field(default_factory=list)
    waits_by_user: dict[str, list[float]] = field(default_factory=dict)
    overtaken: int = 0

    def wait(self, part: float) -> float:
        """The wait that a part of the jobs did not exceed."""
        return sorted(self.waits)[min(len(self.waits) - 1, int(part * len(self.waits)))]


@dataclass
class Device:
    name: str
    room: int
    load: float
    speed: float = 1.0
    held: OrderedDict[str, None] = field(default_factory=OrderedDict)
    busy_until: float = 0.0

    def view(self, now: float) -> WorkerView:
        """As the scheduler sees it."""
        idle = self.busy_until <= now
        room = self.room - len(self.held) if idle else 0
        return WorkerView(self.name, frozenset(self.held), max(0.0, self.busy_until - now), self.load, room=room)

    def use(self, model: str) -> bool:
        """Hold a model, least recently used ones going; whether it had to be loaded."""
        new = model not in self.held
        self.held[model] = None
        self.held.move_to_end(model)
        while len(self.held) > self.room:
            self.held.popitem(last=False)
        return new


def zipf_jobs(count: int, models: int, rate: float, seed: int, exponent: float = 1.0) -> list[Job]:
    """Jobs that arrive at random (Poisson), their models by Zipf's law."""
    rng = random.Random(seed)
    names = [f"m{n}" for n in range(models)]
    weights = [1 / (n + 1) ** exponent for n in range(models)]
    time, jobs = 0.0, []
    for _ in range(count):
        time += rng.expovariate(rate)
        jobs.append(Job(time, rng.choices(names, weights)[0]))
    return jobs


def simulate(jobs: Sequence[Job], devices: Sequence[Device], bound: int | None) -> Outcome:
    """Run jobs through the scheduler; a bound of None is first in, first out."""
    scheduler, outcome = Scheduler(0 if bound is None else bound), Outcome()
    events: list[tuple[float, int, int, Job | Device]] = [(job.arrival, 0, n, job) for n, job in enumerate(jobs)]
    heapq.heapify(events)
    known: dict[int, Job] = {}
    number = len(jobs)
    while events:
        now, _, _, event = heapq.heappop(events)
        if isinstance(event, Job):
            item = Item(frozenset({event.model}), priority=event.priority, user=event.user)
            known[id(item)] = event
            scheduler.add(item)
        for device in devices:
            if device.busy_until > now:
                continue
            others = [other.view(now) for other in devices if other is not device]
            for item in scheduler.take(device.view(now), others):
                job = known[id(item)]
                wait = now - job.arrival
                outcome.waits.append(wait)
                outcome.waits_by_user.setdefault(job.user, []).append(wait)
                outcome.overtaken = max(outcome.overtaken, item.overtaken)
                loaded = device.use(job.model)
                outcome.loads += loaded
                device.busy_until = now + job.seconds / device.speed + (device.load if loaded else 0.0)
                outcome.makespan = max(outcome.makespan, device.busy_until)
                number += 1
                heapq.heappush(events, (device.busy_until, 1, number, device))
    assert len(outcome.waits) == len(jobs)
    return outcome
