"""Reading picture files: any number of bits, rotated as their EXIF says, in sRGB; or refused, never cut off."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphengine import FileError, NotRegular, Outside, open_file, warnings_as
from graphengine_nodes.values.picture_colours import deep_to_srgb, to_srgb

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    import PIL.ImageFile

    Array = numpy.ndarray[Any, Any]


class Deep(NamedTuple):
    """A picture of more than 8 bits for each colour.

    Attributes:
        colours: float32 [H, W, 3] or [H, W, 1] in 0..1, in sRGB.
        alpha: float32 [H, W] in 0..1, 1 where it is opaque; None without transparency.
    """

    colours: Array
    alpha: Array | None

    def over(self, backdrop: float) -> Array:
        """The picture over a plain grey, as float32 [H, W, 3]."""
        import numpy as np

        colours = np.repeat(self.colours, 3, axis=2) if self.colours.shape[2] == 1 else self.colours
        if self.alpha is None:
            return colours
        return (colours * self.alpha[..., None] + backdrop * (1 - self.alpha[..., None])).astype(np.float32)


def open_picture(path: Path) -> PIL.Image.Image | Deep:
    """Read a picture, rotated upright and in sRGB: with PIL in 8 bits, as numbers if it has more.

    Raises:
        FileError: It is no picture, cut short, too large, or of numbers whose range is not known.
    """
    import PIL.Image
    import PIL.ImageOps

    if path.is_dir():
        raise FileError(f"{path} is a folder; give one of the pictures in it")
    try:
        with open_file(path) as file:
            start = file.read(4)
            file.seek(0)
            tags = _tiff_tags(file.read(), path) if start in _TIFF else None
            file.seek(0)
            if tags is not None and tags.is_deep:
                return _deep_tiff(file.read(), tags, path)
            with warnings_as("error", PIL.Image.DecompressionBombWarning):
                picture = PIL.Image.open(file)  # reads no more than the size
            with picture:
                deep = _is_deep(picture, path)
                if not deep and not picture.mode.startswith("I"):
                    picture.load()
                    return to_srgb(PIL.ImageOps.exif_transpose(picture), str(path))
                profile, orientation = picture.info.get("icc_profile"), picture.getexif().get(_ORIENTATION, 1)
                picture.load()
                if deep:
                    file.seek(0)
                    colours, alpha = _split(_decoded(file.read(), path), 65535)
                else:
                    colours, alpha = _of_integers(picture, path), None
                return _upright(deep_to_srgb(colours, profile, str(path)), alpha, orientation)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise FileError(too_large(path)) from None
    except PIL.UnidentifiedImageError:
        raise FileError(f"{path} is no picture that can be read; PNG, JPEG, WebP, TIFF, BMP and GIF can be") from None
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except (NotRegular, Outside) as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise FileError(str(error)) from None  # a sentence of ours
        raise FileError(f"{path} is damaged or cut short ({error})") from None


def has_own_colours(path: Path) -> bool:
    """Whether a picture has a colour profile, more than 8 bits of colour, or is a TIFF of more: before, such
    pictures were read as if they had not. False for what cannot be read, which `open_picture` refuses."""
    import PIL.Image

    try:
        with open_file(path) as file:
            start = file.read(4)
            file.seek(0)
            if start in _TIFF:
                tags = _tiff_tags(file.read(), path)
                return tags is None or tags.is_deep or tags.profile is not None
            with warnings_as("error", PIL.Image.DecompressionBombWarning), PIL.Image.open(file) as picture:
                return "icc_profile" in picture.info or _is_deep(picture, path)
    except Exception:  # of any kind, in a file from anywhere
        return False


def _is_deep(picture: PIL.ImageFile.ImageFile, path: Path) -> bool:
    """Whether a picture that is opened, not loaded, has colours of 16 bits, which PIL would cut off.

    Raises:
        ValueError: It is a PPM with another white than 255 or 65535.
    """
    if picture.format == "PPM" and picture.mode == "RGB":
        white = next((n for tile in picture.tile for n in tile[3] or () if isinstance(n, int)), 255)
        if white > 255 and white != 65535:
            raise ValueError(f"{path} has a white of {white}; save it with 8 or 16 bits")
        return white > 255
    return picture.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile[3]) for tile in picture.tile)


def too_large(path: Path) -> str:
    """Say that a picture has more pixels than PIL unpacks."""
    import PIL.Image

    return f"{path} would unpack to more than {PIL.Image.MAX_IMAGE_PIXELS or 0:,} pixels; make it smaller first"


_ORIENTATION = 274


def _of_integers(picture: PIL.Image.Image, path: Path) -> Array:
    """Colours of a grey picture of 16 bits, which PIL holds in 16 or 32."""
    import numpy as np

    array = np.asarray(picture)
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        raise FileError(f"{path} holds integers beyond 16 bits, whose white is not known; save it with 16 bits")
    return (array.astype(np.float32) / 65535.0)[..., None]


def _decoded(content: bytes, path: Path) -> Array:
    """The numbers of a picture as they stand in the file, [H, W, channels], decoded by OpenCV; colours in RGB order."""
    import cv2
    import numpy as np

    try:
        array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FileError(f"{path} cannot be read ({error.err!s:.100}); save it as PNG") from None
    if array is None:
        raise FileError(f"{path} is damaged, cut short, or packed in a way that is not read; save it as PNG")
    array = array[..., None] if array.ndim == 2 else array
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(array.shape[2])
    return np.asarray(array if order is None else array[..., order])


def _split(array: Array, white: float) -> tuple[Array, Array | None]:
    """Colours and transparency of an array with 1 to 4 channels."""
    import numpy as np

    numbers = (array / np.float32(white)).astype(np.float32)
    if array.shape[2] in (2, 4):
        return numbers[..., :-1], numbers[..., -1]
    return numbers, None


def _upright(colours: Array, alpha: Array | None, orientation: int) -> Deep:
    """Rotate and mirror as the EXIF orientation says, 1 to 8."""
    import numpy as np

    def turned(array: Array) -> Array:
        if orientation in (5, 6, 7, 8):
            array = array.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            array = array[::-1]
        if orientation in (2, 3, 6, 7):
            array = array[:, ::-1]
        return np.ascontiguousarray(array)

    return Deep(turned(colours), None if alpha is None else turned(alpha))


# --- TIFF -------------------------------------------------------------------------------------------------------------

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}


class _Tags(NamedTuple):
    """What the first directory of a TIFF file says of its numbers."""

    size: tuple[int, int]
    bits: frozenset[int]
    format: int
    photometric: int
    extra: tuple[int, ...]
    profile: bytes | None

    @property
    def is_deep(self) -> bool:
        """Whether PIL would cut its numbers off, or not read it."""
        return max(self.bits) > 8 or self.format != 1


def _tiff_tags(content: bytes, path: Path) -> _Tags | None:
    """Read the tags of a TIFF file; None if they cannot be read: PIL says then what is wrong."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        file = io.BytesIO(content)
        big = content[2:3] == b"+" or content[3:4] == b"+"
        directory = ImageFileDirectory_v2(file.read(16 if big else 8))
        file.seek(directory.next)
        directory.load(file)
        profile = directory.get(34675)
        return _Tags(
            (int(directory[256]), int(directory[257])),
            frozenset(directory.get(258, (1,))),
            max(directory.get(339, (1,))),
            int(directory.get(262, 1)),
            tuple(directory.get(338, ())),
            bytes(profile) if isinstance(profile, bytes) else None,
        )
    except Exception:  # of any kind, in a file from anywhere
        return None


