"""The scheduler in diffusers' form: ComfyUI's numbers through it, and diffusers' own pipelines with it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from graphengine_comfy.sampling.model_sampling import FlowSampling, ModelSampling
from graphengine_comfy.sampling.samplers import SAMPLERS, Meaning, Noise
from graphengine_comfy.sampling.scheduler import Draws, Keep, NoiseForm, SigmaScheduler, sigma_scheduler
from graphengine_comfy.sampling.sigmas import sigma_table
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.weights.files import TINY

from tests.graphengine_comfy.sampling.reference import MODELS, denoised, numbers

EPS = MODELS["sd1_eps"]
COMPUTED = [
    name for name, sampler in SAMPLERS.items() if sampler.meaning is not Meaning.REFUSED and not name.endswith("_gpu")
]
"""All but those that differ in the device of their noise alone."""


def sampled(scheduler: SigmaScheduler, x: torch.Tensor, model: ModelSampling) -> torch.Tensor:
    """Call a scheduler as a pipeline does, with the analytic model's picture put as the output of a model."""
    scheduler.set_timesteps(5, "cpu")
    for call, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.calls[call]
        picture = denoised(x, sigma)
        output = (x - picture) / sigma  # noise, or velocity in a flow
        if model.prediction == "v_prediction":
            output = (x / (1 + sigma**2) - picture) * (1 + sigma**2) ** 0.5 / sigma
        (x,) = scheduler.step(output, timestep, x, return_dict=False)
    return x


@pytest.mark.parametrize("key", numbers("samplers"))
def test_samplers_are_comfyuis_to_1e_3(key: str) -> None:
    sampler, schedule, steps = key.split("|")
    table = sigma_table(EPS, schedule, int(steps))  # these numbers were computed without dropping a sigma
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(123)) * table[0]
    for model in (EPS, MODELS["sd2_v"]):
        # Version 0.3.64 drew with the sampler's seed, 77, on the CPU as well, where later ones count one further.
        result = sampled(sigma_scheduler(sampler, table, model, seed=76), x, model)
        expected = torch.tensor(numbers("samplers")[key])
        torch.testing.assert_close(result.flatten()[[0, 1, 17, 30, 45, 63]], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("model", [EPS, FlowSampling(3.0)], ids=["noise", "flow"])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_model_that_knows_the_picture_is_led_to_it(name: str, model: ModelSampling) -> None:
    if model.flow and SAMPLERS[name].no_flow:
        pytest.skip("refused for flow matching")
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    table = sigma_table(model, "simple", 8, sampler=name)
    scheduler = sigma_scheduler(name, table, model, seed=3)
    x = model.begin(torch.zeros_like(picture), torch.randn(picture.shape), float(table[0]))
    for call, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step((x - picture) / scheduler.calls[call], timestep, x).prev_sample
    left = {"dpm_fast": float(table[-2]), "uni_pc": 0.001, "uni_pc_bh2": 0.001}.get(name, 1e-4)  # noise at their ends
    torch.testing.assert_close(x, picture, rtol=0, atol=8 * left)


@pytest.mark.parametrize("model", [EPS, FlowSampling(3.0)], ids=["noise", "flow"])
@pytest.mark.parametrize("name", COMPUTED)
def test_pictures_of_a_known_distribution_come_out_as_they_are_distributed(name: str, model: ModelSampling) -> None:
    """Pictures of a normal distribution, whose best denoiser is known: every sampler solves their equation."""
    if (model.flow and SAMPLERS[name].no_flow) or name == "lcm":
        pytest.skip("refused for flow matching, or no solver")
    deviation = 0.5
    steps = 200 if "ancestral" in name or name == "ddpm" else 60  # ancestral ones are of first order
    scheduler = sigma_scheduler(name, sigma_table(model, "simple", steps, sampler=name), model, seed=3)
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    for call, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.calls[call]
        scale = 1 - sigma if model.flow else 1.0
        picture = scale * deviation**2 / ((scale * deviation) ** 2 + sigma**2) * x
        x = scheduler.step((x - picture) / sigma, timestep, x).prev_sample
    assert float(x.std()) == pytest.approx(deviation, abs=0.03)
    assert abs(float(x.mean())) < 0.025


@pytest.mark.parametrize("name", COMPUTED)
def test_a_part_of_a_table_leaves_the_noise_of_its_last_sigma(name: str) -> None:
    picture, noise = torch.randn(2, 1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    for model, table in ((EPS, [9.0, 2.5]), (EPS, [9.0, 5.0, 2.0, 1.0]), (FlowSampling(), [1.0, 0.9, 0.4, 0.3])):
        if model.flow and SAMPLERS[name].no_flow:
            continue
        scheduler = sigma_scheduler(name, table, model, seed=3)
        x = model.noisy(picture, noise, table[0])
        for call, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step((x - picture) / scheduler.calls[call], timestep, x).prev_sample
        left = x - model.noisy(picture, noise, table[-1]) + table[-1] * noise
        assert float(left.std()) == pytest.approx(table[-1], rel=0.05)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("euler", 0.12), ("heun", 0.012), ("heunpp2", 0.12), ("dpm_2", 0.012), ("lms", 0.003), ("dpm_fast", 0.012),
        ("dpmpp_2m", 0.012), ("ipndm", 0.003), ("ipndm_v", 0.003), ("deis", 0.003), ("res_multistep", 0.012),
        ("gradient_estimation", 0.12), ("uni_pc", 0.003), ("uni_pc_bh2", 0.003),
    ],
)  # fmt: skip
def test_samplers_without_noise_come_to_the_solution_of_many_steps(name: str, error: float) -> None:
    """40 steps of each, with what methods of first, second and third order leave."""
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(123)) * EPS.sigma_max
    exact = sampled(sigma_scheduler("heun", sigma_table(EPS, "karras", 400), EPS), x, EPS)
    near = sampled(sigma_scheduler(name, sigma_table(EPS, "karras", 40, sampler=name), EPS), x, EPS)
    assert float((near - exact).abs().max()) < error


