"""Upscaling: latents, pictures, and pictures with an upscale model."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from graphengine import (
    INERT,
    Context,
    Doc,
    File,
    ModelError,
    Range,
    SocketType,
    View,
    fingerprint,
    library_path,
    node,
    open_file,
    register_type,
)
from graphengine_nodes.nodes.images import MOST, Resampling, resize_image
from graphengine_nodes.values.picture_files import write_whole
from graphengine_nodes.values.types import Image, Latent
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location

if TYPE_CHECKING:
    import torch

Factor = Annotated[float, Range(0.05, 16), Doc("Factor for both sides; less than 1 makes the result smaller.")]
OVERLAP = 32
"""Pixels around a tile that the model sees as well: more than most models look at."""


@dataclass(frozen=True, slots=True)
class Upscaler:
    """A reference to an upscale model's weights.

    Attributes:
        weights: Digest of the file.
        source: Where it was loaded from, as shown to people.
    """

    weights: str
    source: str = field(default="", compare=False)

    def digest(self, part: str | None = None) -> str:
        """The digest that stands for it in keys."""
        return self.weights


@node(version=1)
def upscale_latent(
    latent: Latent,
    factor: Factor = 2.0,
    mode: Literal["nearest-exact", "bilinear", "bicubic", "area"] = "bicubic",
) -> Latent:
    """Resize latents, to continue sampling from them; even sides stay even, as some families need. Frames of videos are
    resized one by one, and stay as many.

    Noise is stretched too: continue with a `strength` of 0.5 or more, which makes a clean picture of it.

    In ComfyUI: `LatentUpscale`, `LatentUpscaleBy`.
    """
    import torch

    samples = latent.samples
    sides = [int(side) for side in samples.shape[-2:]]
    steps = [2 if side % 2 == 0 else 1 for side in sides]
    size = tuple(max(step, step * round(side * factor / step)) for side, step in zip(sides, steps, strict=True))
    if not latent.family:  # a size alone
        return replace(latent, samples=samples.new_zeros(len(samples), 0, *size))
    if samples.ndim == 4:
        return replace(latent, samples=torch.nn.functional.interpolate(samples, size, mode=mode), random=())
    frames = samples.transpose(1, 2)
    found = torch.nn.functional.interpolate(frames.flatten(0, 1), size, mode=mode)
    found = found.reshape(*frames.shape[:2], *found.shape[1:]).transpose(1, 2).contiguous()
    return replace(latent, samples=found, random=())


@node(version=1)
def upscale_image(image: Image, factor: Factor = 2.0, resampling: Resampling = "lanczos") -> Image:
    """Resize pictures by a factor; computed in 8 bits, as PIL does.

    In ComfyUI: `ImageScaleBy`.

    Raises:
        ValueError: They would be too large.
    """
    width, height = (max(1, round(side * factor)) for side in image.size)
    if max(width, height) > MOST:
        raise ValueError(f"{factor:g} times would make {width} x {height} pixels; a side has {MOST} at most")
    return resize_image(image, width, height, resampling)


@node(version=1)
def load_upscaler(
    source: Annotated[str | Path, File("weights"), Doc("A .safetensors file, or the tensors of a .pth file.")],
) -> Upscaler:
    """Make a reference to an upscale model of any architecture that spandrel knows (ESRGAN, SwinIR, HAT, DAT, ...).

    In ComfyUI: `UpscaleModelLoader`.
    """
    path = Path(source)
    digest = fingerprint(path)
    files.note(digest, Location(path))
    return Upscaler(digest, files.name_of(path))


@node(version=1, on="device")
def upscale_with_model(
    upscaler: Upscaler,
    image: Image,
    tile: Annotated[
        int,
        Range(64, 8192, 8),
        Doc("Side of the tiles that are computed one at a time; smaller tiles need less memory."),
    ] = 512,
    ctx: Context = INERT,
) -> Image:
    """Upscale pictures with a model, by the factor that it was trained for; alpha is resized (bilinear).

    In ComfyUI: `ImageUpscaleWithModel`.

    Raises:
        ModelError: The file is gone, damaged, or no upscale model for pictures in colour.
        Cancelled: The run was cancelled; at most one tile later.
    """
    import torch

    width, height = image.size
    with _network(upscaler, ctx.device) as network, torch.no_grad():
        if network.described.tiling.name == "INTERNAL":
            tile = max(width, height)
        places = [(left, top) for top in range(0, height, tile) for left in range(0, width, tile)]
        scale, total = network.described.scale, len(places) * len(image)
        whole = torch.empty(len(image), 3, height * scale, width * scale)
        for done, (index, (left, top)) in enumerate((i, place) for i in range(len(image)) for place in places):
            ctx.progress(done, total)
            x, y = max(0, left - OVERLAP), max(0, top - OVERLAP)
            right, bottom = min(width, left + tile), min(height, top + tile)
            seen = image.pixels[index, y : bottom + OVERLAP, x : right + OVERLAP].permute(2, 0, 1)[None]
            made = network(seen.contiguous()).cpu().float()
            inside = made[0, :, (top - y) * scale : (bottom - y) * scale, (left - x) * scale : (right - x) * scale]
            whole[index, :, top * scale : bottom * scale, left * scale : right * scale] = inside
        ctx.progress(total, total)
    alpha = None
    if image.alpha is not None:
        alpha = torch.nn.functional.interpolate(image.alpha[:, None], whole.shape[2:], mode="bilinear")[:, 0]
    return Image(whole.permute(0, 2, 3, 1).contiguous(), alpha)


# --- the network ------------------------------------------------------------------------------------------------------


class UpscaleNetwork:
    """An upscale model as the weight store holds it.

    Attributes:
        described: spandrel's description of it, with which it is called.
    """

    def __init__(self, described: Any, device: str) -> None:
        import torch

        half = not device.startswith("cpu") and described.supports_half
        self.described = described.to(torch.device(device), torch.float16 if half else torch.float32).eval()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] in 0..1 to [1, 3, H * scale, W * scale]."""
        found: torch.Tensor = self.described(pixels.to(self.described.device, self.described.dtype))
        return found

    def parameters(self) -> Iterator[torch.Tensor]:
        """What takes memory."""
        found: Iterator[torch.Tensor] = self.described.model.parameters()
        return found

    def buffers(self) -> Iterator[torch.Tensor]:
        """Tensors that take memory beside the parameters."""
        found: Iterator[torch.Tensor] = self.described.model.buffers()
        return found


