"""ComfyUI's samplers by name: which are computed as there, which by something near, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from graphengine import nearest
from graphengine_comfy.sampling import solvers

if TYPE_CHECKING:
    from graphengine_comfy.sampling.model_sampling import ModelSampling
    from graphengine_comfy.sampling.solvers import Solver


class Meaning(StrEnum):
    """How near a sampler comes to ComfyUI's of the name."""

    EXACT = "exact"
    """The same to 1e-3, compared with numbers that ComfyUI computed."""
    NEAREST = "nearest"
    """The published method, or one near it; pictures may differ, and `Sampler.note` says why."""
    REFUSED = "refused"
    """Not computed; `Sampler.note` says why and what to take."""


@dataclass(frozen=True)
class Sampler:
    """A sampler of ComfyUI's.

    Attributes:
        name: ComfyUI's.
        meaning: How near it comes.
        solver: What computes it; None if it is refused.
        note: A sentence that says what differs; empty if nothing does.
        no_flow: A sentence that says why it is refused for flow matching; empty if it is not.
    """

    name: str
    meaning: Meaning
    solver: Solver | None
    note: str = ""
    no_flow: str = ""

    def solver_for(self, model: ModelSampling) -> Solver:
        """What computes it for a model.

        Raises:
            ValueError: It is refused.
        """
        if self.solver is None:
            raise ValueError(f"the sampler {self.name} is not computed here: {self.note}")
        if model.flow and self.no_flow:
            raise ValueError(f"the sampler {self.name} is not computed for flow matching: {self.no_flow}")
        return self.solver


def sampler_named(name: str) -> Sampler:
    """The sampler of a name, refused ones too.

    Raises:
        ValueError: There is none of it; the nearest are named.
    """
    if name not in SAMPLERS:
        near = nearest(name, dict.fromkeys(SAMPLERS))
        advice = f"did you mean {' or '.join(near)}?" if near else "the guide lists them"
        raise ValueError(f"there is no sampler {name!r}; {advice}")
    return SAMPLERS[name]


def _exact(name: str, solver: Solver, no_flow: str = "") -> Sampler:
    return Sampler(name, Meaning.EXACT, solver, "", no_flow)


def _near(name: str, solver: Solver, note: str, no_flow: str = "") -> Sampler:
    return Sampler(name, Meaning.NEAREST, solver, note, no_flow)


def _refused(name: str, note: str) -> Sampler:
    return Sampler(name, Meaning.REFUSED, None, note)


_UNCONDITIONAL = "it needs what the model makes without the prompt, which diffusers' pipelines do not hand out; take {}"
_PUBLISHED = "computed as published; there were no numbers of ComfyUI's to compare it with"
_NOT_YET = "no published method was followed yet; take {}"
_TREE = "noise from a Brownian tree is not drawn yet; take {}"

_ALL = (
    _exact("euler", solvers.euler),
    _refused("euler_cfg_pp", _UNCONDITIONAL.format("euler")),
    _exact("euler_ancestral", solvers.euler_ancestral),
    _refused("euler_ancestral_cfg_pp", _UNCONDITIONAL.format("euler_ancestral")),
    _exact("heun", solvers.heun),
    _refused("heunpp2", _NOT_YET.format("heun")),
    _exact("dpm_2", solvers.dpm_2),
    _near("dpm_2_ancestral", solvers.dpm_2_ancestral, _PUBLISHED),
    _exact("lms", solvers.lms),
    _refused("dpm_fast", _NOT_YET.format("dpmpp_2m")),
    _refused(
        "dpm_adaptive",
        "it asks the model as often as a picture needs, which pipelines of diffusers must know before; take dpmpp_2m",
    ),
    _exact("dpmpp_2s_ancestral", solvers.dpmpp_2s_ancestral),
    _refused("dpmpp_2s_ancestral_cfg_pp", _UNCONDITIONAL.format("dpmpp_2s_ancestral")),
    _refused("dpmpp_sde", _TREE.format("dpmpp_2s_ancestral")),
    _refused("dpmpp_sde_gpu", _TREE.format("dpmpp_2s_ancestral")),
    _exact("dpmpp_2m", solvers.dpmpp_2m),
    _refused("dpmpp_2m_cfg_pp", _UNCONDITIONAL.format("dpmpp_2m")),
    _refused("dpmpp_2m_sde", _TREE.format("dpmpp_2m")),
    _refused("dpmpp_2m_sde_gpu", _TREE.format("dpmpp_2m")),
    _refused("dpmpp_2m_sde_heun", _TREE.format("dpmpp_2m")),
    _refused("dpmpp_2m_sde_heun_gpu", _TREE.format("dpmpp_2m")),
    _refused("dpmpp_3m_sde", _TREE.format("dpmpp_2m")),
    _refused("dpmpp_3m_sde_gpu", _TREE.format("dpmpp_2m")),
    _exact("ddpm", solvers.euler_ancestral, "its steps are for models that predict noise; take euler_ancestral"),
    _exact("lcm", solvers.lcm),
    _exact("ipndm", solvers.ipndm),
    _near("ipndm_v", solvers.lms, "computed as lms, which weighs uneven steps exactly where ipndm_v approximates"),
    _exact("deis", solvers.deis),
    _exact("res_multistep", solvers.res_multistep),
    _refused("res_multistep_cfg_pp", _UNCONDITIONAL.format("res_multistep")),
    _refused("res_multistep_ancestral", _NOT_YET.format("res_multistep or euler_ancestral")),
    _refused("res_multistep_ancestral_cfg_pp", _UNCONDITIONAL.format("euler_ancestral")),
    _refused("gradient_estimation", _NOT_YET.format("euler")),
    _refused("gradient_estimation_cfg_pp", _UNCONDITIONAL.format("euler")),
    _refused("er_sde", _NOT_YET.format("euler_ancestral")),
    _refused("seeds_2", _NOT_YET.format("dpmpp_2s_ancestral")),
    _refused("seeds_3", _NOT_YET.format("dpmpp_2s_ancestral")),
    _refused("sa_solver", _NOT_YET.format("dpmpp_2m")),
    _refused("sa_solver_pece", _NOT_YET.format("dpmpp_2m")),
    _exact("ddim", solvers.euler),
    _refused("uni_pc", _NOT_YET.format("dpmpp_2m")),
    _refused("uni_pc_bh2", _NOT_YET.format("dpmpp_2m")),
)

SAMPLERS: Mapping[str, Sampler] = {sampler.name: sampler for sampler in _ALL}
"""ComfyUI's samplers by name, in its order."""
