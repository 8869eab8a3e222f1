"""What all families share that sample with diffusers' own pipelines: no family by itself.

A pipeline and a scheduler are made for each run over shared modules; they are small and hold the run's state. What
differs from calling a pipeline in one go, and why the result does not: the prompt is encoded beforehand by the same
calls, a picture is encoded to its posterior beforehand (drawing from it stays the sampler's first draw), and decoding
follows by itself.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError, check_folder, nearest
from graphengine_nodes.families import schedulers
from graphengine_nodes.families.family import Components, Request, Sampled, Step
from graphengine_nodes.families.repainting import Blending, Layout
from graphengine_nodes.values.types import Conditioning, Model
from graphengine_nodes.weights import files as checkpoints
from graphengine_nodes.weights import reading as loading
from graphengine_nodes.weights.files import Header, Location

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


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
    return None if "Tokenizer" in cls else "model"


class Pipelines:
    """What a family inherits: loading as it is the same everywhere, from what the family says of its components."""

    name: str
    schedulers: Sequence[str]
    parts: Mapping[str, Sequence[str]]
    needs: Mapping[str, Sequence[str]] = {}
    classes: Mapping[str, tuple[str, str]]
    """Module and class of each component but the scheduler."""
    prefixes: Mapping[str, tuple[str, ...]] = {}
    lora_mixin: str
    """The class of `diffusers.loaders.lora_pipeline` that reads the family's LoRAs."""

    @functools.cached_property
    def stems(self) -> Mapping[str, str | None]:
        """See `Family`."""
        return {"scheduler": None} | {name: _stem(module, cls) for name, (module, cls) in self.classes.items()}

    def load(self, component: str, location: Location, dtype: torch.dtype | None) -> Any:
        """See `Family`."""
        if component == "scheduler":
            return checkpoints.read_json(location.folder / "scheduler_config.json")
        module, name = self.classes[component]
        if self.stems[component] is None:
            cls = getattr(importlib.import_module(module), name)
            try:
                check_folder(location.folder)
            except OSError as error:
                raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from None
            return Tokenizer(cls.from_pretrained(location.folder, local_files_only=True))
        stem = self.stems[component]
        assert stem is not None
        assert dtype is not None
        return loading.load_module(component, location, stem, self.classes[component], dtype, self._read(component))

    def _read(self, component: str) -> loading.Read:
        """How the component is read from a whole checkpoint."""

        def read(location: Location, module: Any, dtype: torch.dtype) -> Tensors:
            full = loading.in_full(module, dtype)
            tensors = loading.read_tensors(location.path, dtype, self.prefixes[component], full)
            return self.convert(component, tensors, module)

        return read

    def convert(self, component: str, tensors: Tensors, module: Any) -> Tensors:
        """A single file's tensors of a component under the names that diffusers has for them."""
        raise ModelError(f"{self.name} has no checkpoints in one file")

    def lora_state(self, component: str, module: Any, tensors: Tensors) -> loading.LoraState:
        """A LoRA file's tensors with diffusers' names, and its alphas."""
        raise ModelError(f"{self.name} has no LoRAs")

    def add_loras(self, component: str, module: Any, loras: Sequence[tuple[str, Path, float]]) -> None:
        """See `Family`."""
        loading.add_loras(component, module, loras, self.lora_mixin, self.lora_state)

    def owns_lora(self, header: Header) -> bool:
        """See `Family`."""
        return False

    def encode_weighted(
        self,
        store: Components,
        model: Model,
        prompts: tuple[str, str | None],
        clip_skip: int,
        device: str,
        prompts_2: tuple[str | None, str | None] = (None, None),
    ) -> tuple[Conditioning, Conditioning]:
        """See `Family`."""
        raise ValueError(f"{model.source}, {self.name}, takes no weights in prompts; use encode_prompt, without them")


# --- running a pipeline -----------------------------------------------------------------------------------------------


