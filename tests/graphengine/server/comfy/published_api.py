"""The published description of the Comfy API v2, and checks of answers against it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ..conftest import Answer

FILE = Path(__file__).parent / "published" / "comfy_api_v2.yaml"


@functools.cache
def document() -> dict[str, Any]:
    """The description, its schemas made JSON Schemas: OpenAPI 3.0 says `nullable` where those have a type `null`."""
    found: dict[str, Any] = _with_null(yaml.safe_load(FILE.read_text()))
    return found


def _with_null(part: Any) -> Any:
    if isinstance(part, list):
        return [_with_null(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {name: _with_null(value) for name, value in part.items()}
    return {"anyOf": [made, {"type": "null"}]} if made.pop("nullable", False) is True else made


def check(answer: Answer, method: str, path: str) -> Answer:
    """Check an answer against the description of its route; returns it."""
    described = document()["paths"][path][method.lower()]["responses"]
    assert str(answer.status) in described, f"{method} {path} answers {answer.status}, which is not described"
    response = described[str(answer.status)]
    if "$ref" in response:
        response = document()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if content := response.get("content", {}).get("application/json"):
        check_schema(answer.data, content["schema"])
    assert answer.headers["x-comfy-request-id"]
    return answer


def check_schema(data: Any, schema: dict[str, Any] | str) -> None:
    """Check data against a schema, or one of the description by its name."""
    if isinstance(schema, str):
        schema = {"$ref": f"#/components/schemas/{schema}"}
    rules = {**schema, "components": document()["components"]}
    jsonschema.validate(data, rules, format_checker=jsonschema.FormatChecker())
