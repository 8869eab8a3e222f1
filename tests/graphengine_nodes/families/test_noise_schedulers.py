"""Schedulers by name are those of diffusers; unknown names and spacings are refused."""

from __future__ import annotations

import pytest
from graphengine_nodes.families import noise_schedulers
from graphengine_nodes.weights.files import TINY, read_json

from tests.graphengine_nodes import cases

CONFIG = read_json(TINY / "model" / "scheduler" / "scheduler_config.json")


def test_the_names_are_those_of_diffusers() -> None:
    from diffusers.schedulers import KarrasDiffusionSchedulers

    assert tuple(member.name for member in KarrasDiffusionSchedulers) == noise_schedulers.KARRAS
    assert list(noise_schedulers.KARRAS) == cases.SCHEDULERS


def make(name: str | None = None, spacing: str | None = None, seeds: tuple[int, ...] = (1,)) -> object:
    own = noise_schedulers.own(CONFIG, name, seeds, noise_schedulers.KARRAS, "stable_diffusion")
    return noise_schedulers.make(own, name, spacing, seeds)


def test_each_run_has_its_own() -> None:
    assert make() is not make()
    assert type(make()).__name__ == "DDIMScheduler"


def test_the_one_that_draws_from_its_own_seed_gets_ours() -> None:
    assert make("DPMSolverSDEScheduler", seeds=(7,)).noise_sampler_seed == 7  # type: ignore[attr-defined]
    assert make("DPMSolverSDEScheduler", seeds=(7, 8)).noise_sampler_seed == [7, 8]  # type: ignore[attr-defined]


def test_unknown_and_foreign_ones() -> None:
    with pytest.raises(ValueError, match=r"no scheduler 'DDIM'; (did you mean|known are)"):
        make("DDIM")
    with pytest.raises(ValueError, match="did you mean EulerAncestralDiscreteScheduler"):
        make("EulerAncestralScheduler")
    with pytest.raises(ValueError, match="of the wrong kind for stable_diffusion; it takes one of DDIMScheduler"):
        make("FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ValueError, match="there is no timestep spacing 'leeding'; known are leading"):
        make(spacing="leeding")
