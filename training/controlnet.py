"""Train a canny ControlNet (Zhang et al. 2023, arXiv 2302.05543) over the UNet as it is.

Half of the captions are empty, so that edges alone must tell the shape.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from training import cli
from training.diffusion import Captioned
from training.draws import Draws
from training.loop import Loss, Options, Recipe, Task, train
from training.pictures import canny, draw
from training.work import Work

BATCH = 12  # of each process


def build(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the UNet's first half; the four channels take 128 x 128 edges down to 16 x 16."""
    return ControlNetModel.from_unet(
        unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32, 64, 96)
    )


class EdgeControl(Task):
    """The control images are the edges of the pictures that the latents are of."""

    name = part = "controlnet"
    recipe = Recipe(rate=1e-3, warmup=200, minutes=18)

    def __init__(self, work: Work, start: bool) -> None:
        self.data = Captioned(work, "latents.npy", empty=0.5)
        self.unet = work.unet().eval().requires_grad_(False)
        self.controlnet = self.module = (work.controlnet() if start else build(self.unet)).train()

    def loss(self, draws: Draws, spent: float) -> Loss:
        batch = self.data.batch(draws, BATCH)
        edges = np.stack([canny(draw(number)) for number in batch.numbers])
        control = torch.from_numpy(edges).float().div(255)[:, None].expand(-1, 3, -1, -1)
        down, middle = self.controlnet(
            batch.noisy, batch.timesteps, batch.words, controlnet_cond=control, return_dict=False
        )
        guess = self.unet(
            batch.noisy,
            batch.timesteps,
            batch.words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return Loss(batch.distance(guess), BATCH)

    def save(self, work: Work) -> None:
        self.controlnet.save_pretrained(work.path("controlnet"))


def main(
    folder: cli.WorkFolder,
    minutes: cli.Minutes = None,
    samples: cli.Samples = None,
    rate: cli.Rate = None,
    from_weights: cli.FromWeights = None,
    processes: cli.Processes = None,
) -> None:
    """Train WORK/controlnet over WORK/unet, or go on with it from WORK/controlnet.pt."""
    train(Work(folder), EdgeControl, Options(minutes, samples, rate, from_weights, processes))


if __name__ == "__main__":
    cli.run(main)
