"""The training loss of the UNet, the ControlNet and the LoRA: v-prediction on captioned latents.

Ho et al. 2020 (arXiv 2006.11239); v-prediction after Salimans and Ho 2022 (arXiv 2202.00512); zero terminal signal
after Lin et al. 2024 (arXiv 2305.08891), so that plain and very dark or bright backgrounds come out as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler

from training.captions import noisy_caption
from training.draws import Draws
from training.encode import FIRST
from training.pictures import scene
from training.work import Work

CLAMP = 4.0  # the few latents beyond four deviations teach nothing


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Batch:
    """A batch: noisy latents, their timesteps, their captions' hidden states, and the UNet's target."""

    numbers: Sequence[int]
    noisy: torch.Tensor
    timesteps: torch.Tensor
    words: torch.Tensor
    target: torch.Tensor

    def distance(self, guess: torch.Tensor) -> torch.Tensor:
        return ((guess - self.target) ** 2).mean()


class Captioned:
    """Batches of a file of latents with captions that are new each time; some are empty.

    Empty captions are what classifier-free guidance needs (Ho and Salimans 2022, arXiv 2207.12598).
    """

    def __init__(self, work: Work, latents: str, *, empty: float) -> None:
        self.latents, self.empty = work.array(latents), empty
        self.tokenizer, self.text_encoder = work.tokenizer(), work.text_encoder().eval()
        alphas = scheduler().alphas_cumprod
        self.signal, self.noise = alphas.sqrt(), (1 - alphas).sqrt()

    def batch(self, draws: Draws, size: int) -> Batch:
        rows = draws.numbers.integers(len(self.latents), size=size)
        numbers = [FIRST + int(row) for row in rows]
        z = torch.from_numpy(np.asarray(self.latents[rows])).float().clamp(-CLAMP, CLAMP)
        timesteps = draws.timesteps(size, of=len(self.signal))
        signal, noise = (roots[timesteps].view(-1, 1, 1, 1) for roots in (self.signal, self.noise))
        epsilon = draws.noise_like(z)
        words = self._hidden([self._caption(number, draws) for number in numbers])
        return Batch(numbers, signal * z + noise * epsilon, timesteps, words, signal * epsilon - noise * z)

    def _caption(self, number: int, draws: Draws) -> str:
        return "" if draws.words.random() < self.empty else noisy_caption(scene(number), draws.words)

    @torch.no_grad()
    def _hidden(self, captions: list[str]) -> torch.Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        hidden: torch.Tensor = self.text_encoder(ids).last_hidden_state
        return hidden
