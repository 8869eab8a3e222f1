"""Textual inversion: embeddings that prompts name, `embedding:name`, among the words of a text encoder.

In a prompt a name becomes one placeholder, a character of Unicode's private use area, which no mark of a prompt and no
word contains. The tokenizer puts ids for the embedding's vectors in its place, and the text encoder looks these up in a
table of its own: its words' table stays as it is, shared with every other graph. The ids are negative, so that encoders
that find the end of a prompt by its highest id still find it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from graphengine import ModelError, nearest, read_file
from graphengine_nodes.values.picture_text import short_name
from graphengine_nodes.values.references import Embedding, Model

if TYPE_CHECKING:
    from pathlib import Path

    import torch

NAMED = re.compile(r"\bembedding:([^\s,()\[\]{}<>|:]+)")
FIRST = 0xE000
"""The placeholder of a model's first embedding; those of the others follow."""
MOST = 1000
"""The most embeddings of a model."""
MOST_VECTORS = 75
"""The most vectors of an embedding: what Stable Diffusion's text encoders read at once."""
_PLACES = re.compile(f"([{chr(FIRST)}-{chr(FIRST + MOST - 1)}])")

NAMES: Mapping[str, Mapping[str, str]] = {
    "stable_diffusion": {"text_encoder": "emb_params"},
    "stable_diffusion_xl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
}
"""By family and text encoder, the tensor of a file; a file for a single encoder may hold one under any name."""


def spelled(model: Model, prompt: str | None) -> str | None:
    """A prompt with placeholders for the embeddings that it names.

    Raises:
        ValueError: It names one that the model does not have.
    """
    if prompt is None or "embedding:" not in prompt:
        return prompt
    known = {name: chr(FIRST + index) for index, (name, _) in enumerate(model.embeddings)}

    def place(match: re.Match[str]) -> str:
        said = match[1]
        name = next((name for name in (said, said.rstrip(".;!?'\"")) if short_name(name) in known), None)
        if name is None:
            near = nearest(said, known)
            advice = f"did you mean {' or '.join(near)}?" if near else "apply_embedding gives it to the model"
            raise ValueError(f"the prompt names the embedding {said:.60}, which {model.source} does not have; {advice}")
        # Among spaces: it is a word of its own.
        return f" {known[short_name(name)]} {said.removeprefix(name)}"

    return NAMED.sub(place, prompt)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """What a tokenizer gives: ids and mask, lists or tensors [1, tokens]."""

    input_ids: Any
    attention_mask: Any

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else tuple.__getitem__(self, key)


class PlaceTokenizer:
    """A tokenizer of CLIP that gives the ids of embeddings for their placeholders; all else is the tokenizer's own.

    Args:
        tokenizer: Shared with others, and not changed.
        embeddings: The model's.
    """

    def __init__(self, tokenizer: Any, embeddings: Sequence[tuple[str, Embedding]]) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, str] = {}
        self._ids: dict[str, list[int]] = {}
        for index, (name, embedding) in enumerate(embeddings):
            ids = [-1 - len(self._names) - n for n in range(embedding.vectors)]
            self._ids[chr(FIRST + index)] = ids
            self._names.update(dict.fromkeys(ids, f"embedding:{name}"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(
        self,
        text: str,
        *,
        padding: Any = False,
        max_length: int | None = None,
        truncation: bool = False,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> Tokens:
        """Tokenize a text as the tokenizer does: truncated at the right, padded with its own token."""
        ids: list[int] = []
        for piece in _PLACES.split(text):
            if piece in self._ids:
                ids += self._ids[piece]
            elif piece:
                plain = self._tokenizer(piece, truncation=False, add_special_tokens=False, verbose=False)
                ids += plain["input_ids"]
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        limit = max_length or self._tokenizer.model_max_length
        if add_special_tokens:
            ids = [begin, *(ids[: limit - 2] if truncation else ids), end]
        rest = limit - len(ids) if padding == "max_length" else 0
        mask = [1] * len(ids) + [0] * rest
        ids += [self._tokenizer.pad_token_id] * rest
        if return_tensors is None:
            return Tokens(ids, mask)
        import torch

        return Tokens(torch.tensor([ids]), torch.tensor([mask]))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, embeddings by their names."""
        words = [self._names.get(id) or self._tokenizer.decode([id]) for id in ids]
        return " ".join(dict.fromkeys(words) if self._names.keys() & set(ids) else [self._tokenizer.decode(ids)])


def tokenizer_of(model: Model, tokenizer: Any) -> Any:
    """A model's tokenizer: the shared one, with the model's embeddings where it has any."""
    return PlaceTokenizer(tokenizer, model.embeddings) if model.embeddings else tokenizer


# --- the text encoder -------------------------------------------------------------------------------------------------


def tensor_in(names: Sequence[str], family: str, encoder: str) -> str | None:
    """The name of the tensor in a file that is for a text encoder of a family; None if it holds none.

    Args:
        names: All tensors of the file.
    """
    wanted = NAMES.get(family, {}).get(encoder)
    if wanted in names:
        return wanted
    return names[0] if family == "stable_diffusion" and len(names) == 1 else None


def read_vectors(path: Path, family: str, encoder: str) -> torch.Tensor:
    """The vectors of an embedding for a text encoder, [vectors, width].

    Raises:
        ModelError: The file holds none.
    """
    from safetensors.torch import load

    tensors = load(read_file(path))
    name = tensor_in(list(tensors), family, encoder)
    if name is None:
        raise ModelError(f"{path} holds no embedding for the {encoder} of {family}")
    found = tensors[name]
    return found[None] if found.ndim == 1 else found


def add_vectors(encoder: Any, vectors: Sequence[torch.Tensor]) -> None:
    """Let a text encoder look up negative ids in a table of its own, whose rows are these vectors one after another.

    Its table of words is neither copied nor written to.
    """
    import torch

    class Table(torch.nn.Embedding):
        """A table of words, with a second one for negative ids."""

        def __init__(self, words: Any, rows: torch.Tensor) -> None:
            super().__init__(words.num_embeddings, words.embedding_dim, _weight=words.weight.detach())
            self.weight.requires_grad_(words.weight.requires_grad)
            self.rows = torch.nn.Parameter(rows, requires_grad=False)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            known = super().forward(input.clamp(min=0))
            own = torch.nn.functional.embedding((-1 - input).clamp(min=0), self.rows)
            return torch.where((input < 0)[..., None], own, known)

    words = encoder.get_input_embeddings()
    rows = torch.cat(list(vectors)).to(words.weight.device, words.weight.dtype)
    encoder.set_input_embeddings(Table(words, rows))
