"""Calls whose keys were written down: graphs by name, each with all keys that a run of it asks for."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import graphengine_nodes as std
from graphengine_nodes.nodes.images import Size
from graphengine_nodes.nodes.templates import Texts

import graphengine
from graphengine import DiskStore, Graph, Kind, Reuse, Store, Where, collect, each, load, load_pack, switch, when
from graphengine.declare.sockets import Range
from graphengine.errors import Problem
from graphengine.service.jobs.job import NewJob, State
from graphengine.service.workers.deaths import End, Fault
from graphengine.values.checksum import Content

from . import script
from .script import Mode, Point, Spot

FOLDER = Path(__file__).parent
Case = Callable[[], Graph]


class Keys(Store):
    """A memory that notes which keys it is asked for."""

    def __init__(self, disk: DiskStore | None = None) -> None:
        super().__init__(disk=disk)
        self.asked: set[str] = set()

    def reserve(self, key: bytes, *args: Any) -> Any:
        """A value, or a place for it."""
        self.asked.add(key.hex())
        return super().reserve(key, *args)


def keys_of(graph: Graph) -> list[str]:
    """All keys that a run asks for, of the parts of mapped and expanding nodes too."""
    store = Keys()
    graph.run(store=store)
    return sorted(store.asked)


def one(made: Callable[[], Any]) -> Case:
    """A graph of what a function builds."""

    def build() -> Graph:
        with Graph("one") as graph:
            graph.output("out", made())
        return graph

    return build


def call(definition: Any, **args: Any) -> Case:
    """A graph of one call."""
    return one(lambda: definition(**args))


# --- the standard pack ------------------------------------------------------------------------------------------------


def picture() -> Any:
    """A small picture."""
    return std.load_image(FOLDER / "made" / "picture.png")


def model() -> Any:
    """The embedded model."""
    return std.load_model("tiny")


def text_to_image() -> Any:
    tiny = model()
    positive = std.encode_prompt(tiny, "a red circle")
    latent = std.sample(tiny, positive, negative=std.encode_prompt(tiny, None), seed=3, steps=1, width=16, height=16)
    return std.decode_latent(tiny, latent)


def with_lora() -> Any:
    changed = std.scale_loras(std.apply_lora(model(), std.load_lora("tiny-blueprint"), 0.5), 2.0)
    prompts = std.encode_weighted(changed, "a (red:1.2) circle", "blue")
    negative = prompts.negative
    return std.sample(changed, prompts.positive, negative=negative, seed=[1, 2], steps=1, width=16, height=16)


def with_control() -> Any:
    tiny = model()
    control = std.apply_controlnet(std.load_controlnet("tiny-canny"), std.canny(picture()), 0.5)
    return std.sample(tiny, std.encode_prompt(tiny, "a tree"), control=control, steps=1, width=16, height=16)


def from_image() -> Any:
    tiny = std.change_precision(std.tile_vae(model()), "float32")
    start = std.encode_image(tiny, picture())
    return std.sample(tiny, std.encode_prompt(tiny, "a tree"), latent=start, strength=0.5, steps=2)


def inpainted() -> Any:
    tiny = model()
    mask = std.mask_rectangle(16, 16)
    return std.inpaint(tiny, std.encode_prompt(tiny, "a tree"), picture(), mask, steps=2, strength=0.5)


def masks() -> Any:
    drawn = std.grow_mask(std.mask_rectangle(16, 16, left=0.5), 1)
    both = std.combine_masks(std.invert_mask(drawn), std.mask_from_image(picture(), 0.5), "subtract")
    both = std.pad_mask(std.crop_mask(std.resize_mask(both, 16, 16, "nearest"), 12, 12), 8, "white")
    return std.blur_mask(std.feather_mask(both, 2), 1.5)


def images() -> Any:
    given = picture()
    small = std.resize_image(std.pad_image(std.crop_image(given, 12, 12, 0, 0), 8, "black"), 16, 16, "nearest")
    pasted = std.composite(given, small, std.load_mask(FOLDER / "made" / "picture.png"), 1.0)
    return std.image_grid([pasted, std.upscale_image(given, 2.0, "nearest")], columns=1)


def controls() -> Any:
    given = picture()
    return std.image_grid([std.sobel(given), std.as_is(given), std.canny(given, 50, 90)])


def latents() -> Any:
    return std.upscale_latent(std.empty_latent(model(), 16, 16, 2), 1.5, "nearest-exact")


def templates() -> Any:
    texts = std.prompt_from_template(["a house", ["red", "blue"]], "bad", 4)
    return std.expand_wildcards(texts.prompt, 2)


def literal_picture() -> Any:
    import torch

    return std.image_size(std.Image(torch.arange(48, dtype=torch.float32).reshape(1, 4, 4, 3) / 48))


# --- flow and graphs as nodes -----------------------------------------------------------------------------------------

kept = load_pack(FOLDER / "golden")
twice, total, takes = kept["twice"], kept["total"], kept["takes"]


def literal_array() -> Any:
    import numpy

    return takes([numpy.arange(6, dtype="int16").reshape(2, 3), numpy.float32(0.5)])


def literal_tensor() -> Any:
    import torch

    return takes(torch.arange(6, dtype=torch.float32).reshape(2, 3))


def mapped() -> Any:
    return total(each([1, 2, twice(3)], lambda x: twice(twice(x))))


def mapped_in_step() -> Any:
    return collect([*(twice(n) for n in (1, 2)), total(each(([1, 2], [3, 4]), kept["plus"]))])


def chosen() -> Any:
    return total(
        [switch("b", [twice(4), twice(5), 6], ("a", "b", "c")), when(kept["even"](twice(1)), twice(7), twice(8))]
    )


def used_as_node() -> Any:
    with Graph("part") as part:
        part.output("y", kept["plus"](part.input("x", int), part.input("by", int, 4)))
    return total([part(x=2), part(x=3, by=twice(1))])


def workflow_as_node() -> Any:
    return load(FOLDER / "made" / "workflows" / "text_to_image.yaml")(steps=1, width=16, height=16, seed=twice(2))


def of_text() -> Graph:
    graph = Graph("one")
    graph.output("out", graph.add("golden.kind", x="preview"))
    return graph


def declared() -> Graph:
    with Graph("declared") as graph:
        kind: Any = graph.input("kind", Kind, Kind.PROGRESS)
        where = graph.input("where", Where, Where(node="a"))
        graph.output("out", script.default_of_graphengine(1, kind, where))
    return graph


# --- literals ---------------------------------------------------------------------------------------------------------

LITERALS: dict[str, Any] = {
    "plain": [1, 1.5, "text", b"bytes", None, True, {"a": [1], 2: {3, 4}}],
    "path": PurePosixPath("a/b"),
    "own enum": Mode.TWO,
    "own named tuple": Point(1, 2),
    "own dataclass": Spot(Point(1, 2), Mode.TWO, Where(node="x")),
    "Kind": Kind.NODE_FAILED,
    "Reuse": [Reuse.DISK, Reuse.JOINED],
    "State": State.CANCELLED,
    "Fault": Fault.CALL,
    "Where": Where("file", 1, "node", "socket"),
    "Problem": Problem("kind", "what", Where(node="a"), "hint", nearest=("b",)),
    "Range": {"range": Range(0, 1, 0.5)},
    "NewJob": NewJob({"a": 1}, "user", 2),
    "End": End("why", Fault.CALL),
    "Content": Content(b"sum", 3, False, False),
    "Size": Size(3, 4),
    "Texts": (Texts("a", "b"), 1),
}


def script_cases() -> Iterator[tuple[str, Case]]:
    """Nodes of a script: their keys hold what Python has compiled."""
    for name, value in vars(script).items():
        if name.startswith(("uses_", "default_", "closed_", "in_context", "imports_", "builds", "of_a_version")):
            yield name, call(value, x=2)
    yield "a method", call(script.WRITER.written, x=2)
    yield "a member where one is declared", call(script.takes_mode, x=Mode.ONE)
    yield "a dataclass where one is declared", call(script.takes_spot, x=Spot(Point(3)))
    yield "declared inputs", declared
    yield "of a folder", call(load_pack(FOLDER / "still.py")["plus"], a=2)


def pack_cases() -> Iterator[tuple[str, Case]]:
    """Nodes that declare a version, of packs."""
    for name, value in LITERALS.items():
        yield f"literal: {name}", call(takes, x=value)
    yield "literal: a member where one is declared", call(kept["kind"], x=Kind.PREVIEW)
    yield "literal: a text where a member is declared", of_text
    yield "literal: a member by its name", call(kept["card"], first=1, colour="BLUE")
    yield "literal: a place where one is declared", call(kept["where"], at=Where(node="a"))
    for made in (
        literal_array, literal_tensor, literal_picture, text_to_image, with_lora, with_control, from_image, inpainted,
        masks, images, controls, latents, templates, mapped, mapped_in_step, chosen, used_as_node, workflow_as_node,
    ):  # fmt: skip
        yield made.__name__, one(made)
    yield "a partial", call(kept["spelled"], x=2)
    yield "ports", one(lambda: twice(kept["pair"](4).first))
    yield "of a folder", call(load_pack(FOLDER / "still.py")["times"], a=2, b=3)


# --- names ------------------------------------------------------------------------------------------------------------


def defined() -> dict[str, Any]:
    """The functions and classes that graphengine's modules define, by `module:name`."""
    found = {}
    for info in pkgutil.walk_packages(graphengine.__path__, "graphengine."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:  # of what is not installed here
            continue
        for name, value in vars(module).items():
            its_own = isinstance(value, types.FunctionType | type) and value.__module__ == info.name
            if its_own and value.__name__ == name and not name.startswith("_"):
                found[f"{info.name}:{name}"] = value
    return found


def key_with(value: Any) -> str:
    """The key of a node of a script that has a function or a class in its closure."""
    (key,) = keys_of(call(script.closed(value), x=2)())
    return key[:16]


def called(name: str, found: dict[str, Any], key: str) -> Any:
    """A function or class that was called `module:name`: what is imported from there, else what is defined anywhere by
    that name; of several, what has its key.

    Raises:
        LookupError: There is none.
    """
    module, _, own = name.partition(":")
    known = [value for place, value in found.items() if place.partition(":")[2] == own]
    with contextlib.suppress(ImportError, AttributeError):
        known.append(getattr(importlib.import_module(module), own))
    if not known:
        raise LookupError(f"there is no {own} any more")
    return next((value for value in known if key_with(value) == key), known[-1])