def run(
    cls: Any,
    components: Mapping[str, Any],
    call: Mapping[str, Any],
    request: Request,
    config: Mapping[str, Any],
    kind: Pipelines,
    step: Step,
    *,
    options: Mapping[str, Any] | None = None,
    pack: Layout = lambda latents: latents,
    unpack: Layout = lambda latents: latents,
) -> Sampled:
    """Sample with a pipeline that is made for this call.

    Args:
        cls: The pipeline's class.
        components: Its modules; those that are not named are None.
        call: Its arguments that the request's inputs decide; of them `generator`, from which the start may have been
            drawn already.
        config: The configuration of the model's scheduler.
        options: Further arguments of its constructor.
        pack, unpack: To the pipeline's own layout of latents from [n, C, h, w], and back.

    Raises:
        ValueError: The request's further arguments are none of this pipeline's; the result is not finite.
    """
    import torch

    call = {
        **call,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "output_type": "latent",
    }
    if request.guidance_rescale is not None:
        call["guidance_rescale"] = request.guidance_rescale
    further = further_arguments(cls, request.arguments, call)
    own = schedulers.own(config, request.scheduler, request.seeds, kind.schedulers, kind.name)
    absent = {
        name: None
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name not in ("self", "args", "kwargs")
        and (parameter.default is parameter.empty or parameter.default is None)
    }
    pipeline = cls(**(absent | dict(components) | dict(options or {}) | {"scheduler": own}))
    # Constructors correct outdated configurations of the model's scheduler, and only of that one.
    scheduler = schedulers.make(own, request.scheduler, request.timestep_spacing, request.seeds)
    pipeline.scheduler = scheduler
    pipeline.vae_scale_factor = request.model.setting("factor")
    pipeline.set_progress_bar_config(disable=True)
    blending = None
    if request.repaint is not None:
        blending = Blending(pipeline, request.repaint, call["generator"], len(request.seeds), pack, unpack)
    samples = unpack(pipeline(**call, **_watched(step, further, unpack, blending)).images)
    if not bool(torch.isfinite(samples).all()):
        name = type(scheduler).__name__
        raise ValueError(f"{name} gave numbers that are not finite; take another scheduler or more steps")
    return Sampled(samples.cpu(), request.ended(call["generator"]))


def _watched(step: Step, further: Mapping[str, Any], unpack: Layout, blending: Blending | None) -> dict[str, Any]:
    """The further arguments with our own look at each step, and what is blended in, before the caller's."""
    theirs = further.get("callback_on_step_end")
    wanted = getattr(theirs, "tensor_inputs", None) or further.get("callback_on_step_end_tensor_inputs") or ["latents"]

    def report(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        changed = {}
        if blending is not None:
            changed["latents"] = tensors["latents"] = blending.after(index, tensors["latents"])
        step(index + 1, pipe.num_timesteps, unpack(tensors["latents"]))
        if theirs is None:
            return changed
        return changed | (theirs(pipe, index, time, {name: tensors[name] for name in wanted}) or {})

    inputs = list(dict.fromkeys([*wanted, "latents"]))
    return {**further, "callback_on_step_end": report, "callback_on_step_end_tensor_inputs": inputs}


NAMED_BY_SOCKETS = {
    "prompt": "positive",
    "prompt_2": "positive",
    "prompt_embeds": "positive",
    "pooled_prompt_embeds": "positive",
    "negative_prompt": "negative",
    "negative_prompt_2": "negative",
    "negative_prompt_embeds": "negative",
    "negative_pooled_prompt_embeds": "negative",
    "clip_skip": "encode_prompt's clip_skip",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "guidance_rescale": "guidance_rescale",
    "num_images_per_prompt": "count",
    "generator": "seed",
    "image": "latent, image or control",
    "mask_image": "mask",
    "control_image": "control",
    "controlnet_conditioning_scale": "apply_controlnet's scale",
    "control_guidance_start": "apply_controlnet's start",
    "control_guidance_end": "apply_controlnet's end",
    "guess_mode": "apply_controlnet's guess",
    "width": "width",
    "height": "height",
    "strength": "strength",
    "output_type": "decode_latent",
    "return_dict": "decode_latent",
}
"""Arguments of diffusers' pipelines that are inputs of the nodes, and what these are called there."""


REFUSED = {
    "ip_adapter_image": "no image encoder is loaded here; give ip_adapter_image_embeds",
    "padding_mask_crop": "it is for whole pictures; use crop_image before and composite after",
}
"""Arguments of diffusers' pipelines that a sampler cannot take, and what to do."""


def further_arguments(cls: Any, given: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    """`Request.arguments` as the pipeline takes them.

    Args:
        taken: What the request's inputs decide.

    Raises:
        ValueError: The pipeline does not name one, or an input of the node decides it.
    """
    parameters = inspect.signature(cls.__call__).parameters
    names = [name for name in parameters if name not in ("self", "kwargs")]
    for name in [*taken, *given]:
        if name in names:
            continue
        near = nearest(name, names) if name in given else []
        advice = f"; did you mean {' or '.join(near)}?" if near else ": leave it out"
        raise ValueError(f"{cls.__name__} takes no {name}{advice}")
    for name in given:
        if name in taken or name in NAMED_BY_SOCKETS:
            raise ValueError(f"{name} is no further argument: {NAMED_BY_SOCKETS.get(name, name)} says it")
        if name in REFUSED:
            raise ValueError(f"{name} cannot be given: {REFUSED[name]}")
    scaled = "scale" in (given.get("cross_attention_kwargs") or given.get("joint_attention_kwargs") or {})
    if scaled:
        raise ValueError("the attention's scale is that of LoRAs, and changes shared weights: give it to apply_lora")
    # Files hold lists; sizes and corners are tuples, which the pipelines add up.
    return {
        name: tuple(value) if isinstance(value, list) and "tuple" in str(parameters[name].annotation) else value
        for name, value in given.items()
    }
