"""The one body of the families that are records of data: loading, encoding, sampling and decoding by `record.Record`.

The pipelines are diffusers' own. They get prompts as embeddings, and in place of a VAE one without weights that hands
out pictures encoded before (`pipeline_vae`), unless they encode pictures themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from graphengine import Unknown
from graphengine_nodes.families import arguments, noise_schedulers, sampler_names, vae_coding
from graphengine_nodes.families.family import ASKS, Components, Sampled, SampleRequest, Step
from graphengine_nodes.families.flow_prompts import FlowPrompts
from graphengine_nodes.families.flow_requests import (
    check_count,
    check_own_size,
    check_seen,
    class_of,
    missing,
    remedy,
    shown,
)
from graphengine_nodes.families.one_by_one import one_by_one
from graphengine_nodes.families.pipeline_vae import PipelineVAE, private
from graphengine_nodes.families.pipelines import Tokenizer, class_named
from graphengine_nodes.families.record import Shape, Task, Variant, asked
from graphengine_nodes.families.repainting import Layout
from graphengine_nodes.values.types import Image, Latent, Model, Posterior
from graphengine_nodes.values.video import Video
from graphengine_nodes.weights.devices import dtype_of

if TYPE_CHECKING:
    import torch


class Flow(FlowPrompts):
    """A family that is a record; see `graphengine_nodes.families.Family`."""

    def encode_image(self, store: Components, model: Model, image: Image, device: str) -> Posterior:
        """See `Family`."""
        arguments.check_size(*image.size, model)
        latents = self.record.latents
        with store.component(model, "vae", device) as shared:
            vae = private(shared) if latents.keeps_state else shared
            return vae_coding.encode_pictures(vae, image, latents.family or self.name, device, frames=latents.frames)

    def decode(self, store: Components, model: Model, latent: Latent, device: str) -> Image:
        """See `Family`."""
        latents = self.record.latents
        with store.component(model, "vae", device) as shared:
            vae = private(shared) if latents.keeps_state else shared
            return vae_coding.decode_pictures(vae, latent, device, latents.to_vae)

    def encode_video(self, store: Components, model: Model, video: Video, device: str) -> Posterior:
        """See `Family`."""
        if not _makes_videos(model):
            return super().encode_video(store, model, video, device)
        arguments.check_size(*video.size, model, frames=True)
        arguments.check_frames(len(video), model)
        with store.component(model, "vae", device) as shared:
            return vae_coding.encode_frames(private(shared), video, self.name, device)

    def decode_video(self, store: Components, model: Model, latent: Latent, fps: float, device: str) -> Video:
        """See `Family`."""
        if not _makes_videos(model):
            return super().decode_video(store, model, latent, fps, device)
        with store.component(model, "vae", device) as shared:
            return vae_coding.decode_frames(private(shared), latent, fps, device, self.record.latents.to_vae)

    # --- sampling -----------------------------------------------------------------------------------------------------

    def foresee(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """See `Family`."""
        yield from super().foresee(model, given)
        variant = self._variant(model)
        tasks = _possible(variant, given)
        if not tasks:
            asks = frozenset() if given.get("mask") is None else frozenset({"inpaint"})
            yield f"{model.source}: {missing(asks, variant)}"
        there = {"references": "references", "inpaint": "mask", "control": "control", "controlnet": "control"}
        there |= {"first": "first", "last": "last"}
        for ask, name in there.items():
            if given.get(name) in (None, []) and tasks and all(ask in asked(task) for task in tasks):
                yield f"{model.source}: this model needs {ASKS[ask]}; {remedy(frozenset({ask}))}"
        if given.get("control") is not None and not any("control" in task for task in variant.tasks):
            yield f"{model.source}: this model takes no ControlNet; leave control out"
        elif strange := _steered_by(given.get("control")) - frozenset().union(*map(asked, variant.tasks)):
            yield f"{model.source}: {missing(strange, variant)}"
        # Without a strength a latent may be empty, and stand for its size alone.
        begins = given.get("latent") is not None and given.get("strength") is not None and not given.get("start")
        if begins and not any("image" in asked(task) for task in variant.tasks):
            yield f"{model.source}: {missing(frozenset({'image'}), variant)}"
        for name in ("first", "last", "video"):
            if given.get(name) is not None and not any(name in task for task in variant.tasks):
                yield f"{model.source}: this model takes no {ASKS[name].removeprefix('a ')}; leave {name} out"

    def reference_problems(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """See `Pipelines`."""
        variant, references = self._variant(model), given["references"]
        possible = _possible(variant, given)
        tasks = [task for name, task in possible.items() if "references" in asked(name)]
        most = max((task.several for task in tasks), default=0)
        if tasks and (lacks := tasks[0].lacks(model)):
            yield lacks
        elif possible and not tasks:
            beside = " beside a mask" if any("references" in asked(name) for name in variant.tasks) else ""
            yield f"{model.source}: this model takes no {ASKS['references']}{beside}; leave references out"
        elif tasks and isinstance(references, list) and len(references) > most:
            yield f"{model.source} takes {most} reference pictures at most, and got {len(references)}"

    def sample(self, store: Components, request: SampleRequest, device: str, step: Step) -> Sampled:
        """See `Family`. Several pictures of a pipeline that makes one at a time are several runs."""
        if request.starts_from and not self._task(request).any_scheduler and request.options.scheduler is None:
            with store.component(request.model, "scheduler", "cpu") as config:
                self._check_beginning(request, str(config.get("_class_name")), f"{request.model.source}'s scheduler")
        if not self._task(request).single or len(request.seeds) == 1:
            return super().sample(store, request, device, step)
        return one_by_one(request, lambda one, told: super(Flow, self).sample(store, one, device, told), step)

    def _task(self, request: SampleRequest) -> Task:
        """The task of a request.

        Raises:
            ValueError: The model has none for what the request holds.
        """
        tasks = self._variant(request.model)
        found = tasks.task(request.asks)
        if found is None and request.loop is not None and not request.asks:
            found = next(iter(self.record.variants.values())).task(frozenset())  # the loop gives what else it takes
        if found is None:
            raise ValueError(f"{request.model.source}: {missing(request.asks, tasks)}")
        if lacks := found.lacks(request.model):
            raise ValueError(lacks)
        return found

    def size_of(self, model: Model, references: Sequence[Image]) -> tuple[int, int]:
        """See `Family`."""
        task = self._variant(model).task(frozenset({"references"}))
        width, height = references[-1 if task is None else task.decides].size
        if task is not None and task.size is not None:
            return task.size(width, height)
        area, multiple = int(model.setting("width")) * int(model.setting("height")), arguments.sides_of(model)
        sides = ((area * width / height) ** 0.5, (area * height / width) ** 0.5)
        found = [max(multiple, round(side / multiple) * multiple) for side in sides]
        return found[0], found[1]

    def pipeline_for(self, request: SampleRequest) -> Any:
        """See `Pipelines`."""
        return self.record.adapted(class_of(self._task(request)))

    def image_prompts(self, request: SampleRequest, denoiser: Any, device: str) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.record.image_prompts(request, denoiser, device)

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        """See `Pipelines`."""
        task = self._task(request)
        check_count(request.model, request.references, task)
        if task.seen:
            check_own_size(request, task)
        variant = self._variant(request.model)
        check_seen(request, task if self._text(request.model).pictures else None, variant)
        if task.global_noise and request.random:
            raise ValueError(
                f"pictures of {request.model.source} with a ControlNet take a seed; leave the generator out"
            )
        self._check_sampler(request)
        # These pipelines round steps up: with strength 0.05, 10 steps leave one.
        arguments.check_strength(request, cls, lambda steps, strength: steps - int(steps - steps * strength))
        self.record.check(request, task)

    def _check_sampler(self, request: SampleRequest) -> None:
        """Refuse a sampler that draws noise without the caller's generator, or cannot begin at the start.

        Raises:
            ValueError: It is so.
        """
        options = request.options
        name, of_name = sampler_names.read(options.scheduler, self.schedulers, self.name)
        algorithm = {**of_name, **(options.scheduler_options or {})}.get("algorithm_type")
        if _draws(algorithm):
            raise ValueError(f"{algorithm} draws noise that no seed decides in {self.name} models; take another")
        if request.starts_from and name is not None and not self._task(request).any_scheduler:
            self._check_beginning(request, name)

    def _check_beginning(self, request: SampleRequest, name: str, whose: str = "") -> None:
        """Refuse a scheduler that has not the method by which the pipelines begin at a start.

        Raises:
            ValueError: It has not.
        """
        if name in self.schedulers and name not in noise_schedulers.FLOW:
            told, start = f"{whose}, {name}," if whose else name, "picture" if request.frames is None else "video"
            raise ValueError(
                f"{told} cannot begin at a {start} in a {self.name} model; take {' or '.join(self._beginning())}"
            )

    def _beginning(self) -> list[str]:
        return [name for name in self.schedulers if name in noise_schedulers.FLOW]

    def check_scheduler(self, model: Model, config: Mapping[str, Any]) -> None:
        """See `Pipelines`."""
        algorithm = config.get("algorithm_type")
        draws = "stochastic_sampling" if config.get("stochastic_sampling") else algorithm if _draws(algorithm) else ""
        if draws:
            raise ValueError(f"{model.source}'s scheduler draws noise that no seed decides ({draws})")

    def scales(self, request: SampleRequest) -> dict[str, Any]:
        """See `Pipelines`."""
        guidance, options = self._guidance(request.model), request.options
        # Without a negative prompt the pipelines would only warn that the scale does nothing.
        idle = self._text(request.model).negative == "none" and not self._negatives(request)
        second = {} if options.guidance_scale_2 is None else {"guidance_scale_2": options.guidance_scale_2}
        return {guidance.argument: guidance.off if idle else options.guidance_scale, **second}

    def beside(self, stack: ExitStack, store: Components, request: SampleRequest, device: str) -> dict[str, Any]:
        """See `Pipelines`."""
        model = request.model
        names = [name for name in self.record.beside if name in dict(model.components)]
        found = {name: stack.enter_context(store.component(model, name, device)) for name in names}
        return {name: part.tokenizer if isinstance(part, Tokenizer) else part for name, part in found.items()}

    def net_for(self, request: SampleRequest, net: Any) -> Any:
        """See `Pipelines`."""
        return private(net) if self.record.lends else net

    def control_arguments(self, request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.record.controls(request, nets)

    def vae_component(self, stack: ExitStack, store: Components, request: SampleRequest, device: str) -> dict[str, Any]:
        """See `Pipelines`: always one, without weights if the pipeline encodes nothing."""
        model, task, latents = request.model, self._task(request), self.record.latents
        config = store.config(model, "vae")
        real, statistics, dtype = None, {}, None
        if task.encodes or latents.statistics:
            shared = stack.enter_context(store.component(model, "vae", device))
            statistics, dtype = {name: getattr(shared, name) for name in latents.statistics}, shared.dtype
            if task.encodes:
                real = private(shared) if latents.keeps_state else shared
        cls, dtype = class_named(*self.classes["vae"]), dtype or dtype_of(model.precision, device)
        seed = request.seeds[0] if task.global_noise else None
        made = PipelineVAE(cls, config, device, dtype, real, statistics, seed)
        start = request.latent if request.starts_from == "Img2Img" else None
        return {"vae": made.made(start, latents.exact(config))}

    def start(
        self, cls: Any, request: SampleRequest, generators: Any, device: str, dtype: torch.dtype
    ) -> tuple[Any, dict[str, Any]]:
        """See `Pipelines`: pictures of NaN, in whose place the VAE gives what was encoded before."""
        import torch

        assert request.latent is not None
        held = request.latent.samples if isinstance(request.latent, Latent) else request.latent.mean
        width, height = request.size
        count = len(request.seeds) if isinstance(generators, list) else len(held)
        frames = () if request.frames is None else (request.frames,)
        image = torch.full((count, *frames, 3, height, width), torch.nan)
        return cls, self._called(request, {"image": image, "width": width, "height": height})

    def inpainting(self, request: SampleRequest, generators: Any) -> dict[str, Any]:
        """See `Pipelines`."""
        values, task = arguments.inpaint_arguments(request, generators), self._task(request)
        if task.raw:
            values["image"] = 2.0 * values["image"] - 1.0
            values["mask_image"] = (values["mask_image"] >= 0.5).float()
        if task.seen:
            assert request.image is not None
            values["image"] = request.image.opaque().pil()
        return self._called(request, values)

    def going_on(self, request: SampleRequest) -> dict[str, Any]:
        """See `Pipelines`."""
        return self._called(request, super().going_on(request))

    def _called(self, request: SampleRequest, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by the names that the task's pipeline has for them, with those that it always gets."""
        task = self._task(request)
        if request.references:
            pictures = [picture.pil() for picture in shown(request.references, task)]
            values = {**values, "references": pictures if task.several > 1 else pictures[0]}
        ends = {"first": request.first, "last": request.last}
        values = {**values, **{name: one.opaque().pil() for name, one in ends.items() if one is not None}}
        names = {"references": "image", **task.names}
        found = {names.get(name, name): value for name, value in values.items()}
        if not task.sized:
            found = {name: value for name, value in found.items() if name not in ("width", "height")}
        return {str(name): value for name, value in found.items() if name is not None} | dict(task.always(request))

    def further(self, request: SampleRequest) -> Mapping[str, Any]:
        """See `Pipelines`."""
        if "controlnet" not in request.asks:
            return request.options.arguments
        # The control arguments give control_mode, with a mode for each ControlNet.
        return {name: value for name, value in request.options.arguments.items() if name != "control_mode"}

    def constructor_options(self, request: SampleRequest) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.options_of(request.model)

    def options_of(self, model: Model) -> dict[str, Any]:
        """The arguments of the constructors of a model's pipelines beside their components."""
        found = {name: model.setting(name, None) for name in self._variant(model).options}
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        return {name: value for name, value in found.items() if value is not None}

    def pipeline_of(self, model: Model, task: str | None = None) -> Any:
        """The class of a model's pipeline for a task of its record, by default for the first; None if it has none."""
        tasks = self._variant(model).tasks
        found = next(iter(tasks.values())) if task is None else tasks.get(task)
        return None if found is None else class_of(found)

    def layouts(self, cls: Any, request: SampleRequest) -> tuple[Layout, Layout]:
        """See `Pipelines`."""
        shape, latents = self._shape(cls, request), self.record.latents
        return (lambda found: latents.pack(found, shape)), (lambda found: latents.unpack_step(found, shape))

    def result(self, cls: Any, request: SampleRequest, output: Any, last: torch.Tensor) -> torch.Tensor:
        """See `Pipelines`."""
        if self.record.latents.of_loop:
            return self.record.latents.unpack_step(last, self._shape(cls, request))
        found = output.frames if self.record.latents.frames and hasattr(output, "frames") else output.images
        return self.record.latents.unpack(found, self._shape(cls, request))

    def _shape(self, cls: Any, request: SampleRequest) -> Shape:
        return Shape(*request.size, int(request.model.setting("factor")), cls)


def _steered_by(control: Any) -> frozenset[str]:
    """What a sampler's controls ask for, as far as it is known which nodes make them."""
    asks = {"std.apply_controlnet": "controlnet", "std.follow_picture": "control"}
    nodes = [one.node for one in (control if isinstance(control, list) else [control]) if isinstance(one, Unknown)]
    return frozenset(asks[node] for node in nodes if node in asks)


def _makes_videos(model: Model) -> bool:
    return model.setting("frame_factor") is not None


def _draws(algorithm: Any) -> bool:
    return str(algorithm).startswith("sde-")


def _possible(variant: Variant, given: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks that a sampler's inputs can be for: with a mask those that paint over a picture, else the others."""
    masked = given.get("mask") is not None
    return {name: task for name, task in variant.tasks.items() if ("inpaint" in asked(name)) == masked}
