"""Pipe classes with ControlNets: pictures that follow a control picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import graphengine_nodes as std
from graphengine_nodes.nodes.preprocessors import BY_TYPE
from graphengine_nodes.values.types import Control, ControlNet, Image, Latent, Mask

from graphengine import Graph
from multigen.pipes import nets
from multigen.pipes.building import PipeCall, listed, plain_errors
from multigen.pipes.image import ImagePipe, check_strength
from multigen.pipes.kinds import Diffusers, ModelType
from multigen.pipes.pictures import as_mask

__all__ = ["CIm2ImPipe", "CInpaintingPipe", "Cond2ImPipe"]

STEERING = {"controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0, "control_guidance_end": 1.0}
"""Parameters of ControlNets by diffusers' names, with their defaults."""


class Cond2ImPipe(ImagePipe):
    """A picture from a prompt and a control picture (edges, depth, a pose, ...) that is given as it is.

    Args:
        ctypes: A kind of control or several: each stands for a ControlNet and the way its picture is made.
        cnets: Loaded ControlNets in the place of those of `ctypes`.
        cnet_ids: Folders or hub ids of ControlNets in the place of those of `ctypes`.

    Attributes:
        cpath, cpathxl, cpathflux: The folders of ControlNets for each type of model.
        cmodels, cmodelsxl: By kind of control, the names of the folders in `cpath` and `cpathxl`.
        cond_scales_defaults, cond_scales_defaults_xl, cond_scales_defaults_flux: By kind, how strongly it steers.
    """

    _class: ClassVar[Any] = Diffusers("StableDiffusionControlNetPipeline")
    _classxl: ClassVar[Any] = Diffusers("StableDiffusionXLControlNetPipeline")
    _classflux: ClassVar[Any] = Diffusers("FluxControlNetImg2ImgPipeline")
    _strength: ClassVar[float] = 1.0
    """The strength for FLUX, whose pictures always start from the input picture."""
    _unnamed = frozenset({"strength", "control_image"})

    cpath, cpathxl, cpathflux = "./models-cn/", "./models-cn-xl/", "./models-cn-flux/"
    cmodels: ClassVar[dict[str, str]] = nets.FOLDERS
    cmodelsxl: ClassVar[dict[str, str]] = nets.FOLDERS_XL
    cond_scales_defaults: ClassVar[dict[str, float]] = nets.SCALES
    cond_scales_defaults_xl: ClassVar[dict[str, float]] = nets.SCALES_XL
    cond_scales_defaults_flux: ClassVar[dict[str, float]] = nets.SCALES_FLUX

    def __init__(
        self,
        model_id: str | Path,
        *args: Any,
        ctypes: str | Sequence[str] = ("soft",),
        cnets: Any = None,
        cnet_ids: Any = None,
        **named: Any,
    ) -> None:
        super().__init__(model_id, *args, **named)
        self.ctypes: list[str] = listed(ctypes)
        self._cnets, self._cnet_ids = listed(cnets), listed(cnet_ids)
        self._nets: list[nets.Net] = []

    def setup(  # type: ignore[override]
        self,
        fimage: Any = None,
        width: int | None = None,
        height: int | None = None,
        image: Any = None,
        cscales: float | Sequence[float] | None = None,
        guess_mode: bool = False,
        strength: float | None = None,
        ctypes: str | Sequence[str] | None = None,
        scale: Any = None,
        **args: Any,
    ) -> None:
        """Set the parameters, and find the ControlNets.

        Args:
            fimage, image: The control picture: its path, or the picture itself.
            width, height: Size of the result, in pixels; by default the picture's.
            cscales: How strongly the control steers; one number, or one for each kind of control.
            guess_mode: Follow the picture more than the prompt.
            strength: Start from the picture, and replace this much of it; by default start from noise, except in FLUX.
            ctypes: As in the constructor.
            scale: Factor for the picture's sides, or `[width, height]` in pixels.
            args: Those of `BasePipe.setup`.

        Raises:
            ModelError: There is no such ControlNet.
            ValueError: It is no picture, or a parameter is out of its limits.
        """
        height = args.pop("heigth", height)  # as it is documented
        check_strength(strength)
        self.ctypes = self.ctypes if ctypes is None else listed(ctypes)
        self._find_nets()
        picture = self._take(fimage, image, scale, width, height)
        super().setup(**args)
        self.pipe_params["controlnet_conditioning_scale"] = nets.scales(self, cscales, len(self._nets))
        if guess_mode or self.model_type is not ModelType.FLUX:
            self.pipe_params["guess_mode"] = guess_mode
        if strength is None and self.model_type is ModelType.FLUX:
            strength = self._strength
        if strength is not None:
            self.pipe_params["strength"] = float(strength)
        self._pictures = {"image": picture}
        width, height = self._size(self._pictures)
        self.pipe_params |= {"width": width, "height": height}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "control_type": list(self.ctypes)}

    def _find_nets(self) -> None:
        self._nets = nets.find(self, self._cnets or self._weights.own_nets, self._cnet_ids)
        self._weights.controlnets = [net.reference for net in self._nets]

    def _before_pipeline(self) -> None:
        if not self._nets:
            self._find_nets()

    def _latent(self, call: PipeCall) -> Latent:
        image = call.given["image"]
        size = self._size(call.given)
        sized = self._sized(image, size)
        common = {"control": self._controls(call, sized, size), **call.common}
        if (strength := call.given.get("strength")) is not None:
            start = std.encode_image(call.model, self._padded(sized))
            return std.sample(call.model, call.positive, latent=start, strength=strength, **common)
        width, height = (side + -side % self.pad for side in size)
        return std.sample(call.model, call.positive, width=width, height=height, **common)

    def _controls(self, call: PipeCall, image: Image, size: tuple[int, int]) -> list[Control]:
        """Make the nodes that pair the ControlNets with their pictures."""
        given, nets_ = call.given, self._net_nodes()
        pictures = [self._sized(one, size) for one in given.get("control_image") or ()]
        pictures = pictures or [self._control_image(given, kind, image) for kind in self._kinds]
        pictures = pictures * len(nets_) if len(pictures) == 1 else pictures
        steering = [_each(given.get(name, default), len(nets_), name) for name, default in STEERING.items()]
        guess = bool(given.get("guess_mode"))
        return [
            std.apply_controlnet(net, self._padded(picture), scale, start, end, guess)
            for net, picture, (scale, start, end) in zip(nets_, pictures, zip(*steering, strict=True), strict=True)
        ]

    def _net_nodes(self) -> list[ControlNet]:
        """The nodes that refer to the ControlNets, or to those that a script put in their place."""
        changed = self._weights.changed_nets
        return [std.loaded_controlnet(net) for net in changed] or [net.node() for net in self._nets]

    @property
    def _kinds(self) -> list[str]:
        """The kind of control of each ControlNet."""
        return self.ctypes * len(self._nets) if len(self.ctypes) == 1 else self.ctypes

    def _control_image(self, given: Mapping[str, Any], kind: str, image: Image) -> Image:
        """The node that makes a kind's control picture from the picture, at the size of the result."""
        return image


