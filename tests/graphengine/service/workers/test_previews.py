"""Previews of sampling in a worker: small pictures that come nearer to the final one with each step."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from graphengine_nodes import decode_latent, encode_prompt, load_model, sample

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.service.service import Service
from graphengine.service.socket_server import as_dict
from tests.graphengine.service.conftest import Runners

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
    told: list[dict[str, Any]] = []
    with Service(tmp_path / "q.sqlite", backend(1), DiskStore(tmp_path / "store")) as service:
        service.subscribe(lambda event: told.append(as_dict(event)) if event.kind == "preview" else None)
        numbers = [service.submit(picture_of(prompt, seed)) for seed, prompt in enumerate(PROMPTS)]
        service.wait(*numbers, timeout=600)
        pictures = {number: service.outputs(number)["image"].pil() for number in numbers}
    for number, picture in pictures.items():
        previews = [pixels(base64.b64decode(line["png"])) for line in told if line["job"] == number]
        assert len(previews) == STEPS
        height, width = previews[0].shape[:2]
        assert max(height, width) <= 128
        final = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BOX), dtype=float)
        alike = [float(np.corrcoef(preview.ravel(), final.ravel())[0, 1]) for preview in previews]
        assert alike[-1] > 0.8, alike
        assert alike[-1] > alike[STEPS // 2] > alike[0], alike
