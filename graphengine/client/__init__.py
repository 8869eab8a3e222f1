"""The client of a server, in Python: the calls of a service, over HTTP.

    from graphengine.client import Client

    with Client("http://localhost:8188") as client:
        job = client.submit("text_to_image", {"prompt": "a red circle"})
        client.wait(job)
        image = client.outputs(job)["image"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.lazy import exports

if TYPE_CHECKING:
    from graphengine.client.answers import Event, Job, Output, OutputFile, QueueFacts, Workflow
    from graphengine.client.async_client import AsyncClient
    from graphengine.client.errors import JobFailed, NotAllowed, ServerError, ServerFull, Unreachable
    from graphengine.client.sync_client import Client

_HOMES = {
    "graphengine.client.answers": ("Event", "Job", "Output", "OutputFile", "QueueFacts", "Workflow"),
    "graphengine.client.async_client": ("AsyncClient",),
    "graphengine.client.errors": ("JobFailed", "NotAllowed", "ServerError", "ServerFull", "Unreachable"),
    "graphengine.client.sync_client": ("Client",),
}
__all__ = [
    "AsyncClient", "Client", "Event", "Job", "JobFailed", "NotAllowed", "Output", "OutputFile", "QueueFacts",
    "ServerError", "ServerFull", "Unreachable", "Workflow",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker tells of names that are not there
    __getattr__ = exports(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
