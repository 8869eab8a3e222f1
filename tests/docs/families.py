"""The table of families and tasks in docs/guides/families.md, from the families' own records.

`python -m tests.docs.families` writes it into the page anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from graphengine_nodes.families.family import ASKS
from graphengine_nodes.families.lookup import families
from graphengine_nodes.families.record import Record, Task

from tests import ROOT

PAGE = ROOT / "docs" / "guides" / "families.md"
MARK = re.compile(r"<!-- families and tasks -->\n.*?<!-- end -->", re.DOTALL)

COLUMNS = {
    "image": "`image_to_image`",
    "inpaint": "`inpainting`",
    "references": "`edit`",
    "controlnet": "`controlnet`",
    "first": "`sample_video`: a first picture",
    "video": "`sample_video`: a video",
}
"""Headers of what a request holds: the workflow that asks it; the others have none."""

SHORT = {"image": "picture", "inpaint": "mask", "references": "references", "controlnet": "ControlNet"}
"""What a request holds, in a word."""

STARTS = {"": "", "Img2Img": "image", "Inpaint": "inpaint"}

REFINER = ("image", "inpaint")
"""The tasks of SDXL's refiner, which begins with a picture and takes no ControlNet."""


def tasks() -> Iterator[tuple[str, dict[str, Task | None], tuple[str, ...]]]:
    """The name of each kind of models, its tasks by what a request holds, and its schedulers."""
    for name, family in sorted(families().items()):
        kind: Any = family
        record: Record | None = getattr(kind, "record", None)
        if record is not None:
            for variant, one in record.variants.items():
                yield f"`{name}`{f', {variant}' * bool(variant)}", dict(one.tasks), tuple(record.schedulers)
        elif name.endswith("refiner"):
            yield f"`{name}`", dict.fromkeys(REFINER), tuple(kind.schedulers)
        else:
            known = ["+".join(filter(None, ("controlnet" * net, STARTS[start]))) for start, net in kind.modules]
            yield f"`{name}`", dict.fromkeys(known), tuple(kind.schedulers)


def cell(ask: str, held: dict[str, Task | None]) -> str:
    """Whether a kind of models takes something, alone and together with what else; empty if not."""
    found = []
    for name, task in held.items():
        asks = [part for part in name.split("+") if part]
        if asks == [ask]:
            most = f" (up to {task.several})" if ask == "references" and task and task.several > 1 else ""
            seen = ", which the prompt must see (`encode_prompt(references=)`)" if task and task.seen else ""
            found.insert(0, f"yes{most}{seen}")
        elif asks[:1] == [ask]:
            found.append(f"with {' and '.join(SHORT.get(part, part) for part in asks[1:])}")
    return ", ".join(found)


def table() -> str:
    """The table as the page has it."""
    rows = list(tasks())
    asked = [ask for ask in ASKS if any(ask == name.split("+")[0] for _, held, _ in rows for name in held)]
    head = ["models", "`text_to_image`", *(COLUMNS.get(ask, ASKS[ask]) for ask in asked), "schedulers"]
    lines = [head, ["---"] * len(head)]
    for name, held, schedulers in rows:
        few = len(schedulers) < 5
        named = ", ".join(f"`{one}`" for one in schedulers) if few else f"{len(schedulers)} of diffusers"
        lines.append([name, "yes" * ("" in held), *(cell(ask, held) for ask in asked), named])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rendered(page: str) -> str:
    """The page with its table as it must be."""
    return MARK.sub(lambda _: f"<!-- families and tasks -->\n\n{table()}\n\n<!-- end -->", page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
