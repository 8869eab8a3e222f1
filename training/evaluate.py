"""Measure the model on prompts whose combinations it never saw: does the picture show what the prompt names?

python -m training.evaluate --out DIR [--model DIR] [--limit N]
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from torch import nn

from training import checks, classifier, cli, prompts
from training.captions import article
from training.errors import TrainingError
from training.generate import Model, generate
from training.painting import render
from training.parallel import one_thread
from training.pictures import Picture, blueprint, canny
from training.prompts import Prompt
from training.sheets import contact_sheet
from training.work import Work
from training.world import COLOURS, Scene, sample

SHIPPED = Path(__file__).parent.parent / "nodes" / "graphengine_nodes" / "tiny"
LEAST_RIGHT = 0.98  # of the classifier on real pictures, else it judges nothing
EXTRA = 24  # pictures for the LoRA's and for the ControlNet's figures
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figure:
    """One line of the table: `right` of `of` where it counts pictures, else a value."""

    name: str
    value: float
    of: int | None = None

    def __str__(self) -> str:
        if self.of is None:
            return f"| {self.name} | {self.value:.2f} | |"
        return f"| {self.name} | {100 * self.value:.1f} % | of {self.of} |"


@dataclass
class Tally:
    """Shares of pictures that are right, by what was asked."""

    verdicts: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, **verdicts: bool) -> None:
        for name, right in verdicts.items():
            self.verdicts.setdefault(name, []).append(right)

    def figures(self) -> list[Figure]:
        return [Figure(name, float(np.mean(rights)), len(rights)) for name, rights in self.verdicts.items()]


def judge(picture: Picture, prompt: Prompt, kinds: nn.Module) -> dict[str, bool]:
    """Judge which requests of the prompt the picture fulfils; names are the table's lines."""
    mask = checks.things(picture)
    parts = zip(checks.strips(mask, prompt.count), prompt.looks, strict=True)
    seen = [(_kind(picture, part, kinds), checks.colour(picture, part, kind)) for part, (kind, _) in parts]
    verdicts = {
        "background": checks.background(picture) == prompt.background,
        "colour": [colour for _, colour in seen] == [colour for _, colour in prompt.looks],
        "kind": [kind for kind, _ in seen] == [kind for kind, _ in prompt.looks],
    }
    if prompt.form == "count":
        verdicts["count"] = checks.count(mask) == prompt.count
    if prompt.form == "place":
        verdicts["place"] = checks.cell(mask) == prompt.place
    if prompt.form == "pair":
        verdicts["left and right"] = _alike(seen, prompt.looks) > _alike(seen, prompt.looks[::-1])
    return verdicts | {"all that was asked": all(verdicts.values())}


def _kind(picture: Picture, part: checks.Mask, kinds: nn.Module) -> str | None:
    where = checks.box(part)
    return None if where is None else classifier.kind(kinds, picture, where)


def _alike(seen: Sequence[tuple[str | None, str | None]], wanted: Sequence[tuple[str, str]]) -> int:
    """How many kinds and colours are the wanted ones."""
    pairs = zip(seen, wanted, strict=True)
    return sum((a == c) + (b == d) for (a, b), (c, d) in pairs)


def judge_classifier(kinds: nn.Module, count: int = 400) -> float:
    """How often the classifier is right on real pictures of held-out combinations, found as on generated ones."""
    right: list[bool] = []
    for number in range(count):
        scene = sample(random.Random(number), unseen=True)
        picture = np.asarray(render(scene))
        for thing, part in zip(scene.things, checks.strips(checks.things(picture), scene.count), strict=True):
            right.append(_kind(picture, part, kinds) == thing.kind)
    return float(np.mean(right))


def judge_style(plain: list[Picture], styled: list[Picture]) -> list[Figure]:
    """How far pictures of the same prompts and seeds are from real blueprints, without and with the LoRA."""
    real = [blueprint(np.asarray(render(scene))) for scene in _real(len(plain), lambda scene: True)]
    return [
        Figure("style distance without the LoRA", checks.style_distance(real, plain)),
        Figure("style distance with the LoRA", checks.style_distance(real, styled)),
        Figure("mean colour's distance without the LoRA", _mean_distance(real, plain)),
        Figure("mean colour's distance with the LoRA", _mean_distance(real, styled)),
    ]


def judge_control(
    pipeline: Any, plain: Any, count: int, seed: int
) -> tuple[list[Figure], list[Picture], list[Picture]]:
    """Edge agreement with the control image, with another picture's control image, and with no ControlNet at all."""
    scenes = _real(count, _has_edges)
    words = [f"{article(f'{s.things[0].colour} {s.things[0].kind}')}, {s.background} background" for s in scenes]
    controls = [canny(np.asarray(render(scene))) for scene in scenes]
    shuffled = [*controls[1:], controls[0]]
    made = generate(pipeline, words, seed, controls)
    by_others = generate(pipeline, words, seed, shuffled)
    by_none = generate(plain, words, seed)
    figures = [
        Figure("edge agreement with the ControlNet", _agreement(controls, made)),
        Figure("edge agreement, control images shuffled", _agreement(controls, by_others)),
        Figure("edge agreement without the ControlNet", _agreement(controls, by_none)),
    ]
    return figures, controls, made


