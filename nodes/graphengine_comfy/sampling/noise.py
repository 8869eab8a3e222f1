"""The noise that a seed means: drawn on the CPU in float32, by a single generator for the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LARGEST_SEED = 2**64 - 1


def noise_for(seed: int, shape: Sequence[int], batch_indices: Sequence[int] | None = None) -> torch.Tensor:
    """Draw the noise of a seed, the same on every machine.

    Args:
        seed: 0 to 2**64 - 1.
        shape: Of the latents, the batch first: `(batch, channels, height, width)`, for videos with frames.
        batch_indices: Which pictures of a longer batch these are, when a batch was cut; as many as `shape[0]`. Equal
            ones have equal noise. None for the first ones.

    Returns:
        float32 on the CPU, of that shape.

    Raises:
        ValueError: The seed or the indices are none.
    """
    import torch

    check_seed(seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    if batch_indices is None:
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    if len(batch_indices) != shape[0] or min(batch_indices, default=0) < 0:
        raise ValueError(f"{shape[0]} pictures need as many batch indices from 0 on, not {list(batch_indices)}")
    wanted, drawn = set(batch_indices), {}
    for index in range(max(wanted, default=-1) + 1):
        picture = torch.randn((1, *shape[1:]), generator=generator, dtype=torch.float32)
        if index in wanted:
            drawn[index] = picture
    return torch.cat([drawn[index] for index in batch_indices])


def check_seed(seed: int) -> None:
    """Refuse what is no seed.

    Raises:
        ValueError: It is negative or above 2**64 - 1.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"a seed is a whole number from 0 to {LARGEST_SEED}, not {seed}")
