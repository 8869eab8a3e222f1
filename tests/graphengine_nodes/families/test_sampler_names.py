"""Samplers by people's names, and options of schedulers: as diffusers' pipeline with such a scheduler, to the bit."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.families import noise_schedulers, sampler_names
from graphengine_nodes.families.lookup import families
from graphengine_nodes.families.sampler_names import CLASSES, SAMPLERS, SCHEDULES
from graphengine_nodes.testing import flux as testing_flux
from graphengine_nodes.testing.z_image import z_image_model
from graphengine_nodes.weights.files import TINY, read_json

from graphengine import Graph, GraphEngineError

PROMPT = "a red circle on a blue background"
SIZE: dict[str, Any] = {"width": 64, "height": 64, "guidance_scale": 3.5}
CONFIG = read_json(TINY / "model" / "scheduler" / "scheduler_config.json")


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    found = diffusers.StableDiffusionPipeline.from_pretrained(
        TINY / "model", safety_checker=None, requires_safety_checker=False
    )
    found.set_progress_bar_config(disable=True)
    return found


def theirs(pipe: Any, cls: str, options: dict[str, Any], steps: int | None = 4, **call: Any) -> torch.Tensor:
    """What diffusers' pipeline makes with a scheduler of that class and those options."""
    own = pipe.scheduler
    pipe.scheduler = getattr(diffusers, cls).from_config(own.config, **options)
    try:
        found: torch.Tensor = pipe(
            PROMPT,
            **SIZE,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(5)],
            output_type="latent",
            **call,
        ).images
        return found
    finally:
        pipe.scheduler = own


def ours(scheduler: str | None, options: dict[str, Any] | None = None, steps: int = 4) -> torch.Tensor:
    model = std.load_model("tiny")
    text = std.encode_prompt(model, PROMPT)
    return std.sample(model, text, seed=5, steps=steps, scheduler=scheduler, scheduler_options=options, **SIZE).samples


KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
BH1 = {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}  # not finite down to no noise
NAMED = [
    ("DPM++ 2M", "DPMSolverMultistepScheduler", {}),
    ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", KARRAS),
    ("dpmpp_2m karras", "DPMSolverMultistepScheduler", KARRAS),
    ("DPM++ 2M SDE Karras", "DPMSolverMultistepScheduler", KARRAS | SDE),
    ("dpmpp_2m_sde_gpu exponential", "DPMSolverMultistepScheduler", SDE | SCHEDULES["Exponential"]),
    ("DPM++ SDE Karras", "DPMSolverSDEScheduler", KARRAS | {"noise_sampler_seed": 5}),  # its noise is of the seed
    ("Euler", "EulerDiscreteScheduler", {}),
    ("euler beta", "EulerDiscreteScheduler", {"timestep_spacing": "linspace", "use_beta_sigmas": True}),
    ("Euler SGM Uniform", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("Euler a", "EulerAncestralDiscreteScheduler", {}),
    ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
    ("LMS Karras", "LMSDiscreteScheduler", KARRAS),
    ("Heun", "HeunDiscreteScheduler", {}),
    ("DPM2 a", "KDPM2AncestralDiscreteScheduler", {}),
    ("dpm_2_ancestral_karras", "KDPM2AncestralDiscreteScheduler", KARRAS),
    ("UniPC", "UniPCMultistepScheduler", BH1),
    ("uni_pc", "UniPCMultistepScheduler", BH1),
    ("uni_pc_bh2", "UniPCMultistepScheduler", {"solver_type": "bh2"}),
    ("DDIM", "DDIMScheduler", {}),
    ("PLMS", "PNDMScheduler", {"skip_prk_steps": True}),
]


@pytest.mark.parametrize(("name", "cls", "options"), NAMED, ids=[name for name, _, _ in NAMED])
def test_a_name_is_a_class_with_options(pipe: Any, name: str, cls: str, options: dict[str, Any]) -> None:
    assert torch.equal(ours(name), theirs(pipe, cls, options))


OPTIONS = [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3, "solver_type": "heun"}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "euler_at_final": True}),
    ("EulerDiscreteScheduler", {"use_exponential_sigmas": True, "sigma_max": 10}),
    ("UniPCMultistepScheduler", {"disable_corrector": [0, 1]}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": False, "timestep_spacing": "linspace"}),
]


