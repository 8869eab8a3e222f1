from __future__ import annotations

import torch
from torch import nn

from training.average import Average


def test_the_average_follows_slowly_and_forgets_the_beginning() -> None:
    weight = nn.Parameter(torch.zeros(3))
    average = Average([weight], decay=0.9)
    weight.data.fill_(1.0)
    average.update()
    assert torch.allclose(average.shadow[0], torch.full((3,), 1 - 2 / 11))  # young: (1 + 1) / (10 + 1) of the old
    for _ in range(100):
        average.update()
    assert (average.shadow[0] > 0.999).all()
    weight.data.fill_(2.0)
    average.update()
    assert torch.allclose(average.shadow[0], torch.full((3,), 1.1), atol=1e-3)


def test_the_averaged_weights_are_in_place_only_within() -> None:
    weight = nn.Parameter(torch.zeros(2))
    average = Average([weight], decay=0.5)
    weight.data.fill_(4.0)
    average.shadow[0].fill_(3.0)
    with average.in_place():
        assert weight.tolist() == [3.0, 3.0]
    assert weight.tolist() == [4.0, 4.0]
    assert average.shadow[0].tolist() == [3.0, 3.0]
