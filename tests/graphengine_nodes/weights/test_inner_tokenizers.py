"""Tokenizers inside text encoders' files are the tokenizers of the folders that they were made of."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from graphengine_nodes.testing import tokenizers
from graphengine_nodes.weights.inner_tokenizers import tokenizer_inside
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer, T5Tokenizer

from graphengine import ModelError

TEXTS = ("a red circle", "A  cat, 3 dogs & a (blue) house!", "naïve 漢字 \n tabs\t.", "", "<extra_id_0> </s> <pad>")


def field(number: int, value: bytes) -> bytes:
    """A field of bytes in a message."""
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def sentence_pieces(words: Any) -> bytes:
    """SentencePiece's model of a small tokenizer."""
    marks = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    return b"".join(
        field(
            1,
            field(1, token.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, marks.get(token, 1)]),
        )
        for token, score in json.loads(words.backend_tokenizer.to_str())["model"]["vocab"]
    )


def spiece_file(file: Path, model: bytes) -> Path:
    """A file as ComfyUI's UMT5 has it: the bytes of the tokenizer are one of its tensors."""
    save_file({"spiece_model": torch.frombuffer(bytearray(model), dtype=torch.uint8), "a": torch.zeros(1)}, file)
    return file


def same(found: Any, expected: Any) -> bool:
    return all(found(text).input_ids == expected(text).input_ids for text in TEXTS)


def test_sentence_pieces_in_a_tensor_are_t5s_tokenizer(tmp_path: Path) -> None:
    words = tokenizers.letters()
    folder = tokenizer_inside(spiece_file(tmp_path / "umt5.safetensors", sentence_pieces(words)))
    assert folder is not None
    assert same(T5Tokenizer.from_pretrained(folder), words)


def test_the_header_of_a_gguf_file_holds_t5s_tokenizer(tmp_path: Path) -> None:
    words = tokenizers.letters()
    pieces = json.loads(words.backend_tokenizer.to_str())["model"]["vocab"]
    marks = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    writer = gguf.GGUFWriter(str(tmp_path / "t5.gguf"), "t5encoder")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([token for token, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types([marks.get(token, 1) for token, _ in pieces])
    written(writer)
    folder = tokenizer_inside(tmp_path / "t5.gguf")
    assert folder is not None
    assert same(T5Tokenizer.from_pretrained(folder), words)


def written(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("a", torch.zeros(32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_header_of_a_gguf_file_holds_qwens_tokenizer(tmp_path: Path) -> None:
    words = tokenizers.qwen_words()
    model = json.loads(words.backend_tokenizer.to_str())
    marks = {token["id"]: (token["content"], 3 if token["special"] else 4) for token in model["added_tokens"]}
    tokens = {number: (token, 1) for token, number in model["model"]["vocab"].items()} | marks
    listed = [tokens[number] for number in range(len(tokens))] + [("[PAD]", 5)]
    writer = gguf.GGUFWriter(str(tmp_path / "qwen3.gguf"), "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([token for token, _ in listed])
    writer.add_token_types([kind for _, kind in listed])
    writer.add_token_merges([" ".join(pair) for pair in model["model"]["merges"]])
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_pad_token_id(words.pad_token_id)
    writer.add_chat_template(tokenizers.CHAT)
    written(writer)
    folder = tokenizer_inside(tmp_path / "qwen3.gguf")
    assert folder is not None
    found = Qwen2Tokenizer.from_pretrained(folder)
    assert same(found, words)
    assert len(found) == len(words)
    message = [{"role": "user", "content": "a red circle"}]
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    chats = [one.apply_chat_template(message, **options) for one in (found, words)]
    assert chats[0] == chats[1]
    assert found(chats[0]).input_ids == words(chats[0]).input_ids
    padded = [one("a", padding="max_length", max_length=8) for one in (found, words)]
    assert padded[0].input_ids == padded[1].input_ids


def test_a_file_without_a_tokenizer_or_with_a_damaged_one(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert tokenizer_inside(tmp_path / "plain.safetensors") is None
    model = sentence_pieces(tokenizers.letters())
    for name, damaged in (("cut", model[:-3]), ("other", b"\xff" * 40)):
        with pytest.raises(ModelError, match="the tokenizer inside it is damaged; give tokenizer, a folder"):
            tokenizer_inside(spiece_file(tmp_path / f"{name}.safetensors", damaged))
