"""The types of the standard pack's sockets: small frozen classes that import no torch.

Tensors are attributes, on the CPU between nodes. `Model`, its parts, `ControlNet`, `LoRA`, `Hypernetwork`, `IPAdapter`
and `Redux` are references to weights, see `references`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine_nodes.values.references import (
    VAE,
    ControlNet,
    Denoiser,
    Hypernetwork,
    IPAdapter,
    LoRA,
    Model,
    Redux,
    TextEncoder,
)

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    import torch

__all__ = [
    "VAE",
    "Conditioning",
    "Control",
    "ControlNet",
    "Denoiser",
    "Hypernetwork",
    "IPAdapter",
    "Image",
    "ImagePrompt",
    "Latent",
    "LoRA",
    "Mask",
    "Model",
    "Posterior",
    "RandomState",
    "Redux",
    "TextEncoder",
    "Turn",
]


Tensors = dict[str, "torch.Tensor"]
"""Tensors by name, as files of weights hold them."""


def tensor_line(values: torch.Tensor) -> str:
    """Shape and range of a tensor, for people."""
    shape = "[" + ", ".join(map(str, values.shape)) + "]"
    if not values.numel() or values.dtype.is_complex:
        return shape
    values = values.detach()
    if not values.dtype.is_floating_point or values.dtype.itemsize < 2:  # torch compares few kinds of numbers
        try:
            values = values.double()
        except NotImplementedError:  # several numbers in a byte
            return shape
    low, high = (float(bound) for bound in values.aminmax())
    return f"{shape} {low:.3g}..{high:.3g}"


def _line(*parts: str) -> str:
    return f"<{' '.join(part for part in parts if part)}>"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Image:
    """A picture or a batch of pictures.

    Attributes:
        pixels: float32 [B, H, W, 3], RGB in 0..1, on the CPU; not multiplied by alpha.
        alpha: float32 [B, H, W] in 0..1, on the CPU, 1 where it is opaque; None without transparency.
    """

    pixels: torch.Tensor
    alpha: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3:
            raise ValueError(f"an Image is [B, H, W, 3], this is {list(self.pixels.shape)}")
        if self.alpha is not None and self.alpha.shape != self.pixels.shape[:3]:
            wanted, found = list(self.pixels.shape[:3]), list(self.alpha.shape)
            raise ValueError(f"the alpha of this Image is [B, H, W] = {wanted}, this is {found}")

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as PIL orders them."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[1])

    @property
    def channels(self) -> torch.Tensor:
        """float32 [B, H, W, 3], or with alpha as a fourth channel [B, H, W, 4]."""
        import torch

        return self.pixels if self.alpha is None else torch.cat([self.pixels, self.alpha[..., None]], dim=-1)

    def opaque(self) -> Image:
        """The pictures over white, without alpha; those that have none as they are."""
        if self.alpha is None:
            return self
        weight = self.alpha[..., None]
        return Image(self.pixels * weight + (1.0 - weight))

    def split(self) -> list[Image]:
        """The pictures of the batch, each by itself."""
        alpha = [None] * len(self) if self.alpha is None else [self.alpha[n : n + 1] for n in range(len(self))]
        return [Image(self.pixels[n : n + 1], alpha[n]) for n in range(len(self))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
        """uint8 [H, W, 3] of a single picture, [B, H, W, 3] of several, with alpha 4 channels: what PIL and matplotlib
        take."""
        import numpy as np

        array = np.stack([np.asarray(picture) for picture in self.pils()])
        return np.asarray(array[0] if len(array) == 1 else array, dtype=dtype)

    def pil(self, index: int = 0) -> PIL.Image.Image:
        """One picture of the batch as a PIL picture, RGB or with alpha RGBA: 8 bits, rounded."""
        return self.pils()[index]

    def pils(self) -> list[PIL.Image.Image]:
        """Every picture as a PIL picture, RGB or with alpha RGBA: 8 bits, rounded."""
        from graphengine_nodes.values.picture_files import to_pil

        return to_pil(self.channels)

    def save(self, path: str | Path, text: Mapping[str, str] | None = None) -> list[Path]:
        """Write files, `name.png` or `name_0.png`, `name_1.png`, ...; the suffix (png, jpg, webp) decides the format.

        Without a suffix it is PNG. `text` is written into the files. JPEG has no transparency: the pictures lie over
        white there, and a warning says so.
        """
        from graphengine_nodes.values.picture_files import save_pictures

        return save_pictures(self.channels, Path(path), text or {})

    def __repr__(self) -> str:
        return _line("Image", tensor_line(self.pixels), "" if self.alpha is None else "with alpha")

    def _repr_png_(self) -> bytes:
        from graphengine_nodes.values.picture_files import sheet_png

        return sheet_png(self.channels)


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Mask:
    """A mask, or a batch of masks: where to paint.

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

    def __repr__(self) -> str:
        return _line("Mask", tensor_line(self.values))

    def _repr_png_(self) -> bytes:
        from graphengine_nodes.values.picture_files import sheet_png

        return sheet_png(self.values[..., None].expand(-1, -1, -1, 3))


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Posterior:
    """An encoded picture before anything is drawn from it: a diagonal Gaussian over latents.

    Attributes:
        mean, logvar: float [B, C, h, w] as the VAE's encoder gives them, on the CPU; [B, C, f, h, w] of VAEs of videos.
        family: The model family whose VAE encoded it.
        scaling: The entries of its VAE's configuration that convert to the denoiser's scale (`scaling_factor`, ...);
            empty where the family's pipelines convert by themselves.
    """

    mean: torch.Tensor
    logvar: torch.Tensor
    family: str
    scaling: Mapping[str, Any]

    def __repr__(self) -> str:
        return _line("Posterior", tensor_line(self.mean), self.family)


