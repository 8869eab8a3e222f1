"""What a picture's record says when it is read back: its graph, its files where they lie now, what differs since."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import FileError, GraphEngineError
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.keys.files import fingerprint
from graphengine.provenance.describe import CHUNK, EXIF, FORMAT, MAKER_NOTE, Position
from graphengine.system.opening import entries_of, open_file
from graphengine.warning_filters import warnings_as

if TYPE_CHECKING:
    import PIL.Image


DEEPEST = 200
"""Levels of a record that comes from anybody."""
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
"""The JSON Schema of a record in today's format, which `graphengine.provenance.describe` writes."""


def read(picture: Path) -> dict[str, Any]:
    """The record that a picture carries.

    Raises:
        FileError: It is no picture, or carries no record that can be read.
    """
    import PIL
    import PIL.Image

    try:
        with open_file(picture) as file:
            with warnings_as("error", PIL.Image.DecompressionBombWarning):
                image = PIL.Image.open(file)  # reads no more than the size
            with image:
                text = image.info.get(CHUNK) or _note(image).get(CHUNK)
                if isinstance(text, str):
                    image.load()  # what is cut short could not be compared with what is made again
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise FileError(f"{picture} would unpack to more pixels than a picture of ours can have") from None
    except PIL.UnidentifiedImageError:
        raise FileError(f"{picture} is no picture") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise FileError(f"{picture} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(text, str):
        raise FileError(f"{picture} does not carry how it was made (it has no text called {CHUNK})")
    return parse(text, str(picture))


def _note(image: PIL.Image.Image) -> dict[str, Any]:
    """The texts of a picture that has no text chunks (JPEG, WebP): JSON in the MakerNote of its EXIF."""
    note = image.getexif().get_ifd(EXIF).get(MAKER_NOTE)
    if not isinstance(note, bytes):
        return {}
    with contextlib.suppress(ValueError):
        found = json.loads(note)
        return found if isinstance(found, dict) else {}
    return {}


def parse(text: str, name: str) -> dict[str, Any]:
    """A record from its JSON text, checked for what `rerun` needs.

    Raises:
        FileError: It is damaged, or of a newer format.
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
    """Whether lists and objects lie deeper inside each other than `DEEPEST`."""
    level = [data]
    for _ in range(DEEPEST):
        level = [
            item for one in level if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
    return bool(level)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences about what is not now (`describe` of the same) as it was then."""
    old, new = _facts(then), _facts(now)
    return [
        f"{name}: {_told(old.get(name))} then, {_told(new.get(name))} now"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    told = record.get("versions") or {}
    facts |= {name: told.get(name) for name in ("graphengine", "python")}
    for pack, parts in (told.get("packs") or {}).items():
        for part in parts:
            name, separator, version = str(part).partition("==")
            facts[name if separator else f"the sources of pack {pack}"] = version if separator else name
    for id, weights in (record.get("weights") or {}).items():
        facts[f"the weights of {id} ({weights.get('name') or weights.get('type')})"] = weights.get("digest")
    made = (record.get("made") or {}).items()
    return facts | {name: value for name, value in made if name not in facts and name != "worker"}  # that is a name


def _told(value: Any) -> str:
    return "none" if value is None else str(value)[:60]


def graph_of(record: Mapping[str, Any], files: Mapping[Position, Path]) -> tuple[GraphData, dict[str, Any]]:
    """The graph of a record and its inputs, with the files where they lie now.

    Raises:
        WorkflowError: It cannot be read, or needs a value that the picture does not carry.
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
    # It holds all workflows that it uses: a picture of a stranger's makes nobody read other files as such.
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
    """Where files lie now: by position in the record a path; and sentences about those that are not found.

    A file of that name is tried first, then every file of that size; what counts is the hash.
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
"""Files that a search looks at."""


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
