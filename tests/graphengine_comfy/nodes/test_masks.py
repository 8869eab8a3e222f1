"""Masks are joined as ComfyUI's operations say, and where they overlap alone."""

from __future__ import annotations

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_nodes import Mask


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [
        ("multiply", [0.08, 0.48]), ("add", [0.6, 1.0]), ("subtract", [0.0, 0.0]),
        ("and", [0.0, 1.0]), ("or", [0.0, 1.0]), ("xor", [0.0, 0.0]),
    ],
)  # fmt: skip
def test_a_mask_is_joined_with_another_at_its_place(operation: str, wanted: list[float]) -> None:
    below = Mask(torch.tensor([[[0.9, 0.9, 0.9], [0.9, 0.2, 0.6]]]))
    above = Mask(torch.tensor([[[0.4, 0.8, 0.7], [0.5, 0.5, 0.5]]]))
    found = comfy.MaskComposite(destination=below, source=above, x=1, y=1, operation=operation).values
    assert torch.allclose(found[0, 1, 1:], torch.tensor(wanted))
    assert torch.equal(found[0, 0], below.values[0, 0])
    assert found[0, 1, 0] == below.values[0, 1, 0]
    assert below.values[0, 1, 1] == pytest.approx(0.2)


def test_masks_outside_change_nothing() -> None:
    below, above = comfy.SolidMask(value=0.5, width=8, height=8), comfy.SolidMask(value=1.0, width=4, height=4)
    assert torch.equal(comfy.MaskComposite(destination=below, source=above, x=64, y=2).values, below.values)
