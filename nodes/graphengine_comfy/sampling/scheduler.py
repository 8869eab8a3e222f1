"""A scheduler in diffusers' form that runs a sampler over a table of sigmas, for diffusers' own pipelines.

Importing this module imports torch and diffusers; import it where a picture is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

from graphengine_comfy.sampling.model_sampling import ModelSampling
from graphengine_comfy.sampling.noise import check_seed
from graphengine_comfy.sampling.samplers import Noise, Sampler, sampler_named
from graphengine_comfy.sampling.solvers import Solver, Steps, Surroundings


class SigmaScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A sampler of ComfyUI's over a table of sigmas, made for one call of a pipeline.

    Whatever steps, timesteps, sigmas or `mu` a pipeline sets, it keeps to its own table: give pipelines the number of
    steps `steps`, and image-to-image pipelines `strength=1.0`, as the table is the part that `denoise` has left. A
    pipeline's step is one call of the model, of which samplers of second order make two for a step of the table;
    `timesteps` lists them all and `order` is 1.

    The state is float32, as in ComfyUI, whatever the latents that a pipeline carries from call to call.

    Attributes:
        timesteps: What the model is given at each call, float32.
        sigmas: The table.
        calls: The sigma of each call.
        denoised: The latest estimate of the picture's latent, for previews; None before the first step.
    """

    order = 1
    init_noise_sigma: float

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, sampler: str = "", num_train_timesteps: int = 1000, steps_offset: int = 1, clip_sample: bool = False
    ) -> None:
        """Only `sigma_scheduler` makes it; the arguments are what pipelines read of a scheduler's configuration."""

    def prepare(
        self,
        solver: Solver,
        table: Sequence[float],
        model: ModelSampling,
        draws: Draws,
        keep: Keep | None,
        change: Change | None = None,
    ) -> SigmaScheduler:
        """Take the sampler, the table, the model's noise levels, how noise in between is drawn, what a mask keeps and
        how estimates of the picture are changed."""
        self._solver, self._table, self._model, self._draws, self._keep = solver, list(table), model, draws, keep
        self._change = change
        self.calls = _calls(solver, table, _around(_no_noise, model))
        self.sigmas = torch.tensor(self._table, dtype=torch.float32)
        self.init_noise_sigma = model.begin_scale(self._table[0])
        self.set_timesteps()
        return self

    @property
    def steps(self) -> int:
        """Number of steps of the table."""
        return len(self._table) - 1

    # --- what pipelines call -----------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Begin again. The table stays, whatever a pipeline wishes; only the device is taken."""
        self.timesteps = torch.tensor([self._model.timestep(sigma) for sigma in self.calls], dtype=torch.float32)
        self.timesteps = self.timesteps.to(device or "cpu")
        self.num_inference_steps = len(self.calls)
        self.denoised: torch.Tensor | None = None
        self._index = 0
        self._under_way: Steps | None = None
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Take the call to begin at, which is the first one.

        Raises:
            ValueError: A pipeline cuts the table: it was given a `strength` below 1.
        """
        if begin_index:
            raise ValueError("a pipeline leaves out the first steps of a table of sigmas: give it strength=1.0")

    def set_shift(self, shift: float) -> None:
        """Take a flow's shift, which the table has already."""

    @property
    def step_index(self) -> int:
        """The number of the next call."""
        return self._index

    @property
    def begin_index(self) -> int:
        """The number of the first call."""
        return 0

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """A noisy latent as the model takes it."""
        return self._model.model_input(self._first(sample), self.calls[self._index])

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: Any) -> torch.Tensor:
        """Add noise to a latent, of the sigma at a timestep; at the first one what sampling begins at."""
        index = self._call_at(timesteps)
        noisy = self._model.begin if index == 0 else self._model.noisy
        return noisy(original_samples, noise, self.calls[index]).to(original_samples.dtype)

    def scale_noise(self, sample: torch.Tensor, timestep: Any, noise: torch.Tensor) -> torch.Tensor:
        """Add noise to a latent, as `add_noise` does; pipelines of flow matching call it so."""
        return self.add_noise(sample, noise, timestep)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Go on from a call of the model to the next.

        Args:
            model_output: What the model predicts.
            timestep: That of the call, which is the next of `timesteps`.
            sample: The noisy latent, not scaled.
            generator: Not drawn from: noise in between comes from the scheduler's own seed.
            return_dict: Whether to return diffusers' output object instead of a tuple.

        Raises:
            ValueError: It is called out of order, or more often than there are timesteps.
        """
        index = self._index
        if index >= len(self.calls):
            raise ValueError(f"the sampler is done after {len(self.calls)} calls of the model")
        if abs(float(timestep) - float(self.timesteps[index])) > 1e-2 + 1e-2 * abs(float(timestep)):
            expected = float(self.timesteps[index])
            raise ValueError(f"call {index} of the model is at timestep {expected:g}, not {float(timestep):g}")
        sigma = self.calls[index]
        x, given = self._state(sample)
        self.denoised = self._model.denoised(model_output.float(), given, sigma)
        if self._change is not None:
            self.denoised = self._change(self.denoised, given, sigma)
        if self._keep is not None:
            self.denoised = self._keep.denoised(self.denoised, sigma)
        if self._under_way is None:
            self._under_way = self._begin(x)
        self._index = index + 1
        try:
            x, sigma = self._under_way.send((x, self.denoised))
        except StopIteration as done:
            x = given = done.value
        else:
            given = x if self._keep is None else self._keep.noisy(x, sigma, self._model)
        result = given.to(sample.dtype)
        self._last = x, given, result
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, x: torch.Tensor) -> Steps:
        """Start the sampler at a latent."""
        under_way = self._solver(x, self._table, _around(self._draws.beside(x, self._table), self._model))
        next(under_way)
        return under_way

    def _state(self, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sampler's latent and the one that the model was given, both float32: what was returned before it was
        rounded
        for the pipeline, if the pipeline has not changed it since."""
        if self._last is not None and torch.equal(self._last[2], sample):
            return self._last[0], self._last[1]
        x = sample.float()
        return x, self._first(x)

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        """The noisy latent for a call: at the first one what is kept is not put in yet."""
        if self._keep is None or self._index:
            return x
        return self._keep.noisy(x, self.calls[0], self._model)

    def _call_at(self, timesteps: Any) -> int:
        """The call at a timestep, the coming one first: equal timesteps may stand for several sigmas."""
        value = float(torch.as_tensor(timesteps).flatten()[0])
        near = (self.timesteps.cpu() - value).abs()
        if self._index < len(self.calls) and near[self._index] < 1e-3:
            return self._index
        index = int(near.argmin())
        if near[index] > 1e-2 + 1e-2 * abs(value):
            raise ValueError(f"there is no call of the model at timestep {value:g}")
        return index