@pytest.mark.parametrize(("cls", "options"), OPTIONS)
def test_options_are_those_of_the_constructor(pipe: Any, cls: str, options: dict[str, Any]) -> None:
    found = ours(cls, options)
    assert torch.equal(found, theirs(pipe, cls, options))
    assert not torch.equal(found, ours(cls)), "the options change nothing"


def test_options_without_a_name_are_of_the_models_own(pipe: Any) -> None:
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": False}
    assert torch.equal(ours(None, options), theirs(pipe, "DDIMScheduler", options))


def test_a_samplers_own_sigmas_and_timesteps(pipe: Any) -> None:
    sigmas = [14.6, 6.0, 2.0, 0.6, 0.0]
    found = ours("Euler", {"sigmas": sigmas})
    assert torch.equal(found, theirs(pipe, "EulerDiscreteScheduler", {}, None, sigmas=sigmas))
    times = [900, 600, 300, 100]
    found = ours("DPM++ 2M", {"timesteps": times, "solver_order": 1})
    assert torch.equal(found, theirs(pipe, "DPMSolverMultistepScheduler", {"solver_order": 1}, None, timesteps=times))


def test_inpainting_takes_them_too() -> None:
    model = std.load_model("tiny")
    text = std.encode_prompt(model, PROMPT)
    image, mask = std.Image(torch.full((1, 64, 64, 3), 0.5)), std.Mask(torch.ones(1, 64, 64))

    def painted(scheduler: str, options: dict[str, Any] | None = None) -> torch.Tensor:
        given: dict[str, Any] = {"scheduler": scheduler, "scheduler_options": options}
        return std.inpaint(model, text, image, mask, seed=5, steps=4, **given).samples

    assert torch.equal(painted("DPM++ 2M Karras"), painted("DPMSolverMultistepScheduler", KARRAS))
    assert not torch.equal(painted("DPM++ 2M Karras"), painted("DPM++ 2M"))


def test_flow_matching_has_a_shift(tmp_path: Path) -> None:
    folder = testing_flux.flux_model(tmp_path / "flux")
    model = std.load_model(folder)
    text = std.encode_prompt(model, PROMPT)
    pipe = diffusers.FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    options = {"shift": 2.5, "use_dynamic_shifting": False, "use_karras_sigmas": True}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **options)
    size = {"width": 64, "height": 64, "guidance_scale": 3.5}
    length = int(model.setting("max_sequence_length"))
    call = {**size, "num_inference_steps": 3, "max_sequence_length": length, "output_type": "latent"}
    wanted = pipe(PROMPT, generator=[torch.Generator().manual_seed(5)], **call).images
    found = std.sample(model, text, seed=5, steps=3, scheduler="euler", scheduler_options=options, **size).samples
    assert torch.equal(pipe._unpack_latents(wanted, 64, 64, pipe.vae_scale_factor), found)
    with pytest.raises(ValueError, match="shift changes nothing while use_dynamic_shifting is True; give use_dynamic"):
        std.sample(model, text, scheduler_options={"shift": 2.5, "use_dynamic_shifting": True}, **size)
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler is of the wrong kind for flux"):
        std.sample(model, text, seed=5, steps=3, scheduler="DPM++ 2M Karras", **size)


def flow_kinds() -> list[tuple[str, ...]]:
    """The schedulers that the families of flows take, each set once."""
    found = {tuple(one.schedulers) for one in families().values()}
    return sorted(kind for kind in found if set(kind) & set(noise_schedulers.FLOW))


