"""Train the UNet on latents (Rombach et al. 2022, arXiv 2112.10752), with the text encoder as it is."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from training import cli
from training.diffusion import Captioned
from training.draws import Draws
from training.loop import Loss, Options, Recipe, Task, train
from training.text_encoder import WIDTH
from training.work import Work

BATCH = 16  # of each process


def build() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    return unet


class Denoiser(Task):
    """One caption in ten is empty."""

    name = part = "unet"
    recipe = Recipe(rate=1.5e-3, warmup=300, minutes=85, average=0.9995)

    def __init__(self, work: Work, start: bool) -> None:
        self.data = Captioned(work, "latents.npy", empty=0.1)
        self.unet = self.module = (work.unet() if start else build()).train()

    def loss(self, draws: Draws, spent: float) -> Loss:
        batch = self.data.batch(draws, BATCH)
        guess = self.unet(batch.noisy, batch.timesteps, batch.words).sample
        return Loss(batch.distance(guess), BATCH)

    def save(self, work: Work) -> None:
        self.unet.save_pretrained(work.path("unet"))


def main(
    folder: cli.WorkFolder,
    minutes: cli.Minutes = None,
    samples: cli.Samples = None,
    rate: cli.Rate = None,
    from_weights: cli.FromWeights = None,
    processes: cli.Processes = None,
) -> None:
    """Train WORK/unet on WORK/latents.npy, or go on with it from WORK/unet.pt."""
    train(Work(folder), Denoiser, Options(minutes, samples, rate, from_weights, processes))


if __name__ == "__main__":
    cli.run(main)
