import math

import pytest
import torch
from graphengine_comfy.sampling.model_sampling import DiscreteSampling, FlowSampling
from graphengine_comfy.sampling.sigmas import DROP_BEFORE_LAST, SCHEDULES, sigma_table

from tests.graphengine_comfy.sampling.reference import MODELS, numbers


@pytest.mark.parametrize("scheduler", SCHEDULES)
@pytest.mark.parametrize("model", MODELS)
def test_every_table_is_comfyuis_to_1e_5(model: str, scheduler: str) -> None:
    compared = 0
    for file, sampler in (("sigmas", "euler"), ("sigmas_dpm_2", "dpm_2")):
        for key, expected in numbers(file).items():
            one, other, steps, denoise = key.split("|")
            if (one, other) == (model, scheduler):
                table = sigma_table(MODELS[model], scheduler, int(steps), float(denoise), sampler)
                assert table.dtype == torch.float32
                torch.testing.assert_close(table, torch.tensor(expected), rtol=0, atol=1e-5, msg=key)
                compared += 1
    assert compared >= 6


def test_the_names_are_comfyuis() -> None:
    assert list(SCHEDULES) == numbers("names")["schedulers"]
    assert list(DROP_BEFORE_LAST) == numbers("names")["samplers_that_drop_the_sigma_before_last"]


@pytest.mark.parametrize("scheduler", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 50, 1500])
def test_tables_fall_from_noise_to_nothing_for_any_number_of_steps(scheduler: str, steps: int) -> None:
    for model in MODELS.values():
        table = sigma_table(model, scheduler, steps)
        assert table[-1] == 0
        assert (table[1:] <= table[:-1]).all()
        assert torch.isfinite(table).all()
        assert len(table) == steps + 1 or scheduler in ("beta", "ddim_uniform")


def test_denoise_is_the_end_of_a_longer_table() -> None:
    whole = sigma_table(DiscreteSampling(), "karras", 40)
    assert torch.equal(sigma_table(DiscreteSampling(), "karras", 10, denoise=0.25), whole[-11:])
    assert len(sigma_table(DiscreteSampling(), "karras", 10, denoise=0)) == 0


def test_a_model_trained_down_to_no_signal_begins_at_comfyuis_largest_sigma() -> None:
    model = DiscreteSampling("v_prediction", zero_snr=True)
    assert sigma_table(model, "normal", 5)[0] == pytest.approx(4518.6, rel=1e-4)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="no scheduler 'karas'; did you mean karras"):
        sigma_table(DiscreteSampling(), "karas", 5)
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        sigma_table(DiscreteSampling(), "karras", 0)
    with pytest.raises(ValueError, match="at most 10000"):
        sigma_table(FlowSampling(), "karras", 100, denoise=1e-30)
    assert len(sigma_table(FlowSampling(), "karras", 100, denoise=math.nan)) == 0
