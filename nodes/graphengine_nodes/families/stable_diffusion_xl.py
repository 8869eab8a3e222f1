"""Stable Diffusion XL on diffusers' own pipelines: two text encoders, and sizes that are conditions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.families import arguments, vae_coding
from graphengine_nodes.families.family import Components, Factors, SampleRequest, Words
from graphengine_nodes.families.lora_places import changes_unet
from graphengine_nodes.families.prompt_embeddings import tokenizer_of
from graphengine_nodes.families.prompt_weights import Chunk, chunks, moved
from graphengine_nodes.families.unet import (
    BETAS,
    SCALES,
    UNET,
    UNetFamily,
    context_width,
    cut_off,
    own_copy,
    refuse_length,
    unet_loras,
)
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.types import Conditioning, Image, Model
from graphengine_nodes.weights import files, vocabulary
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import LoraNames

if TYPE_CHECKING:
    import torch

UNION = ("diffusers.models.controlnets.controlnet_union", "ControlNetUnionModel")
UNION_NAMES = ("ControlNetUnionModel", "ControlNetModel_Union")
"""diffusers' name of union ControlNets, and that in the configurations of the first published ones."""


class StableDiffusionXL(UNetFamily):
    """The family; see `graphengine_nodes.families.Family`."""

    name = "stable_diffusion_xl"
    parts: Mapping[str, Sequence[str]] = {
        "text_encoder": ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"),
        "denoiser": ("unet", "scheduler"),
        "vae": ("vae",),
    }
    classes: Mapping[str, tuple[str, str]] = UNET | {
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    }
    lora_names = LoraNames(
        {"denoiser": "unet"}
        | dict.fromkeys(("te", "te1", "clip_l", "text_encoder"), "text_encoder")
        | dict.fromkeys(("te2", "clip_g", "text_encoder_2"), "text_encoder_2"),
        unet_loras,
    )
    prefix = "StableDiffusionXL"
    modules: Mapping[tuple[str, bool], str] = {
        ("", False): "stable_diffusion_xl.pipeline_stable_diffusion_xl",
        ("Img2Img", False): "stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img",
        ("Inpaint", False): "stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint",
        ("", True): "controlnet.pipeline_controlnet_sd_xl",
        ("Img2Img", True): "controlnet.pipeline_controlnet_sd_xl_img2img",
        ("Inpaint", True): "controlnet.pipeline_controlnet_inpaint_sd_xl",
    }
    unions: Mapping[str, str] = {
        "": "controlnet.pipeline_controlnet_union_sd_xl",
        "Img2Img": "controlnet.pipeline_controlnet_union_sd_xl_img2img",
        "Inpaint": "controlnet.pipeline_controlnet_union_inpaint_sd_xl",
    }
    """Where its pipelines with union ControlNets are."""
    encoders: Sequence[str] = ("", "_2")
    """What the names of its text encoders end in."""
    with_vae: Sequence[str] = ("Img2Img", "Inpaint")  # image to image reads its configuration
    guidance_scale = 5.0
    vae_scale: Mapping[str, float] = {"scaling_factor": SCALES["stable_diffusion_xl"]}
    # The map in diffusers' guide to callbacks, divided by 255.
    preview: Factors = (
        (0.2353, 0.2353, 0.2353),
        (-0.2353, -0.0196, 0.0392),
        (0.098, 0.0588, -0.0196),
        (-0.2745, -0.1961, -0.1373),
        (0.5882, 0.549, 0.5098),
    )

    # --- what lies on disk --------------------------------------------------------------------------------------------

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        return str(index.get("_class_name", "")).startswith("StableDiffusionXL") and not is_refiner(index)

    def owns_file(self, header: Header) -> bool:
        if not super().owns_file(header):
            return False
        width = next((e["shape"][1] for name, e in header.items() if name.endswith(".attn2.to_k.weight")), None)
        if width == 1024:
            raise ModelError(
                "this is an unCLIP model of Stable Diffusion 2.1, which is prompted by pictures; take another"
            )
        return True

    def scheduler_config(self, held: Contents) -> dict[str, Any]:
        return {"_class_name": "EulerDiscreteScheduler", **BETAS, "timestep_spacing": "leading"}

    def packaged_tokenizer(self, component: str, held: Contents) -> Path | None:
        return vocabulary.clip_tokenizer("!" if component == "tokenizer_2" else vocabulary.END)

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        named = config.get("_class_name") == "ControlNetModel" and config.get("addition_embed_type") == "text_time"
        return named or self.modes_of(config) is not None

    def modes_of(self, config: Mapping[str, Any]) -> int | None:
        return int(config.get("num_control_type", 6)) if config.get("_class_name") in UNION_NAMES else None

    def class_of(self, component: str, location: Location) -> tuple[str, str]:
        config = files.read_json(location.folder / "config.json") if component == "controlnet" else {}
        return UNION if self.modes_of(config) is not None else super().class_of(component, location)

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        named = config.get("_class_name") == "UNet2DConditionModel"
        return named and config.get("addition_embed_type") == "text_time"

    def prompt_widths(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        if "unet" in configs:
            return (int(configs["unet"].get("cross_attention_dim", 1280)),)
        return (sum(int(configs[name].get("hidden_size", 512)) for name in ("text_encoder", "text_encoder_2")),)

    def owns_lora(self, header: Header) -> bool:
        return changes_unet(header) and context_width(header) not in (768, 1024)

    def settings(self, folder: Path) -> dict[str, Any]:
        file = folder / "model_index.json"
        index = files.read_json(file) if file.is_file() else {}
        return super().settings(folder) | {
            "force_zeros": index.get("force_zeros_for_empty_prompt", True),
            "aesthetics": index.get("requires_aesthetics_score", False),
        }

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        return super().denoiser_settings(config, where) | {"force_zeros": True, "aesthetics": False}

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
        references: Sequence[Image] = (),
    ) -> Conditioning:
        refuse_length(model, max_sequence_length)
        rows: list[_Encoded] = []
        empty: list[_Encoded] = []
        if prompt_2 is not None and len(self.encoders) == 1:
            raise ValueError(f"{model.source} has one text encoder; leave prompt_2 out")
        for end in self.encoders:
            text = prompt_2 or prompt if end else prompt
            with ExitStack() as stack:
                tokenizer = stack.enter_context(store.component(model, f"tokenizer{end}", "cpu"))
                encoder = stack.enter_context(store.component(model, f"text_encoder{end}", device))
                stack.enter_context(tokenizer.lock)
                self.forget_changed(model, f"text_encoder{end}", encoder)
                words = tokenizer_of(model, tokenizer.tokenizer)
                encode = functools.partial(_encode, words, encoder, device=device)
                # With all layers: the pipelines leave layers out in the positive prompt alone.
                empty.append(self.absent(words, encoder, functools.partial(encode, "", 0)))
                rows.append(empty[-1] if text is None else encode(text, clip_skip))
        absent, absent_pooled = _joined(empty)
        embeds, pooled = _joined(rows)
        fallback = {"embeds": absent, "pooled": absent_pooled}
        return Conditioning(embeds, self.name, prompt is None, pooled, fallback)

    def encode_weighted(
        self, store: Components, model: Model, prompts: Sequence[Words], clip_skip: int, device: str
    ) -> list[Conditioning]:
        first = [words.text or "" for words in prompts]
        second = [words.second or words.text or "" for words in prompts]
        texts = {"": [*first, ""], "_2": [*second, ""]}
        length, rows = 1, {}
        # The first encoder twice: both need as many chunks as the longest prompt of either.
        for end in (*self.encoders, self.encoders[0]):
            with store.component(model, f"tokenizer{end}", "cpu") as shared, shared.lock:
                words = tokenizer_of(model, shared.tokenizer)
                rows[end] = chunks(texts[end], words, words.eos_token_id, length)
                length = len(rows[end][0])
        found: list[list[_Encoded]] = []
        for end in self.encoders:
            with store.component(model, f"text_encoder{end}", device) as encoder:
                skips = (*(0 if words.negative else clip_skip for words in prompts), 0)
                found.append([_read_row(encoder, row, n, device) for row, n in zip(rows[end], skips, strict=True)])
        *sides, absent = (_joined(side) for side in zip(*found, strict=True))
        fallback = dict(zip(("embeds", "pooled"), absent, strict=True))
        return [
            Conditioning(embeds, self.name, words.text is None, pooled, fallback)
            for (embeds, pooled), words in zip(sides, prompts, strict=True)
        ]

    def prompts(self, request: SampleRequest, device: str, dtype: torch.dtype) -> dict[str, Any]:
        import torch

        count = len(request.seeds)
        call = super().prompts(request, device, dtype)
        call["pooled_prompt_embeds"] = _pooled(request.positive, count).to(device, dtype)
        if request.options.guidance_scale > 1:
            negative = arguments.negatives(request)
            call["negative_pooled_prompt_embeds"] = _pooled(negative, count).to(device, dtype)
            zeros = torch.tensor(
                [c.absent and bool(request.model.setting("force_zeros")) for c in negative], device=device
            )
            rows = zeros.repeat_interleave(count // len(negative))
            for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                call[name][rows] = 0
        return call

    # --- pipelines ----------------------------------------------------------------------------------------------------

    def pipeline_for(self, request: SampleRequest) -> Any:
        if not _united(request):
            return super().pipeline_for(request)
        return self.pipeline_in(self.unions[request.starts_from], f"ControlNetUnion{request.starts_from}")

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        super().check_request(request, cls)
        kinds = {net.modes is None: net.source for net in request.nets}
        if len(kinds) > 1:
            raise ValueError(
                f"{kinds[False]} is a union ControlNet and {kinds[True]} is none; diffusers' pipelines take no mixture"
            )

    def control_arguments(self, request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
        if not _united(request):
            return super().control_arguments(request, nets)
        found = arguments.control_arguments(request)
        pictures = found.pop("image" if request.starts_from == "" else "control_image")
        modes = [control.mode for control in request.control]
        return found | {"control_image": pictures if len(nets) > 1 else [pictures], "control_mode": modes}

    def constructor_options(self, request: SampleRequest) -> dict[str, Any]:
        found: dict[str, Any] = {"add_watermarker": False}
        if request.starts_from or len(self.encoders) == 1:
            found["requires_aesthetics_score"] = request.model.setting("aesthetics")
        return found

    def encoder(self, vae: Any) -> Any:
        return own_copy(vae).float() if _overflows(vae) else vae

    def decoder(self, vae: Any) -> Any:
        import torch

        return own_copy(vae).float() if _overflows(vae) and vae.dtype == torch.float16 else vae

    def vae_for(self, request: SampleRequest, vae: Any) -> Any:
        if request.mask is None:
            return vae
        if request.control and "latents_mean" in vae_coding.scaling_of(vae):
            raise ValueError(
                f"the VAE of {request.model.source} says the mean of its latents, of which diffusers' inpainting with "
                "a ControlNet knows nothing; leave control out"
            )
        return own_copy(vae) if _overflows(vae) else vae


FAMILY = StableDiffusionXL()


def is_refiner(index: Mapping[str, Any]) -> bool:
    """Whether a model_index.json is that of a refiner, which has the second text encoder alone.

    Args:
        index: Of a pipeline that is loaded, its components stand in the place of their classes.
    """
    named = str(index.get("_class_name", "")).startswith("StableDiffusionXL")
    return named and "text_encoder" in index and index["text_encoder"] in (None, [None, None])


def _united(request: SampleRequest) -> bool:
    """Whether union ControlNets steer."""
    return any(net.modes is not None for net in request.nets)


_Encoded = tuple["torch.Tensor", "torch.Tensor | None"]


def _encode(tokenizer: Any, encoder: Any, prompt: str, clip_skip: int, device: str) -> _Encoded:
    """Encode one prompt with one of the encoders: [1, tokens, width], and from the second one also [1, width]."""
    limit = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    cut_off(tokenizer, prompt)
    return _read(encoder, tokens.input_ids, clip_skip, device)


def _read(encoder: Any, ids: torch.Tensor, clip_skip: int, device: str) -> _Encoded:
    """Run one of the encoders on tokens [1, tokens]."""
    import torch

    layers = encoder.config.num_hidden_layers
    if clip_skip >= layers - 1:
        raise ValueError(f"clip_skip {clip_skip} leaves none of the text encoder's {layers} layers; give less")
    with torch.no_grad():
        found = encoder(ids.to(device), output_hidden_states=True)
    # Layers are counted from the last but one.
    return found.hidden_states[-(clip_skip + 2)].cpu(), found[0].cpu() if found[0].ndim == 2 else None


def _read_row(encoder: Any, row: Sequence[Chunk], clip_skip: int, device: str) -> _Encoded:
    """Encode a weighted prompt's chunks: their embeddings in a row, and the pooled embedding of the last chunk."""
    import torch

    read = functools.cache(lambda ids: _read(encoder, torch.tensor([ids]), clip_skip, device))
    found = [read(chunk.ids) for chunk in row]
    embeds = [moved(embeds, chunk.weights) for (embeds, _), chunk in zip(found, row, strict=True)]
    return torch.cat(embeds, dim=1), found[-1][1]


def _joined(encoded: Sequence[_Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Join both encoders' embeddings side by side, with the pooled embedding of the second one."""
    import torch

    pooled = next(pooled for _, pooled in encoded if pooled is not None)
    return torch.cat([embeds for embeds, _ in encoded], dim=-1), pooled


def _pooled(prompts: Sequence[Conditioning], count: int) -> torch.Tensor:
    return arguments.expand([c.pooled for c in prompts if c.pooled is not None], count)


def _overflows(vae: Any) -> bool:
    """Whether the pipelines cast this VAE to single precision to encode with it."""
    import torch

    return bool(vae.config.force_upcast) and vae.dtype != torch.float32
