"""A CLIP tokenizer that knows the world's words whole and spells everything else in bytes.

Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) on GPT-2's stand-ins for bytes (Radford et al. 2019).
Merges are not counted but built, each word from its end ("e d</w>", "r ed</w>"): only a word's last pair can ever
merge, so that no two words disturb each other.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from transformers import CLIPTokenizer

from training.captions import FILLER, caption
from training.world import sample

START, END = "<|startoftext|>", "<|endoftext|>"
CAPTIONS = 20_000  # enough that each word of the world has come up


def byte_letters() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes, in the bytes' order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def words() -> list[str]:
    """All words of captions, and the filler words."""
    rng, found = random.Random(1), set(FILLER)
    for _ in range(CAPTIONS):
        found.update(re.findall(r"[a-z]+|[^a-z\s]", caption(sample(rng), rng).lower()))
    return sorted(word for word in found if word.isalpha())


def vocabulary() -> tuple[list[str], list[str]]:
    """The tokens in the order of their numbers, and the merges."""
    letters = byte_letters()
    tokens, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    known = set(tokens)
    for word in words():
        tail = word[-1] + "</w>"
        for letter in reversed(word[:-1]):
            merge, tail = f"{letter} {tail}", letter + tail
            if tail not in known:
                merges.append(merge)
                tokens.append(tail)
                known.add(tail)
    return [*tokens, START, END], merges


def build(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files into `folder` and load it from there."""
    tokens, merges = vocabulary()
    numbers = {token: number for number, token in enumerate(tokens)}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": START}
    config |= {"eos_token": END, "unk_token": END, "pad_token": END}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)