FLOW_OWN = {
    "static": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True, "time_shift_type": "exponential", "shift_terminal": 0.02},
}


@pytest.mark.parametrize("own", FLOW_OWN)
def test_every_name_leaves_no_noise_in_a_flow_model(own: str) -> None:
    """With the velocity towards one picture each sampler ends at that picture, or says that it has no such schedule."""
    ran = set()
    names = [f"{one} {schedule}".strip() for s in SAMPLERS for one in s.names for schedule in ("", *SCHEDULES)]
    for kind, name in itertools.product(flow_kinds(), names):
        try:
            made = flow_scheduler(name, kind, FLOW_OWN[own])
        except ValueError as error:
            if not any(part in str(error) for part in ("wrong kind", "has no option", "no schedule from noise")):
                raise
            continue
        generator = torch.Generator().manual_seed(0)
        target, samples = (torch.randn(1, 4, 4, 4, generator=generator) for _ in range(2))
        for index, time in enumerate(made.timesteps):
            samples = made.step((samples - target) / made.sigmas[index], time, samples, return_dict=False)[0]
        assert float(made.sigmas[-1]) == 0, name
        assert torch.allclose(samples, target, atol=1e-5), name
        ran.add(name)
    assert {"uni_pc", "UniPC", "UniPC Simple", "uni_pc_bh2", "DPM++ 2M", "Euler", "Euler Karras", "Euler Beta"} <= ran
    assert not {"UniPC Beta", "uni_pc Exponential", "DPM++ 2M Karras"} & ran


def flow_scheduler(name: str, kind: tuple[str, ...], own: dict[str, Any]) -> Any:
    """A sampler by name over a flow model's own scheduler, its timesteps set to 8 as pipelines set them."""
    cls, options = sampler_names.read(name, kind, "any")
    scheduler = noise_schedulers.own({**own, "_class_name": noise_schedulers.FLOW[0]}, cls, [1], kind, "any")
    made = noise_schedulers.make(scheduler, cls, None, [1], options)
    noise_schedulers.guard(made, options, {})
    taken = inspect.signature(made.set_timesteps).parameters
    steps = {"sigmas": list(np.linspace(1.0, 1 / 8, 8)), "num_inference_steps": 8, "mu": 1.15}
    made.set_timesteps(**{one: value for one, value in steps.items() if one in taken})
    return made


def test_a_schedule_that_leads_from_a_picture_to_noise_is_refused(tmp_path: Path) -> None:
    model = std.load_model(z_image_model(tmp_path / "model"))
    text = std.encode_prompt(model, PROMPT)
    call: dict[str, Any] = {"seed": 5, "steps": 3, "width": 64, "height": 64}
    with pytest.raises(
        ValueError, match=r"makes no schedule from noise to a picture with .*use_karras_sigmas True in a"
    ):
        std.sample(model, text, scheduler="UniPC Karras", **call)
    plain = std.sample(model, text, scheduler="UniPCMultistepScheduler", **call).samples
    assert torch.equal(std.sample(model, text, scheduler="UniPC", **call).samples, plain)


