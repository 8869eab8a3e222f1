"""The base class of families that sample with diffusers' own pipelines: loading, and running a pipeline.

A pipeline and a scheduler are made for each run over shared modules; they are small and hold the run's state. The bits
are those of one call of the pipeline, although the prompt is encoded before, by the same calls; a picture is encoded to
its posterior before, and the first draw of the sampler is the draw from it; and decoding is a call of its own.

The module is long because it is one template: each method is a step that a family may define otherwise.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError, check_folder, nearest
from graphengine_nodes.families import arguments, noise_schedulers, sampler_names, scheduler_options, vae_coding
from graphengine_nodes.families.cutting import Cut
from graphengine_nodes.families.family import ASKS, Components, PictureScales, Sampled, SampleRequest, Step, Words
from graphengine_nodes.families.picture_prompts import check_pipeline
from graphengine_nodes.families.repainting import Blending, Layout
from graphengine_nodes.families.stand_in import stand_in
from graphengine_nodes.families.steering import Steering, steered
from graphengine_nodes.layouts import contents
from graphengine_nodes.layouts.contents import Component, Contents
from graphengine_nodes.layouts.places import placed
from graphengine_nodes.values.types import Conditioning, Image, Latent, Model, Posterior, Tensors
from graphengine_nodes.values.video import Video
from graphengine_nodes.weights import files, reading, vocabulary
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.gguf_files import is_gguf, read_gguf_tensors
from graphengine_nodes.weights.headers import Header, read_headers
from graphengine_nodes.weights.lora_names import LoraNames
from graphengine_nodes.weights.loras import add_loras

if TYPE_CHECKING:
    import torch


@dataclass
class Tokenizer:
    """A tokenizer with the lock that every use of it needs: its padding and truncation are state inside it."""

    tokenizer: Any
    lock: threading.Lock = field(default_factory=threading.Lock)


COMMON = {
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "vae": ("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL"),
}
"""Components that are of the same class in all families."""


def _stem(module: str, cls: str) -> str | None:
    """The name that a library gives the weight files of its classes."""
    if module != "transformers":
        return "diffusion_pytorch_model"
    return None if "Tokenizer" in cls or "Processor" in cls else "model"


def class_named(module: str, name: str) -> Any:
    """Import a class of diffusers or transformers."""
    return getattr(importlib.import_module(module), name)


def is_kl(config: Mapping[str, Any]) -> bool:
    """Whether a VAE's configuration is of diffusers' class for all families so far."""
    return bool(config.get("_class_name", "AutoencoderKL") == "AutoencoderKL")


def kl_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration of a VAE of that class says of the settings."""
    factor = 2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1)
    return {"factor": factor, "latent_channels": config.get("latent_channels", 4)}


