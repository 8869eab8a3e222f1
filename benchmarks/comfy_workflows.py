"""Which of ComfyUI's templates load, and why others do not: `python -m benchmarks.comfy_workflows WHEEL`.

Takes wheels, or folders of unpacked ones, of the package that has the templates' JSON; nothing is fetched:

    pip download --no-deps comfyui-workflow-templates-json==0.1.123
    python -m benchmarks.comfy_workflows comfyui_workflow_templates_json-0.1.123-py3-none-any.whl

Of the local image templates (those that the index does not call closed, of its sections for pictures) it lists those
whose nodes are all known and whose graph has no problem but files of models that are not here, then the others with
what they lack. `--all` takes every template in the package. `usage` is the count in the index.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.comfy_templates import texts
from benchmarks.table import show
from graphengine import WorkflowError
from graphengine.workflow.files import from_document

FILES = ("not a choice", "no file", "missing file")
"""Kinds of problems that say that a file or a choice of a loader is not here."""


def templates(places: list[Path], every: bool) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The name, the usage and the workflow of each template."""
    files = {Path(name).name: text for name, text in texts(places)}
    sections = json.loads(files["index.json"])
    for section in sections:
        for entry in section["templates"]:
            is_local = entry.get("openSource") is not False and not entry["name"].startswith("api_")
            text = files.get(f"{entry['name']}.json")
            if text is not None and (every or (is_local and section.get("type") == "image")):
                yield entry["name"], entry.get("usage", 0), json.loads(text)


def why_not(workflow: dict[str, Any]) -> tuple[str, list[str]]:
    """Why a template does not load: a sentence, and the classes that are not known; '' if it loads."""
    try:
        problems = from_document(workflow, name="template").problems()  # type: ignore[attr-defined]
    except WorkflowError as error:
        (first, *_) = error.problems
        if first.kind == "unknown classes":
            names = (first.found or "").split(", ")
            return f"unknown: {', '.join(names)}", names
        return str(first), []
    wrong = [problem for problem in problems if problem.severity == "error" and problem.kind not in FILES]
    return (str(wrong[0]), []) if wrong else ("", [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("places", nargs="+", type=Path, help="Wheels, or folders of unpacked ones.")
    parser.add_argument("--all", action="store_true", help="Every template, not only local ones for pictures.")
    arguments = parser.parse_args()
    found = {name: (usage, *why_not(workflow)) for name, usage, workflow in templates(arguments.places, arguments.all)}
    loads = {name: usage for name, (usage, why, _) in found.items() if not why}
    missing = Counter(name for _, _, names in found.values() for name in names)
    total = sum(usage for usage, _, _ in found.values()) or 1
    print(f"{len(loads)} of {len(found)} templates load, with {sum(loads.values()) / total:.0%} of the usage\n")
    ordered = sorted(loads.items(), key=lambda item: -item[1])
    show("These load", ("template", "usage"), [(name, f"{usage:,}") for name, usage in ordered])
    rest = sorted(((n, u, w) for n, (u, w, _) in found.items() if w), key=lambda item: -item[1])
    show("These do not", ("template", "usage", "why"), [(name, f"{usage:,}", why) for name, usage, why in rest])
    show("Classes that are not here", ("class", "templates"), missing.most_common(40))


if __name__ == "__main__":
    main()
