"""Node ids: those of ComfyUI's files (`3`, `57:3`) and the ids that stand for them in our documents (`n3`, `n57_3`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

RESERVED = ("inputs", "values")
"""Words that stand for no node in links."""
_ID = re.compile(r"[^.\s/\\\x00-\x1f\[\]]{1,200}")


def our_ids(originals: Iterable[str], chosen: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Give every id of a file an id of our documents: `n` and the id, with `_` for all but ASCII letters and digits.

    Two ids that would become the same are told apart by a number at the end.

    Args:
        originals: The ids of the file, in its order.
        chosen: Ids of our documents that nodes of the file are to have; those that are no such ids, or given twice, are
            not taken.

    Returns:
        Our ids by those of the file.
    """
    ids: dict[str, str] = {}
    count: dict[str, int] = {}
    taken: set[str] = set()
    originals = list(originals)
    for original in originals:
        wanted = chosen.get(original)
        if wanted is not None and wanted not in taken and _ID.fullmatch(wanted) and wanted not in RESERVED:
            ids[original] = wanted
            taken.add(wanted)
    for original in originals:
        if original in ids:
            continue
        base = id = "n" + re.sub(r"[^A-Za-z0-9]", "_", original)
        while id in taken:
            count[base] = count.get(base, 1) + 1
            id = f"{base}_{count[base]}"
        ids[original] = id
        taken.add(id)
    return {original: ids[original] for original in originals}
