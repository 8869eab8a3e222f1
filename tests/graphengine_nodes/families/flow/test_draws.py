"""The order in which diffusers' pipelines draw random numbers, for each task of each record.

The bits of every picture hang on it: a new release of diffusers that draws otherwise shows itself here, by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.graphengine_nodes.families.flow import cases
from tests.graphengine_nodes.families.flow.test_oracle import make

DRAWS = {
    "chroma text": "noise",
    "chroma image": "posterior noise",
    "z_image text": "noise",
    "z_image image": "posterior noise",
    "z_image inpaint": "posterior noise posterior",
    "z_image controlnet": "mode noise",
    "z_image controlnet+inpaint": "mode mode noise",
    "stable_diffusion_3 text": "noise",
    "stable_diffusion_3 image": "posterior noise",
    "stable_diffusion_3 inpaint": "posterior noise posterior",
    "stable_diffusion_3 controlnet": "posterior noise",
    "klein text": "noise",
    "klein references": "noise mode",
    "klein inpaint": "mode noise",
    "klein inpaint+references": "mode noise mode",
    "klein-distilled text": "noise",
    "kontext text": "noise",
    "kontext references": "mode noise",
    "kontext inpaint+references": "mode mode noise posterior",
    "fill inpaint": "posterior noise posterior",
    "control control": "posterior noise",
    "control control+image": "posterior posterior noise",
    "control control+inpaint": "posterior posterior posterior noise",
    "flux2-dev text": "noise",
    "flux2-dev references": "noise mode",
    "qwen_image text": "noise",
    "qwen_image image": "posterior noise",
    "qwen_image inpaint": "posterior noise posterior",
    "qwen_image controlnet": "posterior noise",
    "qwen_image_21 text": "noise",
    "qwen_image_21 references": "mode noise",
    "qwen_image_edit references": "mode noise",
    "qwen_image_edit inpaint": "posterior noise posterior",
    "qwen_image_edit_plus references": "mode noise",
}
"""What each case draws: `posterior`, from an encoded picture; `noise`; `mode` is the middle of a posterior, undrawn."""

BASE = {case["name"]: case for case in cases.cases() if case["name"] in DRAWS}


def draws(monkeypatch: pytest.MonkeyPatch, work: Any) -> str:
    """What is drawn from encoded pictures and as noise while `work` runs, in order."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

    seen: list[str] = []
    inside: list[str] = []
    sample, mode, randn = Posterior.sample, Posterior.mode, torch.randn

    def sampled(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append("posterior")
        inside.append("posterior")
        try:
            return sample(self, *args, **kwargs)
        finally:
            inside.pop()

    def middle(self: Any) -> Any:
        seen.append("mode")
        return mode(self)

    def noise(*args: Any, **kwargs: Any) -> Any:
        if not inside:
            seen.append("noise")
        return randn(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Posterior, "sample", sampled)
        patch.setattr(Posterior, "mode", middle)
        patch.setattr(torch, "randn", noise)
        work()
    return " ".join(seen)


def test_every_task_of_every_record_is_pinned() -> None:
    tasks = {" ".join((case["model"], case["task"] or "text")) for case in cases.cases()}
    assert tasks == set(DRAWS)


@pytest.mark.parametrize("name", DRAWS)
def test_the_order_of_draws_is_that_of_this_release(name: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draws(monkeypatch, lambda: make(models, BASE[name])) == DRAWS[name]
