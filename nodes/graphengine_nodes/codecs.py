"""Codecs of the standard types: to bytes and back, shown as text, and saved as files.

Bytes are safetensors with JSON in the header: lossless, and nothing in them is ever executed.

The module is long because it holds the codec of every standard type, each a few short functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import NotData, SocketType, View, promise_type, register_type, show_lists
from graphengine_nodes.families.digests import model_digest, model_needs
from graphengine_nodes.values.picture_files import png, save_pictures, to_pil, write_whole
from graphengine_nodes.values.references import Embedding, IPAdapter, ModelPart, Redux, model_of
from graphengine_nodes.values.types import (
    VAE,
    Conditioning,
    Control,
    ControlNet,
    Denoiser,
    Hypernetwork,
    Image,
    ImagePrompt,
    Latent,
    LoRA,
    Mask,
    Model,
    Posterior,
    RandomState,
    Tensors,
    TextEncoder,
    Turn,
)
from graphengine_nodes.values.video import Video
from graphengine_nodes.values.video_files import moving_png

if TYPE_CHECKING:
    import torch


def pack(tensors: Tensors, **facts: Any) -> bytes:
    """Tensors and JSON facts as safetensors bytes.

    The order in memory is kept as well: the last bits of a convolution depend on it.
    """
    from safetensors.torch import save

    facts["channels_last"] = [name for name, tensor in tensors.items() if _is_channels_last(tensor)]
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"graphengine": json.dumps(facts)})


def unpack(data: bytes) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and facts of `pack`."""
    import torch
    from safetensors.torch import load

    length = int.from_bytes(data[:8], "little")
    facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["graphengine"])
    tensors = load(data)
    for name in facts.pop("channels_last"):
        tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    return tensors, facts


