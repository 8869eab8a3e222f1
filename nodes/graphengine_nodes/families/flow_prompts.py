"""Prompts of the families that are records: from texts to conditioning, and on to the arguments of pipelines."""

from __future__ import annotations

import inspect
import logging
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import Components, SampleRequest
from graphengine_nodes.families.flow_files import FlowFiles, names_of
from graphengine_nodes.families.flow_requests import check_count, class_of, digests, shown
from graphengine_nodes.families.pipelines import Tokenizer
from graphengine_nodes.families.record import Record, Text, Variant
from graphengine_nodes.values.references import Held
from graphengine_nodes.values.types import Conditioning, Image, Model

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class FlowPrompts(FlowFiles):
    """The part of `flow.Flow` that encodes prompts; see `graphengine_nodes.families.Family`."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self._warned: set[str] = set()
        # The encoded absent prompt, kept as long as its text encoder: each prompt needs it.
        self._absent: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

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
                absent = encode_absent() if seen else self._known(model, parts, length, encode_absent)
            found = absent if prompt is None and absent else encode(text.absent if prompt is None else prompt, own=True)
        fields = {name: tensor for name, tensor in found.items() if name not in ("embeds", "pooled")}
        by = digests(seen, variant)
        return Conditioning(
            found["embeds"], self.name, prompt is None, found.get("pooled"), absent, fields=fields, seen=by
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
            return all(kind in names_of(one.classes.get(name, [self.classes[name]])) for name, kind in kinds.items())

        return next(one for one in variants if reads(one))

    def lacks(self, model: Model) -> str | None:
        """See `Family`."""
        there, reads = dict(model.components), self.parts["text_encoder"]
        missing = [name for name in reads if name in self.optional and name not in there]
        if not missing or not self._text(model).pictures:
            return None
        return (
            f"{model.source} shows its text encoder pictures, and the one that is given has no {missing[0]}: load it "
            f"with config, the folder of a model that edits"
        )

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
        check_count(model, references, task)
        return [picture.pil() for picture in shown(references, task)]

    def _named(self, returned: Any, text: Text) -> dict[str, torch.Tensor]:
        """The tensors that `encode_prompt` returned, by the names in the record."""
        values = returned if isinstance(returned, tuple) else (returned,)
        found = {}
        for name, value in zip(text.returns, values, strict=True):
            if name is not None and value is not None:
                found[name] = (value[0][None] if isinstance(value, list) else value).cpu()
        return found

    def _known(
        self, model: Model, parts: Mapping[str, Any], length: int | None, encode: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The absent prompt as these text encoders encode it, encoded once unless a caller handed them in."""
        encoder = next(part for name, part in parts.items() if self.stems[name] is not None)
        if any(isinstance(digest, Held) for name, digest in model.components if name in parts):
            return encode()  # the caller may change it
        key = model.digest("text_encoder"), length
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
                    call[f"{side}{argument}"] = self._batch(name, rows, len(request.seeds), text.ragged, device, dtype)
                elif name in ("embeds", "pooled"):
                    raise ValueError(
                        f"{self.name} needs a {name} embedding with each prompt; this conditioning has none"
                    )
        return call

    @staticmethod
    def _batch(
        name: str, rows: Sequence[torch.Tensor], count: int, ragged: str, device: str, dtype: torch.dtype
    ) -> Any:
        """The tensors [1, ...] of all prompts for the pictures, as the pipelines take them."""
        if ragged == "list":
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


def _constructed(cls: Any, parts: Mapping[str, Any]) -> Any:
    """A pipeline with some of its components; the others are None."""
    parameters = dict(inspect.signature(cls.__init__).parameters)
    for name in ("self", "args", "kwargs"):
        parameters.pop(name, None)
    absent = {name: None for name, one in parameters.items() if one.default in (None, one.empty)}
    return cls(**(absent | {name: part for name, part in parts.items() if name in parameters}))


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


def _check_skip(clip_skip: int, encoders: Sequence[Any]) -> None:
    """Refuse to leave out all layers of a text encoder.

    Raises:
        ValueError: It would.
    """
    layers = min((int(encoder.config.num_hidden_layers) for encoder in encoders), default=0)
    if clip_skip and clip_skip >= layers - 1:
        raise ValueError(f"clip_skip {clip_skip} leaves none of the text encoder's {layers} layers; give less")
