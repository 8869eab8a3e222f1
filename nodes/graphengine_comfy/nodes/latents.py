"""Latents: empty ones, pictures to latents and back, masks of what sampling changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

import graphengine_nodes as std
from graphengine_nodes import VAE, Image, Latent, Mask
from graphengine_nodes.families.lookup import family

from graphengine import INERT, Choices, Context, Range, Uses, node
from graphengine_comfy.nodes.resizing import CROPS, LATENT_METHODS, MOST, one_by_one, repeated, resized, two_by_two
from graphengine_comfy.values import CONDITIONING, LATENT, Entry

if TYPE_CHECKING:
    import torch

Side = Annotated[int, Range(16, MOST, 8)]
Batch = Annotated[int, Range(1, 4096, 1)]
Method = Annotated[str, Choices(*LATENT_METHODS)]
Decoder = Annotated[VAE, Uses("vae")]


def _empty(channels: int, factor: int, width: int, height: int, count: int) -> LATENT:
    import torch

    return LATENT(torch.zeros(count, channels, height // factor, width // factor))


def pixels_a_side(samples: torch.Tensor) -> int:
    """Pixels a side for which one of these latents stands: 16 where they have the channels of FLUX.2 (128) or of
    Qwen-Image 2.1 (64), else 8."""
    return 16 if samples.shape[1] in (64, 128) else 8


@node(version=1)
def EmptyLatentImage(*, width: Side = 512, height: Side = 512, batch_size: Batch = 1) -> LATENT:
    """Make latents of a size, of which sampling makes pictures out of noise alone."""
    return _empty(4, 8, width, height, batch_size)


@node(version=1)
def EmptySD3LatentImage(
    *,
    width: Annotated[int, Range(16, MOST, 16)] = 1024,
    height: Annotated[int, Range(16, MOST, 16)] = 1024,
    batch_size: Batch = 1,
) -> LATENT:
    """Make latents of a size with 16 channels (Stable Diffusion 3, FLUX.1, Qwen-Image, Z-Image)."""
    return _empty(16, 8, width, height, batch_size)


@node(version=1)
def EmptyFlux2LatentImage(
    *,
    width: Annotated[int, Range(16, MOST, 16)] = 1024,
    height: Annotated[int, Range(16, MOST, 16)] = 1024,
    batch_size: Batch = 1,
) -> LATENT:
    """Make latents of a size for FLUX.2."""
    return _empty(128, 16, width, height, batch_size)


# --- pictures to latents and back -------------------------------------------------------------------------------------


def _factor(vae: VAE) -> int:
    return int(vae.model.setting("factor", 8)) * (2 if _is_flux2(vae) else 1)


def _is_flux2(vae: VAE) -> bool:
    """Whether its latents stand two by two in ComfyUI, in the scale of the denoiser."""
    return vae.model.family == "flux2"


def encoded(vae: VAE, pixels: torch.Tensor, ctx: Context) -> torch.Tensor:
    """The most likely latents of pictures [B, H, W, 3], whose sides are cut in the middle to what the VAE takes."""
    settings = {**dict(vae.model.settings), "multiple": int(vae.model.setting("factor", 8))}  # denoisers' are larger
    alone = VAE(replace(vae.model, settings=tuple(sorted(settings.items()))), vae.families)
    found = std.encode_image(alone, Image(fitted(vae, pixels)), ctx=ctx).mean.float()
    if not _is_flux2(vae):
        return found
    from graphengine_nodes.store.store import store

    with store.component(vae.model, "vae", "cpu") as module:
        mean, spread = module.bn.running_mean, (module.bn.running_var + module.config.batch_norm_eps).sqrt()
        shape = (1, -1, 1, 1)
        scaled: torch.Tensor = (two_by_two(found) - mean.view(shape).float()) / spread.view(shape).float()
    return scaled


def fitted(vae: VAE, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures, or masks, [B, H, W, ...] whose sides are cut in the middle to multiples of the VAE's factor."""
    factor = _factor(vae)
    height, width = (side // factor * factor for side in pixels.shape[1:3])
    top, left = (pixels.shape[1] % factor) // 2, (pixels.shape[2] % factor) // 2
    return pixels[:, top : top + height, left : left + width].contiguous()


@node(version=1, on="device")
def VAEEncode(*, pixels: Image, vae: Decoder, ctx: Context = INERT) -> LATENT:
    """Encode pictures to latents; nothing is drawn: they are the most likely ones."""
    return LATENT(encoded(vae, pixels.opaque().pixels, ctx))


@node(version=1, on="device")
def VAEDecode(*, samples: LATENT, vae: Decoder, ctx: Context = INERT) -> Image:
    """Decode latents to pictures.

    Raises:
        ValueError: They are of another shape than the VAE's.
    """
    found = samples.samples
    channels = 128 if _is_flux2(vae) else vae.model.setting("latent_channels")
    if found.shape[1] != channels:
        raise ValueError(f"latents of {found.shape[1]} channels do not fit {vae.source}, whose latents have {channels}")
    record = getattr(family(vae.model.family), "record", None)
    if record is not None and record.latents.frames and found.ndim == 4:
        found = found[:, :, None]
    if _is_flux2(vae):
        return std.decode_latent(vae, Latent(one_by_one(found), "flux2"), ctx=ctx)
    return std.decode_latent(vae, Latent(found, vae.model.family, scale="vae"), ctx=ctx)


Tile = Annotated[int, Range(64, 4096, 32)]
Overlap = Annotated[int, Range(0, 4096, 32)]
Frames = Annotated[int, Range(8, 4096, 4)]
FrameOverlap = Annotated[int, Range(4, 4096, 4)]


def _tiled(vae: VAE) -> VAE:
    return VAE(vae.model.with_options(tiling=True), vae.families)


@node(version=1, on="device")
def VAEDecodeTiled(
    *,
    samples: LATENT,
    vae: Decoder,
    tile_size: Tile = 512,
    overlap: Overlap = 64,
    temporal_size: Frames = 64,
    temporal_overlap: FrameOverlap = 8,
    ctx: Context = INERT,
) -> Image:
    """Decode latents to pictures piece by piece, in the VAE's own tiles, whatever sizes are given."""
    return VAEDecode.fn(samples=samples, vae=_tiled(vae), ctx=ctx)


@node(version=1, on="device")
def VAEEncodeTiled(
    *,
    pixels: Image,
    vae: Decoder,
    tile_size: Tile = 512,
    overlap: Overlap = 64,
    temporal_size: Frames = 64,
    temporal_overlap: FrameOverlap = 8,
    ctx: Context = INERT,
) -> LATENT:
    """Encode pictures to latents piece by piece, in the VAE's own tiles, whatever sizes are given."""
    return VAEEncode.fn(pixels=pixels, vae=_tiled(vae), ctx=ctx)


@node(version=1, on="device")
def VAEEncodeForInpaint(
    *,
    pixels: Image,
    vae: Decoder,
    mask: Mask,
    grow_mask_by: Annotated[int, Range(0, 64, 1)] = 6,
    ctx: Context = INERT,
) -> LATENT:
    """Encode pictures whose masked parts are grey, and let sampling change just these, grown a little."""
    import torch

    picture, values = _picture_and_mask(vae, pixels, mask)
    grown = values
    if grow_mask_by:
        pad = -(-(grow_mask_by - 1) // 2)
        kernel = torch.ones(1, 1, grow_mask_by, grow_mask_by)
        grown = torch.nn.functional.conv2d(values.round(), kernel, padding=pad).clamp(0, 1)
    samples = encoded(vae, _greyed(picture, values), ctx)
    return LATENT(samples, grown[..., : picture.shape[1], : picture.shape[2]].round())


def _picture_and_mask(vae: VAE, pixels: Image, mask: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B, H, W, 3] and a mask [M, 1, H, W] in a size that the VAE takes."""
    picture = pixels.opaque().pixels
    values = resized(mask.values[:, None], picture.shape[2], picture.shape[1], "bilinear")
    return fitted(vae, picture), fitted(vae, values[:, 0])[:, None]


def _greyed(picture: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pictures that are grey where the mask is more than one half."""
    keep = (1.0 - mask.round())[:, 0, ..., None]
    return (picture - 0.5) * keep + 0.5


class Prepared(NamedTuple):
    """Prompts and latents of an inpainting model."""

    positive: CONDITIONING
    negative: CONDITIONING
    latent: LATENT


@node(version=1, on="device")
def InpaintModelConditioning(
    *,
    positive: CONDITIONING,
    negative: CONDITIONING,
    vae: Decoder,
    pixels: Image,
    mask: Mask,
    noise_mask: bool = True,
    ctx: Context = INERT,
) -> Prepared:
    """Give an inpainting model the picture without its masked parts, and the mask; sampling begins at the picture."""
    picture, values = _picture_and_mask(vae, pixels, mask)
    concat = encoded(vae, _greyed(picture, values), ctx)
    begin = encoded(vae, picture, ctx)
    sides = [with_options(one, concat_latent=concat, concat_mask=values) for one in (positive, negative)]
    return Prepared(sides[0], sides[1], LATENT(begin, values if noise_mask else None))


def with_options(given: CONDITIONING, **options: object) -> CONDITIONING:
    """Prompts with further options."""
    return CONDITIONING(tuple(Entry(one.prompt, {**one.options, **options}, one.controls) for one in given.entries))


@node(version=1)
def SetLatentNoiseMask(*, samples: LATENT, mask: Mask) -> LATENT:
    """Let sampling change only what a mask covers."""
    return replace(samples, noise_mask=mask.values[:, None])


# --- sizes and batches ------------------------------------------------------------------------------------------------


@node(version=1)
def LatentUpscale(
    *,
    samples: LATENT,
    upscale_method: Method = "nearest-exact",
    width: Annotated[int, Range(0, MOST, 8)] = 512,
    height: Annotated[int, Range(0, MOST, 8)] = 512,
    crop: Annotated[str, Choices(*CROPS)] = "disabled",
) -> LATENT:
    """Resize latents to a size in pixels, of which eight are a latent; a side of 0 follows from the other one."""
    own_height, own_width = (int(side) for side in samples.samples.shape[-2:])
    if not width and not height:
        return samples
    wide = width or round(own_width * max(64, height) / own_height)
    high = height or round(own_height * max(64, width) / own_width)
    wide, high = max(64, wide) // 8, max(64, high) // 8
    return replace(samples, samples=resized(samples.samples, wide, high, upscale_method, crop))


@node(version=1)
def LatentUpscaleBy(
    *,
    samples: LATENT,
    upscale_method: Method = "nearest-exact",
    scale_by: Annotated[float, Range(0.01, 8.0, 0.01)] = 1.5,
) -> LATENT:
    """Resize latents by a factor."""
    height, width = (max(1, round(int(side) * scale_by)) for side in samples.samples.shape[-2:])
    return replace(samples, samples=resized(samples.samples, width, height, upscale_method))


@node(version=1)
def RepeatLatentBatch(*, samples: LATENT, amount: Annotated[int, Range(1, 64, 1)] = 1) -> LATENT:
    """Repeat a batch of latents; each has noise of its own."""
    values = samples.samples
    mask, index = samples.noise_mask, samples.batch_index
    if mask is not None and len(mask) > 1:
        mask = mask.repeat(amount, *[1] * (mask.ndim - 1))
    if index is not None:
        step = max(index) - min(index) + 1
        index = tuple(one + step * turn for turn in range(amount) for one in index)
    return LATENT(values.repeat(amount, *[1] * (values.ndim - 1)), mask, index)


@node(version=1)
def LatentFromBatch(
    *,
    samples: LATENT,
    batch_index: Annotated[int, Range(0, 63, 1)] = 0,
    length: Annotated[int, Range(1, 64, 1)] = 1,
) -> LATENT:
    """Take some latents of a batch, from a place on; they keep the noise of their places."""
    count = len(samples.samples)
    start = min(batch_index, count - 1)
    end = start + min(length, count - start)
    mask = samples.noise_mask
    if mask is not None and len(mask) > 1:
        mask = repeated(mask, count)[start:end]
    index = samples.batch_index or tuple(range(count))
    return LATENT(samples.samples[start:end].clone(), mask, index[start:end])


@node(version=1)
def LatentBatch(*, samples1: LATENT, samples2: LATENT) -> LATENT:
    """Join latents to a batch; the second ones are resized to the size of the first, whose noise mask is the batch's.

    Raises:
        ValueError: They differ in the number of channels.
    """
    import torch

    first, second = samples1.samples, samples2.samples
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"latents of {first.shape[1]} and {second.shape[1]} channels cannot be one batch")
    second = resized(second, int(first.shape[-1]), int(first.shape[-2]), "bilinear", "center")
    index = [one.batch_index or tuple(range(len(one.samples))) for one in (samples1, samples2)]
    return LATENT(torch.cat([first, second]), samples1.noise_mask, index[0] + index[1])
