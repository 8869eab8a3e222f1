from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training import cli, encode, export, unet, vae
from training.encode import FIRST, is_whitened, whiten
from training.errors import TrainingError
from training.pictures import as_tensor, draw
from training.work import Work


def command_line(main: Callable[..., None], *arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a step's command in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["step", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code


def test_what_is_missing_is_named_with_the_step_that_makes_it(tmp_path: Path) -> None:
    for part, step in (("vae", "vae"), ("tokenizer", "text_encoder"), ("latents.npy", "encode")):
        with pytest.raises(TrainingError, match=rf"{part} is missing: make it with `python -m training\.{step}`"):
            Work(tmp_path).need(part)


def test_a_damaged_part_is_one_line(work: Work, tmp_path: Path) -> None:
    shutil.copytree(work.path("unet"), tmp_path / "unet")
    weights = next((tmp_path / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="unet cannot be read") as error:
        Work(tmp_path).unet()
    assert "\n" not in str(error.value)


def test_parts_are_taken_where_they_are_missing_and_the_asked_one_always(shipped: Path, tmp_path: Path) -> None:
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("mine")
    Work(tmp_path).take(shipped, "unet")
    assert (tmp_path / "unet" / "config.json").read_text() != "mine"
    assert (tmp_path / "vae" / "config.json").read_text() == "mine"
    assert (tmp_path / "tokenizer").is_dir()
    with pytest.raises(TrainingError, match="--from-weights wants an exported folder"):
        Work(tmp_path).take(tmp_path, "unet")


def test_the_command_line_says_errors_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unet.pt").write_bytes(b"damaged")
    for arguments in ((tmp_path,), (tmp_path / "new", "--processes", "1"), (tmp_path / "new", "--minutes", "0")):
        assert command_line(unet.main, *arguments, monkeypatch=monkeypatch) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert command_line(export.main, tmp_path, tmp_path / "out", monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_row_of_latents_is_the_picture_of_its_number(work: Work) -> None:
    with torch.no_grad():
        latents = work.vae().encode(as_tensor([draw(FIRST + 17)])).latent_dist.mean[0]
    assert np.allclose(work.array("latents.npy")[17], latents.numpy(), atol=5e-3)


def test_encoding_from_the_shipped_weights_leaves_them_as_they_are(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (tmp_path, "--count", "3", "--processes", "1", "--from-weights", shipped)
    assert command_line(encode.main, *arguments, monkeypatch=monkeypatch) == 0
    latents = Work(tmp_path).array("latents.npy")
    assert latents.shape == (3, 4, 16, 16)
    assert latents.any((1, 2, 3)).all()
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "vae" / name).read_bytes() == (shipped / "model" / "vae" / name).read_bytes()


def test_whitening_changes_latents_but_no_picture() -> None:
    torch.manual_seed(3)
    model = vae.build().eval()
    pictures = as_tensor([draw(number) for number in range(2)])
    with torch.no_grad():
        before = model.encode(pictures).latent_dist
        decoded = model.decode(before.mean).sample
        assert not is_whitened(model)
        whiten(model, pictures=40)
        after = model.encode(pictures).latent_dist
        assert torch.allclose(model.decode(after.mean).sample, decoded, atol=1e-4)
        numbers = range(encode.FIRST_FOR_WHITENING, encode.FIRST_FOR_WHITENING + 40)
        every = model.encode(as_tensor([draw(number) for number in numbers])).latent_dist.mean
    assert is_whitened(model)
    assert torch.allclose(every.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(every.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    scale = before.mean.std((0, 2, 3)) / after.mean.std((0, 2, 3))  # the noise shrinks as the latents do
    assert torch.allclose(before.std, after.std * scale.view(1, -1, 1, 1), rtol=1e-3)
