"""Sampling videos: what is computed again, what threads share, what is shown on the way, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import small, wan

from graphengine import Graph, ModelError, Reuse, WorkflowError, run
from graphengine.planning.reference_problems import reference_problems

SMALL: dict[str, Any] = {"frames": 5, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models: `text`, `picture`, `both` (a first and a last picture), `pair` (two denoisers), `5b`."""
    found = tmp_path_factory.mktemp("videos")
    names = {"text": "2.1", "picture": "2.1-i2v", "both": "2.1-flf2v", "pair": "2.2-14b", "5b": "2.2-5b"}
    for name, variant in names.items():
        wan.wan_model(found / name, variant=variant)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> std.Model:
    return std.load_model(folder / "text")


@pytest.fixture(scope="module")
def text(model: std.Model) -> std.Conditioning:
    return std.encode_prompt(model, "a red circle")


@pytest.fixture(scope="module")
def latent(model: std.Model, text: std.Conditioning) -> std.Latent:
    return std.sample_video(model, text, **SMALL)


def picture(count: int = 1) -> std.Image:
    return std.Image(torch.rand(count, 64, 64, 3, generator=torch.Generator().manual_seed(1)))


def test_three_threads_share_a_vae_and_disturb_nothing(model: std.Model, text: std.Conditioning) -> None:
    """The VAE keeps frames inside while it works: shared by threads, most of what it makes is wrong."""

    def made(seed: int) -> torch.Tensor:
        latent = std.sample_video(model, text, seed=seed, **SMALL)
        video = std.decode_video(model, latent)
        return torch.cat([video.frames.flatten(), std.encode_video(model, video).mean.flatten()])

    expected = [made(seed) for seed in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(made, (1, 2, 3) * 3))
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 3, strict=True))


def test_another_speed_decodes_and_another_seed_samples_and_nothing_is_loaded(folder: Path) -> None:
    with Graph() as graph:
        seed, fps = graph.input("seed", int, 1), graph.input("fps", float, 8.0)
        model = std.load_model(folder / "text")
        latent = std.sample_video(model, std.encode_prompt(model, "a red circle"), seed=seed, **SMALL)
        graph.output("video", std.decode_video(model, latent, fps))

    def computed(**inputs: Any) -> set[str]:
        found = run(graph, inputs=inputs)
        return {node for node, reuse in found.reuse.items() if reuse is Reuse.COMPUTED} - {"load_model"}

    computed()
    loads = sum(store.loads.values())
    assert computed(fps=12.0) == {"decode_video"}
    assert computed(seed=2) == {"sample_video", "decode_video"}
    assert sum(store.loads.values()) == loads


def test_sampling_needs_no_text_encoder_and_decoding_the_vae_alone(tmp_path: Path) -> None:
    model = std.load_model(wan.wan_model(tmp_path / "model", seed=1))
    text = std.encode_prompt(model, "a red circle")
    expected = std.decode_video(model, std.sample_video(model, text, **SMALL))
    store.forget(model)
    for weights in (tmp_path / "model" / "text_encoder").glob("*.safetensors"):
        weights.unlink()
    latent = std.sample_video(model, text, **SMALL)
    store.forget(model)
    shutil.rmtree(tmp_path / "model" / "transformer")
    vae = std.load_vae(tmp_path / "model" / "vae")
    assert torch.equal(std.decode_video(vae, latent).frames, expected.frames)
    assert std.decode_video(vae, latent).fps == 16.0


def test_each_step_shows_the_frame_in_the_middle(model: std.Model, text: std.Conditioning) -> None:
    class Watcher:
        device, watched = "cpu", True

        def __init__(self) -> None:
            self.told: list[Any] = []

        def progress(self, done: int, total: int) -> None:
            self.told.append((done, total))

        def preview(self, image: std.Image) -> None:
            self.told.append(list(image.pixels.shape))

    ctx: Any = Watcher()
    std.sample_video.fn(model, text, **SMALL, ctx=ctx)
    assert ctx.told == [(1, 2), [1, 8, 8, 3], (2, 2), [1, 8, 8, 3]]