@contextmanager
def _network(upscaler: Upscaler, device: str) -> Iterator[UpscaleNetwork]:
    from graphengine_nodes.store.store import store
    from graphengine_nodes.weights.devices import exact_device

    device = exact_device(device)

    def load() -> UpscaleNetwork:
        path = files.locate(upscaler.weights, upscaler.source).path
        if fingerprint(path) != upscaler.weights:
            raise ModelError(f"{path} has changed since it was loaded; load it again")
        return UpscaleNetwork(_described(path), device)

    with store.hold((upscaler.weights, "upscaler", device), device, load) as network:
        yield network


def _described(path: Path) -> Any:
    """spandrel's description of what a file holds: architecture, factor and the network itself."""
    import spandrel

    try:
        described = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(_tensors(path)))
    except spandrel.UnsupportedModelError:
        raise ModelError(f"{path} is no upscale model of an architecture that spandrel knows") from None
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} is damaged or incomplete ({error!s:.200}); copy it again") from None
    if not isinstance(described, spandrel.ImageModelDescriptor):
        raise ModelError(f"{path} is a {described.purpose} model, which needs a mask; it makes no picture larger")
    if (described.input_channels, described.output_channels) != (3, 3):
        raise ModelError(f"{path} is not for pictures in colour: it takes {described.input_channels} channels")
    return described


def _tensors(path: Path) -> dict[str, Any]:
    """A file's tensors; nothing else is unpickled, and no TorchScript is run."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            with library_path(path) as name:
                return load_file(name)
        with open_file(path) as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(f"{path} holds something else than tensors, which could run code: it is not read") from None
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is damaged or no file of weights ({error!s:.200}); copy it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no weights by name; it is of another program")
    return found


# --- the type ---------------------------------------------------------------------------------------------------------


def _encode(value: Upscaler) -> bytes:
    return json.dumps(asdict(value)).encode()


def _save(value: Upscaler, path: Path, text: Any) -> list[Path]:
    file = path.with_name(f"{path.name}.json")
    write_whole(file, _encode(value))
    return [file]


register_type(
    SocketType(
        Upscaler,
        "Upscaler",
        encode=_encode,
        decode=lambda data: Upscaler(**json.loads(data)),
        size=lambda value: 200,
        view=lambda value: View(text=f"upscale model {value.source}\ndigest {value.weights}"),
        save=_save,
        digest=Upscaler.digest,
    )
)
