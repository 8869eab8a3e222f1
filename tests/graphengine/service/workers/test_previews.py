"""Previews of sampling in a worker: small pictures that come nearer to the final one with each step."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from graphengine_nodes import decode_latent, encode_prompt, load_model, sample

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.service.job_events import JobEvent
from graphengine.service.previews import preview_png
from graphengine.service.service import Service
from tests.graphengine.sample import until
from tests.graphengine.service.conftest import Runners, fake, local
from tests.graphengine.service.test_service import of

STEPS = 8
PROMPTS = (
    "a red circle on a blue background",
    "a yellow star at night",
    "a green tree on a yellow background",
    "two boats on the sea",
    "a white house in the snow",
)


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    with PIL.Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture, dtype=float)


def picture_of(prompt: str, seed: int) -> Graph:
    with Graph() as graph:
        model = load_model("tiny")
        text = encode_prompt(model, prompt)
        graph.output("image", decode_latent(model, sample(model, text, seed=seed, steps=STEPS)))
    return graph


def test_previews_come_nearer_to_the_picture(backend: Runners, tmp_path: Path) -> None:
    told: list[tuple[int, bytes | None]] = []
    with Service(tmp_path / "q.sqlite", backend(1), DiskStore(tmp_path / "store")) as service:

        def listen(event: JobEvent) -> None:
            if event.kind == "preview" and event.event is not None:
                told.append((event.job, preview_png(event.event.value)))

        service.subscribe(listen, lambda job: True)
        numbers = [service.submit(picture_of(prompt, seed)) for seed, prompt in enumerate(PROMPTS)]
        service.wait(*numbers, timeout=600)
        pictures = {number: service.outputs(number)["image"].pil() for number in numbers}
    for number, picture in pictures.items():
        previews = [pixels(png) for job, png in told if job == number and png is not None]
        assert len(previews) == STEPS
        height, width = previews[0].shape[:2]
        assert max(height, width) <= 128
        final = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BOX), dtype=float)
        alike = [float(np.corrcoef(preview.ravel(), final.ravel())[0, 1]) for preview in previews]
        assert alike[-1] > 0.8, alike
        assert alike[-1] > alike[STEPS // 2] > alike[0], alike


@pytest.mark.parametrize("workers", [fake, local], indirect=True)
def test_previews_are_made_only_while_somebody_wants_them(backend: Runners, tmp_path: Path) -> None:
    wanted, steps, pictures = set[int](), list[int](), list[bytes]()

    def listen(event: JobEvent) -> None:
        if event.kind == "progress" and event.event is not None:
            steps.append(event.event.step or 0)
        elif event.kind == "preview" and event.event is not None and event.event.value.png is not None:
            pictures.append(event.event.value.png)

    def further() -> int:
        count = len(steps)
        until(lambda: len(steps) > count + 10)
        return steps[-1]

    with Service(tmp_path / "q.sqlite", backend(1), DiskStore(tmp_path / "store")) as service:
        service.subscribe(listen, lambda job: job in wanted)
        number = service.submit(of("shows", file=str(tmp_path / "end")), {"x": 1})
        assert (further(), pictures) == (0, [])
        wanted.add(number)  # in the middle of the node
        until(lambda: len(pictures) > 3)
        assert set(pictures) == {b"picture"}
        wanted.clear()
        further()  # the worker is told within some steps
        made = further()
        sent = len(pictures)
        assert 0 < made == further()
        assert sent == len(pictures)
        (tmp_path / "end").touch()
        service.wait(number, timeout=600)
        assert service.outputs(number) == {"y": made}
