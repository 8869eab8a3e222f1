"""Pipe classes for masked image to image: pictures repainted inside a mask, by any model."""

from __future__ import annotations

from typing import Any, Literal, get_args

import graphengine_nodes as std
from graphengine_nodes.values.types import Image, Latent, Mask

from multigen.pipes.building import PipeCall
from multigen.pipes.image import Im2ImPipe
from multigen.pipes.pictures import as_image, as_mask

__all__ = ["InpaintingPipe", "MaskedIm2ImPipe"]

SampleMode = Literal["sample", "argmax", "random"]


class MaskedIm2ImPipe(Im2ImPipe):
    """A picture of which a part is painted anew, with models that were not trained with masks.

    The part is given by a mask, or by the places where a painted picture differs from the original; sampling starts
    from the colours of the painted picture.
    """

    def setup(  # type: ignore[override]
        self,
        image: Any = None,
        image_painted: Any = None,
        mask: Any = None,
        blur: float = 4,
        blur_compose: float = 4,
        sample_mode: SampleMode = "sample",
        scale: Any = None,
        original_image: Any = None,
        **args: Any,
    ) -> None:
        """Set the parameters.

        Args:
            image, original_image: The original: its path, or the picture itself.
            image_painted: The original painted over.
            mask: White where to paint; in the place of `image_painted`, or with it.
            blur: Radius of the mask's soft edge while it is painted, in pixels.
            blur_compose: Radius of the edge where original and result are put together.
            sample_mode: How sampling starts: `sample`, `argmax` or `random`, see the node `repaint`.
            scale: Factor for the sides, or `[width, height]` in pixels.
            args: Those of `Im2ImPipe.setup`.

        Raises:
            ValueError: There is neither mask nor painted picture, or one has another size than the original.
        """
        if mask is None and image_painted is None:
            raise ValueError("setup needs a mask, or the picture with the mask painted over it as image_painted")
        if sample_mode not in get_args(SampleMode):
            raise ValueError(f"sample_mode is {sample_mode!r}, but must be one of {', '.join(get_args(SampleMode))}")
        super().setup(image=original_image if image is None else image, scale=scale, **args)
        original: Image = self._pictures["image"]
        painted = original if image_painted is None else as_image(image_painted)
        given: Mask | None = None if mask is None else as_mask(mask)
        for what, size in (("painted picture", painted.size), ("mask", original.size if given is None else given.size)):
            if size != original.size:
                raise ValueError("the {} is {} x {}, the picture {} x {}".format(what, *size, *original.size))
        self._pictures |= {"image_painted": painted, "mask_image": given}
        self._blur, self._blur_compose, self._sample_mode = blur, blur_compose, sample_mode

    def _latent(self, call: PipeCall) -> Latent:
        image, painted = call.given["image"], call.given["image_painted"]
        size, mask = self._size(call.given), self._mask(call)
        start, kept = (std.encode_image(call.model, self._padded(self._sized(one, size))) for one in (painted, image))
        return std.repaint(
            call.model, call.positive, kept, start, std.pad_mask(std.blur_mask(mask, self._blur), self.pad),
            strength=call.given["strength"], sample_mode=self._sample_mode, **call.common,
        )  # fmt: skip

    def _image(self, call: PipeCall, image: Image) -> Image:
        below = self._sized(call.given["image"], self._size(call.given))
        return std.composite(below, super()._image(call, image), self._mask(call), self._blur_compose)

    def _mask(self, call: PipeCall) -> Mask:
        """The node of the mask, at the size of the result."""
        image, mask = call.given["image"], call.given.get("mask_image")
        if mask is None:
            mask = std.mask_from_difference(image, call.given["image_painted"])
        size = self._size(call.given)
        return mask if image.size == size else std.resize_mask(mask, *size)


class InpaintingPipe(MaskedIm2ImPipe):
    """`MaskedIm2ImPipe` under another name."""
