"""The refiner of Stable Diffusion XL: the second text encoder alone, and only latents that are begun already.

Its latents are those of the base model: `sample(base, ..., end=0.8)`, then `sample(refiner, latent=..., start=0.8)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine import ModelError
from graphengine_nodes.families.family import PictureScales, SampleRequest
from graphengine_nodes.families.stable_diffusion_xl import StableDiffusionXL, is_refiner
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.weights.headers import Header


class StableDiffusionXLRefiner(StableDiffusionXL):
    """The family; see `graphengine_nodes.families.Family`."""

    name = "stable_diffusion_xl_refiner"
    latents = "stable_diffusion_xl"
    picture_scales: PictureScales = ""
    encoders = ("_2",)
    with_vae = ("", "Img2Img", "Inpaint")
    parts: Mapping[str, Sequence[str]] = {
        "text_encoder": ("tokenizer_2", "text_encoder_2"),
        "denoiser": ("unet", "scheduler"),
        "vae": ("vae",),
    }
    classes: Mapping[str, tuple[str, str]] = {
        name: found for name, found in StableDiffusionXL.classes.items() if name not in ("tokenizer", "text_encoder")
    }

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        return is_refiner(index)

    def configurations(self, held: Contents) -> dict[str, dict[str, Any]]:
        found = super().configurations(held)
        own = {"text_encoder": [None, None], "tokenizer": [None, None]}
        facts = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
        return found | {"model_index.json": {**own, **facts, **found["model_index.json"]}}

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        return False

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        return False

    def owns_lora(self, header: Header) -> bool:
        return False

    def pipeline(self, start: str, control: bool) -> Any:
        """See `Pipelines`. Its only pipeline without a mask is the one that starts from latents."""
        return super().pipeline(start or "Img2Img", control)

    def going_on(self, request: SampleRequest) -> dict[str, Any]:
        import torch

        width, height = (side // int(request.model.setting("factor")) for side in request.size)
        # Its place is taken by the latents that are begun; `strength` leaves no step out.
        return {"image": torch.zeros(1, 4, height, width), "strength": 1.0}

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        if request.latent is None and request.mask is None and request.loop is None:
            raise ModelError(
                f"{request.model.source} is SDXL's refiner, which cannot begin: give it a latent, with start where a "
                "base model stopped, or with strength"
            )
        super().check_request(request, cls)


FAMILY = StableDiffusionXLRefiner()
