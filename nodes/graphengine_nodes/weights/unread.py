"""Tensors in files of weights that no component has a place for and that change no picture, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNREAD = {
    r"(^|\.)position_ids$": "the numbers 0, 1, 2, ... that older text encoders of transformers kept in their files",
    r"(^|\.)logit_scale$": "the temperature of CLIP's training, in files of whole CLIP models",
    r"^(vision_model|visual_projection|visual)\b": "the picture side of CLIP, in files of whole CLIP models",
    r"^(text_model\.)?text_projection(\.weight)?$": "the projection to CLIP's space, in text encoders used without it",
    r"(^|\.)attn_mask$": "the causal mask of OpenCLIP, which is computed",
    r"(^|\.)(rotary_emb\.)?inv_freq$": "frequencies of rotary embeddings, which are computed",
    r"(^|\.)num_batches_tracked$": "a counter of training in batch norms",
    r"^(decoder\.|lm_head\.)": "the decoder of T5, in files of whole T5 models: only the encoder reads prompts",
    r"^(encoder|shared)\.(embed_tokens\.)?weight$": "the embeddings of T5, which stand twice in some files",
    r"^loss\.": "the discriminator of a VAE's training",
    r"(^|\.)(spiece_model|tokenizer_json)$": "the bytes of a tokenizer, in files of text encoders made for ComfyUI",
}
"""Patterns of names, and what the tensors are."""


def without_place(names: Iterable[str]) -> list[str]:
    """The names of tensors, of those that a component has no place for, that may not be left out; sorted."""
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in UNREAD))
