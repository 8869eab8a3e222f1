"""Prompts of ComfyUI's clients: what they hold, which nodes run, and what is wrong with them in ComfyUI's words.

A prompt is `{id: {"class_type": name, "inputs": {name: value or [id, slot]}}}`. Making a graph of it is the work of the
pack that registers ComfyUI's file format.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphengine.errors import Problem, Where, WorkflowError
from graphengine.graph.elements import INPUTS
from graphengine.server.problems import ApiError
from graphengine.workflow.files import from_document
from graphengine.workflow.formats import original_ids, original_inputs

FACTS = "comfy"
"""The name under which a job keeps what its client sent."""
KEPT = ("workflow",)
"""What is kept of `extra_data.extra_pnginfo`. All else of `extra_data` is dropped at once: it may hold keys."""
LONGEST_ID = 200
ERRORS = {
    "missing input": "required_input_missing",
    "not a choice": "value_not_in_list",
    "out of range": "value_smaller_than_min",
    "not a number": "invalid_input_type",
    "wrong type": "invalid_input_type",
    "type mismatch": "return_type_mismatch",
    "dangling link": "bad_linked_input",
    "cycle": "dependency_cycle",
    "unknown node": "missing_node_type",
    "unknown classes": "missing_node_type",
}
"""ComfyUI's words for problems, by their kinds here; all others are `custom_validation_failed`."""
MESSAGES = {
    "required_input_missing": "Required input is missing",
    "value_not_in_list": "Value not in list",
    "value_smaller_than_min": "Value smaller than min",
    "value_bigger_than_max": "Value bigger than max",
    "invalid_input_type": "Failed to convert an input value to the type that the node takes",
    "return_type_mismatch": "Return type mismatch between linked nodes",
    "bad_linked_input": "Bad linked input",
    "dependency_cycle": "Nodes need each other",
    "missing_node_type": "Node type not found",
    "custom_validation_failed": "Custom validation failed for node",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client sent to be run.

    Attributes:
        nodes: The prompt, as it was sent.
        client: The client's own name for itself, to which events are sent; '' if it gave none.
        uuid: The id that the client chose for the job; '' if it chose none.
        number: Its place: prompts with lower numbers run first; None for the end of the queue.
        front: It is to run before all that wait.
        targets: Only these output nodes are wanted; None for all.
        extra: What is kept of `extra_data`.
        previews: The client asks for previews, though its socket has not said that it understands them.
    """

    nodes: dict[str, Any]
    client: str = ""
    uuid: str = ""
    number: float | None = None
    front: bool = False
    targets: list[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    previews: bool = False

    def texts(self) -> dict[str, str]:
        """The texts by which the frontend opens the workflow of a picture; nothing else of the request is in them."""
        found = {"prompt": self.nodes, **self.extra.get("extra_pnginfo", {})}
        return {name: json.dumps(value) for name, value in found.items()}

    def facts(self, outputs: Sequence[str]) -> dict[str, Any]:
        """What the job keeps of it."""
        place = {} if self.number is None else {"number": self.number}
        return {
            FACTS: {
                **place, "prompt": self.nodes, "client": self.client, "extra": self.extra, "outputs": list(outputs),
                "previews": self.previews,
            }
        }  # fmt: skip


def read(data: Mapping[str, Any]) -> Prompt:
    """Read the body of `POST /prompt`.

    Raises:
        ApiError: It holds no prompt, or something else in it is wrong.
    """
    nodes = data.get("prompt")
    if not isinstance(nodes, dict):
        what = "No prompt provided: the body must hold `prompt`, a graph in ComfyUI's API format"
        raise Refused("no_prompt", what, {})
    if not nodes:
        raise Refused("prompt_no_outputs", "Prompt has no outputs: it is empty", {})
    for id, node in nodes.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            what = f"node {id[:60]!r} of the prompt has no class_type"
            hint = "a workflow that was saved by the frontend is no prompt: export it as API format"
            raise Refused("invalid_prompt", f"{what}; {hint}", {})
        if not isinstance(node.get("inputs", {}), dict):
            raise Refused("invalid_prompt", f"the inputs of node {id[:60]!r} must be an object", {})
    extra = data.get("extra_data")
    extra = extra if isinstance(extra, dict) else {}
    client = data.get("client_id", extra.get("client_id"))
    number, front = data.get("number"), data.get("front")
    if number is not None and (not isinstance(number, int | float) or isinstance(number, bool)):
        raise ApiError("bad_request", "number must be a number: the prompt's place in the queue")
    pnginfo = extra.get("extra_pnginfo")
    kept = {name: pnginfo[name] for name in KEPT if name in pnginfo} if isinstance(pnginfo, dict) else {}
    return Prompt(
        nodes,
        client[:LONGEST_ID] if isinstance(client, str) else "",
        _uuid(data.get("prompt_id")),
        number,
        bool(front),
        _targets(data.get("partial_execution_targets")),
        {"extra_pnginfo": kept} if kept else {},
        extra.get("preview_method") not in (None, "none", "default"),
    )


def _uuid(value: Any) -> str:
    if value is None:
        return ""
    try:
        return str(uuid.UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise Refused("invalid_prompt_id", "prompt_id must be a UUID", {}) from None


def _targets(value: Any) -> list[str] | None:
    """The ids of wanted output nodes, sent as `[id, ...]` or `[[id], ...]`."""
    if value is None:
        return None
    parts = value if isinstance(value, list) else [value]
    found = [item for part in parts for item in (part if isinstance(part, list) else [part])]
    if not all(isinstance(id, str | int) and not isinstance(id, bool) for id in found):
        raise ApiError("bad_request", "partial_execution_targets must be a list of ids of nodes")
    return [str(id) for id in found]


# --- which nodes run --------------------------------------------------------------------------------------------------


def sources(node: Any) -> Iterable[str]:
    """The ids of the nodes to which a node of a prompt is linked."""
    inputs = node.get("inputs", {}) if isinstance(node, dict) else {}
    for value in inputs.values():
        if _is_link(value):
            yield value[0]


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        and isinstance(value[1], int) and not isinstance(value[1], bool)
    )  # fmt: skip


def needed(nodes: Mapping[str, Any], outputs: Iterable[str]) -> dict[str, Any]:
    """The part of a prompt that some of its nodes need, themselves included, in its order."""
    stack, seen = list(outputs), set()
    while stack:
        id = stack.pop()
        if id in seen or id not in nodes:
            continue
        seen.add(id)
        stack += sources(nodes[id])
    return {id: node for id, node in nodes.items() if id in seen}


class Refused(ApiError):
    """A prompt of which no output can be made.

    Attributes:
        type: ComfyUI's word for what is wrong with it as a whole.
        node_errors: What is wrong with its nodes, as ComfyUI has it.
        details: More about it.
    """

    def __init__(self, type: str, message: str, node_errors: Mapping[str, Any], details: str = "") -> None:
        super().__init__("bad_request", message)
        self.type, self.node_errors, self.details = type, dict(node_errors), details


# --- what is wrong ----------------------------------------------------------------------------------------------------


def node_errors(
    nodes: Mapping[str, Any], outputs: Sequence[str], problems: Sequence[Problem], ids: Mapping[str, str]
) -> dict[str, Any]:
    """Problems of a graph as ComfyUI's `node_errors`, by the ids of the prompt.

    Args:
        nodes: The prompt.
        outputs: The output nodes that were to run.
        problems: What was found wrong.
        ids: The ids of the prompt by those of the graph that was made of it.
    """
    found: dict[str, Any] = {}
    reach = {output: needed(nodes, [output]) for output in outputs}
    for problem in problems:
        if problem.severity != "error":
            continue
        if problem.where.node == INPUTS:  # a declared input, which a node of the prompt stands for
            socket = problem.where.socket or ""
            problem = replace(problem, where=Where(node=ids.get(f"{INPUTS}.{socket}", ""), socket="value"))
        id = shown_id(problem.where.node or "", ids)
        if id not in nodes:
            continue
        if id not in found:
            dependent = [output for output, part in reach.items() if id in part]
            found[id] = {"errors": [], "dependent_outputs": dependent, "class_type": nodes[id]["class_type"]}
        found[id]["errors"].append(_error(problem, nodes[id], ids))
    return found


def client_ids(workflow: Mapping[str, Any], folder: Path) -> Mapping[str, str]:
    """The ids of a client's nodes by those of the graph that its workflow becomes; empty if it becomes none.

    Nodes that stand for declared inputs are there as `inputs.NAME`.

    Args:
        workflow: The workflow, in any format.
        folder: The folder at which its relative paths begin.
    """
    with contextlib.suppress(WorkflowError):  # problems of a file that is no graph name its nodes as the file does
        graph = from_document(workflow, base=folder, roots=[folder])
        return original_ids(graph) | {f"{INPUTS}.{name}": id for name, id in original_inputs(graph).items()}
    return {}


def shown_id(node: str, ids: Mapping[str, str]) -> str:
    """The id in the prompt of a node of the graph, or of one inside it (`n5/inner`, an item of a mapped one)."""
    outer = re.split(r"[/\[]", node, maxsplit=1)[0]
    return ids.get(node) or ids.get(outer) or outer


def in_ids(text: str, ids: Mapping[str, str]) -> str:
    """A sentence with the ids of the prompt in place of those of the graph."""
    return re.sub(r"\bn\w+", lambda found: ids.get(found[0], found[0]), text) if ids else text


def _error(problem: Problem, node: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    type = ERRORS.get(problem.kind, "custom_validation_failed")
    inputs, socket = node.get("inputs", {}), problem.where.socket or ""
    socket = next((name for name in inputs if name.replace(".", "_") == socket), socket)  # `size.width` of a choice
    value = inputs.get(socket)
    if problem.kind == "wrong type" and (problem.expected or "").startswith("'"):  # it is declared by its choices
        type = "value_not_in_list"
    if problem.kind == "out of range":
        highest = (problem.expected or "").rpartition("..")[2]
        if isinstance(value, int | float) and _number(highest) is not None and value > (_number(highest) or 0):
            type = "value_bigger_than_max"
    near = f"; did you mean {' or '.join(problem.nearest)}?" if problem.nearest else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    what = in_ids(f"{problem.what}{near}{hint}", ids)
    extra: dict[str, Any] = {"input_name": socket} if socket else {}
    if isinstance(value, str | int | float | bool):
        extra["received_value"] = value
    return {
        "type": type,
        "message": MESSAGES[type],
        "details": f"{socket}: {what}" if socket else what,
        "extra_info": extra,
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def unharmed(errors: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    """The outputs that can be made though others cannot."""
    bad = {output for error in errors.values() for output in error["dependent_outputs"]}
    return [output for output in outputs if output not in bad]
