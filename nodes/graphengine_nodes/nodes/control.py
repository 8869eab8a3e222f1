"""Control: steering a sampler by a picture."""

from __future__ import annotations

from typing import Annotated

from graphengine import Doc, Range, node
from graphengine_nodes.values.types import Control, ControlNet, Image


@node(version=1)
def apply_controlnet(
    controlnet: ControlNet,
    image: Annotated[Image, Doc("Already as the ControlNet wants it: edges for a canny one.")],
    scale: Annotated[float, Range(0, 10, 0.05), Doc("How strongly it steers.")] = 1.0,
    start: Annotated[float, Range(0, 1, 0.05), Doc("The part of the steps after which it begins.")] = 0.0,
    end: Annotated[float, Range(0, 1, 0.05), Doc("The part of the steps after which it ends.")] = 1.0,
    guess: Annotated[
        bool, Doc("Let the picture decide more than the prompt; all controls of a sampler or none.")
    ] = False,
) -> Control:
    """A ControlNet with the picture that it follows, for `sample(control=...)`.

    Raises:
        ValueError: It ends before it begins.
    """
    if start >= end:
        raise ValueError(f"control starts at {start:g} of the steps and ends at {end:g}; it must start before it ends")
    return Control(controlnet, image, float(scale), float(start), float(end), guess)
