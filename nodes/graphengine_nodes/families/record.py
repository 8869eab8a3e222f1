"""The record of a model family as data: its components, tasks, text, latents, guidance and schedulers.

`flow.Flow` is the one body that reads it; a family of today is a `FAMILY = Flow(Record(...))`. What a family needs
beyond data are small functions, which stand in the record too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import Factors, PictureScales, SampleRequest
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.references import Model
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import LoraNames

if TYPE_CHECKING:
    import torch

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """How an argument of a denoiser belongs to the pictures that are made together.

    Attributes:
        by: `rows`: a tensor, or a list of tensors, with a row for each picture along `axis`; `list`: a list with an
            item for each picture; `shared`: the same for all of them, whatever its shape; `scalar`: a number or a flag;
            `state`: an object of one run, with rows of those pictures inside.
        axis: Of a tensor by rows, the axis that counts pictures.
    """

    by: Literal["rows", "list", "shared", "scalar", "state"]
    axis: int = 0


ROWS, LIST, SHARED, SCALAR, STATE = Axis("rows"), Axis("list"), Axis("shared"), Axis("scalar"), Axis("state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A pipeline of diffusers, and how a request becomes its arguments.

    Attributes:
        pipeline: Module and class below `diffusers.pipelines`.
        encodes: The pipeline encodes pictures with the VAE itself; else it gets a VAE without weights.
        names: The names of its arguments for `image`, `mask_image`, `control_image`, `references`, `first` and `last`,
            where it calls them otherwise; None for what it does not take. A video to start from is its `image` too.
        always: Makes the arguments that it always gets, by the request.
        single: It makes one picture in a call: several pictures are several calls.
        several: How many reference pictures it takes at most.
        needs: A setting that a model must have for it, and what is said of one that has not; after the model's name.
        seen: It paints over a picture of the size that `size` gives, which the text encoder has seen as a reference.
        alpha: It takes reference pictures with alpha as they are; else they lie over white.
        sized: It takes `width` and `height`.
        size: The size of the result by that of a reference picture, where the request names none; None for one of the
            model's own area with its aspect.
        decides: Which reference picture decides the size, counted as in a list.
        global_noise: It encodes pictures with draws from torch's global generator, which the seed does not decide: the
            VAE gives it draws of a generator of their own, which begins at the seed. Only with `single`.
        any_scheduler: Where it has a start, it takes schedulers of noise too: it asks them for noise by their own
            method, or begins at noise alone. Others have only that of flow matching's.
        raw: It takes the picture and the mask as they are where they are tensors: it wants the picture in -1..1 and the
            mask black and white, which others make of them.
    """

    pipeline: str
    encodes: bool = False
    names: Mapping[str, str | None] = field(default_factory=dict)
    always: Callable[[SampleRequest], Mapping[str, Any]] = lambda request: {}
    single: bool = False
    several: int = 1
    needs: tuple[str, str] | None = None
    seen: bool = False
    alpha: bool = False
    sized: bool = True
    size: Callable[[int, int], tuple[int, int]] | None = None
    decides: int = -1
    global_noise: bool = False
    any_scheduler: bool = False
    raw: bool = False

    def lacks(self, model: Model) -> str | None:
        """A sentence on a model that has not the setting which it needs; None of one that has."""
        if self.needs is None or model.setting(self.needs[0]):
            return None
        return f"{model.source} {self.needs[1]}"

    @property
    def class_name(self) -> str:
        """The name of the pipeline's class."""
        return self.pipeline.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What the models of a family have in common that are built alike.

    Attributes:
        tasks: The pipelines, by what a request holds: names of `family.ASKS` joined by `+`, empty for a prompt alone.
        settings: Default steps and guidance, and the sides in latents, by model_index.json, which may be empty, and the
            denoiser's configuration.
        options: Names of the constructor's options that model_index.json says; they enter the settings.
        guidance: Where it is another than the record's.
        classes: Of the components that are of another class than the record says, module and class, of each that they
            may be.
        text: How its prompts are encoded, where it is otherwise than the record says.
    """

    tasks: Mapping[str, Task]
    settings: Callable[[Config, Config], dict[str, Any]]
    options: Sequence[str] = ()
    guidance: Guidance | None = None
    classes: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    text: Text | None = None

    def task(self, asks: frozenset[str]) -> Task | None:
        """The task for what a request holds; None if there is none."""
        return next((task for name, task in self.tasks.items() if asked(name) == asks), None)


def asked(name: str) -> frozenset[str]:
    """What a request of a task holds, by the task's name."""
    return frozenset(filter(None, name.split("+")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """How prompts become conditioning, and conditioning the arguments of a pipeline.

    Attributes:
        returns: The names of what `encode_prompt` of the pipelines returns for one prompt, in its order: `embeds`,
            `pooled`, or a field; None for what is not kept. A list of one tensor stands for the tensor.
        arguments: The pipeline's arguments by these names; a negative prompt's are named `negative_...`.
        always: Arguments that `encode_prompt` always gets.
        second: The names of its arguments for further text encoders, which get `prompt_2`, or else the prompt.
        length: Its default of `max_sequence_length`, None where there is no such argument.
        absent: The text that stands for the absent prompt.
        negative: What guides where no negative prompt is given: `absent`, the absent prompt; `none`, no guidance.
        ragged: How prompts of several lengths go together: `list`, a list of tensors without padding; `padded`, with
            zeros up to the longest and a mask, the field `mask`; empty: all have one length.
        pictures: The name of its argument that takes reference pictures, where the text encoder sees them.
        shown: Makes what that argument gets; takes the pipeline and the pictures as PIL has them.
        skips: The text encoders whose last layers its argument `clip_skip` leaves out; empty where it has none.
        unseen: Makes what it reads of components that do not encode, by their names.
    """

    returns: Sequence[str | None]
    arguments: Mapping[str, str]
    always: Mapping[str, Any] = field(default_factory=dict)
    second: Sequence[str] = ()
    length: int | None = None
    absent: str = ""
    negative: Literal["absent", "none"] = "absent"
    ragged: Literal["", "list", "padded"] = ""
    pictures: str | None = None
    shown: Callable[[Any, Sequence[Any]], Any] = lambda pipeline, pictures: list(pictures)
    skips: Sequence[str] = ()
    unseen: Callable[[Model], Mapping[str, Any]] = lambda model: {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How the guidance scale of the nodes reaches a pipeline.

    Attributes:
        argument: The pipeline's argument that gets it.
        embedded: It is an input of the denoiser: there is no negative prompt, but for `real`.
        real: The further argument that guides by a negative prompt, above 1, where `argument` is embedded.
        off: At this scale and below there is no guidance by a negative prompt; infinite where there never is.
    """

    argument: str = "guidance_scale"
    embedded: bool = False
    real: str | None = None
    off: float = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of what is made.

    Attributes:
        width, height: In pixels.
        factor: The pixels a side of one latent.
        pipeline: The pipeline's class.
        frames: The frames of a video's latents.
    """

    width: int
    height: int
    factor: int
    pipeline: Any
    frames: int = 1


Layout = Callable[["torch.Tensor", Shape], "torch.Tensor"]


def as_it_is(latents: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The layout of pipelines that work on latents as they are between nodes."""
    return latents


def packed(latents: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Pack latents [n, C, h, w], or of one frame [n, C, 1, h, w], two by two, as FLUX's and Qwen-Image's pipelines have
    them: [n, h * w / 4, 4 * C]."""
    count, channels, *_, height, width = latents.shape
    found: torch.Tensor = shape.pipeline._pack_latents(latents, count, channels, height, width)
    return found


def unpacked(latents: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Unpack latents that FLUX's or Qwen-Image's pipelines have packed two by two: [n, C, h, w], or of one frame."""
    found: torch.Tensor = shape.pipeline._unpack_latents(latents, shape.height, shape.width, shape.factor)
    return found


def shifted(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """From the denoiser's scale to the VAE's: `scaling_factor` and, if there is one, `shift_factor`."""
    shift: float | None = getattr(vae.config, "shift_factor", None)
    found: torch.Tensor = latents / vae.config.scaling_factor
    return found if shift is None else found + shift


def by_channels(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """From the denoiser's scale to the VAE's, by a mean and a deviation for each channel of latents [n, C, f, h, w].

    In the order of the pipelines of Wan and Qwen-Image, which decides the last bits.
    """
    import torch

    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    per_std: torch.Tensor = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    return latents / per_std + mean


def exact_by_channels(config: Config) -> Config:
    """A mean and a deviation for each channel with which scaling changes no bit."""
    return {"latents_mean": [0.0] * len(config["latents_mean"]), "latents_std": [1.0] * len(config["latents_std"])}


def prompt_width(
    takes: tuple[str, int], gives: Callable[[Config], int]
) -> Callable[[Mapping[str, Config]], tuple[int, ...]]:
    """Make `prompt_widths` of a family with one text encoder.

    Args:
        takes: The entry of the denoiser's configuration that says the width, and its default.
        gives: The width by the configuration of the text encoder.
    """

    def widths(configs: Mapping[str, Config]) -> tuple[int, ...]:
        if "transformer" in configs:
            return (int(configs["transformer"].get(*takes)),)
        return (gives(configs["text_encoder"]),)

    return widths


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """The latents of a family.

    Attributes:
        family: The family whose latents and VAE these are, where that is another one.
        pack: From latents between nodes, [n, C, h, w] or [n, C, f, h, w], to those of the pipelines' loop.
        unpack_step: From those of the loop, as callbacks see them, to those between nodes.
        unpack: From a pipeline's result to those between nodes.
        of_loop: The latents of the loop's last step count, and not a pipeline's result, which is of another scale.
        to_vae: From the denoiser's scale to the VAE's; takes latents and the VAE.
        patch: How many latents a side the denoiser takes at once; with the VAE's factor, what sides are multiples of.
        frames: There is an axis of frames, and pictures are videos of one frame.
        keeps_state: The VAE keeps state inside while it works, so that each call has a clone of its own.
        statistics: Modules of the VAE whose weights the pipelines read themselves.
        exact: By the VAE's configuration, entries in place of its own with which the pipelines' scaling changes no bit.
    """

    family: str = ""
    pack: Layout = as_it_is
    unpack_step: Layout = as_it_is
    unpack: Layout = as_it_is
    of_loop: bool = False
    to_vae: Callable[[torch.Tensor, Any], torch.Tensor] = shifted
    patch: int = 2
    frames: bool = False
    keeps_state: bool = False
    statistics: Sequence[str] = ()
    exact: Callable[[Config], Config] = lambda config: {"scaling_factor": 1.0, "shift_factor": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A model family as data; see `Family` for what the entries mean to the nodes.

    Attributes:
        name: Its name.
        classes: Module and class of each component but the scheduler.
        parts: The components of each part of a model.
        optional: Components that some of its models do not have.
        beside: Components that its pipelines get beside the denoiser, where a model has them.
        variants: Its kinds of models by name; the first is that of a denoiser alone.
        variant: Which of them a model is, by its model_index.json, which may be empty, and the configuration of its
            denoiser; raises ValueError where it is none of them.
        boundary: By the configuration of a denoiser, the noise at which a second one takes over in the published models
            of two; None where there are none.
        text, guidance, latents: How it encodes, guides and lays out.
        adapted: Makes of the class of a pipeline the one that is used, where diffusers' takes not all that is encoded.
        schedulers: Names of the schedulers that it can use.
        scheduler, pipeline: The configuration of the published models' scheduler, and the class of their pipeline, for
            single files; without a class, that of the first task of the file's variant.
        index: Further entries of model_index.json for single files.
        owns_vae: Whether a VAE with a configuration may be of one of its models.
        vae_settings: What a VAE's configuration says beside `factor`, `latent_channels` and `multiple`.
        prompt_widths, encoder_widths: See `Family`.
        lora_names, owns_lora: How LoRAs call its layers, and whether one is for it beyond doubt.
        vae_scale, preview: Of its published VAE.
        axes: How each argument of its denoiser belongs to the pictures that are made together.
        controls: The arguments for ControlNets; takes the request and the loaded nets.
        lends: Its pipelines put modules of the denoiser into the ControlNet, of which each call has a clone of its own.
        image_prompts: The arguments that hold picture prompts; takes the request, the denoiser and the device.
        picture_scales: See `Family`.
        modes: See `Family.modes_of`.
        check: Refuses what its pipelines would ignore, or fail at with less clear words; raises ValueError.
        tokenizer: See `Family.packaged_tokenizer`.
    """

    name: str
    classes: Mapping[str, tuple[str, str]]
    parts: Mapping[str, Sequence[str]]
    optional: Sequence[str] = ()
    beside: Sequence[str] = ()
    variants: Mapping[str, Variant]
    variant: Callable[[Config, Config], str] = lambda index, config: ""
    boundary: Callable[[Config], float | None] = lambda config: None
    text: Text
    guidance: Guidance = Guidance()
    latents: Latents = Latents()
    adapted: Callable[[Any], Any] = lambda cls: cls
    schedulers: Sequence[str] = ("FlowMatchEulerDiscreteScheduler",)
    scheduler: Callable[[Contents], dict[str, Any]]
    pipeline: Callable[[Contents], str | None] = lambda held: None
    index: Callable[[Contents], Mapping[str, Any]] = lambda held: {}
    owns_vae: Callable[[Config], bool]
    vae_settings: Callable[[Config], dict[str, Any]]
    prompt_widths: Callable[[Mapping[str, Config]], tuple[int, ...]]
    encoder_widths: Collection[int] = ()
    lora_names: LoraNames
    owns_lora: Callable[[Header], bool] = lambda header: False
    vae_scale: Mapping[str, Any] = field(default_factory=dict)
    preview: Factors = ()
    axes: Mapping[str, Axis]
    controls: Callable[[SampleRequest, Sequence[Any]], dict[str, Any]] = arguments.one_control
    image_prompts: Callable[[SampleRequest, Any, str], dict[str, Any]] = lambda request, denoiser, device: {}
    picture_scales: PictureScales = ""
    lends: bool = False
    modes: Callable[[Config], int | None] = lambda config: None
    check: Callable[[SampleRequest, Task], None] = lambda request, task: None
    tokenizer: Callable[[str, Contents], Path | None] = lambda component, held: None

    @property
    def pipelines(self) -> frozenset[str]:
        """The names of the classes of its pipelines."""
        return frozenset(task.class_name for one in self.variants.values() for task in one.tasks.values())
