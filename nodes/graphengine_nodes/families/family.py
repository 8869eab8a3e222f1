"""The protocol `Family` that a family module's `FAMILY` has, and the request and result of its sampler.

The module is long because each method of the protocol says here, once for all families, what it promises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.types import (
    Conditioning,
    Control,
    ControlNet,
    Image,
    ImagePrompt,
    Latent,
    Mask,
    Model,
    Posterior,
    RandomState,
)
from graphengine_nodes.values.video import Video
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import LoraNames

if TYPE_CHECKING:
    import torch

Step = Callable[[int, int, "torch.Tensor"], None]
"""Called after each step with the steps done, all steps, and the latents so far; may raise to stop."""


PictureScales = Literal["", "blocks", "layers"]
"""By names of a UNet's blocks, or as a list with a number for each layer."""

Factors = Sequence[tuple[float, float, float]]
"""For each latent channel, and last the constant, its part in R, G and B; see `graphengine_nodes.nodes.previews`."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Options of sampling that the nodes' inputs hand on to a family as they are.

    A new option is an input of the sampling nodes and a field of that name here; the families that have it read it.

    Attributes:
        steps: Denoising steps, at least 1.
        guidance_scale: How strongly the prompt is followed; 1 is off.
        guidance_scale_2: That of the steps with little noise, of models with a denoiser for them; None: the same.
        guidance_rescale: Against overexposure by guidance; None for the pipeline's own.
        scheduler: A class name of diffusers, or a sampler's of other tools; None for the model's.
        timestep_spacing: How timesteps are spread; None for the scheduler's own.
        scheduler_options: Of the scheduler's constructor, by diffusers' names; None for the model's own.
        width, height: In pixels; None where a latent or an image decides.
        strength: How much of the start is replaced, in 0..1; None for the pipeline's own.
        start, end: The part of the schedule to do, as fractions of it; None for the beginning and the end.
        arguments: Further arguments of the family's pipeline, by diffusers' names; others are refused.
    """

    steps: int
    guidance_scale: float
    guidance_scale_2: float | None = None
    guidance_rescale: float | None = None
    scheduler: str | None = None
    timestep_spacing: str | None = None
    scheduler_options: Mapping[str, Any] | None = None
    width: int | None = None
    height: int | None = None
    strength: float | None = None
    start: float | None = None
    end: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, inputs: Mapping[str, Any]) -> SamplingOptions:
        """The options among a node's inputs; where an input is None, the model's own setting, if it has one."""
        given = {option.name: inputs.get(option.name) for option in fields(cls)}
        found = {name: model.setting(name, None) if value is None else value for name, value in given.items()}
        return cls(**{name: value for name, value in found.items() if value is not None})


ASKS: Mapping[str, str] = {
    "image": "a picture to start from",
    "video": "a video to start from",
    "first": "a first picture",
    "last": "a last picture",
    "inpaint": "a picture with a mask",
    "references": "reference pictures",
    "controlnet": "a ControlNet",
    "control": "a control picture without a ControlNet",
}
"""What a request may hold beside prompts and numbers, by name, in words."""


def signed(seed: int) -> int:
    """A seed as torch takes it: 64 bits as a signed number."""
    return seed if seed < 2**63 else seed - 2**64


