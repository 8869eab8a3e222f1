"""Node ids: those of ComfyUI's files (`3`, `57:3`) and the ids that stand for them in our documents (`n3`, `n57_3`)."""

from __future__ import annotations

import re
from collections.abc import Iterable


def our_ids(originals: Iterable[str]) -> dict[str, str]:
    """Give every id of a file an id of our documents: `n` and the id, with `_` for all but ASCII letters and digits.

    Two ids that would become the same are told apart by a number at the end.

    Args:
        originals: The ids of the file, in its order.

    Returns:
        Our ids by those of the file.
    """
    ids: dict[str, str] = {}
    count: dict[str, int] = {}
    taken: set[str] = set()
    for original in originals:
        base = id = "n" + re.sub(r"[^A-Za-z0-9]", "_", original)
        while id in taken:
            count[base] = count.get(base, 1) + 1
            id = f"{base}_{count[base]}"
        ids[original] = id
        taken.add(id)
    return ids
