"""Model parts: text encoders, denoisers and VAEs as references of their own; a model is their join.

A part is keyed and held as that part of a whole model is, so that both share what is computed and what is in memory.
These nodes read configurations and headers only, and import no torch.

The module is long because loading, splitting and joining must agree on what belongs to each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from graphengine import Added, Choices, Doc, File, ModelError, node
from graphengine_nodes.families import lookup
from graphengine_nodes.families.family import Family
from graphengine_nodes.families.lookup import families
from graphengine_nodes.families.pipelines import in_pixels
from graphengine_nodes.nodes.model_files import (
    Opened,
    check_scale,
    components_in,
    noted,
    opened,
    present,
    settings_of,
    training,
)
from graphengine_nodes.nodes.models import EMBEDDED_NAMES, Precision, Predicts, Revision, Variant, ZeroSnr
from graphengine_nodes.nodes.part_files import encoders_in, is_alone, vae_for, vae_in
from graphengine_nodes.values.references import OPTIONS, SETTINGS, Held, LoRA
from graphengine_nodes.values.types import VAE, Denoiser, Model, TextEncoder
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location, read_json

Weights = File("weights", names=True, known=EMBEDDED_NAMES)
Config = Annotated[
    str | Path | None,
    File("folder", names=True),
    Doc("A model's folder in diffusers layout, for what the source lacks: configurations, tokenizers, a scheduler."),
]
FamilyName = Annotated[
    str | None,
    Choices(lambda: tuple(families())),
    Doc("For files that may be of several families: which it is."),
]

ALONE = 1
"""The `factor` among the settings of a denoiser whose VAE is not known: its sides count latents."""

VAE_SETTINGS = ("factor", "latent_channels", "multiple", "frame_factor")
"""The settings of a model that its VAE decides."""


# --- loading ----------------------------------------------------------------------------------------------------------


@node(version=1)
def load_text_encoder(
    source: Annotated[str | Path, Weights, Doc("A model, of which the text encoders are taken; or a file with one.")],
    config: Config = None,
    precision: Precision = None,
    revision: Revision = None,
    variant: Variant = None,
    source_2: Annotated[
        str | Path | None, File("weights", names=True), Doc("The file with the other text encoder of SDXL or FLUX.")
    ] = None,
    tokenizer: Annotated[
        str | Path | None,
        File("folder", names=True),
        Doc("For files: a folder with a tokenizer, or a model's folder with its tokenizers."),
    ] = None,
    family: FamilyName = None,
    source_3: Annotated[
        str | Path | None,
        File("weights", names=True),
        Added(),
        Doc("The file with the third text encoder of Stable Diffusion 3."),
    ] = None,
) -> TextEncoder:
    """Make a reference to a model's text encoders, with their tokenizers, for `encode_prompt` and `join_model`.

    Files with a text encoder alone are CLIP (with transformers' or OpenCLIP's names), T5, UMT5, Qwen3, Qwen2.5-VL or
    Mistral, safetensors or GGUF. They are taken for those of the family that reads prompts with just these: one CLIP
    for Stable Diffusion's, two for SDXL's, CLIP and T5 for FLUX's, two and T5 for Stable Diffusion 3's. `config` or
    `family` say it where several families do, as Z-Image and FLUX.2 with a Qwen3 of 4 billion parameters, and where an
    optional one is left out, as T5 of Stable Diffusion 3. A tokenizer is taken from `tokenizer`, `config`, the inside
    of the file, or a package, which is there for CLIP's.

    In ComfyUI: `CLIPLoader`, `DualCLIPLoader`, `TripleCLIPLoader`, `QuadrupleCLIPLoader`, `CLIPLoaderGGUF`.

    Raises:
        ModelError: There is no such model, its family is unknown, or its files are incomplete, cut short or pickles.
    """
    path = files.find(source, "model", revision)
    if is_alone(path):
        others = [files.find(one, "model") for one in (source_2, source_3) if one is not None]
        kind, places = encoders_in([path, *others], config, tokenizer, family)
        names = [name for name in kind.parts["text_encoder"] if name in places]
        components = tuple((name, noted(kind, name, places[name])) for name in names)
        return TextEncoder(Model(kind.name, components, (), precision, source=files.name_of(source)), (kind.name,))
    if source_2 is not None or source_3 is not None or family is not None:
        raise ModelError(f"{path} is a whole model: leave source_2, source_3 and family out")
    if path.is_dir() and not (path / "model_index.json").is_file() and (path / "config.json").is_file():
        found, own = _encoder(source, path, config, tokenizer, variant)
    else:
        found, own = opened(source, config, revision, variant, tokenizer), {}
    components = components_in(found, present(found, "text_encoder"), variant, own)
    model = Model(found.kind.name, components, _encoder_settings(_settings(found)), precision, source=found.source)
    return TextEncoder(model, (found.kind.name,))


@node(version=1)
def load_denoiser(
    source: Annotated[str | Path, Weights, Doc("A denoiser's folder or file, or a model of which it is taken.")],
    config: Config = None,
    precision: Precision = None,
    revision: Revision = None,
    variant: Variant = None,
    prediction_type: Predicts = None,
    zero_snr: ZeroSnr = None,
) -> Denoiser:
    """Make a reference to a model's denoiser (UNet or transformer), with its scheduler, for `join_model`.

    A file is one denoiser, also where `config` is a model with two (Wan 2.2): `pair_denoisers` makes a pair of files.

    In ComfyUI: `UNETLoader`, `UnetLoaderGGUF`.

    Raises:
        ModelError: There is no such denoiser, its family is unknown, or its files are incomplete, cut short or pickles.
    """
    found, own = _component(source, "denoiser", config, revision, variant)
    components = components_in(found, present(found, "denoiser", own), variant, own)
    settings = _settings(found, own) | training(found, prediction_type, zero_snr, variant, own)
    return Denoiser(
        Model(found.kind.name, components, _sorted(settings), precision, source=found.source), (found.kind.name,)
    )


@node(version=1)
def load_vae(
    source: Annotated[str | Path, Weights, Doc("A VAE's folder or file, or a model of which the VAE is taken.")],
    config: Config = None,
    precision: Precision = None,
    revision: Revision = None,
    variant: Variant = None,
    family: FamilyName = None,
) -> VAE:
    """Make a reference to a VAE, for `encode_image`, `decode_latent` and `join_model`.

    A VAE that models of several families use fits each of them. A file does not tell the scale of its latents: it is
    that of the published VAEs of its family, which `family` names where the shape fits several, or `config` says it.

    In ComfyUI: `VAELoader`.

    Raises:
        ModelError: There is no such VAE, no family has one of its shape, or its files are incomplete, cut short or
            pickles.
    """
    path = files.find(source, "model", revision)
    if is_alone(path):
        kind, location, described = vae_in(path, config, family)
        return _vae(kind, (("vae", noted(kind, "vae", location)),), described, precision, files.name_of(source))
    if family is not None:
        raise ModelError(f"{path} says itself what it is for: leave family out")
    found, own = _component(source, "vae", config, revision, variant)
    components = components_in(found, present(found, "vae"), variant, own)
    check_scale(found)
    location = own.get("vae") or Location(found.folder / "vae")
    return _vae(found.kind, components, read_json(location.folder / "config.json"), precision, found.source)


def _vae(
    kind: Family, components: tuple[tuple[str, str], ...], config: Mapping[str, Any], precision: str | None, source: str
) -> VAE:
    settings = kind.vae_settings(config)
    return VAE(Model(kind.name, components, _sorted(settings), precision, source=source), _fitting(kind, config))


def _fitting(kind: Family, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The families whose models a VAE fits, that of its own model first."""
    return (kind.name, *(one.name for one in families().values() if one is not kind and one.owns_vae(config)))


