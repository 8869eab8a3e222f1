"""What denoisers take beside noisy latents: the picture and mask of inpainting models, control and reference pictures.

diffusers' pipelines of text to image know nothing of them: a stand-in of the denoiser adds them to each of its calls.
Some pipelines guide by another formula than ComfyUI: there the stand-in asks for the negative prompt too, and guides.
The module is long because each family takes such pictures in a way of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import vae_coding
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.pipeline_vae import private
from graphengine_nodes.values.types import Conditioning

from graphengine_comfy.nodes.resizing import repeated, resized
from graphengine_comfy.values import CONDITIONING, MODEL

if TYPE_CHECKING:
    import torch

Pack = Callable[["torch.Tensor"], "torch.Tensor"]
FILL, CONTROL = 384, 128
"""The channels of FLUX.1's transformers that take a picture with a mask, and a control picture."""


GUIDED: Mapping[str, float] = {"z_image": 0.0, "qwen_image": 1.0, "qwen_image_21": 1.0}
"""The families that a stand-in guides, and the guidance scale at which their pipelines do not: Z-Image's counts from 0,
and Qwen-Image's makes the result as large as without guidance; 2.1's goes without a negative prompt."""


def scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a VAE's configuration that convert between its scale and the denoiser's."""
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    return {name: config[name] for name in names if config.get(name) is not None}


def answer_for(
    model: MODEL,
    sides: Sequence[CONDITIONING],
    begun: torch.Tensor,
    mask: torch.Tensor | None,
    config: Mapping[str, Any],
    pack: Pack,
) -> Callable[..., Any] | None:
    """What answers for a denoiser that takes more than noisy latents; None for one that takes nothing else.

    Args:
        sides: The prompts that guide.
        begun: The latents that sampling begins at, in the denoiser's scale.
        mask: The mask of noise, in their size.
        config: Of the VAE.
        pack: To the pipeline's layout of latents.

    Raises:
        ValueError: It takes more than there is, or positive and negative prompt bring different ones.
    """
    options = _options(sides)
    reference = model.denoiser.model
    method = _reference_method(model, options)
    if reference.family == "flux":
        return _of_flux(model, options, begun, config, pack, method)
    if reference.family == "flux2":
        references = [repeated(one.float(), len(begun)) for one in options.get("references", ())]
        return functools.partial(_flux2_call, references=references) if references else None
    if reference.family == "qwen_image":
        latents = [vae_coding.to_denoiser(one.float(), scaling(config)) for one in options.get("references", ())]
        seen = [_packed(one[:, :, 0] if one.ndim == 5 else one, begun) for one in latents]
        return functools.partial(_qwen_references, references=seen, placed=_Placed(method)) if seen else None
    if reference.family == "qwen_image_21":
        return _of_qwen_21(model, sides, options, begun, config)
    if reference.setting("unet_channels", 4) != 9:
        return None
    if "concat_latent" in options:
        latent, covered = _picture(options["concat_latent"], begun, config), options["concat_mask"]
    elif mask is not None:
        latent, covered = begun, mask
    else:
        raise ValueError(f"{model.source} is an inpainting model: give it InpaintModelConditioning, or latents a mask")
    height, width = (int(side) for side in begun.shape[-2:])
    covered = repeated(resized(covered.float()[:, :1], width, height, "bilinear").round(), len(begun))
    return functools.partial(_beside_latents, extra=_cat(covered, latent))


def _options(sides: Sequence[CONDITIONING]) -> Mapping[str, Any]:
    """The options of the prompts that make further inputs, which all prompts must have in common."""
    names = ("concat_latent", "concat_mask", "references", "reference_method")
    found = [{name: one.options[name] for name in names if name in one.options} for s in sides for one in s.entries]
    if any(_comparable(one) != _comparable(found[0]) for one in found):
        raise ValueError(
            "positive and negative prompt bring different pictures for the model: give both the same, or cfg 1"
        )
    return found[0]


def _comparable(options: Mapping[str, Any]) -> Any:
    """Options with the bytes of their tensors, which can be compared."""
    def bytes_of(value: Any) -> Any:
        listed = value if isinstance(value, (list, tuple)) else [value]
        return [one if isinstance(one, str) else one.numpy().tobytes() for one in listed]

    return {name: bytes_of(value) for name, value in options.items()}


def _picture(latent: torch.Tensor, begun: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """A picture's latents in the denoiser's scale and the size of those that are sampled, one for each."""
    height, width = (int(side) for side in begun.shape[-2:])
    found = resized(latent.float(), width, height, "bilinear", "center")
    return repeated(vae_coding.to_denoiser(found, scaling(config)), len(begun))


def _cat(*parts: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat(parts, dim=1)


def _beside_latents(module: Any, sample: torch.Tensor, *args: Any, extra: torch.Tensor, **kwargs: Any) -> Any:
    """Call a UNet with further channels."""
    import torch

    more = torch.cat([extra.to(sample)] * (len(sample) // len(extra)))
    return module(torch.cat([sample, more], dim=1), *args, **kwargs)


METHODS: Mapping[str, Sequence[str]] = {
    "flux": ("offset", "index"),
    "flux2": ("index",),
    "qwen_image": ("index", "index_timestep_zero"),
    "qwen_image_21": (),
}
"""Where reference pictures may stand, by ComfyUI's names; the first of a family is its own."""