@dataclass(frozen=True, slots=True, repr=False)
class RandomState:
    """The state of a `torch.Generator`: the value that stands for a caller's generator in a graph.

    Attributes:
        device: The kind of device that it draws on, `cpu` or `cuda`.
        state: Its `get_state()` as bytes.
        shared: In a list, states with the same number above 0 are one generator, which draws for several pictures.
    """

    device: str
    state: bytes
    shared: int = 0

    def __repr__(self) -> str:
        return _line("RandomState", self.device)

    @classmethod
    def of(cls, generator: torch.Generator, shared: int = 0) -> RandomState:
        """The state of a generator now."""
        return cls(generator.device.type, generator.get_state().numpy().tobytes(), shared)

    def generator(self) -> torch.Generator:
        """Make a new generator with this state."""
        import torch

        generator = torch.Generator(self.device)
        self.restore(generator)
        return generator

    def restore(self, generator: torch.Generator) -> None:
        """Set a generator to this state."""
        import torch

        generator.set_state(torch.frombuffer(bytearray(self.state), dtype=torch.uint8))


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Latent:
    """Latents as a denoiser works on them.

    Attributes:
        samples: float [B, C, h, w], on the CPU; [B, C, f, h, w] in families whose VAE is one of videos; of a size
            without a model [B, 0, height / 8, width / 8].
        family: The model family that they belong to; empty for a size without a model, which fits every one.
        scale: The scale of the numbers: `denoiser`, which decoding converts, or `vae`.
        empty: Nothing was encoded: sampling starts from noise alone, only the size counts.
        random: The states of the caller's generators after sampling, if it gave any.
        done: How far it is denoised, as a fraction of its schedule; 1 is finished.
        drawn: Of an unfinished one, how often its generator was drawn from, each time for all its numbers.
        reached: Of an unfinished one, the class of the scheduler that denoised it, the timestep that is next, and the
            noise there, as the scheduler counts it; None where that is not known.
        fps: Of a video's latents, the frames a second that it is meant for; None for pictures.
    """

    samples: torch.Tensor
    family: str
    scale: str = "denoiser"
    empty: bool = False
    random: tuple[RandomState, ...] = ()
    done: float = 1.0
    drawn: int = 0
    reached: tuple[str, float, float] | None = None
    fps: float | None = None

    def __repr__(self) -> str:
        told = "empty" if self.empty else f"unfinished: done to {self.done:g}" if self.done < 1 else ""
        return _line("Latent", tensor_line(self.samples), self.family, told)


