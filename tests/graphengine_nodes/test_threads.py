"""Runs at the same time, mixed, give each exactly its own result."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store

from tests.graphengine_nodes import cases


def calls(models: Path) -> list[Callable[[], torch.Tensor]]:
    """Whole small runs, from loading to the picture, of every kind."""
    picture, edges = images.from_pil(cases.picture()), images.from_pil(cases.edges())
    mask = std.mask_from_image(images.from_pil(cases.mask()))

    def run(
        prompt: str,
        loras: list[tuple[str | Path, float]],
        start: bool = False,
        control: float = 0.0,
        inpaint: bool = False,
        scheduler: str | None = None,
    ) -> torch.Tensor:
        model = std.load_model("tiny")
        for source, scale in loras:
            model = std.apply_lora(model, std.load_lora(source), scale)
        positive, negative = std.encode_prompt(model, prompt), std.encode_prompt(model, "blurry")
        steering = std.apply_controlnet(std.load_controlnet("tiny-canny"), edges, control) if control else None
        if inpaint:
            latent = std.inpaint(model, positive, picture, mask, seed=4, steps=2, scheduler=scheduler, control=steering)
        else:
            latent = std.sample(
                model,
                positive,
                negative=negative,
                latent=std.encode_image(model, picture) if start else None,
                control=steering,
                seed=4,
                steps=4 if start else 2,
                strength=0.5 if start else None,
                scheduler=scheduler,
            )
        return std.decode_latent(model, latent).pixels

    euler, sde = "EulerAncestralDiscreteScheduler", "DPMSolverSDEScheduler"
    words = models / "words.safetensors"
    return [
        lambda: run("a red circle", []),
        lambda: run("a green tree on a hill, a much longer prompt than the others have", [], scheduler=euler),
        lambda: run("a red circle", [("tiny-blueprint", 0.8)]),
        lambda: run("a red circle", [("tiny-blueprint", 0.3), (words, 1.0)]),
        lambda: run("a blue boat", [(words, 0.7)], start=True),
        lambda: run("a blue boat", [], start=True, control=0.7),
        lambda: run("a blue boat", [("tiny-blueprint", 0.8)], control=1.0, scheduler=sde),
        lambda: run("a yellow house", [], inpaint=True, scheduler=euler),
    ]


def mixed(models: Path, count: int) -> None:
    jobs = calls(models)
    expected = [job() for job in jobs]
    order = [index % len(jobs) for index in range(count)]
    random.Random(3).shuffle(order)
    store.clear()  # so that loading and cloning happen among the runs as well
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda index: jobs[index](), order))
    wrong = [order[i] for i, pixels in enumerate(found) if not torch.equal(pixels, expected[order[i]])]
    assert not wrong, f"{len(wrong)} of {count} runs differ from their references; calls {sorted(set(wrong))}"


def test_mixed_runs_at_once_equal_their_references(models: Path) -> None:
    mixed(models, 40)


@pytest.mark.slow
def test_two_hundred_mixed_runs_at_once_equal_their_references(models: Path) -> None:
    mixed(models, 200)
