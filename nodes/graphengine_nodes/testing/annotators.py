"""Networks of control preprocessors with random weights, for tests: read, and drawn with, as the real ones are.

controlnet-aux's networks have one size each, so their files are as large as the real ones; a DPT is tiny.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphengine_nodes.nodes.annotator_kinds import KINDS, MAKERS, NETWORKS

__all__ = ["SIZES", "annotator"]

SIZES: Mapping[str, int] = {
    "hed": 59,
    "pidinet": 3,
    "lineart": 17,
    "lineart-coarse": 17,
    "normal": 291,
    "midas": 493,
    "body": 209,
    "hand": 147,
    "face": 154,
    "dpt": 1,
}
"""The size of each network's files in 10^6 bytes."""


def annotator(folder: Path, kind: str, seed: int = 0) -> Path:
    """The files of an annotator of a kind, in a folder that may hold others already."""
    folder.mkdir(parents=True, exist_ok=True)
    for network in KINDS[kind].networks:
        if not (folder / NETWORKS[network].files[0]).exists():
            _dpt(folder, seed) if network == "dpt" else _aux_file(folder, network, seed)
    return folder


def _aux_file(folder: Path, network: str, seed: int) -> None:
    """As it is published: some say `state_dict` or `model` above the tensors, or `module.` before their names."""
    import torch

    made = _random(MAKERS[network], seed).state_dict()
    if network in ("body", "hand"):
        made = {name.partition(".")[2]: tensor for name, tensor in made.items()}
    if network in ("pidinet", "normal"):
        made = {"state_dict" if network == "pidinet" else "model": {f"module.{n}": t for n, t in made.items()}}
    old = network in ("body", "hand", "normal")  # from before torch wrote zip files
    torch.save(made, folder / NETWORKS[network].files[0], _use_new_zipfile_serialization=not old)


def _random(make: Callable[[], Any], seed: int) -> Any:
    """A network with weights as wide as they are drawn for layers that keep the size of what passes them."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.kaiming_normal_(parameter)
    return network


def _dpt(folder: Path, seed: int) -> None:
    """A DPT of transformers for pictures of 32 x 32."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
    )
    _random(lambda: DPTForDepthEstimation(config), seed).save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
