"""What a ServiceThread queues: for each picture a job, and what is done with its picture."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from graphengine.service.jobs import Job, NewJob
from graphengine.service.queue import Queue
from graphengine.service.submit import new_job
from multigen import pipes
from multigen.prompting import Cfgen
from multigen.sessions import VERSION, GenSession
from multigen.util import plain

__all__ = [
    "FINISHER",
    "Order",
    "as_seeds",
    "calls_back",
    "finish",
    "has_pictures",
    "on_gpus",
    "open_here",
    "pipe_class",
    "pipe_on",
    "pipes_by_name",
    "submit",
    "unfinished",
]

FINISHER = "multigen"
BLEMISHES = "jpeg artifacts, blur, distortion, lowres, bad anatomy, bad crop, watermark, text"
"""The negative prompt where none is given."""
NOT_OF_SETUP = ("generator", "num_inference_steps", "cnet", "cnet_ids", "nprompt")
PICTURES = ("image", "fimage", "original_image", "image_painted", "mask", "mask_image", "control_image")
"""Names under which `setup` takes pictures."""
LARGEST_SEED = 2**64 - 1
ROOMY = 23 * 2**30
"""Bytes of a GPU's memory over which FLUX stays on it, in 8 bits; with less, its weights travel layer by layer."""

open_here: set[str] = set()
"""The ServiceThreads of this process that call back."""


@dataclass(eq=False)
class Order:
    """One call of `queue_gen`.

    Attributes:
        session: The session, a dictionary that is kept up to date.
        places: The jobs that have not been told of, in the order of the seeds: pictures are told of in that order.
        made: What the jobs among them have made that ended; nothing where they failed.
    """

    session: dict[str, Any]
    start_callback: Callable[[], object] | None
    image_callback: Callable[[str], object] | None
    finish_callback: Callable[..., object] | None
    places: list[int] = field(default_factory=list)
    made: dict[int, list[str]] = field(default_factory=dict)
    started: bool = False
    failed: bool = False

    def ended(self, job: int, files: list[str]) -> list[str]:
        """Note what a job has made; the files that can be told of now."""
        self.made[job] = files
        told: list[str] = []
        while self.places and self.places[0] in self.made:
            told += self.made.pop(self.places.pop(0))
        return told


def pipes_by_name() -> dict[str, type]:
    """The Pipe classes by name."""
    return {name: kind for name, kind in vars(pipes).items() if isinstance(kind, type) and name.endswith("Pipe")}


def pipe_class(models: Mapping[str, Any], pipe: str) -> type:
    """The class of a Pipe by its name in the models file.

    Raises:
        RuntimeError: There is no such name.
    """
    entry = models["pipes"].get(pipe)
    if entry is None:
        known = ", ".join(models["pipes"]) or "none"
        raise RuntimeError(f"there is no pipe {pipe!r} in the models file; it has {known}")
    return pipes_by_name()[entry["classname"]]


def on_gpus(devices: Sequence[str]) -> bool:
    """Whether all devices are GPUs."""
    return all(device.startswith("cuda") for device in devices)


def pipe_on(kind: Any, source: str, family: str, devices: Sequence[str], named: dict[str, Any]) -> Any:
    """A Pipe whose weights are held as they fit the smallest of the devices."""
    if family != "FLUX" or not on_gpus(devices):
        return kind(source, **named)
    import torch

    if min(torch.cuda.get_device_properties(device).total_memory for device in devices) <= ROOMY:
        return kind(source, **named, offload_device=torch.device(devices[0]).index or 0)
    pipe = kind(source, **named)
    pipe._weights.quantization = "float8"
    return pipe


