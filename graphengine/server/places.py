"""Sentences without the places of files on this server: strangers need not know where it keeps what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from graphengine.errors import Problem

_PLACE = re.compile(r"(?<![\w/:.<~-])/(?:[\w.@+~-]+/)+(?=[\w.@+~-])")
"""The folders of an absolute path; neither a URL nor a part of a relative path."""
_UPLOAD = re.compile(r"(?<![\w/])[0-9a-f]{32}/(?=[0-9a-f]{64})")


class Places:
    """Takes the places of files out of sentences.

    Args:
        uploads: The folder of the uploaded files, which clients know by their ids.
        folders: The other folders whose files are shown by their paths in them.
    """

    def __init__(self, uploads: Path, folders: Iterable[Path | None]) -> None:
        self._folders = sorted({str(folder) for folder in (*folders, uploads) if folder is not None}, key=len)[::-1]

    def without_folders(self, text: str) -> str:
        """A sentence in which files in the server's folders stand by their paths there, uploads by their ids."""
        for folder in self._folders:
            if folder in text:
                text = re.sub(re.escape(folder) + r"(?:/|(?![\w.-]))", "", text)
        return _UPLOAD.sub("sha256:", text)

    def without_places(self, text: str) -> str:
        """As `without_folders`, and all other files by their names only, for what a node has said."""
        return _PLACE.sub("", self.without_folders(text))

    def of_problems(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems with a workflow, in the same way."""
        hide, found = self.without_folders, list[Problem]()
        for problem in problems:
            where = replace(problem.where, file=problem.where.file and hide(problem.where.file))
            found.append(replace(problem, where=where, what=hide(problem.what), hint=hide(problem.hint)))
        return found