def test_noise_of_a_path_is_the_same_however_a_way_is_divided() -> None:
    x, table = torch.zeros(1, 4, 8, 8), [10.0, 5.0, 1.0, 0.0]
    path = Draws(7, Noise.PATH).beside(x, table)
    whole = path(10.0, 1.0)
    halves = path(10.0, 5.0) * 5**0.5 + path(5.0, 1.0) * 4**0.5
    torch.testing.assert_close(whole * 9**0.5, halves, rtol=0, atol=1e-4)
    assert float(whole.std()) == pytest.approx(1, abs=0.15)


def test_noise_is_drawn_in_comfyuis_form_where_a_pipeline_packs_latents() -> None:
    x = torch.zeros(1, 16, 16)
    for kind in Noise:
        packed = Draws(7, kind, NoiseForm((1, 4, 8, 8), lambda one: one.reshape(1, 16, 16))).beside(x, [1.0, 0.0])
        plain = Draws(7, kind).beside(torch.zeros(1, 4, 8, 8), [1.0, 0.0])
        assert torch.equal(packed(1.0, 0.5).flatten(), plain(1.0, 0.5).flatten())


def test_second_order_samplers_call_the_model_twice_a_step() -> None:
    table = sigma_table(EPS, "karras", 4)
    assert sigma_scheduler("euler", table, EPS).calls == table[:-1].tolist()
    first, second, third, last, _ = table.tolist()
    assert sigma_scheduler("heun", table, EPS).calls == [first, second, second, third, third, last, last]
    assert len(sigma_scheduler("dpm_2", table, EPS).timesteps) == 7


def test_half_precision_pipelines_lose_nothing_between_steps() -> None:
    table = sigma_table(EPS, "karras", 30)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)) * table[0]
    outputs = torch.randn(30, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    results = []
    for dtype in (torch.float32, torch.float16):
        scheduler, latent = sigma_scheduler("dpmpp_2m", table, EPS), x.half().to(dtype)
        for output, timestep in zip(outputs.half(), scheduler.timesteps, strict=True):
            latent = scheduler.step(output.to(dtype), timestep, latent).prev_sample
        results.append(latent)
    assert results[1].dtype == torch.float16
    assert torch.equal(results[0].half(), results[1])


def test_a_mask_keeps_a_latent() -> None:
    for model in (EPS, FlowSampling(3.0)):
        latent, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        latent, noise = latent[None, 0], noise[None, 0]
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 4:] = 1
        table = sigma_table(model, "normal", 6, denoise=0.7)
        scheduler = sigma_scheduler("heun", table, model, keep=Keep(latent, noise, mask))
        x = model.begin(latent, noise, float(table[0]))
        for call, timestep in enumerate(scheduler.timesteps):
            sigma = scheduler.calls[call]
            torch.testing.assert_close(x[..., :4], model.noisy(latent, noise, sigma)[..., :4], rtol=0, atol=1e-5)
            x = scheduler.step((x - denoised(x, sigma)) / sigma, timestep, x).prev_sample
        torch.testing.assert_close(x[..., :4], latent[..., :4], rtol=0, atol=1e-5)
        assert (x[..., 4:] - latent[..., 4:]).abs().mean() > 0.05