@dataclass(frozen=True, eq=False, slots=True)
class Turn:
    """What a prompt that changes is at some of the steps; of several turns that hold at a step the first counts.

    Attributes:
        embeds, pooled: As those of `Conditioning`.
        until: It holds before this fraction of the steps; None is the end.
        until_step: It holds before this step, counted from 0; None is the end.
        cycle: Which of how many steps in turn it holds at.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None
    until: float | None = None
    until_step: int | None = None
    cycle: tuple[int, int] = (0, 1)

    def holds(self, step: int, steps: int) -> bool:
        """Whether it holds at a step, counted from 0, of so many."""
        turn, period = self.cycle
        early = self.until is None or step < int(self.until * steps)
        return early and (self.until_step is None or step < self.until_step) and step % period == turn


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Conditioning:
    """One encoded prompt, or the absent one (which is not the empty one; each family reads it its own way).

    Attributes:
        embeds: float [1, tokens, width]; of the absent prompt what the family puts in its place.
        family: The model family whose text encoder made it.
        absent: No prompt was given.
        pooled: float [1, width] in families that have a pooled embedding.
        fallback: What the same text encoder gives for an absent prompt, by name (`embeds`, `pooled`): a sampler that
            is given no negative prompt takes it from its positive one.
        schedule: Of a prompt that changes with the steps: what it is at which; `embeds` are those of the beginning.
        joined: Of prompts that AND joins: all of them, each with its weight; `embeds` are those of the first.
        fields: Further tensors by name, in families that have them: `mask`, [1, tokens].
        seen: Digests of the reference pictures that the text encoder saw beside the text, in their order, each after
            the name of the pipeline that showed it.
    """

    embeds: torch.Tensor
    family: str
    absent: bool = False
    pooled: torch.Tensor | None = None
    fallback: Mapping[str, torch.Tensor] = field(default_factory=dict)
    schedule: tuple[Turn, ...] = ()
    joined: tuple[tuple[float, Conditioning], ...] = ()
    fields: Mapping[str, torch.Tensor] = field(default_factory=dict)
    seen: tuple[str, ...] = ()

    def __repr__(self) -> str:
        told = [f"{len(self.joined)} prompts joined"] if self.joined else []
        told += ["changing with the steps"] if self.schedule else []
        told += [f"with {len(self.seen)} pictures"] if self.seen else []
        return _line("Conditioning", tensor_line(self.embeds), self.family, "absent" if self.absent else "", *told)

    def at(self, step: int, steps: int) -> Conditioning:
        """What a prompt that changes is at a step, counted from 0, of so many."""
        if not self.schedule:
            return self
        turn = next(one for one in self.schedule if one.holds(step, steps))
        return replace(self, embeds=turn.embeds, pooled=turn.pooled, schedule=())

    @property
    def negative(self) -> Conditioning:
        """The absent prompt of the same text encoder."""
        found = {**self.fallback}
        embeds, pooled = found.pop("embeds"), found.pop("pooled", None)
        return Conditioning(embeds, self.family, True, pooled, self.fallback, fields=found, seen=self.seen)

    def tensor(self, name: str) -> torch.Tensor | None:
        """One of its tensors by name (`embeds`, `pooled`, a field); None if it has none of that name."""
        found = {"embeds": self.embeds, "pooled": self.pooled}
        return found[name] if name in found else self.fields.get(name)


@dataclass(frozen=True, eq=False, slots=True)
class Control:
    """A picture that is followed, with the ControlNet that steers by it.

    Attributes:
        controlnet: The weights; None where the checkpoint itself follows the picture (FLUX.1 Canny, Depth).
        image: The control picture (edges, depth, ...), one or one for each picture that is made.
        scale: How strongly it steers; 1.0 is full strength.
        guess: Steer only the guided half, weaker in the outer layers: the picture decides, not the prompt.
        start, end: The part of the steps in which it steers, as fractions of them.
        mode: Of a union ControlNet, which of its kinds of control pictures this is, counted from 0.
    """

    controlnet: ControlNet | None
    image: Image
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False
    mode: int | None = None


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class ImagePrompt:
    """Pictures as a prompt: what an IP-Adapter's image encoder makes of them.

    Attributes:
        embeds: float [1, n, width] of n pictures; of an adapter that follows patches [1, n, patches, width].
        negative: What stands for no picture, of the same shape.
        adapter: The digest of the IP-Adapter that they are for.
        source: Where this was loaded from, as shown to people.
        mask: float [1, n, H, W] of 0 and 1, 1 where a picture acts; None: everywhere.
    """

    embeds: torch.Tensor
    negative: torch.Tensor
    adapter: str
    source: str = ""
    mask: torch.Tensor | None = None

    def __repr__(self) -> str:
        return _line("ImagePrompt", tensor_line(self.embeds), self.source, "" if self.mask is None else "masked")