def _component(
    source: str | Path, part: str, config: str | Path | None, revision: str | None, variant: str | None
) -> tuple[Opened, dict[str, Location]]:
    """A model's files, and where a component lies that is not in the model's folder."""
    path = files.find(source, "model", revision)
    if not path.is_dir() or (path / "model_index.json").is_file() or not (path / "config.json").is_file():
        return opened(source, config, revision, variant), {}
    described = read_json(path / "config.json")
    kind = next((f for f in families().values() if _owns(f, part, described)), None)
    if kind is None:
        raise ModelError(
            f"{path} holds a {described.get('_class_name', 'model of no class')}, which is no {part} of a known family "
            f"({', '.join(families())})"
        )
    beside = path.parent if config is None else files.find(config, "model")
    name = next(name for name in kind.parts[part] if kind.stems[name] is not None)
    needed = [n for n in kind.parts[part] if n not in (name, *kind.optional)]
    missing = [n for n in needed if not (beside / n).is_dir()]
    if missing:
        raise ModelError(
            f"{path} lacks the {missing[0]}; give `config`, a model's folder in diffusers layout with a {missing[0]}"
        )
    return Opened(files.name_of(source), path, kind, beside), {name: Location(path, variant=variant or "")}


def _encoder(
    source: str | Path, path: Path, config: str | Path | None, tokenizer: str | Path | None, variant: str | None
) -> tuple[Opened, dict[str, Location]]:
    """A text encoder in a folder of its own, in the place of that of the model's folder that it is in, or `config`."""
    beside = path.parent if config is None else files.find(config, "model")
    if tokenizer is not None or not (beside / "model_index.json").is_file():
        raise ModelError(
            f"{path} is a text encoder alone, whose tokenizer is in the model's folder around it: give config, a "
            "model's folder in diffusers layout, and leave tokenizer out"
        )
    found, said = opened(beside, None, None, None), read_json(path / "config.json").get("architectures") or ()
    kind = found.kind
    names = [n for n in kind.parts["text_encoder"] if kind.stems[n] and kind.encoder_classes(n) & {*said}]
    if not names:
        raise ModelError(
            f"{path} holds a {' and a '.join(said) or 'model'}, which no {kind.name} model reads prompts with"
        )
    name = path.name if path.name in names else names[0]
    return replace(found, source=files.name_of(source)), {name: Location(path, variant=variant or "")}