def _deep_tiff(content: bytes, tags: _Tags, path: Path) -> Deep:
    """Read a TIFF file of 16-bit integers or of floats.

    Raises:
        FileError: Its numbers are of another kind, or its floats do not lie in 0..1.
    """
    import numpy as np
    import PIL.Image

    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and tags.size[0] * tags.size[1] > limit:
        raise FileError(too_large(path))
    numbers = f"{'/'.join(map(str, sorted(tags.bits)))}-bit {_FORMATS.get(tags.format, 'numbers of an unknown kind')}"
    integers = tags.format == 1 and tags.bits == {16}
    floats = tags.format == 3 and tags.bits <= {32, 64}
    if tags.bits == {32} and tags.format in (1, 2) and tags.photometric == 1:
        return _integers_of_32_bits(content, tags, path)
    if not (integers or floats):
        raise FileError(
            f"{path} holds {numbers}, whose range is not known; save it with 8 or 16 bits, or as floats in 0..1"
        )
    if tags.photometric not in (0, 1, 2):
        raise FileError(f"{path} holds {numbers} in colours that are neither grey nor RGB; save it as RGB")
    array = _decoded(content, path)
    if integers and array.dtype != np.uint16:
        raise FileError(f"{path} holds {numbers}, which cannot be read whole; save it as PNG")
    if floats and not (array.size and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        low, high = float(np.nanmin(array)), float(np.nanmax(array))
        raise FileError(f"{path} holds floats from {low:.4g} to {high:.4g}; a picture's go from 0 to 1: scale them")
    colours, alpha = _split(array, 65535 if integers else 1)
    if alpha is not None and tags.extra[:1] == (1,):  # colours are multiplied by alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            colours = np.where(alpha[..., None] > 0, colours / alpha[..., None], 0).clip(0, 1).astype(np.float32)
    if tags.photometric == 0:
        colours = 1 - colours
    return Deep(deep_to_srgb(colours, tags.profile, str(path)), alpha)  # OpenCV has rotated it


def _integers_of_32_bits(content: bytes, tags: _Tags, path: Path) -> Deep:
    """Read what PIL writes of its mode I: a grey picture of 16 bits, in 32.

    Raises:
        FileError: The numbers are those of no such picture.
    """
    import numpy as np
    import PIL.Image

    with PIL.Image.open(io.BytesIO(content)) as picture:
        array, orientation = np.asarray(picture), picture.getexif().get(_ORIENTATION, 1)
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high > 65535 or 0 < high < 256:
        raise FileError(
            f"{path} holds 32-bit integers from {low} to {high}, of which white is not known; save it with 16 bits"
        )
    colours = (array.astype(np.float32) / 65535.0)[..., None]
    return _upright(deep_to_srgb(colours, tags.profile, str(path)), None, orientation)
