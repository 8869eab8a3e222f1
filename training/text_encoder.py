"""Teach the CLIP text encoder the captions before the UNet sees it: from the end-of-text state, name what is drawn.

The encoder is CLIP's (Radford et al. 2021, arXiv 2103.00020), small. Minutes of this replace hours in which a UNet
learns from an encoder that says nothing yet; afterwards it stays as it is.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training import cli, tokenizer
from training.captions import noisy_caption
from training.draws import Draws
from training.loop import Loss, Options, Recipe, Task, train
from training.work import Work
from training.world import BACKGROUNDS, CELLS, COLOUR_NAMES, KINDS, SIZES, Scene, sample

WIDTH = 128
BATCH = 32
HEADS = {
    "background": len(BACKGROUNDS),
    "count": 3,
    "alike": 2,
    "kind": len(KINDS),
    "colour": len(COLOUR_NAMES),
    "size": len(SIZES),
    "cell": len(CELLS),
    "second kind": len(KINDS) + 1,
    "second colour": len(COLOUR_NAMES) + 1,
}


def build(tokens: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=WIDTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.eos_token_id,
        )
    )


def labels(scene: Scene) -> list[int]:
    """The scene as one class for each of HEADS; 0 is "no second thing"."""
    first, last = scene.things[0], scene.things[-1]
    second = scene.count > 1
    return [
        BACKGROUNDS.index(scene.background),
        scene.count - 1,
        int(scene.alike),
        KINDS.index(first.kind),
        COLOUR_NAMES.index(first.colour),
        tuple(SIZES).index(first.size),
        tuple(CELLS).index(first.cell),
        KINDS.index(last.kind) + 1 if second else 0,
        COLOUR_NAMES.index(last.colour) + 1 if second else 0,
    ]


class Reader(Task):
    """The text encoder with a linear layer that names all of the scene at once."""

    name = part = "text_encoder"
    recipe = Recipe(rate=2e-3, warmup=100, minutes=3.5, floor=0.05, betas=(0.9, 0.98), average=0.99)

    def __init__(self, work: Work, start: bool) -> None:
        self.tokenizer = work.tokenizer()
        self.encoder = work.text_encoder() if start else build(self.tokenizer)
        self.head = nn.Linear(WIDTH, sum(HEADS.values()))
        self.module = nn.ModuleDict({"encoder": self.encoder, "head": self.head}).train()

    def loss(self, draws: Draws, spent: float) -> Loss:
        scenes = [sample(draws.words) for _ in range(BATCH)]
        captions = [noisy_caption(scene, draws.words) for scene in scenes]
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        guesses = self.head(self.encoder(ids).pooler_output).split(list(HEADS.values()), dim=1)
        truth = torch.tensor([labels(scene) for scene in scenes]).unbind(1)
        losses = [F.cross_entropy(guess, wanted) for guess, wanted in zip(guesses, truth, strict=True)]
        right = [(guess.argmax(1) == wanted).float().mean() for guess, wanted in zip(guesses, truth, strict=True)]
        return Loss(torch.stack(losses).sum(), BATCH, {"right": torch.stack(right).mean().item()})

    def save(self, work: Work) -> None:
        self.encoder.save_pretrained(work.path("text_encoder"))


def main(
    folder: cli.WorkFolder,
    minutes: cli.Minutes = None,
    samples: cli.Samples = None,
    rate: cli.Rate = None,
    from_weights: cli.FromWeights = None,
    processes: cli.Processes = None,
) -> None:
    """Make WORK/tokenizer, and train WORK/text_encoder or go on with it from WORK/text_encoder.pt."""
    work = Work(folder)

    def build_tokenizer() -> None:
        if not work.path("tokenizer").exists():
            tokenizer.build(work.path("tokenizer"))

    train(work, Reader, Options(minutes, samples, rate, from_weights, processes), before=build_tokenizer)


if __name__ == "__main__":
    cli.run(main)
