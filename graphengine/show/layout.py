"""Layered layout of a graph drawing: positions of boxes and routes of edges, in layers from left to right.

The steps are those of Sugiyama's method: break cycles, assign layers, order each layer by its neighbours, place. It is
deterministic, without recursion, and its time grows about linearly with the drawing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

MARGIN, GAP = 24.0, 22.0
LANE = 18.0
"""The height in pixels that a long edge takes between the boxes that it passes."""
MOST_LANES = 4000
"""If long edges pass more layers than this in total, they run straight instead of between boxes."""
SWEEPS = 8
"""The number of passes that order and place the boxes."""

Point = tuple[float, float]


@dataclass
class Layout:
    """The result of `layout`, in pixels.

    Attributes:
        width, height: The size of the drawing.
        corners: The upper left corner of each box.
        routes: The points through which each edge runs.
        backward: The numbers of the edges that close a cycle.
    """

    width: float = 0.0
    height: float = 0.0
    corners: list[Point] = field(default_factory=list)
    routes: list[list[Point]] = field(default_factory=list)
    backward: set[int] = field(default_factory=set)


def layout(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int, float, float]], labels: Sequence[float]
) -> Layout:
    """Compute a layout.

    Args:
        sizes: The width and height of each box, in pixels.
        edges: For each edge its source and target box, and how far below their upper corners it leaves and arrives.
        labels: The width that each edge's label takes.
    """
    result = Layout()
    result.backward = _backward(len(sizes), edges)
    forward = [(s, t) for n, (s, t, *_) in enumerate(edges) if n not in result.backward]
    layers = _layers(len(sizes), forward)
    heights = [height for _, height in sizes]
    chains = _lanes(edges, result.backward, layers, heights)
    columns: list[list[int]] = [[] for _ in range(max(layers, default=0) + 1)]
    for item, layer in enumerate(layers):
        columns[layer].append(item)
    links = [pair for chain in chains for pair in itertools.pairwise(chain)]
    before, after = _neighbours(len(layers), links)
    ports = _ports(edges, chains, heights)
    _order(columns, before, after, ports)
    tops = _heights(columns, before, after, heights)
    lefts, widths = _lefts(columns, sizes, edges, labels, layers)
    result.corners = [(lefts[layers[n]] + (widths[layers[n]] - w) / 2, tops[n]) for n, (w, _) in enumerate(sizes)]
    for number, (source, target, leaves, arrives) in enumerate(edges):
        route = [(result.corners[source][0] + sizes[source][0], result.corners[source][1] + leaves)]
        if number in result.backward:  # round below both boxes
            low = max(tops[source] + heights[source], tops[target] + heights[target]) + 14
            route.append(((route[0][0] + result.corners[target][0]) / 2, low))
        for lane in chains[number][1:-1]:
            left, middle = lefts[layers[lane]], tops[lane] + LANE / 2
            route += [(left, middle), (left + widths[layers[lane]], middle)]
        result.routes.append([*route, (result.corners[target][0], result.corners[target][1] + arrives)])
    result.width = max([x + sizes[n][0] for n, (x, _) in enumerate(result.corners)], default=60.0) + MARGIN
    bottoms = [tops[n] + heights[n] for n in range(len(tops))]
    result.height = max(bottoms, default=20.0) + MARGIN
    return result


def _backward(count: int, edges: Sequence[tuple[int, int, float, float]]) -> set[int]:
    """The edges that close a cycle, as a depth-first walk meets them."""
    out: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for number, (source, target, *_) in enumerate(edges):
        out[source].append((number, target))
    state, result = [0] * count, set[int]()
    for start in range(count):
        if state[start]:
            continue
        state[start] = 1
        stack = [(start, iter(out[start]))]
        while stack:
            item, targets = stack[-1]
            step = next(targets, None)
            if step is None:
                state[item] = 2
                stack.pop()
            elif state[step[1]] == 1:
                result.add(step[0])
            elif state[step[1]] == 0:
                state[step[1]] = 1
                stack.append((step[1], iter(out[step[1]])))
    return result


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Each box one layer after the last of its sources; what has no source, just before the first of its targets."""
    before, after = _neighbours(count, edges)
    waiting = [len(sources) for sources in before]
    ready = [item for item in range(count) if not waiting[item]]
    layers = [0] * count
    for item in ready:  # it grows while it is walked over
        for target in after[item]:
            layers[target] = max(layers[target], layers[item] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    for item in range(count):
        if not before[item] and after[item]:
            layers[item] = min(layers[target] for target in after[item]) - 1
    return layers


def _neighbours(count: int, edges: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    return before, after


def _lanes(
    edges: Sequence[tuple[int, int, float, float]], backward: set[int], layers: list[int], heights: list[float]
) -> list[list[int]]:
    """For each edge the items it runs through; a long edge gets one in each layer that it passes.

    Edges that leave one box for one target share their lanes' layers, not the lanes.
    """
    passings = sum(max(0, layers[t] - layers[s] - 1) for n, (s, t, *_) in enumerate(edges) if n not in backward)
    chains = []
    for number, (source, target, *_) in enumerate(edges):
        chain = [source]
        if number not in backward and passings <= MOST_LANES:
            for layer in range(layers[source] + 1, layers[target]):
                chain.append(len(layers))
                layers.append(layer)
                heights.append(LANE)
        chains.append([*chain, target])
    return chains


def _ports(
    edges: Sequence[tuple[int, int, float, float]], chains: list[list[int]], heights: list[float]
) -> dict[tuple[int, int], float]:
    """How far down a box an edge leaves or arrives, 0 to 1, by neighbour and box; of several edges the last."""
    result: dict[tuple[int, int], float] = {}
    for (source, target, leaves, arrives), chain in zip(edges, chains, strict=True):
        result[chain[1], source] = leaves / heights[source]
        result[chain[-2], target] = arrives / heights[target]
    return result


def _order(
    columns: list[list[int]], before: list[list[int]], after: list[list[int]], ports: dict[tuple[int, int], float]
) -> None:
    """Order each layer by the mean place of its neighbours' ports, to and fro."""
    place: dict[int, float] = {}
    for column in columns:
        place.update((item, float(n)) for n, item in enumerate(column))
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        near = before if forth else after
        for column in columns if forth else reversed(columns):
            wanted = {
                item: sum(place[n] + ports.get((item, n), 0.5) for n in near[item]) / len(near[item])
                if near[item]
                else place[item] + 0.5
                for item in column
            }
            column.sort(key=wanted.__getitem__)
            place.update((item, float(n)) for n, item in enumerate(column))


def _heights(
    columns: list[list[int]], before: list[list[int]], after: list[list[int]], heights: list[float]
) -> list[float]:
    """Upper edges: each item near the middle of its neighbours, none over another, the order kept."""
    tops = [0.0] * len(heights)
    for column in columns:
        y = 0.0
        for item in column:
            tops[item] = y
            y += heights[item] + GAP
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        for column in columns if forth else reversed(columns):
            wanted = []
            for item in column:
                near = (before if forth else after)[item] or (after if forth else before)[item]
                middles = [tops[n] + heights[n] / 2 for n in near]
                wanted.append(sum(middles) / len(middles) - heights[item] / 2 if middles else tops[item])
            _settle(column, wanted, heights, tops)
    highest = min(tops, default=0.0)
    return [top - highest + MARGIN for top in tops]


def _settle(column: list[int], wanted: list[float], heights: list[float], tops: list[float]) -> None:
    """Place a column's items as near as can be to where they want to be: blocks that touch move together."""
    blocks: list[list[float]] = []  # sum of wishes, number, height of the block's items
    counts: list[list[int]] = []
    for number, item in enumerate(column):
        size = heights[item] + GAP
        block, members = [wanted[number], 1.0, size], [number]
        while blocks and blocks[-1][0] / blocks[-1][1] + blocks[-1][2] > block[0] / block[1]:
            above = blocks.pop()
            # What stands below in one block wishes the block's top to be higher by what is above it.
            block = [above[0] + block[0] - block[1] * above[2], above[1] + block[1], above[2] + block[2]]
            members = counts.pop() + members
        blocks.append(block)
        counts.append(members)
    for block, members in zip(blocks, counts, strict=True):
        y = block[0] / block[1]
        for number in members:
            tops[column[number]] = y
            y += heights[column[number]] + GAP


def _lefts(
    columns: list[list[int]], sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int, float, float]], labels: Sequence[float], layers: list[int],
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Left edges and widths of the layers, with room for the labels before each."""
    widths = [max([sizes[item][0] for item in column if item < len(sizes)], default=20.0) for column in columns]
    room = [50.0] * len(columns)
    for number, (_, target, *_) in enumerate(edges):
        room[layers[target]] = max(room[layers[target]], labels[number] + 44)
    lefts, x = [], MARGIN
    for number, width in enumerate(widths):
        x += room[number] if number else 0.0
        lefts.append(x)
        x += width
    return lefts, widths
