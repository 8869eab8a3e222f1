"""ComfyUI's samplers by name: which are computed as there, which by something near, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from graphengine import nearest
from graphengine_comfy.sampling import noisy_solvers, solvers

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


class Noise(StrEnum):
    """Which noise a sampler draws between the steps."""

    INDEPENDENT = "independent"
    """A draw of a generator for each time it asks."""
    PATH = "path"
    """Increments of a Brownian path over sigma, whose tree is on the CPU."""
    PATH_ON_DEVICE = "path on device"
    """The same with the tree where the latents are: ComfyUI's names that end in `_gpu`."""


@dataclass(frozen=True)
class Sampler:
    """A sampler of ComfyUI's.

    Attributes:
        name: ComfyUI's.
        meaning: How near it comes.
        solver: What computes it; None if it is refused.
        note: A sentence that says what differs; empty if nothing does.
        no_flow: A sentence that says why it is refused for flow matching; empty if it is not.
        noise: Which noise it draws between the steps, if any.
    """

    name: str
    meaning: Meaning
    solver: Solver | None
    note: str = ""
    no_flow: str = ""
    noise: Noise = Noise.INDEPENDENT

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


def _near(name: str, solver: Solver, note: str = "", noise: Noise = Noise.INDEPENDENT) -> Sampler:
    return Sampler(name, Meaning.NEAREST, solver, note or _PUBLISHED, "", noise)


def _refused(name: str, note: str) -> Sampler:
    return Sampler(name, Meaning.REFUSED, None, note)


_UNCONDITIONAL = "it needs what the model makes without the prompt, which diffusers' pipelines do not hand out; take {}"
_PUBLISHED = "computed as published, not compared with numbers of ComfyUI"
_NO_PAPER = "there is no paper of it; computed as it is known, not compared with numbers of ComfyUI"
_ADAPTIVE = "it asks the model as often as a picture needs, which diffusers' pipelines must know before; take dpmpp_2m"
_ADAMS = "its stochastic Adams steps are not computed yet; take dpmpp_2m_sde"

_ALL = (
    _exact("euler", solvers.euler),
    _refused("euler_cfg_pp", _UNCONDITIONAL.format("euler")),
    _exact("euler_ancestral", noisy_solvers.euler_ancestral),
    _refused("euler_ancestral_cfg_pp", _UNCONDITIONAL.format("euler_ancestral")),
    _exact("heun", solvers.heun),
    _near("heunpp2", solvers.heunpp2, _NO_PAPER),
    _exact("dpm_2", solvers.dpm_2),
    _near("dpm_2_ancestral", noisy_solvers.dpm_2_ancestral),
    _exact("lms", solvers.lms),
    _near("dpm_fast", solvers.dpm_fast),
    _refused("dpm_adaptive", _ADAPTIVE),
    _exact("dpmpp_2s_ancestral", noisy_solvers.dpmpp_2s_ancestral),
    _refused("dpmpp_2s_ancestral_cfg_pp", _UNCONDITIONAL.format("dpmpp_2s_ancestral")),
    _near("dpmpp_sde", noisy_solvers.dpmpp_sde, noise=Noise.PATH),
    _near("dpmpp_sde_gpu", noisy_solvers.dpmpp_sde, noise=Noise.PATH_ON_DEVICE),
    _exact("dpmpp_2m", solvers.dpmpp_2m),
    _refused("dpmpp_2m_cfg_pp", _UNCONDITIONAL.format("dpmpp_2m")),
    _near("dpmpp_2m_sde", noisy_solvers.dpmpp_2m_sde, noise=Noise.PATH),
    _near("dpmpp_2m_sde_gpu", noisy_solvers.dpmpp_2m_sde, noise=Noise.PATH_ON_DEVICE),
    _near("dpmpp_2m_sde_heun", noisy_solvers.dpmpp_2m_sde_heun, noise=Noise.PATH),
    _near("dpmpp_2m_sde_heun_gpu", noisy_solvers.dpmpp_2m_sde_heun, noise=Noise.PATH_ON_DEVICE),
    _near("dpmpp_3m_sde", noisy_solvers.dpmpp_3m_sde, noise=Noise.PATH),
    _near("dpmpp_3m_sde_gpu", noisy_solvers.dpmpp_3m_sde, noise=Noise.PATH_ON_DEVICE),
    _exact("ddpm", noisy_solvers.euler_ancestral, "its steps are for models that predict noise; take euler_ancestral"),
    _exact("lcm", noisy_solvers.lcm),
    _exact("ipndm", solvers.ipndm),
    _near("ipndm_v", solvers.lms, "computed as lms, which weighs uneven steps exactly where ipndm_v approximates"),
    _exact("deis", solvers.deis),
    _exact("res_multistep", solvers.res_multistep),
    _refused("res_multistep_cfg_pp", _UNCONDITIONAL.format("res_multistep")),
    _near("res_multistep_ancestral", noisy_solvers.res_multistep_ancestral),
    _refused("res_multistep_ancestral_cfg_pp", _UNCONDITIONAL.format("res_multistep_ancestral")),
    _near("gradient_estimation", solvers.gradient_estimation),
    _refused("gradient_estimation_cfg_pp", _UNCONDITIONAL.format("gradient_estimation")),
    _near("er_sde", noisy_solvers.er_sde),
    _near("seeds_2", noisy_solvers.seeds_2),
    _near("seeds_3", noisy_solvers.seeds_3),
    _refused("sa_solver", _ADAMS),
    _refused("sa_solver_pece", _ADAMS),
    _exact("ddim", solvers.euler),
    _near("uni_pc", solvers.uni_pc),
    _near("uni_pc_bh2", solvers.uni_pc_bh2),
)

SAMPLERS: Mapping[str, Sampler] = {sampler.name: sampler for sampler in _ALL}
"""ComfyUI's samplers by name, in its order."""
