"""The stock frontend in Chromium converts the same workflows by its own `graphToPrompt`; the prompts are compared.

The frontend (GPL) and the templates (MIT) are installed into a folder of their own for this, from the package registry.
"""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from graphengine_comfy.formats.class_facts import classes_in, classes_of
from graphengine_comfy.formats.ui_format import api_of, recognise

from graphengine import FormatContext, WorkflowError
from graphengine.declare.registry import find, nodes
from graphengine.server.comfy.objects import all_objects
from tests.graphengine_comfy.formats.workflows import OBJECT_INFO, WORKFLOWS, renumbered

pytestmark = pytest.mark.slow

PACKAGES = ("comfyui-frontend-package==1.58.1", "comfyui-workflow-templates-json==0.1.123")
PAGE = "http://editor.test/"
CONVERT = """async (workflow) => {
    await app.loadGraphData(workflow, true, true, null)
    return (await app.graphToPrompt()).output
}"""
ANSWERS = {
    "users": {"storage": "server", "migrated": True},
    "settings": {"Comfy.TutorialCompleted": True, "Comfy.Notification.ShowVersionUpdates": False},
    "extensions": [],
    "system_stats": {"system": {"os": "", "comfyui_version": "", "python_version": "", "pytorch_version": "",
                                "embedded_python": False, "argv": [], "ram_total": 1, "ram_free": 1}, "devices": []},
}  # fmt: skip

Convert = Callable[[Any, dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the frontend and the templates are installed."""
    if (given := os.environ.get("GRAPHENGINE_TEST_FRONTEND")) is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("frontend")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the frontend cannot be installed: {done.stderr[-200:]}")
    return folder


@pytest.fixture(scope="module")
def convert(packages: Path) -> Iterator[Convert]:
    """Convert workflows by the frontend's `graphToPrompt`, given an answer to `/object_info`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        pytest.skip("there is no Chromium")
    static = packages / "comfyui_frontend_package" / "static"
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])

        def prompts(info: Any, workflows: dict[str, Any]) -> dict[str, Any]:
            answers = ANSWERS | {"object_info": info}

            def answer(route: Any) -> None:
                path = route.request.url.removeprefix(PAGE).partition("?")[0]
                name = path.removeprefix("api/")
                if name in answers:
                    route.fulfill(status=200, content_type="application/json", body=json.dumps(answers[name]))
                elif (file := static / (path or "index.html")).is_file():
                    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                    route.fulfill(status=200, content_type=kind, body=file.read_bytes())
                else:
                    route.fulfill(status=404, content_type="application/json", body="{}")

            page = browser.new_page()
            page.route(f"{PAGE}**", answer)
            page.goto(PAGE, timeout=180_000, wait_until="domcontentloaded")
            page.wait_for_function("window.app && window.app.graph && window.app.extensionManager", timeout=180_000)
            page.wait_for_selector("canvas", timeout=180_000)
            made = {name: page.evaluate(CONVERT, workflow) for name, workflow in workflows.items()}
            page.close()
            return made

        yield prompts
        browser.close()


def bare(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt without titles."""
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items()}


def test_small_workflows(convert: Convert) -> None:
    """Those of `formats/workflows.py`; if this fails, `recorded.json` there is out of date."""
    workflows = {name: make() for name, make in WORKFLOWS.items()}
    theirs = convert(OBJECT_INFO, workflows)
    ours = {name: bare(api_of(workflow, classes_in(OBJECT_INFO))) for name, workflow in workflows.items()}
    assert ours == {name: bare(renumbered(name, prompt)) for name, prompt in theirs.items()}


def test_templates_whose_nodes_are_known(convert: Convert, packages: Path) -> None:
    context = FormatContext(None, find, nodes)
    classes = classes_of(context)
    workflows, ours, refused = {}, {}, {}
    for file in sorted((packages / "comfyui_workflow_templates_json" / "templates").glob("*.json")):
        workflow = json.loads(file.read_text())
        if isinstance(workflow, dict) and recognise(workflow):
            try:
                ours[file.stem] = bare(api_of(workflow, classes, context))
                workflows[file.stem] = workflow
            except WorkflowError as error:
                if any(problem.kind != "unknown classes" for problem in error.problems):
                    refused[file.stem] = error.problems
    theirs = convert(all_objects(nodes(), lambda rule: None), workflows)
    differ = [name for name in ours if ours[name] != bare(theirs[name])]
    print(f"{len(ours) - len(differ)} of {len(ours)} templates, {sum(map(len, ours.values()))} nodes")
    assert refused == {}
    assert len(ours) >= 83
    assert differ == []
