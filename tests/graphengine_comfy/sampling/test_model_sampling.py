import math

import pytest
import torch
from graphengine_comfy.sampling.model_sampling import DiscreteSampling, FlowSampling, flux_mu, of_scheduler, shifted

from tests.graphengine_comfy.sampling.reference import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_what_a_perfect_model_predicts_gives_the_picture_back(name: str) -> None:
    model = MODELS[name]
    latent, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for sigma in (model.sigma_max, 0.5, model.sigma_min):
        x = model.noisy(latent, noise, sigma)
        alpha = 1 / math.sqrt(1 + sigma**2)  # of the variance-preserving process that v predictions are defined in
        output = {
            "epsilon": noise, "v_prediction": alpha * noise - alpha * sigma * latent, "flow_prediction": noise - latent,
        }[model.prediction]  # fmt: skip
        torch.testing.assert_close(model.denoised(output, x, sigma), latent, rtol=0, atol=1e-4)


def test_timesteps_are_those_the_model_was_trained_at() -> None:
    discrete = DiscreteSampling()
    assert [discrete.timestep(float(discrete.sigmas[at])) for at in (0, 1, 500, 999)] == [0, 1, 500, 999]
    assert discrete.timestep(0.0) == 0
    assert FlowSampling(3.0).timestep(0.25) == 250


def test_sampling_begins_at_variance_1_plus_sigma_squared_from_the_largest_sigma_only() -> None:
    model = DiscreteSampling()
    nothing, noise = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    assert model.begin(nothing, noise, model.sigma_max).max() == pytest.approx(math.sqrt(1 + model.sigma_max**2))
    assert model.begin(nothing, noise, 2.0).max() == 2
    assert FlowSampling().begin(torch.full((1,), 2.0), torch.ones(1), 0.25) == 1.75


def test_noise_levels_are_read_from_a_schedulers_configuration() -> None:
    sd = {
        "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
    }  # fmt: skip
    assert of_scheduler(sd) == DiscreteSampling()
    assert of_scheduler(sd | {"prediction_type": "v_prediction"}) == DiscreteSampling("v_prediction")
    assert of_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}) == FlowSampling(3.0)
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        of_scheduler(sd | {"beta_schedule": "squaredcos_cap_v2"})
    with pytest.raises(ValueError, match="lists its own betas"):
        of_scheduler(sd | {"trained_betas": [0.1]})


def test_percents_of_the_denoising_are_sigmas() -> None:
    model = DiscreteSampling()
    assert model.sigma_at_percent(0) == math.inf
    assert model.sigma_at_percent(1) == 0
    assert model.sigma_at_percent(0.5) == pytest.approx(float(model.sigma(torch.tensor(499.5))))
    assert FlowSampling(3.0).sigma_at_percent(0.5) == 0.75


def test_shifts_are_for_flow_matching() -> None:
    assert shifted(FlowSampling.flux(), 2.0) == FlowSampling(2.0)
    assert flux_mu(1024, 1024) == pytest.approx(1.15)
    assert flux_mu(256, 256) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="this model predicts noise"):
        shifted(DiscreteSampling(), 2.0)
    with pytest.raises(ValueError, match="above 0, not nan"):
        shifted(FlowSampling(), math.nan)
