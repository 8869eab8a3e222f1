"""Prompts that change while a pipeline runs: stand-ins give its denoiser and its ControlNets each step's prompts."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.cutting import Cut
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.stand_in import stand_in
from graphengine_nodes.values.types import Conditioning

if TYPE_CHECKING:
    import torch

Prompts = Callable[[SampleRequest], dict[str, Any]]
"""Makes a pipeline's arguments that hold the prompts of a request."""


def steered(request: SampleRequest) -> bool:
    """Whether a prompt of a request changes with the steps, or joins several."""
    return any(one.schedule or one.joined for one in (*request.positive, *request.negative))


class Steering:
    """Gives the modules of one pipeline the prompts of each step.

    Args:
        prompts: The family's arguments for a request, on the pipeline's device.

    Raises:
        ValueError: Prompts are joined by AND where that cannot be.
    """

    def __init__(self, request: SampleRequest, prompts: Prompts) -> None:
        self.request, self.prompts = request, prompts
        self.count = len(request.seeds)
        parts = {len(one.joined) or 1 for one in request.positive}
        if len(parts) > 1:
            raise ValueError("prompts that AND joins and others cannot be sampled together; sample one at a time")
        self.parts = parts.pop()
        if self.parts > 1 and request.options.guidance_scale <= 1:
            raise ValueError("AND joins prompts by their guidance; give a guidance_scale above 1")
        if self.parts > 1 and request.control:
            raise ValueError("prompts that AND joins cannot be steered by a ControlNet; leave control or AND out")
        self._made: dict[Any, dict[str, Any]] = {}
        self._cut: Cut | None = None
        self._pipeline: Callable[[], Any] = lambda: None

    def over(self, denoiser: str, components: Mapping[str, Any]) -> dict[str, Any]:
        """The components with stand-ins for the denoiser and the ControlNets."""
        found = dict(components)
        found[denoiser] = stand_in(found[denoiser], _Asked(self, joins=self.parts > 1))
        if (nets := found.get("controlnet")) is not None:
            several = isinstance(nets, list)
            made = [stand_in(net, _Asked(self)) for net in (nets if several else [nets])]
            found["controlnet"] = made if several else made[0]
        return found

    def watch(self, pipeline: Any, cut: Cut | None) -> None:
        """Count the steps of a pipeline that is about to run; of a part, as in the whole schedule."""
        if cut is not None and self.request.starts_from:
            raise ValueError("a run from a picture whose prompt changes cannot be cut; leave end out")
        self._cut = cut
        self._pipeline = weakref.ref(pipeline)  # the pipeline refers to this object: a circle would keep weights alive

    def step_of(self, calls: int) -> tuple[int, int]:
        """The step of a module's call, counted from 0, and how many steps there are.

        Schedulers of second order call twice for a step.
        """
        pipeline = self._pipeline()
        order, cut = pipeline.scheduler.order, self._cut
        first, times = (cut.first, cut.whole) if cut else (0, pipeline.num_timesteps)
        return (first + calls) // order, min(self.request.options.steps, math.ceil(times / order))

    def at(self, step: int, steps: int, part: int = 0) -> dict[str, Any]:
        """The pipeline's prompts at a step: of several that AND joins, one."""

        def now(one: Conditioning) -> Conditioning:
            return (one.joined[part][1] if one.joined else one).at(step, steps)

        request = self.request
        positive, negative = [now(one) for one in request.positive], [now(one) for one in request.negative]
        key = tuple(id(one.embeds) for one in (*positive, *negative))
        if key not in self._made:
            self._made[key] = self.prompts(replace(request, positive=positive, negative=negative))
        return self._made[key]

    def weights(self, part: int, like: torch.Tensor) -> torch.Tensor:
        """The weight of one of the joined prompts, for each picture: [n, 1, 1, 1]."""
        import torch

        rows = [torch.tensor([one.joined[part][0]]) for one in self.request.positive]
        return arguments.expand(rows, self.count).to(like)[:, None, None, None]


@dataclass
class _Asked:
    """Answers a module's calls in one run."""

    steering: Steering
    joins: bool = False
    calls: int = 0

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        steering = self.steering
        step, steps = steering.step_of(self.calls)
        self.calls += 1
        guided = kwargs["encoder_hidden_states"].shape[0] == 2 * steering.count
        found = module(*args, **_told(kwargs, steering.at(step, steps), guided))
        if not self.joins:
            return found
        if not guided:
            raise ValueError("AND joins prompts by their guidance, which this model does without; leave AND out")
        # The guidance of the pipeline is from the negative prompt's noise to what is in place of the positive one's.
        absent, first = found[0].chunk(2)
        toward = (first - absent) * steering.weights(0, first)
        positive_args, positive = _positive(args, steering.count), _positive(kwargs, steering.count)
        for part in range(1, steering.parts):
            told = _told(positive, steering.at(step, steps, part), guided=False)
            toward = toward + (module(*positive_args, **told)[0] - absent) * steering.weights(part, first)
        return (torch.cat([absent, absent + toward]), *found[1:])


def _told(kwargs: Mapping[str, Any], prompts: Mapping[str, Any], guided: bool) -> dict[str, Any]:
    """A call's arguments with other prompts: the negative ones first, where there is guidance."""
    import torch

    def rows(name: str) -> torch.Tensor:
        positive: torch.Tensor = prompts[name]
        return torch.cat([prompts[f"negative_{name}"], positive]) if guided else positive

    # Lists are copied: UNets empty that of an adapter's pictures.
    found = {name: [*value] if isinstance(value, list) else value for name, value in kwargs.items()}
    found["encoder_hidden_states"] = rows("prompt_embeds")
    if "pooled_prompt_embeds" in prompts:
        found["added_cond_kwargs"] = {**kwargs["added_cond_kwargs"], "text_embeds": rows("pooled_prompt_embeds")}
    return found


def _positive(value: Any, count: int) -> Any:
    """The positive half of whatever holds rows for the negative and the positive prompts of so many pictures."""
    if isinstance(value, dict):
        return {name: _positive(one, count) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_positive(one, count) for one in value)
    rows = getattr(value, "shape", ())
    return value[count:] if rows and rows[0] == 2 * count else value
