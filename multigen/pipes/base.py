"""`BasePipe`, the base of all Pipe classes: a model, parameters, and the graph made of them, which `gen` runs.

The module is long because `BasePipe` has the documented methods that all Pipe classes share; arguments, drawing,
weights and the nodes of graphs have modules of their own.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import graphengine_nodes as std
from graphengine_nodes.values.types import Image, Latent

from graphengine import Graph
from graphengine.errors import ModelError, nearest
from graphengine.events import Event
from multigen.pipes import building
from multigen.pipes.arguments import check_range
from multigen.pipes.building import PROMPTS, PipeCall, plain_errors, with_multiplier
from multigen.pipes.kinds import Diffusers, ModelType, scheduler_name
from multigen.pipes.pictures import as_output
from multigen.pipes.random_draws import RandomDraws, random_draws
from multigen.pipes.weights import PipeWeights, Scheduling, spacing_of

__all__ = ["BasePipe"]

log = logging.getLogger(__name__)

NOT_PARAMETERS = frozenset({*PROMPTS, "image", "mask_image", "control_image", "generator"})
"""Arguments of diffusers' pipelines that are no parameters: `setup` or `gen` reads them itself."""


ALWAYS_KNOWN = ("generator", "seed", "scheduler", "clip_skip", "guidance_scale", "negative_prompt")
"""Inputs of `gen` that are more than an argument of a pipeline."""

SEEDS: Any = int | list[int]
"""The type of the input `seed`: one seed, or one for each picture."""


@functools.cache
def warn_once(text: str) -> None:
    """Warn once in a process, however many pictures it makes."""
    log.warning(text)


def _parameters_of_setup(cls: type) -> frozenset[str]:
    """The names that `setup` of a Pipe class and of its bases takes."""
    setups = [vars(base)["setup"] for base in cls.__mro__ if "setup" in vars(base)]
    parameters = [p for setup in setups for p in inspect.signature(setup).parameters.values()]
    return frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self")


