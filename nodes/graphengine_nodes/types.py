"""The types of the standard pack's sockets: small frozen classes that import no torch.

Tensors are attributes, on the CPU between nodes. `Model`, `ControlNet` and `LoRA` are references: they say which
weights by digests, and the weight store finds the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    import torch

__all__ = [
    "Conditioning",
    "Control",
    "ControlNet",
    "Hypernetwork",
    "Image",
    "Latent",
    "LoRA",
    "Mask",
    "Model",
    "Posterior",
    "RandomState",
]


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """One picture or a batch of them.

    Attributes:
        pixels: float32 [B, H, W, 3], RGB in 0..1, on the CPU.
    """

    pixels: torch.Tensor

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3:
            raise ValueError(f"an Image is [B, H, W, 3], this is {list(self.pixels.shape)}")

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as PIL orders them."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
        """uint8 [H, W, 3] of a single picture, [B, H, W, 3] of several: what PIL and matplotlib take."""
        import numpy as np

        array = np.stack([np.asarray(picture) for picture in self.pils()])
        return np.asarray(array[0] if len(array) == 1 else array, dtype=dtype)

    def pil(self, index: int = 0) -> PIL.Image.Image:
        """One picture of the batch as PIL has it: 8 bits, rounded."""
        return self.pils()[index]

    def pils(self) -> list[PIL.Image.Image]:
        """Every picture as PIL has it: 8 bits, rounded."""
        from graphengine_nodes.codecs import to_pil

        return to_pil(self.pixels)

    def save(self, path: str | Path, text: Mapping[str, str] | None = None) -> list[Path]:
        """Write PNG files, `name.png` or `name_0.png`, `name_1.png`, ...; `text` goes into their text chunks."""
        from graphengine_nodes.codecs import save_png

        path = Path(path)
        return save_png(self.pixels, path.with_suffix("") if path.suffix.lower() == ".png" else path, text or {})

    def _repr_png_(self) -> bytes:
        from graphengine_nodes.codecs import sheet_png

        return sheet_png(self.pixels)


@dataclass(frozen=True, eq=False, slots=True)
class Mask:
    """Where to paint.

    Attributes:
        values: float32 [B, H, W] in 0..1, on the CPU; 1 = repaint, 0 = keep.
    """

    values: torch.Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise ValueError(f"a Mask is [B, H, W], this is {list(self.values.shape)}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.values.shape[2]), int(self.values.shape[1])


@dataclass(frozen=True, eq=False, slots=True)
class Posterior:
    """An encoded picture before anything is drawn from it: a diagonal Gaussian over latents.

    Attributes:
        mean, logvar: float [B, C, h, w] as the VAE's encoder gives them, on the CPU.
        family: The model family whose VAE encoded it.
        scaling: What its VAE's configuration says about the step to the denoiser's scale (`scaling_factor`, ...).
    """

    mean: torch.Tensor
    logvar: torch.Tensor
    family: str
    scaling: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where a `torch.Generator` stands: what a caller's generator is in a graph.

    Attributes:
        device: The kind of device that it draws on, `cpu` or `cuda`.
        state: Its `get_state()` as bytes.
    """

    device: str
    state: bytes

    @classmethod
    def of(cls, generator: torch.Generator) -> RandomState:
        """Where a generator stands now."""
        return cls(generator.device.type, generator.get_state().numpy().tobytes())

    def generator(self) -> torch.Generator:
        """A new generator that stands there."""
        import torch

        generator = torch.Generator(self.device)
        self.restore(generator)
        return generator

    def restore(self, generator: torch.Generator) -> None:
        """Bring a generator there."""
        import torch

        generator.set_state(torch.frombuffer(bytearray(self.state), dtype=torch.uint8))


