"""ComfyUI's socket types that mean more than the standard pack's; frozen classes that import no torch.

IMAGE and MASK are the standard pack's `Image` and `Mask`, VAE is its `VAE`. The classes have ComfyUI's names, which
clients read. MODEL, CLIP, CONTROL_NET, CLIP_VISION, STYLE_MODEL and UPSCALE_MODEL are references: their digests stand
in keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine_nodes.codecs import save_with
from graphengine_nodes.nodes.upscale import Upscaler
from graphengine_nodes.values.references import VAE, ControlNet, Denoiser, Redux, TextEncoder, digest_of
from graphengine_nodes.values.types import Conditioning, Control

from graphengine import SocketType, View, register_type
from graphengine_comfy.dataclass_codec import DataclassCodec, size

if TYPE_CHECKING:
    import torch

__all__ = [
    "CLIP",
    "CLIP_VISION",
    "CLIP_VISION_OUTPUT",
    "CONDITIONING",
    "CONTROL_NET",
    "GUIDER",
    "LATENT",
    "MODEL",
    "NOISE",
    "SAMPLER",
    "SIGMAS",
    "STYLE_MODEL",
    "UPSCALE_MODEL",
    "Entry",
]


# --- references to weights --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MODEL:
    """A denoiser with what is changed in how it is sampled.

    Attributes:
        denoiser: Its weights, with the LoRAs on them.
        vae: The configuration of the VAE that it was loaded with, as JSON, which says the scale of its latents; empty
            where it was loaded alone: then they have the scale of its family's published models.
        patches: Changes by name (`shift`, `differential`, ...), in the order in which they were made; of a name the
            last counts.
        shown_by: The digest of that VAE, for previews.
    """

    denoiser: Denoiser
    vae: str = ""
    patches: tuple[tuple[str, Any], ...] = ()
    shown_by: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.denoiser.digest(), self.vae, [list(patch) for patch in self.patches]])

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to sample with it."""
        return self.denoiser.needs()

    def patch(self, name: str, default: Any = None) -> Any:
        """A change by its name."""
        return dict(self.patches).get(name, default)

    @property
    def source(self) -> str:
        """Where it was loaded from, as shown to people."""
        return self.denoiser.source


@dataclass(frozen=True, slots=True)
class CLIP:
    """The text encoders of a model.

    Attributes:
        encoder: Their weights, with the LoRAs on them.
        stop_at: The layer whose output is taken, counted from the last, -1; None for the model's own.
        padding: How many tokens of padding follow a prompt of T5 at least.
    """

    encoder: TextEncoder
    stop_at: int | None = None
    padding: int = 0

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.encoder.digest(), self.stop_at, *([self.padding] if self.padding else [])])

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to encode with it."""
        return self.encoder.needs()

    @property
    def source(self) -> str:
        """Where it was loaded from, as shown to people."""
        return self.encoder.source


@dataclass(frozen=True, slots=True)
class CONTROL_NET:
    """A ControlNet; of a union, with the kind of control pictures that it follows.

    Attributes:
        net: Its weights.
        mode: Of a union ControlNet, the kind of control pictures, counted from 0.
        adapter: It is a T2I-Adapter, which ComfyUI loads and applies as ControlNets.
    """

    net: ControlNet
    mode: int | None = None
    adapter: bool = False

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.net.digest(), self.mode, *(["adapter"] if self.adapter else [])])

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to steer with it."""
        return frozenset() if self.adapter else self.net.needs()

    @property
    def source(self) -> str:
        """Where it was loaded from, as shown to people."""
        return self.net.source


@dataclass(frozen=True, slots=True)
class _ModelFile:
    """A file or folder among the models.

    Attributes:
        weights: Digest of the file or folder.
        source: Its name among the models.
    """

    weights: str
    source: str

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.weights, self.source])


@dataclass(frozen=True, slots=True)
class CLIP_VISION(_ModelFile):
    """An image encoder's file, which a style model reads pictures by."""


@dataclass(frozen=True, slots=True)
class STYLE_MODEL(_ModelFile):
    """A file that makes tokens of a prompt of what an image encoder reads (FLUX.1 Redux)."""


@dataclass(frozen=True, slots=True)
class UPSCALE_MODEL:
    """A model that makes pictures larger.

    Attributes:
        upscaler: Its weights.
    """

    upscaler: Upscaler

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return self.upscaler.digest()

    @property
    def source(self) -> str:
        """Where it was loaded from, as shown to people."""
        return self.upscaler.source


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """One encoded prompt of a CONDITIONING, with its options.

    Attributes:
        prompt: As the standard pack has it; `family` says whose text encoder made it.
        options: By ComfyUI's names: `guidance`; `start` and `end`, the part of sampling in which it acts; `strength`;
            `width`, `height`, `crop_w`, `crop_h`, `target_width`, `target_height` and `aesthetic_score` of SDXL;
            `concat_latent` and `concat_mask`, tensors of inpainting models; `references`, a list of latents, and
            `reference_method`, where they stand; `control_vae`, by which ControlNets read pictures; `adapters`,
            T2I-Adapters with their pictures.
        controls: The ControlNets that steer beside it, each with its picture.
    """

    prompt: Conditioning
    options: Mapping[str, Any] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class CONDITIONING:
    """Encoded prompts, each with options.

    Attributes:
        entries: At least one; of several the predictions are averaged.
    """

    entries: tuple[Entry, ...]