def _reference_method(model: MODEL, options: Mapping[str, Any]) -> str | None:
    """Where reference pictures stand; None for the model's own place.

    Raises:
        ValueError: The family's models have them nowhere there.
    """
    found: str | None = options.get("reference_method")
    known = METHODS.get(model.denoiser.model.family, ())
    if found is not None and options.get("references") and found not in known:
        raise ValueError(f"{model.source} has reference pictures by the method {' or '.join(known)}, and not {found}")
    return found


# --- FLUX.1 -----------------------------------------------------------------------------------------------------------


def _of_flux(
    model: MODEL, options: Mapping[str, Any], begun: torch.Tensor, config: Mapping[str, Any], pack: Pack,
    method: str | None,
) -> Callable[..., Any] | None:
    """The channels of Fill, Canny and Depth, and the reference pictures of Kontext."""
    import torch

    channels = {"fill": FILL, "control": CONTROL}.get(str(model.denoiser.model.setting("variant", "")), 64)
    extra = None
    if channels != 64:
        if "concat_latent" not in options:
            node = "InpaintModelConditioning" if channels == FILL else "InstructPixToPixConditioning"
            raise ValueError(f"{model.source} takes a picture beside latents: give it {node}")
        parts = [_picture(options["concat_latent"], begun, config)]
        if channels == FILL:
            parts.append(_eight_by_eight(options.get("concat_mask"), begun))
        extra = pack(torch.cat(parts, dim=1))
    references = [vae_coding.to_denoiser(one.float(), scaling(config)) for one in options.get("references", ())]
    if extra is None and not references:
        return None
    packed = [_packed(one, begun) for one in references]
    return functools.partial(_flux_call, extra=extra, references=packed, layered=method == "index")


def _eight_by_eight(mask: torch.Tensor | None, begun: torch.Tensor) -> torch.Tensor:
    """A mask as Fill takes it: the 8 x 8 pixels of each latent as its channels, [n, 64, h, w]."""
    height, width = (int(side) for side in begun.shape[-2:])
    if mask is None:
        return begun.new_ones(len(begun), 64, height, width)
    full = resized(mask.float().mean(dim=1, keepdim=True), width * 8, height * 8, "bilinear", "center")[:, 0]
    found = full.reshape(len(full), height, 8, width, 8).permute(0, 2, 4, 1, 3).flatten(1, 2)
    return repeated(found, len(begun))


