"""Train the autoencoder: 128 x 128 pictures to 16 x 16 x 4 latents and back (Rombach et al. 2022, arXiv 2112.10752).

Small crops first (many steps for the same work), whole pictures at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL

from training import cli
from training.draws import Draws
from training.loop import Loss, Options, Recipe, Task, train
from training.pictures import Picture, as_tensor, draw
from training.work import Work

CHANNELS = (16, 32, 64, 96)
NOT_WHITENED = 0.18215  # diffusers' own; `encode` whitens the latents and sets 1
# Until which share of the budget, batch of each process, crop.
PHASES = ((0.3, 16, 32), (0.8, 8, 64), (math.inf, 2, 128))


def build() -> AutoencoderKL:
    count = len(CHANNELS)
    vae = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=128,
        scaling_factor=NOT_WHITENED,
    )
    # Latents begin all but without noise: beginning at variance 1 drowns the first minutes.
    torch.nn.init.constant_(vae.quant_conv.bias[4:], -5.0)
    return vae


class Autoencoder(Task):
    """L1 on pictures and on their edges, squares (Kingma and Welling 2014's likelihood), and a little KL."""

    name = part = "vae"
    recipe = Recipe(rate=2e-3, warmup=100, minutes=18, floor=0.03, weight_decay=1e-4)

    def __init__(self, work: Work, start: bool) -> None:
        self.pictures = work.array("pictures.npy")
        self.vae = self.module = (work.vae() if start else build()).train()
        self.vae.register_to_config(scaling_factor=NOT_WHITENED)

    def loss(self, draws: Draws, spent: float) -> Loss:
        x = self.batch(draws, spent)
        posterior = self.vae.encode(x).latent_dist
        y = self.vae.decode(posterior.mean + posterior.std * draws.noise_like(posterior.mean)).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return self.judged(x, y, 5e-4 * kl)

    def judged(self, x: torch.Tensor, y: torch.Tensor, prior: torch.Tensor) -> Loss:
        squares = ((y - x) ** 2).mean()
        psnr = 10 * math.log10(4 / squares.item())
        value = (y - x).abs().mean() + edge_distance(x, y) + 2 * squares + prior
        return Loss(value, len(x), {"psnr": psnr})

    def batch(self, draws: Draws, spent: float) -> torch.Tensor:
        """Crops, mostly the livelier of two: most of a picture is plain."""
        _, size, crop = next(phase for phase in PHASES if spent < phase[0])
        return as_tensor([self._crop(draws.numbers, crop) for _ in range(size)])

    def _crop(self, rng: np.random.Generator, crop: int) -> Picture:
        picture = self.pictures[rng.integers(len(self.pictures))]
        corners = rng.integers(0, (128 - crop) // 8 + 1, size=(2, 2)) * 8
        two: Sequence[Picture] = [picture[y : y + crop, x : x + crop] for x, y in corners]
        return max(two, key=np.std) if rng.random() < 0.8 else two[0]

    def save(self, work: Work) -> None:
        self.vae.save_pretrained(work.path("vae"))


class Decoder(Autoencoder):
    """A better decoder for the latents there are: the encoder stays, and with it a UNet trained on them."""

    name = "decoder"
    recipe = Recipe(rate=1e-3, warmup=100, minutes=18, floor=0.03, weight_decay=1e-4)

    def __init__(self, work: Work, start: bool) -> None:
        self.pictures = work.array("pictures.npy")
        self.vae = self.module = work.vae().train()
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)

    def loss(self, draws: Draws, spent: float) -> Loss:
        x = self.batch(draws, spent=1.0)  # whole pictures
        with torch.no_grad():
            latents = self.vae.encode(x).latent_dist.mean
        y = self.vae.decode(latents + 0.06 * draws.noise_like(latents)).sample
        return self.judged(x, y, prior=torch.zeros(()))


def edge_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How differently two batches change from pixel to pixel: what keeps edges sharp."""
    return sum(((y - x).diff(dim=axis).abs().mean() for axis in (2, 3)), torch.zeros(()))


def draw_pictures(path: Path, count: int) -> None:
    if not path.exists():
        with Pool() as pool:
            np.save(path, np.stack(pool.map(draw, range(count), chunksize=200)))


def main(
    folder: cli.WorkFolder,
    minutes: cli.Minutes = None,
    samples: cli.Samples = None,
    rate: cli.Rate = None,
    from_weights: cli.FromWeights = None,
    processes: cli.Processes = None,
    decoder: Annotated[bool, typer.Option(help="Better WORK/vae's decoder alone; latents and UNet stay good.")] = False,
    pictures: Annotated[int, typer.Option(help="Draw so many pictures to train on.", min=1)] = 12_000,
) -> None:
    """Train the autoencoder into WORK/vae, or go on with it from WORK/vae.pt (decoder.pt)."""
    options = Options(minutes, samples, rate, from_weights, processes)
    work = Work(folder)
    task = Decoder if decoder else Autoencoder
    train(work, task, options, before=lambda: draw_pictures(work.path("pictures.npy"), pictures))


if __name__ == "__main__":
    cli.run(main)
