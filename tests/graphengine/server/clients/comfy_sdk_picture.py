"""A picture by ComfyUI's own classes through `comfy-sdk`, and another one from it; run in an environment with the SDK.

    python comfy_sdk_picture.py URL
"""

from __future__ import annotations

import copy
import os
import sys

from comfy_sdk import Comfy, OutputReady, Preview, Progress, StatusChange

PROMPT = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 5, "steps": 200, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
    }},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "circle", "images": ["8", 0]}},
}  # fmt: skip

if __name__ == "__main__":
    os.environ["COMFY_BASE_URL"] = sys.argv[1]
    with Comfy() as client:
        job = client.submit(client.workflows.from_json(PROMPT))
        seen = list(job.events())
        assert seen[-1] == StatusChange("succeeded"), seen
        order = [event.status for event in seen if isinstance(event, StatusChange)]
        assert order == sorted(set(order), key=["queued", "running", "succeeded"].index), seen
        assert [event.output.node_id for event in seen if isinstance(event, OutputReady)] == ["9"], seen
        steps = [event.step for event in seen if isinstance(event, Progress) and event.current_node == "3"]
        assert any(steps), seen
        previews = [event for event in seen if isinstance(event, Preview)]
        assert previews, seen
        assert all(event.node_id == "3" and event.data.startswith(b"\x89PNG") for event in previews), previews
        first = job.refresh().outputs[0]
        assert (first.type, first.content_type) == ("image", "image/png")
        picture = first.to_bytes()
        assert picture.startswith(b"\x89PNG")

        changed = copy.deepcopy(PROMPT)
        del changed["5"]
        changed["10"] = {"class_type": "LoadImage", "inputs": {}}
        changed["11"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
        changed["3"]["inputs"] |= {"latent_image": ["11", 0], "denoise": 0.5}
        workflow = client.workflows.from_json(changed)
        workflow.set_input("10", "image", client.assets.from_bytes(picture, filename="first.png"))
        second = client.run(workflow, timeout=600).outputs[0].to_bytes()
        assert second != picture
        workflow.json["10"]["inputs"]["image"] = {"__type": "core/ASSET", "info": {"id": first.id}}
        assert client.run(workflow, timeout=600).status == "succeeded"
    print("all seen")
