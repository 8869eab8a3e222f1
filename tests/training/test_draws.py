from __future__ import annotations

import torch

from training.draws import Draws


def numbers(draws: Draws) -> tuple[float, float, float]:
    return draws.words.random(), draws.numbers.random(), draws.noise_like(torch.zeros(1)).item()


def test_draws_depend_on_their_key_alone() -> None:
    first = numbers(Draws(1, 2, 3))
    torch.manual_seed(99)
    assert numbers(Draws(1, 2, 3)) == first
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    for i in range(3):
        assert len({numbers(Draws(*key))[i] for key in keys}) == 4


def test_timesteps_are_one_from_each_stretch_in_random_order() -> None:
    drawn = Draws(5).timesteps(10, of=1000)
    assert sorted(int(t) // 100 for t in drawn) == list(range(10))
    assert drawn.tolist() != sorted(drawn.tolist())
    assert drawn.tolist() != Draws(6).timesteps(10, of=1000).tolist()
