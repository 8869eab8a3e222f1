"""Prompts to embeddings as ComfyUI does it: weights, and prompts longer than a text encoder reads.

A prompt is taken apart into words with weights, whose tokens fill chunks of the encoder's length; a word of fewer than
eight tokens is not divided. A weight moves a token's embedding away from that of the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.prompt_embeddings import spelled, tokenizer_of
from graphengine_nodes.values.types import Conditioning, Model

from graphengine_comfy.sampling.prompt_weights import weighted_texts
from graphengine_comfy.values import CLIP

if TYPE_CHECKING:
    import torch

LARGE = 8
"""Tokens from which a word is divided between chunks."""

UNETS = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_xl_refiner")
"""The families that read prompts with CLIP alone."""

LITERAL = ("flux2", "z_image", "qwen_image", "qwen_image_21")
"""The families whose prompts have no weights: brackets are words of them, as of any text for a language model."""

LEAST = {"flux": 256, "stable_diffusion_3": 77, "chroma": 1}
"""The fewest tokens of T5 that ComfyUI gives the families with it; longer prompts are as long as they are."""


class Chunk(NamedTuple):
    """The tokens that a text encoder reads at once, each with its weight."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def encode(clip: CLIP, texts: Sequence[str], device: str) -> Conditioning:
    """Encode a prompt, as one text for all text encoders or one for each.

    Raises:
        ValueError: It has weights that the family's text encoders are not given here.
    """
    from graphengine_nodes.store.store import store

    model = clip.encoder.model
    of_family = family(model.family)
    device = model.computes_on(device)
    if model.family in UNETS:
        return _by_clip(store, clip, [spelled(model, text) or "" for text in texts], device)
    if clip.stop_at is not None:
        raise ValueError(f"{clip.source} is of a {model.family} model, which needs all layers: leave the layer out")
    literal = model.family in LITERAL
    plain = list(texts) if literal else ["".join(text for text, _ in pairs(one)) for one in texts]
    weighted = not literal and any(weight != 1.0 for one in texts for _, weight in pairs(one))
    if weighted and model.family != "flux":
        raise ValueError(
            f"weights in prompts are not applied for {model.family} models: write the prompt without (…), or its "
            r"brackets as \( and \)"
        )
    second = plain[1] if len(plain) > 1 and plain[1] != plain[0] else None
    length = _length(store, model, second or plain[0])
    found = of_family.encode_prompt(store, model, plain[0], 0, device, second, length)
    if model.family == "chroma":
        return _without_padding(store, model, found, plain[0], clip.padding)
    if model.family == "stable_diffusion_3" and "text_encoder_3" not in dict(model.components):
        return replace(found, embeds=found.embeds[:, :77].clone())  # without T5's zeros
    if weighted:
        assert length is not None
        return replace(found, embeds=_by_t5(store, model, pairs(texts[-1]), length, device))
    return found


def _without_padding(store: Any, model: Model, found: Conditioning, text: str, padding: int) -> Conditioning:
    """A prompt of Chroma that is as long as its words, and so much padding."""
    with store.component(model, "tokenizer", "cpu") as shared, shared.lock:
        tokens = len(shared.tokenizer(text, truncation=False, verbose=False)["input_ids"])
    mask = found.fields["attention_mask"]
    longest = int(mask.shape[1])
    if tokens > longest:
        raise ValueError(f"the prompt has {tokens} tokens; diffusers gives T5 at most {longest}: make it shorter")
    length = min(tokens + padding, longest)
    cut = {**found.fields, "attention_mask": mask[:, :length].clone()}
    return replace(found, embeds=found.embeds[:, :length].clone(), fields=cut)


