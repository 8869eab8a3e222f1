"""Control pictures: the networks (annotators) that make them, as references to files, and the node that runs them.

A network is one file among others in a folder or on the hub. Only the files that are needed are looked up, and each
network is in the weight store once, however many calls draw with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from graphengine import (
    INERT,
    Choices,
    Context,
    Doc,
    File,
    ModelError,
    Range,
    Rooted,
    SocketType,
    View,
    confined,
    fingerprint,
    node,
    register_type,
)
from graphengine_nodes.nodes.annotator_kinds import KINDS, NETWORKS
from graphengine_nodes.values.references import digest_of
from graphengine_nodes.values.types import Image
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location

Source = Annotated[
    str | Path, File("folder", names=True), Doc("The folder that holds the network's files, or a hub id.")
]
Resolution = Annotated[
    int,
    Range(64, 4096, 64),
    Doc("Shorter side, in pixels, of the picture as the network sees it; more shows finer detail."),
]

LONGEST = 16
"""The highest ratio of a picture's longer side to its shorter one: resizing a longer picture would fill the memory."""


@dataclass(frozen=True, slots=True)
class Annotator:
    """A reference to the networks that make one kind of control picture.

    Attributes:
        kind: A key of `KINDS`.
        files: Name and digest of each file of its networks.
        source: Where they were loaded from, as shown to people.
    """

    kind: str
    files: tuple[tuple[str, str], ...]
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return digest_of([self.kind, self.files])


# --- the nodes --------------------------------------------------------------------------------------------------------


@node(version=1)
def load_annotator(kind: Annotated[str, Choices(*KINDS)], source: Source) -> Annotator:
    """Make a reference to the networks of a kind of control picture; they are read when a node computes with them.

    Raises:
        ModelError: A file is not in the folder; there is no such hub id, or no connection to fetch it.
    """
    digests: list[tuple[str, str]] = []
    for network in KINDS[kind].networks:
        for name in NETWORKS[network].files:
            path = _find(source, name, kind)
            digest = fingerprint(path)
            files.note(digest, Location(path))
            digests.append((name, digest))
    return Annotator(kind, tuple(digests), files.name_of(source))


@node(version=1, on="device")
def annotate(image: Image, annotator: Annotator, resolution: Resolution = 512, ctx: Context = INERT) -> Image:
    """Draw the control picture of each picture, at the same size.

    Raises:
        ModelError: The networks' files are gone, damaged, or hold something else.
        ValueError: A picture is too long for its width.
    """
    import torch

    width, height = image.size
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(
            f"a picture of {width} x {height} is too long for a network; crop it to {LONGEST} to 1 or less"
        )
    drawn = []
    with _networks(annotator, ctx.device) as networks, torch.no_grad():
        for index, picture in enumerate(image.opaque().pils()):
            drawn.append(KINDS[annotator.kind].draw(networks, picture, resolution))
            ctx.progress(index + 1, len(image))
    return Image(torch.stack(drawn))


@contextmanager
def _networks(annotator: Annotator, device: str) -> Iterator[list[Any]]:
    """The networks of an annotator on a device."""
    with ExitStack() as stack:
        yield [stack.enter_context(_network(annotator, name, device)) for name in KINDS[annotator.kind].networks]


def _network(annotator: Annotator, name: str, device: str) -> AbstractContextManager[Any]:
    from graphengine_nodes.store.store import store
    from graphengine_nodes.weights.devices import exact_device, to_device

    network, digests, device = NETWORKS[name], dict(annotator.files), exact_device(device)
    wanted = [digests[file] for file in network.files]

    def load() -> Any:
        return to_device(network.load(*[_located(digest, annotator) for digest in wanted]), device)

    return store.hold((name, *wanted, device), device, load)


def _located(digest: str, annotator: Annotator) -> Path:
    """Find the file with a digest, unchanged since the reference was made."""
    path = files.locate(digest, f"{annotator.source} for {annotator.kind}").path
    if fingerprint(path) != digest:
        raise ModelError(f"{path} has changed since it was loaded; load it again")
    return path


# --- finding files ----------------------------------------------------------------------------------------------------


def _find(source: str | Path, name: str, kind: str) -> Path:
    """Find a file in a folder or in a repository of the hub."""
    text, folder = str(source), source if isinstance(source, Rooted) else Path(source).expanduser()
    if folder.is_dir() and (isinstance(source, Path) or not confined()):
        path = folder.absolute() / name
        if path.is_file():
            return path
        raise ModelError(f"{kind} wants the file {name} in {folder}, which does not hold it; put it there")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text) or text.startswith("."):
        raise ModelError(f"{kind} wants the file {name}; there is no folder {text}, give one or a hub id")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            return Path(hf_hub_download(text, name, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(hf_hub_download(text, name))
    except Exception as error:  # the hub's errors have no common base that older versions know
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{kind} wants the file {name}: {text} is no folder on this machine and the hub did not give it "
            f"({type(error).__name__}: {reason:.200}); without a network give a folder that holds it"
        ) from None


# --- the type ---------------------------------------------------------------------------------------------------------


def _encode(value: Annotator) -> bytes:
    return json.dumps(asdict(value)).encode()


def _decode(data: bytes) -> Annotator:
    facts = json.loads(data)
    return Annotator(facts["kind"], tuple((name, digest) for name, digest in facts["files"]), facts["source"])


def _save(value: Annotator, path: Path, text: Any) -> list[Path]:
    from graphengine_nodes.values.picture_files import write_whole

    file = path.with_name(f"{path.name}.json")
    write_whole(file, _encode(value))
    return [file]


register_type(
    SocketType(
        Annotator,
        "Annotator",
        encode=_encode,
        decode=_decode,
        size=lambda value: 300,
        view=lambda value: View(text=f"what makes {value.kind} pictures, of {value.source}\ndigest {value.digest()}"),
        save=_save,
        digest=Annotator.digest,
    )
)
