"""References to weights: small frozen values that name weights by digests, and hold what is applied to them.

They are data, for which the weight store finds the bytes; only loaded objects, which Python callers hand in, are not.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from graphengine import ModelError, NotData, socket_type


def digest_of(canonical: Any) -> str:
    """The digest of JSON data."""
    return hashlib.blake2b(json.dumps(canonical, sort_keys=True).encode(), digest_size=16).hexdigest()


class Held(str):
    """The digest of an object that a Python caller handed in: valid in this process only.

    The digest keeps the object alive. No result that depends on it is remembered, since its changes cannot be seen.
    """

    held: Any

    @classmethod
    def of(cls, held: Any) -> Held:
        """Make the digest of an object: a random one."""
        digest = cls(f"object:{secrets.token_hex(16)}")
        digest.held = held
        return digest

    def __deepcopy__(self, memo: Any) -> Held:
        return self


def check_data(source: str, *digests: str) -> None:
    """Refuse references that are no data.

    Raises:
        NotData: A digest stands for an object of this process.
    """
    for digest in digests:
        if isinstance(digest, Held):
            kind = type(digest.held).__name__
            raise NotData(f"{source} holds a {kind} that was handed in from Python, which only this process has")


@dataclass(frozen=True, slots=True)
class LoRA:
    """A change of a model's weights, layer by layer: low-rank, or of another form.

    Attributes:
        weights: Digest of the file.
        parts: The parts of a model that it changes (`denoiser`, `text_encoder`).
        families: The families that it can be for; empty where its file does not tell.
        source: Where it was loaded from, as shown to people.
        partial: Where it is applied, changes that have no place in the model are left out.
        noise: Of a model with two denoisers, the one that it changes: `high` that of the steps with much noise, `low`
            that of the others, `both`; empty for other models.
    """

    weights: str
    parts: tuple[str, ...]
    families: tuple[str, ...] = ()
    source: str = field(default="", compare=False)
    partial: bool = False
    noise: str = ""

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return self.weights


@dataclass(frozen=True, slots=True)
class Hypernetwork:
    """Small networks before the keys and values of a denoiser's attention.

    Attributes:
        weights: Digest of the file.
        source: Where it was loaded from, as shown to people.
    """

    weights: str
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return self.weights


@dataclass(frozen=True, slots=True)
class Embedding:
    """A textual inversion: vectors in the place of words.

    Attributes:
        weights: Digest of the file.
        vectors: How many there are, each in the place of a token.
        source: Where it was loaded from, as shown to people.
    """

    weights: str
    vectors: int
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class IPAdapter:
    """An IP-Adapter: layers beside a denoiser's attention that follow pictures, and the network that reads these.

    Attributes:
        weights: Digest of the file.
        encoder: Digest of its image encoder's files.
        kind: What it follows of a picture: `plain` its embedding as a whole, `plus` and `full` each of its patches.
        families: The families that it can be for; empty where its file does not tell.
        precision: The image encoder's, as a model's.
        source: Where it was loaded from, as shown to people.
    """

    weights: str
    encoder: str
    kind: str
    families: tuple[str, ...] = ()
    precision: str | None = None
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.weights, self.encoder, self.precision])

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to encode pictures with it."""
        return frozenset({self.encoder})


