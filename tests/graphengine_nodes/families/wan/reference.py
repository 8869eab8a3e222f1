"""The reference process of Wan's oracle tests: diffusers alone, without graphengine.

    python reference.py MODELS OUT.npz

MODELS is a folder with the models and LoRAs that `cases` names; OUT gets the float frames of every case.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import cases
import diffusers
import numpy as np
import torch


def pipeline(models: Path, case: dict[str, Any], known: dict[str, Any]) -> Any:
    """The pipeline of a case, over modules that are read once unless a LoRA changes them."""
    key = f"{case['model']} {case['precision']}"
    if key not in known or case["lora"]:
        kind = getattr(torch, case["precision"] or "float32")
        known[key] = diffusers.DiffusionPipeline.from_pretrained(models / case["model"], torch_dtype=kind)
    own = known.pop(key) if case["lora"] else known[key]
    cls = getattr(diffusers, case["class"])
    names = inspect.signature(cls.__init__).parameters
    parts = {name: part for name, part in {**own.config, **own.components}.items() if name in names}
    parts["scheduler"] = type(own.scheduler).from_config(own.scheduler.config)
    if case["scheduler"]:
        kind = getattr(diffusers, case["scheduler"])
        # Told by hand: `from_config` does not know that one's flow_shift is the other's shift.
        shift = {"shift": own.scheduler.config.flow_shift} if case["scheduler"].startswith("FlowMatch") else {}
        parts["scheduler"] = kind.from_config(own.scheduler.config, **shift)
    made = cls(**parts)
    made.set_progress_bar_config(disable=True)
    if case["lora"]:
        file = models / f"{case['lora']}.safetensors"
        for second in {"high": (False,), "low": (True,), "both": (False, True)}.get(case["noise"], (False,)):
            made.load_lora_weights(file, adapter_name=f"second {second}", load_into_transformer_2=second)
    return made


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """A case as the pipelines' arguments."""
    asks = case["task"].split("+")
    call: dict[str, Any] = {
        "prompt": cases.PROMPT,
        "negative_prompt": case["negative"],
        "num_inference_steps": case["steps"],
        "guidance_scale": case["scale"],
        "width": 64,
        "height": 64,
        "generator": torch.Generator().manual_seed(5),
        "output_type": "np",
    }
    if case["scale_2"] is not None:
        call["guidance_scale_2"] = case["scale_2"]
    if "video" in asks:
        return call | {"video": cases.video(), "strength": 0.5}
    call["num_frames"] = case["frames"]
    call |= {"image": cases.first()} if "first" in asks else {}
    return call | ({"last_image": cases.last()} if "last" in asks else {})


def main(models: Path, out: Path) -> None:
    torch.set_num_threads(1)
    known: dict[str, Any] = {}
    made = {case["name"]: pipeline(models, case, known)(**arguments(case)).frames[0] for case in cases.cases()}
    np.savez(out, **made)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