# --- what is refused --------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scheduler": "DPM++ 2M Carras"}, r"there is no scheduler 'DPM\+\+ 2M Carras'; did you mean DPM\+\+ 2M Karras"),
    ({"scheduler": "Restart"}, "there is no scheduler 'Restart'; take a class name of diffusers, or a sampler"),
    ({"scheduler": "Euler a Karras"}, "EulerAncestralDiscreteScheduler has no option use_karras_sigmas; it has pred"),
    (
        {"scheduler": "LMS", "scheduler_options": {"algorithm_type": "x"}},
        "LMSDiscreteScheduler has no option alg",
    ),
    ({"scheduler": "dpmpp_2m", "scheduler_options": {"use_karras_sigmas": 3}}, "use_karras_sigmas 3; .* takes bool"),
    ({"scheduler": "dpmpp_2m", "scheduler_options": {"algorithm_type": "y"}}, r"takes one of \['dpmsolver', 'dpms"),
    ({"scheduler": "dpmpp_2m", "scheduler_options": {"solver_order": 4}}, "solver_order 4; .* takes 1, 2 or 3"),
    ({"scheduler": "dpmpp_2m", "scheduler_options": {"sigmas": [1.0]}}, "takes no sigmas of your own, but timesteps"),
    ({"scheduler": "Euler", "scheduler_options": {"sigmas": "many"}}, "sigmas 'many'; give a list of numbers"),
    ({"scheduler": "Euler", "scheduler_options": {"sigmas": [0.1, 5, 3]}}, "give numbers of at least 0, each below"),
    ({"scheduler_options": {"sigmas": [math.nan, 0.0]}}, "give numbers of at least 0, each below the one before"),
    ({"scheduler": "Euler", "scheduler_options": {"timesteps": [10, 500]}}, "numbers of at least 0, each below the"),
    ({"scheduler": "DDIM", "scheduler_options": {"timesteps": [900, 500]}}, "DDIMScheduler takes no timesteps of"),
    (
        {"scheduler": "DPM++ 2M Karras", "scheduler_options": {"timesteps": [900, 500]}},
        "timesteps and use_karras_sigmas both say where to step",
    ),
    (
        {"scheduler_options": {"use_karras_sigmas": True, "use_beta_sigmas": True}},
        "use_karras_sigmas and use_beta_sigmas both say where to step",
    ),
    ({"scheduler": "Euler", "scheduler_options": {"interpolation_type": "foo"}}, "takes linear or log_linear"),
    ({"scheduler": "DDPM", "scheduler_options": {"variance_type": "learned"}}, "takes fixed_small, .* or fixed_large"),
    ({"scheduler": "DDIM", "scheduler_options": {"num_train_timesteps": 0}}, "how the model was trained; .*zero_snr"),
    ({"scheduler_options": {"beta_start": -1.0}}, "beta_start, which cannot be given: it is how the model was trained"),
    ({"scheduler_options": {"karras": True}}, "no scheduler takes karras True"),
    ({"scheduler": "DPMSolverSDEScheduler", "scheduler_options": {"noise_sampler_seed": 1}}, "the seed says it"),
    ({"timestep_spacing": "leading", "scheduler_options": {"timestep_spacing": "trailing"}}, "given twice"),
    ({"arguments": {"sigmas": [1.0]}, "scheduler_options": {"sigmas": [1.0]}}, "sigmas are given twice"),
]


@pytest.mark.parametrize(("inputs", "sentence"), WRONG)
def test_what_no_scheduler_is_or_has_is_known_before_a_run(inputs: dict[str, Any], sentence: str) -> None:
    with Graph() as graph:
        model = std.load_model("tiny")
        std.sample(model, std.encode_prompt(model, PROMPT))
    sampler = next(id for id, node in graph.nodes.items() if node.kind.name == "sample")
    graph.nodes[sampler].literals.update(inputs)
    with pytest.raises(GraphEngineError, match=sentence):
        graph.check()


def test_the_models_own_scheduler_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="DDIMScheduler has no option use_karras_sigmas; it has clip_sample"):
        ours(None, KARRAS)
    with pytest.raises(ValueError, match="use_karras_sigmas and use_beta_sigmas both say where to step"):
        ours("DPM++ 2M Karras", {"use_beta_sigmas": True})
    with pytest.raises(ValueError, match="DDIMScheduler takes no timesteps of your own; leave them out"):
        ours(None, {"timesteps": [900, 500]})


