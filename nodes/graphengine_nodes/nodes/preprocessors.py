"""Control pictures: nodes that turn a picture into one that a ControlNet follows, of the same size.

Of a picture with alpha they see what it shows over white; `as_is` gives it as it is.

Nodes with a network are expanding nodes: a reference to the network's files (`load_annotator`), then the picture
(`annotate`), so that keys hold what the files contain and a file is read when it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated

from graphengine import Doc, Lazy, Range, node
from graphengine_nodes.nodes.annotators import Resolution, Source, annotate, load_annotator
from graphengine_nodes.values.types import Image, Mask

log = logging.getLogger(__name__)

Safe = Annotated[bool, Doc("Reduce brightness to a few steps, so that less of the picture shows through.")]

ANNOTATORS = "lllyasviel/Annotators"
"""Where most of the networks are published."""


# --- without a network ------------------------------------------------------------------------------------------------


@node(version=1)
def canny(
    image: Image,
    low: Annotated[
        int, Range(0, 1000, 1), Doc("Gradient above which an edge goes on (Canny's lower threshold).")
    ] = 100,
    high: Annotated[
        int, Range(0, 1000, 1), Doc("Gradient above which an edge begins (Canny's upper threshold).")
    ] = 200,
) -> Image:
    """Draw edges by Canny's method (OpenCV), white on black."""
    import cv2
    import numpy as np
    import PIL.Image

    from graphengine_nodes.nodes.images import from_pil

    edges = [cv2.Canny(np.asarray(picture), low, high) for picture in image.opaque().pils()]
    return from_pil(*[PIL.Image.fromarray(edge) for edge in edges])


@node(version=1)
def sobel(image: Image) -> Image:
    """Draw soft edges by Sobel's filter of 9 x 9 pixels: half of each direction, the strongest edge white."""
    import cv2
    import numpy as np
    import torch

    found = []
    for picture in image.opaque().pils():
        grey = np.asarray(picture.convert("L")).astype(np.float32)
        across, down = (np.abs(cv2.Sobel(grey, cv2.CV_32F, x, 1 - x, ksize=9)) for x in (1, 0))
        edges = 0.5 * across + 0.5 * down
        found.append(edges / max(float(edges.max()), 1.0))
    return Image(torch.from_numpy(np.stack(found))[..., None].repeat(1, 1, 1, 3))


@node(version=1)
def as_is(image: Image) -> Image:
    """Give the picture itself, which ControlNets for instructions (ip2p) and for patterns (qr) follow."""
    return image


@node(version=1)
def inpaint_control(
    image: Image,
    mask: Annotated[Mask | None, Doc("Default: nothing is masked, and a warning says so.")] = None,
) -> Image:
    """Make the picture that a ControlNet for inpainting follows: -1 where the mask is over 0.5.

    In ComfyUI: `ControlNetInpaintingAliMamaApply`.

    Raises:
        ValueError: Picture and mask differ in size or in number.
    """
    if mask is None:
        log.warning("without a mask an inpaint ControlNet gets the picture as it is; CInpaintingPipe takes a mask")
        return image.opaque()
    if image.size != mask.size or len(mask.values) not in (1, len(image)):
        raise ValueError(
            f"sizes differ: {len(image)} pictures of {image.size}, {len(mask.values)} masks of {mask.size}; "
            "give one mask, or one for each picture, of the pictures' size"
        )
    return Image(image.opaque().pixels.masked_fill(mask.values[..., None] > 0.5, -1.0))


# --- with a network ---------------------------------------------------------------------------------------------------


@node(version=1, expand=True)
def hed(
    image: Annotated[Image, Lazy()],
    source: Source = ANNOTATORS,
    safe: Safe = False,
    resolution: Resolution = 512,
) -> Image:
    """Draw soft edges by HED, which ControlNets for soft edges follow."""
    return annotate(image, load_annotator("hed-safe" if safe else "hed", source), resolution)


@node(version=1, expand=True)
def scribble(image: Annotated[Image, Lazy()], source: Source = ANNOTATORS, resolution: Resolution = 512) -> Image:
    """Draw lines as if by hand: HED's edges, thinned, white on black."""
    return annotate(image, load_annotator("scribble", source), resolution)


@node(version=1, expand=True)
def pidinet(
    image: Annotated[Image, Lazy()],
    source: Source = ANNOTATORS,
    safe: Safe = False,
    resolution: Resolution = 512,
) -> Image:
    """Draw soft edges by PiDiNet, which are cleaner than HED's."""
    return annotate(image, load_annotator("pidinet-safe" if safe else "pidinet", source), resolution)


@node(version=1, expand=True)
def lineart(
    image: Annotated[Image, Lazy()],
    source: Source = ANNOTATORS,
    coarse: Annotated[bool, Doc("Use the network that draws fewer lines.")] = False,
    resolution: Resolution = 512,
) -> Image:
    """Turn a picture into a line drawing, white on black."""
    return annotate(image, load_annotator("lineart-coarse" if coarse else "lineart", source), resolution)


@node(version=1, expand=True)
def normal(image: Annotated[Image, Lazy()], source: Source = ANNOTATORS, resolution: Resolution = 512) -> Image:
    """Estimate surface normals by NormalBae, as colours."""
    return annotate(image, load_annotator("normal", source), resolution)


@node(version=1, expand=True)
def pose(
    image: Annotated[Image, Lazy()],
    source: Source = ANNOTATORS,
    hands: Annotated[bool, Doc("Draw fingers too.")] = False,
    face: Annotated[bool, Doc("Draw points of faces too.")] = False,
    resolution: Resolution = 512,
) -> Image:
    """Draw the skeletons of the people in a picture by OpenPose; black where there is nobody."""
    kind = f"pose{'-hands' if hands else ''}{'-face' if face else ''}"
    return annotate(image, load_annotator(kind, source), resolution)


@node(version=1, expand=True)
def midas(image: Annotated[Image, Lazy()], source: Source = ANNOTATORS, resolution: Resolution = 512) -> Image:
    """Estimate depth by MiDaS: the nearest point is white, the farthest black."""
    return annotate(image, load_annotator("midas", source), resolution)


@node(version=1, expand=True)
def depth(image: Annotated[Image, Lazy()], source: Source = "Intel/dpt-large") -> Image:
    """Estimate depth by a DPT model of transformers: the nearest point is white."""
    return annotate(image, load_annotator("depth", source))


BY_TYPE: Mapping[str, Callable[..., Image]] = {
    "canny": canny,
    "soft": hed,
    "soft-sobel": sobel,
    "pidinet": pidinet,
    "lineart": lineart,
    "scribble": scribble,
    "depth": depth,
    "pose": pose,
    "normal": normal,
    "ip2p": as_is,
    "inpaint": inpaint_control,
    "qr": as_is,
}
"""The node that makes the control picture for each kind of ControlNet, by the names that users know."""
