"""Reading the record in a picture or a video: its graph, the files that it was made from, what has changed since."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import FileError, GraphEngineError
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.keys.files import fingerprint
from graphengine.provenance.describe import CHUNK, EXIF, FORMAT, MAKER_NOTE, PARAMETERS, Position
from graphengine.results import videos
from graphengine.system.opening import entries_of, open_file
from graphengine.warning_filters import warnings_as

if TYPE_CHECKING:
    import PIL.Image


DEEPEST = 200
"""The most levels of nesting in a record, which may come from a stranger."""
_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["format", "workflow", "inputs", "output", "files"],
    "properties": {
        "format": {"type": "integer"}, "name": _TEXT, "workflow": {"type": "object"}, "inputs": {"type": "object"},
        "output": _TEXT, "made": {"type": "object"}, "exact": {"type": "boolean"}, "item": {"type": "integer"},
        "held": {"type": "object", "additionalProperties": _TEXT},
        "files": {"type": "array", "items": {
            "type": "object", "required": ["at", "name", "sha256"],
            "properties": {
                "at": {"type": "array", "minItems": 1, "items": {"type": ["string", "integer"]}},
                "name": {"type": "string", "minLength": 1, "maxLength": 255}, "sha256": _TEXT,
                "size": {"type": "integer"},
            },
        }},
        "weights": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": _TEXT}},
        "versions": {"type": "object", "properties": {
            "graphengine": _TEXT, "python": _TEXT, "packs": {"type": "object", "additionalProperties": _TEXTS},
        }},
    },
}  # fmt: skip
"""The JSON Schema of a record in the current format, which `graphengine.provenance.describe` writes."""


def read(picture: Path) -> dict[str, Any]:
    """Read the record in a picture or an MP4.

    Raises:
        FileError: It is neither, or has no record that can be read.
    """
    return record_in(texts_of(picture), picture)


def record_in(texts: Mapping[str, str], picture: Path) -> dict[str, Any]:
    """The record among the texts of a picture.

    Raises:
        FileError: There is none, or it is damaged.
    """
    if CHUNK not in texts:
        raise FileError(f"{picture} does not carry how it was made (it has no text called {CHUNK})")
    return parse(texts[CHUNK], str(picture))


def texts_of(picture: Path) -> dict[str, str]:
    """The texts in a picture or an MP4 that say how it was made: its record, and the settings that other tools write,
    by name.

    Raises:
        FileError: It is neither, or is cut short.
    """
    import PIL
    import PIL.Image

    if videos.is_video(picture):
        told = videos.texts_of(picture, whole_if=CHUNK)
        return {name: told[name] for name in (CHUNK, PARAMETERS) if name in told}
    try:
        with open_file(picture) as file:
            with warnings_as("error", PIL.Image.DecompressionBombWarning):
                image = PIL.Image.open(file)  # reads only the header
            with image:
                found: dict[str, Any] = _exif_texts(image) | {str(name): value for name, value in image.info.items()}
                texts = {name: found[name] for name in (CHUNK, PARAMETERS) if isinstance(found.get(name), str)}
                if CHUNK in texts:
                    image.load()  # refuses a truncated picture, which could not be compared with the new one
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise FileError(f"{picture} would unpack to more pixels than a picture of ours can have") from None
    except PIL.UnidentifiedImageError:
        raise FileError(f"{picture} is no picture") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise FileError(f"{picture} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return texts


def _exif_texts(image: PIL.Image.Image) -> dict[str, Any]:
    """The texts of a picture without text chunks (JPEG, WebP), in its EXIF data: JSON in the MakerNote, and the
    settings of other tools as UserComment."""
    entries = image.getexif().get_ifd(EXIF)
    found: dict[str, Any] = {}
    comment, note = entries.get(USER_COMMENT), entries.get(MAKER_NOTE)
    if isinstance(comment, bytes) and (encoding := _ENCODINGS.get(comment[:8])):
        found[PARAMETERS] = comment[8:].decode(encoding, "replace")
    if isinstance(note, bytes):
        with contextlib.suppress(ValueError, RecursionError):
            texts = json.loads(note)
            found |= texts if isinstance(texts, dict) else {}
    return found


USER_COMMENT = 0x9286
"""The EXIF tag in which other tools write the settings."""
_ENCODINGS = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16-be"}


def parse(text: str, name: str) -> dict[str, Any]:
    """Parse a record's JSON text, and check it against the schema.

    Args:
        text: The JSON text.
        name: The picture's name, for errors.

    Raises:
        FileError: It is damaged, or has a newer format.
    """
    from jsonschema import Draft202012Validator

    damaged = FileError(f"{name}: the record of how it was made is damaged")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged from None
    version = record.get("format") if isinstance(record, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise FileError(f"{name} was made by a newer graphengine (record format {version!s:.20}); update it")
    if _is_deep(record) or not Draft202012Validator(SCHEMA).is_valid(record):
        raise damaged
    return record  # type: ignore[no-any-return]


def _is_deep(data: Any) -> bool:
    """Whether lists and objects are nested deeper than `DEEPEST`."""
    level = [data]
    for _ in range(DEEPEST):
        level = [
            item for container in level if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
        ]  # fmt: skip
    return bool(level)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the differences between an old record and a new one (of `describe`) of the same graph, as sentences."""
    old, new = _facts(then), _facts(now)
    return [
        f"{name}: {_text(old.get(name))} then, {_text(new.get(name))} now"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    versions = record.get("versions") or {}
    facts |= {name: versions.get(name) for name in ("graphengine", "python")}
    for pack, parts in (versions.get("packs") or {}).items():
        for part in parts:
            name, separator, version = str(part).partition("==")
            facts[name if separator else f"the sources of pack {pack}"] = version if separator else name
    for id, weights in (record.get("weights") or {}).items():
        facts[f"the weights of {id} ({weights.get('name') or weights.get('type')})"] = weights.get("digest")
    made = (record.get("made") or {}).items()
    return facts | {name: value for name, value in made if name not in facts and name != "worker"}  # only a name


def _text(value: Any) -> str:
    return "none" if value is None else str(value)[:60]


def graph_of(record: Mapping[str, Any], files: Mapping[Position, Path]) -> tuple[GraphData, dict[str, Any]]:
    """Make the graph of a record and its inputs, with the current paths of files.

    Args:
        record: The record.
        files: The current path of each file, by its position in the record (see `locate`).

    Raises:
        WorkflowError: It cannot be read, or needs a value that the picture does not hold.
        FileError: The record is damaged.
    """
    from graphengine.api import Graph
    from graphengine.workflow.files import from_document

    try:
        held = {digest: base64.b64decode(content) for digest, content in record.get("held", {}).items()}
    except ValueError:
        raise FileError("the record of how it was made is damaged: a value in it is no base64") from None
    whole = {"workflow": record["workflow"], INPUTS: record["inputs"]}
    whole = json.loads(json.dumps(whole))
    for position, path in files.items():
        _put(whole, position, str(path))
    # A record holds all workflows that it uses, so that a stranger's picture cannot make other files be read as one.
    name = f"{record.get('name', 'workflow')}.json"
    graph = from_document(whole["workflow"], name=name, roots=(), fetch=held.get, make=Graph)
    return graph, whole[INPUTS]


def _put(data: Any, position: Position, path: str) -> None:
    *before, last = position
    try:
        for part in before:
            data = data[part]
        data[last] = path
    except (KeyError, IndexError, TypeError):
        raise FileError("the record of how it was made is damaged: it names a file that it does not use") from None


def locate(files: Iterable[Mapping[str, Any]], folders: Iterable[Path]) -> tuple[dict[Position, Path], list[str]]:
    """Find the files of a record by their hash.

    Files with the same name are tried first, then all files of the same size.

    Args:
        files: The entries under `files` of the record.
        folders: The folders to search, with their subfolders.

    Returns:
        The path of each file by its position in the record, and a sentence for each file that was not found.
    """
    places = list(folders)
    found: dict[Position, Path] = {}
    missing: dict[str, None] = {}
    known: dict[str, Path | None] = {}
    for facts in files:
        name, digest = Path(str(facts["name"])).name, str(facts["sha256"])
        if digest not in known:
            known[digest] = _find(name, digest, facts.get("size"), places)
        path = known[digest]
        if path is not None:
            found[tuple(facts["at"])] = path
        else:
            searched = ", ".join(map(str, places))
            missing[f"the file {name} (SHA-256 {digest[:12]}…) is not found in {searched}"] = None
    return found, list(missing)


MOST_FILES = 200_000
"""The most files that a search looks at."""


def _find(name: str, digest: str, size: Any, folders: list[Path]) -> Path | None:
    for path in _candidates(name, size, folders):
        try:
            if fingerprint(path) == digest:
                return path
        except GraphEngineError:
            continue
    return None


def _candidates(name: str, size: Any, folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        if (folder / name).exists():
            yield folder / name
    count = 0
    for folder in folders:
        for entry in entries_of(folder, all=False):
            count += 1
            if count > MOST_FILES:
                return
            with contextlib.suppress(OSError):
                if entry.name == name if size is None else entry.is_file() and entry.stat().st_size == size:
                    yield Path(entry.path)


def find_named(
    name: str, suffixes: Iterable[str], fits: Callable[[Path], bool], folders: Iterable[Path]
) -> Path | None:
    """The first file in some folders, with their subfolders, that has a name before one of some suffixes, and fits."""
    known, count = frozenset(suffixes), 0
    for folder in folders:
        for entry in entries_of(folder, all=False):
            count += 1
            if count > MOST_FILES:
                return None
            stem, suffix = os.path.splitext(entry.name)
            if stem == name and suffix.lower() in known:
                with contextlib.suppress(GraphEngineError, OSError):
                    if fits(Path(entry.path)):
                        return Path(entry.path)
    return None
