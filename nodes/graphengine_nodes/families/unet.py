"""The base class of families on a UNet: Stable Diffusion and Stable Diffusion XL."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.families import arguments, noise_schedulers, picture_prompts, vae_coding
from graphengine_nodes.families.family import Components, PictureScales, SampleRequest
from graphengine_nodes.families.lora_places import clip_places, unet_places
from graphengine_nodes.families.pipelines import COMMON, Pipelines, is_kl
from graphengine_nodes.values.references import Held
from graphengine_nodes.values.types import Image, Latent, Model, Posterior
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import Place

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

UNET = COMMON | {
    "unet": ("diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel"),
    "controlnet": ("diffusers.models.controlnets.controlnet", "ControlNetModel"),
}
SCALES = {"stable_diffusion": 0.18215, "stable_diffusion_xl": 0.13025}
"""The `scaling_factor` of the families' published VAEs, which have the same shape; with another, a VAE fits both."""

BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
"""The noise schedule of all published models with a UNet, and how their schedulers count."""


class UNetFamily(Pipelines):
    """A family whose denoiser is a UNet; see `graphengine_nodes.families.Family`."""

    schedulers = (*noise_schedulers.KARRAS, *noise_schedulers.DISTILLED)
    denoiser = "unet"
    reads_marks = True
    picture_scales: PictureScales = "blocks"
    guidance_scale: float
    with_vae: Sequence[str] = ("Inpaint",)
    """The starts with which its pipelines need the VAE."""

    def __init__(self) -> None:
        # The encoded absent prompt, kept as long as its text encoder: each prompt needs it.
        self._absent: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

    def absent(self, tokenizer: Any, encoder: Any, encode: Callable[[], Any]) -> Any:
        """The absent prompt as a text encoder encodes it, encoded once for each tokenizer and encoder."""
        known = self._absent.setdefault(encoder, {})
        signs = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length)
        if signs not in known:
            known[signs] = encode()
        return known[signs]

    def forget_changed(self, model: Model, name: str, encoder: Any) -> None:
        """Forget the absent prompt of an encoder that a caller handed in and may have changed since."""
        if isinstance(model.component(name), Held):
            self._absent.pop(encoder, None)

    # --- what lies on disk --------------------------------------------------------------------------------------------

    def owns_vae(self, config: Mapping[str, Any]) -> bool:
        scale = config.get("scaling_factor", SCALES["stable_diffusion"])
        known = next((name for name, one in SCALES.items() if one == scale), self.name)
        return is_kl(config) and config.get("latent_channels", 4) == 4 and known in (self.name, self.latents)

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        channels = config.get("in_channels", 4)
        if channels not in (4, 9):
            raise ModelError(
                f"the denoiser in {where} takes {channels} channels; only those with 4 (text to image) or 9 "
                "(inpainting) are known, none that follow a picture, a depth map or a smaller picture"
            )
        size = config.get("sample_size") or 64  # or height and width
        height, width = (int(side) for side in (size if isinstance(size, list) else [size, size]))
        return {
            "steps": 50,
            "guidance_scale": self.guidance_scale,
            "width": width,
            "height": height,
            "unet_channels": channels,
        }

    # --- pictures to latents and back ---------------------------------------------------------------------------------

    def encode_image(self, store: Components, model: Model, image: Image, device: str) -> Posterior:
        arguments.check_size(*image.size, model)
        with store.component(model, "vae", device) as vae:
            return vae_coding.encode_pictures(self.encoder(vae), image, self.name, device, vae.dtype)

    def decode(self, store: Components, model: Model, latent: Latent, device: str) -> Image:
        with store.component(model, "vae", device) as vae:
            return vae_coding.decode_pictures(self.decoder(vae), latent, device)

    def encoder(self, vae: Any) -> Any:
        """The VAE as it encodes."""
        return vae

    def decoder(self, vae: Any) -> Any:
        """The VAE as it decodes."""
        return vae

    # --- sampling -----------------------------------------------------------------------------------------------------

    def prompts(self, request: SampleRequest, device: str, dtype: torch.dtype) -> dict[str, Any]:
        count = len(request.seeds)
        call = {"prompt_embeds": arguments.expand([c.embeds for c in request.positive], count).to(device, dtype)}
        if request.options.guidance_scale > 1:
            negative = arguments.expand([c.embeds for c in arguments.negatives(request)], count)
            call["negative_prompt_embeds"] = negative.to(device, dtype)
        return call

    def image_prompts(self, request: SampleRequest, denoiser: Any, device: str) -> dict[str, Any]:
        """See `Pipelines`."""
        return picture_prompts.unet_arguments(request, denoiser, device)

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        """See `Pipelines`."""
        super().check_request(request, cls)
        model = request.model
        if model.setting("unet_channels") == 9 and request.mask is None and request.loop is None:
            raise ModelError(f"{model.source} is an inpainting checkpoint; use the node inpaint, not sample")
        arguments.check_strength(request, cls, lambda steps, strength: int(steps * strength))

    def needs_vae(self, request: SampleRequest) -> bool:
        return request.loop is None and request.starts_from in self.with_vae


def refuse_length(model: Model, max_sequence_length: int | None) -> None:
    """Refuse `max_sequence_length`, since the prompts have a fixed length.

    Raises:
        ValueError: It is given.
    """
    if max_sequence_length is not None:
        raise ValueError(f"{model.source} reads prompts of a fixed length; leave max_sequence_length out")


def cut_off(tokenizer: Any, prompt: str) -> None:
    """Warn of the text that does not fit the text encoder and is cut off."""
    limit = tokenizer.model_max_length
    whole = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
    if len(whole) > limit:
        lost = tokenizer.decode(whole[limit - 1 : min(len(whole) - 1, 2 * limit)])
        more = " ..." if len(whole) - 1 > 2 * limit else ""
        said = "the prompt is longer than the %d tokens that the text encoder reads; cut off: %s%s"
        log.warning(said, limit, lost, more)


def own_copy(vae: Any) -> Any:
    """Copy a VAE so that it can be cast: the shared one must not be."""
    return copy.deepcopy(vae)


def second_encoder(header: Header) -> bool:
    """Whether a LoRA with these tensors changes a second text encoder."""
    return any(name.startswith(("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.")) for name in header)


def context_width(header: Header) -> int | None:
    """The width of the prompts that a LoRA's denoiser attends to; None where it does not say."""
    ends = ("lora_A.weight", "down.weight", "hada_w1_b", "to_k.diff")
    keys = (entry for name, entry in header.items() if "attn2" in name and "to_k" in name and name.endswith(ends))
    return next((int(entry["shape"][1]) for entry in keys if len(entry["shape"]) > 1), None)


def unet_loras(component: str, paths: Sequence[str]) -> dict[str, Place]:
    """Where LoRAs' changes of a component belong, see `LoraNames`."""
    return unet_places(paths) if component == "unet" else clip_places(paths)
