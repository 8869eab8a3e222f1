"""Sampling a part of a schedule: `sample(start=, end=)`, for samplers that remember nothing from step to step.

Fractions are those of diffusers' `denoising_end` and `denoising_start`: of the training timesteps, whatever their
spacing. The second part makes its generators from the seeds and draws away what the first part drew, so that both
parts together are the whole run to the bit.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import sampler_names
from graphengine_nodes.families.arguments import repeat
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.repainting import Layout
from graphengine_nodes.values.types import Latent

if TYPE_CHECKING:
    import torch

CAN_BE_CUT = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
"""The schedulers whose steps need nothing but the latents and the generator."""


def problems(inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a start and an end, as far as it is known without the model.

    Args:
        inputs: Those of a sampler that are written in the graph.
    """
    start, end, name = inputs.get("start"), inputs.get("end"), inputs.get("scheduler")
    if not start and end in (None, 1):
        return
    if isinstance(start, (int, float)) and isinstance(end, (int, float)) and start >= end:
        yield f"start is {start:g}, but must be below end, {end:g}"
    if start and inputs.get("strength") is not None:
        yield "strength says how much of a picture is replaced, start how far a latent is; leave one out"
    if isinstance(name, str):
        sampler = None if name in sampler_names.CLASSES else sampler_names.find(name)
        classes = (name,) if sampler is None else sampler.classes
        if name in sampler_names.CLASSES or sampler:
            yield from _cannot(classes[0]) if not set(classes) & set(CAN_BE_CUT) else ()


def _cannot(scheduler: str) -> Iterator[str]:
    yield f"{scheduler} cannot be cut by start and end; take one of {', '.join(CAN_BE_CUT)}"


def check_latent(latent: Any, start: float | None) -> None:
    """Refuse a latent that is not as far as a start says.

    Raises:
        ValueError: It is so.
    """
    if start:
        if not isinstance(latent, Latent) or latent.empty:
            raise ValueError("start is for a latent that sample(end=...) left unfinished; link one to latent")
        if latent.done not in (1.0, start):
            raise ValueError(f"this latent is done to {latent.done:g} of its schedule; give start={latent.done:g}")
    elif isinstance(latent, Latent) and latent.done < 1:
        raise ValueError(f"this latent is unfinished; go on with start={latent.done:g}, or leave end out before")


