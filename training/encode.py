"""Draw the training pictures and keep their latents; row i is the picture of number FIRST + i.

Latents are whitened first, where they are not yet: a diffusion model wants them of mean 0 and deviation 1.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap

from training import cli
from training.parallel import launch
from training.pictures import Picture, Style, as_tensor, draw, plain
from training.work import Work

FIRST = 1_000_000
FIRST_FOR_WHITENING = 2_000_000
BATCH = 32
SHAPE = (4, 16, 16)


@torch.no_grad()
def whiten(vae: AutoencoderKL, pictures: int = 400) -> None:
    """Make each latent channel of mean 0 and deviation 1, exactly, by changing only the two 1 x 1 convolutions.

    mean' = (mean - m) / s, logvar' = logvar - 2 log s, and decoding takes z' s + m.
    """
    numbers = range(FIRST_FOR_WHITENING, FIRST_FOR_WHITENING + pictures)
    z = torch.cat([latents_of(vae, [draw(n) for n in numbers[at : at + 40]]) for at in range(0, pictures, 40)])
    mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3))
    count, into, out = len(mean), vae.quant_conv, vae.post_quant_conv
    into.weight[:count] /= deviation.view(-1, 1, 1, 1)
    into.bias[:count] = (into.bias[:count] - mean) / deviation
    into.bias[count:] -= 2 * deviation.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def is_whitened(vae: AutoencoderKL) -> bool:
    return bool(vae.config.scaling_factor == 1.0)


def encode(work: Work, name: str, count: int, style: Style = plain, processes: int | None = None) -> None:
    """Write the latents of `count` pictures in `style` as WORK/`name`, at once or not at all."""
    beside = work.path(name + ".tmp")
    work.need("vae")
    open_memmap(beside, mode="w+", dtype=np.float16, shape=(count, *SHAPE)).flush()
    launch(_encode, work, beside.name, style, processes=processes)
    beside.replace(work.path(name))


def _encode(rank: int, processes: int, work: Work, name: str, style: Style) -> None:
    vae = work.vae().eval()
    rows = np.load(work.path(name), mmap_mode="r+")
    mine = range(rank, len(rows), processes)
    for at in range(0, len(mine), BATCH):
        part = mine[at : at + BATCH]
        rows[part] = latents_of(vae, [style(draw(FIRST + row)) for row in part]).numpy()
    rows.flush()


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pictures: list[Picture]) -> torch.Tensor:
    latents: torch.Tensor = vae.encode(as_tensor(pictures)).latent_dist.mean
    return latents


def main(
    folder: cli.WorkFolder,
    count: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 60_000,
    from_weights: cli.FromWeights = None,
    processes: cli.Processes = None,
) -> None:
    """Encode pictures into WORK/latents.npy; whitens WORK/vae first where that is not done."""
    work = Work(folder)
    if from_weights is not None:
        work.make()
        work.take(from_weights, "vae")
    vae = work.vae().eval()
    if not is_whitened(vae):
        whiten(vae)
        vae.save_pretrained(work.path("vae"))
    encode(work, "latents.npy", count, processes=processes)


if __name__ == "__main__":
    cli.run(main)
