"""The OpenAPI 3.1 document of the native API, generated from its routes and the named workflows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.server.contract import Route
from graphengine.server.job_api import LABEL_NAME, LONGEST_LABEL, MOST_LABELS, MOST_PRIORITY
from graphengine.server.problems import TITLES
from graphengine.service.jobs.job import State
from graphengine.version import __version__

Schema = dict[str, Any]


def document(routes: Sequence[Route], workflows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document: an operation for each route, and one for each named workflow with its own inputs."""
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    for workflow in workflows:
        if "inputs" in workflow:
            operation = _named(workflow)
            paths[f"/v1/workflows/{workflow['name']}/jobs"] = {"post": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "graphengine", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    for name, type in route.query.items():
        parameters.append({"name": name, "in": "query", "schema": {"type": type} if isinstance(type, str) else type})
    if "202" in route.answers:
        parameters += _SUBMITTING
    if "text/event-stream" in route.answers.values():
        number = {"type": "string", "pattern": "^[0-9]{1,18}$"}
        parameters.append({"name": "Last-Event-ID", "in": "header", "schema": number})
    answers: dict[str, Any] = {status: _answer(name) for status, name in route.answers.items()}
    answers["default"] = _problem()
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": parameters,
        "responses": answers,
    }
    if route.body is not None:
        found["requestBody"] = {"required": route.body not in ("Move", "Pause"), "content": _content(route.body)}
    return found


def _named(workflow: Mapping[str, Any]) -> dict[str, Any]:
    order = _order({"inputs": workflow["inputs"]})
    order["properties"]["want"]["items"] = {"enum": list(workflow["outputs"])}
    if workflow["inputs"].get("required"):
        order["required"] = ["inputs"]
    return {
        "summary": workflow["title"] or workflow["name"],
        "description": workflow["description"] or "",
        "operationId": f"run_{re.sub(r'[^A-Za-z0-9_]', '_', workflow['name'])}",
        "parameters": _SUBMITTING,
        "requestBody": {"required": True, "content": {"application/json": {"schema": order}}},
        "responses": {"200": _answer("Job"), "202": _answer("Job"), "default": _problem()},
    }


_SUBMITTING: list[Schema] = [
    {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"}},
    {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "description": "wait=SECONDS, at most 60"},
]


def _content(name: str) -> Schema:
    if name == "bytes":
        return {"application/octet-stream": {}}
    if name == "text/event-stream":  # a schema would be that of each event, which OpenAPI 3.1 cannot say
        return {name: {}}
    if name == "text/html":
        return {name: {"schema": {"type": "string"}}}
    schema: Schema = {"type": "object"} if name == "object" else {"$ref": f"#/components/schemas/{name}"}
    return {"application/json": {"schema": schema}}


def _answer(name: str) -> Schema:
    if not name:
        return {"description": "Done."}
    described = {"bytes": "The bytes of the file."}.get(name, name)
    return {"description": described, "content": {"*/*": {}} if name == "bytes" else _content(name)}


def _problem() -> Schema:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": "Why it is refused.", "content": {"application/problem+json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(name: str) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


def _order(more: Schema) -> Schema:
    labels = {
        "type": ["object", "null"],
        "propertyNames": {"pattern": f"^{LABEL_NAME}$"},
        "additionalProperties": {"type": "string", "maxLength": LONGEST_LABEL},
        "maxProperties": MOST_LABELS,
    }
    options = {
        "want": {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1},
        "labels": labels,
        "priority": {"type": ["integer", "null"], "minimum": -MOST_PRIORITY, "maximum": MOST_PRIORITY},
        "exact": {"type": ["boolean", "null"]},
    }
    return {"type": "object", "properties": more | options, "additionalProperties": False}


def _schemas() -> Schema:
    text: Schema = {"type": "string"}
    maybe: Schema = {"type": ["string", "null"]}
    when: Schema = {"type": ["string", "null"], "format": "date-time"}
    anything: Schema = {"type": "object"}
    count: Schema = {"type": "integer"}
    order = _order({"workflow": {"type": "object", "description": "A workflow document."}, "inputs": anything})
    return {
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "properties": {
                "type": text,
                "title": text,
                "status": count,
                "detail": text,
                "instance": text,
                "code": {"enum": list(TITLES)},
                "problems": {"type": "array", "items": anything},
            },
            "required": ["type", "title", "status", "detail", "code"],
        },
        "Job": _object(
            id={"type": "string", "format": "uuid"}, number=count, state={"enum": [state.value for state in State]},
            cancelling={"type": "boolean"}, workflow=maybe, inputs=anything, drawn=anything, labels=anything, user=text,
            priority=count, created=when, started=when, ended=when, ahead={"type": ["integer", "null"]},
            progress={"type": ["object", "null"]}, error={"type": ["object", "null"]}, outputs=anything,
            urls=_object(self=text, events=text, cancel=text),
        ),
        "Page": {"type": "object", "properties": {"jobs": _list("Job"), "next_cursor": text}, "required": ["jobs"]},
        "Order": order | {"required": ["workflow"]},
        "NamedOrder": _order({"inputs": anything}),
        "Limit": {"type": "object", "properties": {"limit": {"type": ["integer", "null"], "minimum": 0}, "user": maybe},
                  "required": ["limit"], "additionalProperties": False},
        "Pause": {"type": "object", "properties": {"user": maybe}, "additionalProperties": False},
        "Subscribe": {
            "type": "object",
            "properties": {"subscribe": text, "after": count, "previews": {"type": "boolean"}},
            "required": ["subscribe"],
            "additionalProperties": False,
        },
        "Unsubscribe": {"type": "object", "properties": {"unsubscribe": text}, "required": ["unsubscribe"],
                        "additionalProperties": False},
        "Move": {"type": "object", "properties": {"before": maybe}, "additionalProperties": False},
        "File": _object(id=text, size=count, content_type=text, created=when, url=text),
        "Workflow": _object(name=text, title=text, description=text, inputs=anything, outputs=anything),
        "Workflows": _object(workflows={"type": "array", "items": anything}),
        "Nodes": _object(nodes={"type": "array", "items": anything}),
        "Workers": _object(
            workers={"type": "array", "items": _object(
                name=text, device=text, state=text, computing=count, parts=count, loads=count,
                free={"type": ["integer", "null"]}, computed=count, deaths=count,
            )},
        ),
        "Queue": _object(
            running=_list("Job"), waiting=_list("Job"), paused={"type": "boolean"}, limit={"type": ["integer", "null"]}
        ),
    }  # fmt: skip
