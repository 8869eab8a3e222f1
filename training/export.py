"""Write the trained parts as folders in diffusers' layout: OUT/model, OUT/controlnet and OUT/lora.

The text encoder stays in single precision: transformers loads a model in the precision it is stored in, diffusers
in single precision, and a pipeline of both would not run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import StableDiffusionPipeline

from training import cli
from training.diffusion import scheduler
from training.preview import write
from training.work import Work

DEFAULTS = {"steps": 20, "guidance_scale": 3.5, "width": 128, "height": 128}


def export(work: Work, out: Path) -> None:
    pipeline = StableDiffusionPipeline(
        vae=work.vae().to(torch.float16),
        text_encoder=work.text_encoder(),
        tokenizer=work.tokenizer(),
        unet=work.unet().to(torch.float16),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out / "model")
    write(work.vae(), out / "model" / "vae")
    (out / "model" / "defaults.json").write_text(json.dumps(DEFAULTS) + "\n", encoding="utf-8")
    if work.path("controlnet").exists():
        work.controlnet().to(torch.float16).save_pretrained(out / "controlnet")
    if work.path("lora").exists():
        shutil.copytree(work.path("lora"), out / "lora", dirs_exist_ok=True)
    for file in (file for file in out.rglob("*") if file.is_file()):
        file.chmod(0o644)  # safetensors writes for its owner alone
        if file.suffix == ".json":
            _forget_origin(file)


def _forget_origin(config: Path) -> None:
    """Leave out the folder of the machine that trained the part."""
    known = json.loads(config.read_text(encoding="utf-8"))
    if known.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(
    folder: cli.WorkFolder,
    out: Annotated[Path, typer.Argument(help="Where model/, controlnet/ and lora/ are written.")],
) -> None:
    """Write what WORK holds as a folder that StableDiffusionPipeline.from_pretrained loads."""
    export(Work(folder), out)


if __name__ == "__main__":
    cli.run(main)
