"""Requests to the families that are records: the class of their pipeline, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from graphengine_nodes.families.family import ASKS, SampleRequest
from graphengine_nodes.families.pipelines import class_named
from graphengine_nodes.families.record import Task, Variant, asked
from graphengine_nodes.values.types import Image, Model


def class_of(task: Task) -> Any:
    """Import the class of a task's pipeline."""
    module, _, name = task.pipeline.rpartition(".")
    return class_named(f"diffusers.pipelines.{module}", name)


def shown(references: Sequence[Image], task: Task) -> list[Image]:
    """Reference pictures as a pipeline takes them: with alpha, or over white."""
    return [one if task.alpha else one.opaque() for one in references]


def digests(pictures: Sequence[Any], variant: Variant) -> tuple[str, ...]:
    """Digests of PIL pictures, as `Conditioning.seen` has them: after the pipeline that shows them."""
    by = next(iter(variant.tasks.values())).class_name
    found = [hashlib.blake2b(repr(p.size).encode() + p.tobytes(), digest_size=16).hexdigest() for p in pictures]
    return tuple(f"{by} {digest}" for digest in found)


def check_count(model: Model, references: Sequence[Image], task: Task) -> None:
    """Refuse more reference pictures than a pipeline takes.

    Raises:
        ValueError: There are more.
    """
    if len(references) > task.several:
        raise ValueError(f"{model.source} takes {task.several} reference pictures at most, and got {len(references)}")


def check_own_size(request: SampleRequest, task: Task) -> None:
    """Refuse a picture of another size than the pipeline would bring it to.

    Raises:
        ValueError: It is of another size.
    """
    assert request.image is not None
    assert task.size is not None
    width, height = wanted = task.size(*request.image.size)
    if request.image.size != wanted:
        raise ValueError(
            f"{request.model.source} paints over pictures of its own area: bring this one and its mask to {width} x "
            f"{height} by resize_image and resize_mask; they are {request.image.size[0]} x {request.image.size[1]}"
        )


def check_seen(request: SampleRequest, task: Task | None, variant: Variant) -> None:
    """Refuse prompts whose text encoder saw other pictures than the sampler gets.

    Args:
        task: Of the request; None where the model's text encoder sees none.
        variant: Of the model.

    Raises:
        ValueError: It is so.
    """
    given = list(request.references)
    if task is not None and task.seen and request.image is not None:
        given.append(request.image.split()[0])
    expected = () if task is None else digests([one.pil() for one in shown(given, task)], variant)
    for prompt in (*request.positive, *request.negative):
        if len(prompt.seen) != len(expected):
            raise ValueError(
                f"a prompt was encoded with {len(prompt.seen)} reference pictures, and the sampler gets "
                f"{len(expected)}: give the same references to encode_prompt and to sample"
            )
        if [one.partition(" ")[0] for one in prompt.seen] != [one.partition(" ")[0] for one in expected]:
            raise ValueError(
                f"a prompt was encoded for another kind of model, which shows pictures to its text encoder otherwise "
                f"than {request.model.source}: give encode_prompt the model that samples"
            )
        if prompt.seen != expected:
            raise ValueError(
                "a prompt was encoded with other pictures than the sampler gets: give the same references, in the same "
                "order, to encode_prompt and to sample"
            )


def missing(asks: frozenset[str], variant: Variant) -> str:
    """A sentence on a request for which a variant has no task."""
    known = [asked(name) for name in variant.tasks]
    if not asks:
        least = [one for one in known if not any(other < one for other in known)]
        needed = [" together with ".join(ASKS[name] for name in sorted(one)) for one in least]
        return f"this model needs {' or '.join(needed)}; {remedy(frozenset().union(*least))}"
    strange = sorted(name for name in asks if not any(name in one for one in known))
    if strange:
        them = "them" if ASKS[strange[0]].endswith("s") else "it"
        instead = f"leave {them} out"
        if strange == ["image"] and any("references" in one for one in known):
            instead = "give it to references"
        if strange == ["inpaint"]:
            instead = "use repaint" if any("image" in one for one in known) else "use sample"
        return f"this model takes no {ASKS[strange[0]].removeprefix('a ')}; {instead}"
    everywhere = frozenset.intersection(*known)
    if lacks := sorted(everywhere - asks):
        return f"this model needs {ASKS[lacks[0]]}; {remedy(frozenset(lacks))}"
    return f"there is no pipeline for {' together with '.join(ASKS[name] for name in sorted(asks))}; leave one out"


def remedy(asks: frozenset[str]) -> str:
    """What to do where a request lacks something: the nodes that make pictures have no place for a video's."""
    return "link one to sample_video" if asks & {"first", "last", "video"} else "link one"