def submit(
    queue: Queue,
    pipe: Any,
    prompt: Any,
    count: int,
    seeds: list[int] | None,
    images: Any,
    setup: Mapping[str, Any],
    *,
    folder: Path,
    user: str,
    facts: Mapping[str, Any],
) -> list[int]:
    """Queue `count` pictures in one go; their jobs, in the order of the seeds, which their numbers follow."""
    given = {name: value for name, value in setup.items() if name not in NOT_OF_SETUP}
    if setup.get("cnet") and "ctypes" not in given:
        given["ctypes"] = setup["cnet"]
    pipe.setup(**given, **_pictures(pipe, images, given))
    rounds = -(-count // len(seeds)) if seeds else 1
    negative = BLEMISHES if setup.get("nprompt") is None else setup["nprompt"]
    jobs: list[NewJob] = []
    for inputs in Cfgen(prompt, negative, max_count=count, seeds=seeds or None, max_seed_rounds=rounds):
        seed = inputs.pop("generator")
        graph, values, drawn = pipe.call({**inputs, "seed": seed})
        if not jobs:
            config, number = pipe.get_config(), _free_number(queue, folder)
        conf = {**config, **inputs, "generator": seed, "feedback": "?", "cversion": VERSION}
        done = (FINISHER, {"folder": str(folder), "number": number, "conf": plain(conf)})
        number += drawn.count
        known = {**facts, "folder": str(folder), "next": number}
        jobs.append(new_job(queue, graph, values, want="image", user=user, finish=done, facts=known))
    return queue.submit(*jobs)


def _free_number(queue: Queue, folder: Path) -> int:
    """The number after those of a folder's pictures, and of those that jobs will write into it."""
    taken = [int(job.facts["next"]) for job in unfinished(queue) if job.facts.get("folder") == str(folder)]
    return max([GenSession(folder, None, ()).first_number(), *taken])


def unfinished(queue: Queue) -> list[Job]:
    """The jobs that wait or run."""
    return [*queue.waiting(100_000), *queue.running()]


def as_seeds(seeds: Any, count: int) -> list[int] | None:
    """The seeds that `count` pictures need; None for random ones.

    Raises:
        ValueError: One is no seed.
    """
    if seeds is None:
        return None
    several = list(seeds)[:count] if isinstance(seeds, Iterable) and not isinstance(seeds, str) else [seeds]
    found = []
    for seed in several:
        try:
            found.append(operator.index(seed))
        except TypeError:
            raise ValueError(f"a seed is {seed!r:.40}, but must be a whole number") from None
        if not 0 <= found[-1] <= LARGEST_SEED:
            raise ValueError(f"a seed is {seed!r:.40}, but must be 0 to 2^64 - 1")
    return found or None


def has_pictures(images: Any, setup: Mapping[str, Any]) -> bool:
    """Whether any picture was given, under whatever name."""
    return any(one is not None for one in _several(images)) or any(setup.get(name) is not None for name in PICTURES)


def _several(images: Any) -> list[Any]:
    return list(images) if isinstance(images, list | tuple) else [images]


def _pictures(pipe: Any, images: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """`images` as the arguments of the Pipe's `setup`."""
    names: tuple[str, ...]
    if isinstance(pipe, pipes.MaskedIm2ImPipe):
        names = ("image", "image_painted")
    elif isinstance(pipe, pipes.CInpaintingPipe):
        names = ("image", "mask_image")
    else:
        names = ("image",)
    several = zip(names, _several(images), strict=False)
    return {name: one for name, one in several if one is not None and given.get(name) is None}


def finish(data: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """Write a job's pictures into its folder, as a GenSession does."""
    session, files = GenSession(data["folder"], None, ()), []
    session.session_dir.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(outputs["image"].pils(), start=data["number"]):
        session.last_index = number
        there = session.session_dir / f"{number:05d}.png"
        # the process may have died after it wrote the picture and before it said so
        file = there if _is_of(there, data["conf"]) else session.save(picture, dict(data["conf"]))
        files.append(str(file))
    return files


def _is_of(picture: Path, conf: Mapping[str, Any]) -> bool:
    """Whether a picture is there, and is of this configuration."""
    try:
        return picture.exists() and bool(json.loads(picture.with_suffix(".txt").read_text("utf-8")) == conf)
    except (OSError, ValueError):
        return False


def calls_back(process: str) -> bool:
    """Whether a ServiceThread, as the jobs name it, is still there to call back."""
    pid, created, _ = [*process.split(":"), "", "", ""][:3]
    try:
        if int(pid) == os.getpid():
            return process in open_here
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False
