"""Keys: a Merkle hash of what a value is made of, by which values are found again.

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
    """Whether a key's value is remembered in this process only: something that its nodes read could not be followed."""
    return key.endswith(HERE)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What of a key comes from the node itself.

    Attributes:
        hash: Of its name, its version or code and data, the state of its pack.
        used: What its code was found to use; None where its author's version says it.
        unfollowed: What of that could not be followed, by name, and why; nothing where `.fingerprint` says what counts.
    """

    hash: bytes
    used: Followed | None = None
    unfollowed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def identity(definition: NodeDef[..., Any]) -> bytes:
    """What of a key comes from the node itself: its name, its version or code, the state of its pack."""
    return identified(definition).hash


def identified(definition: NodeDef[..., Any]) -> Identity:
    """The identity of a node, as it was when `is_current` last found it changed."""
    known: Identity | None = definition.key_identity
    if known is None:
        known = definition.key_identity = _identify(definition)
    return known


def is_current(definition: NodeDef[..., Any]) -> bool:
    """Whether a node's identity still holds: nothing that its code uses has changed since. Else it is found anew when
    it is next asked for. Asked once in a run for each node."""
    known = definition.key_identity
    if known is None or known.used is None or known.used.stands():
        return True
    definition.begin_keys()
    return False


def data_stands(definition: NodeDef[..., Any]) -> bool:
    """Whether the data that a node reads beside its inputs is what its key says."""
    known = definition.key_identity
    return known is None or known.used is None or known.used.data_stands()


def state(definition: NodeDef[..., Any]) -> tuple[str, ...]:
    """What stands for the state of a node's pack in its keys; for a node of a folder, as it was when it was loaded."""
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
        _say(definition, unfollowed)
    return Identity(hash, used, unfollowed)


_said: set[tuple[str, str]] = set()


def _say(definition: NodeDef[..., Any], unfollowed: Mapping[str, str]) -> None:
    """Say once that a node is remembered in this process only."""
    new = [name for name in unfollowed if (definition.full_name, name) not in _said]
    _said.update((definition.full_name, name) for name in new)
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
    except NotData:  # a function or an object: only its name can be told
        return getattr(value, "__qualname__", type(value).__qualname__)


def _template(definition: NodeDef[..., Any]) -> KeyTemplate:
    known = identified(definition)
    names = tuple(definition.sockets)
    defaults = tuple(_default(socket, definition.own_defaults) for socket in definition.sockets.values())
    definition.key_template = (blake2b(known.hash, digest_size=16), names, defaults, bool(known.unfollowed))
    return definition.key_template


def _default(socket: Socket, own: Mapping[str, Any]) -> Any:
    try:
        return canonical(coerce(own.get(socket.name, socket.default), socket.type), socket.uses)
    except NotData:  # it is the same object in every call of this process
        return ("object", token(socket.default), HERE)


def node_key(definition: NodeDef[..., Any], tokens: Mapping[str, Any], salt: Any = None) -> bytes:
    """The key of a call from the tokens of its inputs; what is not given stands as its default."""
    start, names, defaults, here = definition.key_template or _template(definition)
    hash = start.copy()
    if salt is not None:
        hash.update(b"salt" + digest(salt))
    text = repr([*map(tokens.get, names, defaults)])
    hash.update(text.encode())  # repr escapes lone surrogates, so this always encodes.
    key: bytes = hash.digest()
    return key + HERE if here or _HERE in text else key


def own_fingerprint(definition: NodeDef[..., Any], values: Mapping[str, Any]) -> Any:
    """What the `.fingerprint` function of a node adds to the key of a call with these inputs.

    Raises:
        NodeDefinitionError: It returns what has no canonical form.
        Exception: Whatever it raises itself.
    """
    assert definition.fingerprint_fn is not None
    value = definition.fingerprint_fn(**{name: twin_of(value) for name, value in values.items()})
    try:
        return canonical(value)
    except NotData as reason:
        raise NodeDefinitionError(
            f"the fingerprint of {definition.full_name} cannot enter a key ({reason}): return a text, a number or bytes"
        ) from None