class Pipelines:
    """Base class of families: loading and sampling, from the class attributes and methods that a family defines."""

    name: str
    schedulers: Sequence[str]
    reads_marks: bool = False
    """Whether its prompts may hold weights and what else `encode_weighted` reads."""
    latents: str = ""
    """The family whose latents it works on, where that is not itself."""
    parts: Mapping[str, Sequence[str]]
    optional: Sequence[str] = ()
    picture_scales: PictureScales = ""
    encoder_widths: Collection[int] = ()
    needs: Mapping[str, Sequence[str]] = {}
    classes: Mapping[str, tuple[str, str]]
    """Module and class of each component but the scheduler."""
    lora_names: LoraNames
    denoiser: str
    """The name of the component that denoises."""
    prefix: str
    """The first part of the names of its pipelines."""
    modules: Mapping[tuple[str, bool], str]
    """Where its pipelines are in `diffusers.pipelines`, by `SampleRequest.starts_from` and whether they are steered."""

    @functools.cached_property
    def stems(self) -> Mapping[str, str | None]:
        """See `Family`."""
        return {"scheduler": None} | {name: _stem(module, cls) for name, (module, cls) in self.classes.items()}

    @functools.cached_property
    def tokenizers(self) -> Mapping[str, str]:
        """See `Family`."""
        return {name: cls for name, (_, cls) in self.classes.items() if "Tokenizer" in cls}

    def encoder_classes(self, component: str) -> frozenset[str]:
        """See `Family`."""
        return frozenset({self.classes[component][1]})

    def settings(self, folder: Path) -> dict[str, Any]:
        """See `Family`."""
        denoiser = files.read_json(folder / self.denoiser / "config.json")
        vae = self.vae_settings(files.read_json(folder / "vae" / "config.json"))
        return in_pixels(self.denoiser_settings(denoiser, folder), vae)

    def owns_file(self, header: Header) -> bool:
        """See `Family`."""
        return contents.family_of(header) == self.name

    def configurations(self, held: Contents) -> dict[str, dict[str, Any]]:
        """See `Family`."""
        parts = {name: held.component(name) for name, stem in self.stems.items() if stem is not None}
        found = {f"{name}/config.json": dict(part.config) for name, part in parts.items() if part is not None}
        if "vae/config.json" in found:
            found["vae/config.json"] = {**self.vae_scale, **found["vae/config.json"]}
        scheduler = dict(held.said.get("scheduler") or self.scheduler_config(held))
        found["scheduler/scheduler_config.json"] = scheduler
        index = {name: [module.partition(".")[0], cls] for name, (module, cls) in self.classes.items()}
        index |= {"scheduler": ["diffusers", str(scheduler.get("_class_name"))]}
        index = {name: said for name, said in index.items() if name != "controlnet"}
        found["model_index.json"] = {
            "_class_name": self.pipeline_name(held),
            **index,
            **held.said.get("model_index", {}),
        }
        return found

    def pipeline_name(self, held: Contents) -> str:
        """The class of the pipeline that a single file is for."""
        return f"{self.prefix}Pipeline"

    vae_scale: Mapping[str, Any]
    """The scale of the published VAEs, which no tensor tells, as their configurations have it."""

    def scheduler_config(self, held: Contents) -> dict[str, Any]:
        """The configuration of the scheduler that the published model of a single file's kind has."""
        raise NotImplementedError

    def packaged_tokenizer(self, component: str, held: Contents) -> Path | None:
        """See `Family`."""
        return vocabulary.clip_tokenizer() if self.classes[component][1] == "CLIPTokenizer" else None

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        """See `Family`."""
        raise NotImplementedError

    def paired_settings(self, config: Mapping[str, Any], boundary_ratio: float | None, source: str) -> dict[str, Any]:
        """See `Family`."""
        raise ModelError(f"{source} is of a {self.name} model, which has one denoiser for all steps")

    def vae_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family`."""
        return kl_settings(config)

    def load(self, component: str, location: Location, dtype: torch.dtype | None, small: bool = False) -> Any:
        """See `Family`."""
        if component == "scheduler":
            return files.read_json(location.folder / "scheduler_config.json")
        if self.stems[component] is None:
            cls = class_named(*self.class_of(component, location))
            try:
                check_folder(location.folder)
            except OSError as error:
                raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from None
            return Tokenizer(cls.from_pretrained(location.folder, local_files_only=True))
        stem = self.stems[component]
        assert stem is not None
        assert dtype is not None
        kind = self.class_of(component, location)
        return reading.load_module(component, location, stem, kind, dtype, self._read(component), small)

    def class_of(self, component: str, location: Location) -> tuple[str, str]:
        """Module and class of a component at a place."""
        return self.classes[component]

    def _read(self, component: str) -> reading.Read:
        """Make the function that reads a component from a whole checkpoint."""

        def read(location: Location, module: Any, dtype: torch.dtype, small: bool) -> Tensors:
            projected = self.classes[component][1] != "CLIPTextModel"
            name = location.component or component  # the second of a pair is the first one of its file
            part = contents.read(*read_headers(location.path), location.path).component(name, projected)
            if part is None:
                raise ModelError(f"{location.path} holds no {component}")
            full = reading.in_full(module, dtype)
            if is_gguf(location.path):
                return _read_gguf(part, module, dtype, full)
            tensors = reading.read_tensors(location.path, dtype, part.names - part.skipped, full, small)
            found = placed(part.places, tensors)
            return reading.laid_out(module, found, dtype, full) if small else found

        return read

    def add_loras(
        self,
        component: str,
        module: Any,
        loras: Sequence[tuple[str, Path, float]],
        partial: Collection[str] = (),
    ) -> None:
        """See `Family`."""
        add_loras(component, module, loras, self.lora_names, partial)

    def owns_lora(self, header: Header) -> bool:
        """See `Family`."""
        return False

    def encode_weighted(
        self, store: Components, model: Model, prompts: Sequence[Words], clip_skip: int, device: str
    ) -> list[Conditioning]:
        """See `Family`."""
        raise ValueError(f"{model.source}, {self.name}, takes no weights in prompts; use encode_prompt, without them")

    def lacks(self, model: Model) -> str | None:
        """See `Family`."""
        return None

    def size_of(self, model: Model, references: Sequence[Image]) -> tuple[int, int] | None:
        """See `Family`."""
        return None

    def foresee(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """See `Family`."""
        for name in ("width", "height"):
            if isinstance(given.get(name), int):
                yield from arguments.side_problems(name, given[name], arguments.sides_of(model))
        try:
            scheduler = given.get("scheduler")
            sampler_names.read(scheduler if isinstance(scheduler, str) else None, self.schedulers, self.name)
        except ValueError as error:
            yield str(error)
        if given.get("references") not in (None, []):
            yield from self.reference_problems(model, given)

    def reference_problems(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with a sampler's reference pictures, or with a list of them, for a model.

        Args:
            given: The sampler's inputs, with `references`.
        """
        yield f"{model.source}, {self.name}, takes no {ASKS['references']}"

    def encode_video(self, store: Components, model: Model, video: Video, device: str) -> Posterior:
        """See `Family`."""
        raise ValueError(f"{model.source}, {self.name}, takes no videos; frames_of makes pictures of one")

    def decode_video(self, store: Components, model: Model, latent: Latent, fps: float, device: str) -> Video:
        """See `Family`."""
        raise ValueError(f"{model.source}, {self.name}, makes no videos; use decode_latent")

    # --- sampling: what differs between families is in the methods that `sample` calls --------------------------------

    def sample(self, store: Components, request: SampleRequest, device: str, step: Step) -> Sampled:
        """See `Family`."""
        model, start = request.model, request.starts_from
        cls = self.pipeline_for(request)
        self.check_request(request, cls)
        check_pipeline(request, cls)
        arguments.check_modes(request)
        generators = request.generators()
        with ExitStack() as stack:
            denoiser = stack.enter_context(store.component(model, self.denoiser, device))
            config = stack.enter_context(store.component(model, "scheduler", "cpu"))
            self.check_scheduler(model, config)
            components: dict[str, Any] = {self.denoiser: denoiser} | self.beside(stack, store, request, device)
            call = self.prompts(request, device, denoiser.dtype) | {"generator": generators}
            call |= self.image_prompts(request, denoiser, device)
            if start and request.options.strength is not None:
                call["strength"] = request.options.strength
            if request.control:
                held = [stack.enter_context(store.controlnet(net, device, model)) for net in request.nets]
                nets = [self.net_for(request, net) for net in held]
                components |= {"controlnet": nets[0] if len(nets) == 1 else nets} if nets else {}
                call |= self.control_arguments(request, nets)
            components |= self.vae_component(stack, store, request, device)
            if start == "Inpaint":
                call |= self.inpainting(request, generators)
            elif start == "Img2Img":
                cls, image = self.start(cls, request, generators, device, denoiser.dtype)
                call |= image
            else:
                call |= self.going_on(request)
            return sample_with(cls, components, call, request, config, self, step)

    def pipeline(self, start: str, control: bool) -> Any:
        """The class of a pipeline.

        Args:
            start: What it starts from, as `SampleRequest.starts_from` says it.
            control: Whether ControlNets steer it.
        """
        return self.pipeline_in(self.modules[start, control], f"{'ControlNet' if control else ''}{start}")

    def pipeline_in(self, module: str, kind: str) -> Any:
        """The family's pipeline of a kind (`ControlNetImg2Img`), which a module of `diffusers.pipelines` has."""
        return class_named(f"diffusers.pipelines.{module}", f"{self.prefix}{kind}Pipeline")

    def pipeline_for(self, request: SampleRequest) -> Any:
        """The class of the pipeline that computes a request."""
        return self.pipeline(request.starts_from, bool(request.control))

    def modes_of(self, config: Mapping[str, Any]) -> int | None:
        """See `Family`."""
        return None

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        """Refuse what a pipeline would ignore, or fail at with less clear words."""
        for name in {"references", "control"} & request.asks:
            raise ValueError(f"{request.model.source}, {self.name}, takes no {ASKS[name].removeprefix('a ')}")

    def check_scheduler(self, model: Model, config: Mapping[str, Any]) -> None:
        """Refuse the configuration of a model's scheduler with which a seed would not decide the result."""

    def prompts(self, request: SampleRequest, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """The pipeline's arguments that hold the prompts and the negative prompts."""
        raise NotImplementedError

    def net_for(self, request: SampleRequest, net: Any) -> Any:
        """A ControlNet as the pipeline may have it: one that the pipeline changes is a copy."""
        return net

    def image_prompts(self, request: SampleRequest, denoiser: Any, device: str) -> dict[str, Any]:
        """The pipeline's arguments that hold the picture prompts, in families that take IP-Adapters."""
        return {}

    def control_arguments(self, request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
        """The pipeline's arguments that hold the control pictures, and how strongly they steer."""
        return arguments.control_arguments(request)

    def beside(self, stack: ExitStack, store: Components, request: SampleRequest, device: str) -> dict[str, Any]:
        """The pipeline's components beside the denoiser and the VAE, as long as the stack stays open."""
        return {}

    def vae_component(self, stack: ExitStack, store: Components, request: SampleRequest, device: str) -> dict[str, Any]:
        """The VAE among the pipeline's components, as long as the stack stays open; empty where it needs none."""
        if not self.needs_vae(request):
            return {}
        return {"vae": self.vae_for(request, stack.enter_context(store.component(request.model, "vae", device)))}

    def needs_vae(self, request: SampleRequest) -> bool:
        """Whether the pipeline uses the VAE itself."""
        return request.mask is not None

    def vae_for(self, request: SampleRequest, vae: Any) -> Any:
        """The VAE as the pipeline may have it: a pipeline that casts it gets a copy.

        Raises:
            ValueError: The pipeline would compute wrongly with it.
        """
        return vae

    def start(
        self, cls: Any, request: SampleRequest, generators: Any, device: str, dtype: torch.dtype
    ) -> tuple[Any, dict[str, Any]]:
        """The pipeline's class, and its arguments for starting from `request.latent`."""
        assert request.latent is not None
        latents = vae_coding.start_latents(request.latent, generators, len(request.seeds), device, dtype)
        return cls, {"image": latents}

    def inpainting(self, request: SampleRequest, generators: Any) -> dict[str, Any]:
        """The pipeline's arguments that hold picture and mask."""
        return arguments.inpaint_arguments(request, generators)

    def scales(self, request: SampleRequest) -> dict[str, Any]:
        """The pipeline's argument that the guidance scale is for."""
        return {"guidance_scale": request.options.guidance_scale}

    def result(self, cls: Any, request: SampleRequest, output: Any, last: torch.Tensor) -> torch.Tensor:
        """The latents between nodes in what a pipeline returned, or in the latents of its last step."""
        found: torch.Tensor = output.images
        return found

    def going_on(self, request: SampleRequest) -> dict[str, Any]:
        """The pipeline's arguments for starting from noise, or going on where another run has stopped."""
        return dict(zip(("width", "height"), request.size, strict=True))

    def further(self, request: SampleRequest) -> Mapping[str, Any]:
        """The request's further arguments that the pipeline takes as they are."""
        return request.options.arguments

    def constructor_options(self, request: SampleRequest) -> dict[str, Any]:
        """Arguments of the pipeline's constructor beside its components."""
        return {}

    def layouts(self, cls: Any, request: SampleRequest) -> tuple[Layout, Layout]:
        """From latents [n, C, h, w] to the pipeline's own layout, and back."""
        return (lambda latents: latents), (lambda latents: latents)


def _read_gguf(part: Component, module: Any, dtype: torch.dtype, full: frozenset[str]) -> Tensors:
    """Read a component of a GGUF file, whose matrices stay in blocks."""
    import torch

    def dtype_of(name: str) -> torch.dtype:
        return dtype if full.isdisjoint(name.split(".")) else torch.float32

    stored = read_gguf_tensors(part.where, part.names - part.skipped)
    tensors = {name: place.read(stored[place.name]) for name, place in part.places.items()}
    tensors = {n: t.to(dtype_of(n)) if t.is_floating_point() else t for n, t in tensors.items()}
    return reading.laid_out(module, tensors, dtype, full)


def in_pixels(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model, from those of its denoiser, whose sides count latents, and of its VAE."""
    sides = {name: int(denoiser[name]) * int(vae["factor"]) for name in ("width", "height")}
    return {**denoiser, **sides, **vae}


def _trained(model: Model, flows: bool) -> dict[str, Any]:
    """What a scheduler must know of its model, where the model's reference says more than the configuration.

    Args:
        flows: The configuration is that of a scheduler for flow matching alone.
    """
    found: dict[str, Any] = {}
    if (shift := model.setting("shift")) is not None:
        found |= {"shift" if flows else "flow_shift": shift, "use_dynamic_shifting": False}
    elif (largest := model.setting("max_shift")) is not None:
        found |= {"base_shift": model.setting("base_shift"), "max_shift": largest, "use_dynamic_shifting": True}
    if prediction := model.setting("prediction_type"):
        found["prediction_type"] = prediction
    zero_snr = model.setting("zero_snr")
    if zero_snr is not None:
        found["rescale_betas_zero_snr"] = zero_snr
    if zero_snr:  # the first step must be the noisiest, the one without any signal
        found["timestep_spacing"] = "trailing"
    return found


# --- running a pipeline -----------------------------------------------------------------------------------------------


def sample_with(
    cls: Any,
    components: Mapping[str, Any],
    call: Mapping[str, Any],
    request: SampleRequest,
    config: Mapping[str, Any],
    family: Pipelines,
    step: Step,
) -> Sampled:
    """Sample with a pipeline that is made for this call.

    Args:
        cls: The pipeline's class.
        components: Its modules; those that are not named are None.
        call: Its arguments that the request's inputs decide; of them `generator`, from which the start may have been
            drawn already.
        config: The configuration of the model's scheduler.

    Raises:
        ValueError: The request's further arguments are none of this pipeline's; the result is not finite.
    """
    import torch

    options = request.options
    call = {
        **call,
        "num_inference_steps": options.steps,
        **family.scales(request),
        "output_type": "latent",
    }
    if options.guidance_rescale is not None:
        call["guidance_rescale"] = options.guidance_rescale
    further = further_arguments(cls, family.further(request), call)
    config = {**config, **_trained(request.model, config.get("_class_name") in noise_schedulers.FLOW)}
    name, of_name = sampler_names.read(options.scheduler, family.schedulers, family.name)
    own = noise_schedulers.own(config, name, request.seeds, family.schedulers, family.name)
    pack, unpack = family.layouts(cls, request)
    absent = {
        name: None
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name not in ("self", "args", "kwargs")
        and (parameter.default is parameter.empty or parameter.default is None)
    }
    steering = None
    if steered(request):
        embeds = call["prompt_embeds"]
        steering = Steering(request, lambda now: family.prompts(now, str(embeds.device), embeds.dtype))
        components = steering.over(family.denoiser, components)
    loop = None
    if request.loop is not None:
        denoiser = components[family.denoiser]
        loop = request.loop(family.layouts(cls, request)[0], str(denoiser.device))
        call["latents"] = loop.latents.to(denoiser.device, denoiser.dtype)
        if loop.answer is not None:
            components = {**components, family.denoiser: stand_in(denoiser, loop.answer)}
    pipeline = cls(**(absent | dict(components) | family.constructor_options(request) | {"scheduler": own}))
    scheduler = _scheduler(own, name, of_name, request, further) if loop is None else loop.scheduler
    pipeline.scheduler = scheduler
    if pipeline.vae is None:
        pipeline.vae_scale_factor = request.model.setting("factor")
    pipeline.set_progress_bar_config(disable=True)
    cut = None
    if options.start or options.end:
        cut = Cut(pipeline, request, call["generator"], pack)
    if steering is not None:
        steering.watch(pipeline, cut)
    blending = None
    if request.repaint is not None:
        blending = Blending(pipeline, request.repaint, call["generator"], len(request.seeds), pack, unpack)
    last: list[torch.Tensor] = []
    output = pipeline(**call, **_watched(step, further, unpack, blending, cut, last))
    samples = family.result(cls, request, output, last[-1])
    if not bool(torch.isfinite(samples).all()):
        name = type(scheduler).__name__
        raise ValueError(f"{name} gave numbers that are not finite; take another scheduler or more steps")
    found = Sampled(samples.cpu(), request.ended(call["generator"]))
    return found._replace(drawn=cut.drawn, reached=cut.reached) if cut and options.end else found


def _scheduler(
    own: Any, name: str | None, of_name: Mapping[str, Any], request: SampleRequest, further: Mapping[str, Any]
) -> Any:
    """The scheduler that a request asks for, over the configuration of the model's own.

    Args:
        own: After the pipeline was constructed, which corrects outdated configurations of the model's scheduler, and
            only of that one.
        name, of_name: The class in its place, and the options that a sampler's name means.
    """
    options = request.options
    chosen = {**of_name, **(options.scheduler_options or {})}
    scheduler = noise_schedulers.make(own, name, options.timestep_spacing, request.seeds, chosen)
    if request.model.setting("zero_snr"):
        noise_schedulers.check_zero_snr(scheduler)
    times = {name: further[name] for name in scheduler_options.OWN_TIMES if further.get(name) is not None}
    noise_schedulers.guard(scheduler, chosen, times)
    return scheduler


def _watched(
    step: Step,
    further: Mapping[str, Any],
    unpack: Layout,
    blending: Blending | None,
    cut: Cut | None,
    last: list[torch.Tensor],
) -> dict[str, Any]:
    """The further arguments with a callback that blends and reports after each step, then calls the caller's own.

    Args:
        last: Gets the latents of each step in place of those before.
    """
    theirs = further.get("callback_on_step_end")
    wanted = getattr(theirs, "tensor_inputs", None) or further.get("callback_on_step_end_tensor_inputs") or ["latents"]

    def report(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        changed = {}
        if cut is not None:
            cut.after_step()
        if blending is not None:
            changed["latents"] = tensors["latents"] = blending.after(index, tensors["latents"])
        step(index + 1, pipe.num_timesteps, unpack(tensors["latents"]))
        if theirs is not None:
            changed |= theirs(pipe, index, time, {name: tensors[name] for name in wanted}) or {}
        last[:] = [changed.get("latents", tensors["latents"])]
        return changed

    inputs = list(dict.fromkeys([*wanted, "latents"]))
    return {**further, "callback_on_step_end": report, "callback_on_step_end_tensor_inputs": inputs}


NAMED_BY_SOCKETS = {
    "prompt": "positive",
    "prompt_2": "positive",
    "prompt_3": "positive",
    "prompt_embeds": "positive",
    "pooled_prompt_embeds": "positive",
    "negative_prompt": "negative",
    "negative_prompt_2": "negative",
    "negative_prompt_3": "negative",
    "negative_prompt_embeds": "negative",
    "negative_pooled_prompt_embeds": "negative",
    "prompt_embeds_mask": "positive",
    "prompt_attention_mask": "positive",
    "negative_prompt_embeds_mask": "negative",
    "negative_prompt_attention_mask": "negative",
    "max_sequence_length": "encode_prompt's max_sequence_length",
    "clip_skip": "encode_prompt's clip_skip",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "guidance_scale_2": "guidance_scale_2",
    "guidance_rescale": "guidance_rescale",
    "num_images_per_prompt": "count",
    "num_frames": "frames",
    "generator": "seed",
    "image": "latent, image, first or control",
    "last_image": "last",
    "video": "video",
    "mask_image": "mask",
    "control_image": "control",
    "controlnet_conditioning_scale": "apply_controlnet's scale",
    "control_guidance_start": "apply_controlnet's start",
    "control_guidance_end": "apply_controlnet's end",
    "guess_mode": "apply_controlnet's guess",
    "width": "width",
    "height": "height",
    "strength": "strength",
    "output_type": "decode_latent, or decode_video,",
    "return_dict": "decode_latent, or decode_video,",
}
"""Arguments of diffusers' pipelines that are inputs of the nodes, and the names of these inputs."""


_IMAGE_PROMPT = "give the sampling node image_prompt, which encode_image_prompt makes"
_ENCODED = "prompts are encoded before, by encode_prompt"

REFUSED = {
    "ip_adapter_image": _IMAGE_PROMPT,
    "ip_adapter_image_embeds": _IMAGE_PROMPT,
    "negative_ip_adapter_image": _IMAGE_PROMPT,
    "negative_ip_adapter_image_embeds": _IMAGE_PROMPT,
    "text_encoder_out_layers": _ENCODED,
    "caption_upsample_temperature": _ENCODED,
    "num_videos_per_prompt": "a call makes one video; map over the seeds",
    "padding_mask_crop": "it is for whole pictures; use crop_image before and composite after",
}
"""Arguments of diffusers' pipelines that a sampler cannot take, and the remedy."""


def further_arguments(cls: Any, given: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    """Check `SamplingOptions.arguments` against the pipeline's parameters, and return them as it takes them.

    Args:
        taken: The arguments that the request's other inputs decide.

    Raises:
        ValueError: The pipeline has no such parameter, or an input of the node decides it.
    """
    parameters = inspect.signature(cls.__call__).parameters
    names = [name for name in parameters if name not in ("self", "kwargs")]
    for name in [*taken, *given]:
        if name in names:
            continue
        near = nearest(name, names) if name in given else []
        advice = f"; did you mean {' or '.join(near)}?" if near else ": leave it out"
        if name in given and scheduler_options.is_known(name):
            advice = "; give it in scheduler_options"
        raise ValueError(f"{cls.__name__} takes no {name}{advice}")
    for name in given:
        if name in taken or name in NAMED_BY_SOCKETS:
            raise ValueError(f"{name} is no further argument: {NAMED_BY_SOCKETS.get(name, name)} says it")
        if name in REFUSED:
            raise ValueError(f"{name} cannot be given: {REFUSED[name]}")
    attention = {name: value for name, value in given.items() if name.endswith("attention_kwargs")}
    for name, value in attention.items():
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{name} is {value!r:.80}, but must be a dictionary")
    if any("scale" in (value or ()) for value in attention.values()):
        raise ValueError("the attention's scale is that of LoRAs, and changes shared weights: give it to apply_lora")
    # Files hold lists, but the pipelines add sizes and corners up as tuples; and some write into dictionaries.
    own = {name: dict(value) if isinstance(value, dict) else value for name, value in given.items()}
    return {
        name: tuple(value) if isinstance(value, list) and "tuple" in str(parameters[name].annotation) else value
        for name, value in own.items()
    }
