"""Prompts: embeddings (textual inversion) that a model's prompts name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from graphengine import Doc, File, ModelError, fingerprint, node
from graphengine_nodes.families.prompt_embeddings import MOST, MOST_VECTORS, NAMES, tensor_in
from graphengine_nodes.nodes.parts import config_of
from graphengine_nodes.values.references import Embedding, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import Location


@node(version=1)
def apply_embedding(
    model: Model,
    name: Annotated[str, Doc("How prompts name it: `embedding:name`.")],
    file: Annotated[str | Path, File("weights"), Doc("A .safetensors file of a textual inversion.")],
) -> Model:
    """Give a model an embedding (textual inversion), which prompts name as `embedding:name`; each takes such a node.

    Files for Stable Diffusion hold one tensor (`emb_params`), those for SDXL two (`clip_l`, `clip_g`); each row is a
    vector and takes the place of a token. Only prompts are encoded anew. The text encoder's table of words is shared
    with graphs without the embedding, and stays as it is.

    Raises:
        ModelError: There is no such file, it is a pickle, damaged or no embedding; it is for another family or a text
            encoder of another width; the family takes none.
        ValueError: The name is taken, or is none.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r:.60} is no name for an embedding: take letters, digits, _, - and .")
    if name in dict(model.embeddings):
        raise ValueError(f"{model.source} has an embedding called {name} already; give this one another name")
    if model.family not in NAMES:
        raise ModelError(f"{model.source} is a {model.family} model, which takes no embeddings")
    if len(model.embeddings) >= MOST:
        raise ModelError(f"{model.source} has {MOST:,} embeddings, and these are the most")
    path = files.find(Path(file), "LoRA")
    digest = fingerprint(path)
    vectors = _vectors(model, path)
    files.note(digest, Location(path))
    return replace(model, embeddings=(*model.embeddings, (name, Embedding(digest, vectors, files.name_of(path)))))


def _vectors(model: Model, path: Path) -> int:
    """How many vectors a file holds, which fit each of the model's text encoders.

    Raises:
        ModelError: It holds none, or they do not fit.
    """
    header = files.read_header(path)
    counts = set()
    for encoder in NAMES[model.family]:
        tensor = tensor_in(list(header), model.family, encoder)
        if tensor is None:
            wanted = " and ".join(NAMES[model.family].values())
            other = next((n for n, encoders in NAMES.items() if set(encoders.values()) <= set(header)), None)
            what = f"an embedding for {other}" if other else f"no embedding of its kind ({', '.join(header):.80})"
            raise ModelError(f"{path} holds {what}; {model.source}, {model.family}, needs the tensors {wanted}")
        shape = header[tensor]["shape"]
        if len(shape) not in (1, 2) or 0 in shape:
            raise ModelError(f"{path}: {tensor} is of the shape {shape}; an embedding is [vectors, width]")
        width = (config_of(model, encoder) or {}).get("hidden_size", shape[-1])
        if shape[-1] != width:
            raise ModelError(
                f"{path} holds vectors of {shape[-1]} numbers; the {encoder} of {model.source}, {model.family}, "
                f"takes {width}"
            )
        counts.add(shape[0] if len(shape) == 2 else 1)
    if len(counts) != 1 or max(counts) > MOST_VECTORS:
        raise ModelError(f"{path} holds {' and '.join(map(str, sorted(counts)))} vectors; 1 to {MOST_VECTORS} fit")
    return int(counts.pop())
