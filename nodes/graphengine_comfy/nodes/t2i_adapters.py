"""T2I-Adapters of Stable Diffusion 1, which ComfyUI loads and applies as ControlNets: a small network reads the picture
once, and what it makes is added to the UNet at each step (Mou et al. 2023, "T2I-Adapter: Learning adapters to dig out
more controllable ability for text-to-image diffusion models").

Files have the names of the published ones or of diffusers, whose network computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine_nodes import Image
from graphengine_nodes.weights.files import read_header, read_json
from graphengine_nodes.weights.reading import read_tensors

from graphengine import ModelError
from graphengine_comfy.nodes.model_folders import find
from graphengine_comfy.nodes.resizing import repeated, resized
from graphengine_comfy.sampling.model_sampling import ModelSampling
from graphengine_comfy.values import CONDITIONING, MODEL

if TYPE_CHECKING:
    import torch

LIGHT, FULL = "body.0.in_conv.weight", "conv_in.weight"
"""The first layers of the two kinds."""
UNSHUFFLED = 8
"""The pixels a side that the first layer takes at once."""


def is_adapter(path: str | Path) -> bool:
    """Whether a file or a folder in diffusers layout is a T2I-Adapter.

    Raises:
        ModelError: It cannot be read.
    """
    if isinstance(path, str):
        return False
    if path.is_dir():
        config = path / "config.json"
        return config.is_file() and read_json(config).get("_class_name") == "T2IAdapter"
    if path.suffix != ".safetensors":
        return False
    names = {name.removeprefix("adapter.") for name in read_header(path)}
    return any(name.startswith("body.0.") for name in names) and bool(names & {LIGHT, FULL})


def loaded(path: Path) -> Any:
    """The network of an adapter, as diffusers has it.

    Raises:
        ModelError: It is of an unknown shape.
    """
    from diffusers.models.adapter import T2IAdapter

    file = path / "diffusion_pytorch_model.safetensors" if path.is_dir() else path
    held = read_tensors(file)
    full = FULL in {name.removeprefix("adapter.") for name in held}
    tensors = {_name(name, full): tensor for name, tensor in held.items()}
    first = tensors.get(f"adapter.{FULL if full else LIGHT}")
    ends = re.compile(rf"adapter\.body\.\d+\.{'resnets.0.block1' if full else 'out_conv'}\.weight")
    channels = [tensors[name].shape[0] for name in sorted(filter(ends.fullmatch, tensors), key=_level)]
    count = sum(bool(re.fullmatch(r"adapter\.body\.0\.resnets\.\d+\.block1\.weight", name)) for name in tensors)
    try:
        if first is None or not channels or first.shape[1] not in (UNSHUFFLED**2, 3 * UNSHUFFLED**2):
            raise ValueError("its first layer is of another kind")
        network = T2IAdapter(
            in_channels=first.shape[1] // UNSHUFFLED**2,
            channels=channels if full else channels[:-1],
            num_res_blocks=count,
            downscale_factor=UNSHUFFLED,
            adapter_type="full_adapter" if full else "light_adapter",
        )
        network.load_state_dict(tensors)
    except (RuntimeError, ValueError, KeyError) as error:
        what = " ".join(str(error).split())
        raise ModelError(f"{path.name} is no T2I-Adapter of Stable Diffusion 1: {what:.200}") from None
    return network.eval()


def _level(name: str) -> int:
    return int(name.split(".")[2])


def _name(name: str, full: bool) -> str:
    """The name in diffusers of a tensor of a published file, where the two blocks of a level of the full kind stand one
    after the other."""
    if name.startswith("adapter."):
        return name
    if full and (one := re.fullmatch(r"body\.(\d+)\.(.+)", name)):
        level, block = divmod(int(one[1]), 2)
        return f"adapter.body.{level}.{'' if one[2].startswith('in_conv') else f'resnets.{block}.'}{one[2]}"
    return "adapter." + re.sub(r"^(body\.\d+)\.body\.", r"\1.resnets.", name)


# --- sampling ---------------------------------------------------------------------------------------------------------


def adapted(
    model: MODEL,
    sides: Sequence[CONDITIONING],
    levels: ModelSampling,
    calls: Sequence[float],
    begun: torch.Tensor,
    device: str,
    answer: Callable[..., Any] | None,
) -> Callable[..., Any] | None:
    """What answers for a UNet with the adapters of the prompts; `answer` itself where there are none.

    Args:
        calls: The sigma of each call of the UNet.
        answer: What answers without them; None: the UNet itself.

    Raises:
        ValueError: The prompts bring different ones, or the model is no Stable Diffusion 1.
        ModelError: A file is gone, or of an unknown shape.
    """
    given = [one.options.get("adapters", ()) for side in sides for one in side.entries]
    common = given[0]
    legacy = all(one.options.get("control_both") for one in sides[0].entries)
    if any(_said(one) != _said(common) and not (legacy and not one) for one in given):
        raise ValueError("a T2I-Adapter steers one of the prompts alone: give positive and negative prompt the same")
    if not common:
        return answer
    if model.denoiser.model.family != "stable_diffusion":
        raise ValueError(f"T2I-Adapters of Stable Diffusion 1 are followed here; {model.source} is another model")
    height, width = (int(side) * 8 for side in begun.shape[-2:])
    # Several pictures are repeated over the latents first: calls hold these twice, for both prompts.
    features = [[repeated(one, len(begun)) for one in _features(each, width, height, device)] for each in common]
    acts = [[_acts(one, levels, sigma) for one in common] for sigma in calls]
    done = 0

    def asking(module: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        steering = [made for made, on in zip(features, acts[min(done, len(acts) - 1)], strict=True) if on]
        done += 1
        if steering:
            sums = [sum(level) for level in zip(*steering, strict=True)]
            kwargs["down_intrablock_additional_residuals"] = [repeated(one, len(sample)).to(sample) for one in sums]
        return module(sample, *args, **kwargs) if answer is None else answer(module, sample, *args, **kwargs)

    return asking


def adapter_option(
    source: str, weights: str, image: Image, strength: float, start: float, end: float
) -> dict[str, Any]:
    """What a prompt's options hold of an adapter with its picture."""
    return {
        "source": source, "weights": weights, "pixels": image.opaque().pixels, "strength": float(strength),
        "start": float(start), "end": float(end),
    }  # fmt: skip


def _said(adapters: Sequence[Mapping[str, Any]]) -> Any:
    """What can be compared of adapters."""
    numbers = ("weights", "strength", "start", "end")
    return [([one[name] for name in numbers], one["pixels"].numpy().tobytes()) for one in adapters]


def _acts(adapter: Mapping[str, Any], levels: ModelSampling, sigma: float) -> bool:
    begins = levels.sigma_at_percent(adapter["start"]) if adapter["start"] > 0 else math.inf
    return levels.sigma_at_percent(adapter["end"]) <= sigma <= begins


def _features(adapter: Mapping[str, Any], width: int, height: int, device: str) -> list[torch.Tensor]:
    """What a network makes of its picture, for each level of the UNet, times the strength."""
    import torch

    path = find("controlnet", adapter["source"])
    assert isinstance(path, Path)
    network = loaded(path).to(device)
    pixels = resized(adapter["pixels"].movedim(-1, 1), width, height, "nearest-exact", "center").to(device)
    first = network.adapter.conv_in if hasattr(network.adapter, "conv_in") else network.adapter.body[0].in_conv
    if first.in_channels == UNSHUFFLED**2:
        pixels = pixels.mean(dim=1, keepdim=True)
    with torch.no_grad():
        return [one * adapter["strength"] for one in network(pixels)]
