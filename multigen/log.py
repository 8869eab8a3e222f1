"""Logging for scripts."""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["setup_logger"]

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup_logger(path: str | Path, level: int = logging.INFO) -> logging.Logger:
    """Append the log of multigen and graphengine to a file; return the root logger.

    A second call with the same file adds nothing.

    Raises:
        OSError: The file cannot be written.
    """
    file = Path(path).expanduser().absolute()
    root = logging.getLogger()
    root.setLevel(level)
    if any(isinstance(h, logging.FileHandler) and h.baseFilename == str(file) for h in root.handlers):
        return root
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    root.addHandler(handler)
    return root
