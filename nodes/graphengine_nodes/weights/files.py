"""Weight files on disk: the files of a model's components, whether they are whole, and their digests. No torch.

A component is located by its digest: the node that made the reference notes the location, in this process and, for
others, in a small file in the user's cache folder, so that a process that is sent a reference finds the bytes.

The module is long because what finds a file, what reads its header and what names it by its digest agree on which files
make up a component.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphengine import (
    FileError,
    ModelError,
    Rooted,
    cache_folder,
    confined,
    fingerprint,
    make_private,
    read_file,
    rooted,
    roots_of,
    write_private,
)
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.weights.headers import SUFFIXES, Header, once_for_a_file, read_headers
from graphengine_nodes.weights.scaled import check_small, scales_in

log = logging.getLogger(__name__)

TINY = Path(__file__).parent.parent / "tiny"

EMBEDDED = {
    "model": ("tiny", TINY / "model"),
    "ControlNet": ("tiny-canny", TINY / "controlnet"),
    "LoRA": ("tiny-blueprint", TINY / "lora" / "blueprint.safetensors"),
}
"""Weights that are shipped with the pack: their folders by the names that load nodes take."""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a component's bytes on disk.

    Attributes:
        path: Its folder in diffusers layout, or a file: a whole checkpoint, or a LoRA.
        component: For a whole checkpoint, which of its components.
        config: For a whole checkpoint, the folder with the component's configuration.
        variant: For a folder, which of its weight files where it has several (`fp16`).
    """

    path: Path
    component: str = ""
    config: Path | None = None
    variant: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its configuration."""
        return self.path if self.config is None else self.config


# --- finding what a user means ----------------------------------------------------------------------------------------


def find(source: str | Path, what: str, revision: str | None = None) -> Path:
    """Find the folder or file of a source: an embedded name, a path, or a hub id.

    In a node that a graph runs, a text is only a name: the engine passes paths, by its rules, as `Path`.

    Args:
        what: `model`, `ControlNet` or `LoRA`, for messages.
        revision: Of a hub id, which branch, tag or commit.

    Raises:
        ModelError: It does not exist, or there is no connection to fetch it.
    """
    found = _found(source, what)
    if found is None:
        return _from_hub(os.fspath(source), what, revision)
    if revision is not None:
        raise ModelError(f"{source} is on this machine and has no revisions; leave revision out, or give a hub id")
    return found


def _found(source: str | Path, what: str) -> Path | None:
    """The folder or file of a source on this machine; None for a hub id."""
    text = os.fspath(source)
    name, embedded = EMBEDDED[what]
    if text == name and not isinstance(source, Path):
        return embedded
    for kind, (other, _) in EMBEDDED.items():
        if text == other and not isinstance(source, Path):
            raise ModelError(f"{text} is an embedded {kind}; the embedded {what} is called {name}")
    if (path := on_disk(source)) is not None:
        return path
    path = Path(text).expanduser()
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) or text.startswith(".") or path.suffix in SUFFIXES:
        raise ModelError(
            f"there is no {what} {text}; give a folder in diffusers layout, a .safetensors file, a hub id "
            f"or the embedded {name}"
        )
    return None


def on_disk(source: str | Path) -> Path | None:
    """The path of a source on this machine, still bound to the folders it may be opened in; None for a name."""
    path = source if isinstance(source, Rooted) else Path(source).expanduser()
    return path.absolute() if not _name_only(source) and path.exists() else None


def _from_hub(name: str, what: str, revision: str | None) -> Path:
    """Get a repository's files, from the hub's cache on this machine or from the network; looked up once a process.

    A repository that is whole in the cache is taken as it is, even if the hub has a newer one.
    """
    from huggingface_hub import constants

    try:
        folder = _snapshot(name, what, bool(constants.HF_HUB_OFFLINE), revision)
        if not folder.exists():  # removed since
            _snapshot.cache_clear()
            folder = _snapshot(name, what, bool(constants.HF_HUB_OFFLINE), revision)
        return folder
    except Exception as error:  # the hub's errors have no common base that older versions know
        at = f" at revision {revision}" if revision else ""
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"there is no {what} {name}{at}: it is no path on this machine and the hub did not give it "
            f"({type(error).__name__}: {reason:.200}); without a network give a path, or the embedded "
            f"{EMBEDDED[what][0]}"
        ) from None


@functools.cache
def _snapshot(name: str, what: str, offline: bool, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns: dict[str, Any] = {
        "allow_patterns": ["*.json", "*.txt", "*.safetensors", "*.model"],
        "ignore_patterns": ["*.msgpack", "*.onnx*", "*/openvino*"],
        "revision": revision,
    }
    with contextlib.suppress(Exception):  # not in the cache: the network's error, if there is one, says more
        folder = snapshot_download(name, local_files_only=True, **patterns)
        if offline or _whole(Path(folder), what):
            return Path(folder)
    return Path(snapshot_download(name, **patterns))


def _whole(folder: Path, what: str) -> bool:
    """Whether a repository in the hub's cache has all its files: a download may have been interrupted."""
    try:
        for shards in folder.rglob("*.safetensors.index*.json"):
            if not all((shards.parent / part).exists() for part in set(read_json(shards)["weight_map"].values())):
                return False
        if (folder / "model_index.json").exists():
            index = read_json(folder / "model_index.json")
            return all(_whole_part(folder / n) for n, v in index.items() if isinstance(v, list) and v and v[0])
        return any(folder.glob("*.safetensors")) and (what == "LoRA" or (folder / "config.json").exists())
    except (ModelError, KeyError):
        return False


