"""Fixtures of the tests of ComfyUI's nodes: one thread, and the parts of `tiny`."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # with more threads than free cores every step waits for the slowest

import graphengine_comfy as comfy
import pytest
from graphengine_comfy.nodes.loaders import Checkpointed


@pytest.fixture(scope="session")
def tiny() -> Checkpointed:
    """The model, text encoder and VAE of `tiny`."""
    return comfy.CheckpointLoaderSimple(ckpt_name="tiny")