@dataclass(frozen=True, slots=True)
class Loop:
    """A caller's own way through the noise, for one call of a pipeline.

    Attributes:
        scheduler: In diffusers' form, with timesteps of its own.
        latents: What it begins at, with noise, in the pipeline's layout.
        answer: Answers the calls of the denoiser in its place, see `stand_in`; None: the denoiser does.
    """

    scheduler: Any
    latents: torch.Tensor
    answer: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One call of a family's sampler, everything resolved.

    Attributes:
        positive: One conditioning for each picture, or one for all.
        seeds: One for each picture that is made.
        negative: As positive; if empty, each positive one's own absent prompt is used.
        latent: What to start from; None for noise alone.
        control: Pictures that are followed, each with its ControlNet or, of a checkpoint that follows one, without.
        image, mask: For inpainting: the picture to paint over, one or one for each seed, and where to paint.
        references: Pictures that the result refers to, as an edit does to what is edited; of any sizes, one in each.
        repaint: For masked image to image: the original that is kept, softly, while `latent` is painted.
        random: Generators in place of the seeds: one for each picture, or one that all pictures are drawn from.
        image_prompts: One for each of the model's IP-Adapters, in their order.
        frames: Of a video, how many it has; None where pictures are made.
        first, last: The pictures that a video begins and ends with.
        loop: Makes the caller's own way through the noise, given the pipeline's layout of latents and the device: it
            stands in the place of the model's scheduler and of the noise that is drawn. Only without a start.
    """

    model: Model
    positive: Sequence[Conditioning]
    seeds: Sequence[int]
    options: SamplingOptions
    negative: Sequence[Conditioning] = ()
    latent: Posterior | Latent | None = None
    control: Sequence[Control] = ()
    image: Image | None = None
    mask: Mask | None = None
    repaint: Repaint | None = None
    random: tuple[RandomState, ...] = ()
    image_prompts: Sequence[ImagePrompt] = ()
    references: Sequence[Image] = ()
    frames: int | None = None
    first: Image | None = None
    last: Image | None = None
    loop: Callable[[Callable[[torch.Tensor], torch.Tensor], str], Loop] | None = None

    @property
    def nets(self) -> list[ControlNet]:
        """The ControlNets that steer, one for each control; none where the checkpoint itself follows pictures."""
        return [control.controlnet for control in self.control if control.controlnet is not None]

    @property
    def asks(self) -> frozenset[str]:
        """What it has beside prompts and numbers: of `ASKS` those that are there."""
        there = {
            "image": self.starts_from == "Img2Img" and self.frames is None,
            "video": self.starts_from == "Img2Img" and self.frames is not None,
            "first": self.first is not None,
            "last": self.last is not None,
            "inpaint": self.starts_from == "Inpaint",
            "references": bool(self.references),
            "controlnet": bool(self.nets),
            "control": len(self.nets) < len(self.control),
        }
        return frozenset(name for name, holds in there.items() if holds)

    @property
    def starts_from(self) -> Literal["", "Img2Img", "Inpaint"]:
        """The start as diffusers' pipelines have it in their names: noise alone, a latent, or a picture with a mask."""
        if self.mask is not None:
            return "Inpaint"
        return "Img2Img" if self.latent is not None and not self.options.start else ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures, in pixels."""
        if self.image is not None:
            return self.image.size
        width, height = self.options.width, self.options.height
        assert width is not None
        assert height is not None
        return width, height

    def generators(self) -> Any:
        """The generators that the pipeline draws from: a list with one for each picture, or one for all of them."""
        import torch

        if self.random:
            one: dict[int, Any] = {}
            found = [one.setdefault(s.shared or -n, s.generator()) for n, s in enumerate(self.random, start=1)]
            return found[0] if len(found) == 1 and len(self.seeds) > 1 else found
        return [torch.Generator("cpu").manual_seed(signed(seed)) for seed in self.seeds]

    def ended(self, generators: Any) -> tuple[RandomState, ...]:
        """The states of the caller's generators after the pipeline drew from them."""
        if not self.random:
            return ()
        return tuple(RandomState.of(one) for one in (generators if isinstance(generators, list) else [generators]))


@dataclass(frozen=True, slots=True)
class Repaint:
    """Masked image to image: before every step, what lies outside the mask is blended in again, freshly noised.

    Attributes:
        kept: The original's latents in the denoiser's scale, [B, C, h, w].
        weight: How far each of them is painted, [B, 1, h, w] in 0..1; 1 = paint.
    """

    kept: torch.Tensor
    weight: torch.Tensor