@dataclass(frozen=True, eq=False, slots=True)
class LATENT:
    """Latents in the scale of the VAE.

    Attributes:
        samples: float32 [B, C, h, w], or [B, C, f, h, w] of VAEs of videos, on the CPU; zeros are noise to be.
        noise_mask: float32 [B, 1, H, W] in 0..1 of any size, 1 where sampling changes them; None: everywhere.
        batch_index: For each picture its place in the batch that noise is drawn for; None: as they stand.
    """

    samples: torch.Tensor
    noise_mask: torch.Tensor | None = None
    batch_index: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class NOISE:
    """Noise that is to be drawn.

    Attributes:
        seed: The seed of the batch's generator, and of the noise that some samplers draw between the steps.
        begins: Whether sampling begins with noise; without it the latents are taken as they are.
    """

    seed: int
    begins: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class GUIDER:
    """What guides each step: a model with its prompts.

    Attributes:
        negative: None where the positive prompt guides alone.
        cfg: How strongly the positive prompt is preferred to the negative one; 1 is without the negative one.
    """

    model: MODEL
    positive: CONDITIONING
    negative: CONDITIONING | None
    cfg: float


@dataclass(frozen=True, slots=True)
class SAMPLER:
    """A method of sampling.

    Attributes:
        name: By ComfyUI's name.
        options: Of the method, by ComfyUI's names.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SIGMAS:
    """Levels of noise, falling.

    Attributes:
        values: One more than there are steps; of whole schedules the last is 0.
    """

    values: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class CLIP_VISION_OUTPUT:
    """A picture to be read by an image encoder; what reads it decides how.

    Attributes:
        encoder: The image encoder.
        pixels: float32 [B, H, W, 3] in 0..1.
        crop: Whether the middle is cut out, else the sides are stretched.
    """

    encoder: CLIP_VISION
    pixels: torch.Tensor
    crop: bool = True


# --- registration -----------------------------------------------------------------------------------------------------


CODEC = DataclassCodec(
    own=(
        MODEL,
        CLIP,
        CONTROL_NET,
        CLIP_VISION,
        STYLE_MODEL,
        UPSCALE_MODEL,
        Entry,
        CONDITIONING,
        LATENT,
        NOISE,
        GUIDER,
        SAMPLER,
        SIGMAS,
        CLIP_VISION_OUTPUT,
    ),
    registered=(Denoiser, TextEncoder, VAE, ControlNet, Redux, Upscaler, Conditioning, Control),
)


def _view_latent(value: LATENT) -> View:
    return View(text=f"latents {list(value.samples.shape)}{', masked' if value.noise_mask is not None else ''}")


def _view_conditioning(value: CONDITIONING) -> View:
    lines = [
        f"{entry.prompt.family}, {entry.prompt.embeds.shape[1]} tokens {sorted(entry.options)}"
        for entry in value.entries
    ]
    return View(text="\n".join(lines))


def _view(value: Any) -> View:
    if hasattr(value, "digest"):
        return View(text=f"{type(value).__name__} {value.source}\ndigest {value.digest()}")
    return View(text="\n".join(f"{field.name} {getattr(value, field.name)}" for field in fields(value)))


def _save_json(value: Any, path: Path, text: Mapping[str, str]) -> list[Path]:
    written = json.dumps({field.name: getattr(value, field.name) for field in fields(value)}, default=str, indent=1)
    return save_with(".json", lambda _: written.encode())(value, path, text)


def _register(cls: type[Any], view: Callable[[Any], View], **further: Any) -> None:
    """Register a class of this pack."""
    save = further.pop("save", save_with(".safetensors", CODEC.encode))
    functions = {"encode": CODEC.encode, "decode": CODEC.decode, "size": size, "view": view, "save": save, **further}
    register_type(SocketType(cls, cls.__name__, **functions))


for _cls in (MODEL, CLIP, CONTROL_NET, CLIP_VISION, STYLE_MODEL, UPSCALE_MODEL):
    _needs = {"needs": _cls.needs} if hasattr(_cls, "needs") else {}
    _register(_cls, _view, digest=_cls.digest, **_needs)
_register(CONDITIONING, _view_conditioning)
_register(LATENT, _view_latent)
for _plain in (NOISE, GUIDER, SAMPLER, SIGMAS, CLIP_VISION_OUTPUT):
    _register(_plain, _view, save=_save_json)