@dataclass(frozen=True, eq=False, slots=True)
class Latent:
    """Latents as a denoiser works on them.

    Attributes:
        samples: float [B, C, h, w], on the CPU.
        family: The model family that they belong to.
        scale: `denoiser` where the denoiser's scale is meant (decoding undoes it), `vae` where the VAE's is.
        empty: Nothing was encoded: sampling starts from noise alone, only the size counts.
        random: Where the caller's generators stood after sampling, if it gave any.
    """

    samples: torch.Tensor
    family: str
    scale: str = "denoiser"
    empty: bool = False
    random: tuple[RandomState, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Conditioning:
    """One encoded prompt, or the absent one (which is not the empty one; each family reads it its own way).

    Attributes:
        embeds: float [1, tokens, width]; of the absent prompt what the family puts in its place.
        family: The model family whose text encoder made it.
        absent: No prompt was given.
        pooled: float [1, width] in families that have a pooled embedding.
        fallback: What the same text encoder gives for an absent prompt, by name (`embeds`, `pooled`): a sampler that
            is given no negative prompt takes it from its positive one.
    """

    embeds: torch.Tensor
    family: str
    absent: bool = False
    pooled: torch.Tensor | None = None
    fallback: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def negative(self) -> Conditioning:
        """The absent prompt of the same text encoder."""
        return Conditioning(self.fallback["embeds"], self.family, True, self.fallback.get("pooled"), self.fallback)


# --- references to weights --------------------------------------------------------------------------------------------


def digest_of(canonical: Any) -> str:
    """A digest of JSON data."""
    return hashlib.blake2b(json.dumps(canonical, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class LoRA:
    """A low-rank change of a model's weights.

    Attributes:
        weights: Digest of the file.
        parts: The parts of a model that it changes (`denoiser`, `text_encoder`).
        source: Where it came from, for people.
    """

    weights: str
    parts: tuple[str, ...]
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """What it adds to a key."""
        return self.weights


@dataclass(frozen=True, slots=True)
class Hypernetwork:
    """Small networks before the keys and values of a denoiser's attention.

    Attributes:
        weights: Digest of the file.
        source: Where it came from, for people.
    """

    weights: str
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """What it adds to a key."""
        return self.weights


@dataclass(frozen=True, slots=True)
class ControlNet:
    """A ControlNet's weights.

    Attributes:
        family: The model family that it steers.
        weights: Digest of its files.
        precision: As a model's.
        source: Where it came from, for people.
    """

    family: str
    weights: str
    precision: str | None = None
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """What it adds to a key."""
        return digest_of([self.family, self.weights, self.precision])


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "quantization": ("denoiser",),
    "channels_last": ("denoiser",),
    "compile": ("denoiser",),
    "tiling": ("vae",),
    "slicing": ("vae",),
    "offload": (),
    "offload_device": (),
}
"""How a model may be held and computed, and the parts of it whose results that can change."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model: which weights, and what is applied to them. Data only; it can be written to a file and sent.

    Attributes:
        family: Name of the module that knows how it encodes, samples and decodes.
        components: Digest of each component (`unet`, `vae`, ...): its files' contents.
        settings: What its own files say beside the weights: default steps, size, guidance, shape of its latents.
        precision: `float32`, `float16`, `bfloat16`, or None for what suits the device.
        loras: LoRAs with their scales, in the order in which they were applied.
        hypernetworks: Hypernetworks with their multipliers, in the order in which they were applied.
        options: How it is held and computed, of `OPTIONS`; sorted, and only what differs from the default.
        source: Where it came from, for people: a name, never a folder of somebody's machine.
    """

    family: str
    components: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, Any], ...] = ()
    precision: str | None = None
    loras: tuple[tuple[LoRA, float], ...] = ()
    hypernetworks: tuple[tuple[Hypernetwork, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    source: str = field(default="", compare=False)

    def component(self, name: str) -> str:
        """The digest of a component."""
        return dict(self.components)[name]

    def setting(self, name: str, default: Any = None) -> Any:
        """One of the settings."""
        return dict(self.settings).get(name, default)

    def option(self, name: str, default: Any = None) -> Any:
        """One of the options."""
        return dict(self.options).get(name, default)

    def with_options(self, **options: Any) -> Model:
        """The same model with other options; None takes one back."""
        merged = dict(self.options) | options
        kept = tuple(sorted((name, value) for name, value in merged.items() if value is not None))
        return replace(self, options=kept)

    def loras_of(self, part: str) -> tuple[tuple[LoRA, float], ...]:
        """The LoRAs that change a part."""
        return tuple((lora, scale) for lora, scale in self.loras if part in lora.parts)

    def digest(self, part: str | None = None) -> str:
        """What the model, or one part of it, adds to a key: everything that can change a result.

        Parts are `text_encoder`, `denoiser` and `vae`, or several of them joined by `+`. Source, device and offload
        are not in it.

        Raises:
            ValueError: The family's models have no such part.
        """
        from graphengine_nodes.families import family

        parts = family(self.family).parts
        names = sorted(parts) if part is None else sorted(set(part.split("+")))
        for name in names:
            if name not in parts:
                raise ValueError(f"a {self.family} model has no part {name!r}; its parts are {', '.join(parts)}")
        wanted = {name: parts[name] for name in names}
        used = {component for inside in wanted.values() for component in inside}
        return digest_of(
            {
                "family": self.family,
                "components": {name: digest for name, digest in self.components if name in used},
                # How many steps are the default is the sampler's business alone.
                "settings": dict(self.settings) if "denoiser" in wanted else {},
                "precision": self.precision,
                "loras": {name: [[lora.weights, scale] for lora, scale in self.loras_of(name)] for name in wanted},
                "hypernetworks": [[h.weights, m] for h, m in self.hypernetworks if "denoiser" in wanted],
                "options": [[o, value] for o, value in self.options if wanted.keys() & set(OPTIONS[o])],
            }
        )


@dataclass(frozen=True, eq=False, slots=True)
class Control:
    """A ControlNet with the picture that it follows.

    Attributes:
        controlnet: The weights.
        image: The control picture (edges, depth, ...), one or one for each picture that is made.
        scale: How strongly it steers; 1.0 is full strength.
        guess: Steer only the guided half, weaker in the outer layers: the picture decides, not the prompt.
        start, end: The part of the steps in which it steers, as fractions of them.
    """

    controlnet: ControlNet
    image: Image
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False
