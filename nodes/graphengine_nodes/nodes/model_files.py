"""Files of whole models, found for the nodes that load them: which family they are of, where each component lies, and
what they say of themselves. Configurations and headers only are read. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine import ModelError
from graphengine_nodes.families.family import Family
from graphengine_nodes.families.lookup import families
from graphengine_nodes.families.noise_schedulers import KARRAS
from graphengine_nodes.layouts import contents
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location, read_json
from graphengine_nodes.weights.headers import HeaderAndMetadata, read_headers, read_number
from graphengine_nodes.weights.inner_tokenizers import tokenizer_inside
from graphengine_nodes.weights.training import (
    check_noise,
    configured,
    old_words,
    prediction_in,
    zero_snr_in,
)
from graphengine_nodes.weights.vocabulary import check_size, written

NO_HEADER = HeaderAndMetadata({}, {})


@dataclass(frozen=True, slots=True)
class Opened:
    """A model's files, as a load node's source names them.

    Attributes:
        source: The name for people.
        path: The folder or file that was named.
        kind: The model's family.
        folder: The folder in diffusers layout with its configurations.
        file: The checkpoint whose weights stand in place of the folder's, if it is one.
        headers: What the checkpoint's header says.
        held: What the checkpoint holds.
        derived: The folder was written by us, out of the checkpoint's header: it has no weights and no tokenizers.
        tokenizer: The folder with tokenizers in place of others.
    """

    source: str
    path: Path
    kind: Family
    folder: Path
    file: Path | None = None
    headers: HeaderAndMetadata = NO_HEADER
    held: Contents | None = None
    derived: bool = False
    tokenizer: Path | None = None


def opened(
    source: str | Path,
    config: str | Path | None,
    revision: str | None,
    variant: str | None,
    tokenizer: str | Path | None = None,
) -> Opened:
    """Find a model's files and its family.

    Raises:
        ModelError: There is no such model, its family is unknown, inputs contradict what it is, or a tensor of a single
            file is unknown.
    """
    path, name = files.find(source, "model", revision), files.name_of(source)
    if path.is_dir():
        if config is not None:
            raise ModelError(f"{path} is a folder with its own configurations; leave config out")
        if tokenizer is not None:
            raise ModelError(f"{path} is a folder with its own tokenizers; leave tokenizer out")
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
    headers = read_headers(path)
    try:
        kind = next((f for f in families().values() if f.owns_file(headers.header)), None)
    except ModelError as error:  # a family knows it, and that it cannot be used
        raise ModelError(f"{path}: {error}") from None
    if kind is None:
        said = headers.metadata.get("general.architecture")
        named = f"; its architecture is said to be {said!r:.60}" if said else ""
        alone, told = contents.kinds_in(headers.header), contents.family_of(headers.header)
        if told is not None:
            named += f"; it is a {told} model"
        elif alone:
            named += f"; it holds a {' and a '.join(alone)} without a denoiser"
        raise ModelError(f"{path} is no checkpoint of a known family ({', '.join(families())}){named}")
    held = contents.read(*headers, path)
    folder = _config_folder(path, config)
    if folder is not None:
        _check_config(path, kind, folder)
    words = None if tokenizer is None else files.find(tokenizer, "model")
    if words is not None and not any(_tokenizer_in(words, kind, one) for one in kind.tokenizers):
        known = " and ".join(dict.fromkeys(kind.tokenizers.values()))
        raise ModelError(f"{words} holds no tokenizer of a {kind.name} model ({known})")
    if folder is not None:
        return Opened(name, path, kind, folder, path, headers, held, tokenizer=words)
    texts = {place: json.dumps(found, indent=1, sort_keys=True) for place, found in kind.configurations(held).items()}
    return Opened(name, path, kind, written(digest_of(texts), texts), path, headers, held, True, words)


def training(
    found: Opened,
    prediction: str | None,
    zero_snr: bool | None,
    variant: str | None,
    own: Mapping[str, Location] | None = None,
) -> dict[str, Any]:
    """Settings for how a denoiser was trained: what the caller says, else what its files say of themselves.

    Args:
        own: Where components lie that the folder does not hold.

    Raises:
        ModelError: The files say what is not known, or contradict themselves; or the caller says what the family's
            models are not trained for.
    """
    if not set(found.kind.schedulers) & set(KARRAS):
        if prediction is None and zero_snr is None:
            return {}
        raise ModelError(
            f"{found.path} is a {found.kind.name} model, which matches flows: leave prediction_type and zero_snr out"
        )
    file, headers = _denoiser(found, variant, own or {})
    check_noise(headers.header, file)
    settings = {
        "prediction_type": prediction or prediction_in(headers, file),
        "zero_snr": zero_snr_in(headers, file) if zero_snr is None else zero_snr,
    }
    scheduler = found.folder / "scheduler" / "scheduler_config.json"
    plain = configured(read_json(scheduler)) if scheduler.is_file() else {}
    if found.derived and settings["prediction_type"] is None and plain.get("prediction_type", "") is None:
        raise ModelError(
            f"{found.path} does not say what it predicts, and models of its kind differ: give prediction_type, epsilon "
            "for Stable Diffusion 2 base and 2.1 base (512 pixels), v_prediction for 2 and 2.1 (768 pixels)"
        )
    given = {n for n, value in (("prediction_type", prediction), ("zero_snr", zero_snr)) if value is not None}
    kept = given | (old_words(headers) if found.file is not None else set())
    return {n: value for n, value in settings.items() if value is not None and (n in kept or value != plain.get(n))}


def _denoiser(found: Opened, variant: str | None, own: Mapping[str, Location]) -> tuple[Path, HeaderAndMetadata]:
    """The file with a model's denoiser, the first of several; the tensors of all, and the texts of the first."""
    if found.file is not None:
        return found.file, found.headers
    name = next(name for name in found.kind.parts["denoiser"] if found.kind.stems[name] is not None)
    location, stem = own.get(name) or _place(found, name, variant), found.kind.stems[name]
    if stem is None or not location.path.is_dir():  # which is told where its parts are looked for
        return location.path, NO_HEADER
    paths = files.weight_files(location.path, stem, location.variant).files
    headers = [read_headers(path) for path in paths]
    return paths[0], HeaderAndMetadata(
        {name: entry for one in headers for name, entry in one.header.items()}, headers[0].metadata
    )


