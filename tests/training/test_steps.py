"""Each training step, for a few seconds: it learns, it resumes exactly, it begins from the shipped weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from training.checkpoint import Checkpoint
from training.controlnet import EdgeControl
from training.draws import Draws
from training.loop import Options, Run, Task, train
from training.lora import Style
from training.schedule import Budget, Schedule
from training.text_encoder import Reader
from training.unet import Denoiser
from training.vae import Autoencoder, Decoder
from training.work import Work

TASKS = [Autoencoder, Decoder, Reader, Denoiser, EdgeControl, Style]
QUICK = Schedule(rate=1e-3, warmup=1, floor=1.0, budget=Budget(samples=10**6))


@pytest.fixture
def own(work: Work, tmp_path: Path) -> Work:
    """A copy of the work folder that a test may write to."""
    shutil.copytree(work.folder, tmp_path / "work")
    return Work(tmp_path / "work")


def begin(task: type[Task], work: Work, start: bool = False) -> Run:
    torch.manual_seed(0)
    return Run(task(work, start), QUICK, rank=0, processes=1, seed=0)


def judged(run: Run) -> float:
    """The loss on one batch that is always the same."""
    with torch.no_grad():
        return run.task.loss(Draws(7), 0.0).value.item()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_step_learns_and_goes_on_from_its_checkpoint_exactly(task: type[Task], work: Work, tmp_path: Path) -> None:
    run = begin(task, work)
    if task is Decoder:  # the shipped one has little to learn
        nn.init.zeros_(run.named["decoder.conv_out.weight"])
    before = judged(run)
    for _ in range(2):
        run.advance()
    assert judged(run) < before
    run.checkpoint().save(tmp_path / "half.pt")
    resumed = begin(task, work)
    resumed.restore(Checkpoint.load(tmp_path / "half.pt", task.name))
    assert (resumed.step, resumed.seen) == (run.step, run.seen)
    for each in (run, resumed):
        each.advance()
    assert all(torch.equal(run.named[name], resumed.named[name]) for name in run.named)
    assert all(torch.equal(a, b) for a, b in zip(run.average.shadow, resumed.average.shadow, strict=True))


@pytest.mark.parametrize("task", [Autoencoder, Reader, Denoiser, EdgeControl, Style], ids=lambda task: task.name)
def test_a_step_begins_from_the_shipped_weights(task: type[Task], work: Work, shipped: Path) -> None:
    if task.part in ("controlnet", "lora"):
        work.take(shipped, task.part)
    torch.manual_seed(1)
    started, fresh = begin(task, work, start=True), begin(task, work)
    # The reader's head is not shipped, and from a head that knows nothing no loss tells the encoders apart.
    if task is Reader:
        assert not torch.equal(*(run.named["encoder.final_layer_norm.weight"] for run in (started, fresh)))
    else:
        assert judged(started) < 0.9 * judged(fresh)


def test_training_from_shipped_weights_alone_copies_what_is_missing(work: Work, shipped: Path, tmp_path: Path) -> None:
    own = Work(tmp_path / "work")

    def latents() -> None:
        shutil.copy(work.path("latents.npy"), own.path("latents.npy"))

    train(own, Denoiser, Options(samples=32, processes=1, from_weights=shipped), before=latents)
    done = Checkpoint.load(own.checkpoint("unet"), "unet")
    assert (done.step, done.seen) == (2, 32)
    assert done.optimiser["param_groups"][0]["lr"] < 2e-3 * Denoiser.recipe.rate * 5  # within the warm-up
    old = UNet2DConditionModel.from_pretrained(shipped / "model" / "unet")
    new = UNet2DConditionModel.from_pretrained(own.path("unet"))
    moved = max((a - b).abs().max().item() for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert 0 < moved < 0.01


def test_an_autoencoder_of_random_weights_learns_pictures(work: Work) -> None:
    run = begin(Autoencoder, work)
    first = run.task.loss(Draws(7), 0.0).figures["psnr"]
    for _ in range(8):
        run.advance()
    assert run.task.loss(Draws(7), 0.0).figures["psnr"] > first + 0.5


def test_training_the_decoder_leaves_the_latents(own: Work) -> None:
    train(own, Decoder, Options(samples=8, processes=1))
    old = AutoencoderKL.from_pretrained(own.folder.parent / "work" / "vae")
    shipped = Work(own.folder).vae()
    assert old.config.scaling_factor == shipped.config.scaling_factor == 1.0
    trained = Checkpoint.load(own.checkpoint("decoder"), "decoder").weights
    assert trained
    assert not [name for name in trained if name.startswith(("encoder.", "quant_conv."))]


def test_a_lora_s_file_is_what_diffusers_loads(own: Work, shipped: Path) -> None:
    train(own, Style, Options(samples=24, processes=1))
    pipeline = StableDiffusionPipeline.from_pretrained(shipped / "model")
    pipeline.load_lora_weights(own.path("lora"), weight_name="blueprint.safetensors")
    assert pipeline.get_active_adapters()
    ours, theirs = (load_file(folder / "blueprint.safetensors") for folder in (own.path("lora"), shipped / "lora"))
    assert {name: w.shape for name, w in ours.items()} == {name: w.shape for name, w in theirs.items()}
    assert {w.dtype for w in ours.values()} == {torch.float16}