def _real(count: int, fits: Callable[[Scene], bool]) -> list[Scene]:
    """Held-out scenes that fit."""
    rng, scenes = random.Random(77), list[Scene]()
    while len(scenes) < count:
        scene = sample(rng, unseen=True)
        if fits(scene):
            scenes.append(scene)
    return scenes


def _has_edges(scene: Scene) -> bool:
    """One thing off the centre of a plain colour, and that it is there can be seen in grey.

    Off the centre, since there things stand anyway when the caption names no place.
    """
    thing = scene.things[0]
    if scene.count > 1 or scene.background not in COLOURS or thing.cell == "center" or thing.size == "small":
        return False
    return int(np.count_nonzero(canny(np.asarray(render(scene))))) >= 100


def _mean_distance(a: list[Picture], b: list[Picture]) -> float:
    """Of 255, the distance in RGB between two sets' mean colours."""
    return float(np.linalg.norm(np.mean(a, (0, 1, 2)) - np.mean(b, (0, 1, 2))))


def _agreement(controls: list[Picture], made: list[Picture]) -> float:
    return float(np.mean([checks.edge_agreement(c, m) for c, m in zip(controls, made, strict=True)]))


def spread(items: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most `limit` of the items, from all over the list."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def table(figures: list[Figure]) -> str:
    return "\n".join(("| what | measured | pictures |", "| --- | --- | --- |", *map(str, figures), ""))


def main(
    out: Annotated[Path, typer.Option(help="Where table, figures and sheets go; keeps the classifier, too.")],
    model: Annotated[Path, typer.Option(help="An exported folder.")] = SHIPPED,
    limit: Annotated[int | None, typer.Option(help="Only so many of the prompts.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="The first picture's seed; the next is one more.")] = 0,
) -> None:
    """Generate pictures of 200 unseen combinations and write OUT/table.md, figures.json and sheets of pictures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    one_thread()
    work, source, wanted = Work(out), Model(model), spread(prompts.read(), limit)
    work.make()
    plain, styled, controlled = source.plain(), source.styled(), source.controlled()
    kinds = classifier.load(work)
    right = judge_classifier(kinds)
    log.info("the classifier is right on %.1f %% of real pictures", 100 * right)
    if right < LEAST_RIGHT:
        raise TrainingError(f"the classifier in {out} is right too seldom to judge: remove it and train it again")

    log.info("pictures of %d prompts", len(wanted))
    words = [prompt.text for prompt in wanted]
    pictures = generate(plain, words, seed)
    tally, verdicts = Tally(), [judge(picture, prompt, kinds) for picture, prompt in zip(pictures, wanted, strict=True)]
    for verdict in verdicts:
        tally.add(**verdict)
    figures = tally.figures()
    marked = [_failed(verdict) + text for verdict, text in zip(verdicts, words, strict=True)]
    contact_sheet(pictures, marked, columns=10).save(out / "sheet.png")

    extra = spread(wanted, EXTRA)
    if styled is not None:
        log.info("pictures with the LoRA")
        with_lora = generate(styled, [prompt.text for prompt in extra], seed)
        without = generate(plain, [prompt.text for prompt in extra], seed)
        figures += judge_style(without, with_lora)
        both = [picture for pair in zip(without, with_lora, strict=True) for picture in pair]
        contact_sheet(both, [prompt.text for prompt in extra for _ in range(2)], columns=8).save(out / "lora.png")
    if controlled is not None:
        log.info("pictures with the ControlNet")
        more, controls, made = judge_control(controlled, plain, len(extra), seed)
        figures += more
        both = [picture for pair in zip(controls, made, strict=True) for picture in pair]
        contact_sheet(both, ["control", "made"] * len(made), columns=8).save(out / "controlnet.png")
    figures.append(Figure("the classifier itself, on real pictures", right))
    _write(out, figures, wanted, verdicts)
    log.info("\n%s", table(figures))


def _failed(verdict: dict[str, bool]) -> str:
    """What is wrong with a picture, for the sheet."""
    wrong = [name for name, right in verdict.items() if not right and name != "all that was asked"]
    return f"[{', '.join(wrong)}] " if wrong else ""


def _write(out: Path, figures: list[Figure], wanted: list[Prompt], verdicts: list[dict[str, bool]]) -> None:
    (out / "table.md").write_text(table(figures), encoding="utf-8")
    by_prompt = [{"prompt": prompt.text, **verdict} for prompt, verdict in zip(wanted, verdicts, strict=True)]
    values = {figure.name: {"value": figure.value, "of": figure.of} for figure in figures}
    content = json.dumps({"figures": values, "prompts": by_prompt}, indent=2)
    (out / "figures.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
