"""CLIP's vocabulary, for single files without a tokenizer: out of a package that ships OpenAI's own.

OpenAI published the vocabulary under the MIT licence as a list of merges, out of which its tokenizer is made by rule.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from graphengine import ModelError, cache_folder, make_private, read_file, write_private

SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
"""Of the list of merges, which is the same in all packages that ship it."""

PACKAGE, FILE = "clip-anytorch", "clip/bpe_simple_vocab_16e6.txt.gz"

MERGES = 49152 - 256 - 2
"""Merges that the tokenizer has: the list is longer."""

START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str = END) -> Path:
    """The folder of CLIP's tokenizer as transformers reads it; it is written into the user's cache once.

    Args:
        pad: What fills prompts up: the end token, or for OpenCLIP's text encoders `!`, whose number is 0.

    Raises:
        ModelError: The package is not installed, or the cache cannot be written.
    """
    vocabulary, merges = _tokenizer()
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad,
    }
    texts = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps(config),
    }
    return written(f"clip-tokenizer-{'open' if pad != END else 'openai'}", texts)


@functools.cache
def _tokenizer() -> tuple[dict[str, int], list[str]]:
    """The numbers of the tokens, and the merges: by OpenAI's rule bytes first, bytes that end a word, merges, marks."""
    merges = gzip.decompress(_packed()).decode("utf-8").split("\n")[1 : MERGES + 1]
    letters = [*map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)])]
    letters += [chr(256 + n) for n in range(256 - len(letters))]  # bytes that are no letters
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return {token: number for number, token in enumerate([*tokens, START, END])}, merges


def _packed() -> bytes:
    try:
        file = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
        packed = file.read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError):
        raise ModelError(
            f"a single file needs CLIP's tokenizer, which the package {PACKAGE} holds: `pip install {PACKAGE}`, or "
            "give config or tokenizer, a folder that has it"
        ) from None
    if hashlib.sha256(packed).hexdigest() != SHA256:
        raise ModelError(f"{file} is not the vocabulary that OpenAI published; install {PACKAGE} again")
    return packed


def written(name: str, texts: dict[str, str]) -> Path:
    """A folder of the user's cache that holds these texts by path; what is there already is not written again.

    Raises:
        ModelError: The cache cannot be written.
    """
    folder = cache_folder() / "configurations" / name
    try:
        for path, text in texts.items():
            file, content = folder / path, text.encode()
            make_private(file.parent, cache_folder())
            if not file.is_file() or read_file(file) != content:
                write_private(file, content)
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be written ({error.strerror}), but the configurations of a single file are kept there; "
            "set GRAPHENGINE_CACHE to a folder that can be, or give config"
        ) from None
    return folder


def check_size(tokenizer: Path, encoder: dict[str, Any], where: Path) -> None:
    """Refuse a tokenizer that has more tokens than a text encoder.

    Args:
        tokenizer: Its folder.
        encoder: The text encoder's configuration.
        where: The text encoder's file, for messages.

    Raises:
        ModelError: It has.
    """
    tokens, rows = _tokens(tokenizer), encoder.get("vocab_size")
    if tokens is not None and isinstance(rows, int) and tokens > rows:
        raise ModelError(
            f"{where} has a text encoder for {rows} tokens, but the tokenizer in {tokenizer} has {tokens}; give "
            "tokenizer, a folder with the model's own"
        )


@functools.lru_cache(64)
def _tokens(tokenizer: Path) -> int | None:
    """How many tokens a tokenizer has; None where its files do not say it."""
    try:
        if (tokenizer / "tokenizer.json").is_file():
            found = json.loads(read_file(tokenizer / "tokenizer.json"))
            words = found["model"]["vocab"]
            numbers = list(words.values()) if isinstance(words, dict) else list(range(len(words)))
            return 1 + int(max([*numbers, *(token["id"] for token in found.get("added_tokens", ()))]))
        if (tokenizer / "vocab.json").is_file():
            return 1 + int(max(json.loads(read_file(tokenizer / "vocab.json")).values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # transformers says what is wrong with it
    return None
