"""Pictures as prompts: keys, references, and what does not fit, each by one sentence before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.nodes.sampling import request_of
from graphengine_nodes.testing import ip_adapters as testing
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.weights.files import TINY
from safetensors.torch import load_file, save_file

from graphengine import INERT, Graph, ModelError, load
from graphengine.system.opening import rooted
from graphengine.testing import Recorder
from graphengine.values.socket_types import socket_type
from tests.graphengine_nodes import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapters")
    testing.image_encoder(found / "image_encoder")
    testing.ip_adapter(found / "plain.safetensors")
    testing.ip_adapter(found / "plus.safetensors", "plus", seed=1)
    return found


@pytest.fixture(scope="module")
def adapter(folder: Path) -> std.IPAdapter:
    return std.load_ip_adapter(folder / "plain.safetensors")


@pytest.fixture(scope="module")
def prompt(adapter: std.IPAdapter) -> std.ImagePrompt:
    return std.encode_image_prompt(adapter, images.from_pil(cases.picture()))


def copy(value: Any) -> Any:
    kind = socket_type(type(value))
    assert kind is not None
    assert kind.encode is not None
    assert kind.decode is not None
    return kind.decode(kind.encode(value))


# --- values and keys --------------------------------------------------------------------------------------------------


def test_values_come_back_whole(adapter: std.IPAdapter, prompt: std.ImagePrompt) -> None:
    assert copy(adapter) == adapter
    model = std.load_model("tiny")
    applied = std.apply_ip_adapter(std.apply_ip_adapter(model, adapter, 0.5), adapter, {"up": {"block_0": [0, 1]}})
    assert copy(applied) == applied
    assert "ip_adapters" not in socket_type(std.Model).encode(model).decode()  # type: ignore[union-attr, misc]
    masked = std.encode_image_prompt(adapter, images.from_pil(cases.picture()), std.Mask(torch.rand(1, 8, 8)))
    for value in (prompt, masked):
        found = copy(value)
        assert torch.equal(found.embeds, value.embeds)
        assert torch.equal(found.negative, value.negative)
        assert (found.adapter, found.source) == (value.adapter, "plain.safetensors")
        assert (found.mask is None) == (value.mask is None)
    assert masked.mask is not None
    assert torch.equal(copy(masked).mask, masked.mask)
    assert repr(applied).count("IP-Adapter plain.safetensors x") == 2


def test_values_can_be_looked_at(adapter: std.IPAdapter, prompt: std.ImagePrompt) -> None:
    def text(value: Any) -> str:
        kind = socket_type(type(value))
        assert kind is not None
        assert kind.view is not None
        view = kind.view(value)
        return str((view[0] if isinstance(view, list) else view).text)

    assert text(prompt) == "pictures as plain.safetensors reads them: 1"
    assert text(adapter).startswith("IPAdapter plain.safetensors\ndigest ")
    assert "IP-Adapter plain.safetensors at 0.5" in text(std.apply_ip_adapter(std.load_model("tiny"), adapter, 0.5))


def test_digests_of_parts_tell_adapters_and_scales_apart(adapter: std.IPAdapter) -> None:
    model = std.load_model("tiny")
    variants = [model, *(std.apply_ip_adapter(model, adapter, scale) for scale in (1.0, 0.5, {"mid": 1.0}))]
    assert len({one.digest("denoiser") for one in variants}) == 4
    assert len({one.digest("text_encoder") for one in variants}) == 1
    assert len({one.digest("vae") for one in variants}) == 1
    parts = std.split_model(variants[1])
    assert parts.denoiser.model.ip_adapters == variants[1].ip_adapters
    assert std.join_model(parts.denoiser, parts.text_encoder, parts.vae) == variants[1]


def test_a_new_seed_or_scale_does_not_encode_the_picture_again(folder: Path) -> None:
    with Graph() as graph:
        seed, scale = graph.input("seed", int, 0), graph.input("scale", float, 1.0)
        adapter = std.load_ip_adapter(folder / "plain.safetensors")
        model = std.apply_ip_adapter(std.load_model("tiny"), adapter, scale)
        shown = std.encode_image_prompt(adapter, std.load_image(folder / "picture.png"))
        text = std.encode_prompt(model, cases.PROMPT)
        sampled = std.sample(model, text, image_prompt=shown, seed=seed, steps=1, width=64, height=64)
        graph.output("latent", sampled)
    images.from_pil(cases.picture()).save(folder / "picture.png")
    graph.save(folder / "graph.yaml")
    again = load(folder / "graph.yaml")
    first = again()
    assert torch.equal(first.samples, graph().samples)
    for change in ({"seed": 1}, {"scale": 0.3}):
        recorder = Recorder()
        again.run(inputs=change, listeners=[recorder])
        assert set(recorder.computed) - {"std.apply_ip_adapter"} == {"std.sample"}


def test_calls_with_other_pictures_are_never_one_batch(prompt: std.ImagePrompt, adapter: std.IPAdapter) -> None:
    model = std.apply_ip_adapter(std.load_model("tiny"), adapter)
    text = std.encode_prompt(model, cases.PROMPT)
    assert "image_prompt" not in std.sample.batch
    alone = [
        std.sample(model, text, seed=seed, image_prompt=prompt, steps=2, width=64, height=64).samples for seed in (1, 2)
    ]
    many: Any = std.sample.many_fn
    both = many(model, [text, text], seed=[1, 2], ctx=[INERT, INERT], image_prompt=prompt, steps=2, width=64, height=64)
    for one, expected in zip(both, alone, strict=True):
        assert torch.allclose(one.samples, expected, atol=1e-3)


def test_repainting_follows_pictures_too(adapter: std.IPAdapter, prompt: std.ImagePrompt) -> None:
    base = std.load_model("tiny")
    text = std.encode_prompt(base, cases.PROMPT)
    start = std.encode_image(base, images.from_pil(cases.sized(cases.picture(), (64, 64))))
    mask = std.mask_from_image(images.from_pil(cases.sized(cases.mask(), (64, 64))))
    weak, strong = (std.apply_ip_adapter(base, adapter, scale) for scale in (0.0, 1.0))
    found = [
        std.repaint(model, text, start, start, mask, steps=2, strength=0.5, image_prompt=shown).samples
        for model, shown in ((base, None), (weak, prompt), (strong, prompt))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_a_model_and_its_pictures_must_fit(folder: Path, adapter: std.IPAdapter, prompt: std.ImagePrompt) -> None:
    base = std.load_model("tiny")
    text = std.encode_prompt(base, cases.PROMPT)
    model, other = std.apply_ip_adapter(base, adapter), std.load_ip_adapter(folder / "plus.safetensors")
    both = std.apply_ip_adapter(model, other)
    with pytest.raises(ValueError, match=r"tiny has none: apply_ip_adapter gives it plain.safetensors"):
        request_of({"model": base, "positive": text, "seed": 0, "image_prompt": prompt})
    with pytest.raises(ValueError, match=r"tiny has the IP-Adapter plain.safetensors, which needs a picture: link"):
        request_of({"model": model, "positive": text, "seed": 0})
    with pytest.raises(ValueError, match="tiny has 2 IP-Adapters, and image_prompt holds 1: give one for each"):
        request_of({"model": both, "positive": text, "seed": 0, "image_prompt": prompt})
    with pytest.raises(ValueError, match=r"an image_prompt for plain.safetensors stands in the place of one for plus"):
        request_of({"model": both, "positive": text, "seed": 0, "image_prompt": [prompt, prompt]})
    with pytest.raises(ValueError, match="ip_adapter_image cannot be given: give the sampling node image_prompt"):
        std.sample(base, text, steps=1, arguments={"ip_adapter_image": None})


def test_pictures_and_masks_must_fit(adapter: std.IPAdapter) -> None:
    picture = images.from_pil(cases.picture())
    with pytest.raises(ValueError, match="image is an empty list; give a picture"):
        std.encode_image_prompt(adapter, [])
    with pytest.raises(ValueError, match="1 masks for 2 pictures; give one for each"):
        std.encode_image_prompt(adapter, [picture, picture], std.Mask(torch.ones(1, 8, 8)))
    with pytest.raises(ValueError, match="the masks are of different sizes"):
        std.encode_image_prompt(adapter, [picture] * 2, [std.Mask(torch.ones(1, 8, 8)), std.Mask(torch.ones(1, 8, 9))])


@pytest.mark.parametrize("scale", [{"left": 1.0}, {"up": {"block_0": "x"}}, {"up": {"first": 1.0}}, {"mid": {}}])
def test_scales_by_block_must_be_numbers(scale: dict[str, Any], adapter: std.IPAdapter) -> None:
    with pytest.raises(ValueError, match=r"^scale has .*; give a number, or numbers by block"):
        std.apply_ip_adapter(std.load_model("tiny"), adapter, scale)


def test_an_adapter_of_another_model_is_refused_before_anything_is_loaded(
    folder: Path, adapter: std.IPAdapter, tmp_path: Path
) -> None:
    xl = std.load_model(xl_model(tmp_path / "xl"))
    with pytest.raises(
        ModelError, match=r"plain.safetensors is for prompts 128 wide, and those of xl are 80: it is an"
    ):
        std.apply_ip_adapter(xl, adapter)
    with pytest.raises(ModelError, match=r"is an IP-Adapter for stable_diffusion_xl; tiny is a stable_diffusion model"):
        std.apply_ip_adapter(std.load_model("tiny"), replace(adapter, families=("stable_diffusion_xl",)))
    tensors = load_file(folder / "plain.safetensors")
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("ip_adapter."))
    fewer = {name: t for name, t in tensors.items() if not name.startswith(f"ip_adapter.{last}.")}
    save_file(fewer, folder / "fewer.safetensors")
    with pytest.raises(ModelError, match=r"has layers for \d+ cross attentions, and tiny has \d+"):
        std.apply_ip_adapter(std.load_model("tiny"), std.load_ip_adapter(folder / "fewer.safetensors"))


def test_an_image_encoder_must_be_there_and_fit(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sdxl_models").mkdir()
    alone = testing.ip_adapter(tmp_path / "sdxl_models" / "a.safetensors")
    with pytest.raises(
        ModelError, match=r"there is no folder image_encoder beside .*a.safetensors: give image_encoder"
    ):
        std.load_ip_adapter(alone)
    given = std.load_ip_adapter(alone, folder / "image_encoder")
    assert given == std.load_ip_adapter(alone, folder) == std.load_ip_adapter(folder / "plain.safetensors")
    testing.image_encoder(alone.parent / "image_encoder", embedding=40)
    with pytest.raises(ModelError, match=r"reads 32 numbers of a picture \(projection_dim\), and .* gives 40: give"):
        std.load_ip_adapter(alone)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "image_encoder").symlink_to(folder / "image_encoder")
    assert std.load_ip_adapter(alone) == given
    with pytest.raises(ModelError, match="is a clip_text_model, and no image encoder of CLIP"):
        std.load_ip_adapter(alone, TINY / "model" / "text_encoder")
    with pytest.raises(ModelError, match=r"there is no IP-Adapter h94/IP-Adapter; give a file, such as"):
        std.load_ip_adapter("h94/IP-Adapter")


@pytest.mark.parametrize("name", ["plain.safetensors", "other.bin", "image_encoder"])
def test_files_outside_the_folders_of_a_service_stay_closed(name: str, folder: Path, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", testing.ip_adapter(tmp_path / "other.bin")
    inside.mkdir()
    for file in (folder / "plain.safetensors", outside, folder / "image_encoder"):
        (inside / file.name).symlink_to(file)
    held = rooted(inside / name, [inside])
    adapter, encoder = (folder / "plain.safetensors", held) if name == "image_encoder" else (held, folder)
    with pytest.raises((ModelError, OSError), match=r"cannot be read|outside"):
        std.load_ip_adapter(adapter, encoder)


def test_a_bin_is_read_for_its_tensors_alone(folder: Path, tmp_path: Path) -> None:
    plain = std.load_ip_adapter(folder / "plain.safetensors")
    pickled = std.load_ip_adapter(testing.ip_adapter(folder / "plain.bin"))
    picture = images.from_pil(cases.picture())
    found = []
    for one in (plain, pickled):
        model = std.apply_ip_adapter(std.load_model("tiny"), one)
        shown, text = std.encode_image_prompt(one, picture), std.encode_prompt(model, cases.PROMPT)
        found.append(std.sample(model, text, image_prompt=shown, steps=1, width=64, height=64).samples)
    assert torch.allclose(*found, atol=1e-4)
    code, other = tmp_path / "code.bin", tmp_path / "other.bin"
    torch.save({"image_proj": Path("x")}, code)
    torch.save({"image_proj": torch.ones(1)}, other)
    with pytest.raises(
        ModelError, match=r"code.bin is damaged or holds more than tensors, which could run code: it is"
    ):
        std.load_ip_adapter(code, folder / "image_encoder")
    with pytest.raises(ModelError, match=r"is no IP-Adapter: it holds something else than image_proj and ip_adapter"):
        std.load_ip_adapter(other, folder / "image_encoder")


@pytest.mark.parametrize("scale", [{"up": {"block_9": 1.0}}, {"mid": 1.0, "down": {"block_0": 1.0}}])
def test_scales_are_for_blocks_that_the_model_has(scale: dict[str, Any], adapter: std.IPAdapter) -> None:
    refused = r"scale has a number for (up|down)\.block_\d, which tiny does not have .*; it has down.*, mid, up"
    with pytest.raises(ValueError, match=refused):
        std.apply_ip_adapter(std.load_model("tiny"), adapter, scale)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), True])
def test_a_scale_is_a_finite_number(scale: float, adapter: std.IPAdapter) -> None:
    with pytest.raises(ValueError, match=rf"^scale is {scale!r}; give a finite number such as 1\.0$"):
        std.apply_ip_adapter(std.load_model("tiny"), adapter, scale)


def test_an_empty_dictionary_of_scales_is_refused(adapter: std.IPAdapter) -> None:
    with pytest.raises(ValueError, match=r"^scale is empty: the pictures would do nothing; give a number"):
        std.apply_ip_adapter(std.load_model("tiny"), adapter, {})
    for scale in ({"up": {}}, {"mid": float("nan")}, {"up": {"block_1": [1.0, float("inf")]}}):
        with pytest.raises(ValueError, match=r"^scale has .*; give a number, or numbers by block"):
            std.apply_ip_adapter(std.load_model("tiny"), adapter, scale)
