"""The graphs of the jobs that were in a queue, and what their results hold."""

from __future__ import annotations

from typing import Any

import graphengine_nodes as std
import numpy
from graphengine_nodes import Image, Texts

from graphengine import Choices, Graph, Kind, Range, Where, each, switch, when

from .values import VALUES, kept, ramp

DONE: dict[str, Any] = {
    "card": kept.Card(kept.Pair(3, "two"), kept.Colour.BLUE, {"sum": 4}),
    "first": 3,
    "drawing": kept.Drawing(b"\x00\x01\x02"),
    "sides": kept.Sides.LEFT | kept.Sides.RIGHT,
    "place": Where(node="here", socket="x"),
    "texts": Texts("a red house", ""),
    "image": Image(1 - ramp(1, 2, 2, 3)),
    "given": [Image(ramp(1, 2, 2, 3)), numpy.arange(3)],
    "sum": 20,
}
"""What the job that was done made."""
WAITING: dict[str, Any] = {
    "sum": 30, "chosen": 14, "text": "there", "given": VALUES["Where"], "drawing": VALUES["Drawing"]
}  # fmt: skip
"""What the job that waited is to make."""


def done() -> Graph:
    """Outputs of many classes."""
    with Graph("done", "about it") as graph:
        number = graph.input("number", int, 1)
        graph.output("card", kept.card(number, colour=kept.Colour.BLUE))
        graph.output("first", kept.pair(number).first)
        graph.output("drawing", kept.drawing(number))
        graph.output("sides", kept.sides(False))
        graph.output("place", kept.place("here"))
        graph.output("texts", std.prompt_from_template("a red house"))
        graph.output("image", kept.inverted(graph.input("image", Image)))
        graph.output("given", kept.listed(graph.input("given", Any)))
        graph.output("sum", kept.total(each([1, 2, number, 4], lambda x: kept.twice(x))))
    return graph


def failing() -> Graph:
    """One output that is made, and one that Python's own error ends."""
    with Graph("failing") as graph:
        number = graph.input("number", int)
        graph.output("made", kept.twice(number))
        graph.output("failed", kept.fails(number))
    return graph


def unlucky() -> Graph:
    """An error of the pack's own."""
    with Graph("unlucky") as graph:
        graph.output("failed", kept.unlucky(kept.twice(2)))
    return graph


def part() -> Graph:
    """A graph that is used as a node."""
    with Graph("part") as graph:
        graph.output("y", kept.plus(graph.input("x", int), graph.input("by", int, 4)))
    return graph


def waiting() -> Graph:
    """Each feature of a graph, to be run by whoever comes."""
    inner = part()
    with Graph("waiting", "about it") as graph:
        number = graph.input("number", int, 1)
        where = graph.input("where", Where, Where(node="default"), "a place")
        drawing = graph.input("drawing", kept.Drawing)
        graph.output("sum", kept.total(each([number, inner(x=number), 3], lambda x: kept.twice(x))))
        graph.output("chosen", when.named("choice")(kept.even(number), kept.twice(7), kept.fails(1)))
        graph.output("text", kept.where(Where(node="there")))
        graph.output("given", kept.same(where))
        graph.output("drawing", kept.same.named("again")(drawing))
    return graph


def everything() -> Graph:
    """Each feature of a workflow file: inputs of all types, values beside it, mapped nodes, a graph in it, outputs."""
    inner = part()
    with Graph("All of it", "for tests") as graph:
        number = graph.input("number", int, 2, "a number", range=Range(0, 9, 1))
        colour = graph.input("colour", kept.Colour, kept.Colour.BLUE)
        where = graph.input("where", Where, Where(node="a"))
        kind = graph.input("kind", Kind, Kind.PREVIEW)
        name = graph.input("name", str, "two", choices=Choices("one", "two"))
        graph.output("card", kept.card(number, name, colour))
        graph.output("text", kept.where(where))
        graph.output("kind", kept.kind(kind))
        graph.output("place", kept.where(Where("file", 3)))
        graph.output("member", kept.card(1, colour=kept.Colour.RED))
        graph.output("sum", kept.total([inner(x=number), kept.pair(7).first, 4]))
        graph.output("chosen", switch.named("choice")("b", [1, kept.twice(number)], ("a", "b")))
        graph.output("mapped", each([1, 2, number], lambda x: kept.twice(kept.plus(x))))
        graph.output("image", kept.inverted.named("inverted")(Image(ramp(1, 2, 2, 3))))
    graph.values["held"] = kept.Drawing(b"held")
    graph.output("held", graph.add(kept.same, "again", x=1))
    graph.connect("again", "x", "values.held")
    graph.ui = {"positions": {"choice": [1, 2]}}
    return graph
