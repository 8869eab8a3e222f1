"""Tokenizers inside text encoders' files: SentencePiece's model as a tensor of bytes, which ComfyUI's files have, and
vocabularies in the header of GGUF files.

Each is written once into the user's cache folder as transformers reads it. No torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine import ModelError
from graphengine_nodes.weights.gguf_files import is_gguf, read_gguf_vocabulary
from graphengine_nodes.weights.headers import once_for_a_file, read_bytes, read_headers
from graphengine_nodes.weights.vocabulary import written

SPIECE = "spiece_model"
"""The name, or its end, of a tensor that holds SentencePiece's model."""

LONGEST = 100_000_000
"""Bytes of a vocabulary at most: published ones have 5 million."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of tokens, in SentencePiece's files and in GGUF files alike."""

CHAT = "tokenizer.chat_template"


def tokenizer_inside(file: Path) -> Path | None:
    """The folder of the tokenizer that a file of weights holds; None of a file that holds none that is read.

    Raises:
        ModelError: It is damaged, or the cache cannot be written.
    """
    texts = _texts(file)
    if texts is None:
        return None
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    return written(f"tokenizer-{digest[:32]}", texts)


@once_for_a_file
def _texts(file: Path) -> dict[str, str] | None:
    try:
        return _in_gguf(file) if is_gguf(file) else _in_safetensors(file)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, struct.error):
        raise ModelError(
            f"{file}: the tokenizer inside it is damaged; give tokenizer, a folder with the model's own"
        ) from None


def _in_safetensors(file: Path) -> dict[str, str] | None:
    header = read_headers(file).header
    name = next((name for name in header if name.split(".")[-1] == SPIECE and header[name]["dtype"] == "U8"), None)
    if name is None or math.prod(header[name]["shape"]) > LONGEST:
        return None
    return _unigram(*_sentence_pieces(read_bytes(file, header, [name])[name]))


def _in_gguf(file: Path) -> dict[str, str] | None:
    said = read_gguf_vocabulary(file)
    kind, tokens, kinds = (said.get(f"tokenizer.ggml.{name}") for name in ("model", "tokens", "token_type"))
    if not tokens or not kinds or len(tokens) != len(kinds):
        return None
    if kind == "t5":
        charsmap = said.get("tokenizer.ggml.precompiled_charsmap") or ()
        return _unigram(list(zip(tokens, said["tokenizer.ggml.scores"], kinds, strict=True)), bytes(charsmap))
    if kind == "gpt2" and said.get("tokenizer.ggml.pre") == "qwen2":
        return _qwen(said, tokens, kinds)
    return None


Piece = tuple[str, float, int]
"""A token, its score and its kind."""


def _unigram(pieces: Sequence[Piece], charsmap: bytes) -> dict[str, str]:
    """The files of T5's tokenizer."""
    marks = [
        {"id": number, "content": token, "special": True, "normalized": False, **PLAIN}
        for number, (token, _, kind) in enumerate(pieces)
        if kind in (UNKNOWN, CONTROL)
    ]
    unknown = next(number for number, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN)
    end = next(number for number, (token, *_) in enumerate(pieces) if token == "</s>")
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    ends: Any = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    second: Any = [{"Sequence": {"id": "B", "type_id": 0}}, ends[1]]
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": marks,
        "normalizer": precompiled if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": ends,
            "pair": [*ends, *second],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}},
        },
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": [[token, score] for token, score, _ in pieces]},
    }
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": 512,
        "extra_ids": 0,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": pieces[unknown][0],
    }
    return {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(config)}


PLAIN = {"single_word": False, "lstrip": False, "rstrip": False}
"""What all tokens that stand for themselves have."""


def _qwen(said: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, str]:
    """The files of Qwen's tokenizer."""
    used = (NORMAL, CONTROL, USER_DEFINED)
    vocabulary = {token: number for number, token in enumerate(tokens) if kinds[number] in used}
    marks = {
        str(number): {"content": token, "special": kinds[number] == CONTROL, "normalized": False, **PLAIN}
        for number, token in enumerate(tokens)
        if kinds[number] in (CONTROL, USER_DEFINED)
    }
    config: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 131072,
        "added_tokens_decoder": marks,
        "eos_token": tokens[said["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[said.get("tokenizer.ggml.padding_token_id", said["tokenizer.ggml.eos_token_id"])],
    }
    if CHAT in said:
        config["chat_template"] = said[CHAT]
    merges = "\n".join(["#version: 0.2", *said["tokenizer.ggml.merges"], ""])
    return {"vocab.json": _json(vocabulary), "merges.txt": merges, "tokenizer_config.json": _json(config)}


def _json(found: Any) -> str:
    return json.dumps(found, ensure_ascii=False)


# --- SentencePiece, whose models are messages in the format of protocol buffers --------------------------------------

PIECES, NORMALIZER = 1, 3
"""Its fields that are read."""


def _sentence_pieces(packed: bytes) -> tuple[list[Piece], bytes]:
    """The pieces of a model and its rules of normalisation, compiled."""
    pieces: list[Piece] = []
    charsmap = b""
    for number, value in _fields(packed):
        if number == PIECES:
            said = dict(_fields(value))
            pieces.append((said[1].decode(), struct.unpack("<f", said[2])[0], said.get(3, NORMAL)))
        elif number == NORMALIZER:
            charsmap = dict(_fields(value)).get(2, b"")
    if not pieces:
        raise ValueError("no pieces")
    return pieces, charsmap


def _fields(packed: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: numbers, or bytes."""
    place = 0

    def number() -> int:
        nonlocal place
        found = shift = 0
        while True:
            byte = packed[place]
            place += 1
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found
            if shift > 63:
                raise ValueError(shift)

    while place < len(packed):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
            continue
        size = {1: 8, 5: 4}.get(tag & 7) or (number() if tag & 7 == 2 else -1)
        if not 0 <= size <= len(packed) - place:
            raise ValueError(size)
        yield tag >> 3, packed[place : place + size]
        place += size
