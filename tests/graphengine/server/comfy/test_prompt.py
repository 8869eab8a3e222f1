"""What is kept of a prompt of ComfyUI's clients."""

from __future__ import annotations

import json

from graphengine.server.comfy.prompt import read


def test_pictures_are_given_the_prompt_and_the_workflow_and_nothing_else() -> None:
    nodes = {"1": {"class_type": "EmptyImage", "inputs": {"text": "ä \ud800"}}}
    extra = {"extra_pnginfo": {"workflow": {"nodes": []}, "other": 1}, "api_key_comfy_org": "k", "auth_token": "t"}
    texts = read({"prompt": nodes, "client_id": "me", "extra_data": extra}).texts()
    assert {name: json.loads(text) for name, text in texts.items()} == {"prompt": nodes, "workflow": {"nodes": []}}
    assert all(text.isascii() for text in texts.values())
