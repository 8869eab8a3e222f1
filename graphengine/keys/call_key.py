"""Keys of calls: a Merkle hash of everything that decides a call's result, under which the result is stored.

A node's key holds its full name, its version (declared, else a hash of its code), the state of its pack, its literals
in canonical form, the keys of the outputs linked to it and the fingerprints of its files; never ids, positions,
titles or paths. The canonical form of everything is a tuple of plain Python values, and the hash is taken of its
`repr`, which is the same for equal tuples only.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from graphengine.declare.definition import KeyTemplate, NodeDef
from graphengine.declare.sockets import Socket
from graphengine.errors import NodeDefinitionError
from graphengine.pack import SOURCES, library_versions, origin, version_stamp
from graphengine.values.canonical import HERE, NotData, canonical, digest, token
from graphengine.values.checksum import twin_of
from graphengine.values.literals import coerce

if TYPE_CHECKING:
    from graphengine.keys.code import Followed

_log = logging.getLogger(__name__)
_HERE = HERE.decode()


def is_of_process(key: bytes) -> bool:
    """Whether a key is valid in this process only, because its nodes read data that cannot be followed."""
    return key.endswith(HERE)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """The part of a key that comes from the node itself.

    Attributes:
        hash: The hash of its name, its version or code and data, and its pack's version stamp.
        used: The code and data that its function uses; None if the node's declared version stands for them.
        unfollowed: By name, the data that could not be followed, and why; empty if the node has a `.fingerprint`.
    """

    hash: bytes
    used: Followed | None = None
    unfollowed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def identity(definition: NodeDef[..., Any]) -> bytes:
    """The hash of a node itself: its name, its version or code, and its pack's version stamp."""
    return identified(definition).hash


def identified(definition: NodeDef[..., Any]) -> Identity:
    """The identity of a node; it is kept until `is_current` notices a change."""
    known: Identity | None = definition.key_identity
    if known is None:
        known = definition.key_identity = _identify(definition)
    return known


def is_current(definition: NodeDef[..., Any]) -> bool:
    """Whether nothing that a node's code uses has changed; otherwise its identity is computed again when next needed.

    It is called once in a run for each node.
    """
    known = definition.key_identity
    if known is None or known.used is None or known.used.stands():
        return True
    definition.begin_keys()
    return False


def data_stands(definition: NodeDef[..., Any]) -> bool:
    """Whether the data that a node reads besides its inputs is unchanged since its key was made."""
    known = definition.key_identity
    return known is None or known.used is None or known.used.data_stands()


def state(definition: NodeDef[..., Any]) -> tuple[str, ...]:
    """The version stamp of a node's pack in its keys; for a folder pack, as it was when the node was loaded."""
    sources = getattr(definition.fn, "__globals__", {}).get(SOURCES)
    pack = definition.module_pack
    return version_stamp(pack) if sources is None else (sources, *library_versions(pack))


def _identify(definition: NodeDef[..., Any]) -> Identity:
    version: Any = definition.version
    if version is not None and origin(definition.fn.__module__) != "loose":  # the code of scripts changes at any time
        return Identity(digest((definition.full_name, version, state(definition))))
    from graphengine.keys.code import follow

    used = follow(definition.fn)
    hash = digest((definition.full_name, (version, used.hash), state(definition)))
    unfollowed = {} if definition.fingerprint_fn is not None or definition.cache != "disk" else used.unfollowed
    if unfollowed:
        _warn(definition, unfollowed)
    return Identity(hash, used, unfollowed)


_warned: set[tuple[str, str]] = set()


def _warn(definition: NodeDef[..., Any], unfollowed: Mapping[str, str]) -> None:
    """Log once that the results of a node are remembered in this process only."""
    new = [name for name in unfollowed if (definition.full_name, name) not in _warned]
    _warned.update((definition.full_name, name) for name in new)
    if not new:
        return
    objects = "; ".join(f"{name} ({unfollowed[name]})" for name in new)
    versions = "" if origin(definition.fn.__module__) == "loose" else "declare a version of it (@node(version=1)), or "
    _log.warning(
        "%s reads what its key cannot follow: %s. Its results are remembered in this process only; to keep them, %s"
        "make this an input, or say with .fingerprint what of it decides the result (docs/keys.md)",
        definition.full_name, objects, versions,
    )  # fmt: skip


def _constant(value: Any) -> Any:
    try:
        return canonical(value)
    except NotData:  # a function or an object, of which only the name is known
        return getattr(value, "__qualname__", type(value).__qualname__)


def _template(definition: NodeDef[..., Any]) -> KeyTemplate:
    known = identified(definition)
    sockets = definition.sockets
    found = {name: _default(socket, definition.own_defaults) for name, socket in sockets.items()}
    added = {name: found.pop(name) for name, socket in sockets.items() if socket.added}
    start = blake2b(known.hash, digest_size=16)
    definition.key_template = (start, tuple(found), tuple(found.values()), added, bool(known.unfollowed))
    return definition.key_template


def _default(socket: Socket, own: Mapping[str, Any]) -> Any:
    try:
        return canonical(coerce(own.get(socket.name, socket.default), socket.type), socket.uses)
    except NotData:  # the default is one object in every call of this process
        return ("object", token(socket.default), HERE)


def node_key(definition: NodeDef[..., Any], tokens: Mapping[str, Any], salt: Any = None) -> bytes:
    """The key of a call: 16 bytes of BLAKE2b, and a suffix if it is valid in this process only.

    Args:
        definition: The node.
        tokens: By input, what each argument adds to the key; an input that is missing counts as its default.
        salt: Added to the keys of exact runs: how this process computes.
    """
    start, names, defaults, added, here = definition.key_template or _template(definition)
    hash = start.copy()
    if salt is not None:
        hash.update(b"salt" + digest(salt))
    text = repr([*map(tokens.get, names, defaults)])
    if added:
        given = {name: tokens[name] for name, default in added.items() if tokens.get(name, default) != default}
        text += repr(given) if given else ""
    hash.update(text.encode())  # repr escapes lone surrogates, so this always encodes.
    key: bytes = hash.digest()
    return key + HERE if here or _HERE in text else key


def own_fingerprint(definition: NodeDef[..., Any], values: Mapping[str, Any]) -> Any:
    """Call the `.fingerprint` function of a node; returns the canonical form that enters the key of this call.

    Raises:
        NodeDefinitionError: It returns a value without a canonical form.
        Exception: Whatever the function raises.
    """
    assert definition.fingerprint_fn is not None
    value = definition.fingerprint_fn(**{name: twin_of(value) for name, value in values.items()})
    try:
        return canonical(value)
    except NotData as reason:
        raise NodeDefinitionError(
            f"the fingerprint of {definition.full_name} cannot enter a key ({reason}): return a text, a number or bytes"
        ) from None
