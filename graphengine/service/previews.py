"""Previews as they are sent: small pictures of what nodes show while they compute."""

from __future__ import annotations

import io
from typing import Any

from graphengine.errors import as_exception
from graphengine.values.socket_types import View, socket_type

SIDE = 512
"""The most pixels of a side of a preview that goes over a network."""
MOST_PNG = 8_000
"""Bytes of a PNG beyond which a preview is sent as a JPEG."""


def preview_png(value: Any) -> bytes | None:
    """The first view of a value as a PNG; None if its type has no view that is a picture.

    Args:
        value: What a node shows, or a `View` of it.
    """
    if isinstance(value, View):
        return value.png
    known = socket_type(type(value))
    if known is None or known.view is None:
        return None
    try:
        views = known.view(value)
    except BaseException as error:  # of a pack's code; there is no picture then
        as_exception(error)
        return None
    first = views[0] if isinstance(views, list) else views
    return first.png


def small_picture(png: bytes) -> tuple[str, bytes]:
    """A PNG as it is sent over a network: at most `SIDE` pixels a side, as a JPEG unless it is small or transparent.

    Returns:
        Its media type and its bytes.
    """
    import PIL.Image

    with PIL.Image.open(io.BytesIO(png)) as picture:
        fits = max(picture.size) <= SIDE
        opaque = "A" not in picture.getbands() and "transparency" not in picture.info
        if fits and (len(png) <= MOST_PNG or not opaque):
            return "image/png", png
        shown = picture.convert("RGB" if opaque else "RGBA")
    shown.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    shown.save(data, "JPEG" if opaque else "PNG", **({"quality": 85} if opaque else {}))
    return "image/jpeg" if opaque else "image/png", data.getvalue()
