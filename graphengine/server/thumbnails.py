"""Copies of pictures in other sizes: small ones, the latest of which are kept in memory, and enlarged previews."""

from __future__ import annotations

import collections
import io
import threading
from collections.abc import Callable
from typing import IO

from graphengine.server.problems import ApiError

WIDTHS = (128, 256, 512, 1024)
"""The widths and heights in pixels of which copies are made; what is asked for is the next larger one."""
MOST_BYTES = 32 << 20
"""The most bytes of copies that are kept."""
TYPE = "image/webp"


class Thumbnails:
    """Small copies by a key of their picture and their width. Safe to use from any thread."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.size = most, 0
        self._kept: collections.OrderedDict[tuple[str, ...], bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], width: int, open: Callable[[], IO[bytes]]) -> bytes:
        """A copy of a picture, as a WebP file that is at most so wide and high.

        Args:
            key: Names the picture; what it names does not change.
            width: One of `WIDTHS`, see `width_of`.
            open: Opens the picture's file; called if there is no copy yet, and each time: it checks who may see it.

        Raises:
            ApiError: The file holds no picture that can be read.
        """
        key = (*key, str(width))
        with open() as file:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = _small(file, width)
        with self._lock:
            self.size += len(made) - len(self._kept.pop(key, b""))
            self._kept[key] = made
            while self.size > self.most:
                self.size -= len(self._kept.popitem(last=False)[1])
        return made


def width_of(text: str) -> int:
    """The width of the copies that are made for a width that a client asks for.

    Raises:
        ApiError: It is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not int(text):
        raise ApiError("bad_request", f"width must be a whole number of pixels, not {text[:40]!r}")
    return next((width for width in WIDTHS if width >= int(text)), WIDTHS[-1])


def enlarged(content: bytes, side: int) -> bytes:
    """A preview whose longer side has at least some pixels, in its format; what is larger or cannot be read stays.

    Args:
        content: A PNG or JPEG; previews are as large as the latent that they are made of, an eighth of the picture.
        side: Pixels.
    """
    import PIL.Image  # as below

    try:
        with PIL.Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            times = -(-side // max(picture.size))
            if times <= 1:
                return content
            made = io.BytesIO()
            size = (picture.width * times, picture.height * times)
            picture.resize(size, PIL.Image.Resampling.BICUBIC).save(made, picture.format)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return content
    return made.getvalue()


def _small(file: IO[bytes], width: int) -> bytes:
    import PIL.Image  # not before a picture is asked for: the server starts without it

    try:
        with PIL.Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
            picture.draft("RGB", (width, width))
            small = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
        small.thumbnail((width, width))
        made = io.BytesIO()
        small.save(made, "WEBP", quality=82, method=2)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        raise ApiError("not_found", "there is no small copy of this file: it is no picture that can be read") from None
    return made.getvalue()
