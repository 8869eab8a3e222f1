"""The one body of the families that are records of data: loading, encoding, sampling and decoding by `record.Record`.

The pipelines are diffusers' own. They get prompts as embeddings, and in place of a VAE one without weights that hands
out pictures encoded before (`pipeline_vae`), unless they encode pictures themselves.
"""

from __future__ import annotations

import hashlib
import logging
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.families import arguments, noise_schedulers, sampler_names
from graphengine_nodes.families.family import ASKS, Components, Sampled, SampleRequest, Step
from graphengine_nodes.families.picture_prompts import flux_arguments
from graphengine_nodes.families.pipeline_vae import PipelineVAE, private
from graphengine_nodes.families.pipelines import Pipelines, Tokenizer, class_named, in_pixels
from graphengine_nodes.families.record import Guidance, Record, Shape, Task, Text, Variant
from graphengine_nodes.families.repainting import Layout
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.references import Held
from graphengine_nodes.values.types import Conditioning, Image, Latent, Model, Posterior
from graphengine_nodes.values.video import Video
from graphengine_nodes.weights import files
from graphengine_nodes.weights.devices import dtype_of
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.headers import Header

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class Flow(Pipelines):
    """A family that is a record; see `graphengine_nodes.families.Family`."""

    denoiser = "transformer"

    def __init__(self, record: Record) -> None:
        self.record = record
        self.name, self.schedulers, self.preview = record.name, record.schedulers, record.preview
        self.parts, self.optional, self.classes = record.parts, record.optional, record.classes
        self.encoder_widths = record.encoder_widths
        self.lora_names, self.vae_scale = record.lora_names, record.vae_scale
        self.latents = record.latents.family
        self.needs: Mapping[str, Sequence[str]] = {"denoiser": ("vae",)}
        self._warned: set[str] = set()
        # The encoded absent prompt, kept as long as its text encoder: each prompt needs it.
        self._absent: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

    # --- what lies on disk --------------------------------------------------------------------------------------------

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return str(index.get("_class_name", "")) in self.record.pipelines

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return config.get("_class_name") == self.classes[self.denoiser][1]

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        known = self.classes.get("controlnet")
        return known is not None and config.get("_class_name") == known[1]

    def owns_vae(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return self.record.owns_vae(config)

    def owns_lora(self, header: Header) -> bool:
        """See `Family`."""
        return self.record.owns_lora(header)

    def modes_of(self, config: Mapping[str, Any]) -> int | None:
        """See `Family`."""
        return self.record.modes(config)

    def packaged_tokenizer(self, component: str, held: Contents) -> Path | None:
        """See `Family`."""
        return self.record.tokenizer(component, held) or super().packaged_tokenizer(component, held)

    def scheduler_config(self, held: Contents) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.record.scheduler(held)

    def pipeline_name(self, held: Contents) -> str:
        """See `Pipelines`."""
        if (name := self.record.pipeline(held)) is not None:
            return name
        part = held.component(self.denoiser)
        variant = self.record.variant({}, {} if part is None else part.config)
        return next(iter(self.record.variants[variant].tasks.values())).class_name

    def configurations(self, held: Contents) -> dict[str, dict[str, Any]]:
        """See `Family`."""
        found = super().configurations(held)
        return found | {"model_index.json": {**self.record.index(held), **found["model_index.json"]}}

    def prompt_widths(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        """See `Family`."""
        return self.record.prompt_widths(configs)

    def settings(self, folder: Path) -> dict[str, Any]:
        """See `Family`."""
        file = folder / "model_index.json"
        index = files.read_json(file) if file.is_file() else {}
        denoiser = files.read_json(folder / self.denoiser / "config.json")
        vae = self.vae_settings(files.read_json(folder / "vae" / "config.json"))
        return in_pixels(self._settings_of(index, denoiser, folder), vae)

    def denoiser_settings(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        """See `Family`."""
        file = where.parent / "model_index.json"  # of a folder in diffusers layout, or one written by us
        index = files.read_json(file) if file.is_file() else {}
        return self._settings_of(index if self.owns_folder(index) else {}, config, where)

    def _settings_of(self, index: Mapping[str, Any], config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        try:
            name = self.record.variant(index, config)
        except ValueError as error:
            raise ModelError(f"the denoiser in {where} {error}") from None
        variant = self.record.variants[name]
        found = variant.settings(index, config)
        options = {option: index[option] for option in variant.options if index.get(option) is not None}
        found |= {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return found | ({"variant": name} if name else {})

    def paired_settings(self, config: Mapping[str, Any], boundary_ratio: float | None, source: str) -> dict[str, Any]:
        """See `Family`."""
        ratio = self.record.boundary(config) if boundary_ratio is None else boundary_ratio
        if ratio is None:
            return super().paired_settings(config, boundary_ratio, source)
        found = self._settings_of({"boundary_ratio": ratio}, config, Path(source))
        return {name: value for name, value in found.items() if name not in ("width", "height")}

    def vae_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family`."""
        found = self.record.vae_settings(config)
        return found | {"multiple": self.record.latents.patch * found["factor"]}

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
        """See `Family`."""
        import torch

        text = self._text(model)
        self._check_text(model, clip_skip, prompt_2, max_sequence_length)
        seen = self._seen(model, references)
        with ExitStack() as stack:
            parts: dict[str, Any] = {}
            for name in self.parts["text_encoder"]:
                if name not in dict(model.components):
                    continue
                weighty = self.stems[name] is not None
                part = stack.enter_context(store.component(model, name, device if weighty else "cpu"))
                if isinstance(part, Tokenizer):
                    stack.enter_context(part.lock)
                    part = part.tokenizer
                parts[name] = part
            stack.enter_context(torch.no_grad())
            variant = self._encoded_by(model, parts)
            pipeline = self._pipeline_to_encode(model, variant, parts)
            length = max_sequence_length or model.setting("max_sequence_length", text.length)
            _check_skip(clip_skip, [parts[name] for name in text.skips])

            def encode(words: str, own: bool) -> dict[str, torch.Tensor]:
                """Encode the caller's own prompt, or the absent one, to which nothing else of the call belongs."""
                call = dict(text.always) | {"device": torch.device(device)}
                call |= {"clip_skip": clip_skip} if own and clip_skip else {}
                call |= {} if length is None else {"max_sequence_length": length}
                call |= dict.fromkeys(text.second, prompt_2 or words if own else words)
                if text.pictures:
                    call[text.pictures] = text.shown(pipeline, seen) if seen else None
                return self._named(pipeline.encode_prompt(words, **call), text)

            def encode_absent() -> dict[str, torch.Tensor]:
                return encode(text.absent, own=False)

            absent: dict[str, torch.Tensor] = {}
            if text.negative == "absent" and not (variant.guidance or self.record.guidance).embedded:
                key = (length, tuple(id(part) for part in parts.values()))
                absent = encode_absent() if seen else self._known(model, parts, key, encode_absent)
            found = absent if prompt is None and absent else encode(text.absent if prompt is None else prompt, own=True)
        fields = {name: tensor for name, tensor in found.items() if name not in ("embeds", "pooled")}
        return Conditioning(
            found["embeds"], self.name, prompt is None, found.get("pooled"), absent, fields=fields, seen=_digests(seen)
        )

    def _check_text(self, model: Model, clip_skip: int, second: str | None, length: int | None) -> None:
        text = self._text(model)
        if clip_skip and not text.skips:
            raise ValueError(f"{model.source} is a {self.name} model, which needs all layers; leave clip_skip out")
        if second is not None and not text.second:
            raise ValueError(f"{model.source} has one text encoder; leave prompt_2 out")
        if length is not None and text.length is None:
            raise ValueError(f"{model.source} reads prompts of a fixed length; leave max_sequence_length out")

    def _pipeline_to_encode(self, model: Model, variant: Variant, parts: Mapping[str, Any]) -> Any:
        """A pipeline of a variant with a model's text encoders alone."""
        made = _constructed(self.record.adapted(class_of(next(iter(variant.tasks.values())))), parts)
        for name, part in self._text(model).unseen(model).items():
            setattr(made, name, part)
        return made

    def _encoded_by(self, model: Model, parts: Mapping[str, Any]) -> Variant:
        """The variant of a model; of text encoders of several classes, which may be alone, the first that has them."""
        variants = self.record.variants.values()
        if not any(one.classes for one in variants):
            return self._variant(model)
        kinds = {name: type(part).__name__ for name, part in parts.items() if self.stems[name] is not None}

        def reads(one: Variant) -> bool:
            return all(kind in _names(one.classes.get(name, [self.classes[name]])) for name, kind in kinds.items())

        return next(one for one in variants if reads(one))

    def encoder_classes(self, component: str) -> frozenset[str]:
        """See `Family`: those of all variants."""
        return frozenset(_names([self.classes[component], *self._variants_classes(component)]))

    def class_of(self, component: str, location: Location) -> tuple[str, str]:
        """See `Pipelines`: of variants with several classes the one that the component's configurations name."""
        found = self._variants_classes(component)
        said = _said_classes(location.folder) if found else ""
        return next((one for one in found if f'"{one[1]}"' in said), self.classes[component])

    def _variants_classes(self, component: str) -> list[tuple[str, str]]:
        return [cls for one in self.record.variants.values() for cls in one.classes.get(component, ())]

    def _seen(self, model: Model, references: Sequence[Image]) -> list[Any]:
        """The reference pictures that the text encoder sees, as PIL has them.

        Raises:
            ValueError: It sees none or not so many, or there are none to see for a model that only edits.
        """
        text, variant = self._text(model), self._variant(model)
        task = variant.task(frozenset({"references"}))
        if not text.pictures:
            if references and any(one.text for one in self.record.variants.values()):
                raise ValueError(
                    f"the text encoder of {model.source} sees no reference pictures: leave references out; of a model "
                    "that edits, give encode_prompt the whole model, since the text encoder alone does not tell"
                )
            return []
        assert task is not None
        if not references and variant.task(frozenset()) is None:
            raise ValueError(f"{model.source} edits, and needs reference pictures: give encode_prompt references")
        _check_count(model, references, task)
        return [picture.pil() for picture in _shown(references, task)]

    def _named(self, returned: Any, text: Text) -> dict[str, torch.Tensor]:
        """The tensors that `encode_prompt` returned, by the names in the record."""
        values = returned if isinstance(returned, tuple) else (returned,)
        found = {}
        for name, value in zip(text.returns, values, strict=True):
            if name is not None and value is not None:
                found[name] = (value[0][None] if isinstance(value, list) else value).cpu()
        return found

    def _known(self, model: Model, parts: Mapping[str, Any], key: Any, encode: Any) -> dict[str, torch.Tensor]:
        """The absent prompt as these text encoders encode it, encoded once unless a caller handed them in."""
        encoder = next(part for name, part in parts.items() if self.stems[name] is not None)
        if any(isinstance(digest, Held) for name, digest in model.components if name in parts):
            return dict(encode())  # the caller may change it
        known = self._absent.setdefault(encoder, {})
        if key not in known:
            known[key] = encode()
        return dict(known[key])

    def prompts(self, request: SampleRequest, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """See `Pipelines`."""
        text, sides = self._text(request.model), {"": request.positive}
        if negative := self._negatives(request):
            sides["negative_"] = negative
        call: dict[str, Any] = {}
        for side, texts in sides.items():
            if text.ragged == "padded":
                texts = _padded(texts)
            for name, argument in text.arguments.items():
                rows = [tensor for one in texts if (tensor := one.tensor(name)) is not None]
                if rows:
                    if len(rows) < len(texts):
                        raise ValueError(f"some of these prompts have no {name}; encode all of them by encode_prompt")
                    call[f"{side}{argument}"] = self._batch(name, rows, len(request.seeds), device, dtype)
                elif name in ("embeds", "pooled"):
                    raise ValueError(
                        f"{self.name} needs a {name} embedding with each prompt; this conditioning has none"
                    )
        return call

    def _batch(self, name: str, rows: Sequence[torch.Tensor], count: int, device: str, dtype: torch.dtype) -> Any:
        """The tensors [1, ...] of all prompts for the pictures, as the pipelines take them."""
        if self.record.text.ragged == "list":
            each = arguments.each_picture(rows, count)
            return [row[0].to(device, dtype) for row in each]
        found = arguments.expand(rows, count).to(device)
        return found.to(dtype) if found.is_floating_point() and name != "mask" else found

    def _negatives(self, request: SampleRequest) -> Sequence[Conditioning]:
        """The negative prompts that guide; none where there is no guidance by them."""
        guidance, options = self._guidance(request.model), request.options
        given = [one for one in request.negative if not one.absent]
        if guidance.embedded:
            if given and guidance.real and options.arguments.get(guidance.real, 1.0) > 1:
                return request.negative
            if given:
                self._warn_of_negative(request.model)
            return ()
        if given and guidance.off == math.inf:
            self._warn_of_negative(request.model)
        if options.guidance_scale <= guidance.off:
            return ()
        if self._text(request.model).negative != "none":
            return arguments.negatives(request)
        if given and len(given) < len(request.negative):
            raise ValueError("some of these pictures have a negative prompt and others none; sample them one by one")
        return given

    def _warn_of_negative(self, model: Model) -> None:
        if model.source in self._warned:
            return
        self._warned.add(model.source)
        real = self._guidance(model).real
        unless = f" without {real} over 1" if real else ""
        log.warning("%s takes no negative prompt%s: it is ignored", model.source, unless)

    # --- pictures to latents and back ---------------------------------------------------------------------------------

    def encode_image(self, store: Components, model: Model, image: Image, device: str) -> Posterior:
        """See `Family`."""
        arguments.check_size(*image.size, model)
        latents = self.record.latents
        with store.component(model, "vae", device) as shared:
            vae = private(shared) if latents.keeps_state else shared
            return arguments.encode_pictures(vae, image, self.name, device, frames=latents.frames)

    def decode(self, store: Components, model: Model, latent: Latent, device: str) -> Image:
        """See `Family`."""
        latents = self.record.latents
        with store.component(model, "vae", device) as shared:
            vae = private(shared) if latents.keeps_state else shared
            return arguments.decode_pictures(vae, latent, device, latents.to_vae)

    def encode_video(self, store: Components, model: Model, video: Video, device: str) -> Posterior:
        """See `Family`."""
        if not _makes_videos(model):
            return super().encode_video(store, model, video, device)
        arguments.check_size(*video.size, model)
        arguments.check_frames(len(video), model)
        with store.component(model, "vae", device) as shared:
            return arguments.encode_frames(private(shared), video, self.name, device)

    def decode_video(self, store: Components, model: Model, latent: Latent, fps: float, device: str) -> Video:
        """See `Family`."""
        if not _makes_videos(model):
            return super().decode_video(store, model, latent, fps, device)
        with store.component(model, "vae", device) as shared:
            return arguments.decode_frames(private(shared), latent, fps, device, self.record.latents.to_vae)

    # --- sampling -----------------------------------------------------------------------------------------------------

    def foresee(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """See `Family`."""
        yield from super().foresee(model, given)
        variant = self._variant(model)
        there = {"references": "references", "inpaint": "mask", "control": "control", "controlnet": "control"}
        there |= {"first": "first", "last": "last"}
        for ask, name in there.items():
            if given.get(name) is None and all(ask in task for task in variant.tasks):
                yield f"{model.source}: this model needs {ASKS[ask]}; link one"
        if given.get("control") is not None and not any("control" in task for task in variant.tasks):
            yield f"{model.source}: this model takes no ControlNet; leave control out"
        for name in ("first", "last", "video"):
            if given.get(name) is not None and not any(name in task for task in variant.tasks):
                yield f"{model.source}: this model takes no {ASKS[name].removeprefix('a ')}; leave {name} out"

    def reference_problems(self, model: Model, references: Any) -> Iterator[str]:
        """See `Pipelines`."""
        tasks = [task for name, task in self._variant(model).tasks.items() if "references" in name]
        most = max((task.several for task in tasks), default=0)
        if tasks and (lacks := tasks[0].lacks(model)):
            yield lacks
        elif not tasks:
            yield f"{model.source}: this model takes no {ASKS['references']}; leave references out"
        elif isinstance(references, list) and len(references) > most:
            yield f"{model.source} takes {most} reference pictures at most, and got {len(references)}"

    def sample(self, store: Components, request: SampleRequest, device: str, step: Step) -> Sampled:
        """See `Family`. Several pictures of a pipeline that makes one at a time are several runs."""
        if not self._task(request).single or len(request.seeds) == 1:
            return super().sample(store, request, device, step)
        return _one_by_one(request, lambda one, told: super(Flow, self).sample(store, one, device, told), step)

    def _variant(self, model: Model) -> Variant:
        return self.record.variants[model.setting("variant", "")]

    def _guidance(self, model: Model) -> Guidance:
        return self._variant(model).guidance or self.record.guidance

    def _text(self, model: Model) -> Text:
        return self._variant(model).text or self.record.text

    def _task(self, request: SampleRequest) -> Task:
        """The task of a request.

        Raises:
            ValueError: The model has none for what the request holds.
        """
        tasks = self._variant(request.model)
        found = tasks.task(request.asks)
        if found is None:
            raise ValueError(f"{request.model.source}: {_missing(request.asks, tasks)}")
        if lacks := found.lacks(request.model):
            raise ValueError(lacks)
        return found

    def size_of(self, model: Model, references: Sequence[Image]) -> tuple[int, int]:
        """See `Family`."""
        task = self._variant(model).task(frozenset({"references"}))
        width, height = references[-1 if task is None else task.decides].size
        if task is not None and task.size is not None:
            return task.size(width, height)
        area, multiple = int(model.setting("width")) * int(model.setting("height")), arguments.sides_of(model)
        sides = ((area * width / height) ** 0.5, (area * height / width) ** 0.5)
        found = [max(multiple, round(side / multiple) * multiple) for side in sides]
        return found[0], found[1]

    def pipeline_for(self, request: SampleRequest) -> Any:
        """See `Pipelines`."""
        return self.record.adapted(class_of(self._task(request)))

    def image_prompts(self, request: SampleRequest, denoiser: Any, device: str) -> dict[str, Any]:
        """See `Pipelines`."""
        return flux_arguments(request, denoiser, device)

    def check_request(self, request: SampleRequest, cls: Any) -> None:
        """See `Pipelines`."""
        task = self._task(request)
        _check_count(request.model, request.references, task)
        if task.seen:
            _check_own_size(request, task)
        _check_seen(request, task if self._text(request.model).pictures else None)
        if task.global_noise and request.random:
            raise ValueError(
                f"pictures of {request.model.source} with a ControlNet take a seed; leave the generator out"
            )
        self._check_sampler(request)
        # These pipelines round steps up: with strength 0.05, 10 steps leave one.
        arguments.check_strength(request, cls, lambda steps, strength: steps - int(steps - steps * strength))
        self.record.check(request, task)

    def _check_sampler(self, request: SampleRequest) -> None:
        """Refuse a sampler that draws noise without the caller's generator, or cannot begin at a picture.

        Raises:
            ValueError: It is so.
        """
        options = request.options
        name, of_name = sampler_names.read(options.scheduler, self.schedulers, self.name)
        algorithm = {**of_name, **(options.scheduler_options or {})}.get("algorithm_type")
        if _draws(algorithm):
            raise ValueError(f"{algorithm} draws noise that no seed decides in {self.name} models; take another")
        if request.starts_from and name is not None and name not in noise_schedulers.FLOW:
            raise ValueError(
                f"{name} cannot begin at a picture in a {self.name} model; take {' or '.join(self._beginning())}"
            )

    def _beginning(self) -> list[str]:
        return [name for name in self.schedulers if name in noise_schedulers.FLOW]

    def check_scheduler(self, model: Model, config: Mapping[str, Any]) -> None:
        """See `Pipelines`."""
        algorithm = config.get("algorithm_type")
        draws = "stochastic_sampling" if config.get("stochastic_sampling") else algorithm if _draws(algorithm) else ""
        if draws:
            raise ValueError(f"{model.source}'s scheduler draws noise that no seed decides ({draws})")

    def scales(self, request: SampleRequest) -> dict[str, Any]:
        """See `Pipelines`."""
        guidance, options = self._guidance(request.model), request.options
        # Without a negative prompt the pipelines would only warn that the scale does nothing.
        idle = self._text(request.model).negative == "none" and not self._negatives(request)
        second = {} if options.guidance_scale_2 is None else {"guidance_scale_2": options.guidance_scale_2}
        return {guidance.argument: guidance.off if idle else options.guidance_scale, **second}

    def beside(self, stack: ExitStack, store: Components, request: SampleRequest, device: str) -> dict[str, Any]:
        """See `Pipelines`."""
        model = request.model
        names = [name for name in self.record.beside if name in dict(model.components)]
        found = {name: stack.enter_context(store.component(model, name, device)) for name in names}
        return {name: part.tokenizer if isinstance(part, Tokenizer) else part for name, part in found.items()}

    def net_for(self, request: SampleRequest, net: Any) -> Any:
        """See `Pipelines`."""
        return private(net) if self.record.lends else net

    def control_arguments(self, request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.record.controls(request, nets)

    def vae_component(self, stack: ExitStack, store: Components, request: SampleRequest, device: str) -> dict[str, Any]:
        """See `Pipelines`: always one, without weights if the pipeline encodes nothing."""
        model, task, latents = request.model, self._task(request), self.record.latents
        config = store.config(model, "vae")
        real, statistics, dtype = None, {}, None
        if task.encodes or latents.statistics:
            shared = stack.enter_context(store.component(model, "vae", device))
            statistics, dtype = {name: getattr(shared, name) for name in latents.statistics}, shared.dtype
            if task.encodes:
                real = private(shared) if latents.keeps_state else shared
        cls, dtype = class_named(*self.classes["vae"]), dtype or dtype_of(model.precision, device)
        seed = request.seeds[0] if task.global_noise else None
        made = PipelineVAE(cls, config, device, dtype, real, statistics, seed)
        start = request.latent if request.starts_from == "Img2Img" else None
        return {"vae": made.made(start, latents.exact(config))}

    def start(
        self, cls: Any, request: SampleRequest, generators: Any, device: str, dtype: torch.dtype
    ) -> tuple[Any, dict[str, Any]]:
        """See `Pipelines`: pictures of NaN, in whose place the VAE gives what was encoded before."""
        import torch

        assert request.latent is not None
        held = request.latent.samples if isinstance(request.latent, Latent) else request.latent.mean
        width, height = request.size
        count = len(request.seeds) if isinstance(generators, list) else len(held)
        frames = () if request.frames is None else (request.frames,)
        image = torch.full((count, *frames, 3, height, width), torch.nan)
        return cls, self._called(request, {"image": image, "width": width, "height": height})

    def inpainting(self, request: SampleRequest, generators: Any) -> dict[str, Any]:
        """See `Pipelines`."""
        values = arguments.inpaint_arguments(request, generators)
        if self._task(request).seen:
            assert request.image is not None
            values["image"] = request.image.opaque().pil()
        return self._called(request, values)

    def going_on(self, request: SampleRequest) -> dict[str, Any]:
        """See `Pipelines`."""
        return self._called(request, super().going_on(request))

    def _called(self, request: SampleRequest, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by the names that the task's pipeline has for them, with those that it always gets."""
        task = self._task(request)
        if request.references:
            pictures = [picture.pil() for picture in _shown(request.references, task)]
            values = {**values, "references": pictures if task.several > 1 else pictures[0]}
        ends = {"first": request.first, "last": request.last}
        values = {**values, **{name: one.opaque().pil() for name, one in ends.items() if one is not None}}
        names = {"references": "image", **task.names}
        found = {names.get(name, name): value for name, value in values.items()}
        if not task.sized:
            found = {name: value for name, value in found.items() if name not in ("width", "height")}
        return {str(name): value for name, value in found.items() if name is not None} | dict(task.always(request))

    def further(self, request: SampleRequest) -> Mapping[str, Any]:
        """See `Pipelines`."""
        if "controlnet" not in request.asks:
            return request.options.arguments
        # The control arguments give control_mode, with a mode for each ControlNet.
        return {name: value for name, value in request.options.arguments.items() if name != "control_mode"}

    def constructor_options(self, request: SampleRequest) -> dict[str, Any]:
        """See `Pipelines`."""
        return self.options_of(request.model)

    def options_of(self, model: Model) -> dict[str, Any]:
        """The arguments of the constructors of a model's pipelines beside their components."""
        found = {name: model.setting(name, None) for name in self._variant(model).options}
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        return {name: value for name, value in found.items() if value is not None}

    def pipeline_of(self, model: Model, task: str | None = None) -> Any:
        """The class of a model's pipeline for a task of its record, by default for the first; None if it has none."""
        tasks = self._variant(model).tasks
        found = next(iter(tasks.values())) if task is None else tasks.get(task)
        return None if found is None else class_of(found)

    def layouts(self, cls: Any, request: SampleRequest) -> tuple[Layout, Layout]:
        """See `Pipelines`."""
        shape, latents = self._shape(cls, request), self.record.latents
        return (lambda found: latents.pack(found, shape)), (lambda found: latents.unpack_step(found, shape))

    def result(self, cls: Any, request: SampleRequest, output: Any, last: torch.Tensor) -> torch.Tensor:
        """See `Pipelines`."""
        if self.record.latents.of_loop:
            return self.record.latents.unpack_step(last, self._shape(cls, request))
        found = output.frames if self.record.latents.frames and hasattr(output, "frames") else output.images
        return self.record.latents.unpack(found, self._shape(cls, request))

    def _shape(self, cls: Any, request: SampleRequest) -> Shape:
        return Shape(*request.size, int(request.model.setting("factor")), cls)


def _names(classes: Sequence[tuple[str, str]]) -> list[str]:
    return [name for _, name in classes]


def _said_classes(folder: Path) -> str:
    """The configurations of a component, where its class stands: a model's, a tokenizer's or a processor's."""
    names = ("config.json", "tokenizer_config.json", "processor_config.json")
    return "".join((folder / name).read_text() for name in names if (folder / name).is_file())


def _makes_videos(model: Model) -> bool:
    return model.setting("frame_factor") is not None


def class_of(task: Task) -> Any:
    module, _, name = task.pipeline.rpartition(".")
    return class_named(f"diffusers.pipelines.{module}", name)


def _constructed(cls: Any, parts: Mapping[str, Any]) -> Any:
    """A pipeline with some of its components; the others are None."""
    import inspect

    names = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "args", "kwargs")]
    parameters = inspect.signature(cls.__init__).parameters
    absent = {name: None for name in names if parameters[name].default in (None, parameters[name].empty)}
    return cls(**(absent | {name: part for name, part in parts.items() if name in names}))


def _padded(texts: Sequence[Conditioning]) -> list[Conditioning]:
    """Prompts at the length of the longest, with zeros, and a mask of what is no padding: [1, tokens]."""
    import torch

    longest = max(text.embeds.shape[1] for text in texts)
    found = []
    for text in texts:
        known = text.tensor("mask")
        mask = torch.ones(text.embeds.shape[:2], dtype=torch.long) if known is None else known
        more = longest - text.embeds.shape[1]
        embeds = torch.nn.functional.pad(text.embeds, (0, 0, 0, more))
        masks = {"mask": torch.nn.functional.pad(mask, (0, more))}
        found.append(replace(text, embeds=embeds if more else text.embeds, fields={**text.fields, **masks}))
    return found


def _shown(references: Sequence[Image], task: Task) -> list[Image]:
    """Reference pictures as a pipeline takes them: with alpha, or over white."""
    return [one if task.alpha else one.opaque() for one in references]


def _check_count(model: Model, references: Sequence[Image], task: Task) -> None:
    """Refuse more reference pictures than a pipeline takes.

    Raises:
        ValueError: There are more.
    """
    if len(references) > task.several:
        raise ValueError(
            f"{model.source} takes {task.several} reference pictures at most, and got {len(references)}"
        )


def _check_own_size(request: SampleRequest, task: Task) -> None:
    """Refuse a picture of another size than the pipeline would bring it to.

    Raises:
        ValueError: It is of another size.
    """
    assert request.image is not None
    assert task.size is not None
    width, height = wanted = task.size(*request.image.size)
    if request.image.size != wanted:
        raise ValueError(
            f"{request.model.source} paints over pictures of its own area: bring this one and its mask to {width} x "
            f"{height} by resize_image and resize_mask; they are {request.image.size[0]} x {request.image.size[1]}"
        )


def _digests(pictures: Sequence[Any]) -> tuple[str, ...]:
    """Digests of PIL pictures, as `Conditioning.seen` has them."""
    return tuple(hashlib.blake2b(repr(p.size).encode() + p.tobytes(), digest_size=16).hexdigest() for p in pictures)


def _check_seen(request: SampleRequest, task: Task | None) -> None:
    """Refuse prompts whose text encoder saw other pictures than the sampler gets.

    Args:
        task: Of the request; None where the model's text encoder sees none.

    Raises:
        ValueError: It is so.
    """
    given = list(request.references)
    if task is not None and task.seen and request.image is not None:
        given += request.image.split()[: task.seen]
    expected = () if task is None else _digests([one.pil() for one in _shown(given, task)])
    for prompt in (*request.positive, *request.negative):
        if len(prompt.seen) != len(expected):
            raise ValueError(
                f"a prompt was encoded with {len(prompt.seen)} reference pictures, and the sampler gets "
                f"{len(expected)}: give the same references to encode_prompt and to sample"
            )
        if prompt.seen != expected:
            raise ValueError(
                "a prompt was encoded with other pictures than the sampler gets: give the same references, in the same "
                "order, to encode_prompt and to sample"
            )


def _draws(algorithm: Any) -> bool:
    return str(algorithm).startswith("sde-")


def _check_skip(clip_skip: int, encoders: Sequence[Any]) -> None:
    """Refuse to leave out all layers of a text encoder.

    Raises:
        ValueError: It would.
    """
    layers = min((int(encoder.config.num_hidden_layers) for encoder in encoders), default=0)
    if clip_skip and clip_skip >= layers - 1:
        raise ValueError(f"clip_skip {clip_skip} leaves none of the text encoder's {layers} layers; give less")


def _missing(asks: frozenset[str], variant: Variant) -> str:
    """A sentence on a request for which a variant has no task."""
    known = [frozenset(filter(None, name.split("+"))) for name in variant.tasks]
    if not asks:
        least = [one for one in known if not any(other < one for other in known)]
        needed = [" together with ".join(ASKS[name] for name in sorted(one)) for one in least]
        return f"this model needs {' or '.join(needed)}; link one"
    everywhere = frozenset.intersection(*known)
    if lacks := sorted(everywhere - asks):
        return f"this model needs {ASKS[lacks[0]]}; link one"
    strange = sorted(name for name in asks if not any(name in one for one in known))
    if strange:
        them = "them" if ASKS[strange[0]].endswith("s") else "it"
        instead = f"leave {them} out"
        if strange == ["image"] and any("references" in one for one in known):
            instead = "give it to references"
        if strange == ["inpaint"] and any("image" in one for one in known):
            instead = "use repaint"
        return f"this model takes no {ASKS[strange[0]].removeprefix('a ')}; {instead}"
    return f"there is no pipeline for {' together with '.join(ASKS[name] for name in sorted(asks))}; leave one out"


def _one_by_one(request: SampleRequest, sample: Any, step: Step) -> Sampled:
    """Sample the pictures of a request one after another."""
    import torch

    count, found = len(request.seeds), []
    parts: dict[int, torch.Tensor] = {}
    for index, seed in enumerate(request.seeds):
        one = replace(
            request,
            seeds=[seed],
            positive=[_of(request.positive, index, count)],
            negative=[_of(request.negative, index, count)] if request.negative else (),
            random=(request.random[index],) if len(request.random) > 1 else request.random,
            **_pictures_of(request, index, count),
        )

        def told(done: int, total: int, samples: torch.Tensor, index: int = index) -> None:
            parts[index] = samples
            shown = [parts.get(n, torch.zeros_like(samples)) for n in range(count)]
            step(index * total + done, count * total, torch.cat(shown))

        found.append(sample(one, told))
        if len(request.random) == 1:  # one generator draws all pictures
            request = replace(request, random=found[-1].random)
    random = tuple(state for one in found for state in one.random)
    return Sampled(torch.cat([one.samples for one in found]), random if len(request.random) != 1 else found[-1].random)


def _pictures_of(request: SampleRequest, index: int, count: int) -> dict[str, Any]:
    """What one of several pictures starts from and follows, of which there may be one for each or one for all."""

    def row(batch: torch.Tensor) -> torch.Tensor:
        at = index * len(batch) // count
        return batch[at : at + 1]

    found: dict[str, Any] = {
        "control": [replace(one, image=Image(row(one.image.pixels))) for one in request.control],
    }
    if request.image is not None:
        found["image"] = Image(row(request.image.pixels))
    if request.mask is not None:
        found["mask"] = replace(request.mask, values=row(request.mask.values))
    return found


def _of(values: Sequence[Any], index: int, count: int) -> Any:
    return values[index * len(values) // count]
