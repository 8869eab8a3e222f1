"""multigen's Pipe classes against bare diffusers, their memory, and switching: `python -m benchmarks.pipes`.

Speed is measured on `tiny`, first runs (values are forgotten before them) and repetitions, in medians of alternating
runs. Memory and switching are measured on checkpoints of 2 GB with random weights, made in a temporary folder; memory
in processes of their own, each with one Pipe or with five over one checkpoint, whose diffusers pipelines are made too.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from graphengine_nodes import load_model
from graphengine_nodes.store.store import store as weights
from graphengine_nodes.weights.files import TINY

from benchmarks.pictures import PROMPT, timed
from benchmarks.table import alternate, machine, ratio, show
from graphengine.execution.run import shared_store
from multigen import CIm2ImPipe, Cond2ImPipe, Im2ImPipe, Loader, MaskedIm2ImPipe, Prompt2ImPipe

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(runs: int) -> None:
    """Measure a Pipe against the diffusers pipeline that it replaces."""
    bare = StableDiffusionPipeline.from_pretrained(TINY / "model")
    bare.set_progress_bar_config(disable=True)
    bare.vae.enable_tiling()
    pipe = Prompt2ImPipe("tiny")
    pipe.setup(width=128, height=128, steps=20)
    seeds = iter(range(10**6))

    def one_call() -> float:
        generator = torch.Generator().manual_seed(next(seeds))
        size = {"width": 128, "height": 128, "num_inference_steps": 20}
        return timed(lambda: bare(PROMPT, generator=generator, **size))

    def first() -> float:
        shared_store().clear()
        fresh = Prompt2ImPipe("tiny")
        fresh.setup(width=128, height=128, steps=20)
        generator = torch.Generator().manual_seed(next(seeds))
        return timed(lambda: fresh.gen({"prompt": PROMPT, "generator": generator}))

    def another_seed() -> float:
        return timed(lambda: pipe.gen({"prompt": PROMPT, "seed": next(seeds)}))

    def again() -> float:
        return timed(lambda: pipe.gen({"prompt": PROMPT, "seed": 0}))

    def second() -> float:
        again()
        return again()

    for measure in (one_call, first, another_seed, again):  # weights are loaded, threads started
        measure()
    theirs, cold, warm, repeated = alternate(runs, one_call, first, another_seed, second)
    rows = [("one-call pipeline", theirs), ("Prompt2ImPipe, first run", cold)]
    rows += [("another seed", warm), ("the same again", repeated)]
    show(
        "Text to image on tiny, 20 steps",
        ("", "seconds", "ratio"),
        [(name, statistics.median(times), ratio(times, theirs)) for name, times in rows],
    )


# --- memory -----------------------------------------------------------------------------------------------------------


def make_models(folder: Path) -> None:
    """`a` and `b`, Stable Diffusion with a denoiser of the real width, over `tiny`'s other parts; and a ControlNet."""
    config = UNet2DConditionModel.load_config(TINY / "model" / "unet") | {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    }
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(config)
        shutil.copytree(TINY / "model", folder / name)
        shutil.rmtree(folder / name / "unet")
        unet.save_pretrained(folder / name / "unet")
    ControlNetModel.from_unet(unet).save_pretrained(folder / "controlnet")


def use(cls: Any, folder: Path) -> Any:
    """A Pipe that has made a picture, and the pipeline that scripts see of it."""
    steered = {"ctypes": ["canny"], "cnet_ids": [str(folder / "controlnet")]} if issubclass(cls, Cond2ImPipe) else {}
    pipe = cls(str(folder / "a"), **steered)
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    masked = {"mask": picture.convert("L")} if cls is MaskedIm2ImPipe else {}
    pipe.setup(**{} if cls is Prompt2ImPipe else {"image": picture}, **masked, **SMALL)
    pipe.gen({"prompt": PROMPT, "seed": 0})
    return pipe, pipe.pipe


PIPES = (CIm2ImPipe, Prompt2ImPipe, Im2ImPipe, MaskedIm2ImPipe, Cond2ImPipe)


def measure_memory(folder: Path, count: int) -> None:
    """Tell what this process holds when it has used some of the Pipes, as JSON."""
    pipes = [use(cls, folder) for cls in PIPES[:count]]
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and not thing.is_meta]
    unique = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    found = psutil.Process().memory_full_info()
    print(json.dumps({"USS": found.uss, "RSS": found.rss, "storages": sum(unique.values()), "pipes": len(pipes)}))


def memory(folder: Path) -> None:
    """One Pipe (with a ControlNet) against five over the same checkpoint."""
    found = []
    for count in (1, len(PIPES)):
        command = [sys.executable, "-m", "benchmarks.pipes", "--memory-of", str(count), "--models", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
    one, five = found
    kinds = ("USS", "RSS", "storages")
    rows = [(kind, one[kind] / 2**30, five[kind] / 2**30, five[kind] / one[kind]) for kind in kinds]
    size = sum(file.stat().st_size for file in (folder / "a").rglob("*") if file.is_file())
    show(f"Memory over a checkpoint of {size / 1e9:.1f} GB and a ControlNet, GiB", ("", "one", "five", "ratio"), rows)


# --- switching --------------------------------------------------------------------------------------------------------


def switching(folder: Path, runs: int) -> None:
    """From one checkpoint to another, both in memory, against reading it from disk (which the system has cached)."""

    def hold(name: str) -> None:
        """Open a Pipe's weights as before it computes."""
        model = load_model(folder / name)
        with ExitStack() as stack:
            for component, _ in model.components:
                stack.enter_context(weights.component(model, component, "cpu"))

    def pipeline(name: str) -> None:
        """Open the pipeline of diffusers as a script does."""
        Loader().load_pipeline(StableDiffusionPipeline, folder / name, torch.float32, "cpu")

    def from_disk(work: Callable[[str], None]) -> float:
        gc.collect()
        weights.clear()
        work("a")
        return timed(lambda: work("b"))

    def switched(work: Callable[[str], None]) -> float:
        work("b"), work("a")
        return timed(lambda: work("b"))

    rows: list[tuple[str, float, float]] = []
    for what, work in (("a Pipe's weights", hold), ("Loader.load_pipeline", pipeline)):
        disk, memory = alternate(runs, lambda w=work: from_disk(w), lambda w=work: switched(w))  # type: ignore[misc]
        rows.append((f"{what}, from disk", statistics.median(disk), 1.0))
        rows.append((f"{what}, in memory, after another checkpoint", statistics.median(memory), ratio(memory, disk)))
    show("Going to another checkpoint", ("", "seconds", "ratio"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--models", type=Path, help="a folder for the large checkpoints, which are kept there")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        measure_memory(given.models, given.memory_of)
        return
    print(machine(), f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.runs} runs")
    speed(given.runs)
    with tempfile.TemporaryDirectory(prefix="graphengine-benchmark-") as temporary:
        folder = given.models or Path(temporary)
        if not (folder / "controlnet").exists():
            make_models(folder)
        memory(folder)
        switching(folder, max(3, given.runs // 3))


if __name__ == "__main__":
    main()