def _whole_part(folder: Path) -> bool:
    """Whether a component's folder is whole: a model has config.json and weights, a tokenizer its words, a scheduler
    only its configuration."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    weights = any(name.endswith(".safetensors") for name in names)
    if weights or "config.json" in names:
        return weights and "config.json" in names
    if "tokenizer_config.json" in names:
        words = {"vocab.json", "merges.txt"} <= names or "tokenizer.json" in names
        return words or any(name.endswith(".model") for name in names)
    return any(name.endswith("_config.json") for name in names)


def name_of(source: str | Path) -> str:
    """The name of a source for people: its name or hub id, never a folder of a machine."""
    path = Path(source)
    if _name_only(source):
        return os.fspath(source)
    return path.name if path.is_absolute() or path.exists() else os.fspath(source)


def _name_only(source: str | Path) -> bool:
    return isinstance(source, str) and confined()


# --- files ------------------------------------------------------------------------------------------------------------


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ModelError: It is missing or no JSON object.
    """
    try:
        found = json.loads(read_file(file))
    except FileNotFoundError:
        raise ModelError(f"{file} is missing; the model's folder is incomplete, copy it again") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file} should hold a JSON object")
    return found


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one component's weights, and the variant (`fp16`) that their names hold."""

    files: tuple[Path, ...]
    variant: str | None = None


def weight_files(folder: Path, stem: str, variant: str = "") -> WeightFiles:
    """Find the weights of a component folder: safetensors, whole or in shards, the plain variant before others.

    Args:
        stem: `diffusion_pytorch_model` or, as transformers writes it, `model`.
        variant: The variant to prefer where it exists.

    Raises:
        ModelError: There are none, only pickled ones, or they are cut short.
    """
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    whole = re.compile(rf"{stem}(?:\.(\w+))?\.safetensors")
    shards = re.compile(rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    found: list[WeightFiles] = []
    for name in names:
        if match := whole.fullmatch(name):
            found.append(WeightFiles((folder / name,), match[1]))
        elif match := shards.fullmatch(name):
            found.append(WeightFiles(tuple(folder / part for part in _parts(folder / name)), match[1]))
    if not found:
        pickled = [name for name in names if Path(name).suffix in SUFFIXES]
        if pickled:
            raise ModelError(
                f"{folder / pickled[0]} is a pickle, which can run code when it is read: it is not opened; "
                "convert it to safetensors, or take the model's safetensors files"
            )
        raise ModelError(f"{folder} holds no {stem}.safetensors; the model's folder is incomplete, copy it again")
    best = min(
        found, key=lambda w: (w.variant != (variant or None), bool(w.variant), w.variant != "fp16", w.variant or "")
    )
    for file in best.files:
        _check(file)
    return best


@once_for_a_file
def _check(file: Path) -> None:
    """Refuse a file of weights in a form that is not read."""
    check_small(read_headers(file), file)


def _parts(index: Path) -> list[str]:
    """The files that an index of shards names, which lie beside it.

    Raises:
        ModelError: It names anything else.
    """
    found = read_json(index).get("weight_map")
    names: list[Any] = list(found.values()) if isinstance(found, dict) else [None]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index} is damaged: {name!r:.80} is no name of a file beside it; copy the model again")
    return sorted(set(names))


