"""Colours of pictures: profiles (ICC) turned into sRGB, in 8 bits by LittleCMS, in more by the profile's own curves."""

from __future__ import annotations

import io
import logging
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import PIL.Image

    Array = numpy.ndarray[Any, Any]

log = logging.getLogger(__name__)

_SRGB_TO_XYZ = (
    (0.4360657, 0.3851515, 0.1430784),
    (0.2224932, 0.7168870, 0.0606169),
    (0.0139160, 0.0970764, 0.7140961),
)
"""Linear sRGB to XYZ under D50, as sRGB's own profile has it (IEC 61966-2-1, adapted by Bradford's method)."""


def to_srgb(picture: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """A picture of 8 bits in sRGB, by the profile that it holds: RGB, RGBA and grey stay, CMYK and Lab become RGB.

    The same picture, if it has no profile, or one by which no colour moves by more than rounding does.

    Args:
        name: The picture, for warnings.
    """
    import PIL.Image
    import PIL.ImageCms

    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    colours = picture if alpha is None else picture.convert(picture.mode[:-1])
    try:
        source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = PIL.ImageCms.createProfile("sRGB")
        transform = PIL.ImageCms.buildTransform(source, srgb, colours.mode, "RGB")
        if colours.mode in ("RGB", "L") and _moves_nothing(transform, colours.mode):
            return picture
        found = PIL.ImageCms.applyTransform(colours, transform)
    except (PIL.ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning("%s: its colour profile cannot be used (%s); its numbers are taken as sRGB", name, error)
        return picture
    assert found is not None
    if alpha is not None:
        found.putalpha(alpha)
    elif "transparency" in picture.info and picture.mode == "L":
        log.warning("%s: a grey picture with a profile and one transparent grey; it is taken as opaque", name)
    return found


def _moves_nothing(transform: Any, mode: str) -> bool:
    """Whether a transformation to sRGB leaves a lattice of colours where it is, within a step of 8 bits."""
    import numpy as np
    import PIL.Image
    import PIL.ImageCms

    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        lattice = steps[None]
        expected = np.repeat(lattice[..., None], 3, axis=2)
    else:
        lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        expected = lattice
    found = PIL.ImageCms.applyTransform(PIL.Image.fromarray(lattice), transform)
    return bool(abs(np.asarray(found).astype(int) - expected).max() <= 1)


def deep_to_srgb(colours: Array, profile: bytes | None, name: str) -> Array:
    """Colours of more than 8 bits in sRGB, by the curves and primaries of their profile.

    Args:
        colours: float32 [H, W, 3] or [H, W, 1] in 0..1.
        profile: The ICC profile; None for sRGB.
        name: The picture, for messages.

    Returns:
        float32 [H, W, 3], or [H, W, 1] without a profile.

    Raises:
        ValueError: The profile has no curves and primaries, but tables for 8 bits.
    """
    import numpy as np

    if not profile:
        return colours
    try:
        curves, matrix = _curves(profile, colours.shape[-1])
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"{name} has more than 8 bits and a colour profile that is not of curves and primaries ({error}); "
            "save it in sRGB"
        ) from None
    linear = np.stack([curve(colours[..., n].astype(np.float64)) for n, curve in enumerate(curves)], -1)
    if matrix is None:
        linear = np.repeat(linear, 3, axis=-1)
    else:
        linear = linear @ (np.linalg.inv(np.array(_SRGB_TO_XYZ)) @ matrix).T
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    if np.abs(encoded - colours).max(initial=0) <= 1 / 255:  # it was sRGB, by a profile with rounded numbers
        return colours
    return encoded.astype(np.float32)


# --- profiles ---------------------------------------------------------------------------------------------------------


def _curves(profile: bytes, channels: int) -> tuple[list[Any], Any]:
    """The curves of a profile's channels to linear light, and its primaries as columns of XYZ; None for grey.

    The form is that of ICC.1:2010: a table of tags, `XYZ `, `curv` and `para`.
    """
    import numpy as np

    space, connection = profile[16:20], profile[20:24]
    count = struct.unpack(">I", profile[128:132])[0]
    tags: dict[bytes, bytes] = {}
    for n in range(min(count, 200)):
        sign, start, length = struct.unpack(">4sII", profile[132 + 12 * n : 144 + 12 * n])
        tags[sign] = profile[start : start + length]
    if space == b"GRAY" and channels == 1:
        return [_curve(tags[b"kTRC"])], None
    if space != b"RGB " or connection != b"XYZ " or channels != 3:
        raise ValueError(f"it is for {space.decode('latin1').strip()}")
    if b"A2B0" in tags:
        raise ValueError("it has tables")
    columns = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")], np.array(columns, dtype=np.float64).T / 65536


def _curve(tag: bytes) -> Any:
    """A curve to linear light, as a function of arrays in 0..1."""
    import numpy as np

    if tag[:4] == b"curv":
        count = struct.unpack(">I", tag[8:12])[0]
        if count == 0:
            return lambda values: values
        table = np.frombuffer(tag[12 : 12 + 2 * count], ">u2").astype(np.float64)
        if count == 1:
            return lambda values: values ** (table[0] / 256)
        return lambda values: np.interp(values, np.linspace(0, 1, count), table / 65535)
    if tag[:4] != b"para":
        raise ValueError(f"a curve of the form {tag[:4].decode('latin1')}")
    kind = struct.unpack(">H", tag[8:10])[0]
    length = (1, 3, 4, 5, 7)[kind]
    g, a, b, c, d, e, f = (
        [number / 65536 for number in struct.unpack(f">{length}i", tag[12 : 12 + 4 * length])] + [0.0] * 7
    )[:7]
    if kind == 0:
        return lambda values: values**g
    if kind == 1:
        return lambda values: np.where(values >= -b / a, (a * values + b).clip(0) ** g, 0)
    if kind == 2:
        return lambda values: np.where(values >= -b / a, (a * values + b).clip(0) ** g + c, c)
    return lambda values: np.where(values >= d, (a * values + b).clip(0) ** g + e, c * values + f)
