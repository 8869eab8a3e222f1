"""ComfyUI's file formats, which the pack registers: workflows in API format, as the editor saves them, in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine import FileFormat, FileName, FormatContext, Graph, NodeDef
from graphengine_comfy.file_names import DEFAULT, preview_name, saved_name
from graphengine_comfy.formats.api_format import document_of, prompt_in
from graphengine_comfy.formats.class_facts import classes_of
from graphengine_comfy.formats.classes import PACK, is_output
from graphengine_comfy.formats.dynamic_inputs import DYNAMIC_COMBOS
from graphengine_comfy.formats.export import prompt_of
from graphengine_comfy.formats.from_editor import from_editor
from graphengine_comfy.formats.to_editor import to_editor
from graphengine_comfy.formats.ui_format import api_of
from graphengine_comfy.formats.ui_format import recognise as is_workflow


def recognise(data: Mapping[str, Any]) -> bool:
    """Whether a file's data is a workflow of ComfyUI."""
    return is_workflow(data) or prompt_in(data) is not None


def read(data: Mapping[str, Any], context: FormatContext) -> dict[str, Any]:
    """Convert a workflow of ComfyUI to a document of graphengine.

    Raises:
        WorkflowError: It cannot be converted.
    """
    prompt = api_of(data, classes_of(context), context) if is_workflow(data) else prompt_in(data)
    return document_of(prompt or {}, context)


def write(graph: Graph, context: FormatContext) -> dict[str, Any]:
    """Write a graph in API format.

    Raises:
        WorkflowError: It has parts that a prompt cannot hold.
    """
    return prompt_of(graph)


def in_picture(texts: Mapping[str, str]) -> str | None:
    """The workflow among the texts of a picture of ComfyUI: the prompt that made it, else what the editor had."""
    return texts.get("prompt") or texts.get("workflow")


def file_name(definition: NodeDef[..., Any], arguments: Mapping[str, Any], value: Any) -> FileName | None:
    """How ComfyUI names the files of an output node: by `filename_prefix`, and without one as previews."""
    if definition.pack != PACK:
        return None
    if "filename_prefix" not in definition.sockets:
        return preview_name()
    return saved_name(str(arguments.get("filename_prefix", DEFAULT)), value)


def opened(definition: NodeDef[..., Any]) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The choices of a class that open further inputs."""
    return DYNAMIC_COMBOS.get(definition.name, {}) if definition.pack == PACK else {}


COMFYUI = FileFormat(
    "ComfyUI", recognise, read, write, in_picture, is_output, file_name, to_editor, from_editor, opened
)
"""ComfyUI's workflows."""
