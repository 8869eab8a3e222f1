"""Samplers by the names that people know: the WebUI's ("DPM++ 2M Karras") and ComfyUI's (`dpmpp_2m`, `karras`).

A name is that of a sampler, with or without that of a noise schedule behind it. The source of both tables is diffusers'
documentation ("Schedulers", its tables of names in A1111 and k-diffusion), with ComfyUI's spelling beside it; `normal`
is ComfyUI's word for evenly spread timesteps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from graphengine import nearest
from graphengine_nodes.families import noise_schedulers, scheduler_options


class Sampler(NamedTuple):
    """A sampler of other tools.

    Attributes:
        names: The WebUI's name, then ComfyUI's.
        classes: What it is in diffusers; where there are two, the second one is for flow matching.
        options: The class's options that make it so.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    options: Mapping[str, Any] = {}


_MULTISTEP = ("DPMSolverMultistepScheduler",)
_BH1 = {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}  # down to no noise at all bh1 is not finite
_BH1_OF_FLOWS = {"solver_type": "bh2", "final_sigmas_type": "zero"}
"""What stands for `_BH1` in models of flows, whose sigma before the last one is a picture with much noise left."""
_SDE = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}

SAMPLERS = (
    Sampler(("DPM++ 2M", "dpmpp_2m"), _MULTISTEP, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    Sampler(("DPM++ 2M SDE", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), _MULTISTEP, _SDE),
    Sampler(("DPM++ SDE", "dpmpp_sde", "dpmpp_sde_gpu"), ("DPMSolverSDEScheduler",)),
    Sampler(("DPM2", "dpm_2"), ("KDPM2DiscreteScheduler",)),
    Sampler(("DPM2 a", "dpm_2_ancestral"), ("KDPM2AncestralDiscreteScheduler",)),
    Sampler(("Euler", "euler"), ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")),
    Sampler(("Euler a", "euler_ancestral"), ("EulerAncestralDiscreteScheduler",)),
    Sampler(("Heun", "heun"), ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")),
    Sampler(("LMS", "lms"), ("LMSDiscreteScheduler",)),
    Sampler(("DDIM", "ddim"), ("DDIMScheduler",)),
    Sampler(("DDPM", "ddpm"), ("DDPMScheduler",)),
    Sampler(("PLMS",), ("PNDMScheduler",), {"skip_prk_steps": True}),
    Sampler(("DEIS", "deis"), ("DEISMultistepScheduler",)),
    Sampler(("UniPC", "uni_pc"), ("UniPCMultistepScheduler",), _BH1),
    Sampler(("uni_pc_bh2",), ("UniPCMultistepScheduler",), {"solver_type": "bh2"}),
    Sampler(("LCM", "lcm"), ("LCMScheduler",)),
    Sampler(("TCD",), ("TCDScheduler",)),
)

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "Beta": {"timestep_spacing": "linspace", "use_beta_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
    "Normal": {"timestep_spacing": "linspace"},
}
"""Noise schedules by the WebUI's names; ComfyUI's are the same in small letters."""

CLASSES = (*noise_schedulers.KARRAS, *noise_schedulers.DISTILLED, *noise_schedulers.FLOW)
"""Schedulers by diffusers' own names."""


def _plain(name: str) -> str:
    """A name without what people write differently: `DPM++ 2M Karras` and `dpmpp_2m_karras` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))


_SAMPLERS = {_plain(name): sampler for sampler in SAMPLERS for name in sampler.names}
_SCHEDULES: dict[str, Mapping[str, Any]] = {"": {}} | {_plain(name): options for name, options in SCHEDULES.items()}


def find(name: str) -> Sampler | None:
    """The sampler of a name, with its schedule among the options; None for names that are not in the tables."""
    plain = _plain(name)
    for word, options in _SCHEDULES.items():
        if plain.endswith(word) and (sampler := _SAMPLERS.get(plain.removesuffix(word))):
            return sampler._replace(options={**sampler.options, **options})
    return None


def read(name: str | None, kind: Sequence[str], family: str) -> tuple[str | None, dict[str, Any]]:
    """The class and the options that a name stands for, for models of a family.

    Args:
        name: A class name of diffusers, or one of the tables; None for the model's own.
        kind: The classes that the family can use.

    Raises:
        ValueError: There is no scheduler of that name, or the family cannot use it.
    """
    if name is None:
        return None, {}
    sampler = None if name in CLASSES else find(name)
    if sampler is None:
        taken = [one for one in SUGGESTED if (known := find(one)) and not set(known.classes).isdisjoint(kind)]
        noise_schedulers.check_name(name, kind, family, taken)
        return name, {}
    cls = next((one for one in sampler.classes if one in kind), sampler.classes[0])
    noise_schedulers.check_name(cls, kind, family)
    options = _options_of(cls, sampler)
    if any(one in noise_schedulers.FLOW for one in kind) and _BH1.items() <= options.items():
        options |= _BH1_OF_FLOWS
    return cls, options


def _options_of(cls: str, sampler: Sampler) -> dict[str, Any]:
    """The sampler's options for one of its classes: the spacing of flow matching is the pipeline's."""
    flows = cls in noise_schedulers.FLOW
    return {name: value for name, value in sampler.options.items() if not (flows and name == "timestep_spacing")}


SUGGESTED = (*CLASSES, *(sampler.names[0] for sampler in SAMPLERS), *(f"{s.names[0]} Karras" for s in SAMPLERS[:3]))
"""Names to suggest for one that is unknown."""


def problems(inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a node's scheduler and its options, as far as it is known without the model.

    Args:
        inputs: Those of `scheduler`, `scheduler_options` and `timestep_spacing` that are written in the graph.
    """
    name, options = inputs.get("scheduler"), inputs.get("scheduler_options") or {}
    sampler = None if name in CLASSES or name is None else find(name)
    if name is not None and sampler is None and name not in CLASSES:
        yield f"there is no scheduler {name!r:.60}; {advice(name)}"
        return
    if "timestep_spacing" in options and inputs.get("timestep_spacing") is not None:
        yield "timestep_spacing is given twice, by itself and in scheduler_options; leave one out"
    both = [one for one in scheduler_options.OWN_TIMES if one in options and one in (inputs.get("arguments") or {})]
    if both:
        yield f"{both[0]} are given twice, in arguments and in scheduler_options; leave one out"
    classes: Sequence[str] = CLASSES if name is None else (name,) if sampler is None else sampler.classes
    found = []
    for cls in classes:
        of_name = {} if sampler is None else _options_of(cls, sampler)
        found.append(list(scheduler_options.problems(cls, {**of_name, **options})))
    if name is None:  # the model's own: known are only options that no scheduler takes
        yield from scheduler_options.contradictions(options)
        for option, value in options.items():
            if all(list(scheduler_options.problems(cls, {option: value})) for cls in CLASSES):
                yield next(scheduler_options.refusals(option, value), f"no scheduler takes {option} {value!r:.40}")
    elif all(found):
        yield from found[0]


def advice(name: str) -> str:
    """What to write in place of an unknown name."""
    near = nearest(name, SUGGESTED)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "take a class name of diffusers, or a sampler of the WebUI or ComfyUI such as DPM++ 2M Karras"


# --- names for other tools --------------------------------------------------------------------------------------------

_DEFAULTS: Mapping[str, Any] = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "bh2"}
"""What diffusers' classes take where a configuration does not say it."""

_BY_FLAG = {"use_karras_sigmas": "Karras", "use_exponential_sigmas": "Exponential", "use_beta_sigmas": "Beta"}


def webui_names(name: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The WebUI's name of a sampler and of its noise schedule; the class's name, shortened, where it has none.

    Args:
        name: As a node takes it: a class name of diffusers, or a name of the tables.
        options: The scheduler's options that the node was given.
        config: The model's own configuration of a scheduler, over which the options stand.

    Returns:
        The names; the schedule's is None where it is the sampler's ordinary one.
    """
    sampler = None if name in CLASSES else find(name)
    given = {**(sampler.options if sampler else {}), **options}
    whole = {**_DEFAULTS, **config, **given}
    schedule = next((title for flag, title in _BY_FLAG.items() if whole.get(flag)), None)
    if schedule is None:
        schedule = _schedule_of(name) if sampler else None
    if schedule is None and given.get("timestep_spacing") == "trailing":
        schedule = "SGM Uniform"
    if sampler is None:
        of_class = [one for one in SAMPLERS if name in one.classes]
        sampler = next((one for one in of_class if all(whole.get(n) == v for n, v in one.options.items())), None)
    return sampler.names[0] if sampler else name.removesuffix("Scheduler"), schedule


def _schedule_of(name: str) -> str | None:
    """The noise schedule that stands behind a sampler in its name."""
    plain = _plain(name)
    return next((title for title in SCHEDULES if plain.endswith(_plain(title)) and plain not in _SAMPLERS), None)
