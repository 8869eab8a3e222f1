"""Prompts are encoded as ComfyUI does: weights away from the empty prompt, long prompts in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_comfy.nodes.loaders import Checkpointed
from graphengine_comfy.nodes.prompt_encoding import chunks
from graphengine_nodes.weights.files import TINY
from safetensors.torch import save_file

LONG = "a red circle on a blue background, " * 12


def embeds(clip: Any, text: str) -> torch.Tensor:
    return comfy.CLIPTextEncode(text=text, clip=clip).entries[0].prompt.embeds


@pytest.fixture(scope="module")
def words() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(TINY / "model" / "tokenizer")


@pytest.fixture(scope="module")
def encoder() -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(TINY / "model" / "text_encoder").eval()


def test_a_plain_prompt_is_that_of_diffusers(tiny: Checkpointed, words: Any, encoder: Any) -> None:
    ids = words("a red circle", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = encoder(ids)[0]
    assert torch.allclose(embeds(tiny.CLIP, "a red circle"), wanted, atol=1e-5)
    with torch.no_grad():
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
    earlier = comfy.CLIPSetLastLayer(clip=tiny.CLIP, stop_at_clip_layer=-2)
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    assert torch.allclose(embeds(earlier, "a red circle"), norm(hidden), atol=1e-5)


def test_a_weight_moves_a_word_away_from_the_empty_prompt(tiny: Checkpointed, words: Any) -> None:
    plain, empty = embeds(tiny.CLIP, "a red circle"), embeds(tiny.CLIP, "")
    heavy = embeds(tiny.CLIP, "a (red:1.5) circle")
    place = words("a red circle").input_ids.index(words(" red").input_ids[1])
    assert torch.allclose(heavy[:, place], empty[:, place] + 1.5 * (plain - empty)[:, place], atol=1e-5)
    others = [index for index in range(77) if index != place]
    assert torch.equal(heavy[:, others], plain[:, others])
    assert torch.equal(embeds(tiny.CLIP, r"a [red] circle"), embeds(tiny.CLIP, "a [red] circle"))


def test_long_prompts_are_read_in_pieces(tiny: Checkpointed, words: Any) -> None:
    count = len(words(LONG, truncation=False).input_ids) - 2
    assert count > 75
    assert embeds(tiny.CLIP, LONG).shape[1] == 77 * -(-count // 75)
    found = chunks([(LONG, 1.0)], words)
    assert all(len(one.ids) == 77 and one.ids[0] == words.bos_token_id for one in found)
    kept = [id for one in found for id in one.ids if id not in (words.bos_token_id, words.eos_token_id)]
    assert kept == words(LONG, truncation=False).input_ids[1:-1]


def test_embeddings_of_the_folder_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "embeddings").mkdir()
    save_file({"emb_params": torch.ones(2, 128)}, tmp_path / "embeddings" / "style.safetensors")
    without = comfy.CheckpointLoaderSimple(ckpt_name="tiny").CLIP
    with pytest.raises(ValueError, match="style"):
        embeds(without, "a house, embedding:style")
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    clip = comfy.CheckpointLoaderSimple(ckpt_name="tiny").CLIP
    assert clip.digest() != without.digest()
    assert not torch.equal(embeds(clip, "a house, embedding:style"), embeds(clip, "a house,"))
    assert torch.equal(embeds(clip, "a house"), embeds(without, "a house"))
