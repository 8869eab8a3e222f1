"""Encoding and decoding with a VAE, and the scales of latents: the VAE's and the denoiser's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.arguments import channels_first, repeat
from graphengine_nodes.values.types import Image, Latent, Posterior
from graphengine_nodes.values.video import Video

if TYPE_CHECKING:
    import torch

ToVAE = Callable[["torch.Tensor", Any], "torch.Tensor"]
"""From the denoiser's scale to the VAE's; takes latents and the VAE."""


def start_latents(
    latent: Posterior | Latent, generators: Any, count: int, device: str, dtype: torch.dtype
) -> torch.Tensor:
    """The latents that image to image starts from, in the denoiser's scale: drawn from a posterior, or as they are.

    Args:
        generators: A list, one for each picture; or a single one, which draws once for each encoded picture.
    """
    import torch

    if isinstance(latent, Latent):
        return repeat(latent.samples, count).to(device, dtype)
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    moments = torch.cat([latent.mean, latent.logvar], dim=1).to(device)
    if isinstance(generators, list):
        drawn = [
            DiagonalGaussianDistribution(one).sample(generator)
            for one, generator in zip(torch.split(repeat(moments, count), 1), generators, strict=True)
        ]
        return to_denoiser(torch.cat(drawn).to(dtype), latent.scaling)
    return repeat(
        to_denoiser(DiagonalGaussianDistribution(moments).sample(generators).to(dtype), latent.scaling), count
    )


def scaling_of(vae: Any) -> dict[str, Any]:
    """The entries of a VAE's configuration that convert between its scale and the denoiser's."""
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    found = {name: getattr(vae.config, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def to_denoiser(samples: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Convert latents from the VAE's scale to the denoiser's, as the pipelines do.

    Raises:
        ValueError: Their model has no such scale.
    """
    if not scaling:
        raise ValueError("the VAE of this model says no scale of its latents: an encoded picture is no start for it")
    factor: float = scaling.get("scaling_factor", 1.0)
    if "latents_mean" in scaling and "latents_std" in scaling:
        mean, std = _statistics(samples, scaling)
        return (samples - mean) * factor / std
    if "shift_factor" in scaling:
        shift: float = scaling["shift_factor"]
        return (samples - shift) * factor
    return factor * samples


def to_vae(samples: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Convert latents from the denoiser's scale to the VAE's, as the pipelines do."""
    factor: float = scaling.get("scaling_factor", 1.0)
    if "latents_mean" in scaling and "latents_std" in scaling:
        mean, std = _statistics(samples, scaling)
        return samples * std / factor + mean
    shift: float | None = scaling.get("shift_factor")
    return samples / factor if shift is None else samples / factor + shift


def _statistics(samples: torch.Tensor, scaling: Mapping[str, Any]) -> list[torch.Tensor]:
    import torch

    names = ("latents_mean", "latents_std")
    shape = (1, -1, *[1] * (samples.ndim - 2))
    return [torch.tensor(scaling[name]).view(shape).to(samples) for name in names]


def encode_pictures(
    vae: Any, image: Image, family: str, device: str, dtype: torch.dtype | None = None, frames: bool = False
) -> Posterior:
    """Encode pictures to posteriors, one at a time as the pipelines do: several at once differ in the last bits.

    Args:
        dtype: The precision that pictures come in, where the VAE computes with a higher one.
        frames: The VAE is one of videos: pictures are videos of one frame.
    """
    import torch

    with torch.no_grad():
        pixels = channels_first(image)
        if getattr(vae.config, "in_channels", 3) == 4:  # of pictures with transparency
            alpha = torch.ones_like(image.pixels[..., 0]) if image.alpha is None else image.alpha
            pixels = torch.cat([pixels, alpha[:, None]], dim=1)
        pixels = (2.0 * pixels - 1.0).to(device, dtype or vae.dtype).to(vae.dtype)
        pixels = pixels[:, :, None] if frames else pixels
        encoded = [vae.encode(picture).latent_dist for picture in torch.split(pixels, 1)]
    mean = torch.cat([distribution.mean for distribution in encoded]).cpu()
    logvar = torch.cat([distribution.logvar for distribution in encoded]).cpu()
    return Posterior(mean, logvar, family, scaling_of(vae))


def encode_frames(vae: Any, video: Video, family: str, device: str) -> Posterior:
    """Encode a video to its posterior, [1, C, f, h, w]."""
    import torch

    with torch.no_grad():
        # In memory frame by frame, channels last, as the pipelines have a list of PIL pictures.
        pixels = (2.0 * video.frames.contiguous().permute(0, 3, 1, 2) - 1.0)[None].permute(0, 2, 1, 3, 4)
        encoded = vae.encode(pixels.to(device, vae.dtype)).latent_dist
    return Posterior(encoded.mean.cpu(), encoded.logvar.cpu(), family, scaling_of(vae))


def decode_pictures(vae: Any, latent: Latent, device: str, convert: ToVAE | None = None) -> Image:
    """Decode latents to pictures.

    Args:
        convert: From the denoiser's scale to the VAE's, where the family has a formula of its own.

    Raises:
        ValueError: The latent is empty, or a video's.
    """
    if latent.samples.ndim == 5 and latent.samples.shape[2] > 1:
        raise ValueError("this latent is a video's; use decode_video, or frames_of after it for pictures")
    pixels = _decoded(vae, latent, device, convert)
    pixels = pixels[:, :, 0] if pixels.ndim == 5 else pixels
    found = pixels.cpu().permute(0, 2, 3, 1).float().contiguous()
    return Image(found) if found.shape[-1] == 3 else Image(found[..., :3].contiguous(), found[..., 3].contiguous())


def decode_frames(vae: Any, latent: Latent, fps: float, device: str, convert: ToVAE) -> Video:
    """Decode the latents of a video, [1, C, f, h, w].

    Raises:
        ValueError: The latent is empty, a picture's, or of several videos.
    """
    if latent.samples.ndim != 5 or len(latent.samples) != 1:
        raise ValueError(f"this latent is no single video's, but {list(latent.samples.shape)}; use decode_latent")
    pixels = _decoded(vae, latent, device, convert)[0]
    return Video(pixels.cpu().permute(1, 2, 3, 0).float().contiguous(), fps)


def _decoded(vae: Any, latent: Latent, device: str, convert: ToVAE | None) -> torch.Tensor:
    """What the VAE makes of latents, in 0..1."""
    import torch

    if latent.empty:
        raise ValueError("this latent is empty, there is nothing to decode; link it to sample first")
    with torch.no_grad():
        samples = latent.samples.to(device, vae.dtype)
        if latent.scale == "denoiser":
            samples = convert(samples, vae) if convert else to_vae(samples, scaling_of(vae))
        decoded: torch.Tensor = vae.decode(samples, return_dict=False)[0]
        return (decoded * 0.5 + 0.5).clamp(0, 1)
