"""The service: throughput, the queue's rates, spreading, latencies, loads: `python -m benchmarks.service [NAME ...]`.

Names: pictures, queue, naps, latency, run, loads; all by default. Ratios are of what was measured in turn in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.table import environment, machine, show
from graphengine import DiskStore, Graph
from graphengine.declare import registry
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import new_job
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import Handle, LocalWorker
from tests.graphengine.service.scheduling.simulator import Device, simulate, zipf_jobs
from tests.graphengine.service.workers import alone

PACK = Path(__file__).parents[1] / "tests" / "service" / "pack"
SUBJECTS = ("a red circle", "a blue house", "a green tree", "a yellow boat", "a purple square", "an orange triangle")
PLACES = ("on a blue background", "on a white background", "at night", "in the snow")
STEPS = 10, 20
WARM = 1000
"""Commits after which SQLite writes over its log, which takes less than letting it grow."""


def folder() -> Path:
    """A new empty folder."""
    return Path(tempfile.mkdtemp(prefix="graphengine-benchmark-"))


Workers = Callable[[int, "int | None", str], "list[Handle]"]


def here(count: int, threads: int | None, store: str) -> list[Handle]:
    """Workers of this machine."""
    return [LocalWorker(f"w{n}", "cpu", threads, store, (str(PACK),)) for n in range(count)]


@contextlib.contextmanager
def serving(workers: int, threads: int | None, made: Workers = here, **options: Any) -> Iterator[Service]:
    """A service with warm workers and empty memory, its queue paused."""
    place = folder()
    disk = DiskStore(place / "store")
    runner = WorkerRunner(made(workers, threads, str(place / "store")), disk, **options)
    with Service(Queue(place / "queue.sqlite"), runner, disk) as service:
        assert runner.wait_until_ready(120)
        yield service


def seconds_of(service: Service, jobs: Sequence[NewJob]) -> float:
    """How long the service takes for jobs that all wait in the queue."""
    service.queue.pause()
    numbers = service.queue.submit(*jobs)
    start = time.perf_counter()
    service.queue.resume()
    ended = service.wait(*numbers)
    took = time.perf_counter() - start
    assert all(job.state == "done" for job in ended), [job.error for job in ended if job.error]
    return took


# --- pictures ---------------------------------------------------------------------------------------------------------


def text_to_image(steps: int) -> Graph:
    """The graph: what a workflow file says, in Python."""
    from graphengine_nodes import decode_latent, encode_prompt, load_model, sample

    with Graph() as graph:
        prompt, seed = graph.input("prompt", str), graph.input("seed", int)
        model = load_model("tiny")
        text = encode_prompt(model, prompt)
        negative = encode_prompt.named("negative")(model, "")
        graph.output("image", decode_latent(model, sample(model, text, negative=negative, seed=seed, steps=steps)))
    return graph


def wishes(count: int, different: int) -> list[tuple[str, int, int]]:
    """Prompts, seeds and steps, in random order."""
    rng = random.Random(1)
    found = [(f"{rng.choice(SUBJECTS)} {rng.choice(PLACES)}", n, STEPS[n % 2]) for n in range(different)]
    return rng.sample([found[n % different] for n in range(count)], count)


def through(
    service: Service, asked: Sequence[tuple[str, int, int]], exact: bool = False, first: int = 0
) -> tuple[float, float]:
    """Pictures per second of a service, each a job, and how many were joined on average."""
    graphs = {steps: text_to_image(steps) for steps in STEPS}
    sizes: list[int] = []
    end = service.subscribe(
        lambda event: sizes.append(event.facts["together"])
        if event.kind == "computed" and event.facts["type"] == "std.sample"
        else None
    )
    jobs = [
        new_job(service.queue, graphs[steps], {"prompt": prompt, "seed": first + seed}, exact=exact)
        for prompt, seed, steps in asked
    ]
    took = seconds_of(service, jobs)
    end()
    return len(asked) / took, statistics.mean(sizes or [0])


def one_call() -> Callable[[Sequence[tuple[str, int, int]]], float]:
    """Pictures per second of diffusers' own pipeline in a loop, with torch's default threads."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(files("graphengine_nodes") / "tiny" / "model"))
    pipeline.set_progress_bar_config(disable=True)

    def loop(asked: Sequence[tuple[str, int, int]]) -> float:
        start = time.perf_counter()
        for prompt, seed, steps in asked:
            generator = torch.Generator().manual_seed(seed)
            pipeline(prompt, num_inference_steps=steps, guidance_scale=3.5, generator=generator)
        return len(asked) / (time.perf_counter() - start)

    loop([("a red circle", 0, 2)])
    return loop


