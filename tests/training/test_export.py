from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from safetensors.torch import load_file

from training.export import export
from training.work import Work


@pytest.fixture(scope="module")
def exported(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    work = Work(folder / "work")
    for part in ("unet", "controlnet", "lora"):
        work.take(shipped, part)
    export(work, folder / "out")
    return folder / "out"


def dtypes(file: Path) -> set[torch.dtype]:
    return {weight.dtype for weight in load_file(file).values()}


def test_a_plain_pipeline_loads_and_runs_it(exported: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(exported / "model")
    pipeline.load_lora_weights(exported / "lora", weight_name="blueprint.safetensors")
    pipeline.set_progress_bar_config(disable=True)
    assert ControlNetModel.from_pretrained(exported / "controlnet").config.cross_attention_dim == 128
    generator = torch.Generator().manual_seed(0)
    picture = pipeline("a red circle", num_inference_steps=2, generator=generator).images[0]
    assert picture.size == (128, 128)
    assert len(picture.getcolors(2**14)) > 100


def test_the_text_encoder_is_in_single_precision_and_the_rest_in_half(exported: Path) -> None:
    assert dtypes(exported / "model" / "text_encoder" / "model.safetensors") == {torch.float32}
    for part in ("model/unet", "model/vae", "controlnet"):
        assert dtypes(exported / part / "diffusion_pytorch_model.safetensors") == {torch.float16}, part
    assert dtypes(exported / "lora" / "blueprint.safetensors") == {torch.float16}


def test_shipped_weights_exported_are_the_shipped_weights(exported: Path, shipped: Path) -> None:
    files = [file.relative_to(shipped) for file in shipped.rglob("*.safetensors")]
    assert len(files) == 5
    for file in files:
        ours, theirs = load_file(exported / file), load_file(shipped / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("defaults.json", "scheduler/scheduler_config.json"):
        pair = [json.loads((folder / "model" / name).read_text()) for folder in (exported, shipped)]
        assert pair[0] | {"_diffusers_version": ""} == pair[1] | {"_diffusers_version": ""}


def test_the_shipped_map_of_previews_is_made_again(exported: Path, shipped: Path) -> None:
    ours, theirs = (json.loads((f / "model" / "vae" / "preview.json").read_text()) for f in (exported, shipped))
    assert torch.allclose(torch.tensor(ours["factors"]), torch.tensor(theirs["factors"]), atol=2e-3)


def test_files_are_readable_by_all_and_name_no_folder(exported: Path) -> None:
    files = [file for file in exported.rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}
    assert not [file for file in files if file.suffix == ".json" and str(exported.parent) in file.read_text()]