def _config_folder(file: Path, config: str | Path | None) -> Path | None:
    """Where the configurations of a single file are; None if in no folder."""
    if config is not None:
        folder = files.find(config, "model")
        if not (folder / "model_index.json").is_file():
            raise ModelError(f"{folder} has no model_index.json; config must be a model's folder in diffusers layout")
        return folder
    beside = (file.with_suffix(""), file.parent)
    return next((folder for folder in beside if (folder / "model_index.json").is_file()), None)


def _check_config(path: Path, kind: Family, folder: Path) -> None:
    """Refuse configurations of another family."""
    index = read_json(folder / "model_index.json")
    told = next((f for f in families().values() if f.owns_folder(index)), kind)
    if told is not kind:
        raise ModelError(
            f"{path} is a {kind.name} model, and the configurations in {folder} are those of a {told.name} model; give "
            "config, a folder of the right family"
        )


def check_scale(found: Opened) -> None:
    """Refuse a single file that says another scale of latents than the configuration of its VAE.

    Raises:
        ModelError: It does.
    """
    header, place = found.headers.header, found.folder / "vae" / "config.json"
    if found.file is None or "scale_factor" not in header or not place.is_file():
        return
    said, configured = read_number(found.file, header, "scale_factor"), read_json(place).get("scaling_factor", 0.18215)
    # Half precision keeps three digits of it, bfloat16 two.
    if said is not None and isinstance(configured, int | float) and not math.isclose(said, configured, rel_tol=5e-3):
        raise ModelError(
            f"{found.file} was trained on latents of the scale {said:.5g} (scale_factor), and {place} says "
            f"{configured:.5g}; give config, a folder whose VAE has that scaling_factor"
        )


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
    kind, own = found.kind, own or {}
    check_components(found, [name for name in names if name not in own])
    components, variants = [], set()
    for name in names:
        stem = kind.stems[name]
        location = own.get(name) or _place(found, name, variant)
        if variant is not None and stem is not None and location.config is None:
            variants.add(files.weight_files(location.path, stem, variant).variant)
        if name.startswith("tokenizer") and (found.derived or found.tokenizer is not None):
            _check_tokenizer(found, name, location.folder)
        part = found.held.component(name) if found.held is not None and not found.derived else None
        if part is not None and location.config is not None and (location.config / "config.json").is_file():
            part.check(read_json(location.config / "config.json"), location.config)
        components.append((name, noted(kind, name, location)))
    if variant is not None and variant not in variants:
        raise ModelError(f"{found.folder} has no weights of the variant {variant}; leave variant out")
    return tuple(components)