def _by_t5(store: Any, model: Model, words: Sequence[tuple[str, float]], length: int, device: str) -> torch.Tensor:
    """A prompt with weights as FLUX.1's T5 encodes it, [1, length, width]. Of CLIP the pooled embedding alone counts,
    which weights do not change."""
    import torch

    with store.component(model, "tokenizer_2", "cpu") as shared, shared.lock:
        own = shared.tokenizer
        tokens = [(token, weight) for text, weight in words for token in _tokens(own, text)]
        end, pad = own.eos_token_id, own.pad_token_id
    tokens = [*tokens[: length - 1], (end, 1.0)]
    rest = length - len(tokens)
    chunk = Chunk((*(token for token, _ in tokens), *(pad,) * rest), (*(w for _, w in tokens), *(1.0,) * rest))
    with store.component(model, "text_encoder_2", device) as encoder, torch.no_grad():
        rows = [chunk.ids, (end, *(pad,) * (length - 1))]
        embeds, nothing = (encoder(torch.tensor([ids], device=device))[0].cpu() for ids in rows)
    return _moved(embeds, nothing, chunk)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, word by word."""
    words = filter(None, text.replace("\n", " ").split(" "))
    options = {"truncation": False, "add_special_tokens": False, "verbose": False}
    return [token for word in words for token in tokenizer(word, **options)["input_ids"]]


def pairs(prompt: str) -> list[tuple[str, float]]:
    """The texts of a prompt with their weights.

    Raises:
        ValueError: A weight is not finite, or brackets stand too deep inside one another.
    """
    return [(piece.text, piece.weight) for piece in weighted_texts(prompt)]


def _length(store: Any, model: Model, text: str) -> int | None:
    """The tokens of T5 that a prompt is given; None in families that need no number."""
    least = LEAST.get(model.family)
    name = {"flux": "tokenizer_2", "stable_diffusion_3": "tokenizer_3"}.get(model.family)
    if least is None or name is None or name not in dict(model.components):
        return None
    with store.component(model, name, "cpu") as shared, shared.lock:
        tokens = len(shared.tokenizer(text, truncation=False, verbose=False)["input_ids"])
    if tokens > 512:
        raise ValueError(f"the prompt has {tokens} tokens; diffusers gives T5 at most 512: make it shorter")
    return max(least, tokens)


def _by_clip(store: Any, clip: CLIP, texts: Sequence[str], device: str) -> Conditioning:
    import torch

    model = clip.encoder.model
    names = [name for name in family(model.family).parts["text_encoder"] if name.startswith("text_encoder")]
    each = list(texts) if len(texts) == len(names) else [texts[0]] * len(names)
    rows, empties = [], []
    for name, text in zip(names, each, strict=True):
        with store.component(model, name.replace("text_encoder", "tokenizer"), "cpu") as shared, shared.lock:
            words = tokenizer_of(model, shared.tokenizer)
            rows.append(chunks(pairs(text), words))
            empties.append(chunks([], words)[0])
    longest = max(map(len, rows))
    embeds, pooled = [], None
    for name, row, empty in zip(names, rows, empties, strict=True):
        row = row + [empty] * (longest - len(row))
        with store.component(model, name, device) as encoder, torch.no_grad():
            read = [_read(encoder, chunk.ids, _layer(clip, encoder), model.family, device) for chunk in row]
            weighted = any(weight != 1.0 for chunk in row for weight in chunk.weights)
            nothing = _read(encoder, empty.ids, _layer(clip, encoder), model.family, device)[0] if weighted else None
        embeds.append(torch.cat([_moved(one, nothing, chunk) for (one, _), chunk in zip(read, row, strict=True)], 1))
        pooled = read[0][1] if read[0][1] is not None else pooled
    return Conditioning(torch.cat(embeds, dim=-1), model.family, pooled=pooled)


def chunks(words: Sequence[tuple[str, float]], tokenizer: Any) -> list[Chunk]:
    """Fill chunks with the tokens of texts with weights; at least one chunk.

    Args:
        tokenizer: Of the text encoder; whoever shares it must hold its lock.
    """
    limit = tokenizer.model_max_length
    found: list[list[tuple[int, float]]] = [[]]
    for text, weight in words:
        for word in filter(None, text.replace("\n", " ").split(" ")):
            ids = _tokens(tokenizer, word)
            left = [(token, weight) for token in ids]
            large = len(left) >= LARGE
            while left:
                room = limit - 2 - len(found[-1])
                if len(left) <= room:
                    found[-1] += left
                    left = []
                    continue
                if large:
                    found[-1] += left[:room]
                    left = left[room:]
                found.append([])
    return [_chunk(tokens, tokenizer) for tokens in found]


def _chunk(tokens: Sequence[tuple[int, float]], tokenizer: Any) -> Chunk:
    inner = [(tokenizer.bos_token_id, 1.0), *tokens, (tokenizer.eos_token_id, 1.0)]
    inner += [(tokenizer.pad_token_id, 1.0)] * (tokenizer.model_max_length - len(inner))
    ids, weights = zip(*inner, strict=True)
    return Chunk(ids, weights)


def _layer(clip: CLIP, encoder: Any) -> int | None:
    """The layer whose output is taken, counted from the last as -1; None for that which the family takes itself."""
    layers = encoder.config.num_hidden_layers
    if clip.stop_at is None or -clip.stop_at > layers:
        return None
    cut = 1 if layers == 23 else 0  # files in diffusers layout of SD 2.x are without the last layer
    if clip.stop_at + cut > -1:
        raise ValueError(f"{clip.source} has no layer after the one before the last: give -2 or less")
    return clip.stop_at + cut


def _read(
    encoder: Any, ids: tuple[int, ...], layer: int | None, family_name: str, device: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A text encoder's output for tokens, [1, tokens, width], and where it has one the pooled one, [1, width]."""
    import torch

    plain = family_name == "stable_diffusion"
    output = encoder(torch.tensor([ids], device=device), output_hidden_states=True)
    hidden = output.hidden_states[layer if layer is not None else -1 if plain else -2]
    if plain:
        hidden = getattr(encoder, "text_model", encoder).final_layer_norm(hidden)
    pooled = output[0] if output[0].ndim == 2 else None
    return hidden.cpu(), None if pooled is None else pooled.cpu()


def _moved(embeds: torch.Tensor, nothing: torch.Tensor | None, chunk: Chunk) -> torch.Tensor:
    """A chunk's embeddings, each as far from the empty prompt's as its weight says."""
    if nothing is None or all(weight == 1.0 for weight in chunk.weights):
        return embeds
    weights = embeds.new_tensor(chunk.weights)[None, :, None]
    return ((embeds - nothing) * weights + nothing).where(weights != 1.0, embeds)