def _owns(kind: Family, part: str, config: Mapping[str, Any]) -> bool:
    # A VAE is of the family whose latents others work on.
    return kind.owns_vae(config) and not kind.latents if part == "vae" else kind.owns_denoiser(config)


def _settings(found: Opened, own: Mapping[str, Location] | None = None) -> dict[str, Any]:
    """A model's settings: of a denoiser that lies elsewhere, what its configuration says wins over the folder's.

    Where there is no VAE beside a denoiser, they are those of the denoiser alone; without either, there are none.
    """
    kind, folder = found.kind, found.folder
    name = next(name for name in kind.parts["denoiser"] if kind.stems[name] is not None)
    place = (own or {}).get(name, Location(folder / name)).folder

    def alone(where: Path) -> dict[str, Any]:
        return kind.denoiser_settings(read_json(where / "config.json"), where) | {"factor": ALONE}

    if all((folder / n / "config.json").is_file() for n in (name, *kind.parts["vae"])):
        settings = settings_of(found)
        if place == folder / name:
            return settings
        vae = kind.vae_settings(read_json(folder / "vae" / "config.json"))
        theirs, mine = (in_pixels(alone(where), vae) for where in (folder / name, place))
        return settings | {n: value for n, value in mine.items() if theirs.get(n) != value}
    return alone(place) if (place / "config.json").is_file() else {}