class CIm2ImPipe(Cond2ImPipe):
    """A picture from a prompt and another picture, from which the control picture is made."""

    _strength = 0.75

    def setup(self, *args: Any, **named: Any) -> None:
        """Set the parameters, as `Cond2ImPipe.setup`, and make the control picture now; `gen` uses the remembered one.

        Raises:
            ModelError: There is no such ControlNet, or a network that makes the control picture is missing.
        """
        super().setup(*args, **named)
        with Graph() as graph:
            sized = self._sized(self._pictures["image"], self._size(self._pictures))
            for index, kind in enumerate(kind for kind in self._kinds if kind in BY_TYPE):
                control = self._control_image(self._pictures, kind, sized)
                graph.output(f"control_{index}", control)
        with plain_errors():
            graph.run(device=self._weights.device, listeners=self.listeners, progress=self.progress)

    def _control_image(self, given: Mapping[str, Any], kind: str, image: Image) -> Image:
        if kind not in BY_TYPE:
            return image
        folder = Path("./models-other/dpt-large")
        source = {"source": folder} if kind == "depth" and folder.is_dir() else {}
        return BY_TYPE[kind](image, **source)


class CInpaintingPipe(Cond2ImPipe):
    """A picture repainted inside a mask, with an inpainting ControlNet."""

    _class: ClassVar[Any] = Diffusers("StableDiffusionControlNetInpaintPipeline")
    _classxl: ClassVar[Any] = Diffusers("StableDiffusionXLControlNetInpaintPipeline")
    _classflux: ClassVar[Any] = Diffusers("FluxControlNetInpaintPipeline")
    _spacing: ClassVar[str | None] = None

    def __init__(self, model_id: str | Path, *args: Any, **named: Any) -> None:
        super().__init__(model_id, *args, **{"ctypes": ["inpaint"], **named})

    def setup(  # type: ignore[override]
        self, fimage: Any = None, mask_image: Any = None, image: Any = None, steps: int = 20, **args: Any
    ) -> None:
        """Set the parameters: picture and mask (white is painted), and those of `Cond2ImPipe.setup`.

        Raises:
            ValueError: There is no mask, or one of another size.
        """
        if mask_image is None:
            raise ValueError("setup needs a mask: mask_image, white where to paint")
        mask, is_flux = as_mask(mask_image), self.model_type is ModelType.FLUX
        scheduler = {} if is_flux or self._scheduler else {"scheduler": "DDIMScheduler"}
        super().setup(fimage=fimage, image=image, steps=steps, **{**scheduler, **args})
        size = self._pictures["image"].size
        if mask.size != size:
            raise ValueError(f"the mask is {mask.size[0]} x {mask.size[1]}, the picture {size[0]} x {size[1]}")
        self.pipe_params |= {} if is_flux else {"eta": 0.1}
        self._pictures["mask_image"] = mask

    def _latent(self, call: PipeCall) -> Latent:
        size = self._size(call.given)
        sized = self._sized(call.given["image"], size)
        strength = {} if call.given.get("strength") is None else {"strength": call.given["strength"]}
        return std.inpaint(
            call.model, call.positive, self._padded(sized), self._mask(call.given),
            control=self._controls(call, sized, size), **strength, **call.common,
        )  # fmt: skip

    def _control_image(self, given: Mapping[str, Any], kind: str, image: Image) -> Image:
        return std.inpaint_control(self._padded(image), self._mask(given))

    def _mask(self, given: Mapping[str, Any]) -> Mask:
        """The node of the mask, as large as the padded picture."""
        mask, size = given["mask_image"], self._size(given)
        return std.pad_mask(mask if mask.size == size else std.resize_mask(mask, *size), self.pad)


def _each(value: Any, count: int, name: str) -> list[float]:
    """Repeat one number, or check that there is one for each ControlNet.

    Raises:
        ValueError: There is neither one nor one for each.
    """
    found = [float(one) for one in listed(value)]
    found = found * count if len(found) == 1 else found
    if len(found) != count:
        raise ValueError(f"{len(found)} of {name} for {count} ControlNets; give one, or one for each")
    return found