class Sampled(NamedTuple):
    """The result of a sampler.

    Attributes:
        samples: The latents of all pictures, [n, C, h, w] in the denoiser's scale, on the CPU.
        random: The states of the caller's generators afterwards; empty where seeds were given.
        drawn, reached: Of a run that was cut at its end; as those of `Latent`.
    """

    samples: torch.Tensor
    random: tuple[RandomState, ...] = ()
    drawn: int = 0
    reached: tuple[str, float, float] | None = None


class Words(NamedTuple):
    """A prompt as text.

    Attributes:
        text: None is the absent prompt.
        second: For a second text encoder; by default the text itself.
        negative: It is a negative prompt.
    """

    text: str | None
    second: str | None = None
    negative: bool = False


class Components(Protocol):
    """Opens the components of models: the store of weights, as families see it."""

    def component(self, model: Model, name: str, device: str) -> AbstractContextManager[Any]:
        """A component of a model on a device, while the context lasts."""

    def controlnet(self, reference: ControlNet, device: str, model: Model) -> AbstractContextManager[Any]:
        """A ControlNet on a device in a model's precision, while the context lasts."""

    def config(self, model: Model, name: str) -> Mapping[str, Any]:
        """The configuration of a component, without its weights."""


class Family(Protocol):
    """The protocol of a family module's `FAMILY`."""

    name: str
    schedulers: Sequence[str]
    """Names of the schedulers that it can use."""
    reads_marks: bool
    """Whether its prompts may hold weights and what else `encode_weighted` reads."""
    latents: str
    """The family whose latents it works on, where that is not itself; else empty."""
    parts: Mapping[str, Sequence[str]]
    """The components that each part of a model consists of: text_encoder, denoiser, vae."""
    optional: Collection[str]
    """Those components that some of its models do not have."""
    needs: Mapping[str, Sequence[str]]
    """The other parts whose weights a part's results depend on, if any."""
    stems: Mapping[str, str | None]
    """The name of each component's weight files in diffusers layout; None where it has no weights."""

    picture_scales: PictureScales
    """How the scale of an IP-Adapter is given by parts of its denoiser; empty where its models take no IP-Adapters."""

    preview: Factors
    """The preview map of its published VAE; empty where it is not known."""

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        """Whether a diffusers folder with this model_index.json is one of the family's models."""

    def owns_file(self, header: Header) -> bool:
        """Whether a single-file checkpoint with these tensors is one of the family's models."""

    tokenizers: Mapping[str, str]
    """The classes of its tokenizers in transformers, by component."""

    encoder_widths: Collection[int]
    """The widths of the text encoders of its published models; empty where no other family has such text encoders."""

    def encoder_classes(self, component: str) -> frozenset[str]:
        """The classes of transformers that a text encoder of its models may be, by component."""

    def configurations(self, held: Contents) -> dict[str, dict[str, Any]]:
        """The configurations of a single file by path, as a folder in diffusers layout has them.

        Raises:
            ModelError: The file leaves something open that they need.
        """

    def packaged_tokenizer(self, component: str, held: Contents) -> Path | None:
        """The folder of a tokenizer that an installed package holds; None for one that none holds.

        Raises:
            ModelError: The package is not installed.
        """

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        """Whether a ControlNet with this configuration steers the family's models."""

    def modes_of(self, config: Mapping[str, Any]) -> int | None:
        """How many kinds of control pictures a ControlNet with this configuration follows; None if it is no union."""

    def owns_lora(self, header: Header) -> bool:
        """Whether a LoRA with these tensors is for the family beyond doubt."""

    classes: Mapping[str, tuple[str, str]]
    """Module and class of each component but the scheduler."""
    vae_scale: Mapping[str, float]
    """The scale of its published VAEs, which no tensor tells, as their configurations have it."""

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        """Whether a denoiser with this configuration is of one of the family's models."""

    def owns_vae(self, config: Mapping[str, Any]) -> bool:
        """Whether a VAE with this configuration may be of one of the family's models."""

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        """What a denoiser's configuration says of the settings; `width` and `height` count latents, not pixels.

        Args:
            where: Where the configuration is, for messages.

        Raises:
            ModelError: It is a denoiser of the family that cannot be used.
        """

    def paired_settings(self, config: Mapping[str, Any], boundary_ratio: float | None, source: str) -> dict[str, Any]:
        """What two denoisers with a configuration say of the settings, but for the size.

        Args:
            boundary_ratio: Of the noise at which the second takes over; None for that of the published model.
            source: What they were loaded from, for messages.

        Raises:
            ModelError: The family has no such models.
        """

    def vae_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a VAE's configuration says of the settings: `factor`, `latent_channels` and, if need be, `multiple`."""

    def prompt_widths(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        """The widths of the prompts that a denoiser takes, by its configuration; by text encoders', that they give."""

    def settings(self, folder: Path) -> dict[str, Any]:
        """Default steps, size and guidance, and the shape of latents, from a folder's configuration files.

        Among them are `factor`, the pixels a side of one latent; `multiple`, of which sides must be multiples, where it
        is not `factor`; and `latent_channels`.

        Raises:
            ModelError: It is a model of the family that cannot be used.
        """

    def load(self, component: str, location: Location, dtype: torch.dtype | None, small: bool = False) -> Any:
        """Read one component (or `controlnet`) into memory, on the CPU.

        Args:
            small: Keep matrices that the files have in fp8 or int8 with scales as they are.
        """

    lora_names: LoraNames
    """The names by which LoRAs call the layers of its models."""

    def add_loras(
        self,
        component: str,
        module: Any,
        loras: Sequence[tuple[str, Path, float]],
        partial: Collection[str] = (),
    ) -> None:
        """Put LoRAs (name, file, scale) into a module that nobody else uses.

        Args:
            partial: The names of those whose changes without a place are left out with a warning.

        Raises:
            ModelError: A LoRA does not fit the module.
        """

    def encode_prompt(
        self,
        store: Components,
        model: Model,
        prompt: str | None,
        clip_skip: int,
        device: str,
        prompt_2: str | None = None,
        max_sequence_length: int | None = None,
        references: Sequence[Image] = (),
    ) -> Conditioning:
        """Encode a prompt, or the absent prompt (None).

        Args:
            prompt_2: For a second text encoder, by default the prompt itself.
            max_sequence_length: Tokens that the second text encoder reads, where it has no fixed length.
            references: The pictures that a prompt speaks of, where the text encoder sees pictures; else they say
                nothing to it.
        """

    def encode_weighted(
        self, store: Components, model: Model, prompts: Sequence[Words], clip_skip: int, device: str
    ) -> list[Conditioning]:
        """Encode prompts of any length with weights, to one length; see the node.

        Raises:
            ValueError: The family knows no weights.
        """

    def lacks(self, model: Model) -> str | None:
        """A sentence on an optional component that a model of joined parts needs and has not; None if it has all."""

    def size_of(self, model: Model, references: Sequence[Image]) -> tuple[int, int] | None:
        """The size of what is made with reference pictures, where nothing else says it; None for the model's own."""

    def encode_image(self, store: Components, model: Model, image: Image, device: str) -> Posterior: ...

    def foresee(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with a sampler's inputs for a model, as far as it is known before anything is loaded.

        Args:
            given: The inputs that are given; `graphengine.UNKNOWN` for what links bring.
        """

    def sample(self, store: Components, request: SampleRequest, device: str, step: Step) -> Sampled:
        """Denoise, and call `step` after each step."""

    def decode(self, store: Components, model: Model, latent: Latent, device: str) -> Image: ...

    def encode_video(self, store: Components, model: Model, video: Video, device: str) -> Posterior:
        """Encode a video.

        Raises:
            ValueError: The family makes no videos.
        """

    def decode_video(self, store: Components, model: Model, latent: Latent, fps: float, device: str) -> Video:
        """Decode the latents of one video.

        Raises:
            ValueError: The family makes no videos.
        """