def test_calls_out_of_order_are_refused() -> None:
    scheduler = sigma_scheduler("euler", sigma_table(EPS, "normal", 3), EPS)
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"timestep 999, not 500$"):
        scheduler.step(x, 500, x)
    with pytest.raises(ValueError, match=r"strength=1\.0"):
        scheduler.set_begin_index(1)
    for timestep in scheduler.timesteps:
        scheduler.step(x, timestep, x)
    with pytest.raises(ValueError, match="done after 3 calls"):
        scheduler.step(x, 0, x)


@pytest.mark.parametrize("table", [[1.0], [1.0, 1.0, 0.0], [1.0, 2.0], [1.0, -1.0], [float("nan"), 0.0]])
def test_what_is_no_table_is_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two, each below the one before"):
        sigma_scheduler("euler", table, EPS)


# --- in diffusers' own pipelines --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stable_diffusion() -> Any:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(TINY / "model", safety_checker=None, feature_extractor=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_stable_diffusions_pipeline_samples_as_comfyui_does(stable_diffusion: Any) -> None:
    """Compared with a loop over the UNet that is written out here."""
    table = sigma_table(EPS, "karras", 5)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    stable_diffusion.scheduler = sigma_scheduler("euler", table, EPS)
    with torch.no_grad():
        text, empty = stable_diffusion.encode_prompt("a red circle", "cpu", 1, True)
        got = stable_diffusion(
            prompt_embeds=text, negative_prompt_embeds=empty, latents=noise, num_inference_steps=5, guidance_scale=4.0,
            height=64, width=64, output_type="latent",
        ).images  # fmt: skip
        x = noise * (1 + table[0] ** 2) ** 0.5
        for sigma, following in itertools.pairwise(table):
            timestep = (EPS.sigmas.log() - sigma.log()).abs().argmin()
            scaled = x / (1 + sigma**2) ** 0.5
            positive, negative = (
                stable_diffusion.unet(scaled, timestep, encoder_hidden_states=one).sample for one in (text, empty)
            )
            x = x + (following - sigma) * (negative + 4.0 * (positive - negative))
    torch.testing.assert_close(got, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2s_ancestral"])
def test_image_to_image_begins_at_the_tables_first_sigma(stable_diffusion: Any, sampler: str) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline(**stable_diffusion.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    results = []
    for denoise in (1.0, 0.02):
        pipeline.scheduler = sigma_scheduler(sampler, sigma_table(EPS, "normal", 2, denoise), EPS, seed=1)
        generator = torch.Generator().manual_seed(9)
        output = pipeline(
            "a red circle", image=latent, strength=1.0, num_inference_steps=2, output_type="latent", generator=generator
        )
        results.append(output.images)
    far, near = ((one - latent).abs().mean() for one in results)
    assert near < far / 3


def test_fluxs_pipeline_computes_what_it_does_with_its_own_scheduler_over_these_sigmas(tmp_path: Path) -> None:
    import diffusers
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(flux_model(tmp_path / "flux"))
    pipeline.set_progress_bar_config(disable=True)
    model = FlowSampling.flux()
    table = sigma_table(model, "beta", 6)
    results = []
    for scheduler in (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        sigma_scheduler("euler", table, model),
        sigma_scheduler("dpmpp_2m", table, model),
    ):
        pipeline.scheduler = scheduler
        output = pipeline(
            "a red circle", height=32, width=32, sigmas=table[:-1].tolist(), num_inference_steps=6,
            output_type="latent", generator=torch.Generator().manual_seed(9), max_sequence_length=32,
        )  # fmt: skip
        results.append(output.images)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)
    assert (results[2] - results[1]).abs().max() > 1e-4


