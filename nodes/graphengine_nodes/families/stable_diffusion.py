"""Stable Diffusion 1.x and 2.x on diffusers' own pipelines.

What differs from calling a pipeline in one go, and why the result does not: the prompt is encoded beforehand (by the
same calls, with clip skip done here because the pipelines' own fails with current transformers), a picture is encoded
to its posterior beforehand (drawing from it stays the sampler's first draw), and decoding follows by itself. A
pipeline and a scheduler are made for each run over shared modules; they are small and hold the run's state.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import ModelError
from graphengine_nodes import checkpoints, schedulers
from graphengine_nodes.checkpoints import Header, Location
from graphengine_nodes.families import Request, Sampled, Step
from graphengine_nodes.types import Conditioning, Control, Image, Latent, Model, Posterior

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass
class Tokenizer:
    """A tokenizer with the lock that every use of it needs: its padding and truncation are state inside it."""

    tokenizer: Any
    lock: threading.Lock = field(default_factory=threading.Lock)


class StableDiffusion:
    """The family; see `graphengine_nodes.families.Family`."""

    name = "stable_diffusion"
    schedulers = schedulers.KARRAS
    parts: Mapping[str, Sequence[str]] = {
        "text_encoder": ("tokenizer", "text_encoder"),
        "denoiser": ("unet", "scheduler"),
        "vae": ("vae",),
    }
    stems: Mapping[str, str | None] = {
        "tokenizer": None,
        "scheduler": None,
        "text_encoder": "model",
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "controlnet": "diffusion_pytorch_model",
    }

    def __init__(self) -> None:
        # What a text encoder gives for the absent prompt, kept as long as the encoder: it is wanted with each prompt.
        self._absent: weakref.WeakKeyDictionary[Any, torch.Tensor] = weakref.WeakKeyDictionary()

    # --- what lies on disk --------------------------------------------------------------------------------------------

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        return str(index.get("_class_name", "")).startswith("StableDiffusion") and "text_encoder_2" not in index

    def owns_file(self, header: Header) -> bool:
        return "model.diffusion_model.input_blocks.0.0.weight" in header and not any(
            name.startswith("conditioner.embedders.") for name in header
        )

    def settings(self, folder: Path) -> dict[str, Any]:
        unet = checkpoints.read_json(folder / "unet" / "config.json")
        vae = checkpoints.read_json(folder / "vae" / "config.json")
        channels = unet.get("in_channels", 4)
        if channels not in (4, 9):
            raise ModelError(
                f"the denoiser in {folder} takes {channels} channels; only those with 4 (text to image) or 9 "
                "(inpainting) are known, none that follow a picture, a depth map or a smaller picture"
            )
        factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
        side = int(unet.get("sample_size") or 64) * factor
        return {
            "steps": 50,
            "guidance_scale": 7.5,
            "width": side,
            "height": side,
            "factor": factor,
            "latent_channels": vae.get("latent_channels", 4),
            "unet_channels": channels,
        }

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "ControlNetModel" and config.get("addition_embed_type") is None

    # --- loading ------------------------------------------------------------------------------------------------------

    def load(self, component: str, location: Location, dtype: torch.dtype | None) -> Any:
        if component == "scheduler":
            return checkpoints.read_json(location.folder / "scheduler_config.json")
        if component == "tokenizer":
            from transformers import CLIPTokenizer

            return Tokenizer(CLIPTokenizer.from_pretrained(location.folder, local_files_only=True))
        from graphengine_nodes import loading

        return loading.load_module(component, location, self.stems[component], dtype)

    def add_loras(self, component: str, module: Any, loras: Sequence[tuple[str, Path, float]]) -> None:
        from graphengine_nodes import loading

        loading.add_loras(component, module, loras)

    # --- prompts ------------------------------------------------------------------------------------------------------

    def encode_prompt(self, model: Model, prompt: str | None, clip_skip: int, device: str) -> Conditioning:
        import torch

        from graphengine_nodes.weights import store

        with (
            store.component(model, "tokenizer", "cpu") as tokenizer,
            store.component(model, "text_encoder", device) as encoder,
            tokenizer.lock,
            torch.no_grad(),
        ):
            absent = self._absent.get(encoder)
            if absent is None:
                # The pipelines encode an absent negative prompt as the empty one, and never skip its layers.
                absent = self._absent[encoder] = _encode(tokenizer.tokenizer, encoder, "", 0, device).cpu()
            embeds = absent
            if prompt is not None:
                embeds = _encode(tokenizer.tokenizer, encoder, prompt, clip_skip, device).cpu()
        return Conditioning(embeds, self.name, prompt is None, fallback={"embeds": absent})

    # --- pictures to latents and back ---------------------------------------------------------------------------------

    def encode_image(self, model: Model, image: Image, device: str) -> Posterior:
        import torch

        from graphengine_nodes.weights import store

        _check_size(*image.size, model)
        with store.component(model, "vae", device) as vae, torch.no_grad():
            pixels = (2.0 * _channels_first(image) - 1.0).to(device, vae.dtype)
            # One at a time, as the pipelines do: several at once differ in the last bits.
            encoded = [vae.encode(picture).latent_dist for picture in torch.split(pixels, 1)]
            scaling = {"scaling_factor": vae.config.scaling_factor}
        mean = torch.cat([distribution.mean for distribution in encoded]).cpu()
        logvar = torch.cat([distribution.logvar for distribution in encoded]).cpu()
        return Posterior(mean, logvar, self.name, scaling)

    def decode(self, model: Model, latent: Latent, device: str) -> Image:
        import torch

        from graphengine_nodes.weights import store

        if latent.empty:
            raise ValueError("this latent is empty, there is nothing to decode; link it to sample first")
        with store.component(model, "vae", device) as vae, torch.no_grad():
            samples = latent.samples.to(device, vae.dtype)
            if latent.scale == "denoiser":
                samples = samples / vae.config.scaling_factor
            decoded = vae.decode(samples, return_dict=False)[0]
            pixels = (decoded * 0.5 + 0.5).clamp(0, 1)
        return Image(pixels.cpu().permute(0, 2, 3, 1).float().contiguous())

    # --- sampling -----------------------------------------------------------------------------------------------------

    def sample(self, request: Request, device: str, step: Step) -> Sampled:
        import torch

        from graphengine_nodes.weights import store

        model, count = request.model, len(request.seeds)
        _check_request(request)
        generators = request.generators()
        with ExitStack() as stack:
            unet = stack.enter_context(store.component(model, "unet", device))
            config = stack.enter_context(store.component(model, "scheduler", "cpu"))
            own = schedulers.own(config, request.scheduler, request.seeds, self.schedulers, self.name)
            positive = _expand([c.embeds for c in request.positive], count).to(device, unet.dtype)
            call: dict[str, Any] = {
                "prompt_embeds": positive,
                "num_inference_steps": request.steps,
                "guidance_scale": request.guidance_scale,
                "generator": generators,
                "output_type": "latent",
            }
            if request.guidance_scale > 1:
                negative = [request.negative or c.negative for c in request.positive]
                call["negative_prompt_embeds"] = _expand([c.embeds for c in negative], count).to(device, unet.dtype)
            if request.guidance_rescale is not None:
                call["guidance_rescale"] = request.guidance_rescale
            components: dict[str, Any] = {"unet": unet, "vae": None}
            if request.control:
                nets = [stack.enter_context(store.controlnet(c.controlnet, device)) for c in request.control]
                components["controlnet"] = nets[0] if len(nets) == 1 else nets
                call |= _control_arguments(request)
            if request.image is not None and request.mask is not None:
                kind = "Inpaint"
                components["vae"] = stack.enter_context(store.component(model, "vae", device))
                call |= _inpaint_arguments(request, count)
            elif request.latent is not None:
                kind = "Img2Img"
                call["image"] = _start(request.latent, generators, count, device, unet.dtype)
                call["strength"] = 0.8 if request.strength is None else request.strength
            else:
                kind = ""
                call["width"], call["height"] = request.width, request.height
            pipeline = _pipeline_class(kind, bool(request.control))(
                **components,
                text_encoder=None,
                tokenizer=None,
                scheduler=own,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            # Constructors correct outdated configurations of the model's scheduler, and only of that one.
            scheduler = schedulers.make(own, request.scheduler, request.timestep_spacing, request.seeds)
            pipeline.scheduler = scheduler
            pipeline.vae_scale_factor = model.setting("factor")
            pipeline.set_progress_bar_config(disable=True)

            def report(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                step(index + 1, pipe.num_timesteps, tensors["latents"])
                return {}

            samples = pipeline(**call, callback_on_step_end=report).images
        if not bool(torch.isfinite(samples).all()):
            name = type(scheduler).__name__
            raise ValueError(f"{name} gave numbers that are not finite; take another scheduler or more steps")
        return Sampled(samples.cpu(), request.ended(generators))


FAMILY = StableDiffusion()


def _encode(tokenizer: Any, encoder: Any, prompt: str, clip_skip: int, device: str) -> torch.Tensor:
    """One prompt as the pipelines encode it: [1, tokens, width]."""
    limit = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    whole = tokenizer(prompt, truncation=False)["input_ids"]
    if len(whole) > limit:
        lost = tokenizer.decode(whole[limit - 1 : -1])
        log.warning("the prompt is longer than the %d tokens that the text encoder reads; cut off: %s", limit, lost)
    masked = getattr(encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask.to(device) if masked else None
    ids = tokens.input_ids.to(device)
    if not clip_skip:
        found = encoder(ids, attention_mask=mask)[0]
    else:
        layers = encoder.config.num_hidden_layers
        if clip_skip >= layers:
            raise ValueError(f"clip_skip {clip_skip} leaves none of the text encoder's {layers} layers; give less")
        hidden = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        found = norm(hidden[-(clip_skip + 1)])
    assert not found.requires_grad
    result: torch.Tensor = found
    return result


def _expand(rows: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """Embeddings [1, tokens, width] for each picture, or one for all of them, as [count, tokens, width]."""
    import torch

    return torch.cat(list(rows) * (count // len(rows)))


def _check_size(width: int, height: int, model: Model) -> None:
    factor = model.setting("factor", 8)
    if width % factor or height % factor:
        raise ValueError(
            f"a picture of {width} x {height} cannot be encoded: its sides must be multiples of {factor}; "
            "use resize_image, crop_image or pad_image"
        )


def _check_request(request: Request) -> None:
    """Refuse what the pipelines would swallow or fail at with less clear words."""
    model = request.model
    inpainting = request.mask is not None
    if model.setting("unet_channels") == 9 and not inpainting:
        raise ModelError(f"{model.source} is an inpainting checkpoint; use the node inpaint, not sample")
    if request.guidance_rescale is not None and (inpainting or request.latent is not None or request.control):
        raise ValueError("guidance_rescale works only from text to image without control; leave it out")
    started = inpainting or request.latent is not None
    if started and request.strength is not None and int(request.steps * request.strength) < 1:
        raise ValueError(
            f"strength {request.strength:g} of {request.steps} steps leaves no step to do; raise strength or steps"
        )


def _start(
    latent: Posterior | Latent, generators: Sequence[Any], count: int, device: str, dtype: torch.dtype
) -> torch.Tensor:
    """What image-to-image begins with, in the denoiser's scale: drawn from a posterior, or a latent as it is."""
    import torch

    if isinstance(latent, Latent):
        return _repeat(latent.samples, count).to(device, dtype)
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    moments = _repeat(torch.cat([latent.mean, latent.logvar], dim=1).to(device), count)
    drawn = [
        DiagonalGaussianDistribution(one).sample(generator)
        for one, generator in zip(torch.split(moments, 1), generators, strict=True)
    ]
    samples: torch.Tensor = latent.scaling["scaling_factor"] * torch.cat(drawn)
    return samples.to(dtype)


