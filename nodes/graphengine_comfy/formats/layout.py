"""Layout: places nodes in columns from left to right, each to the right of the nodes that it is linked from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMN, GAP, TITLE = 350, 30, 30
"""The distance of columns, the gap between nodes of a column, and the height of a node's title, in pixels."""
TALLEST = 1100
"""The height of a column, in pixels, above which it is continued in another one."""


def lay_out(nodes: Mapping[int, tuple[Sequence[int], float]]) -> dict[int, tuple[float, float]]:
    """Place nodes.

    Args:
        nodes: By node: the nodes that it is linked from, and its height in pixels.

    Returns:
        For each node its upper left corner, in pixels.
    """
    columns: dict[int, list[int]] = {}
    for node, depth in _depths({node: before for node, (before, _) in nodes.items()}).items():
        columns.setdefault(depth, []).append(node)
    places: dict[int, tuple[float, float]] = {}
    x = 0
    for depth in sorted(columns):
        y = 0.0
        for node in columns[depth]:
            height = nodes[node][1] + TITLE + GAP
            if y and y + height > TALLEST:
                x, y = x + COLUMN, 0.0
            places[node] = (x, y)
            y += height
        x += COLUMN
    return places


def _depths(before: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """For each node, the length of the longest chain of links to it; nodes of a cycle have those of its rest."""
    depths: dict[int, int] = {}
    for start in before:
        stack, path = [start], set[int]()
        while stack:
            node = stack[-1]
            waiting = [one for one in before[node] if one not in depths and one not in path and one in before]
            if waiting and node not in depths:
                path.add(node)
                stack += waiting
                continue
            stack.pop()
            path.discard(node)
            depths.setdefault(node, 1 + max((depths.get(one, -1) for one in before[node]), default=-1))
    return {node: depths[node] for node in before}
