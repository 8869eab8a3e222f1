"""Every value of ComfyUI's types comes back from its bytes."""

from __future__ import annotations

import subprocess
import sys

import graphengine_comfy as comfy
import torch
from graphengine_comfy.nodes.loaders import Checkpointed
from graphengine_comfy.values import CLIP_VISION, CLIP_VISION_OUTPUT, LATENT

from graphengine import socket_type


def test_values_come_back_from_bytes(tiny: Checkpointed) -> None:
    prompt = comfy.FluxGuidance(conditioning=comfy.CLIPTextEncode(text="a house", clip=tiny.CLIP), guidance=2.0)
    latent = LATENT(torch.ones(1, 4, 2, 2), torch.ones(1, 1, 16, 16), (3,))
    guider = comfy.CFGGuider(model=tiny.MODEL, positive=prompt, negative=prompt, cfg=3.0)
    read = CLIP_VISION_OUTPUT(CLIP_VISION("digest", "vision.safetensors"), torch.ones(1, 2, 2, 3))
    noise = comfy.RandomNoise(noise_seed=2**64 - 1)
    for value in (tiny.MODEL, tiny.CLIP, prompt, latent, guider, noise, read):
        known = socket_type(type(value))
        assert known is not None
        assert known.encode is not None
        assert known.decode is not None
        back = known.decode(known.encode(value))
        assert known.encode(back) == known.encode(value)
        assert type(back) is type(value)
    assert known.view is not None


REFERENCES = """
import sys
import graphengine_comfy as comfy
from graphengine import socket_type
loaded = comfy.CheckpointLoaderSimple(ckpt_name="tiny")
net = comfy.ControlNetLoader(control_net_name="tiny-canny")
for value in (*loaded, net):
    known = socket_type(type(value))
    assert known.decode(known.encode(value)) == value
    assert known.size(value) > 0
assert "torch" not in sys.modules
"""


def test_references_need_no_torch() -> None:
    """A service sends them to its workers, and imports none."""
    done = subprocess.run([sys.executable, "-c", REFERENCES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
