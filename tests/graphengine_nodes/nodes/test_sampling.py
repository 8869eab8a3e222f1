"""Sampling: options reach the family, progress, cancelling, batches, and contradictory inputs are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.nodes.sampling import request_of

from graphengine import Cancelled, Context, ModelError
from tests.graphengine_nodes import cases


class Watching(Context):
    """A context that remembers what it was told, and cancels at a step."""

    watched = True

    def __init__(self, cancel_at: int | None = None) -> None:
        self.steps: list[tuple[int, int]] = []
        self.shown: list[Any] = []
        self.facts: dict[str, Any] = {}
        self.cancel_at = cancel_at

    def progress(self, step: int, total: int) -> None:
        self.steps.append((step, total))
        if step == self.cancel_at:
            raise Cancelled("enough")

    def preview(self, value: Any) -> None:
        self.shown.append(value)

    def note(self, **facts: Any) -> None:
        self.facts |= facts


@pytest.fixture(scope="module")
def model() -> std.Model:
    return std.load_model("tiny")


@pytest.fixture(scope="module")
def text(model: std.Model) -> std.Conditioning:
    return std.encode_prompt(model, cases.PROMPT)


@pytest.fixture(scope="module")
def picture() -> std.Image:
    return images.from_pil(cases.picture())


def test_every_option_reaches_the_family(model: std.Model, text: std.Conditioning) -> None:
    """An option is an input of the node and a field of `SamplingOptions`; nothing between them names it."""
    given: dict[str, Any] = {
        "steps": 3,
        "guidance_scale": 2.0,
        "guidance_rescale": 0.5,
        "scheduler": "DDIMScheduler",
        "timestep_spacing": "trailing",
        "scheduler_options": {"clip_sample": False},
        "width": 64,
        "height": 96,
        "strength": 0.25,
        "arguments": {"eta": 1.0},
    }
    latent = std.Latent(torch.zeros(1, 4, 8, 8), model.family)
    others = {"model": model, "positive": text, "seed": 0}
    plain = request_of(others | given | {"strength": None}).options
    started = request_of(others | given | {"latent": latent, "width": None, "height": None}).options
    part = request_of(others | {"latent": latent, "start": 0.25, "end": 0.5, "scheduler": "Euler"}).options
    assert (part.start, part.end) == (0.25, 0.5)
    given |= {"start": None, "end": None, "guidance_scale_2": None}
    assert dataclasses.asdict(plain) | {"strength": started.strength} == given
    assert (started.width, started.height) == (8 * model.setting("factor"), 8 * model.setting("factor"))
    assert given.keys() - {"guidance_scale_2"} <= std.sample.sockets.keys()  # which sample_video has


def test_an_option_that_is_left_out_is_the_models(model: std.Model, text: std.Conditioning) -> None:
    options = request_of({"model": model, "positive": text, "seed": 0}).options
    assert (options.steps, options.guidance_scale) == (model.setting("steps"), model.setting("guidance_scale"))
    assert (options.width, options.height) == (model.setting("width"), model.setting("height"))
    assert (options.scheduler, options.strength, options.arguments) == (None, None, {})


def test_progress_counts_what_the_scheduler_does(model: std.Model, text: std.Conditioning) -> None:
    ctx = Watching()
    std.sample(model, text, steps=4, scheduler="HeunDiscreteScheduler", ctx=ctx)
    assert ctx.steps == [(step, 7) for step in range(1, 8)]  # two evaluations for all steps but the last
    assert len(ctx.shown) == 7
    assert ctx.shown[0].pixels.shape == (1, 16, 16, 3)


def test_cancelling_in_a_step_leaves_the_weights_as_they_were(model: std.Model, text: std.Conditioning) -> None:
    before = std.sample(model, text, seed=3, steps=3, scheduler="EulerAncestralDiscreteScheduler").samples
    ctx = Watching(cancel_at=2)
    with pytest.raises(Cancelled, match="enough"):
        std.sample(model, text, seed=3, steps=3, scheduler="EulerAncestralDiscreteScheduler", ctx=ctx)
    assert ctx.steps[-1][0] == 2, "it went on after it was cancelled"
    after = std.sample(model, text, seed=3, steps=3, scheduler="EulerAncestralDiscreteScheduler").samples
    assert torch.equal(before, after)


def test_what_is_not_given_is_the_models_own(model: std.Model, text: std.Conditioning) -> None:
    ctx = Watching()
    own = std.sample(model, text, seed=3, ctx=ctx).samples
    assert ctx.steps[-1] == (20, 20)
    said = std.sample(model, text, seed=3, steps=20, guidance_scale=3.5, width=128, height=128).samples
    assert torch.equal(own, said)


def test_one_seed_for_several_pictures_counts_upwards(model: std.Model, text: std.Conditioning) -> None:
    empty = std.empty_latent(model, 64, 64, count=3)
    counted = std.sample(model, text, latent=empty, seed=7, steps=2).samples
    listed = std.sample(model, text, seed=[7, 8, 9], steps=2, width=64, height=64).samples
    assert counted.shape == (3, 4, 8, 8)
    assert torch.equal(counted, listed)


def test_the_absent_prompt_is_what_the_positive_one_brings(model: std.Model, text: std.Conditioning) -> None:
    absent = std.encode_prompt(model, None)
    assert absent.absent
    assert not std.encode_prompt(model, "").absent
    left_out = std.sample(model, text, steps=2).samples
    assert torch.equal(left_out, std.sample(model, text, negative=absent, steps=2).samples)


# --- batches ----------------------------------------------------------------------------------------------------------


def many(model: std.Model, texts: list[std.Conditioning], seeds: list[Any], contexts: list[Any], **rest: Any) -> Any:
    assert std.sample.many_fn is not None
    return std.sample.many_fn(model, texts, seed=seeds, ctx=contexts, **rest)


def test_a_batch_gives_each_call_its_own_result(model: std.Model, text: std.Conditioning, picture: std.Image) -> None:
    other = std.encode_prompt(model, "a green tree on a yellow background")
    start = std.encode_image(model, picture)
    control = std.apply_controlnet(std.load_controlnet("tiny-canny"), images.from_pil(cases.edges()))
    rests: list[dict[str, Any]] = [
        {"steps": 3},
        {"steps": 3, "scheduler": "EulerAncestralDiscreteScheduler", "negative": other},
        {"steps": 3, "scheduler": "DPMSolverSDEScheduler", "guidance_scale": 1.0},
        {"steps": 4, "latent": start, "strength": 0.75, "control": control},
    ]
    for rest in rests:
        contexts = [Watching() for _ in range(3)]
        found = many(model, [text, other, text], [1, [2, 3], 4], contexts, **rest)
        alone = [
            std.sample(model, positive, seed=seed, **rest) for positive, seed in ((text, 1), (other, [2, 3]), (text, 4))
        ]
        for one, expected in zip(found, alone, strict=True):
            assert one.samples.shape == expected.samples.shape
            assert torch.allclose(one.samples, expected.samples, atol=2e-4), rest
        assert not torch.allclose(found[0].samples, found[2].samples, atol=0.1)
        assert all(ctx.facts == {"batch": 4, "batch_seeds": [1, 2, 3, 4]} for ctx in contexts)
        assert all(ctx.steps == contexts[0].steps for ctx in contexts)


def test_a_cancelled_call_is_not_the_others_concern(model: std.Model, text: std.Conditioning) -> None:
    contexts = [Watching(), Watching(cancel_at=1), Watching()]
    found = many(model, [text] * 3, [1, 2, 3], contexts, steps=3)
    assert isinstance(found[1], Cancelled)
    assert contexts[1].steps == [(1, 3)]
    alone = std.sample(model, text, seed=3, steps=3).samples
    assert torch.allclose(found[2].samples, alone, atol=2e-4)
    contexts = [Watching(cancel_at=1), Watching(cancel_at=2)]
    found = many(model, [text] * 2, [1, 2], contexts, steps=3)
    assert all(isinstance(one, Cancelled) for one in found)
    assert len(contexts[1].steps) == 2, "it went on when all were cancelled"


def test_a_wrong_call_is_not_the_others_concern(model: std.Model, text: std.Conditioning) -> None:
    found = many(model, [text] * 2, [[], 5], [Watching(), Watching()], steps=2)
    assert isinstance(found[0], ValueError)
    assert found[1].samples.shape == (1, 4, 16, 16)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "EulerScheduler"}, "there is no scheduler 'EulerScheduler'; did you mean EDMEulerScheduler"),
        ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler is of the wrong kind"),
        ({"scheduler": "DDPMScheduler", "timestep_spacing": "sideways"}, "sideways"),
        ({"scheduler": "EDMEulerScheduler", "timestep_spacing": "leading"}, "Scheduler has no timestep spacing"),
        ({"width": 100}, "width is 100, but must be a multiple of 8"),
        ({"strength": 0.5}, "strength says how much of a picture is replaced; link one to latent"),
        ({"seed": []}, "0 seeds for 1 pictures"),
        ({"seed": [2**64]}, "seed 18446744073709551616 is out of range"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
    ],
)
def test_wrong_inputs_say_what_is_wrong(
    model: std.Model, text: std.Conditioning, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        std.sample(model, text, **({"steps": 2} | changes))


def test_inputs_that_contradict_each_other(model: std.Model, text: std.Conditioning, picture: std.Image) -> None:
    start = std.encode_image(model, picture)
    with pytest.raises(ValueError, match="width and height are the latent's; leave them out"):
        std.sample(model, text, latent=start, width=128)
    with pytest.raises(ValueError, match=r"strength 0\.1 of 5 steps leaves no step to do; raise strength or steps"):
        std.sample(model, text, latent=start, strength=0.1, steps=5)
    with pytest.raises(ValueError, match=r"strength 0\.8 of 1 steps leaves no step to do"):  # the pipeline's own
        std.sample(model, text, latent=std.encode_image(model, picture), steps=1)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline takes no guidance_rescale: leave it out"):
        std.sample(model, text, latent=start, guidance_rescale=0.5)
    with pytest.raises(ValueError, match="strength says"):
        std.sample(model, text, latent=std.empty_latent(model), strength=0.5)
    with pytest.raises(ValueError, match="3 seeds for 2 pictures"):
        std.sample(model, text, latent=std.empty_latent(model, count=2), seed=[1, 2, 3])
    with pytest.raises(ValueError, match="1,000,000 pictures are more than the 1,024 that one call makes"):
        std.sample(model, text, seed=list(range(1_000_000)))
    with pytest.raises(ValueError, match="this latent is empty, there is nothing to decode"):
        std.decode_latent(model, std.empty_latent(model))
    stranger = std.Conditioning(text.embeds, "flux", fallback=text.fallback)
    with pytest.raises(ValueError, match="a Conditioning of flux does not fit tiny, a stable_diffusion model"):
        std.sample(model, stranger)


def test_pictures_of_sizes_that_cannot_be_encoded(model: std.Model, text: std.Conditioning) -> None:
    odd = images.from_pil(cases.picture().resize((100, 70)))
    with pytest.raises(ValueError, match="100 x 70 cannot be encoded: its sides must be multiples of 8; use resize"):
        std.encode_image(model, odd)
    mask = std.mask_rectangle(64, 64)
    with pytest.raises(ValueError, match="the mask is 64 x 64, the picture 128 x 128"):
        std.inpaint(model, text, images.from_pil(cases.picture()), mask, steps=2)


def test_control_pictures_that_fit_no_count(model: std.Model, text: std.Conditioning) -> None:
    picture = cases.edges().resize((96, 160))
    two = std.apply_controlnet(std.load_controlnet("tiny-canny"), images.from_pil(picture, picture))
    with pytest.raises(ValueError, match="2 control pictures for 1 pictures; give one, or one for each"):
        std.sample(model, text, control=two, width=64, height=64, steps=1)


def test_an_inpainting_checkpoint_is_not_for_sample(models: Path, text: std.Conditioning) -> None:
    nine = std.load_model(models / "nine")
    with pytest.raises(ModelError, match="nine is an inpainting checkpoint; use the node inpaint, not sample"):
        std.sample(nine, text, steps=2)


def test_clip_skip_beyond_the_encoder(model: std.Model) -> None:
    with pytest.raises(ValueError, match="clip_skip 4 leaves none of the text encoder's 4 layers"):
        std.encode_prompt(model, "a red circle", clip_skip=4)


def test_a_prompt_that_is_too_long_is_cut_off_with_a_warning(
    model: std.Model, caplog: pytest.LogCaptureFixture
) -> None:
    std.encode_prompt(model, "a red circle " * 30 + "tail")
    assert "longer than the 77 tokens" in caplog.text
    assert "tail" in caplog.text


def test_literals_are_checked_before_anything_runs() -> None:
    assert std.sample.check_fn is not None
    assert list(std.sample.check_fn({"width": 100, "height": 128})) == [
        "width is 100, but must be a multiple of 8 (96 or 104)"
    ]
    complaint = "there is no scheduler 'Eulr'; did you mean Euler or Euler a?"
    assert list(std.sample.check_fn({"scheduler": "Eulr"})) == [complaint]
    sockets = std.sample.sockets
    assert sockets["seed"].complaint(-2)
    assert sockets["seed"].complaint(-1) is None  # drawn
    assert sockets["seed"].complaint([1, 2**64])
    assert sockets["seed"].complaint([1, 2**64 - 1]) is None
    assert sockets["width"].complaint(0)
    assert sockets["width"].complaint(100_000)
    assert sockets["scheduler"].complaint(None) is None
