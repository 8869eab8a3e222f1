"""What users of three libraries for ComfyUI's classic API do: a picture each; run by the Python of an environment that
has them.

    python classic_talks.py LIBRARY URL PROMPT.json
"""

import json
import sys
import urllib.request

PNG = b"\x89PNG\r\n\x1a\n"


def simplified(url: str, prompt: str) -> list[bytes]:
    """comfy-api-simplified: posts, then listens."""
    from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

    workflow = ComfyWorkflowWrapper(prompt)
    workflow.set_node_param("Positive", "text", "a green square")
    return list(ComfyApiWrapper(f"{url}/").queue_and_wait_images(workflow, "Save Image").values())


def manager(url: str, prompt: str) -> list[bytes]:
    """comfyapi: posts, then asks for the history again and again."""
    from comfyapi import ComfyAPIManager

    client = ComfyAPIManager()
    client.set_base_url(url)
    client.load_workflow(prompt)
    client.edit_workflow(["6", "inputs", "text"], "a blue house")
    id = client.submit_workflow()
    client.wait_for_finish(id, poll_interval=0.2)
    found = client.find_output(id)
    with urllib.request.urlopen(found if isinstance(found, str) else found[-1]) as answer:
        return [answer.read()]


def script(url: str, prompt: str) -> list[bytes]:
    """comfy-script: makes functions of the nodes, listens, then posts."""
    from comfy_script import runtime

    runtime.load(url)
    from comfy_script.runtime import nodes

    with runtime.Workflow(wait=True):
        model, clip, vae = nodes.CheckpointLoaderSimple("tiny")
        positive, negative = nodes.CLIPTextEncode("a red circle", clip), nodes.CLIPTextEncode("", clip)
        latent = nodes.EmptyLatentImage(64, 64, 1)
        latent = nodes.KSampler(model, 11, 2, 4.0, "euler", "normal", positive, negative, latent, 1)
        saved = nodes.SaveImage(nodes.VAEDecode(latent, vae), "ComfyUI")
    [facts] = saved.wait()._output["images"]
    query = "&".join(f"{name}={value}" for name, value in facts.items())
    with urllib.request.urlopen(f"{url}/view?{query}") as answer:
        return [answer.read()]


if __name__ == "__main__":
    library, url, prompt = sys.argv[1:]
    pictures = {"simplified": simplified, "manager": manager, "script": script}[library](url, prompt)
    print(json.dumps([picture.startswith(PNG) for picture in pictures]))
