"""CLIP's tokenizer for single files gives the numbers that OpenAI's rule gives, whatever the text."""

from __future__ import annotations

import functools
import gzip
import importlib.metadata
import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import regex
from graphengine_nodes.weights import vocabulary

from graphengine import ModelError

TEXTS = (
    "",
    "a red circle on a blue background",
    "A PHOTO of 3 cats, 12345 dogs & one (very!) big elephant... isn't it? we'll see; they've 'quoted' it",
    "naïve café, Zürich, 東京タワー, Привет мир, 🎨🖼️ é e\u0301 ﬁ",
    "   spaces \t and\nnew lines   ",
    "<|startoftext|>inside<|endoftext|> marks",
    "(masterpiece:1.3), best_quality, 1girl, solo --ar 16:9 http://x.y/z?a=b#c 100% $5 C++ a/b\\c",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "\x00\x01 control ¶ § \u200b zero width",
)


@functools.cache
def reference() -> tuple[dict[str, int], dict[tuple[str, str], int], dict[int, str]]:
    """OpenAI's tokenizer, by its description: the numbers of tokens, the ranks of merges, the letters of bytes."""
    packed = Path(str(importlib.metadata.distribution(vocabulary.PACKAGE).locate_file(vocabulary.FILE))).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(line.split()[0], line.split()[1]) for line in lines]
    printable = [n for n in range(256) if 33 <= n <= 126 or 161 <= n <= 172 or 174 <= n <= 255]
    letters = {n: chr(n) for n in printable}
    for place, n in enumerate(n for n in range(256) if n not in printable):
        letters[n] = chr(256 + place)
    words = [*letters.values()]
    words += (
        [f"{word}</w>" for word in words] + ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    )
    return {word: n for n, word in enumerate(words)}, {pair: n for n, pair in enumerate(merges)}, letters


PIECES = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def encoded(text: str) -> list[int]:
    """The numbers of a text: the pair of the lowest rank is merged first."""
    numbers, ranks, letters = reference()
    clean = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).lower()
    found = [numbers["<|startoftext|>"]]
    for piece in PIECES.findall(clean):
        if piece in numbers and piece.startswith("<|"):
            found.append(numbers[piece])
            continue
        word = [letters[byte] for byte in piece.encode()]
        word[-1] += "</w>"
        while len(word) > 1:
            pairs = {pair: ranks[pair] for pair in itertools.pairwise(word) if pair in ranks}
            if not pairs:
                break
            first = min(pairs, key=lambda pair: pairs[pair])
            merged, at = [], 0
            while at < len(word):
                joined = tuple(word[at : at + 2]) == first
                merged.append("".join(first) if joined else word[at])
                at += 2 if joined else 1
            word = merged
        found += [numbers[one] for one in word]
    return [*found, numbers["<|endoftext|>"]]


@functools.cache
def tokenizer(pad: str = vocabulary.END) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(vocabulary.clip_tokenizer(pad), local_files_only=True)


@pytest.mark.parametrize("text", TEXTS)
def test_numbers_are_those_of_openais_rule(text: str) -> None:
    assert tokenizer()(text)["input_ids"] == encoded(text)


def test_the_tokenizer_is_the_published_one() -> None:
    """Facts of the published folder: tokens of a known prompt, the marks, the length, and what fills prompts up."""
    assert tokenizer()("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer()), tokenizer().model_max_length) == (49408, 77)
    assert (tokenizer().bos_token_id, tokenizer().eos_token_id, tokenizer().pad_token_id) == (49406, 49407, 49407)
    padded = tokenizer("!")("a cat", padding="max_length", max_length=6)["input_ids"]
    assert padded == [49406, 320, 2368, 49407, 0, 0]


def test_a_folder_is_written_once_and_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path))
    folder = vocabulary.clip_tokenizer()
    assert folder.is_relative_to(tmp_path)
    before = (folder / "vocab.json").stat().st_mtime_ns
    (folder / "merges.txt").write_text("damaged")
    assert vocabulary.clip_tokenizer() == folder
    assert (folder / "vocab.json").stat().st_mtime_ns == before
    assert (folder / "merges.txt").read_text().startswith("#version: 0.2\n")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .*set GRAPHENGINE_CACHE to a folder that can be, or give"):
        vocabulary.clip_tokenizer()


def test_sizes_of_tokenizers(tmp_path: Path) -> None:
    where = Path("some.safetensors")
    vocabulary.check_size(vocabulary.clip_tokenizer(), {"vocab_size": 49408}, where)
    with pytest.raises(ModelError, match=r"some\.safetensors has a text encoder for 49407 tokens, but .* has 49408"):
        vocabulary.check_size(vocabulary.clip_tokenizer(), {"vocab_size": 49407}, where)
    added = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 7}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(added))
    with pytest.raises(ModelError, match=r"for 7 tokens, but the tokenizer in .* has 8"):
        vocabulary.check_size(tmp_path, {"vocab_size": 7}, where)
