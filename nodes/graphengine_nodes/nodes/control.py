"""Control: steering a sampler with a picture."""

from __future__ import annotations

from typing import Annotated

from graphengine import Added, Doc, Range, node
from graphengine_nodes.values.types import Control, ControlNet, Image


@node(version=1)
def apply_controlnet(
    controlnet: ControlNet,
    image: Annotated[Image, Doc("The control picture itself, such as edges for a canny ControlNet.")],
    scale: Annotated[float, Range(0, 10, 0.05), Doc("How strongly it steers; 1 is full strength.")] = 1.0,
    start: Annotated[float, Range(0, 1, 0.05), Doc("Fraction of the steps after which it starts to steer.")] = 0.0,
    end: Annotated[float, Range(0, 1, 0.05), Doc("Fraction of the steps after which it stops.")] = 1.0,
    guess: Annotated[
        bool, Doc("Follow the picture more than the prompt; for all controls of a sampler or none.")
    ] = False,
    mode: Annotated[
        int | None,
        Range(0, 63, 1),
        Doc("Of a union ControlNet, which of its kinds of control pictures this is, as its model card counts them."),
        Added(),
    ] = None,
) -> Control:
    """Pair a ControlNet with the picture that it follows, for `sample(control=...)`.

    Several pictures for one union ControlNet are several controls, each with its mode. Of a picture with alpha it
    follows what is seen over white.

    In ComfyUI: `ControlNetApply`, `ControlNetApplyAdvanced`, `SetUnionControlNetType`.

    Raises:
        ValueError: It ends before it begins; a mode is given to what is no union ControlNet, or it has no such mode.
    """
    if mode is not None and controlnet.modes is None:
        raise ValueError(f"{controlnet.source} is no union ControlNet; leave mode out")
    if mode is not None and mode >= (controlnet.modes or 0):
        raise ValueError(f"{controlnet.source} has the modes 0 to {(controlnet.modes or 0) - 1}, and no mode {mode}")
    if start >= end:
        raise ValueError(f"control starts at {start:g} of the steps and ends at {end:g}; it must start before it ends")
    return Control(controlnet, image.opaque(), float(scale), float(start), float(end), guess, mode)


@node(version=1)
def follow_picture(
    image: Annotated[Image, Doc("The control picture itself, such as edges for FLUX.1 Canny, depth for FLUX.1 Depth.")],
) -> Control:
    """Make a control of a picture alone, for checkpoints that follow pictures without a ControlNet.

    In ComfyUI: `InstructPixToPixConditioning`.
    """
    return Control(None, image.opaque())