@dataclass(frozen=True, slots=True)
class Redux:
    """FLUX.1 Redux: the networks that make tokens of a prompt out of pictures.

    Attributes:
        weights: Digest of the files of its embedder.
        encoder: Digest of its image encoder's files.
        precision: As a model's.
        source: Where it was loaded from, as shown to people.
    """

    weights: str
    encoder: str
    precision: str | None = None
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.weights, self.encoder, self.precision])

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to use it."""
        return frozenset({self.weights, self.encoder})


@dataclass(frozen=True, slots=True)
class ControlNet:
    """A ControlNet's weights.

    Attributes:
        family: The model family that it steers.
        weights: Digest of its files.
        precision: As a model's.
        source: Where it was loaded from, as shown to people.
        modes: Of a union ControlNet, how many kinds of control pictures it can follow; None for others.
    """

    family: str
    weights: str
    precision: str | None = None
    source: str = field(default="", compare=False)
    modes: int | None = field(default=None, compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys.

        Raises:
            NotData: It is an object of this process.
        """
        check_data(self.source, self.weights)
        return digest_of([self.family, self.weights, self.precision])

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to compute with it."""
        return frozenset({self.weights})


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "quantization": ("denoiser",),
    "channels_last": ("denoiser",),
    "compile": ("denoiser",),
    "tiling": ("vae",),
    "slicing": ("vae",),
    "offload": (),
    "offload_device": (),
}
"""The options of a model, and for each the parts of the model whose results it can change."""


SETTINGS: Mapping[str, tuple[str, ...]] = {
    "max_sequence_length": ("text_encoder",),
    "variant": ("text_encoder", "denoiser"),
    "prompt_width": ("text_encoder",),
    "kontext": (),
}
"""The parts of a model whose results a setting can change, where that is not the denoiser alone."""


@dataclass(frozen=True, slots=True, repr=False)
class Model:
    """A reference to a model's weights, with what is applied to them. Data only; it can be written to a file and sent.

    Attributes:
        family: Name of the module that knows how it encodes, samples and decodes.
        components: Digest of each component (`unet`, `vae`, ...): its files' contents.
        settings: From its configuration files: default steps, size and guidance, the shape of its latents.
        precision: `float32`, `float16`, `bfloat16`, or None for what suits the device.
        loras: LoRAs with their scales, in the order in which they were applied.
        hypernetworks: Hypernetworks with their multipliers, in the order in which they were applied.
        options: Those of `OPTIONS` that differ from the default, sorted.
        source: Where it was loaded from, as shown to people: a name, never a folder of a machine.
        embeddings: Textual inversions by the names that prompts give them, in the order in which they were applied.
        ip_adapters: IP-Adapters with their scales, in the order in which they were applied; a scale for each block is
            JSON text.
    """

    family: str
    components: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, Any], ...] = ()
    precision: str | None = None
    loras: tuple[tuple[LoRA, float], ...] = ()
    hypernetworks: tuple[tuple[Hypernetwork, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    source: str = field(default="", compare=False)
    embeddings: tuple[tuple[str, Embedding], ...] = ()
    ip_adapters: tuple[tuple[IPAdapter, float | str], ...] = ()

    def __repr__(self) -> str:
        parts = [f"<Model {self.family}" + (f" from {self.source}" if self.source else "")]
        parts += [self.precision] if self.precision else []
        for name, applied in (("LoRA", self.loras), ("hypernetwork", self.hypernetworks)):
            parts += [f"{name} {part.source or part.weights[:12]} x {scale:g}" for part, scale in applied]
        parts += [f"embedding {name}" for name, _ in self.embeddings]
        parts += [f"IP-Adapter {one.source or one.weights[:12]} x {scale}" for one, scale in self.ip_adapters]
        parts += [f"{name}={value}" for name, value in self.options]
        return ", ".join(parts) + ">"

    def component(self, name: str) -> str:
        """The digest of a component."""
        return dict(self.components)[name]

    def setting(self, name: str, default: Any = None) -> Any:
        """One of the settings."""
        return dict(self.settings).get(name, default)

    def option(self, name: str, default: Any = None) -> Any:
        """One of the options."""
        return dict(self.options).get(name, default)

    def computes_on(self, device: str) -> str:
        """The device that computes in a run on `device`: that one, unless the model is offloaded for another GPU."""
        return str(self.option("offload_device") or device) if device.startswith("cuda") else device

    def with_options(self, **options: Any) -> Model:
        """The same model with other options; None removes an option."""
        merged = dict(self.options) | options
        kept = tuple(sorted((name, value) for name, value in merged.items() if value is not None))
        return replace(self, options=kept)

    def with_component(self, name: str, digest: str) -> Model:
        """The same model with another component."""
        return replace(self, components=tuple((n, digest if n == name else old) for n, old in self.components))

    def loras_of(self, part: str) -> tuple[tuple[LoRA, float], ...]:
        """The LoRAs that change a part."""
        return tuple((lora, scale) for lora, scale in self.loras if part in lora.parts)

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to compute with the model, or with one part of it."""
        found: frozenset[str] = _of_type(self).needs(self, part)
        return found

    def digest(self, part: str | None = None) -> str:
        """The digest of the model, or of one part of it, for keys: of everything that can change a result.

        Parts are `text_encoder`, `denoiser` and `vae`, or several of them joined by `+`. Source, device and offload
        do not enter it. The model's family knows the components of a part: `families.digests` computes this.

        Raises:
            ValueError: The family's models have no such part.
            NotData: There is an object of this process in it.
        """
        found: str = _of_type(self).digest(self, part)
        return found


@dataclass(frozen=True, slots=True, repr=False)
class ModelPart:
    """A reference to one part of a model: it is keyed and held as that part of a whole model is.

    Attributes:
        model: A model of which only this part's components are there, with what is applied to the part.
        families: The families whose models it fits; the first is `model.family`.
    """

    part: ClassVar[str]

    model: Model
    families: tuple[str, ...]

    def __repr__(self) -> str:
        return repr(self.model).replace("Model", type(self).__name__, 1)

    @property
    def source(self) -> str:
        """Where it was loaded from, as shown to people."""
        return self.model.source

    def of(self, family: str) -> Model:
        """The part as a model of a family.

        Raises:
            ModelError: It does not fit the family's models.
        """
        if family not in self.families:
            what = f"the {self.part.replace('_', ' ')} of {self.source}"
            raise ModelError(f"{what} is for {', '.join(self.families)} models; it does not fit a {family} model")
        return self.model if family == self.model.family else replace(self.model, family=family)

    def needs(self, part: str | None = None) -> frozenset[str]:
        """The digests of the weights that must be in memory to compute with it."""
        return self.model.needs(part or self.part)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys: that of a whole model's part.

        Raises:
            NotData: There is an object of this process in it.
        """
        return self.model.digest(part or self.part)


class TextEncoder(ModelPart):
    """A reference to a model's text encoders, with their tokenizers and the LoRAs on them."""

    __slots__ = ()
    part = "text_encoder"


class Denoiser(ModelPart):
    """A reference to a model's denoiser, with its scheduler, the model's settings, and the LoRAs on it."""

    __slots__ = ()
    part = "denoiser"


class VAE(ModelPart):
    """A reference to a model's VAE, which encodes and decodes pictures."""

    __slots__ = ()
    part = "vae"


def model_of(value: Model | ModelPart, family: str | None = None) -> Model:
    """A model, or what there is of one in a part; of a part that fits several families, as a model of `family`.

    Raises:
        ModelError: The part does not fit the family's models.
    """
    if isinstance(value, Model):
        return value
    return value.model if family is None else value.of(family)


def _of_type(value: Model) -> Any:
    """The socket type of models, as the pack has registered it."""
    return socket_type(type(value))
