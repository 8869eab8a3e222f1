import re

import pytest
from graphengine_comfy.sampling.model_sampling import DiscreteSampling, FlowSampling
from graphengine_comfy.sampling.samplers import SAMPLERS, Meaning, sampler_named

from tests import ROOT
from tests.graphengine_comfy.sampling.reference import numbers

GUIDE = ROOT / "docs" / "guides" / "comfyui-sampling.md"


def test_every_name_of_comfyui_is_known_and_no_other() -> None:
    assert list(SAMPLERS) == numbers("names")["samplers"]


def test_a_sampler_is_exact_only_where_comfyuis_numbers_say_so() -> None:
    compared = {key.split("|")[0] for key in numbers("samplers")} | {"ddim"}  # Euler over the same sigmas
    assert {name for name, sampler in SAMPLERS.items() if sampler.meaning is Meaning.EXACT} == compared


def test_what_differs_or_is_refused_is_said_in_a_sentence() -> None:
    for sampler in SAMPLERS.values():
        assert bool(sampler.note) == (sampler.meaning is not Meaning.EXACT), sampler.name
        assert (sampler.solver is None) == (sampler.meaning is Meaning.REFUSED), sampler.name


def test_refusals_and_unknown_names_say_what_to_take() -> None:
    with pytest.raises(ValueError, match=r"euler_cfg_pp is not computed here: .*; take euler"):
        sampler_named("euler_cfg_pp").solver_for(DiscreteSampling())
    with pytest.raises(ValueError, match=r"ddpm is not computed for flow matching: .*take euler_ancestral"):
        sampler_named("ddpm").solver_for(FlowSampling())
    with pytest.raises(ValueError, match="no sampler 'dpmpp2m'; did you mean dpmpp_2m"):
        sampler_named("dpmpp2m")


def test_the_guide_lists_each_name_where_it_belongs() -> None:
    rows = [row.split("|") for row in GUIDE.read_text("utf-8").splitlines() if row.startswith("| ")]
    listed = [(name, cells[1].strip()) for cells in rows for name in re.findall(r"`(\w+)`", cells[2])]
    expected = {name: sampler.meaning.value for name, sampler in SAMPLERS.items()}
    assert {name: meaning for name, meaning in listed if meaning in set(Meaning)} == expected
