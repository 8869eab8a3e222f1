"""Workflows in pictures: PNG files in whose texts other tools write the workflow that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.errors import Problem, Where, WorkflowError
from graphengine.graph.data import GraphData
from graphengine.system.opening import open_file
from graphengine.warning_filters import warnings_as
from graphengine.workflow.formats import formats
from graphengine.workflow.yaml12 import load as parse

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RECORD = "graphengine"
"""The text in which pictures of ours hold the record of how they were made."""


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG; False also for one that cannot be read."""
    try:
        with open_file(path) as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def workflow_in(path: Path) -> Any:
    """The workflow, as plain data, that a picture holds in a format that a pack has registered.

    Raises:
        WorkflowError: It holds none, or cannot be read.
    """
    where = Where(file=str(path))
    texts = _texts(path, where)
    for format in formats():
        text = None if format.picture is None else format.picture(texts)
        if text is not None:
            return parse(text, f"{path.name}.json")[0]
    if RECORD in texts:
        hint = f"`graphengine rerun {path}` makes it again"
        raise WorkflowError(Problem("no workflow", "this is a picture with the record of how it was made", where, hint))
    raise WorkflowError(Problem("no workflow", "this picture holds no workflow", where, "give a workflow file"))


def refuse_writing(graph: GraphData, path: Path) -> None:
    """Refuse the workflow of a picture, which may come from a stranger, if a node of it writes files itself.

    Raises:
        WorkflowError: A node does.
    """
    for id, node in graph.nodes.items():
        if isinstance(node.kind, NodeDef) and any(rule.write for rule in node.kind.files.values()):
            what = f"{node.type} writes files, so it is not run from a picture"
            raise WorkflowError(Problem("writes", what, Where(file=str(path), node=id), "run the workflow itself"))


def _texts(path: Path, where: Where) -> dict[str, str]:
    import PIL
    import PIL.Image

    try:
        bomb = warnings_as("error", PIL.Image.DecompressionBombWarning)
        with open_file(path) as file, bomb, PIL.Image.open(file) as image:  # reads only the header
            return {str(name): str(text) for name, text in image.info.items() if isinstance(text, str)}
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        what = "it would unpack to more pixels than a picture of ours can have"
    except (PIL.UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        what = f"the picture cannot be read: {getattr(error, 'strerror', None) or error}"
    raise WorkflowError(Problem("damaged", what, where))
