"""Values of every form that a store or a queue writes, each by the key that it was written under."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy
import torch
from graphengine_nodes import Conditioning, Image, Latent, LoRA, Mask, Model, Posterior, RandomState, Texts
from graphengine_nodes.nodes.images import Size
from graphengine_nodes.nodes.prompts import Prompts
from graphengine_nodes.values.types import Control, ControlNet, Hypernetwork

from graphengine import Kind, Reuse, Where, load_pack
from graphengine.declare.sockets import Range
from graphengine.errors import Problem
from graphengine.service.jobs.job import Attempt, Change, Job, NewJob, State
from graphengine.service.workers.deaths import End, Fault
from graphengine.values.checksum import Content

load_pack(Path(__file__).parent / "golden")
kept: Any = sys.modules["graphengine_folder_pack.golden.kept"]


def key_of(name: str) -> bytes:
    """The key of a value: of its name here."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def ramp(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of numbers that grow."""
    count = int(numpy.prod(shape))
    return (torch.arange(count, dtype=torch.float32) / max(count, 1)).reshape(shape).to(dtype)


NETWORK = ControlNet("stable_diffusion", "b" * 64, "float16", "a controlnet")
WORDS = Conditioning(ramp(1, 3, 4), "stable_diffusion", False, ramp(1, 4), {"embeds": ramp(1, 3, 4) + 1})

VALUES: dict[str, Any] = {
    "int": 3,
    "large int": 2**80,
    "float": 0.1,
    "infinity": float("inf"),
    "bool": True,
    "none": None,
    "text": "text with ünïcode",
    "bytes": b"\x00\x01bytes",
    "lists": [1, [2.5, ["three", None]], (4, (5,)), []],
    "dicts": {"a": {"b": [1]}, "c": {}},
    "keys that are no text": {1: "a", (2, 3): "b", None: "c"},
    "sets": {1, 2, 3},
    "frozen sets": frozenset({"a", "b"}),
    "an ordered dict": collections.OrderedDict([("b", 1), ("a", 2)]),
    "a path": Path("some/where"),
    "a number of numpy": numpy.float32(0.25),
    "an integer of numpy": numpy.int16(-3),
    "an array": numpy.arange(6, dtype="int16").reshape(2, 3),
    "arrays": {"x": numpy.array([True, False]), "y": [numpy.linspace(0, 1, 3)]},
    "a tensor": ramp(2, 3),
    "a tensor of half numbers": ramp(2, 2, dtype=torch.bfloat16),
    "Image": Image(ramp(1, 4, 4, 3)),
    "a list of Images": [Image(ramp(1, 2, 2, 3)), Image(ramp(2, 2, 2, 3))],
    "Mask": Mask(ramp(1, 4, 4)),
    "Latent": Latent(ramp(1, 4, 2, 2), "stable_diffusion", "vae", False, (RandomState("cpu", b"state", 1),)),
    "Posterior": Posterior(ramp(1, 4, 2, 2), ramp(1, 4, 2, 2) - 1, "stable_diffusion", {"scaling_factor": 0.5}),
    "Conditioning": WORDS,
    "RandomState": RandomState("cpu", b"state"),
    "Model": Model(
        "stable_diffusion", (("unet", "a" * 64), ("vae", "b" * 64)), (("steps", 2),), "float16",
        source="tiny",
    ),
    "ControlNet": NETWORK,
    "Control": Control(NETWORK, Image(ramp(1, 2, 2, 3)), 0.5, 0.1, 0.9, True),
    "LoRA": LoRA("c" * 64, ("denoiser",), ("stable_diffusion",), "a lora"),
    "Hypernetwork": Hypernetwork("d" * 64, "a network"),
    "Size": Size(3, 4),
    "Texts": Texts("a", "b"),
    "Prompts": Prompts(WORDS, WORDS),
    "Kind": [Kind.PREVIEW, Kind.NODE_FAILED],
    "Reuse": {"how": Reuse.JOINED},
    "State": State.CANCELLED,
    "Fault": Fault.CALL,
    "Where": Where("file", 1, "node", "socket"),
    "Problem": Problem("kind", "what", Where(node="a"), "hint", nearest=("b",)),
    "Range": Range(0, 1, 0.5),
    "Content": Content(b"sum", 3, False, False),
    "End": End("why", Fault.CALL),
    "NewJob": NewJob({"a": 1}, "user", 2),
    "Job": Job(1, State.DONE, "user", 0, {}, 1, 3, "w", False, 1.0, 2.0, 3.0, {"outputs": {}}, None),
    "Attempt": Attempt(1, "w", 1.0, None, "running", None, {"a": "b"}),
    "Change": Change(1, 2, "queued", 3.0, {}),
    "Card": kept.Card(kept.Pair(1, "two"), kept.Colour.BLUE, {"where": Where(node="x")}),
    "Pair": kept.Pair(1, "two"),
    "Colour": kept.Colour.RED,
    "Sides": kept.Sides.LEFT | kept.Sides.RIGHT,
    "Drawing": kept.Drawing(b"lines"),
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, of the same classes, to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, numpy.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(a.tobytes() == b.tobytes())
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
