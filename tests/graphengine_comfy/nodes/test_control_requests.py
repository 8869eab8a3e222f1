"""ControlNets that read pictures by a VAE steer as the networks themselves do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_comfy.values import CODEC
from graphengine_nodes import Image
from graphengine_nodes.testing import flux, qwen_image
from graphengine_nodes.testing.sd3 import sd3_controlnet, sd3_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    sd3_model(root / "checkpoints" / "sd3")
    sd3_controlnet(root / "controlnet" / "net")
    return root


@pytest.fixture
def parts(models: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(models))
    return comfy.CheckpointLoaderSimple(ckpt_name="sd3")


def control_picture() -> Image:
    return Image(torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(7)))


def steered(parts: Any, vae: Any = None, **options: float) -> Any:
    one, other = (comfy.CLIPTextEncode(text=text, clip=parts.CLIP) for text in ("a house", "the sea"))
    net = comfy.ControlNetLoader(control_net_name="net")
    return comfy.ControlNetApplyAdvanced(
        positive=one, negative=other, control_net=net, image=control_picture(), vae=vae, **options
    )


def sampled(parts: Any, sides: Any, batch: int = 1) -> torch.Tensor:
    empty = comfy.EmptySD3LatentImage(width=96, height=64, batch_size=batch)
    found = comfy.KSampler(
        model=parts.MODEL, seed=3, steps=2, cfg=2.0, positive=sides[0], negative=sides[1], latent_image=empty,
        scheduler="simple",
    ).samples  # fmt: skip
    return (found - 0.0609) * 1.5305


def by_hand(models: Path, parts: Any, sides: Any, scale: float, steers: Any = (True, True), batch: int = 1) -> Any:
    """Euler's method over both networks, with guidance as it is defined."""
    from diffusers import AutoencoderKL, SD3ControlNetModel, SD3Transformer2DModel

    network = SD3Transformer2DModel.from_pretrained(models / "checkpoints" / "sd3" / "transformer").eval()
    net = SD3ControlNetModel.from_pretrained(models / "controlnet" / "net").eval()
    vae = AutoencoderKL.from_pretrained(models / "checkpoints" / "sd3" / "vae").eval()
    table = comfy.BasicScheduler(model=parts.MODEL, scheduler="simple", steps=2).values
    pixels = control_picture().pixels.movedim(-1, 1)
    x = torch.randn(batch, 16, 8, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        seen = vae.encode(pixels * 2 - 1).latent_dist.mode() * 1.5305  # these nets were trained without the shift ...
        for acts, (now, then) in zip(steers, itertools.pairwise(table), strict=True):
            found = []
            for side in sides:
                prompt = side.entries[0].prompt
                told = {
                    "timestep": torch.tensor([now * 1000] * batch),
                    "encoder_hidden_states": prompt.embeds.repeat(batch, 1, 1),
                    "pooled_projections": prompt.pooled.repeat(batch, 1),
                }
                blank = {**told, "pooled_projections": torch.zeros_like(told["pooled_projections"])}  # and these
                blocks = net(hidden_states=x, controlnet_cond=seen.repeat(batch, 1, 1, 1), **blank)[0]
                blocks = [one * scale * acts for one in blocks]
                found.append(network(hidden_states=x, block_controlnet_hidden_states=blocks, **told).sample)
            yes, no = found
            x = x + (then - now) * (no + 2.0 * (yes - no))
    return x


def test_stable_diffusion_3_is_steered_as_by_hand(models: Path, parts: Any) -> None:
    sides = steered(parts, parts.VAE, strength=0.8)
    for batch in (1, 2):
        found, wanted = sampled(parts, sides, batch), by_hand(models, parts, sides, 0.8, batch=batch)
        assert (found - wanted).abs().max() < 3e-4 * wanted.abs().max()
    free = by_hand(models, parts, sides, 0.0)
    assert (sampled(parts, sides) - free).abs().max() > 1e-2 * free.abs().max()
    first = sampled(parts, steered(parts, parts.VAE, end_percent=0.2))
    half = by_hand(models, parts, sides, 1.0, (True, False))
    assert (first - half).abs().max() < 3e-4 * half.abs().max()


def test_what_reads_by_a_vae_needs_it(parts: Any) -> None:
    with pytest.raises(ValueError, match="link it to the vae"):
        sampled(parts, steered(parts))


def test_the_vae_is_kept_with_the_prompt(parts: Any) -> None:
    positive = steered(parts, parts.VAE).positive
    again = CODEC.decode(CODEC.encode(positive))
    assert again.entries[0].options["control_vae"].digest() == parts.VAE.digest()


@pytest.mark.parametrize("family", ["flux", "qwen_image"])
def test_others_are_steered_without_a_negative_prompt(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn for the control picture: the first picture of a batch has the numbers that it has alone."""
    module: Any = {"flux": flux, "qwen_image": qwen_image}[family]
    getattr(module, f"{family}_model")(tmp_path / "checkpoints" / family)
    getattr(module, f"{family}_controlnet")(tmp_path / "controlnet" / "net")
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    parts = comfy.CheckpointLoaderSimple(ckpt_name=family)

    def made(strength: float, batch: int = 1, cfg: float = 1.0) -> torch.Tensor:
        sides = steered(parts, parts.VAE, strength=strength)
        empty = comfy.EmptySD3LatentImage(width=96, height=64, batch_size=batch)
        return comfy.KSampler(
            model=parts.MODEL, seed=3, steps=2, cfg=cfg, positive=sides.positive, negative=sides.negative,
            latent_image=empty, scheduler="simple",
        ).samples  # fmt: skip

    free, followed = made(0.0), made(1.0)
    assert (free - followed).abs().max() > 1e-2 * free.abs().max()
    one = made(1.0, 2)[:1]
    assert (one - followed).abs().max() < 1e-4 * one.abs().max()
    with pytest.raises(ValueError, match="without a negative prompt"):
        made(1.0, cfg=2.0)
