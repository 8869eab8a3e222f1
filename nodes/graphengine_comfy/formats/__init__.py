"""ComfyUI's file formats, which the pack registers: workflows in API format, and as the editor saves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import FileFormat, FormatContext
from graphengine_comfy.formats.api_format import document_of, prompt_in
from graphengine_comfy.formats.class_facts import classes_of
from graphengine_comfy.formats.classes import is_output
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


COMFYUI = FileFormat("ComfyUI", recognise, read, is_output=is_output)
"""ComfyUI's workflows."""
