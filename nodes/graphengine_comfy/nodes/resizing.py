"""Resizing of tensors of pictures and latents by ComfyUI's names of methods; batches of a wanted length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
"""For pictures; `lanczos` computes in 8 bits, as PIL does."""
LATENT_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
"""For latents; `bislerp` mixes the directions of latents on the sphere, and their lengths linearly."""
CROPS = ("disabled", "center")
MOST = 16384
"""Most pixels of a side."""


def resized(samples: torch.Tensor, width: int, height: int, method: str, crop: str = "disabled") -> torch.Tensor:
    """Resize [B, C, H, W]; with `center` what is over in one direction is cut off first."""
    import torch

    if samples.ndim == 5:
        frames = [resized(one, width, height, method, crop) for one in samples.unbind(2)]
        return torch.stack(frames, dim=2)
    if crop == "center":
        samples = _cut(samples, width / height)
    if tuple(samples.shape[-2:]) == (height, width):
        return samples
    if method == "lanczos":
        return _lanczos(samples, width, height)
    if method == "bislerp":
        return _bislerp(samples, width, height)
    return torch.nn.functional.interpolate(samples, size=(height, width), mode=method)


def _cut(samples: torch.Tensor, aspect: float) -> torch.Tensor:
    height, width = samples.shape[-2:]
    own = width / height
    left = round((width - width * (aspect / own)) / 2) if own > aspect else 0
    top = round((height - height * (own / aspect)) / 2) if own < aspect else 0
    return samples[..., top : height - top, left : width - left]


def _lanczos(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    import numpy as np
    import PIL.Image
    import torch

    def one(plane: torch.Tensor) -> torch.Tensor:
        array = (plane.clamp(0, 1) * 255.0).to(torch.uint8).numpy()
        picture = PIL.Image.fromarray(array).resize((width, height), PIL.Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255.0)

    return torch.stack([torch.stack([one(plane) for plane in picture]) for picture in samples])


def _bislerp(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Bilinear, with a spherical mixture of neighbours in place of a straight one; first along the width."""

    def along(values: torch.Tensor, size: int) -> torch.Tensor:
        import torch

        old = values.shape[-1]
        places = torch.nn.functional.interpolate(
            torch.arange(old, dtype=torch.float32).reshape(1, 1, -1), size=size, mode="linear"
        )[0, 0]
        low = places.floor().long()
        share = places - low
        return _slerp(values[..., low], values[..., (low + 1).clamp(max=old - 1)], share)

    wide = along(samples, width)
    return along(wide.transpose(-1, -2), height).transpose(-1, -2)


def _slerp(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mix [B, C, H, W] along C: directions on the sphere, lengths linearly."""
    import torch

    lengths = [one.norm(dim=1, keepdim=True) for one in (first, second)]
    units = [torch.where(length > 0, one / length, 0.0) for one, length in zip((first, second), lengths, strict=True)]
    dot = (units[0] * units[1]).sum(1, keepdim=True).clamp(-1, 1)
    angle = dot.acos()
    sine = angle.sin()
    mixed = (((1 - share) * angle).sin() / sine) * units[0] + ((share * angle).sin() / sine) * units[1]
    found = mixed * (lengths[0] * (1 - share) + lengths[1] * share)
    straight = first * (1 - share) + second * share
    found = torch.where(dot > 1 - 1e-5, first, found)
    return torch.where(dot < 1e-5 - 1, straight, found)


def repeated(batch: torch.Tensor, count: int) -> torch.Tensor:
    """A batch of `count` entries: repeated from its beginning, or cut."""
    import torch

    return torch.cat([batch] * -(-count // len(batch)))[:count]


def two_by_two(latents: torch.Tensor) -> torch.Tensor:
    """Latents [n, C, h, w] two by two, as FLUX.2 has them: [n, 4 C, h / 2, w / 2]."""
    n, channels, height, width = latents.shape
    found = latents.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return found.reshape(n, channels * 4, height // 2, width // 2)


def one_by_one(latents: torch.Tensor) -> torch.Tensor:
    """Latents of `two_by_two` as they were."""
    n, channels, height, width = latents.shape
    found = latents.reshape(n, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return found.reshape(n, channels // 4, height * 2, width * 2)
