"""ComfyUI's file formats, which the pack registers: workflows in API format are read as documents of graphengine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import FileFormat, FormatContext
from graphengine_comfy.formats.api_format import document_of, prompt_in


def recognise(data: Mapping[str, Any]) -> bool:
    """Whether a file's data is a workflow of ComfyUI."""
    return prompt_in(data) is not None


def read(data: Mapping[str, Any], context: FormatContext) -> dict[str, Any]:
    """Convert a workflow of ComfyUI to a document of graphengine.

    Raises:
        WorkflowError: It cannot be converted.
    """
    return document_of(prompt_in(data) or {}, context)


COMFYUI = FileFormat("ComfyUI", recognise, read)
"""ComfyUI's workflows."""