Change = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Changes the estimate of a picture that guidance has made, before a mask keeps anything of it; takes the estimate, the
noisy latent that the model was given, and the sigma."""


@dataclass(frozen=True)
class NoiseForm:
    """How noise is drawn where a pipeline carries latents in another form than ComfyUI (FLUX packs them).

    Attributes:
        shape: Of the latents in ComfyUI, in which noise is drawn: `(batch, channels, height, width)`.
        pack: Brings them into the pipeline's form.
    """

    shape: tuple[int, ...]
    pack: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Draws:
    """Noise that samplers draw between the steps, on the latent's device but for a tree on the CPU.

    On the CPU the seed of independent noise counts one further, as in ComfyUI since 0.3.65 or so: it would be the noise
    that sampling began at. GPUs draw other numbers for a seed than CPUs.

    Attributes:
        seed: Where the generator begins.
        kind: Independent noise, or that of a Brownian path, from a tree on the CPU or on the latent's device.
        form: How it is drawn where the pipeline's form of latents is another.
    """

    seed: int
    kind: Noise = Noise.INDEPENDENT
    form: NoiseForm | None = None

    def beside(self, x: torch.Tensor, table: Sequence[float]) -> Callable[[float, float], torch.Tensor]:
        """Noise in the form of a latent, for the way from one sigma of a table to another."""
        shape = x.shape if self.form is None else self.form.shape
        path = self._independent(shape, x) if self.kind is Noise.INDEPENDENT else self._path(shape, x, table)

        def noise(sigma: float, following: float) -> torch.Tensor:
            drawn = path(sigma, following)
            return (drawn if self.form is None else self.form.pack(drawn)).to(x)

        return noise

    def _independent(self, shape: Sequence[int], x: torch.Tensor) -> Callable[[float, float], torch.Tensor]:
        seed = (self.seed + (x.device.type == "cpu")) % 2**64
        generator = torch.Generator(x.device).manual_seed(seed)
        return lambda sigma, following: torch.randn(tuple(shape), generator=generator, device=x.device)

    def _path(
        self, shape: Sequence[int], x: torch.Tensor, table: Sequence[float]
    ) -> Callable[[float, float], torch.Tensor]:
        """Increments of a Brownian path over sigma, of variance 1: the same for a way however it is divided."""
        import torchsde

        where = "cpu" if self.kind is Noise.PATH else x.device
        ends = [torch.tensor(end) for end in (min(one for one in table if one > 0), max(table))]
        tree = torchsde.BrownianTree(ends[0], torch.zeros(tuple(shape), device=where), ends[1], entropy=self.seed)
        low, high = (round(float(end), 6) for end in ends)  # as the tree rounds them, which warns of what is beyond

        def increment(sigma: float, following: float) -> torch.Tensor:
            begin, end = (min(max(one, low), high) for one in (following, sigma))
            drawn: torch.Tensor = tree(begin, end) / math.sqrt(sigma - following)
            return drawn

        return increment


class Keep:
    """What a mask keeps while the rest is sampled, as ComfyUI does with a latent's noise mask.

    Before each call of the model the kept latent with the first noise is put where the mask is 0, and what the model
    makes of these places is replaced by the kept latent.

    Attributes:
        latent: The latent that is kept, float32, in the form in which the pipeline carries latents.
        noise: The noise that sampling began with, in the same form.
        mask: 1 where pictures change, 0 where they are kept; as wide and high as the latent, in the same form.
        mask_at: The mask at a sigma, where it changes with it; by default `mask` throughout.
    """

    def __init__(
        self,
        latent: torch.Tensor,
        noise: torch.Tensor,
        mask: torch.Tensor,
        mask_at: Callable[[torch.Tensor, float], torch.Tensor] = lambda mask, sigma: mask,
    ) -> None:
        self.latent, self.noise, self.mask, self.mask_at = latent, noise, mask, mask_at

    def noisy(self, x: torch.Tensor, sigma: float, model: ModelSampling) -> torch.Tensor:
        """A noisy latent for the model, with the kept one where the mask is 0."""
        return self._blend(x, model.noisy(self.latent, self.noise, sigma), sigma)

    def denoised(self, denoised: torch.Tensor, sigma: float) -> torch.Tensor:
        """What the model made, with the kept latent where the mask is 0."""
        return self._blend(denoised, self.latent, sigma)

    def _blend(self, x: torch.Tensor, kept: torch.Tensor, sigma: float) -> torch.Tensor:
        mask, kept = (_repeated(one.to(x), x.shape[0]) for one in (self.mask_at(self.mask, sigma), kept))
        return x * mask + kept * (1 - mask)


def _repeated(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """A batch as often as it fits: pipelines double theirs for guidance."""
    return tensor.repeat(batch // tensor.shape[0], *(1 for _ in tensor.shape[1:]))


def sigma_scheduler(
    sampler: str | Sampler,
    sigmas: Sequence[float] | torch.Tensor,
    model: ModelSampling,
    seed: int = 0,
    keep: Keep | None = None,
    form: NoiseForm | None = None,
    change: Change | None = None,
) -> SigmaScheduler:
    """Make the scheduler that runs a sampler over a table of sigmas.

    Args:
        sampler: ComfyUI's name of it.
        sigmas: The table, from noise to picture, at least two; each below the one before.
        model: The noise levels of the model, which say what it predicts.
        seed: Of the noise that some samplers draw between the steps; ComfyUI takes that of the first noise.
        keep: What a mask keeps.
        form: How noise is drawn where the pipeline carries latents in another form; by default that of its latents.
        change: Changes each estimate of the picture; None: it stays.

    Raises:
        ValueError: There is no such sampler, or it is refused for this model; the table is none.
    """
    chosen = sampler_named(sampler) if isinstance(sampler, str) else sampler
    check_seed(seed)
    table = [float(sigma) for sigma in sigmas]
    if len(table) < 2 or not all(before > after >= 0 for before, after in itertools.pairwise(table)):
        raise ValueError("a table of sigmas has at least two, each below the one before and none below 0")
    scheduler: SigmaScheduler = SigmaScheduler(sampler=chosen.name)
    return scheduler.prepare(chosen.solver_for(model), table, model, Draws(seed, chosen.noise, form), keep, change)


def called_sigmas(solver: Solver, table: Sequence[float], flow: bool) -> list[float]:
    """The sigmas at which a sampler asks the model."""
    return _calls(solver, table, Surroundings(_no_noise, flow))


def _calls(solver: Solver, table: Sequence[float], around: Surroundings) -> list[float]:
    """The sigmas at which a sampler asks the model, found by running it over nothing."""
    nothing = torch.zeros(1)
    under_way = solver(nothing, list(table), around)
    found: list[float] = []
    try:
        x, sigma = next(under_way)
        while True:
            found.append(sigma)
            x, sigma = under_way.send((x, nothing))
    except StopIteration:
        return found


def _no_noise(sigma: float, following: float) -> torch.Tensor:
    return torch.zeros(1)


def _around(noise: Callable[[float, float], torch.Tensor], model: ModelSampling) -> Surroundings:
    return Surroundings(noise, model.flow, model.sigma_at_percent(0.0001) if model.flow else 1.0)
