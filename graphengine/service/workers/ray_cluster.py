"""Joining a Ray cluster: only a cluster that asks for a token; an error says why it cannot be joined."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphengine.errors import GraphEngineError

NAMESPACE = "graphengine"
ANSWER = 10.0
"""Seconds within which the head of a cluster must answer."""


class RayError(GraphEngineError):
    """A Ray cluster cannot be used."""


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a client of a cluster while the context lasts.

    Args:
        address: HOST:PORT of its head; `local` starts one of this machine alone, which ends with the context.

    Raises:
        RayError: Ray is not installed, there is no token, or no cluster at the address.
    """
    _prepare()
    import ray

    if ray.is_initialized():
        raise RayError("this process is a client of a Ray cluster already; leave it with ray.shutdown() first")
    more: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if address != "local":
        _reach(address)
    with _signals_kept():
        try:
            ray.init(address=address, namespace=NAMESPACE, **more)
        except Exception as error:
            raise RayError(f"the Ray cluster at {address} cannot be joined: {first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _prepare() -> None:
    """Set the environment variables that Ray reads when it is imported.

    Ray's ports listen on every address, and whoever reaches them may run code unless a token is asked for.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode not in (None, "token") or (mode is None and "ray" in sys.modules):
        raise RayError("Ray must ask for a token; set RAY_AUTH_MODE=token before this program starts")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not os.environ.get("RAY_AUTH_TOKEN") and not file.is_file():
        raise RayError(
            f"there is no token for Ray in {file} or RAY_AUTH_TOKEN; make one with `ray get-auth-token --generate`, "
            "the same for all machines of the cluster"
        )
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: F401
    except ImportError:
        raise RayError("Ray is not installed; install graphengine[ray]") from None


def _reach(address: str) -> None:
    """Check that a cluster answers and takes this token; Ray would try for minutes, and not say which is wrong.

    Raises:
        RayError: It does not answer, or refuses the token.
    """
    match = re.fullmatch(r"\[?([^][/\s]+)\]?:(\d{1,5})", address)
    if match is None:
        raise RayError(f"{address!r:.80} is no address of a Ray cluster; write HOST:PORT of its head, or local")
    host, port = match[1], int(match[2])
    try:
        socket.create_connection((host, port), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise RayError(
            f"no Ray cluster answers at {address}: {error}; start its head there with `ray start --head --port={port}`"
        ) from None
    from ray.exceptions import AuthenticationError

    try:
        importlib.import_module("ray._raylet").GcsClient(address=address)
    except AuthenticationError:
        raise RayError(
            f"the Ray cluster at {address} has another token; copy the auth_token of its head to this machine"
        ) from None
    except Exception as error:
        raise RayError(f"what answers at {address} is no head of a Ray cluster: {first_line(error)}") from None


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it stays with the program."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


def first_line(error: Exception) -> str:
    """What an exception says, without Ray's advice."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
