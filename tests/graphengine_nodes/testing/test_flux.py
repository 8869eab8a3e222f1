"""The small Redux prior through diffusers' own call: its components and the picture move FLUX's picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from graphengine_nodes.testing.flux import flux_model, flux_redux

from tests.graphengine_nodes.testing.test_small import picture


def redux(folder: Path, seed: int, model: Any) -> Any:
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return FluxPriorReduxPipeline.from_pretrained(
        flux_redux(folder, seed), **{name: getattr(model, name) for name in names}
    )


def test_every_component_of_the_small_redux_prior_moves_the_picture(tmp_path: Path) -> None:
    model = FluxPipeline.from_pretrained(flux_model(tmp_path / "model"))
    one, other = redux(tmp_path / "one", 0, model), redux(tmp_path / "other", 1, model)

    def made(prior: Any, image: Any) -> Any:
        embeddings = prior(image, prompt="a red cat")
        assert embeddings.prompt_embeds.shape == (1, 512 + 16, 32)
        generator = torch.Generator().manual_seed(0)
        size = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
        return model(**embeddings, generator=generator, **size).images

    pixels = made(one, picture())
    assert np.array_equal(made(one, picture()), pixels)
    assert np.abs(made(one, picture(1)) - pixels).mean() > 0.0001
    for part in ("image_encoder", "image_embedder"):
        kept = getattr(one, part)
        setattr(one, part, getattr(other, part))
        assert np.abs(made(one, picture()) - pixels).mean() > 0.0001, part
        setattr(one, part, kept)
