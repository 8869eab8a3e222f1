"""Models: nodes that make references to weights. They read configurations and headers only, and import no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from graphengine import Choices, Doc, File, ModelError, node
from graphengine_nodes.families.family import Family
from graphengine_nodes.families.lookup import families
from graphengine_nodes.families.noise_schedulers import KARRAS
from graphengine_nodes.layouts import contents
from graphengine_nodes.values.types import ControlNet, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location, read_json
from graphengine_nodes.weights.gguf_files import is_gguf
from graphengine_nodes.weights.headers import Header

PRECISIONS = ("float32", "float16", "bfloat16")

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a denoiser may predict: the noise, the velocity between noise and picture, or the picture."""

SAID = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
"""How `modelspec.prediction_type` says it."""

EMBEDDED_NAMES = tuple(name for name, _ in files.EMBEDDED.values())

Precision = Annotated[
    str | None,
    Choices(*PRECISIONS),
    Doc("Type of the numbers to compute with; default: float32 on a CPU, float16 on a GPU."),
]


@node(version=1)
def load_model(
    source: Annotated[
        str | Path,
        File("weights", names=True, known=EMBEDDED_NAMES),
        Doc("`tiny`, a folder in diffusers layout, a .safetensors file, or a hub id."),
    ],
    config: Annotated[
        str | Path | None,
        File("folder", names=True),
        Doc("For a single file: the diffusers folder with its configurations and tokenizer."),
    ] = None,
    precision: Precision = None,
    revision: Annotated[str | None, Doc("Branch, tag or commit of a hub id; default: the main branch.")] = None,
    variant: Annotated[
        str | None, Doc("Variant of a folder's weight files, such as fp16; default: the plain ones.")
    ] = None,
    prediction_type: Annotated[
        str | None,
        Choices(*PREDICTIONS),
        Doc("What the denoiser was trained to predict; default: as its files say."),
    ] = None,
    zero_snr: Annotated[
        bool | None,
        Doc("Whether the denoiser was trained with zero terminal SNR; default: as its files say."),
    ] = None,
) -> Model:
    """Make a reference to a model; its weights are read when a node computes with them.

    A single file needs configurations and a tokenizer. They come from `config`, else from the folder named as the file
    without its suffix, else from the folder that the file is in. Components that the file lacks (a FLUX file often
    holds the denoiser alone) are read from there too.

    A single file says by tensors named `v_pred` and `ztsnr`, or by `modelspec.prediction_type` in its header, that it
    was trained to predict velocity, and down to no signal; without these the scheduler's configuration decides.

    Raises:
        ModelError: There is no such model, its family is unknown, or its files are incomplete, cut short or pickles.
    """
    found = opened(source, config, revision, variant)
    return _model(found, variant, precision, training(found, prediction_type, zero_snr))


@dataclass(frozen=True, slots=True)
class Opened:
    """A model's files, as a load node's source names them.

    Attributes:
        source: The name for people.
        path: The folder or file that was named.
        kind: The model's family.
        folder: The folder in diffusers layout with its configurations.
        file: The checkpoint whose weights stand in place of the folder's, if it is one.
    """

    source: str
    path: Path
    kind: Family
    folder: Path
    file: Path | None = None


def opened(source: str | Path, config: str | Path | None, revision: str | None, variant: str | None) -> Opened:
    """Find a model's files and its family.

    Raises:
        ModelError: There is no such model, its family is unknown, or inputs contradict what it is.
    """
    path, name = files.find(source, "model", revision), files.name_of(source)
    if path.is_dir():
        if config is not None:
            raise ModelError(f"{path} is a folder with its own configurations; leave config out")
        index = read_json(path / "model_index.json")
        kind = next((f for f in families().values() if f.owns_folder(index)), None)
        if kind is None:
            raise ModelError(
                f"{path} holds a {index.get('_class_name', 'pipeline of no class')}; "
                f"known families are {', '.join(families())}"
            )
        return Opened(name, path, kind, path)
    if variant is not None:
        raise ModelError(f"{path} is a file and has no variants; leave variant out")
    header = files.read_header(path)
    kind = next((f for f in families().values() if f.owns_file(header)), None)
    kind = kind or families().get(contents.family_of(header) or "")
    if kind is None:
        said = files.read_metadata(path).get("general.architecture")
        named = f"; its architecture is said to be {said!r:.60}" if said else ""
        raise ModelError(f"{path} is no checkpoint of a known family ({', '.join(families())}){named}")
    return Opened(name, path, kind, _config_folder(path, config), path)


def training(found: Opened, prediction: str | None, zero_snr: bool | None) -> dict[str, Any]:
    """Settings for how a denoiser was trained: what the caller says, else what a single file says of itself.

    Raises:
        ModelError: The file says what is not known, or the caller what the family's models are not trained for.
    """
    file = found.file
    header, metadata = ({}, {}) if file is None else (files.read_header(file), files.read_metadata(file))
    return _training(found.path, found.kind, header, metadata, prediction, zero_snr)