class BasePipe:
    """A model with parameters: `setup` sets them; `gen` runs the graph made of them and of its inputs.

    Args:
        model_id: A folder in diffusers layout, a `.safetensors` file, a hub id, or `tiny`, the embedded model.
        sd_pipe_class: The class of diffusers that `pipe.pipe` is made of; by default the family's.
        pipe: A loaded pipeline of diffusers; `model_id` is a label then.
        model_type: The type that the model must have; None for any.
        device: The device to compute on, as torch writes it; by default a GPU if there is one.
        offload_device: The number of the GPU to which the weights are moved piece by piece while they are used.
        lpw: Long prompts without truncation, and weights in them: `(word:1.3)`, `[word]`.
        args: Those of diffusers' `from_pretrained`: `torch_dtype`, `variant`, `vae=...` and so on; `scheduler`; and
            `quantization`, how `gen` stores the denoiser's weights: `float8` or `int8`.

    Attributes:
        pipe_params: The parameters by the names that diffusers' pipelines have for them.
        listeners: Called with every event of the runs.
        progress: Whether `gen` shows bars, in a terminal or a notebook.

    Raises:
        RuntimeError: The model is of another type; there is no such device.
        ModelError: There is no such model, or it is damaged.
    """

    _class: ClassVar[Any] = Diffusers("StableDiffusionPipeline")
    _classxl: ClassVar[Any] = Diffusers("StableDiffusionXLPipeline")
    _classflux: ClassVar[Any] = Diffusers("FluxPipeline")
    _autopipeline: ClassVar[Any] = Diffusers("AutoPipelineForText2Image")
    _task: ClassVar[str | None] = None
    """The task of other families' records that it stands for; None if it takes none of these families."""
    _spacing: ClassVar[str | None] = None
    """The timestep spacing of a scheduler that is named without one."""
    _unnamed: ClassVar[frozenset[str]] = frozenset()
    """Inputs of `gen` beside the arguments of diffusers' pipelines."""

    def __init__(
        self,
        model_id: str | Path,
        sd_pipe_class: Any = None,
        pipe: Any = None,
        model_type: ModelType | None = None,
        device: Any = None,
        offload_device: int | None = None,
        lpw: bool = False,
        **args: Any,
    ) -> None:
        self._model_id = os.path.expanduser(model_id)
        self._pipe_class, self.lpw = sd_pipe_class, lpw
        self.pipe_params: dict[str, Any] = {}
        self.listeners: list[Callable[[Event], object]] = []
        self.progress = True
        self._weights = PipeWeights(self._model_id, pipe, device, offload_device, args)
        self._scheduler: str | None = self._weights.scheduler
        self._timestep_spacing: str | None = None
        self._pictures: dict[str, Any] = {}
        self._loras: list[tuple[str, float]] = []
        self._setup_loras: list[tuple[str, float]] = []
        self._hypernets: list[tuple[str, float]] = []
        self._last: tuple[Mapping[str, Any], RandomDraws] | None = None
        self._built: tuple[Any, Graph] | None = None
        if model_type is not None and model_type not in (self.model_type, self.model_type.name, self.model_type.value):
            named = getattr(model_type, "name", model_type)
            mine = self.model_type.name
            raise RuntimeError(f"{model_id} is a model of type {mine}, not {named}; leave model_type out")
        if not self.model_type.is_documented:
            self._family_class()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def model_id(self) -> str:
        """The model's id, as it was given."""
        return self._model_id

    @property
    def model_type(self) -> ModelType:
        """The model's family."""
        return ModelType.of(self._weights.family)

    @property
    def pipe(self) -> Any:
        """A pipeline of diffusers over the same weights. Changes to it count from the next `gen` on."""
        self._before_pipeline()
        return self._weights.pipeline(self._pipe_class or self._family_class(), self._scheduling())

    @pipe.setter
    def pipe(self, pipeline: Any) -> None:
        self._weights = PipeWeights(self._model_id, pipeline, self._weights.device, None, {})

    @property
    def scheduler(self) -> str | None:
        """The name of the scheduler that was set; None for the model's own."""
        return self._scheduler

    @property
    def hypernets(self) -> list[tuple[str, float]]:
        """Files and multipliers of the hypernetworks."""
        return self._hypernets

    @property
    def offload_gpu_id(self) -> int | None:
        """The GPU to which weights are moved while they are used."""
        return self._weights.offload_device

    @property
    def precision(self) -> str | None:
        """The type of numbers to compute with, as `load_model` takes it."""
        return self._weights.precision

    @property
    def pad(self) -> int:
        """The number that the sides of the model's pictures must be multiples of."""
        return self._weights.multiple

    @property
    def graph(self) -> Graph:
        """The graph of the last `gen`, or after `setup` that of the next; its inputs are prompts and seed."""
        self._weights.look()
        given, drawn = self._last or (self._arguments({"prompt": "", "seed": 0}), RandomDraws(0, 1))
        with plain_errors():
            return self._build(given, drawn)

    # --- parameters ---------------------------------------------------------------------------------------------------

    def setup(
        self,
        steps: int = 50,
        clip_skip: int = 0,
        loras: Sequence[Any] = (),
        scheduler: Any = None,
        timestep_spacing: str | None = None,
        guidance_scale: float | None = None,
        lpw: bool | None = None,
        **args: Any,
    ) -> None:
        """Set the parameters of the next calls of `gen`.

        Args:
            steps: Denoising steps.
            clip_skip: How many of the text encoder's last layers to leave out.
            loras: Files, folders or hub ids of LoRAs, or pairs of these with a multiplier.
            scheduler: A scheduler of diffusers by its class's name; by default the model's own.
            timestep_spacing: `leading`, `linspace` or `trailing`.
            guidance_scale: How strongly the prompt is followed.
            lpw: As in the constructor.
            args: Other arguments of the family's pipeline; unknown ones are ignored, with a warning.

        Raises:
            ValueError: A parameter is out of its limits, or there is no such scheduler.
            ModelError: There is no such LoRA, or it is damaged.
        """
        check_range("steps", steps, "at least 1", 1)
        check_range("clip_skip", clip_skip, "0 to 10", 0, 10)
        self._timestep_spacing = timestep_spacing
        self.try_set_scheduler({"scheduler": scheduler})
        self.lpw = self.lpw if lpw is None else lpw
        several = loras or ()
        if isinstance(several, str) or not isinstance(several, Iterable):
            several = [several]
        self._setup_loras = [with_multiplier(lora) for lora in several]
        for source, _ in self._setup_loras:
            std.load_lora(source)
        known = building.arguments_of(self._family_class()).keys() - NOT_PARAMETERS - {"num_inference_steps"}
        taken = {name: value for name, value in args.items() if name in known}
        for name in args.keys() - taken.keys():
            self._ignore_unknown(name, {*known, *_parameters_of_setup(type(self))})
        self.pipe_params = {**taken, "num_inference_steps": steps, "clip_skip": clip_skip}
        if guidance_scale is not None:
            self.pipe_params["guidance_scale"] = guidance_scale
        self._last, self._built = None, None

    def try_set_scheduler(self, inputs: Mapping[str, Any]) -> None:
        """Set the scheduler that inputs name, if they name one, for this and later calls.

        Raises:
            ValueError: There is no such scheduler.
        """
        scheduler = inputs.get("scheduler")
        if scheduler is not None:
            self._scheduler = scheduler_name(scheduler)
            self._weights.set_scheduler(self._scheduling())

    def load_lora(self, path: str | Path, multiplier: float = 1.0) -> None:
        """Add a LoRA.

        Raises:
            ModelError: There is no such file, or it is damaged.
        """
        source = os.path.expanduser(path)
        std.load_lora(source)
        self._loras.append((source, float(multiplier)))

    def add_hypernet(self, path: str | Path, multiplier: float | None = None) -> None:
        """Add a hypernetwork.

        Raises:
            ModelError: There is no such file, or it is damaged.
        """
        source = os.path.expanduser(path)
        std.load_hypernetwork(Path(source))
        self._hypernets.append((source, 1.0 if multiplier is None else float(multiplier)))

    def clear_hypernets(self) -> None:
        """Remove all hypernetworks."""
        self._hypernets = []

    def get_config(self) -> dict[str, Any]:
        """The configuration that makes the pictures, beside the inputs of `gen`."""
        self._weights.look()
        return {
            "hypernetworks": list(self._hypernets),
            "model_id": self.model_id,
            "scheduler": self._weights.scheduler_config(self._scheduling()),
            "loras": [*self._loras, *self._setup_loras],
            "dtype": self._weights.dtype,
            "lpw": self.lpw,
            **self.pipe_params,
        }

    # --- generating ---------------------------------------------------------------------------------------------------

    def gen(self, inputs: Mapping[str, Any]) -> Any:
        """Generate pictures.

        Args:
            inputs: `prompt`, `negative_prompt`, `generator` (one of torch or a list) or `seed`, `scheduler`, and every
                argument of the family's pipeline in diffusers. They count for this call. Prompts and generators may
                be lists, then that many pictures are made.

        Returns:
            A list of pictures that can be used as its first one; or what `output_type` names, as in diffusers: an
            array, a tensor in 0..1, or latents.

        Raises:
            ValueError: An input is wrong, or inputs contradict each other.
            ModelError: Weights are damaged or do not fit.
        """
        graph, values, drawn = self.call(inputs)
        output = str(self._last[0].get("output_type") or "pil") if self._last else "pil"
        with plain_errors():
            found = graph.run(
                ["latent"] if output == "latent" else ["latent", "image"],
                inputs=values,
                device=self._weights.device,
                listeners=self.listeners,
                progress=self.progress,
            )
        latent: Latent = found[0]
        drawn.leave(latent.random)
        return latent.samples if output == "latent" else as_output(found[1], output)

    def call(self, inputs: Mapping[str, Any]) -> tuple[Graph, dict[str, Any], RandomDraws]:
        """Make the graph that `gen` runs for these inputs, the graph's inputs, and the source of its noise.

        Raises:
            ValueError: As `gen` does.
        """
        given = self._arguments(inputs)
        prompts = given.get("prompt_embeds") if given.get("prompt") is None else building.listed(given["prompt"])
        if prompts is None or not len(prompts):
            raise ValueError("gen needs a prompt: gen({'prompt': ...})")
        each = given.get("num_images_per_prompt")
        if each is not None and each < 1:
            raise ValueError(f"num_images_per_prompt is {each}, but must be at least 1")
        count = len(prompts) * int(each or 1)
        several = count == 1 and isinstance(given.get("image"), Image)
        drawn = random_draws(given, len(given["image"]) if several else count)
        given = {**given, "generator": None, "seed": drawn.seed}
        texts = {name: given[name] for name in PROMPTS if isinstance(given.get(name), str)}
        self._weights.look()
        self._last = given, drawn
        with plain_errors():
            graph = self._graph_of(given, drawn)
        return graph, texts if drawn.generators else {**texts, "seed": drawn.seed}, drawn

    def prepare_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with inputs over them, by diffusers' names, as `gen` uses them."""
        return {name: value for name, value in self._arguments(inputs).items() if name not in self._pictures}

    def get_prompt_embeds(self, prompt: str, negative_prompt: str = "", clip_skip: int = 0) -> tuple[Any, ...]:
        """Encode a long or weighted prompt and its negative: embeddings, then pooled ones where the family has them."""
        self._weights.look()
        model = self._weights.node((*self._loras, *self._setup_loras), ())
        pair = std.encode_weighted(model, prompt, negative_prompt, clip_skip)
        pooled = [one.pooled for one in pair]
        return (*(one.embeds for one in pair), *(pooled if pooled[0] is not None else ()))

    # --- from inputs to a graph ---------------------------------------------------------------------------------------

    def _before_pipeline(self) -> None:
        """Hook: find what is needed before `pipe` is made."""

    def _latent(self, call: PipeCall) -> Latent:
        """The node that samples."""
        raise NotImplementedError

    def _image(self, call: PipeCall, image: Image) -> Image:
        """The node that finishes the decoded pictures; by default they stay as they are."""
        return image

    def _arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters and inputs, without those that neither the family's pipeline nor a Pipe knows."""
        given = {**self._pictures, **self.pipe_params, **inputs}
        if self._weights.guidance in given:
            given["guidance_scale"] = given.pop(self._weights.guidance)
        defaults = building.arguments_of(self._family_class())
        known = {*defaults, *self._pictures, *self._unnamed, *ALWAYS_KNOWN}
        for name in [name for name in given if name not in known]:
            del given[name]
            self._ignore_unknown(name, known)
        if self.model_type is ModelType.FLUX:
            given.pop("clip_skip", None)
            if (given.get("true_cfg_scale") or 1) <= 1 and given.pop("negative_prompt", None):
                self._ignore("negative_prompt", "; FLUX has no negative prompt, unless true_cfg_scale is over 1")
        return given

    def _ignore_unknown(self, name: str, known: Iterable[str]) -> None:
        if name in NOT_PARAMETERS:
            why = "; it is an input of gen"
        elif name == "num_inference_steps":
            why = "; setup calls it steps"
        else:
            near = nearest(name, known)
            why = f"; did you mean {' or '.join(near)}?" if near else ""
        self._ignore(name, why)

    def _ignore(self, name: str, why: str) -> None:
        shown = name if name.isidentifier() else f"{name!r:.60}"
        warn_once(f"{type(self).__name__} ignores {shown}{why}")

    def _family_class(self) -> Any:
        """The class of diffusers that the Pipe class stands for, with a model of this family.

        Raises:
            ModelError: It stands for none.
        """
        if self.model_type.is_documented:
            names = {"SD": "_class", "SDXL": "_classxl", "FLUX": "_classflux"}
            return getattr(self, names[self.model_type.name])
        found = self._weights.pipeline_class(self._task)
        if found is None:
            raise ModelError(
                f"{type(self).__name__} takes no models like {self.model_id}, of type {self.model_type.name}: take the "
                "nodes of graphengine"
            )
        return found

    def _scheduling(self) -> Scheduling:
        """Name and timestep spacing of the scheduler in the parameters."""
        return self._scheduler, self._timestep_spacing or (self._spacing if self._scheduler else None)

    def _graph_of(self, given: Mapping[str, Any], drawn: RandomDraws) -> Graph:
        """The graph of a call; the last graph again if only the graph's inputs differ."""
        inputs = {name for name in PROMPTS if isinstance(given.get(name), str)}
        inputs = inputs if drawn.generators else inputs | {"seed"}
        state = (
            {name: value for name, value in given.items() if name not in inputs},
            (sorted(inputs), drawn.count, type(drawn.seed).__name__, self._scheduling(), self.lpw),
            (*self._loras, *self._setup_loras), tuple(self._hypernets), self._weights.state,
        )  # fmt: skip
        if self._built is None or not building.alike(self._built[0], state):
            self._built = state, self._build(given, drawn)
        return self._built[1]

    def _build(self, given: Mapping[str, Any], drawn: RandomDraws) -> Graph:
        """Build the graph of a call."""
        defaults = building.arguments_of(self._family_class())
        with Graph(type(self).__name__) as graph:
            loras = (*self._loras, *self._setup_loras)
            model = self._weights.node(loras, self._hypernets, building.lora_scale(given))
            lpw = self.lpw and self.model_type is not ModelType.FLUX
            positive, negative = building.encoded(graph, model, self._weights.family, given, lpw)
            common = building.common(given, defaults, drawn.count) | self._scheduled(given)
            common["seed"] = drawn.seed if drawn.generators else graph.input("seed", SEEDS, drawn.seed)
            if negative:
                common["negative"] = negative[0] if len(negative) == 1 else negative
            call = PipeCall(given, model, positive[0] if len(positive) == 1 else positive, common)
            latent = self._latent(call)
            graph.output("latent", latent)
            graph.output("image", self._image(call, std.decode_latent(model, latent)))
        return graph

    def _scheduled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The scheduler of a call: from its inputs, else as a script set it on the pipeline, else from `setup`."""
        name, spacing = self._scheduling()
        if given.get("scheduler") is not None:
            name = scheduler_name(given["scheduler"])
            spacing = self._timestep_spacing or self._spacing
        elif self._weights.has_own_scheduler:
            return {}
        if name is not None:
            spacing = spacing_of(name, spacing)
        return {key: v for key, v in (("scheduler", name), ("timestep_spacing", spacing)) if v is not None}
