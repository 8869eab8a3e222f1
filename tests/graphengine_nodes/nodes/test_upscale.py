"""Upscaling of latents and pictures; upscale models equal spandrel's results."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from safetensors.torch import save_file

from graphengine import Cancelled, Context, Graph, ModelError, Reuse, run
from tests.graphengine_nodes import cases


def esrgan(scale: int = 2) -> Any:
    """A small ESRGAN with random weights: the real architecture, 8 channels wide and one block deep."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    return ESRGAN(num_filters=8, num_blocks=1, scale=scale).eval()


@pytest.fixture(scope="module")
def net() -> Any:
    return esrgan()


@pytest.fixture(scope="module")
def file(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upscaler") / "net.safetensors"
    save_file(net.state_dict(), path)
    return path


def direct(net: Any, picture: PIL.Image.Image) -> np.ndarray[Any, Any]:
    pixels = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255.0)[None].permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        found: np.ndarray[Any, Any] = net(pixels).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return found


def test_as_the_network_itself(net: Any, file: Path) -> None:
    picture = cases.picture().crop((0, 0, 75, 61))
    found = std.upscale_with_model(std.load_upscaler(file), images.from_pil(picture)).pixels.numpy()
    assert found.shape == (1, 122, 150, 3)
    assert np.array_equal(found, direct(net, picture))
    assert found.std() > 0.01


def test_in_tiles_it_is_the_same_picture(net: Any, file: Path) -> None:
    picture = cases.picture().resize((150, 200))
    both = images.from_pil(picture, picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT))
    found = std.upscale_with_model(std.load_upscaler(file), both, tile=64).pixels.numpy()
    assert np.allclose(found[0], direct(net, picture)[0], atol=1e-5)
    assert np.allclose(found[1], direct(net, picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT))[0], atol=1e-5)


def test_what_is_computed_at_once_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphengine_nodes.nodes.upscale import OVERLAP, UpscaleNetwork

    seen: list[tuple[int, ...]] = []
    call = UpscaleNetwork.__call__

    def watched(self: UpscaleNetwork, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape[2:]))
        return call(self, pixels)

    monkeypatch.setattr(UpscaleNetwork, "__call__", watched)
    std.upscale_with_model(std.load_upscaler(file), std.Image(torch.zeros(1, 200, 150, 3)), tile=64)
    assert len(seen) == 12
    assert max(max(sides) for sides in seen) == 64 + 2 * OVERLAP


def test_it_is_loaded_once_and_tells_its_tiles(file: Path) -> None:
    store.clear()
    told: list[tuple[int, int]] = []

    class Watch(Context):
        def progress(self, step: int, total: int) -> None:
            told.append((step, total))
            if len(told) > 4:
                raise Cancelled("enough")

    upscaler, image = std.load_upscaler(file), std.Image(torch.zeros(1, 64, 140, 3))
    key = (upscaler.weights, "upscaler", "cpu")
    before = store.loads[key]
    std.upscale_with_model(upscaler, image, tile=64, ctx=Watch())
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    with pytest.raises(Cancelled):
        std.upscale_with_model(upscaler, image, tile=64, ctx=Watch())
    assert store.loads[key] == before + 1
    assert store.size() == sum(tensor.nbytes for tensor in esrgan().state_dict().values())


def test_in_a_graph_its_content_counts(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())

    def graph(path: Path) -> Graph:
        with Graph() as g:
            image = std.load_image(picture)
            g.output("image", std.upscale_with_model(std.load_upscaler(path), image))
        return g

    picture = tmp_path / "picture.png"
    cases.picture().resize((16, 16)).save(picture)
    graph(file)()
    assert run(graph(copy)).reuse["upscale_with_model"] is Reuse.MEMORY


def test_pth_is_read_for_its_tensors_alone(net: Any, file: Path, tmp_path: Path) -> None:
    torch.save({"params_ema": net.state_dict()}, tmp_path / "net.pth")
    image = images.from_pil(cases.picture().resize((16, 16)))
    found = std.upscale_with_model(std.load_upscaler(tmp_path / "net.pth"), image).pixels
    assert torch.equal(found, std.upscale_with_model(std.load_upscaler(file), image).pixels)

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"params": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ModelError, match="holds something else than tensors, which could run code"):
            std.upscale_with_model(std.load_upscaler(tmp_path / name), image)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_upscale_model(file: Path, tmp_path: Path) -> None:
    image = std.Image(torch.zeros(1, 16, 16, 3))

    def failing(name: str) -> str:
        with pytest.raises(ModelError) as caught:
            std.upscale_with_model(std.load_upscaler(tmp_path / name), image)
        return str(caught.value)

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "other.safetensors is no upscale model of an architecture that spandrel knows" in failing(
        "other.safetensors"
    )
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    assert "cut.safetensors is damaged or no file of weights" in failing("cut.safetensors")
    (tmp_path / "text.pth").write_text("no weights")
    assert "text.pth" in failing("text.pth")
    half = dict(list(esrgan().state_dict().items())[:-2])
    save_file(half, tmp_path / "half.safetensors")
    assert "half.safetensors" in failing("half.safetensors")
    scripted = torch.jit.trace(esrgan(), torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
    scripted.save(tmp_path / "script.pt")
    assert "script.pt" in failing("script.pt")


def test_pictures_and_latents_by_a_factor() -> None:
    image = std.upscale_image(images.from_pil(cases.picture().crop((0, 0, 101, 60))), 1.5)
    assert image.size == (152, 90)
    expected = cases.picture().crop((0, 0, 101, 60)).resize((152, 90), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert std.upscale_image(image, 0.05).size == (8, 4)
    samples = torch.randn(2, 4, 16, 9, generator=torch.Generator().manual_seed(0))
    latent = std.Latent(samples, "stable_diffusion", random=(std.RandomState("cpu", b""),))
    found = std.upscale_latent(latent, 1.4)
    assert found.samples.shape == (2, 4, 22, 13)
    assert found.random == ()
    expected_ = torch.nn.functional.interpolate(samples, (22, 13), mode="bicubic")
    assert torch.equal(found.samples, expected_)
    for mode in ("nearest-exact", "bilinear", "area"):
        assert std.upscale_latent(latent, 2, mode).samples.shape == (2, 4, 32, 18)
    assert torch.equal(std.upscale_latent(latent, 2, "nearest-exact").samples[..., ::2, ::2], samples)


def test_a_latent_is_sampled_on_at_twice_the_size() -> None:
    model = std.load_model("tiny")
    text = std.encode_prompt(model, cases.PROMPT)
    small = std.sample(model, text, width=64, height=64, steps=2)
    large = std.sample(model, text, latent=std.upscale_latent(small), strength=0.6, steps=3)
    assert std.decode_latent(model, large).size == (128, 128)


def test_what_would_be_too_large_is_refused() -> None:
    small = std.Image(torch.zeros(1, 8, 2000, 3))
    with pytest.raises(ValueError, match="16 times would make 32000 x 128 pixels; a side has 16384 at most"):
        std.upscale_image(small, 16.0)
