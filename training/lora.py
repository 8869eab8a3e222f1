"""Train a style LoRA (Hu et al. 2021, arXiv 2106.09685) over the UNet as it is: the same world as a blueprint.

Attention sits only on the UNet's two coarse levels, so the convolutions are adapted too. Captions are the plain
ones: the LoRA alone makes the style.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from training import cli
from training.diffusion import Captioned
from training.draws import Draws
from training.encode import encode
from training.errors import TrainingError, reading
from training.loop import Loss, Options, Recipe, Task, train
from training.pictures import blueprint
from training.work import Work

BATCH = 12  # of each process
RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "conv2"]
FILE = "blueprint.safetensors"
LATENTS = "blueprint.npy"


class Style(Task):
    """The UNet with an adapter; only the adapter is trained."""

    name = part = "lora"
    recipe = Recipe(rate=2e-3, warmup=100, minutes=8, weight_decay=1e-4, average=0.998)

    def __init__(self, work: Work, start: bool) -> None:
        self.data = Captioned(work, LATENTS, empty=0.1)
        self.unet = self.module = work.unet().train().requires_grad_(False)
        adapter = LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS)
        self.unet.add_adapter(adapter)
        if start:
            self._load(work)

    def _load(self, work: Work) -> None:
        file = work.need("lora") / FILE
        with reading(file):
            stored = load_file(file)
        layers = {name.removeprefix("unet."): weight.float() for name, weight in stored.items()}
        if set_peft_model_state_dict(self.unet, layers).unexpected_keys:
            raise TrainingError(f"{file} is a LoRA of another UNet")

    def loss(self, draws: Draws, spent: float) -> Loss:
        batch = self.data.batch(draws, BATCH)
        guess = self.unet(batch.noisy, batch.timesteps, batch.words).sample
        return Loss(batch.distance(guess), BATCH)

    def save(self, work: Work) -> None:
        layers = {name: weight.to(torch.float16) for name, weight in get_peft_model_state_dict(self.unet).items()}
        StableDiffusionPipeline.save_lora_weights(work.path("lora"), unet_lora_layers=layers, weight_name=FILE)


def main(
    folder: cli.WorkFolder,
    minutes: cli.Minutes = None,
    samples: cli.Samples = None,
    rate: cli.Rate = None,
    from_weights: cli.FromWeights = None,
    processes: cli.Processes = None,
    pictures: Annotated[int, typer.Option(help="How many pictures in the style.", min=1)] = 4000,
) -> None:
    """Train WORK/lora over WORK/unet, or go on with it from WORK/lora.pt."""
    work = Work(folder)
    options = Options(minutes, samples, rate, from_weights, processes)

    def encode_in_style() -> None:
        if not work.path(LATENTS).exists():
            encode(work, LATENTS, pictures, blueprint, processes)

    train(work, Style, options, before=encode_in_style)


if __name__ == "__main__":
    cli.run(main)
