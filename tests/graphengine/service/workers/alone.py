"""Run a command in a network namespace that has only `lo`: what listens on every address there is heard by nobody else.

    python -m tests.graphengine.service.workers.alone COMMAND ...

It ends with exit code 77 where no namespace can be made.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import socket
import struct
import sys
from pathlib import Path

IMPOSSIBLE = 77
NEW_USER, NEW_NET = 0x10000000, 0x40000000
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1


def is_alone() -> bool:
    """Whether this process sees no other interface than `lo`."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def leave() -> None:
    """Move this process into a namespace of its own.

    Raises:
        OSError: It may not.
    """
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, GET_FLAGS, struct.pack("16sh", b"lo", 0)), 16)
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", flags | UP))


def for_ray(folder: str) -> dict[str, str]:
    """The environment of a cluster that is started alone, with a token.

    Args:
        folder: For Ray's sockets, whose paths must be short.
    """
    return os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def main() -> None:
    """Replace this process by the command, alone."""
    try:
        leave()
    except (OSError, AttributeError) as error:
        print(f"no network namespace can be made here: {error}", file=sys.stderr)
        sys.exit(IMPOSSIBLE)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
