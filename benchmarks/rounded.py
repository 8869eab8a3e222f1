"""Pictures of rounded weights on `tiny`: `python -m benchmarks.rounded`.

For each small format of the denoiser's matrices: how far its picture is from that of the same rounded weights in a
plain file, and from that of the weights that were not rounded, in pixels of 0..1, for one prompt and seed; and the
memory of the denoiser, as a share of that in single precision.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

import torch
from graphengine_nodes import Model, decode_latent, encode_prompt, load_model, quantize_model, sample
from graphengine_nodes.store.store import store
from graphengine_nodes.testing.blocks import gguf_file
from safetensors.torch import load_file, save_file

from benchmarks.table import machine, show

TINY = Path(str(files("graphengine_nodes"))) / "tiny" / "model"
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of fp8."""

Tensors = dict[str, torch.Tensor]


def picture(model: Model) -> tuple[torch.Tensor, int]:
    """The picture of a model, and the bytes of its denoiser in memory."""
    store.clear()
    text, none = encode_prompt(model, "a red circle on a blue background"), encode_prompt(model, None)
    latent = sample(model, text, negative=none, seed=1, steps=8, guidance_scale=3.5)
    with store.component(model, "unet", "cpu") as unet:
        size = sum(tensor.nbytes for tensor in (*unet.parameters(), *unet.buffers()))
    return decode_latent(model, latent).pixels, size


def matrices(tensors: Tensors) -> list[str]:
    """The names of the matrices, which the small formats round."""
    return [name for name, tensor in tensors.items() if name.endswith(".weight") and tensor.ndim == 2]


def cast(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Matrices in fp8 as they are, and the same rounded weights."""
    small = tensors | {name: tensors[name].to(FP8) for name in matrices(tensors)}
    return small, {name: tensor.float() for name, tensor in small.items()}


def scaled(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Matrices in fp8 with a scale for each, and the same rounded weights."""
    small, plain = dict(tensors), dict(tensors)
    for name in matrices(tensors):
        scale = tensors[name].abs().max() / LARGEST
        small[name] = (tensors[name] / scale).to(FP8)
        small[f"{name.removesuffix('weight')}weight_scale"] = scale
        plain[name] = small[name].float() * scale
    return small, plain


def main() -> None:
    given = load_file(TINY / WEIGHTS)
    exact, whole = picture(load_model("tiny"))
    rows = []
    with tempfile.TemporaryDirectory() as place:

        def model(name: str, tensors: Tensors) -> Model:
            folder = Path(place) / name
            shutil.copytree(TINY, folder)
            save_file(tensors, folder / WEIGHTS)
            return load_model(folder)

        def row(name: str, small: Model, plain: Model) -> None:
            (found, size), (rounded, _) = picture(small), picture(plain)
            near, far = (float((found - other).abs().max()) for other in (rounded, exact))
            mean = float((found - exact).abs().mean())
            rows.append([name, f"{near:.1e}", f"{far:.3f}", f"{mean:.4f}", f"{size / whole:.2f}"])

        for name, make in (("fp8", cast), ("fp8 with scales", scaled)):
            small, plain = make(given)
            model_small, model_plain = model(name, small), model(f"{name} plain", plain)
            row(name, model_small, model_plain)
            row(f"{name}, kept small", quantize_model(model_small, "float8"), model_plain)
        for kind in ("Q8_0", "Q5_0", "Q4_0"):
            file = Path(place) / f"{kind}.gguf"
            plain = gguf_file(file, given, "sd", kind)
            row(f"GGUF {kind}", load_model(file, config=TINY), model(kind, plain))
    print(machine())
    head = ["matrices in", "from the rounded weights, max", "from the exact weights, max", "mean", "memory"]
    show("Pictures of rounded weights", head, rows)


if __name__ == "__main__":
    main()
