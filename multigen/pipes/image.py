"""`Im2ImPipe`: image to image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import graphengine_nodes as std
from graphengine_nodes.values.types import Image, Latent

from multigen.pipes.arguments import check_range, numbers
from multigen.pipes.base import BasePipe
from multigen.pipes.building import PipeCall, listed
from multigen.pipes.kinds import Diffusers
from multigen.pipes.pictures import as_image, as_mask

__all__ = ["Im2ImPipe", "ImagePipe"]


READ: Mapping[str, Callable[[Any], Any]] = {
    "image": as_image,
    "image_painted": as_image,
    "mask_image": as_mask,
    "control_image": lambda value: [as_image(one) for one in listed(value)],
}
"""The functions that read pictures among the arguments."""


class ImagePipe(BasePipe):
    """Base of Pipe classes that are given a picture: its size, padding to sides for the model, cropping back."""

    _spacing: ClassVar[str | None] = "linspace"

    def __init__(self, model_id: str | Path, *args: Any, **named: Any) -> None:
        super().__init__(model_id, *args, **named)
        self._source_image: str | None = None
        self._sizing: tuple[Any, int | None, int | None] = None, None, None

    def _take(self, fimage: Any, image: Any, scale: Any = None, width: Any = None, height: Any = None) -> Image:
        """Read the picture that `setup` was given, and the size that the result is to have.

        Raises:
            ValueError: There is none, or it is no picture.
            FileError: The path leads to no picture.
        """
        given = fimage if image is None else image
        if given is None:
            raise ValueError("setup needs a picture: its path as fimage, or the picture itself as image")
        self._source_image = str(given) if isinstance(given, str | Path) else None
        if scale is not None and len(numbers("scale", listed(scale))) != 1 + isinstance(scale, list | tuple):
            raise ValueError(f"scale is {scale!r:.40}, but must be a number, or [width, height]")
        self._sizing = scale, width, height
        return as_image(given)

    def _arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        given = super()._arguments(inputs)
        if given.get("image") is None:
            raise ValueError(f"{type(self).__name__} needs a picture: call setup with fimage or image before gen")
        for name in [name for name in READ if given.get(name) is not None]:
            given[name] = READ[name](given[name])
        return given

    def _size(self, given: Mapping[str, Any]) -> tuple[int, int]:
        """Width and height of the result: those given, else the picture's, scaled as `setup` was told."""
        image, (scale, width, height) = given["image"], self._sizing
        sides = list(image.size)
        if isinstance(scale, list | tuple):
            width, height = map(int, scale)
        elif scale:
            sides = [int(side * scale + 0.5) for side in sides]
        if min(sides) < 1:
            raise ValueError(f"a picture of {image.size[0]} x {image.size[1]} scaled by {scale:g} is none any more")
        return given.get("width") or width or sides[0], given.get("height") or height or sides[1]

    def _sized(self, image: Image, size: tuple[int, int]) -> Image:
        """The node of a picture, resized."""
        return image if image.size == size else std.resize_image(image, *size)

    def _padded(self, image: Image) -> Image:
        """The node of a picture, or of a node's picture, padded to sides that the model takes."""
        return std.pad_image(image, self.pad)

    def _image(self, call: PipeCall, image: Image) -> Image:
        width, height = self._size(call.given)
        return std.crop_image(image, width, height, 0, 0) if width % self.pad or height % self.pad else image

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "source_image": self._source_image}


class Im2ImPipe(ImagePipe):
    """A picture from a prompt and another picture."""

    _class: ClassVar[Any] = Diffusers("StableDiffusionImg2ImgPipeline")
    _classxl: ClassVar[Any] = Diffusers("StableDiffusionXLImg2ImgPipeline")
    _classflux: ClassVar[Any] = Diffusers("FluxImg2ImgPipeline")
    _autopipeline: ClassVar[Any] = Diffusers("AutoPipelineForImage2Image")
    _task: ClassVar[str | None] = "image"
    _unnamed = frozenset({"width", "height"})

    def setup(  # type: ignore[override]
        self,
        fimage: Any = None,
        image: Any = None,
        strength: float | None = 0.75,
        guidance_scale: float = 7.5,
        scale: Any = None,
        timestep_spacing: str | None = None,
        width: int | None = None,
        height: int | None = None,
        **args: Any,
    ) -> None:
        """Set the parameters.

        Args:
            fimage, image: The picture: its path, or itself (from PIL, an array, a tensor, a result of `gen`).
            strength: How much of the picture is replaced, 0 to 1.
            guidance_scale: How strongly the prompt is followed.
            scale: Factor for its sides, or `[width, height]` in pixels.
            timestep_spacing: Spacing of the scheduler's timesteps; by default linspace where a scheduler is named.
            width, height: The size to which it is resized, in pixels.
            args: Those of `BasePipe.setup`.

        Raises:
            ValueError: It is no picture, or a parameter is out of its limits.
            FileError: The path leads to no picture.
        """
        height = args.pop("heigth", height)  # as it is documented
        strength = 0.75 if strength is None else strength
        check_strength(strength)
        picture = self._take(fimage, image, scale, width, height)
        super().setup(guidance_scale=guidance_scale, timestep_spacing=timestep_spacing, **args)
        self.pipe_params["strength"] = float(strength)
        self._pictures = {"image": picture}

    def _latent(self, call: PipeCall) -> Latent:
        image = call.given["image"]
        start = std.encode_image(call.model, self._padded(self._sized(image, self._size(call.given))))
        strength = call.given.get("strength", 0.75)
        return std.sample(call.model, call.positive, latent=start, strength=strength, **call.common)


def check_strength(strength: float | None) -> None:
    """Refuse a strength that is not between 0 and 1.

    Raises:
        ValueError: It is less than 0 or more than 1.
    """
    if strength is not None:
        check_range("strength", strength, "0 to 1: how much of the picture is replaced", 0, 1)