def _training(
    path: Path,
    kind: Family,
    header: Header,
    metadata: Mapping[str, str],
    prediction: str | None,
    zero_snr: bool | None,
) -> dict[str, Any]:
    """Settings for how a denoiser was trained: what the caller says, else what a single file says of itself.

    Raises:
        ModelError: The file says what is not known, or the caller what the family's models are not trained for.
    """
    if not set(kind.schedulers) & set(KARRAS):
        if prediction is None and zero_snr is None:
            return {}
        raise ModelError(
            f"{path} is a {kind.name} model, which matches flows: leave prediction_type and zero_snr out"
        )
    if marker := next((name for name in header if name.startswith("edm_")), None):
        raise ModelError(f"{path} was trained with the noise levels of EDM ({marker}), which no scheduler here has")
    said = metadata.get("modelspec.prediction_type")
    if prediction is None and "v_pred" in header:
        prediction = "v_prediction"
    elif prediction is None and said is not None:
        prediction = SAID.get(said)
        if prediction is None:
            known = ", ".join(PREDICTIONS)
            raise ModelError(
                f"{path} says modelspec.prediction_type {said!r:.60}: give prediction_type, one of {known}"
            )
    if zero_snr is None and "ztsnr" in header:
        zero_snr = True
    settings = {"prediction_type": prediction, "zero_snr": zero_snr}
    return {name: value for name, value in settings.items() if value is not None}


def _config_folder(file: Path, config: str | Path | None) -> Path:
    """Where the configurations of a single file are."""
    if config is not None:
        folder = files.find(config, "model")
        if not (folder / "model_index.json").is_file():
            raise ModelError(f"{folder} has no model_index.json; config must be a model's folder in diffusers layout")
        return folder
    for folder in (file.with_suffix(""), file.parent):
        if (folder / "model_index.json").is_file():
            return folder
    raise ModelError(
        f"{file} holds weights only; give `config`, a diffusers folder with the configurations and the tokenizer, "
        f"or put them into {file.with_suffix('')}"
    )


def _model(found: Opened, variant: str | None, precision: str | None, trained: Mapping[str, Any]) -> Model:
    """The reference; notes where each component lies."""
    settings = settings_of(found)
    names = [name for names in found.kind.parts.values() for name in names]
    components = components_in(found, names, variant)
    settings |= trained
    return Model(found.kind.name, components, tuple(sorted(settings.items())), precision, source=found.source)


def settings_of(found: Opened) -> dict[str, Any]:
    """A model's settings, as its configurations and the defaults beside them say.

    Raises:
        ModelError: They cannot be used.
    """
    folder = found.folder
    try:
        settings = found.kind.settings(folder)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: its configurations cannot be used ({error}); copy them again") from None
    defaults = folder / "defaults.json"
    return settings | (read_json(defaults) if defaults.is_file() else {})


def components_in(
    found: Opened, names: Sequence[str], variant: str | None, own: Mapping[str, Location] | None = None
) -> tuple[tuple[str, str], ...]:
    """The digests of a model's components by name; notes where each lies.

    Args:
        own: Where components lie that the folder does not hold.

    Raises:
        ModelError: A component is missing, cut short or a pickle; none has the variant.
    """
    kind, folder = found.kind, found.folder
    components, variants = [], set()
    header = {} if found.file is None else files.read_header(found.file)
    held = _held_in(found.file) if found.file is not None and is_gguf(found.file) else ()
    for name in names:
        stem, starts = kind.stems[name], kind.prefixes.get(name, ())
        location = (own or {}).get(name) or Location(folder / name, variant=variant or "")
        if not location.folder.is_dir():
            raise ModelError(f"{folder} has no folder {name}; the model is incomplete, copy it again")
        if found.file is not None and (name in held or (stem and any(key.startswith(starts) for key in header))):
            location = Location(found.file, name, folder / name)
        elif variant is not None and stem is not None:
            variants.add(files.weight_files(location.path, stem, variant).variant)
        components.append((name, noted(kind, name, location)))
    if variant is not None and variant not in variants:
        raise ModelError(f"{folder} has no weights of the variant {variant}; leave variant out")
    return tuple(components)


def _held_in(file: Path) -> Collection[str]:
    return contents.read(files.read_header(file), files.read_metadata(file), file).components


def noted(kind: Family, name: str, location: Location) -> str:
    """The digest of a component; notes where it lies.

    Raises:
        ModelError: Its files are missing, cut short or pickles.
    """
    digest = files.component_digest(location, kind.stems[name])
    files.note(digest, location)
    return digest


@node(version=1)
def load_controlnet(
    source: Annotated[
        str | Path,
        File("weights", names=True, known=EMBEDDED_NAMES),
        Doc("`tiny-canny`, a folder in diffusers layout, or a hub id."),
    ],
    precision: Precision = None,
) -> ControlNet:
    """Make a reference to a ControlNet; its weights are read when a node computes with them.

    Raises:
        ModelError: There is no such ControlNet, or its files are incomplete, cut short or pickles.
    """
    path = files.find(source, "ControlNet")
    if not path.is_dir():
        raise ModelError(f"{path} is a file; a ControlNet is a folder with config.json and its weights")
    config = read_json(path / "config.json")
    kind = next((f for f in families().values() if f.owns_controlnet(config)), None)
    if kind is None:
        raise ModelError(f"{path} holds a {config.get('_class_name', 'model of no class')}, not a known ControlNet")
    location = Location(path)
    digest = files.component_digest(location, kind.stems["controlnet"])
    files.note(digest, location)
    return ControlNet(kind.name, digest, precision, files.name_of(source), kind.modes_of(config))