def read_header(file: Path) -> Header:
    """Read the names, types and shapes of the tensors in a safetensors file, and check that it is whole.

    Raises:
        ModelError: It is missing, cut short or no safetensors file.
    """
    return read_headers(file).header


def read_metadata(file: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file, such as `modelspec.prediction_type`.

    Raises:
        ModelError: It is missing, cut short or no safetensors file.
    """
    return read_headers(file).metadata


# --- digests ----------------------------------------------------------------------------------------------------------


PREVIEW = "preview.json"
"""The file with the preview map of a VAE (see `previews`); it decides no result."""


def component_files(location: Location, stem: str | None) -> list[Path]:
    """The files that decide a component: its configuration and, where it has any, its weights."""
    configs = [p for p in sorted(location.folder.iterdir()) if p.suffix in (".json", ".txt", ".model")]
    configs = [p for p in configs if ".index." not in p.name and p.name != PREVIEW]
    if stem is None:
        return configs
    files = (
        [location.path]
        if location.config is not None
        else list(weight_files(location.path, stem, location.variant).files)
    )
    return configs + files


def has_scales(location: Location, stem: str) -> bool:
    """Whether a component's weights are in fp8 or int8 with scales beside them.

    Raises:
        ModelError: They are damaged.
    """
    alone = location.config is not None
    paths = [location.path] if alone else weight_files(location.path, stem, location.variant).files
    return any(scales_in(read_header(path), path).of for path in paths)


def component_digest(location: Location, stem: str | None) -> str:
    """The digest of a component: of the names and contents of its files, not of their folder."""
    try:
        files = component_files(location, stem)
        # The name of a checkpoint file does not count; the names of a folder's files tell them apart.
        named = [[file.name if file.parent == location.folder else "", fingerprint(file)] for file in files]
    except (OSError, FileError) as error:
        raise ModelError(f"{location.path} cannot be read: {error}") from None
    return digest_of([location.component, named])


# --- where digests lie ------------------------------------------------------------------------------------------------

_locations: dict[str, Location] = {}


def note(digest: str, location: Location) -> None:
    """Note the location of a digest's bytes on this machine."""
    if _locations.get(digest) == location:
        return
    _locations[digest] = location
    facts: dict[str, Any] = {name: str(value) for name, value in asdict(location).items() if value}
    if (roots := roots_of(location.path)) is not None:
        facts["roots"] = list(roots)
    file = cache_folder() / "weights" / digest
    try:
        text = json.dumps(facts).encode()
        make_private(file.parent, cache_folder())
        if not file.is_file() or read_file(file) != text:
            write_private(file, text)
    except OSError as error:
        _warn(
            f"{file.parent} cannot be written ({error.strerror}): other processes, a service's workers too, will not "
            "find models loaded here; set GRAPHENGINE_CACHE to a folder that can be"
        )


@functools.cache
def _warn(sentence: str) -> None:
    """Warn once, not for each component."""
    log.warning(sentence)


def _config(folder: str, there: Callable[[str], Path]) -> Path:
    """The folder of a file's configurations: inside the file's roots, or one that was written into the user's cache."""
    return Path(folder) if Path(folder).is_relative_to(cache_folder()) else there(folder)


def locate(digest: str, what: str) -> Location:
    """Find the location of a digest's bytes.

    Raises:
        ModelError: They were never loaded on this machine, or are gone.
    """
    location = _locations.get(digest)
    if location is None:
        try:
            facts = json.loads(read_file(cache_folder() / "weights" / digest))
            there = functools.partial(rooted, roots=facts["roots"]) if "roots" in facts else Path
            config = _config(facts["config"], there) if "config" in facts else None
            location = Location(there(facts["path"]), facts.get("component", ""), config, facts.get("variant", ""))
        except (OSError, ValueError, KeyError, TypeError):
            raise ModelError(
                f"the weights of {what} ({digest[:12]}) are not known on {platform.node()} (in "
                f"{cache_folder() / 'weights'}); load them there once (load_model, load_controlnet or load_lora) from "
                "a file or folder with the same content"
            ) from None
        _locations[digest] = location
    if not location.path.exists():
        where = f"{location.path} on {platform.node()}"
        raise ModelError(f"{where}, the weights of {what}, is gone; put it back or load another")
    return location