def _packed(latent: torch.Tensor, begun: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """A reference's latents two by two, [n, h * w / 4, 64], and how many of them lie above one another and beside."""
    import torch

    height, width = (int(side) for side in latent.shape[-2:])
    latent = torch.nn.functional.pad(latent, (0, width % 2, 0, height % 2), mode="replicate")
    count, channels, height, width = latent.shape
    found = latent.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    found = found.reshape(count, height // 2 * (width // 2), channels * 4)
    return repeated(found, len(begun)), height // 2, width // 2


def _flux_call(
    module: Any,
    *args: Any,
    hidden_states: torch.Tensor,
    img_ids: torch.Tensor,
    extra: torch.Tensor | None,
    references: Sequence[tuple[torch.Tensor, int, int]],
    layered: bool,
    **kwargs: Any,
) -> Any:
    """Call FLUX's transformer with further channels, and with the tokens of references behind those of the latents.

    The first reference lies over the picture, on a layer of its own; each further one beside or under those before on
    the same layer, or `layered` on the next one.
    """
    import torch

    count = hidden_states.shape[1]
    states, places = hidden_states, [img_ids]
    if extra is not None:
        states = torch.cat([states, extra.to(states)], dim=2)
    tall = wide = 0
    for number, (tokens, high, broad) in enumerate(references, start=1):
        top, left = (0, wide) if high + tall > broad + wide else (tall, 0)
        tall, wide = max(tall, high + top), max(wide, broad + left)
        layer, top, left = (number, 0, 0) if layered else (1, top, left)
        rows, columns = torch.meshgrid(torch.arange(high), torch.arange(broad), indexing="ij")
        place = torch.stack([torch.full_like(rows, layer), rows + top, columns + left], dim=-1).reshape(-1, 3)
        places.append(place.to(img_ids))
        states = torch.cat([states, tokens.to(states)], dim=1)
    found = module(*args, hidden_states=states, img_ids=torch.cat(places), **kwargs)
    return (found[0][:, :count], *found[1:])


def _flux2_call(
    module: Any,
    *args: Any,
    hidden_states: torch.Tensor,
    img_ids: torch.Tensor,
    references: Sequence[torch.Tensor],
    **kwargs: Any,
) -> Any:
    """Call FLUX.2's transformer with the tokens of references behind those of the latents, each at its own time."""
    import torch

    count = hidden_states.shape[1]
    states, places = [hidden_states], [img_ids]
    for number, latents in enumerate(references, start=1):
        height, width = (int(side) for side in latents.shape[-2:])
        times = torch.tensor([10 * number])
        place = torch.cartesian_prod(times, torch.arange(height), torch.arange(width), torch.arange(1)).to(img_ids)
        places.append(place if img_ids.ndim == 2 else place[None].expand(len(img_ids), -1, -1))
        states.append(latents.flatten(2).permute(0, 2, 1).to(hidden_states))
    lengthened = {"hidden_states": torch.cat(states, dim=1), "img_ids": torch.cat(places, dim=-2)}
    found = module(*args, **lengthened, **kwargs)
    return (found[0][:, :count], *found[1:])


# --- Qwen-Image-Edit --------------------------------------------------------------------------------------------------


class _Placed:
    """Makes of a transformer of Qwen-Image one with references where a method says.

    diffusers counts the places of words behind the largest picture, ComfyUI behind the one that is made; and whether
    references are told as pictures without noise is the model's setting, where no node says it.

    Args:
        method: ComfyUI's name of it.
    """

    def __init__(self, method: str | None) -> None:
        self.method = method
        self.made: tuple[Any, Any] | None = None

    def over(self, module: Any) -> Any:
        """The transformer over the same weights; made once."""
        if self.made is None or self.made[0] is not module:
            twin = private(module)
            rope = vars(twin)["_modules"].pop("pos_embed")

            def places(shapes: Any, **kwargs: Any) -> Any:
                return rope(shapes, **kwargs)[0], rope([one[:1] for one in shapes], **kwargs)[1]

            vars(twin)["pos_embed"] = places
            for part in twin.modules() if self.method is not None else ():
                if "zero_cond_t" in vars(part):
                    vars(part)["zero_cond_t"] = self.method == "index_timestep_zero"
            self.made = module, twin
        return self.made[1]


def _qwen_references(
    module: Any,
    *args: Any,
    hidden_states: torch.Tensor,
    img_shapes: Any,
    references: Sequence[tuple[torch.Tensor, int, int]],
    placed: _Placed,
    **kwargs: Any,
) -> Any:
    """Call Qwen-Image's transformer with the tokens of references behind those of the latents, each on its layer."""
    import torch

    count = hidden_states.shape[1]
    states = torch.cat([hidden_states, *(tokens.to(hidden_states) for tokens, *_ in references)], dim=1)
    shapes = [[*one, *((1, high, wide) for _, high, wide in references)] for one in img_shapes]
    found = placed.over(module)(*args, hidden_states=states, img_shapes=shapes, **kwargs)
    return (found[0][:, :count], *found[1:])


def _of_qwen_21(
    model: MODEL,
    sides: Sequence[CONDITIONING],
    options: Mapping[str, Any],
    begun: torch.Tensor,
    config: Mapping[str, Any],
) -> Callable[..., Any] | None:
    """The references of Qwen-Image 2.1, whose places among the words its text encoder has left for them."""
    latents = [vae_coding.to_denoiser(_framed(one.float()), scaling(config)) for one in options.get("references", ())]
    found = [repeated(one[:, :, 0], len(begun)) for one in latents]
    slots = sum(one.shape[-2] * one.shape[-1] // 4 for one in found)
    for entry in (entry for side in sides for entry in side.entries):
        pads = entry.prompt.fields.get("image_pad_mask")
        if slots != (0 if pads is None else int(pads.sum())):
            raise ValueError(f"{model.source} gets its pictures by TextEncodeQwenImage21, with the VAE linked to it")
    return functools.partial(_qwen_21_references, references=found) if found else None


def _framed(latents: torch.Tensor) -> torch.Tensor:
    return latents if latents.ndim == 5 else latents[:, :, None]


def _qwen_21_references(
    module: Any,
    *args: Any,
    hidden_states: torch.Tensor,
    img_shapes: Any,
    references: Sequence[torch.Tensor],
    **kwargs: Any,
) -> Any:
    """Call Qwen-Image 2.1's transformer with the tokens of references before those of the latents."""
    import torch

    tokens = [one.flatten(2).permute(0, 2, 1).to(hidden_states) for one in references]
    shapes = [[*((1, *map(int, one.shape[-2:])) for one in references), *shape] for shape in img_shapes]
    return module(*args, hidden_states=torch.cat([*tokens, hidden_states], dim=1), img_shapes=shapes, **kwargs)


# --- guidance ---------------------------------------------------------------------------------------------------------


def guided(
    request: SampleRequest,
    negative: Conditioning,
    cfg: float,
    device: str,
    answer: Callable[..., Any] | None,
    predicted: list[torch.Tensor],
) -> Callable[..., Any]:
    """What answers for a denoiser in a pipeline that does not guide: the negative prompt, and the way from it.

    Args:
        request: What the family's sampler is asked for, with the positive prompt.
        cfg: How far to go from the negative prompt: 1 is to the positive one.
        answer: What answers for the denoiser with one prompt; None: the denoiser itself.
        predicted: Gets what the positive prompt alone predicts, in place of that of the call before.
    """
    import torch

    of_family: Any = family(request.model.family)
    asked = of_family.prompts(replace(request, positive=[negative], negative=()), device, torch.float32)
    call = {"z_image": _z_image_call, "qwen_image": _qwen_call, "qwen_image_21": _qwen_21_call}[
        request.model.family
    ]

    def asking(module: Any, *args: Any, **kwargs: Any) -> Any:
        ask = module if answer is None else functools.partial(answer, module)
        return call(ask, *args, prompts=asked, cfg=cfg, predicted=predicted, **kwargs)

    return asking


def _z_image_call(
    module: Any,
    latents: Any,
    times: Any,
    texts: Any,
    *args: Any,
    prompts: Any,
    cfg: float,
    predicted: list[Any],
    **kwargs: Any,
) -> Any:
    import torch

    positive = module(latents, times, texts, *args, **kwargs)
    predicted[:] = [-torch.stack([one.float() for one in positive[0]]).squeeze(2)]  # the pipeline turns the sign
    others = [one.to(texts[0]) for one in prompts["prompt_embeds"]]
    negative = module(latents, times, others, *args, **kwargs)
    pairs = zip(positive[0], negative[0], strict=True)
    return ([_towards(no.float(), yes.float(), cfg) for yes, no in pairs], *positive[1:])


def _qwen_call(module: Any, *args: Any, prompts: Any, cfg: float, predicted: list[Any], **kwargs: Any) -> Any:
    positive = module(*args, **kwargs)
    predicted[:] = [positive[0]]
    mask = prompts.get("prompt_embeds_mask")
    mask = None if mask is None or bool(mask.all()) else mask
    texts = prompts["prompt_embeds"].to(kwargs["encoder_hidden_states"])
    changed = {**kwargs, "encoder_hidden_states": texts, "encoder_hidden_states_mask": mask}
    return (_towards(module(*args, **changed)[0], positive[0], cfg), *positive[1:])


def _qwen_21_call(module: Any, *args: Any, prompts: Any, cfg: float, predicted: list[Any], **kwargs: Any) -> Any:
    import torch

    positive = module(*args, **kwargs)
    count = kwargs["hidden_states"].shape[1]  # what stands before is of words and references
    predicted[:] = [positive[0][:, -count:]]
    texts = prompts["prompt_embeds"].to(kwargs["encoder_hidden_states"])
    pads = prompts.get("image_pad_mask")
    pads = torch.zeros(texts.shape[:2], dtype=torch.bool, device=texts.device) if pads is None else pads
    made = kwargs["img_mask"].shape[1] - kwargs["encoder_hidden_states"].shape[1]
    changed = {
        **kwargs,
        "encoder_hidden_states": texts,
        "encoder_hidden_states_mask": None,  # one prompt, which is not padded
        "img_mask": torch.cat([pads, pads.new_ones(len(pads), made)], dim=1),
        "kv_cache": None,  # it has the positive prompt's keys
        "kv_cache_mode": None,
    }
    negative = module(*args, **changed)[0][:, -count:]
    return (_towards(negative, predicted[0], cfg), *positive[1:])


def _towards(negative: torch.Tensor, positive: torch.Tensor, cfg: float) -> torch.Tensor:
    return negative + cfg * (positive - negative)
