"""The generation queue of multigen."""

from __future__ import annotations

from pathlib import Path

from graphengine.errors import GraphEngineError

__all__ = ["ServiceThread"]


class ServiceThread:
    """A queue of generation jobs in the background.

    Raises:
        GraphEngineError: Always: this version has no service yet.
    """

    def __init__(self, cfg_file: str | Path) -> None:
        raise GraphEngineError(
            f"ServiceThread({str(cfg_file)!r}) needs the job queue, which this version of graphengine does not have "
            "yet; generate with a Pipe class and GenSession meanwhile"
        )