def test_a_first_picture_decides_the_aspect(folder: Path) -> None:
    model = std.load_model(folder / "picture")
    text = std.encode_prompt(model, "a tree")
    wide = std.Image(torch.rand(1, 50, 200, 3))
    found = std.sample_video(model, text, first=wide, frames=5, steps=1)
    assert [8 * side for side in found.samples.shape[-2:]] == [32, 128]
    for side in ({"width": 64}, {"height": 16}):
        found = std.sample_video(model, text, first=wide, frames=5, steps=1, **side)
        assert [8 * side for side in found.samples.shape[-2:]] == [16, 64]


def test_what_is_left_of_a_video_of_nothing_but_its_frames(model: std.Model, latent: std.Latent) -> None:
    """A latent starts video to video as it is: its frames and its size are the result's."""
    text = std.encode_prompt(model, "a tree")
    found = std.sample_video(model, text, video=latent, steps=2, strength=0.5)
    assert found.samples.shape == latent.samples.shape
    assert found.fps == 16.0
    assert not torch.equal(found.samples, latent.samples)
    named = std.sample_video(model, text, video=latent, steps=2, strength=0.5, scheduler="UniPCMultistepScheduler")
    assert torch.equal(named.samples, found.samples)  # the model's own


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "frames": ("text", {"frames": 10}, "a video of 10 frames does not fit text, .* of 4: 9 or 13"),
    "side": ("text", {"width": 72}, r"width is 72, but must be a multiple of 16 \(64 or 80\)"),
    "side of the 5B": ("5b", {"width": 48}, r"width is 48, but must be a multiple of 32 \(32 or 64\)"),
    "no first picture": ("picture", {}, "this model needs a first picture; link one to sample_video"),
    "no last picture": ("both", {"first": picture()}, "this model needs a last picture; link one to sample_video"),
    "a first picture": ("text", {"first": picture()}, "this model takes no first picture; leave it out"),
    "a last picture": ("5b", {"first": picture(), "last": picture()}, "takes no last picture; leave it out"),
    "two pictures": ("5b", {"first": picture(2)}, "first is 2 pictures; a video takes one"),
    "a second scale": ("text", {"guidance_scale_2": 3.0}, "has one denoiser for all steps; leave guidance_scale_2 out"),
    "a scheduler": ("text", {"scheduler": "DDIMScheduler"}, "DDIMScheduler is of the wrong kind for wan"),
    "several seeds": ("text", {"seed": [1, 2]}, "seed is a list, and a video takes one seed or generator"),
    "strength alone": ("text", {"strength": 0.5}, "how much of a video is replaced; give one to video, or leave"),
    "output_type": ("text", {"arguments": {"output_type": "pil"}}, "decode_latent, or decode_video, says it"),
    "frames by argument": (
        "text",
        {"arguments": {"num_frames": 9}},
        "num_frames is no further argument: frames says it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_of_videos_does_not_take_is_refused(name: str, folder: Path) -> None:
    kind, changes, sentence = REFUSED[name]
    model = std.load_model(folder / kind)
    text = std.encode_prompt(model, "a tree")
    with pytest.raises(ValueError, match=sentence):
        std.sample_video(model, text, **{**SMALL, **changes})


def test_validate_tells_it_before_a_run(folder: Path) -> None:
    def problems(build: Callable[[Any], Any], kind: str) -> list[str]:
        with Graph() as graph:
            model = std.load_model(folder / kind)
            graph.output("latent", build(model))
        return [problem.what for problem in reference_problems(graph)]

    def film(model: Any) -> Any:
        return std.sample_video(model, std.encode_prompt(model, "a tree"), frames=10)

    def strong(model: Any) -> Any:
        return std.sample_video(model, std.encode_prompt(model, "a tree"), guidance_scale_2=3.0)

    def still(model: Any) -> Any:
        return std.sample(model, std.encode_prompt(model, "a tree"))

    assert any("a video of 10 frames does not fit text" in one for one in problems(film, "text"))
    assert any("needs a first picture; link one to sample_video" in one for one in problems(still, "picture"))
    assert any("text has one denoiser for all steps" in one for one in problems(strong, "text"))
    assert not problems(strong, "pair")

    def replaced(model: Any) -> Any:
        return std.sample_video(model, std.encode_prompt(model, "a tree"), strength=0.5)

    with pytest.raises(WorkflowError, match="how much of a video is replaced"):
        problems(replaced, "text")


def test_latents_of_videos_and_pictures_are_not_mixed_up(
    model: std.Model, latent: std.Latent, text: std.Conditioning
) -> None:
    with pytest.raises(ValueError, match="this latent is a video's; use decode_video"):
        std.decode_latent(model, latent)
    one = std.sample(model, text, steps=1, width=64, height=64)
    assert std.decode_latent(model, one).pixels.shape == (1, 64, 64, 3)
    tiny = std.load_model("tiny")
    with pytest.raises(ValueError, match="tiny, stable_diffusion, makes no videos; use decode_latent"):
        std.decode_video(tiny, std.sample(tiny, std.encode_prompt(tiny, "a tree"), steps=1))
    with pytest.raises(ValueError, match="tiny, stable_diffusion, makes no videos; use sample"):
        std.sample_video(tiny, std.encode_prompt(tiny, "a tree"))
    with pytest.raises(ValueError, match="takes no videos; frames_of makes pictures of one"):
        std.encode_video(tiny, std.Video(torch.rand(5, 64, 64, 3), 8))
    with pytest.raises(ValueError, match="a video of 4 frames does not fit text"):
        std.encode_video(model, std.Video(torch.rand(4, 64, 64, 3), 8))
    with pytest.raises(ValueError, match=r"strength 0\.1 of 2 steps leaves no step to do"):
        std.sample_video(model, text, video=latent, steps=2, strength=0.1)
    with pytest.raises(ValueError, match="width and height are the video's"):
        std.sample_video(model, text, video=latent, width=64)
    with pytest.raises(
        ValueError, match=r"a video of 60 x 64 cannot be encoded: .* multiples of 16; take frames_of, then"
    ):
        std.encode_video(model, std.Video(torch.rand(5, 64, 60, 3), 8))
    with pytest.raises(ValueError, match="video is a picture, one frame"):
        std.sample_video(model, text, video=std.encode_image(model, picture()))
    with pytest.raises(ValueError, match="frames are the video's"):
        std.sample_video(model, text, video=latent, frames=5)


def test_latents_of_another_vae_of_the_family_are_refused(
    folder: Path, model: std.Model, latent: std.Latent, text: std.Conditioning
) -> None:
    other = std.load_model(folder / "5b")
    sentence = "of 16 channels does not fit .*, whose VAE makes latents of 48 channels at 1/16 of the size"
    loads = sum(store.loads.values())
    for wrong in (
        lambda: std.decode_video(other, latent),
        lambda: std.decode_video(std.load_vae(folder / "5b" / "vae"), latent),
        lambda: std.decode_latent(other, latent),
        lambda: std.sample_video(other, text, video=latent),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
    assert sum(store.loads.values()) == loads
    encoded = std.encode_video(other, std.Video(torch.rand(5, 64, 64, 3), 8))
    with pytest.raises(ValueError, match=r"a Posterior of 48 channels does not fit text, .* 16 channels at 1/8 of"):
        std.sample_video(model, text, video=encoded)


def test_a_lora_says_which_of_two_denoisers_it_is_for(folder: Path, tmp_path: Path) -> None:
    small.lora_for(folder / "text", tmp_path / "some.safetensors")
    shutil.copy(tmp_path / "some.safetensors", tmp_path / "some_High-Noise_v2.safetensors")
    pair, one = std.load_model(folder / "pair"), std.load_model(folder / "text")
    lora = std.load_lora(tmp_path / "some.safetensors")
    with pytest.raises(ModelError, match=r"pair has two denoisers, and some\S* does not say in its name"):
        std.apply_lora(pair, lora)
    with pytest.raises(ModelError, match="text has one denoiser for all steps; leave noise out"):
        std.apply_lora(one, lora, noise="low")
    named = std.apply_lora(pair, std.load_lora(tmp_path / "some_High-Noise_v2.safetensors"))
    given = [std.apply_lora(pair, lora, noise=noise) for noise in ("high", "low", "both")]
    assert named.digest("denoiser") == given[0].digest("denoiser")
    assert len({model.digest("denoiser") for model in (pair, *given)}) == 4