def _encoder_settings(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return _sorted({name: value for name, value in settings.items() if "text_encoder" in SETTINGS.get(name, ())})


def _sorted(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


# --- from models to parts and back ------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """The parts of a model.

    Attributes:
        text_encoder: Its text encoders and tokenizers.
        denoiser: Its UNet or transformer, its scheduler and its settings.
        vae: Its VAE.
    """

    text_encoder: TextEncoder
    denoiser: Denoiser
    vae: VAE


@node(version=1)
def split_model(model: Model) -> Parts:
    """Take a model apart: text encoder, denoiser and VAE, each with the LoRAs and options that are for it."""
    return Parts(_encoder_of(model), _denoiser_of(model), _vae_of(model))


@node(version=1)
def join_model(
    denoiser: Annotated[Denoiser | Model, Doc("Also decides the model's settings: steps, guidance, scheduler.")],
    text_encoder: TextEncoder | Model,
    vae: VAE | Model,
) -> Model:
    """Make a model of parts; of whole models the part that is asked for is taken.

    Parts of one model joined are that model again, with its keys.

    Raises:
        ModelError: The parts are of different families; the text encoder gives prompts of another width than the
            denoiser takes, or none with pictures for a model that edits, or the VAE latents of another shape; the parts
            name different precisions.
    """
    body = _denoiser_of(denoiser).model if isinstance(denoiser, Model) else denoiser.model
    words = _encoder_of(text_encoder) if isinstance(text_encoder, Model) else text_encoder
    pictures = _vae_of(vae) if isinstance(vae, Model) else vae
    encoder, decoder = words.of(body.family), pictures.of(body.family)
    _check_widths(body, encoder)
    settings = dict(body.settings)
    if settings.get("factor") == ALONE:
        settings = in_pixels(settings, dict(decoder.settings))
    _check_shape(decoder, settings, body.source)
    held = dict((*encoder.components, *body.components, *decoder.components))
    names = [name for names in lookup.family(body.family).parts.values() for name in names]
    joined = Model(
        body.family,
        tuple((name, held[name]) for name in names if name in held),
        _sorted(settings),
        _precision(body, encoder, decoder),
        _merged(body.loras, encoder.loras),
        body.hypernetworks,
        _sorted({**dict(encoder.options), **dict(decoder.options), **dict(body.options)}),
        body.source,
        encoder.embeddings,
        body.ip_adapters,
    )
    if lacks := lookup.family(body.family).lacks(joined):
        raise ModelError(lacks)
    return joined


@node(version=1)
def replace_vae(
    model: Model,
    source: Annotated[str | Path, Weights, Doc("A VAE's folder or file, or a whole model whose VAE is taken.")],
) -> Model:
    """Give a model another VAE, which encodes and decodes pictures; `join_model` does it with a VAE loaded before.

    A file does not tell the scale of its latents: it is that of the model's own VAE.

    Raises:
        ModelError: There is no such VAE, it is of another family, or its latents have another shape than the model's.
    """
    kind, path = lookup.family(model.family), files.find(source, "model")
    if path.is_file():
        _, location, config = vae_for(path, kind, config_of(model, "vae") or {})
    else:
        location = Location(path / "vae" if (path / "vae").is_dir() else path)
        config = read_json(location.path / "config.json")
    vae = Model(kind.name, (), _sorted(kind.vae_settings(config)), source=str(location.path))
    _check_shape(vae, dict(model.settings), model.source)
    if path.is_dir() and not kind.owns_vae(config):
        others = [other.name for other in families().values() if other.owns_vae(config)]
        whose = f"a VAE for {' and '.join(others)} models" if others else "a VAE of no known family"
        raise ModelError(f"{location.path} is {whose}; {model.source} is a {kind.name} model")
    return model.with_component("vae", noted(kind, "vae", location))


def _encoder_of(model: Model) -> TextEncoder:
    return TextEncoder(_part(model, "text_encoder", _encoder_settings(dict(model.settings))), (model.family,))


def _denoiser_of(model: Model) -> Denoiser:
    return Denoiser(_part(model, "denoiser", model.settings), (model.family,))


def _vae_of(model: Model) -> VAE:
    settings = _sorted({name: value for name, value in model.settings if name in VAE_SETTINGS})
    config = config_of(model, "vae")
    fitting = (model.family,) if config is None else _fitting(lookup.family(model.family), config)
    return VAE(_part(model, "vae", settings), fitting)


def _part(model: Model, part: str, settings: tuple[tuple[str, Any], ...]) -> Model:
    """A model of which only one part's components are left, with what is applied to the part."""
    names = lookup.family(model.family).parts[part]
    return replace(
        model,
        components=tuple((name, digest) for name, digest in model.components if name in names),
        settings=settings,
        loras=model.loras_of(part),
        hypernetworks=model.hypernetworks if part == "denoiser" else (),
        embeddings=model.embeddings if part == "text_encoder" else (),
        ip_adapters=model.ip_adapters if part == "denoiser" else (),
        options=tuple((name, value) for name, value in model.options if part in (OPTIONS[name] or (part,))),
    )


def _merged(
    denoiser: Sequence[tuple[LoRA, float]], encoder: Sequence[tuple[LoRA, float]]
) -> tuple[tuple[LoRA, float], ...]:
    """The LoRAs of a denoiser and of a text encoder, each part's in its order; what both have is one."""
    found, left = [], list(denoiser)
    for lora in encoder:
        if "denoiser" in lora[0].parts and lora in left:
            place = left.index(lora)
            found += [*(_only(one, "denoiser") for one in left[:place]), lora]
            left = left[place + 1 :]
        else:
            found.append(_only(lora, "text_encoder"))
    return (*found, *(_only(one, "denoiser") for one in left))


def _only(lora: tuple[LoRA, float], part: str) -> tuple[LoRA, float]:
    """A LoRA that changes no other part: the model's other part is without it."""
    return (replace(lora[0], parts=(part,)), *lora[1:])


def _precision(*parts: Model) -> str | None:
    named = list(dict.fromkeys(part.precision for part in parts if part.precision is not None))
    if len(named) > 1:
        raise ModelError(
            f"the parts are in {' and '.join(named)}, but a model has one precision: load them with the same, or give "
            "the text encoder to encode_prompt and the VAE to decode_latent by themselves"
        )
    return named[0] if named else None


def _check_shape(vae: Model, settings: Mapping[str, Any], source: str) -> None:
    """Refuse a VAE whose latents are not the denoiser's."""
    shape, wanted = ((found.get("factor"), found.get("latent_channels")) for found in (dict(vae.settings), settings))
    if shape != wanted:
        raise ModelError(
            f"{vae.source} makes latents of {shape[1]} channels at 1/{shape[0]} of the size; {source} needs "
            f"{wanted[1]} at 1/{wanted[0]}"
        )


def _check_widths(denoiser: Model, encoder: Model) -> None:
    """Refuse a text encoder whose prompts the denoiser cannot take."""
    kind = lookup.family(denoiser.family)
    configs = [
        {n: config_of(model, n) for n, _ in model.components if _has_config(kind, n)} for model in (denoiser, encoder)
    ]
    known = [{n: config for n, config in one.items() if config is not None} for one in configs]
    if [len(one) for one in known] != [len(one) for one in configs]:  # objects of this process, or not on this machine
        return
    takes, gives = (kind.prompt_widths(one) for one in known)
    # Without an optional text encoder fewer widths are given.
    if takes[: len(gives)] != gives:
        told = [" and ".join(map(str, widths)) for widths in (gives, takes)]
        raise ModelError(
            f"the text encoder of {encoder.source} gives prompts of width {told[0]}; the denoiser of {denoiser.source} "
            f"takes {told[1]}"
        )


def _has_config(kind: Family, name: str) -> bool:
    return kind.stems[name] is not None


def config_of(model: Model, name: str) -> dict[str, Any] | None:
    """The configuration of a component; None where it is not known on this machine."""
    digest = model.component(name)
    if isinstance(digest, Held):
        return None
    try:
        return read_json(files.locate(digest, model.source).folder / "config.json")
    except ModelError:
        return None
