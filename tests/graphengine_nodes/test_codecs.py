"""The standard types: lossless codecs, views, and files for users."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes import families
from graphengine_nodes.nodes import images

from graphengine import FileError, pack
from graphengine.values.socket_types import SocketType, socket_type
from tests.graphengine_nodes import cases


def kind_of(value: Any) -> SocketType[Any]:
    found = socket_type(type(value))
    assert found is not None
    return found


def round_trip(value: Any) -> Any:
    kind = kind_of(value)
    assert kind.encode is not None
    assert kind.decode is not None
    return kind.decode(kind.encode(value))


def test_importing_the_pack_imports_nothing_heavy() -> None:
    code = (
        "import sys, graphengine_nodes as std\n"
        "model = std.apply_lora(std.load_model('tiny'), std.load_lora('tiny-blueprint'), 0.5)\n"
        "std.load_controlnet('tiny-canny'), std.sample.sockets, std.sample.outputs, model.digest('vae')\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_tensors_come_back_bit_for_bit_and_in_their_order_in_memory() -> None:
    pixels = torch.rand(2, 8, 16, 3)
    assert torch.equal(round_trip(std.Image(pixels)).pixels, pixels)
    assert torch.equal(round_trip(std.Mask(pixels[..., 0])).values, pixels[..., 0])
    rows = torch.randn(2, 4, 8, 8)
    columns = rows.contiguous(memory_format=torch.channels_last)
    for samples in (rows, columns, rows.half()):
        found = round_trip(std.Latent(samples, "stable_diffusion", empty=True))
        assert torch.equal(found.samples, samples)
        assert found.samples.dtype == samples.dtype
        assert found.samples.stride() == samples.stride()
        assert (found.family, found.scale, found.empty) == ("stable_diffusion", "denoiser", True)
    posterior = round_trip(std.Posterior(rows, columns, "stable_diffusion", {"scaling_factor": 0.18215}))
    assert torch.equal(posterior.mean, rows)
    assert posterior.logvar.stride() == columns.stride()
    assert posterior.scaling == {"scaling_factor": 0.18215}


def test_a_picture_from_values_that_came_from_disk_is_the_same() -> None:
    model = round_trip(std.load_model("tiny"))
    text = round_trip(std.encode_prompt(std.load_model("tiny"), cases.PROMPT))
    start = std.encode_image(model, images.from_pil(cases.picture()))
    latent = std.sample(model, text, latent=start, steps=3, seed=2)
    again = round_trip(std.sample(model, text, latent=round_trip(start), steps=3, seed=2))
    assert torch.equal(latent.samples, again.samples)
    assert torch.equal(std.decode_latent(model, latent).pixels, std.decode_latent(model, again).pixels)


def test_prompts_and_controls_come_back_whole() -> None:
    model = std.load_model("tiny")
    for prompt in (None, "", "a red circle"):
        value = std.encode_prompt(model, prompt)
        found = round_trip(value)
        assert torch.equal(found.embeds, value.embeds)
        assert torch.equal(found.negative.embeds, value.fallback["embeds"])
        assert found.absent == (prompt is None)
        assert found.pooled is None
    control = std.Control(std.load_controlnet("tiny-canny"), std.Image(torch.rand(1, 8, 8, 3)), 0.7, 0.1, 0.9)
    found = round_trip(control)
    assert torch.equal(found.image.pixels, control.image.pixels)
    assert (found.controlnet, found.scale, found.start, found.end) == (control.controlnet, 0.7, 0.1, 0.9)


def test_references_are_equal_by_what_they_stand_for(models: Path) -> None:
    model = std.apply_lora(std.load_model("tiny"), std.load_lora("tiny-blueprint"), 0.5)
    for value in (model, std.load_controlnet("tiny-canny"), std.load_lora("tiny-blueprint")):
        found = round_trip(value)
        assert found == value
        assert hash(found) == hash(value)
        assert found.digest() == value.digest()
        assert found.source == value.source
    elsewhere = std.load_model(models / "tiny")  # the same files by another name
    assert elsewhere == std.load_model("tiny")
    assert elsewhere.digest() == std.load_model("tiny").digest()
    assert std.load_model("tiny", precision="float16").digest("vae") != std.load_model("tiny").digest("vae")
    assert str(models) not in json.dumps(json.loads(kind_of(model).encode(elsewhere)))  # type: ignore[misc]


def test_digests_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = std.load_model("tiny")
    known = families.families()
    monkeypatch.setitem(known, "other", known["stable_diffusion"])
    other = replace(model, family="other")
    for part in (None, "text_encoder", "denoiser", "vae", "denoiser+vae"):
        assert model.digest(part) != other.digest(part)
    words = std.LoRA("words", ("text_encoder",))
    unet = std.LoRA("unet", ("denoiser",))
    both = "denoiser+vae"
    assert std.inpaint.sockets["model"].uses == both
    assert replace(model, loras=((words, 1.0),)).digest(both) == model.digest(both) == model.digest("vae+denoiser")
    assert replace(model, loras=((unet, 1.0),)).digest(both) != model.digest(both)
    for name in ("unet", "scheduler", "vae", "text_encoder", "tokenizer"):
        components = tuple((key, "new" if key == name else value) for key, value in model.components)
        changed = replace(model, components=components).digest(both) != model.digest(both)
        assert changed == (name in ("unet", "scheduler", "vae"))
    with pytest.raises(ValueError, match="no part 'unet'; its parts are text_encoder, denoiser, vae"):
        model.digest("vae+unet")


def test_the_libraries_that_decide_results_are_in_the_keys() -> None:
    named = {line.split("==")[0] for line in pack.version_stamp(std.__pack__)}
    assert {"torch", "diffusers", "transformers", "peft", "numpy", "pillow", "opencv-python-headless"} <= named


def test_every_type_can_be_looked_at(models: Path) -> None:
    model = std.load_model("tiny")
    picture = images.from_pil(cases.picture(), cases.picture())
    posterior = std.encode_image(model, picture)
    values: list[tuple[Any, int]] = [
        (picture, 2),
        (std.mask_rectangle(16, 16), 1),
        (posterior, 2),
        (std.Latent(posterior.mean, model.family), 2),
        (std.apply_controlnet(std.load_controlnet("tiny-canny"), picture), 2),
    ]
    for value, count in values:
        kind = kind_of(value)
        assert kind.view is not None
        views = kind.view(value)
        assert isinstance(views, list)
        assert len(views) == count
        assert all(view.png is not None and view.png.startswith(b"\x89PNG") for view in views)
        assert kind.size is not None
        assert kind.size(value) > 0
    for value in (std.encode_prompt(model, "x"), model, std.load_lora("tiny-blueprint")):
        view = kind_of(value).view(value)  # type: ignore[misc]
        assert not isinstance(view, list)
        assert view.text
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert np.asarray(picture).shape == (2, 128, 128, 3)
    assert np.array_equal(np.asarray(images.from_pil(cases.picture())), np.asarray(cases.picture()))


# --- files for users --------------------------------------------------------------------------------------------------


def test_pictures_are_saved_with_their_text(tmp_path: Path) -> None:
    picture = images.from_pil(cases.picture(), cases.edges())
    save = kind_of(picture).save
    assert save is not None
    files = save(picture, tmp_path / "new" / "out", {"workflow": "ünïcode ☃", "parameters": "a\nSteps: 4"})
    assert [file.name for file in files] == ["out_0.png", "out_1.png"]
    with PIL.Image.open(files[0]) as found:
        assert found.text == {"workflow": "ünïcode ☃", "parameters": "a\nSteps: 4"}  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(found), np.asarray(cases.picture()))
    assert std.save_image(images.from_pil(cases.picture()), tmp_path / "one.png") == [str(tmp_path / "one.png")]
    assert std.save_image(images.from_pil(cases.picture()), tmp_path / "v1.5") == [str(tmp_path / "v1.5.png")]
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "one.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    file = tmp_path / "out.png"
    file.write_bytes(b"the old one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as if the disk were full after that
    try:
        with pytest.raises(FileError, match=r"out\.png cannot be written: File too large"):
            images.from_pil(cases.picture()).save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_view_of_latents_with_frames_shows_the_one_in_the_middle() -> None:
    samples = torch.randn(2, 16, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    values = [
        (std.Latent(samples, "wan"), std.Latent(samples[:, :, 1], "wan")),
        (std.Posterior(samples, samples, "wan", {}), std.Posterior(samples[:, :, 1], samples[:, :, 1], "wan", {})),
    ]
    for whole, middle in values:
        view = kind_of(whole).view
        assert view is not None
        found, expected = view(whole), view(middle)
        assert isinstance(found, list)
        assert len(found) == 2
        assert found == expected


def test_a_view_of_a_size_without_a_model_is_a_picture() -> None:
    view = kind_of(std.empty_latent(None, 64, 64)).view
    assert view is not None
    assert view(std.empty_latent(None, 64, 64))
