"""FLUX.1 (dev, schnell) on diffusers' own pipelines.

Latents between nodes are [n, 16, h, w] as in other families; the pipelines work on them packed two by two, so sides are
multiples of 16. Pipelines with a ControlNet encode the control picture themselves and draw from its posterior first:
the denoiser's results depend on the VAE, and the start of image to image is drawn inside the pipeline.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import Components, Factors, SampleRequest
from graphengine_nodes.families.lora_places import (
    changes_flux,
    changes_unet,
    clip_places,
    flux_places,
    own_places,
)
from graphengine_nodes.families.pipelines import COMMON, Pipelines, is_kl
from graphengine_nodes.families.repainting import Layout
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.types import Conditioning, Image, Latent, Model, Posterior
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import LoraNames, Place

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

CHANNELS = 64
"""Channels of the transformer's input where it takes packed latents alone."""

SD3_SCALE = 1.5305
"""The `scaling_factor` of SD 3's VAE."""

LENGTH = 512
"""Tokens that T5 reads where nothing is known of the denoiser, as the pipeline has it."""


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    if component == "transformer":
        return flux_places(paths)
    return clip_places(paths) if component == "text_encoder" else own_places(paths)


class Flux(Pipelines):
    """The family; see `graphengine_nodes.families.Family`."""

    name = "flux"
    # Heun, the other scheduler of flow matching, takes no sigmas of the pipelines.
    schedulers = ("FlowMatchEulerDiscreteScheduler",)
    parts: Mapping[str, Sequence[str]] = {
        "text_encoder": ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
        "denoiser": ("transformer", "scheduler"),
        "vae": ("vae",),
    }
    needs: Mapping[str, Sequence[str]] = {"denoiser": ("vae",)}
    classes: Mapping[str, tuple[str, str]] = COMMON | {
        "tokenizer_2": ("transformers", "T5TokenizerFast"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "transformer": ("diffusers.models.transformers.transformer_flux", "FluxTransformer2DModel"),
        "controlnet": ("diffusers.models.controlnets.controlnet_flux", "FluxControlNetModel"),
    }
    lora_names = LoraNames(
        {"denoiser": "transformer"}
        | dict.fromkeys(("te", "te1", "clip_l", "text_encoder"), "text_encoder")
        | dict.fromkeys(("te2", "te3", "t5xxl", "text_encoder_2"), "text_encoder_2"),
        _lora_places,
        folds=True,
    )
    denoiser = "transformer"
    vae_scale: Mapping[str, float] = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    prefix = "Flux"
    modules: Mapping[tuple[str, bool], str] = {
        ("", False): "flux.pipeline_flux",
        ("Img2Img", False): "flux.pipeline_flux_img2img",
        ("Inpaint", False): "flux.pipeline_flux_inpaint",
        ("", True): "flux.pipeline_flux_controlnet",
        ("Img2Img", True): "flux.pipeline_flux_controlnet_image_to_image",
        ("Inpaint", True): "flux.pipeline_flux_controlnet_inpainting",
    }

    # The map that other tools have published for FLUX.1.
    preview: Factors = (
        (-0.0173, 0.0122, 0.03405),
        (0.0017, 0.0105, 0.03435),
        (0.01375, -0.0334, -0.02165),
        (-0.0087, 0.008, 0.03085),
        (0.04295, 0.03605, 0.01645),
        (0.0002, 0.01915, 0.00575),
        (0.02025, 0.04305, 0.04575),
        (-0.0118, -0.00925, -0.01295),
        (-0.01225, 0.0125, 0.059),
        (0.0504, 0.03775, -0.02105),
        (-0.02575, 0.01005, 0.00055),
        (0.0214, -0.0006, -0.0018),
        (0.04085, 0.03825, 0.03745),
        (-0.0632, -0.0261, -0.05515),
        (-0.014, -0.04405, -0.02495),
        (-0.0631, -0.0491, -0.0389),
        (0.4835, 0.4641, 0.4575),
    )

    def __init__(self) -> None:
        self._warned: set[str] = set()

    # --- what lies on disk --------------------------------------------------------------------------------------------

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        return str(index.get("_class_name", "")).startswith("Flux") and "text_encoder_2" in index

    def scheduler_config(self, held: Contents) -> dict[str, Any]:
        transformer = held.component("transformer")
        found: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
        if transformer is None or not transformer.config["guidance_embeds"]:
            return found | {"shift": 1.0, "use_dynamic_shifting": False}  # schnell
        shift = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
        return found | shift | {"shift": 3.0, "use_dynamic_shifting": True}

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "FluxControlNetModel"

    def modes_of(self, config: Mapping[str, Any]) -> int | None:
        modes = config.get("num_mode")
        return None if modes is None else int(modes)

    def owns_lora(self, header: Header) -> bool:
        return changes_flux(header) and not changes_unet(header)

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "FluxTransformer2DModel"

    def owns_vae(self, config: Mapping[str, Any]) -> bool:
        """See `Family`. SD 3's VAE has the same shape, and other latents."""
        return is_kl(config) and config.get("latent_channels") == 16 and config.get("scaling_factor") != SD3_SCALE

    def prompt_widths(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        if "transformer" in configs:
            found = configs["transformer"]
            return int(found.get("joint_attention_dim", 4096)), int(found.get("pooled_projection_dim", 768))
        return int(configs["text_encoder_2"].get("d_model", 512)), int(configs["text_encoder"].get("hidden_size", 512))

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        channels = config.get("in_channels", CHANNELS)
        if channels != CHANNELS:
            raise ModelError(
                f"the denoiser in {where} takes {channels} channels; only those with {CHANNELS} are known, none that "
                "take a picture or a mask beside the latents (Fill, Canny, Depth)"
            )
        distilled = config.get("guidance_embeds", False)  # dev; schnell is for few steps and short prompts
        return {
            "steps": 28 if distilled else 4,
            "guidance_scale": 3.5 if distilled else 0.0,
            "max_sequence_length": 512 if distilled else 256,
            "width": 128,
            "height": 128,
        }

    def vae_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        found = super().vae_settings({"latent_channels": 16, **config})
        return found | {"multiple": 2 * found["factor"]}

    # --- prompts ------------------------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        store: Components,
        model: Model,
        prompt: str | None,
        clip_skip: int,
        device: str,
        prompt_2: str | None = None,
        max_sequence_length: int | None = None,
    ) -> Conditioning:
        """See `Family`. An absent prompt is read as the empty one, and as a negative one it is no guidance at all."""
        import torch

        if clip_skip:
            raise ValueError(f"{model.source} is a FLUX model, which needs all layers; leave clip_skip out")
        with ExitStack() as stack:
            words, pieces = (stack.enter_context(store.component(model, f"tokenizer{n}", "cpu")) for n in ("", "_2"))
            clip, t5 = (stack.enter_context(store.component(model, f"text_encoder{n}", device)) for n in ("", "_2"))
            parts: Any = {"scheduler": None, "vae": None, "transformer": None, "text_encoder": clip}
            parts |= {"text_encoder_2": t5, "tokenizer": words.tokenizer, "tokenizer_2": pieces.tokenizer}
            for context in (words.lock, pieces.lock, torch.no_grad()):
                stack.enter_context(context)
            length = max_sequence_length or model.setting("max_sequence_length", LENGTH)
            pipeline = self.pipeline("", False)(**parts)
            embeds, pooled, _ = pipeline.encode_prompt(prompt or "", prompt_2, device, max_sequence_length=length)
        return Conditioning(embeds.cpu(), self.name, prompt is None, pooled.cpu())

    def prompts(self, request: SampleRequest, device: str, dtype: torch.dtype) -> dict[str, Any]:
        sides = {"": request.positive}
        if any(not one.absent for one in request.negative):
            if request.options.arguments.get("true_cfg_scale", 1.0) > 1:
                sides["negative_"] = request.negative
            else:
                self._warn_of_negative(request.model)
        call: dict[str, Any] = {}
        for side, texts in sides.items():
            pooled = [text.pooled for text in texts if text.pooled is not None]
            if len(pooled) < len(texts):
                raise ValueError("FLUX needs a pooled embedding with each prompt; this conditioning has none")
            for name, rows in (("prompt_embeds", [text.embeds for text in texts]), ("pooled_prompt_embeds", pooled)):
                call[f"{side}{name}"] = arguments.expand(rows, len(request.seeds)).to(device, dtype)
        return call

    def _warn_of_negative(self, model: Model) -> None:
        if model.source not in self._warned:
            self._warned.add(model.source)
            log.warning("%s takes no negative prompt without true_cfg_scale over 1: it is ignored", model.source)

    # --- pictures to latents and back ---------------------------------------------------------------------------------

    def encode_image(self, store: Components, model: Model, image: Image, device: str) -> Posterior:
        arguments.check_size(*image.size, model)
        with store.component(model, "vae", device) as vae:
            return arguments.encode_pictures(vae, image, self.name, device)

    def decode(self, store: Components, model: Model, latent: Latent, device: str) -> Image:
        with store.component(model, "vae", device) as vae:
            return arguments.decode_pictures(vae, latent, device)

    # --- sampling -----------------------------------------------------------------------------------------------------

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        # Unlike other families' pipelines, these round steps up: with strength 0.05, 10 steps leave one.
        arguments.check_strength(request, cls, lambda steps, strength: steps - int(steps - steps * strength))
        true_cfg = request.options.arguments.get("true_cfg_scale", 1.0) > 1
        if true_cfg and request.starts_from and request.control:
            raise ValueError("with a ControlNet and a picture to start from FLUX takes no true_cfg_scale; leave it out")

    def check_scheduler(self, model: Model, config: Mapping[str, Any]) -> None:
        if config.get("stochastic_sampling"):
            raise ValueError(f"{model.source}'s scheduler draws noise that no seed decides (stochastic_sampling)")

    def control_arguments(self, request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
        return _control_arguments(request, nets)

    def needs_vae(self, request: SampleRequest) -> bool:
        return bool(request.control) or request.mask is not None

    def start(
        self, cls: Any, request: SampleRequest, generators: Any, device: str, dtype: torch.dtype
    ) -> tuple[Any, dict[str, Any]]:
        import torch

        assert request.latent is not None
        width, height = request.size
        call = {"image": torch.zeros(1, 3, height, width), "width": width, "height": height}
        return _started(cls, request.latent, len(request.seeds), device, dtype), call

    def further(self, request: SampleRequest) -> Mapping[str, Any]:
        if not request.control:
            return request.options.arguments
        # `control_arguments` gives control_mode, with a mode for each ControlNet.
        return {name: value for name, value in request.options.arguments.items() if name != "control_mode"}

    def layouts(self, cls: Any, request: SampleRequest) -> tuple[Layout, Layout]:
        width, height = request.size

        def pack(latents: torch.Tensor) -> torch.Tensor:
            packed: torch.Tensor = cls._pack_latents(latents, *latents.shape)
            return packed

        def unpack(latents: torch.Tensor) -> torch.Tensor:
            factor = request.model.setting("factor")
            unpacked: torch.Tensor = cls._unpack_latents(latents, height, width, factor)
            return unpacked

        return pack, unpack


FAMILY = Flux()


def _started(cls: Any, latent: Posterior | Latent, count: int, device: str, dtype: torch.dtype) -> Any:
    """Make an image-to-image pipeline draw from an encoded picture, at the point where it would encode the picture.

    With a ControlNet, that point comes after the draw for the control picture.
    """

    class Started(cls):  # type: ignore[misc]
        def _encode_vae_image(self, image: torch.Tensor, generator: Any) -> torch.Tensor:
            return arguments.start_latents(latent, generator, count, device, dtype)

    return Started


def _normalised(picture: torch.Tensor) -> torch.Tensor:
    """Scale a control picture to -1..1, as the pipelines do: a picture with negative numbers is left as it is."""
    return picture if bool(picture.min() < 0) else 2.0 * picture - 1.0


def _control_arguments(request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
    """The arguments that hold control pictures and scales; the pipelines encode pictures in -1..1 as they are."""
    controls = request.control
    if any(control.guess for control in controls):
        raise ValueError("FLUX has no guess mode; leave guess out")
    values: dict[str, Any] = {
        "control_image": [_normalised(arguments.control_picture(control, request)) for control in controls],
        "controlnet_conditioning_scale": [float(control.scale) for control in controls],
        "control_guidance_start": [control.start for control in controls],
        "control_guidance_end": [control.end for control in controls],
        # Of several ControlNets the pipelines that start from a picture use only those with a mode, if it is None.
        "control_mode": _modes(request, nets),
    }
    found = {name: value[0] if len(controls) == 1 else value for name, value in values.items()}
    count = len(request.seeds)
    if request.starts_from and found["control_mode"] not in (None, [None] * len(nets)) and count > 1:
        if len(nets) > 1:
            raise ValueError("several union ControlNets make one picture at a time where they start from one")
        found["control_mode"] = [found["control_mode"]] * count
    return found


def _modes(request: SampleRequest, nets: Sequence[Any]) -> list[int | None]:
    """The `control_mode` of each union ControlNet, which says its kind of picture; None for other ControlNets.

    Raises:
        ValueError: A mode is missing, is given to another ControlNet, or is unknown to its union ControlNet.
    """
    given = request.options.arguments.get("control_mode")
    if given is None:
        given = [control.mode for control in request.control]
    modes = given if isinstance(given, list) else [given] * len(nets)
    if len(modes) != len(nets):
        raise ValueError(f"control_mode has {len(modes)} kinds for {len(nets)} ControlNets; give one for each")
    for mode, net, control in zip(modes, nets, request.control, strict=True):
        kinds, source = net.config.num_mode, control.controlnet.source
        if kinds is None and mode is not None:
            raise ValueError(f"{source} is no union ControlNet: leave its control_mode out, or give None in its place")
        if kinds is not None and (not isinstance(mode, int) or not 0 <= mode < kinds):
            raise ValueError(f"{source} is a union ControlNet: give apply_controlnet its mode, 0 to {kinds - 1}")
    return modes
