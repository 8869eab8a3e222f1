"""The mask of Chroma's prompts, and what it refuses."""

from __future__ import annotations

from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing.chroma import chroma_model

from tests.graphengine_nodes.families.flow import cases


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> std.Model:
    return std.load_model(chroma_model(tmp_path_factory.mktemp("chroma") / "model"))


@pytest.fixture(scope="module")
def text(model: std.Model) -> std.Conditioning:
    return std.encode_prompt(model, cases.PROMPT)


def test_a_prompt_of_chroma_has_a_mask_with_one_token_of_padding(text: std.Conditioning) -> None:
    mask = text.fields["attention_mask"]
    assert mask.shape == text.embeds.shape[:2]
    tokens = len(cases.PROMPT) + 2  # the small tokenizer's are letters, one before the first word and one at the end
    assert torch.equal(mask[0].nonzero().flatten(), torch.arange(tokens + 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"references": images.from_pil(cases.picture())}, "takes no reference pictures; leave them out"),
        ({"control": std.follow_picture(images.from_pil(cases.edges()))}, "takes no control picture without a Control"),
        ({"scheduler": "FlowMatchHeunDiscreteScheduler"}, "is of the wrong kind for chroma"),
        ({"width": 72}, r"width is 72, but must be a multiple of 16 \(64 or 80\)"),
    ],
)
def test_what_chroma_does_not_take_is_refused(
    given: dict[str, Any], message: str, model: std.Model, text: std.Conditioning
) -> None:
    with pytest.raises(ValueError, match=message):
        std.sample(model, text, **{"steps": 2, "width": 64, "height": 64} | given)


def test_chroma_repaints_and_does_not_inpaint(model: std.Model, text: std.Conditioning) -> None:
    picture, mask = images.from_pil(cases.picture()), std.mask_from_image(images.from_pil(cases.mask()))
    with pytest.raises(ValueError, match="takes no picture with a mask; use repaint"):
        std.inpaint(model, text, picture, mask, steps=2)
    encoded = std.encode_image(model, picture)
    painted = std.repaint(model, text, encoded, encoded, mask, seed=1, steps=3, strength=0.7).samples
    kept = (encoded.mean - 0.1159) * 0.3611
    assert torch.allclose(painted[..., :1, :], kept[..., :1, :], atol=1e-5)
    assert not torch.allclose(painted[..., 2:6, 2:6], kept[..., 2:6, 2:6], atol=0.1)