def _repeat(batch: torch.Tensor, count: int) -> torch.Tensor:
    """A batch over and over; `cat` keeps the order in memory, in which a convolution's last bits depend on it."""
    import torch

    return torch.cat([batch] * (count // batch.shape[0]))


def _channels_first(image: Image) -> torch.Tensor:
    """[B, 3, H, W], in memory as [B, H, W, 3]: what the pipelines make of a PIL picture, to the last bit."""
    return image.pixels.contiguous().permute(0, 3, 1, 2)


def _inpaint_arguments(request: Request, count: int) -> dict[str, Any]:
    image, mask = request.image, request.mask
    assert image is not None
    assert mask is not None
    _check_size(*image.size, request.model)
    if image.size != mask.size:
        raise ValueError(f"the mask is {_by(mask.size)}, the picture {_by(image.size)}; bring them to one size")
    width, height = image.size
    return {
        "image": _repeat(_channels_first(image), count),
        "mask_image": mask.values[:, None],
        "width": width,
        "height": height,
        "strength": 1.0 if request.strength is None else request.strength,
    }


def _control_arguments(request: Request) -> dict[str, Any]:
    """How the ControlNet pipelines take their pictures: by another name where they also start from a picture."""
    controls = request.control
    plain = request.latent is None and request.image is None
    pictures = [_control_picture(control, request) for control in controls]
    values: dict[str, Any] = {
        "image" if plain else "control_image": pictures,
        "controlnet_conditioning_scale": [float(control.scale) for control in controls],
        "control_guidance_start": [control.start for control in controls],
        "control_guidance_end": [control.end for control in controls],
    }
    return {name: value[0] if len(controls) == 1 else value for name, value in values.items()}


def _control_picture(control: Control, request: Request) -> torch.Tensor:
    """A control picture for each picture that is made; of another size, resized as the pipelines resize a PIL one."""
    given, count = len(control.image), len(request.seeds)
    if count % given:
        raise ValueError(f"{given} control pictures for {count} pictures; give one, or one for each")
    wanted = request.image.size if request.image is not None else (request.width, request.height)
    if control.image.size == wanted:
        return _repeat(_channels_first(control.image), count)
    from diffusers.image_processor import VaeImageProcessor

    resizer = VaeImageProcessor(request.model.setting("factor"), do_convert_rgb=True, do_normalize=False)
    return _repeat(resizer.preprocess(control.image.pils(), wanted[1], wanted[0]), count)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _pipeline_class(kind: str, control: bool) -> Any:
    import importlib

    suffix = f"_{kind.lower()}" if kind else ""
    if control:
        module = f"diffusers.pipelines.controlnet.pipeline_controlnet{suffix}"
        return getattr(importlib.import_module(module), f"StableDiffusionControlNet{kind}Pipeline")
    module = f"diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion{suffix}"
    return getattr(importlib.import_module(module), f"StableDiffusion{kind}Pipeline")