class Cut:
    """Makes a pipeline that is about to run do a part of its schedule.

    Args:
        pipeline: Made for one call, and changed here, with its scheduler.
        generators: What it draws from.
        pack: To the pipeline's own layout of latents from [n, C, h, w].

    Attributes:
        whole, first: The number of timesteps of the whole schedule, and of those left out at the beginning; known when
            the pipeline has set them.
        reached: Where the run ends, as `Latent.reached`; None at the end of the schedule.

    Raises:
        ValueError: The scheduler cannot be cut.
    """

    def __init__(self, pipeline: Any, request: SampleRequest, generators: Any, pack: Layout) -> None:
        self.request, self.generators, self.pack = request, generators, pack
        self.whole = self.first = 0
        self.reached: tuple[str, float, float] | None = None
        scheduler = pipeline.scheduler
        name = type(scheduler).__name__
        for sentence in _cannot(name) if name not in CAN_BE_CUT else ():
            raise ValueError(sentence)
        own = {"timesteps", "sigmas"} & request.options.arguments.keys()
        if request.starts_from and (own or name.startswith("FlowMatch")):
            raise ValueError("a run that starts from a picture with these timesteps cannot be cut; leave end out")
        self._draws = _Draws(request, generators)
        self._cut_steps(scheduler)
        self._pipeline = weakref.ref(pipeline)
        pipeline.prepare_latents = self.prepare_latents

    # --- the schedule -------------------------------------------------------------------------------------------------

    def _cut_steps(self, scheduler: Any) -> None:
        """Show the pipeline a part of the timesteps; the scheduler's own methods see all of them."""
        set_timesteps = scheduler.set_timesteps

        @functools.wraps(set_timesteps)
        def cut(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            times = scheduler.timesteps
            self.whole, self.first = len(times), self._done(times, scheduler, self.request.options.start)
            last = self._done(times, scheduler, self.request.options.end, len(times))
            left = last - max(self.first, self._skipped())
            if left < 1:
                raise ValueError(f"start and end leave no step of {len(times)}; give more steps, or a larger part")
            self._check_reached(scheduler)
            self.reached = _place(scheduler, last) if last < len(times) else None
            shown = times[self.first : last]
            for name in ("step", "scale_model_input", "add_noise"):
                if hasattr(scheduler, name):
                    setattr(scheduler, name, _seeing(scheduler, getattr(type(scheduler), name), times, shown))
            if hasattr(scheduler, "set_begin_index"):
                begin = type(scheduler).set_begin_index
                scheduler.set_begin_index = lambda index=0: begin(scheduler, self.first + index)
            scheduler.timesteps = shown

        scheduler.set_timesteps = cut

    @staticmethod
    def _done(times: torch.Tensor, scheduler: Any, part: float | None, otherwise: int = 0) -> int:
        """How many timesteps there are before a fraction of the schedule, as diffusers counts for `denoising_end`."""
        if not part:
            return otherwise
        trained = scheduler.config.num_train_timesteps
        return int((times >= round(trained - part * trained)).sum())

    def _check_reached(self, scheduler: Any) -> None:
        """Refuse to go on with a latent at another place than it is at: its noise is not what the next step expects.

        Raises:
            ValueError: It is so.
        """
        latent = self.request.latent
        if not self.request.options.start or not isinstance(latent, Latent) or latent.reached is None:
            return
        name, *numbers = latent.reached
        own, *others = _place(scheduler, self.first)
        if own != name:
            raise ValueError(f"this latent was begun with {name} and cannot go on with {own}; give {name}")
        if not all(math.isclose(one, other, rel_tol=1e-4) for one, other in zip(numbers, others, strict=True)):
            raise ValueError(
                f"this latent goes on at timestep {numbers[0]:g} with noise of {numbers[1]:.4g}, but this run would at "
                f"{others[0]:g} with {others[1]:.4g}; give the same steps and options of {name} to both"
            )

    def _skipped(self) -> int:
        """How many timesteps image to image leaves out at the beginning."""
        options = self.request.options
        if self.request.starts_from != "Img2Img" or options.strength is None:
            return 0
        return options.steps - min(int(options.steps * options.strength), options.steps)

    # --- the latents --------------------------------------------------------------------------------------------------

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the pipeline's method: of a run that goes on, the latents as they stand."""
        pipeline: Any = self._pipeline()
        prepared = type(pipeline).prepare_latents(pipeline, *args, **kwargs)
        self._draws.look()
        if not self.request.options.start:
            return prepared
        latents, *others = prepared if isinstance(prepared, tuple) else (prepared,)
        latent = self.request.latent
        assert isinstance(latent, Latent)
        ours = self.pack(repeat(latent.samples, len(self.request.seeds)).to(latents))
        self._draws.draw_away(latent.drawn, ours)
        return (ours, *others) if isinstance(prepared, tuple) else ours

    def after_step(self) -> None:
        """Note what a step drew."""
        self._draws.look()

    @property
    def drawn(self) -> int:
        """How often each generator was drawn from, from the beginning of the schedule on."""
        return self._draws.count


def _place(scheduler: Any, index: int) -> tuple[str, float, float]:
    """A place in a schedule, as `Latent.reached`: its noise is the sigma or, of schedulers without, the signal left."""
    time = float(scheduler.timesteps[index])
    known = getattr(scheduler, "sigmas", None)
    noise = scheduler.alphas_cumprod[int(time)] if known is None else known[index]
    return type(scheduler).__name__, time, float(noise)


class _Draws:
    """Counts draws from generators, each for a whole latent."""

    def __init__(self, request: SampleRequest, generators: Any) -> None:
        self.random, self.generators, self.count = request.random, generators, 0
        fresh = request.generators()
        self._one: Callable[[], Any] = lambda: generators[0] if isinstance(generators, list) else generators
        self._state = (fresh[0] if isinstance(fresh, list) else fresh).get_state()
        self.look()  # the start of image to image has been drawn already

    def look(self) -> None:
        """Count a draw if there was one since the last look."""
        state = self._one().get_state()
        self.count += int(not bool((state == self._state).all()))
        self._state = state

    def draw_away(self, count: int, like: torch.Tensor) -> None:
        """Draw until there were so many draws; callers' generators go on from where they are."""
        from diffusers.utils.torch_utils import randn_tensor

        if self.random:
            several = isinstance(self.generators, list)
            for state, generator in zip(self.random, self.generators if several else [self.generators], strict=False):
                state.restore(generator)
        else:
            for _ in range(count - self.count):
                randn_tensor(like.shape, generator=self.generators, device=like.device, dtype=like.dtype)
        self.count = max(count, self.count)
        self._state = self._one().get_state()


def _seeing(scheduler: Any, method: Callable[..., Any], times: Any, shown: Any) -> Callable[..., Any]:
    """A scheduler's method that sees all timesteps while it runs."""

    @functools.wraps(functools.partial(method, scheduler), assigned=())
    def whole(*args: Any, **kwargs: Any) -> Any:
        scheduler.timesteps = times
        try:
            return method(scheduler, *args, **kwargs)
        finally:
            scheduler.timesteps = shown

    whole.__wrapped__ = functools.partial(method, scheduler)
    return whole