def pictures(runs: int, count: int) -> None:
    """64 jobs of one picture each: two one-thread workers against the one-call pipeline in a loop."""
    asked, half, loop = wishes(count, count), wishes(count, count // 2), one_call()
    names = ["two one-thread workers", "half of them duplicates", "batch_invariant", "default single worker"]
    rates: dict[str, list[float]] = {name: [] for name in ["one-call pipeline in a loop", *names]}
    sizes: dict[str, float] = {}
    for run in range(runs):
        rates["one-call pipeline in a loop"].append(loop(asked))
        for name, workers, threads in zip(names, (2, 2, 2, 1), (1, 1, 1, None), strict=True):
            with serving(workers, threads) as service:
                through(service, wishes(2 * workers, 2 * workers), first=10**6)  # weights are loaded, nothing learnt
                service.store.clear()
                given = half if "duplicates" in name else asked
                rate, sizes[name] = through(service, given, name == "batch_invariant", first=1000 * run)
                rates[name].append(rate)
    base = statistics.median(rates["one-call pipeline in a loop"])
    first = statistics.median(rates[names[0]])
    rows = []
    for name, found in rates.items():
        rate = statistics.median(found)
        rows.append((name, rate, rate / base, rate / first, sizes.get(name, 1.0)))
    head = ("", "pictures/s", "over the loop", "over two workers", "mean batch")
    show(f"{count} jobs of one picture on tiny, {STEPS[0]} or {STEPS[1]} steps, {runs} runs", head, rows)


# --- the queue --------------------------------------------------------------------------------------------------------


def queue(runs: int, count: int) -> None:
    """Submits and claims against bare SQLite commits of the same bytes."""
    body = {"workflow": "x" * 900}
    bare = sqlite3.connect(folder() / "bare.sqlite", isolation_level=None)
    bare.execute("pragma journal_mode = wal")
    bare.execute("pragma synchronous = full")
    bare.execute("create table jobs (id integer primary key, body text)")
    base = Queue(folder() / "queue.sqlite")
    lease = take(base, "benchmark", 1e6)
    assert lease is not None
    commits: list[float] = []
    submits: list[float] = []
    commits_later: list[float] = []
    claims: list[float] = []

    def timed(into: list[float], work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        into.append(time.perf_counter() - start)

    def commit() -> None:
        bare.execute("begin immediate")
        bare.execute("insert into jobs (body) values (?)", (json.dumps(body),))
        bare.execute("commit")

    for _ in range(WARM):
        commit()
        base.submit(NewJob(body))
    for _ in range(count):  # in turn, so that other load of the disk affects all alike
        timed(commits, commit)
        timed(submits, lambda: base.submit(NewJob(body)))
    for job in base.waiting(count):
        timed(commits_later, commit)
        timed(claims, lambda job=job: lease.claim(job.id, "w"))  # type: ignore[misc]
    start = time.perf_counter()
    base.submit(*[NewJob(body)] * 20_000)
    bulk = 20_000 / (time.perf_counter() - start)

    def row(name: str, times: list[float], bare: list[float]) -> tuple[object, ...]:
        rate, last = len(times) / sum(times), p99(times)
        return name, rate, rate / (len(bare) / sum(bare)), 1000 * last, last / p99(bare)

    rows = [
        row("bare commit", commits, commits), row("submit, in turn with it", submits, commits),
        row("bare commit later", commits_later, commits_later), row("claim, in turn with it", claims, commits_later),
        ("sweep", bulk, "", "", ""),
    ]  # fmt: skip
    show(f"The queue, {count} each, synchronous=FULL", ("", "per second", "ratio", "p99 ms", "p99 ratio"), rows)


def p99(times: Sequence[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


# --- spreading, latency -----------------------------------------------------------------------------------------------


def nap(seconds: float) -> Graph:
    """A graph of one node that sleeps."""
    graph = Graph()
    graph.add("nap", "n", x=graph.input("x", int), seconds=seconds)
    graph.output("y", graph["n"])
    return graph


def naps(runs: int, count: int) -> None:
    """Nodes that sleep a quarter of a second, on N workers: of this machine, and of a Ray cluster."""
    _naps("Sleeping nodes", here)
    if find_spec("ray") is None:
        print("Ray is not installed")
        return
    with tempfile.TemporaryDirectory(prefix="ray-") as place:
        run_module = [sys.executable, "-m"]
        alone_command = [*run_module, "tests.graphengine.service.workers.alone"]
        command = [*alone_command, *run_module, "benchmarks.service", "naps_on_ray"]
        subprocess.run(command, env=alone.for_ray(place))


def naps_on_ray(runs: int, count: int) -> None:
    """The same on a Ray cluster that is started here: `naps` runs this where only this machine hears it."""
    if not alone.is_alone():
        raise SystemExit("others would hear Ray's ports; measure naps")
    from graphengine.service.workers.ray_cluster import joined
    from graphengine.service.workers.ray_workers import ray_workers

    def there(count: int, threads: int | None, store: str) -> list[Handle]:
        packs, share = [str(PACK)], {"num_cpus": 0.1}  # they sleep: eight fit any machine
        return [*ray_workers(count, num_gpus=0, store=store, packs=packs, options=share)]

    with joined("local"):
        _naps("Sleeping nodes on Ray", there)


def _naps(title: str, made: Workers) -> None:
    rows = []
    for workers in (1, 2, 4, 8):
        with serving(workers, 1, made) as service:
            each = 12
            jobs = [new_job(service.queue, nap(0.25), {"x": n}) for n in range(each * workers)]
            single = statistics.median(
                seconds_of(service, [new_job(service.queue, nap(0.25), {"x": n})]) for n in range(-5, 0)
            )
            speed = single * each * workers / seconds_of(service, jobs)
            asleep = 0.25 * each * workers / seconds_of(service, [_again(service, n) for n in range(each * workers)])
        rows.append((workers, speed, speed / workers, asleep / workers))
    show(title, ("workers", "times one job after the other", "of N", "of N, over bare sleep"), rows)


def _again(service: Service, n: int) -> NewJob:
    return new_job(service.queue, nap(0.25), {"x": 10**6 + n})


def latency(runs: int, count: int) -> None:
    """From submit to the first step, on a warm worker and inline."""
    graph = nap(0.01)
    there: list[float] = []
    inline: list[float] = []
    with serving(1, 1) as service:
        steps: list[float] = []

        def heard(event: Any) -> None:
            if event.kind == "progress":
                steps.append(time.perf_counter())

        service.subscribe(heard)

        def timed(into: list[float], work: Callable[[], object]) -> None:
            steps.clear()
            start = time.perf_counter()
            work()
            into.append(steps[0] - start)

        for n in range(count):
            timed(inline, lambda n=n: graph.run(inputs={"x": n}, listeners=[heard]))  # type: ignore[misc]
            timed(there, lambda n=n: service.wait(service.submit(graph, {"x": n})))  # type: ignore[misc]
            time.sleep(0.05)
    rows = [
        (name, 1000 * statistics.median(times), 1000 * (statistics.median(times) - statistics.median(inline)))
        for name, times in (("inline", inline), ("warm worker", there))
    ]
    show(f"From submit to the first step, {count} times", ("", "ms", "ms more"), rows)


def run(runs: int, count: int) -> None:
    """`graphengine run text_to_image` with a warm service, over its sampling and decoding."""
    place = folder()
    env = environment(GRAPHENGINE_STATE=str(place), GRAPHENGINE_CACHE=str(place / "cache"))
    cli = [sys.executable, "-m", "graphengine.cli"]
    worker = subprocess.Popen([*cli, "worker"], cwd=place, env=env, stdout=subprocess.PIPE)
    more: list[float] = []
    whole: list[float] = []
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        for n in range(runs + 1):
            start = time.perf_counter()
            arguments = ["run", "text_to_image", "--backend", "service", "--set", f"seed={n}"]
            subprocess.run([*cli, *arguments], cwd=place, env=env, check=True, capture_output=True)
            took = time.perf_counter() - start
            (job,) = Queue(place / "queue.sqlite").history(limit=1)
            if n:  # the first loads the weights
                whole.append(took)
                more.append(took - sum(job.result["seconds"].get(node, 0.0) for node in ("sample", "image")))
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait()
    rows = [("graphengine run", statistics.median(whole)), ("more than its nodes", statistics.median(more))]
    show(f"graphengine run text_to_image with a warm service, {runs} runs", ("", "seconds"), rows)


def loads(runs: int, count: int) -> None:
    """Model loads in virtual time, against first in, first out."""
    rows = []
    for name, bound in (("first in, first out", None), ("scheduler, bound 100", 100)):
        devices = [Device(f"d{n}", 2, 10.0) for n in range(4)]
        outcome = simulate(zipf_jobs(2000, 24, 0.8 * 4, 1), devices, bound)
        rows.append((name, outcome.loads, outcome.makespan, outcome.wait(0.5), outcome.wait(0.99), outcome.overtaken))
    head = ("", "loads", "makespan", "p50 wait", "p99 wait", "overtaken")
    show(f"2,000 jobs, 24 models, 4 devices of 2: loads {rows[1][1] / rows[0][1]:.2f} of FIFO's", head, rows)


MEASURES = {
    "pictures": pictures, "queue": queue, "naps": naps, "naps_on_ray": naps_on_ray, "latency": latency, "run": run,
    "loads": loads,
}  # fmt: skip
COUNTS = {"pictures": 64, "queue": 1000, "latency": 50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="What to measure; all by default.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--count", type=int, help="Jobs, submits or tries.")
    given = parser.parse_args()
    assert registry.load_folder(PACK) == []
    print(machine())
    for name in given.names or [name for name in MEASURES if name != "naps_on_ray"]:
        MEASURES[name](given.runs, given.count or COUNTS.get(name, 0))


if __name__ == "__main__":
    main()
