"""What a ServiceThread queues: for each picture a job, and what is done with its picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.service.jobs import NewJob
from graphengine.service.queue import Queue
from graphengine.service.submit import new_job
from multigen import pipes
from multigen.prompting import Cfgen
from multigen.sessions import VERSION, GenSession
from multigen.util import plain

__all__ = ["FINISHER", "Order", "finish", "pipe_class", "pipes_by_name", "submit"]

FINISHER = "multigen"
BLEMISHES = "jpeg artifacts, blur, distortion, lowres, bad anatomy, bad crop, watermark, text"
"""The negative prompt where none is given."""
NOT_OF_SETUP = ("generator", "num_inference_steps", "cnet", "cnet_ids", "nprompt")


@dataclass(eq=False)
class Order:
    """One call of `queue_gen`.

    Attributes:
        session: The session, a dictionary that is kept up to date.
        left: How many of its pictures are still to come.
    """

    session: dict[str, Any]
    start_callback: Callable[[], object] | None
    image_callback: Callable[[str], object] | None
    finish_callback: Callable[..., object] | None
    left: int = 0
    started: bool = False
    failed: bool = False


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


def submit(
    queue: Queue,
    pipe: Any,
    prompt: Any,
    count: int,
    seeds: Sequence[int] | None,
    images: Any,
    setup: Mapping[str, Any],
    *,
    folder: Path,
    user: str,
    process: str,
) -> list[int]:
    """Queue `count` pictures in one go; their jobs."""
    given = {name: value for name, value in setup.items() if name not in NOT_OF_SETUP}
    if setup.get("cnet") and "ctypes" not in given:
        given["ctypes"] = setup["cnet"]
    pipe.setup(**given, **_pictures(pipe, images, given))
    rounds = None if seeds is None else -(-count // max(1, len(seeds)))
    negative = BLEMISHES if setup.get("nprompt") is None else setup["nprompt"]
    jobs: list[NewJob] = []
    for inputs in Cfgen(prompt, negative, max_count=count, seeds=seeds or None, max_seed_rounds=rounds or 1):
        seed = inputs.pop("generator")
        graph, values, _ = pipe.call({**inputs, "seed": seed})
        conf = {**pipe.get_config(), **inputs, "generator": seed, "feedback": "?", "cversion": VERSION}
        done = (FINISHER, {"folder": str(folder), "conf": plain(conf)})
        jobs.append(new_job(queue, graph, values, want="image", user=user, finish=done, facts={"process": process}))
    return queue.submit(*jobs)


def _pictures(pipe: Any, images: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """`images` as the arguments of the Pipe's `setup`."""
    if images is None:
        return {}
    several = list(images) if isinstance(images, list | tuple) else [images]
    several = [one for one in several if one is not None]
    if not several:
        return {}
    names: tuple[str, ...]
    if isinstance(pipe, pipes.MaskedIm2ImPipe):
        names = ("image", "image_painted")
    elif isinstance(pipe, pipes.CInpaintingPipe):
        names = ("image", "mask_image")
    else:
        names = ("image",)
    return {name: one for name, one in zip(names, several, strict=False) if given.get(name) is None}


def finish(data: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """Write a job's pictures into its folder, as a GenSession does."""
    session = GenSession(data["folder"], None, ())
    return [str(session.save(picture, dict(data["conf"]))) for picture in outputs["image"].pils()]