LATE: list[tuple[str, dict[str, Any], str]] = [
    ("Euler", {"timesteps": [5000, 10]}, "EulerDiscreteScheduler would begin at timestep 5000, but .* up to 999"),
    (
        "LCM",
        {"original_inference_steps": 2000},
        "LCMScheduler cannot make its schedule with original_inference_steps 2000: `original_steps`: 2000",
    ),
    ("UniPC Beta", {}, "UniPCMultistepScheduler cannot step twice at timestep 99., as this noise schedule has it"),
    ("LCM", {"original_inference_steps": 0}, "LCMScheduler cannot make its schedule with original_inference_steps 0"),
    ("DDIM", {"steps_offset": 999, "timestep_spacing": "leading"}, "DDIMScheduler would begin at timestep 1749"),
    (
        "DPMSolverSinglestepScheduler",
        {"lower_order_final": False},
        "takes lower_order_final false only with final_sigmas_type sigma_min",
    ),
]


@pytest.mark.parametrize(("name", "options", "sentence"), LATE)
def test_what_only_the_model_and_the_steps_decide_is_one_sentence(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        ours(name, options)


def test_a_schedule_by_name_is_in_place_of_the_models_own() -> None:
    config = CONFIG | {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}
    own = noise_schedulers.own(config, None, [1], CLASSES, "any")
    made = noise_schedulers.make(own, "DPMSolverMultistepScheduler", None, [1], {"use_beta_sigmas": True})
    assert (made.config.use_beta_sigmas, made.config.use_karras_sigmas) == (True, False)


def test_diffusers_notices_are_not_the_users(pipe: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = ours("DPMSolverSinglestepScheduler", {"solver_order": 3})
    assert caplog.messages == []
    assert torch.equal(found, theirs(pipe, "DPMSolverSinglestepScheduler", {"solver_order": 3}))
    assert any("Changing scheduler" in one for one in caplog.messages), "diffusers says it no more: leave this out"


def test_an_option_among_the_pipelines_arguments_is_told_where_it_goes() -> None:
    model = std.load_model("tiny")
    text = std.encode_prompt(model, PROMPT)
    with pytest.raises(ValueError, match="takes no use_karras_sigmas; give it in scheduler_options"):
        std.sample(model, text, arguments=KARRAS)


def test_every_row_is_of_diffusers() -> None:
    """Each class exists, and takes what its row and each schedule that it can have say."""
    for sampler in SAMPLERS:
        for cls in sampler.classes:
            assert cls in CLASSES
            assert hasattr(diffusers, cls)
            name, options = sampler_names.read(sampler.names[-1], CLASSES, "any")
            assert name == sampler.classes[0]
            assert list(sampler_names.problems({"scheduler": name, "scheduler_options": options})) == []


def test_a_number_that_diffusers_annotates_as_bool() -> None:
    options = {"use_karras_sigmas": True, "sigma_max": 9.5}
    assert list(sampler_names.problems({"scheduler": "UniPC", "scheduler_options": options})) == []


def test_validation_needs_no_torch() -> None:
    code = (
        "from graphengine_nodes.families import sampler_names as s\n"
        "import sys\n"
        "wrong = list(s.problems({'scheduler': 'DPM++ 2M Karras', 'scheduler_options': {'x': 1}}))\n"
        "assert len(wrong) == 1, wrong\n"
        "assert not {'torch', 'diffusers'} & sys.modules.keys()\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("wrong", ["FlowMatchEuler", "FlowMatchEulerDiscrete", "UniPCMultistep", "DPMSolver", "Eulr"])
def test_names_are_suggested_once_and_only_where_the_family_takes_them(wrong: str) -> None:
    for name, family in families().items():
        with pytest.raises(ValueError, match=f"there is no scheduler '{wrong}'; ") as caught:
            sampler_names.read(wrong, family.schedulers, name)
        told = re.sub(r".*; (did you mean |known are )", "", str(caught.value)).rstrip("?")
        suggested = re.split(" or |, ", told)
        assert len(set(suggested)) == len(suggested)
        assert all(sampler_names.read(one, family.schedulers, name)[0] in family.schedulers for one in suggested)
