"""Jobs of a ServiceThread: one for each picture, and the function that writes its picture."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from graphengine_nodes.nodes.prompts import check_lengths

from graphengine import Graph
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import submit_all
from multigen import pipes
from multigen.locks import alone
from multigen.prompting import Cfgen
from multigen.sessions import VERSION, GenSession
from multigen.util import plain

__all__ = [
    "FINISHER",
    "Order",
    "Picture",
    "as_seeds",
    "finish",
    "prepare",
    "submit",
    "unfinished",
]

FINISHER = "multigen"
BLEMISHES = "jpeg artifacts, blur, distortion, lowres, bad anatomy, bad crop, watermark, text"
"""The default negative prompt."""
NOT_OF_SETUP = ("generator", "num_inference_steps", "cnet", "cnet_ids", "nprompt")
LARGEST_SEED = 2**64 - 1
MOST = 1_000_000
"""Most jobs that are read to count the unfinished ones."""


@dataclass(frozen=True)
class Picture:
    """The picture, or pictures, that one job is to make.

    Attributes:
        graph, values: The graph to run, and its inputs.
        count: The number of pictures; more than one where the inputs say so.
        conf: The configuration that is written beside it.
    """

    graph: Graph
    values: Mapping[str, Any]
    count: int
    conf: Any


@dataclass(eq=False)
class Order:
    """One call of `queue_gen`.

    Attributes:
        session: The session's dictionary, which is kept up to date.
        places: The jobs whose callbacks are due, in the order of the seeds, which is the order of the callbacks.
        made: The files of those jobs that have ended; empty for failed jobs.
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
        """Note the files of a job that ended; return the files whose callbacks are due now."""
        self.made[job] = files
        told: list[str] = []
        while self.places and self.places[0] in self.made:
            told += self.made.pop(self.places.pop(0))
        return told


def prepare(
    pipe: Any, prompt: Any, count: int, seeds: list[int] | None, images: Any, setup: Mapping[str, Any]
) -> list[Picture]:
    """Prepare `count` calls of a Pipe, in the order of the seeds.

    Raises:
        ValueError, FileError, ModelError: As by the Pipe's `setup` and `gen`.
    """
    given = {name: value for name, value in setup.items() if name not in NOT_OF_SETUP}
    if setup.get("cnet") and "ctypes" not in given:
        given["ctypes"] = setup["cnet"]
    pipe.setup(**given, **_pictures(pipe, images, given))
    rounds = -(-count // len(seeds)) if seeds else 1
    negative = BLEMISHES if setup.get("nprompt") is None else setup["nprompt"]
    config, found = None, []
    for inputs in Cfgen(prompt, negative, max_count=count, seeds=seeds or None, max_seed_rounds=rounds):
        check_lengths(prompt=inputs["prompt"], negative_prompt=inputs["negative_prompt"])
        seed = inputs.pop("generator")
        graph, values, drawn = pipe.call({**inputs, "seed": seed})
        config = pipe.get_config() if config is None else config
        conf = {**config, **inputs, "generator": seed, "feedback": "?", "cversion": VERSION}
        found.append(Picture(graph, values, drawn.count, plain(conf)))
    return found


def submit(queue: Queue, pictures: Sequence[Picture], folder: Path, user: str, facts: Mapping[str, Any]) -> list[int]:
    """Queue pictures in one transaction; return their jobs in the order of their numbers in the folder."""
    real, wanted = os.path.realpath(folder), []
    with alone(queue.file.with_name(queue.file.name + ".numbers")):  # no other process numbers pictures meanwhile
        number = _free_number(queue, folder)
        for one in pictures:
            done = (FINISHER, {"folder": str(folder), "number": number, "conf": one.conf})
            number += one.count
            about = {"user": user, "finish": done, "facts": {**facts, "folder": real, "next": number}}
            wanted.append({"graph": one.graph, "inputs": one.values, "want": "image", **about})
        return submit_all(queue, wanted)


def _free_number(queue: Queue, folder: Path) -> int:
    """The number after those of a folder's pictures and of the pictures that queued jobs will write into it."""
    real = os.path.realpath(folder)  # one folder may have many paths
    taken = [int(job.facts["next"]) for job in unfinished(queue) if job.facts.get("folder") == real]
    return max([GenSession(folder, None, ()).first_number(), *taken])


def unfinished(queue: Queue) -> list[Job]:
    """The jobs that wait, paused or not, or run, in the order of submission."""
    return queue.history((State.QUEUED, State.RUNNING), limit=MOST)[::-1]


def as_seeds(seeds: Any, count: int) -> list[int] | None:
    """Read the seeds of `count` pictures; None for random ones.

    Raises:
        ValueError: A value is no seed.
    """
    if seeds is None:
        return None
    several = islice(seeds, count) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else [seeds]
    found = []
    for seed in several:
        try:
            found.append(operator.index(seed))
        except TypeError:
            raise ValueError(f"a seed is {seed!r:.40}, but must be a whole number") from None
        if not 0 <= found[-1] <= LARGEST_SEED:
            raise ValueError(f"a seed is {seed!r:.40}, but must be 0 to 2^64 - 1")
    return found or None


def _pictures(pipe: Any, images: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert `images` to arguments of the Pipe's `setup`."""
    names: tuple[str, ...]
    if isinstance(pipe, pipes.MaskedIm2ImPipe):
        names = ("image", "image_painted")
    elif isinstance(pipe, pipes.CInpaintingPipe):
        names = ("image", "mask_image")
    else:
        names = ("image",)
    several = zip(names, images if isinstance(images, list | tuple) else [images], strict=False)
    return {name: one for name, one in several if one is not None and given.get(name) is None}


def finish(data: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """Write a job's pictures into its folder, as a GenSession does."""
    session, files = GenSession(data["folder"], None, ()), []
    session.first_number()  # makes the folder, if it is gone since
    for number, picture in enumerate(outputs["image"].pils(), start=data["number"]):
        session.last_index = number
        there = session.session_dir / f"{number:05d}.png"
        # the process may have died after it wrote the picture, or only its text, and before it said so
        ours = _conf_of(there) == data["conf"]
        if ours and not there.exists():
            there.with_suffix(".txt").unlink()
        file = there if ours and there.exists() else session.save(picture, dict(data["conf"]))
        files.append(str(file))
    return files


def _conf_of(picture: Path) -> Any:
    """Read the configuration beside a picture; None where there is none."""
    try:
        return json.loads(picture.with_suffix(".txt").read_text("utf-8"))
    except (OSError, ValueError):
        return None