def present(found: Opened, part: str | None = None, own: Mapping[str, Location] | None = None) -> list[str]:
    """The names of a model's components, or of those of one part: optional ones only where they are there.

    A denoiser in a file or folder of its own is one, even where the folder of configurations has a pair: nothing tells
    which of the two it is.

    Args:
        own: Where components lie that the folder does not hold.
    """
    kind, first = found.kind, found.kind.lora_names.parts["denoiser"]
    names = [name for names in kind.parts.values() for name in names] if part is None else [*kind.parts[part]]
    there = [name for name in names if name not in kind.optional or _is_there(found, name)]
    elsewhere = own is not None and first in own and own[first].path.resolve() != (found.folder / first).resolve()
    alone = found.file is not None or elsewhere
    return [name for name in there if not alone or name != kind.lora_names.second]


def check_pair(found: Opened) -> None:
    """Refuse a file with one denoiser for a model of two.

    Raises:
        ModelError: It is one.
    """
    second = found.kind.lora_names.second
    if found.file is not None and second and (found.folder / second).is_dir():
        raise ModelError(
            f"{found.file} holds one denoiser, and {found.folder} is a model of two: load both files by load_denoiser, "
            "each with this config, and put them together by pair_denoisers and join_model"
        )


def _is_there(found: Opened, name: str) -> bool:
    location = _place(found, name, None)
    return location.config is not None or location.folder.is_dir()


def check_components(found: Opened, names: Sequence[str]) -> None:
    """Refuse a model that lacks a component, before any file is read whole.

    Raises:
        ModelError: It does.
    """
    for name in names:
        location = _place(found, name, None)
        there, stem = location.folder.is_dir(), found.kind.stems[name]
        if found.file is None or found.held is None:
            if not there:
                raise ModelError(f"{found.folder} has no folder {name}; the model is incomplete, copy it again")
        elif name.startswith("tokenizer") and not there:
            raise ModelError(
                f"{found.file} needs a {name}, which no package here holds: give tokenizer, a folder with it, or "
                "config, a model's folder in diffusers layout"
            )
        elif stem is not None and location.config is None and not any(location.path.glob(f"{stem}*")):
            where = "" if found.derived else f", and {found.folder} no weights of one"
            raise ModelError(
                f"{found.file} holds no {name}{where}: give config, a model's folder in diffusers layout that has it"
            )
        elif not there:
            raise ModelError(f"{found.folder} has no folder {name}, which {found.file} needs; give another config")


def _place(found: Opened, name: str, variant: str | None) -> Location:
    """Where a component lies, whether or not it is there."""
    held, folder = found.held, found.folder / name
    if held is None or found.file is None:
        return Location(folder, variant=variant or "")
    if name.startswith("tokenizer"):
        given = found.tokenizer and _tokenizer_in(found.tokenizer, found.kind, name)
        if given is None and found.derived:
            inside = tokenizer_inside(found.file)
            given = inside and _tokenizer_in(inside, found.kind, name)
            given = given or found.kind.packaged_tokenizer(name, held)
        return Location(given or folder)
    return Location(found.file, name, folder) if held.component(name) is not None else Location(folder)


def _tokenizer_in(folder: Path, kind: Family, name: str) -> Path | None:
    """The folder of a tokenizer in a given one: a model's folder, or that of one tokenizer."""
    if (folder / name).is_dir():
        return folder / name
    config = folder / "tokenizer_config.json"
    said = str(read_json(config).get("tokenizer_class", "")) if config.is_file() else ""
    return folder if said[:2] == kind.tokenizers.get(name, "")[:2] != "" else None


def _check_tokenizer(found: Opened, name: str, tokenizer: Path) -> None:
    """Refuse a tokenizer of another size than the table of its text encoder."""
    encoder = found.folder / name.replace("tokenizer", "text_encoder") / "config.json"
    if encoder.is_file():
        check_size(tokenizer, read_json(encoder), found.path)


def noted(kind: Family, name: str, location: Location) -> str:
    """The digest of a component; notes where it lies.

    Raises:
        ModelError: Its files are missing, cut short or pickles.
    """
    digest = files.component_digest(location, kind.stems[name])
    files.note(digest, location)
    return digest
