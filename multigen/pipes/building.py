"""Building the nodes that all Pipe classes have, from the arguments of a call: prompts, and inputs of samplers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import graphengine_nodes as std
from graphengine_nodes.values.types import Conditioning, Model

from graphengine import Graph, NodeError, WorkflowError
from graphengine.errors import Problem
from graphengine.old_names import moved
from multigen.pipes.arguments import numbers, path

__all__ = [
    "PROMPTS", "PipeCall", "alike", "arguments_of", "common", "encoded", "listed", "lora_scale", "plain_errors",
    "with_multiplier",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("multigen.pipes.building")

PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
ATTENTION = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")
"""The names that pipelines have for arguments of the attention, whose `scale` is that of LoRAs."""

READ_HERE = frozenset(
    {
        *PROMPTS, "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
        "width", "height", "num_inference_steps", "guidance_scale", "guidance_rescale", "strength", "generator",
        "num_images_per_prompt", "clip_skip", "output_type", "return_dict", "image", "mask_image", "control_image",
        "controlnet_conditioning_scale", "guess_mode", "control_guidance_start", "control_guidance_end",
        *ATTENTION, "max_sequence_length",
    }
)  # fmt: skip
"""Arguments of diffusers' pipelines that Pipe classes read themselves; the others are the sampler's `arguments`."""


@dataclass
class PipeCall:
    """One call of `gen` while its graph is built.

    Attributes:
        given: The arguments by diffusers' names.
        model: The node that says which model.
        positive: The node that encodes the prompt, or a node for each prompt.
        common: The other inputs that all sampling nodes share.
    """

    given: Mapping[str, Any]
    model: Model
    positive: Conditioning | list[Conditioning]
    common: dict[str, Any]


@functools.cache
def arguments_of(cls: type) -> Mapping[str, Any]:
    """The arguments of a diffusers pipeline's call, with their defaults."""
    parameters = inspect.signature(cls.__call__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}


def common(given: Mapping[str, Any], defaults: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The inputs that all sampling nodes share: numbers, and the further arguments of diffusers' pipeline."""
    further = {n: v for n, v in given.items() if n in defaults and n not in READ_HERE and not alike(v, defaults[n])}
    for name in ATTENTION:
        if others := {key: value for key, value in (given.get(name) or {}).items() if key != "scale"}:
            further[name] = others
    found: dict[str, Any] = {
        "count": count,
        "steps": given.get("num_inference_steps", defaults.get("num_inference_steps")),
        "guidance_scale": given.get("guidance_scale", defaults.get("guidance_scale")),
        "arguments": further or None,
    }
    if given.get("guidance_rescale"):
        found["guidance_rescale"] = given["guidance_rescale"]
    return {name: value for name, value in found.items() if value is not None}


def lora_scale(given: Mapping[str, Any]) -> float:
    """The factor for the scales of all LoRAs in one call."""
    scales = [value["scale"] for name in ATTENTION if "scale" in (value := given.get(name) or {})]
    return float(scales[0]) if scales else 1.0


def encoded(
    graph: Graph, model: Model, family: str, given: Mapping[str, Any], lpw: bool
) -> tuple[list[Conditioning], list[Conditioning]]:
    """Make the nodes of prompts and negative prompts; single texts become inputs of the graph.

    Raises:
        ValueError: The numbers of prompts and negative prompts differ.
    """
    texts = {name: _texts(graph, name, given.get(name)) for name in PROMPTS}
    count = max(len(rows) for rows in texts.values())
    for name, rows in texts.items():
        if len(rows) not in (0, 1, count):
            raise ValueError(f"{len(rows)} of {name} for {count} prompts; give one, or one for each prompt")
        texts[name] = rows * count if len(rows) == 1 else rows
    skip = int(given.get("clip_skip") or 0)
    if lpw and texts["prompt"]:
        negatives = texts["negative_prompt"] or [""] * count
        pairs = [
            std.encode_weighted(
                model, prompt, negatives[i], skip,
                **_second(texts["prompt_2"], i), **_second(texts["negative_prompt_2"], i, "negative_prompt_2"),
            )
            for i, prompt in enumerate(texts["prompt"])
        ]  # fmt: skip
        return [pair.positive for pair in pairs], [pair.negative for pair in pairs]
    longest = {"max_sequence_length": n} if (n := given.get("max_sequence_length")) is not None else {}
    positive = _given(given, family, "") or [
        std.encode_prompt(model, prompt, skip, **_second(texts["prompt_2"], i), **longest)
        for i, prompt in enumerate(texts["prompt"])
    ]
    negative = _given(given, family, "negative_") or [
        std.encode_prompt(model, prompt, **_second(texts["negative_prompt_2"], i), **longest)
        for i, prompt in enumerate(texts["negative_prompt"])
    ]
    return positive, negative


def _texts(graph: Graph, name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [graph.input(name, str, value)]
    return listed(value)


def _second(texts: Sequence[Any], index: int, name: str = "prompt_2") -> dict[str, Any]:
    return {name: texts[index]} if texts else {}


def _given(given: Mapping[str, Any], family: str, which: str) -> list[Conditioning]:
    """Conditionings of the embeddings that the caller gives, one for each row."""
    embeds, pooled = given.get(f"{which}prompt_embeds"), given.get(f"{which}pooled_prompt_embeds")
    if embeds is None:
        return []
    rows = [(embeds[i : i + 1].cpu(), None if pooled is None else pooled[i : i + 1].cpu()) for i in range(len(embeds))]
    return [Conditioning(row, family, pooled=one) for row, one in rows]


def listed(value: Any) -> list[Any]:
    """A value, several or None as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def alike(one: Any, other: Any) -> bool:
    """Whether two arguments are certainly equal; objects that can be changed in place never are."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
    return bool(one == other) if isinstance(one, PLAIN) else one is other and isinstance(one, FROZEN)


PLAIN = (str, int, float, bool, type(None), std.Model)
FROZEN = (std.Image, std.Mask, std.ControlNet)


def with_multiplier(lora: Any) -> tuple[str, float]:
    """Read a LoRA, given alone or as a pair with its multiplier.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(lora, list | tuple):
        return path("a LoRA", lora), 1.0
    if len(lora) != 2:
        raise ValueError(f"a LoRA is {lora!r:.40}, but must be a path, or one with its multiplier")
    [multiplier] = numbers("the multiplier of a LoRA", lora[1:])
    return path("a LoRA", lora[0]), multiplier


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise a node's error as the node raised it, and problems of the graph of a call as a ValueError."""
    try:
        yield
    except NodeError as error:
        raise (error.__cause__ or error) from error
    except WorkflowError as error:
        raise ValueError("; ".join(map(_said, error.problems))) from error


def _said(problem: Problem) -> str:
    """The sentence of a problem, with the name of the argument."""
    name = problem.where.socket
    return problem.what if not name or name in problem.what else f"{name}: {problem.what}"
