import pytest
import torch
from graphengine_comfy.sampling.noise import noise_for

from tests.graphengine_comfy.sampling.reference import numbers


@pytest.mark.parametrize("key", numbers("noise"))
def test_the_noise_of_a_seed_is_comfyuis_to_the_bit(key: str) -> None:
    seed, what = key.split("|")
    if what.startswith("batch_index"):
        noise = noise_for(int(seed), (2, 4, 8, 8), [int(one) for one in what.split()[1].split(",")])
    else:
        noise = noise_for(int(seed), [int(one) for one in what.strip("()").split(",")])
    values, expected = noise.flatten().tolist(), numbers("noise")[key]
    assert (values[:8], values[-4:]) == (expected["first"], expected["last"])


def test_equal_batch_indices_have_equal_noise_and_the_first_ones_that_of_single_pictures() -> None:
    noise = noise_for(3, (3, 4, 8, 8), [2, 0, 2])
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1], noise_for(3, (1, 4, 8, 8))[0])


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    noise_for(2**64 - 1, (1, 4, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_seed_and_no_index_is_refused() -> None:
    with pytest.raises(ValueError, match="not -1"):
        noise_for(-1, (1, 4, 8, 8))
    with pytest.raises(ValueError, match="2 pictures need as many"):
        noise_for(1, (2, 4, 8, 8), [1])