def _is_channels_last(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _size(*tensors: torch.Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


# --- pictures for people ----------------------------------------------------------------------------------------------


def _views(pixels: torch.Tensor) -> list[View]:
    return [View(png=png(picture)) for picture in to_pil(pixels)]


def _latent_pixels(samples: torch.Tensor) -> torch.Tensor:
    """Rough pictures of latents, eight times as large."""
    from graphengine_nodes.values.picture_files import stretched

    return stretched(samples).repeat_interleave(8, 1).repeat_interleave(8, 2)


# --- codecs -----------------------------------------------------------------------------------------------------------


def _image_tensors(value: Image) -> Tensors:
    return {"pixels": value.pixels} | ({} if value.alpha is None else {"alpha": value.alpha})


def _image_of(tensors: Tensors) -> Image:
    return Image(tensors["pixels"], tensors.get("alpha"))  # without alpha as before there was any


def _decode_image(data: bytes) -> Image:
    return _image_of(unpack(data)[0])


def _encode_video(value: Video) -> bytes:
    return pack({"frames": value.frames}, fps=value.fps)


def _decode_video(data: bytes) -> Video:
    tensors, facts = unpack(data)
    return Video(tensors["frames"], facts["fps"])


def _view_video(value: Video) -> View:
    width, height = value.size
    told = f"{len(value)} frames of {width} x {height}, {value.fps:g} in a second"
    return View(png=moving_png(value.frames, value.fps), text=told)


def _decode_mask(data: bytes) -> Mask:
    return Mask(unpack(data)[0]["values"])


def _decode_posterior(data: bytes) -> Posterior:
    tensors, facts = unpack(data)
    return Posterior(tensors["mean"], tensors["logvar"], facts["family"], facts["scaling"])


def _decode_latent(data: bytes) -> Latent:
    tensors, facts = unpack(data)
    random = tuple(_random(one) for one in facts.pop("random", ()))
    reached = facts.pop("reached", None)
    return Latent(tensors["samples"], random=random, reached=reached and tuple(reached), **facts)


def _encode_conditioning(value: Conditioning) -> bytes:
    tensors, facts = _conditioning_parts(value)
    # safetensors refuses two names for one piece of memory, which the absent prompt has.
    return pack({name: tensor.clone() for name, tensor in tensors.items()}, **facts)


def _conditioning_parts(value: Conditioning) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a conditioning by names with points, and its facts."""
    tensors = {f"fallback.{name}": tensor for name, tensor in value.fallback.items()}
    tensors |= _encoded(value)
    facts: dict[str, Any] = {"family": value.family, "absent": value.absent}
    facts |= {"seen": value.seen} if value.seen else {}
    if value.schedule:
        facts["schedule"] = [(turn.until, turn.until_step, turn.cycle) for turn in value.schedule]
        for index, turn in enumerate(value.schedule):
            tensors |= {f"schedule.{index}.{name}": tensor for name, tensor in _encoded(turn).items()}
    for index, (weight, part) in enumerate(value.joined):
        found, told = _conditioning_parts(part)
        facts.setdefault("joined", []).append((weight, told))
        tensors |= {f"joined.{index}.{name}": tensor for name, tensor in found.items()}
    return tensors, facts


def _encoded(value: Conditioning | Turn) -> Tensors:
    fields = {f"fields.{name}": tensor for name, tensor in getattr(value, "fields", {}).items()}
    return {"embeds": value.embeds} | ({} if value.pooled is None else {"pooled": value.pooled}) | fields


def _decode_conditioning(data: bytes) -> Conditioning:
    return _conditioning_of(*unpack(data))


def _conditioning_of(tensors: Tensors, facts: dict[str, Any]) -> Conditioning:
    def below(start: str) -> Tensors:
        return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}

    turns = tuple(
        Turn(tensors[f"schedule.{index}.embeds"], tensors.get(f"schedule.{index}.pooled"), until, step, (turn, period))
        for index, (until, step, (turn, period)) in enumerate(facts.pop("schedule", ()))
    )
    joined = tuple(
        (weight, _conditioning_of(below(f"joined.{index}."), told))
        for index, (weight, told) in enumerate(facts.pop("joined", ()))
    )
    given: dict[str, Any] = {"pooled": tensors.get("pooled"), "fallback": below("fallback.")}
    given |= {"fields": below("fields."), "seen": tuple(facts.pop("seen", ()))}
    return Conditioning(tensors["embeds"], schedule=turns, joined=joined, **given, **facts)


def _encode_control(value: Control) -> bytes:
    facts: dict[str, Any] = {}
    if value.controlnet is not None:
        value.controlnet.digest()
        facts["controlnet"] = _controlnet_facts(value.controlnet)
    facts |= {name: getattr(value, name) for name in ("scale", "start", "end", "guess")}
    facts |= {} if value.mode is None else {"mode": value.mode}  # as before there were unions
    return pack(_image_tensors(value.image), **facts)


def _controlnet_facts(value: ControlNet) -> dict[str, Any]:
    facts = asdict(value)
    return facts if value.modes is not None else {name: fact for name, fact in facts.items() if name != "modes"}


def _decode_control(data: bytes) -> Control:
    tensors, facts = unpack(data)
    net = facts.pop("controlnet", None)
    return Control(None if net is None else ControlNet(**net), _image_of(tensors), **facts)


def _encode_reference(value: Model | ModelPart | ControlNet | LoRA | Hypernetwork | IPAdapter | Redux) -> bytes:
    value.digest()  # an object of this process has no data and cannot be written
    facts = asdict(value)
    model = facts["model"] if isinstance(value, ModelPart) else facts
    for name in ("embeddings", "ip_adapters"):  # as models were written before they had any
        if not model.get(name, True):
            del model[name]
    return json.dumps(facts).encode()


def _pairs(items: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in items)


def _decode_lora(data: bytes) -> LoRA:
    return _lora(json.loads(data))


def _lora(facts: dict[str, Any]) -> LoRA:
    partial = facts.get("partial", False)  # which older ones do not say
    families, noise = tuple(facts["families"]), facts.get("noise", "")
    return LoRA(facts["weights"], tuple(facts["parts"]), families, facts["source"], partial, noise)


def _decode_model(data: bytes) -> Model:
    return _model(json.loads(data))


def _decode_part(cls: type[ModelPart]) -> Callable[[bytes], ModelPart]:
    def decode(data: bytes) -> ModelPart:
        facts = json.loads(data)
        return cls(_model(facts["model"]), tuple(facts["families"]))

    return decode


def _model(facts: Mapping[str, Any]) -> Model:
    return Model(
        facts["family"],
        _pairs(facts["components"]),
        _pairs(facts["settings"]),
        facts["precision"],
        tuple((_lora(lora), scale) for lora, scale in facts["loras"]),
        tuple((Hypernetwork(**one), scale) for one, scale in facts["hypernetworks"]),
        _pairs(facts["options"]),
        facts["source"],
        tuple((name, Embedding(**one)) for name, one in facts.get("embeddings", ())),
        tuple((_ip_adapter(one), scale) for one, scale in facts.get("ip_adapters", ())),
    )


def _ip_adapter(facts: Mapping[str, Any]) -> IPAdapter:
    return IPAdapter(**{**facts, "families": tuple(facts["families"])})


def _describe(value: Model | ModelPart | ControlNet | LoRA | Hypernetwork | IPAdapter | Redux) -> View:
    try:
        digest = f"digest {value.digest()}"
    except NotData as reason:
        digest = str(reason)
    lines = [f"{type(value).__name__} {value.source}", digest]
    if isinstance(value, (Model, ModelPart)):
        model = model_of(value)
        lines[0] += f" ({model.family}{f', {model.precision}' if model.precision else ''})"
        lines += [f"LoRA {lora.source} at {scale:g}" for lora, scale in model.loras]
        lines += [f"hypernetwork {one.source} at {scale:g}" for one, scale in model.hypernetworks]
        lines += [f"embedding {name} of {one.source}" for name, one in model.embeddings]
        lines += [f"IP-Adapter {one.source} at {scale}" for one, scale in model.ip_adapters]
        lines += [f"{name} {option}" for name, option in model.options]
    return View(text="\n".join(lines))


def save_with(suffix: str, encode: Callable[[Any], bytes]) -> Callable[[Any, Path, Mapping[str, str]], list[Path]]:
    """Make the function that saves a value for a user as the bytes of its codec."""

    def save(value: Any, path: Path, text: Mapping[str, str]) -> list[Path]:
        file = path.with_name(path.name + suffix)
        write_whole(file, encode(value))
        return [file]

    return save


def _encode_image(value: Image) -> bytes:
    return pack(_image_tensors(value))


def _encode_mask(value: Mask) -> bytes:
    return pack({"values": value.values})


def _encode_posterior(value: Posterior) -> bytes:
    return pack({"mean": value.mean, "logvar": value.logvar}, family=value.family, scaling=dict(value.scaling))


def _encode_image_prompt(value: ImagePrompt) -> bytes:
    tensors = {"embeds": value.embeds, "negative": value.negative}
    tensors |= {} if value.mask is None else {"mask": value.mask}
    return pack(tensors, adapter=value.adapter, source=value.source)


def _decode_image_prompt(data: bytes) -> ImagePrompt:
    tensors, facts = unpack(data)
    return ImagePrompt(tensors["embeds"], tensors["negative"], mask=tensors.get("mask"), **facts)


def _encode_latent(value: Latent) -> bytes:
    facts: dict[str, Any] = {"family": value.family, "scale": value.scale, "empty": value.empty}
    if value.done < 1:
        facts |= {"done": value.done, "drawn": value.drawn, "reached": value.reached}
    facts |= {} if value.fps is None else {"fps": value.fps}
    return pack({"samples": value.samples}, random=[_random_facts(one) for one in value.random], **facts)


def _random_facts(value: RandomState) -> dict[str, Any]:
    return {"device": value.device, "state": value.state.hex(), "shared": value.shared}


def _random(facts: Mapping[str, Any]) -> RandomState:
    return RandomState(facts["device"], bytes.fromhex(facts["state"]), facts.get("shared", 0))


def _encode_random(value: RandomState) -> bytes:
    return json.dumps(_random_facts(value)).encode()


for _kind in (
    SocketType(
        Image,
        "Image",
        encode=_encode_image,
        decode=_decode_image,
        size=lambda value: _size(value.pixels, value.alpha),
        view=lambda value: _views(value.channels),
        save=lambda value, path, text: save_pictures(value.channels, path, text),
        conversions={"Video": "video_of makes a video of pictures"},
    ),
    SocketType(
        Mask,
        "Mask",
        encode=_encode_mask,
        decode=_decode_mask,
        size=lambda value: _size(value.values),
        view=lambda value: _views(value.values[..., None].expand(-1, -1, -1, 3)),
        save=lambda value, path, text: save_pictures(value.values[..., None].expand(-1, -1, -1, 3), path, text),
    ),
    SocketType(
        Video,
        "Video",
        encode=_encode_video,
        decode=_decode_video,
        size=lambda value: _size(value.frames),
        view=_view_video,
        save=lambda value, path, text: value.save(path.with_name(f"{path.name}.mp4"), text),
        conversions={"Image": "frames_of makes pictures of a video"},
    ),
    SocketType(
        Posterior,
        "Posterior",
        encode=_encode_posterior,
        decode=_decode_posterior,
        size=lambda value: _size(value.mean, value.logvar),
        view=lambda value: _views(_latent_pixels(value.mean)),
        save=save_with(".safetensors", _encode_posterior),
    ),
    SocketType(
        Latent,
        "Latent",
        encode=_encode_latent,
        decode=_decode_latent,
        size=lambda value: _size(value.samples),
        view=lambda value: _views(_latent_pixels(value.samples)),
        save=save_with(".safetensors", _encode_latent),
    ),
    SocketType(
        Conditioning,
        "Conditioning",
        encode=_encode_conditioning,
        decode=_decode_conditioning,
        size=lambda value: _size(*_conditioning_parts(value)[0].values()),
        view=lambda value: View(
            text=f"{'the absent prompt' if value.absent else 'a prompt'} as {value.family} encodes it, "
            f"{value.embeds.shape[1]} tokens of {value.embeds.shape[2]}"
        ),
        save=save_with(".safetensors", _encode_conditioning),
    ),
    SocketType(
        Control,
        "Control",
        encode=_encode_control,
        decode=_decode_control,
        size=lambda value: _size(value.image.pixels, value.image.alpha),
        view=lambda value: _views(value.image.channels),
        needs=lambda value, part: frozenset() if value.controlnet is None else value.controlnet.needs(),
        save=save_with(".safetensors", _encode_control),
    ),
    SocketType(
        ImagePrompt,
        "ImagePrompt",
        encode=_encode_image_prompt,
        decode=_decode_image_prompt,
        size=lambda value: _size(value.embeds, value.negative, value.mask),
        view=lambda value: View(text=f"pictures as {value.source} reads them: {value.embeds.shape[1]}"),
        save=save_with(".safetensors", _encode_image_prompt),
    ),
    SocketType(
        Model,
        "Model",
        encode=_encode_reference,
        decode=_decode_model,
        size=lambda value: 1000,
        view=_describe,
        save=save_with(".json", _encode_reference),
        digest=model_digest,
        needs=model_needs,
    ),
    SocketType(
        ControlNet,
        "ControlNet",
        encode=_encode_reference,
        decode=lambda data: ControlNet(**json.loads(data)),
        size=lambda value: 200,
        view=_describe,
        save=save_with(".json", _encode_reference),
        digest=ControlNet.digest,
        needs=ControlNet.needs,
    ),
    SocketType(
        LoRA,
        "LoRA",
        encode=_encode_reference,
        decode=_decode_lora,
        size=lambda value: 200,
        view=_describe,
        save=save_with(".json", _encode_reference),
        digest=LoRA.digest,
    ),
    SocketType(
        Hypernetwork,
        "Hypernetwork",
        encode=_encode_reference,
        decode=lambda data: Hypernetwork(**json.loads(data)),
        size=lambda value: 200,
        view=_describe,
        save=save_with(".json", _encode_reference),
        digest=Hypernetwork.digest,
    ),
    SocketType(
        IPAdapter,
        "IPAdapter",
        encode=_encode_reference,
        decode=lambda data: _ip_adapter(json.loads(data)),
        size=lambda value: 200,
        view=_describe,
        save=save_with(".json", _encode_reference),
        digest=IPAdapter.digest,
        needs=IPAdapter.needs,
    ),
    SocketType(
        Redux,
        "Redux",
        encode=_encode_reference,
        decode=lambda data: Redux(**json.loads(data)),
        size=lambda value: 200,
        view=_describe,
        save=save_with(".json", _encode_reference),
        digest=Redux.digest,
        needs=Redux.needs,
    ),
    SocketType(
        RandomState,
        "RandomState",
        encode=_encode_random,
        decode=lambda data: _random(json.loads(data)),
        size=lambda value: len(value.state),
        view=lambda value: View(text=f"the state of a generator on {value.device}"),
        save=save_with(".json", _encode_random),
    ),
):
    register_type(_kind)

for _part in (TextEncoder, Denoiser, VAE):
    register_type(
        SocketType(
            _part,
            _part.__name__,
            encode=_encode_reference,
            decode=_decode_part(_part),
            size=lambda value: 1000,
            view=_describe,
            save=save_with(".json", _encode_reference),
            digest=ModelPart.digest,
            needs=ModelPart.needs,
            keyed_as="Model",
        )
    )

promise_type("torch", "Tensor", "tensor", "graphengine_nodes.tensors")
show_lists()
