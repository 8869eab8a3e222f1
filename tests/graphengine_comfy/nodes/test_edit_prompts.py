"""Qwen-Image-Edit sees pictures by its text encoder and as latents, and CFGNorm keeps its guidance in bounds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import numpy as np
import pytest
import torch
from graphengine_comfy.nodes import edit_prompts
from graphengine_comfy.nodes.resizing import resized
from graphengine_nodes import Image
from graphengine_nodes.testing.qwen_image import qwen_image_edit_model
from PIL import Image as PILImage

NEGATIVE, POSITIVE = "the sea", "make it red"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_image_edit_model(tmp_path_factory.mktemp("models") / "checkpoints" / "edit", plus=True)


@pytest.fixture
def parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model, its text encoder and VAE; pictures are made as small as 64 x 64, for the time that it takes."""
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(folder.parent.parent))
    monkeypatch.setattr(edit_prompts, "EDITED", 64 * 64)
    monkeypatch.setattr(edit_prompts, "SEEN", 56 * 56)
    return comfy.CheckpointLoaderSimple(ckpt_name="edit")


def pictures() -> list[Image]:
    made = torch.rand(2, 48, 80, 3, generator=torch.Generator().manual_seed(3))
    return [Image(made[:1]), Image(made[1:, :, :48].contiguous())]


def encode(parts: Any, text: str) -> Any:
    one, two = pictures()
    return comfy.TextEncodeQwenImageEditPlus(clip=parts.CLIP, prompt=text, vae=parts.VAE, image1=one, image2=two)


def sampled(parts: Any, model: Any, steps: int = 2, cfg: float = 2.0, method: str | None = None) -> torch.Tensor:
    sides = [encode(parts, text) for text in (POSITIVE, NEGATIVE)]
    if method is not None:
        sides = [
            comfy.FluxKontextMultiReferenceLatentMethod(conditioning=one, reference_latents_method=method)
            for one in sides
        ]
    empty = comfy.EmptySD3LatentImage(width=64, height=96)
    return comfy.KSampler(
        model=model, seed=5, steps=steps, cfg=cfg, positive=sides[0], negative=sides[1], latent_image=empty,
        scheduler="simple",
    ).samples  # fmt: skip


