"""The evaluation's 200 prompts: combinations of kind, colour and background that training never draws.

They are kept in `prompts.tsv`; `python -m training.prompts` writes the same file again.
"""

from __future__ import annotations

import csv
import random
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from training import cli
from training.captions import NUMBER, PLACE, article, plural, where
from training.errors import reading
from training.world import BACKGROUNDS, CELLS, COLOUR_NAMES, KINDS, clashes, held_out

FILE = Path(__file__).with_name("prompts.tsv")
PLACES = tuple(name for name in CELLS if name != "center")


@dataclass(frozen=True)
class Prompt:
    """What is asked for; `form` is one, place (one somewhere), count (some alike) or pair (two side by side)."""

    form: str
    background: str
    count: int
    kind: str
    colour: str
    right_kind: str  # of a pair
    right_colour: str
    place: str
    text: str

    @property
    def looks(self) -> list[tuple[str, str]]:
        """Kind and colour of each thing, from left to right."""
        if self.form == "pair":
            return [(self.kind, self.colour), (self.right_kind, self.right_colour)]
        return [(self.kind, self.colour)] * self.count


def unseen(kind: str) -> list[tuple[str, str]]:
    """The held-out colours and backgrounds of this kind."""
    pairs = ((colour, background) for background in BACKGROUNDS for colour in COLOUR_NAMES)
    return [(c, b) for c, b in pairs if held_out(kind, c, b) and not clashes(c, b)]


def make() -> list[Prompt]:
    """The list, the same each time: 60 of one thing, 60 of one somewhere, 40 counts, 40 pairs."""
    rng = random.Random(2026)
    kinds = KINDS * 4
    return [
        *(_one(rng, kind, ("", "small ", "large ")[i % 3]) for i, kind in enumerate(kinds)),
        *(_somewhere(rng, kind, PLACES[i % len(PLACES)]) for i, kind in enumerate(kinds)),
        *(_count(rng, kind, 2 + i % 2) for i, kind in enumerate(kinds[:40])),
        *(_pair(rng, kind) for kind in kinds[:40]),
    ]


def read(file: Path = FILE) -> list[Prompt]:
    with reading(file), file.open(encoding="utf-8", newline="") as lines:
        return [_parsed(row) for row in csv.DictReader(lines, delimiter="\t")]


def _parsed(row: dict[str, str]) -> Prompt:
    count = int(row.pop("count"))
    return Prompt(count=count, **row)


def write(prompts: list[Prompt], file: Path = FILE) -> None:
    with file.open("w", encoding="utf-8", newline="") as lines:
        names = [field.name for field in fields(Prompt)]
        table = csv.DictWriter(lines, names, delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(prompt) for prompt in prompts)


def _one(rng: random.Random, kind: str, size: str) -> Prompt:
    colour, background = rng.choice(unseen(kind))
    text = article(f"{size}{colour} {kind}") + where(background, rng)
    return Prompt("one", background, 1, kind, colour, "", "", "", text)


def _somewhere(rng: random.Random, kind: str, place: str) -> Prompt:
    colour, background = rng.choice(unseen(kind))
    size = rng.choice(("", "small "))
    text = f"{article(f'{size}{colour} {kind}')} {rng.choice(PLACE[place])}{where(background, rng)}"
    return Prompt("place", background, 1, kind, colour, "", "", place, text)


def _count(rng: random.Random, kind: str, count: int) -> Prompt:
    colour, background = rng.choice(unseen(kind))
    text = f"{NUMBER[count]} {colour} {plural(kind)}{where(background, rng)}"
    return Prompt("count", background, count, kind, colour, "", "", "", text)


def _pair(rng: random.Random, kind: str) -> Prompt:
    colour, background = rng.choice(unseen(kind))
    # Two colours, so that a picture tells whether they were swapped.
    others = [(k, c) for k in KINDS for c, b in unseen(k) if k != kind and c != colour and b == background]
    right_kind, right_colour = rng.choice(others)
    left, right = article(f"{colour} {kind}"), article(f"{right_colour} {right_kind}")
    text = rng.choice((f"{left} to the left of {right}", f"{right} to the right of {left}"))
    return Prompt("pair", background, 2, kind, colour, right_kind, right_colour, "", text + where(background, rng))


def main() -> None:
    """Write the evaluation's prompts into training/prompts.tsv."""
    write(make())


if __name__ == "__main__":
    cli.run(main)