def by_hand(parts: Any, folder: Path, steps: int, cfg: float, norm: Any = None, zero: bool = False) -> torch.Tensor:
    """Euler's method over the network itself, with guidance, references and CFGNorm as their definitions say."""
    from diffusers import QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel.from_pretrained(folder / "transformer", zero_cond_t=zero).eval()
    table = [*comfy.BasicScheduler(model=parts.MODEL, scheduler="simple", steps=steps).values]
    sides = [encode(parts, text).entries[0] for text in (POSITIVE, NEGATIVE)]
    vae = json.loads((folder / "vae" / "config.json").read_text())
    mean, std = (torch.tensor(vae[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    seen = [(one[:, :, 0] - mean) / std for one in sides[0].options["references"]]

    def pack(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, c * 4)

    def unpack(x: torch.Tensor, h: int, w: int) -> torch.Tensor:
        return x.view(1, h // 2, w // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, h, w)

    shapes = [[(1, one.shape[-2] // 2, one.shape[-1] // 2) for one in (torch.zeros(1, 1, 12, 8), *seen)]]
    own = network.pos_embed
    rows = max(6 // 2, 4 // 2)  # words stand behind the picture that is made

    def places(given: Any, max_txt_seq_len: int, device: Any) -> Any:
        images = own(given, max_txt_seq_len=max_txt_seq_len, device=device)[0]
        return images, own.pos_freqs[rows : rows + max_txt_seq_len]

    del network.pos_embed
    vars(network)["pos_embed"] = places
    x = torch.randn(1, 16, 1, 12, 8, generator=torch.Generator().manual_seed(5))[:, :, 0]
    for now, then in itertools.pairwise(table):
        found = []
        for side in sides:
            states = torch.cat([pack(one) for one in (x, *seen)], dim=1)
            with torch.no_grad():
                out = network(
                    hidden_states=states, timestep=torch.tensor([now]), img_shapes=shapes,
                    encoder_hidden_states=side.prompt.embeds, encoder_hidden_states_mask=None,
                ).sample[:, :24]  # fmt: skip
            found.append(x - now * unpack(out, 12, 8))
        yes, no = found
        picture = no + cfg * (yes - no)
        if norm is not None:
            picture = norm(x, yes, no, picture)
        x = x + (then - now) * (x - picture) / now
    return x


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found[:, :, 0] - wanted).abs().max() < 2e-4 * wanted.abs().max())


def after(x: torch.Tensor, yes: torch.Tensor, no: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    return picture * (yes.norm(dim=1, keepdim=True) / picture.norm(dim=1, keepdim=True)).clamp(max=1) * 0.9


def before(x: torch.Tensor, yes: torch.Tensor, no: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    noise = (x - no) + 3.0 * ((x - yes) - (x - no))
    full = noise * (x - yes).norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    return x - (0.5 * full + 0.5 * noise)


def scale(parts: Any, samples: torch.Tensor, folder: Path) -> torch.Tensor:
    """Latents as the denoiser has them."""
    vae = json.loads((folder / "vae" / "config.json").read_text())
    mean, std = (torch.tensor(vae[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (samples - mean) / std


def test_references_and_guidance_are_those_of_the_network_itself(parts: Any, folder: Path) -> None:
    found = scale(parts, sampled(parts, parts.MODEL), folder)
    assert near(found, by_hand(parts, folder, 2, 2.0))
    told = scale(parts, sampled(parts, parts.MODEL, method="index_timestep_zero"), folder)
    assert near(told, by_hand(parts, folder, 2, 2.0, zero=True))
    assert (told - found).abs().max() > 1e-3
    with pytest.raises(ValueError, match="index or index_timestep_zero"):
        sampled(parts, parts.MODEL, method="offset")


def test_cfg_norm_bounds_what_guidance_makes(parts: Any, folder: Path) -> None:
    plain = scale(parts, sampled(parts, parts.MODEL, cfg=3.0), folder)
    for strength, pre, formula in ((0.9, False, after), (0.5, True, before)):
        model = comfy.CFGNorm(model=parts.MODEL, strength=strength, pre_cfg=pre)
        found = scale(parts, sampled(parts, model, cfg=3.0), folder)
        assert near(found, by_hand(parts, folder, 2, 3.0, formula))
        assert (found - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="without bounds"):
        comfy.CFGNorm(model=parts.MODEL, strength=1.5)


def test_the_text_encoder_reads_the_pictures_as_diffusers_shows_them(parts: Any, folder: Path) -> None:
    """The embeddings are those of diffusers' pipeline for pictures that are resized beforehand."""
    from diffusers import QwenImageEditPlusPipeline

    pipeline: Any = QwenImageEditPlusPipeline.from_pretrained(folder)

    def shown(image: Image) -> PILImage.Image:
        factor = (56 * 56 / (image.size[0] * image.size[1])) ** 0.5
        width, height = (round(side * factor) for side in image.size)
        values = resized(image.pixels.movedim(-1, 1), width, height, "area").movedim(1, -1)[0]
        return PILImage.fromarray((values * 255).round().numpy().astype(np.uint8))

    prompt = "make (it:1.5) red"  # brackets are words
    embeds, _ = pipeline.encode_prompt([prompt], image=[shown(one) for one in pictures()])
    found = encode(parts, prompt).entries[0]
    assert torch.allclose(found.prompt.embeds, embeds, atol=1e-5)
    assert [tuple(one.shape) for one in found.options["references"]] == [(1, 16, 1, 6, 10), (1, 16, 1, 8, 8)]
    alone = comfy.TextEncodeQwenImageEdit(clip=parts.CLIP, prompt=prompt, image=pictures()[0]).entries[0]
    assert "references" not in alone.options
    assert alone.prompt.embeds.shape[1] < found.prompt.embeds.shape[1]


def test_pictures_are_called_by_the_numbers_of_their_inputs(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen2VLProcessor

    said: list[str] = []
    read = Qwen2VLProcessor.__call__

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        said.append(kwargs["text"][0])
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Qwen2VLProcessor, "__call__", spy)
    one, two = pictures()
    comfy.TextEncodeQwenImageEditPlus(clip=parts.CLIP, prompt="Picture 2", image1=one, image3=two)
    comfy.TextEncodeQwenImageEditPlus(clip=parts.CLIP, prompt="Picture 2")
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"Picture 1: {mark}Picture 3: {mark}Picture 2<|im_end|>" in said[0]
    assert "vision" not in said[1]
