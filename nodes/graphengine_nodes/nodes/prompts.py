"""Prompts: from texts to conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from graphengine import INERT, Added, Context, Doc, Multiline, Range, Uses, node
from graphengine_nodes.families import prompt_marks, prompt_schedules
from graphengine_nodes.families.arguments import references_of
from graphengine_nodes.families.family import Words
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.prompt_embeddings import spelled
from graphengine_nodes.values.references import model_of
from graphengine_nodes.values.types import Conditioning, Image, Model, TextEncoder

LONGEST = 100_000
"""Most characters of a prompt. Tokenizers take seconds for a megabyte, and long prompts of `encode_weighted` go through
the text encoder 75 tokens at a time: a worker would do nothing else for minutes."""


References = Annotated[
    Image | list[Image] | None,
    Added(),
    Doc("Pictures that the prompt speaks of, for text encoders that see pictures (Qwen-Image-Edit); as for `sample`."),
]


def check_lengths(**texts: str | None) -> None:
    """Refuse texts so long that a worker would be busy with them for minutes.

    Raises:
        ValueError: A text is longer than `LONGEST`.
    """
    for name, text in texts.items():
        if text is not None and len(text) > LONGEST:
            raise ValueError(f"{name} has {len(text):,} characters, and {LONGEST:,} are the most; make it shorter")


@node(version=1, on="device")
def encode_prompt(
    model: Annotated[Model | TextEncoder, Uses("text_encoder")],
    prompt: Annotated[str | None, Multiline(), Doc("None is the absent prompt, which is not the empty one.")],
    clip_skip: Annotated[
        int,
        Range(0, 64, 1),
        Doc("How many of the text encoder's last layers to leave out; diffusers leaves out none for negative prompts."),
    ] = 0,
    prompt_2: Annotated[
        str | None, Multiline(), Doc("For the second text encoder of families that have one; default: the prompt.")
    ] = None,
    max_sequence_length: Annotated[
        int | None, Range(1, 512, 1), Doc("Tokens that FLUX's second text encoder reads; default: the model's own.")
    ] = None,
    references: References = None,
    ctx: Context = INERT,
) -> Conditioning:
    """Encode a prompt into conditioning.

    Text beyond the text encoder's length (77 tokens in Stable Diffusion) is cut off, with a warning. `embedding:name`
    stands for the vectors of an embedding that `apply_embedding` gave to the model.

    In ComfyUI: `CLIPTextEncode`, `CLIPTextEncodeFlux`, `CLIPTextEncodeSD3`, `CLIPTextEncodeSDXL`, `CLIPSetLastLayer`,
    `TextEncodeQwenImageEdit`, `TextEncodeQwenImageEditPlus`.

    Raises:
        ValueError: The prompt names an embedding that the model does not have; `clip_skip` leaves no layer; the family
            has no second text encoder, or one of a fixed length; a text is longer than 100,000 characters.
    """
    from graphengine_nodes.store.store import store

    check_lengths(prompt=prompt, prompt_2=prompt_2)
    model = model_of(model)
    kind, device = family(model.family), model.computes_on(ctx.device)
    advice = "encode_weighted reads it" if kind.reads_marks else f"{model.family} models read none"
    prompt_marks.warn(prompt, prompt_2, unread=advice, bare=kind.reads_marks)
    prompt, prompt_2 = spelled(model, prompt), spelled(model, prompt_2)
    seen = references_of(references)
    return kind.encode_prompt(store, model, prompt, clip_skip, device, prompt_2, max_sequence_length, seen)


class Prompts(NamedTuple):
    """Two prompts that are encoded together.

    Attributes:
        positive: What the picture should show.
        negative: What it should not show.
    """

    positive: Conditioning
    negative: Conditioning


@node(version=1, on="device")
def encode_weighted(
    model: Annotated[Model | TextEncoder, Uses("text_encoder")],
    prompt: Annotated[str, Multiline(), Doc("`(word)` counts more, `[word]` less, `(word:1.3)` as much as you say.")],
    negative_prompt: Annotated[str | None, Multiline(), Doc("None is the absent prompt, not the empty one.")] = None,
    clip_skip: Annotated[int, Range(0, 64, 1), Doc("How many of the text encoder's last layers to leave out.")] = 0,
    prompt_2: Annotated[
        str | None, Multiline(), Doc("For the second text encoder of families that have one; default: the prompt.")
    ] = None,
    negative_prompt_2: Annotated[str | None, Multiline(), Doc("The same for the negative prompt.")] = None,
    ctx: Context = INERT,
) -> Prompts:
    r"""Encode prompts of any length with weights, as users of the WebUI write them, into conditioning.

    `(text)` weighs 1.1 times as much, `[text]` 1/1.1 times, `(text:1.3)` 1.3 times, and so on inside one another;
    `\(`, `\)`, `\[`, `\]` and `\\` are these signs themselves, brackets without a partner do no harm. Texts are read
    in chunks of what the encoder takes (75 tokens), none is cut off; the word BREAK begins a new chunk. The shorter of
    the two prompts is filled with empty chunks.

    A prompt may change while it is sampled: `[red:green:0.5]` is red in the first half of the steps and green from
    then on, `[green:10]` comes after 10 steps, `[red::0.3]` goes, `[a|b]` takes turns at each step. `AND` joins
    prompts, each with a weight at its end: `a cat :1.2 AND a dog`; their guidance is added up.

    Stable Diffusion: a token's embedding is scaled by its weight and the mean of the whole restored; clip skip is for
    both prompts. Without weights a short prompt is that of `encode_prompt`. SDXL: a token's distance from the last
    embedding of its chunk is scaled, chunks are padded with the end token, the pooled embedding is the last chunk's;
    clip skip is for the positive prompt alone.

    Raises:
        ValueError: As `encode_prompt`; the family knows no weights.
    """
    from graphengine_nodes.store.store import store

    check_lengths(
        prompt=prompt, negative_prompt=negative_prompt, prompt_2=prompt_2, negative_prompt_2=negative_prompt_2
    )
    model = model_of(model)
    kind, device = family(model.family), model.computes_on(ctx.device)
    prompt_marks.warn_misread(prompt, negative_prompt, prompt_2, negative_prompt_2)
    sides = [
        Words(spelled(model, prompt), spelled(model, prompt_2)),
        Words(spelled(model, negative_prompt), spelled(model, negative_prompt_2), negative=True),
    ]

    def encode_all(texts: Sequence[Words]) -> Sequence[Conditioning]:
        return kind.encode_weighted(store, model, texts, clip_skip, device)

    return Prompts(*prompt_schedules.encode(encode_all, sides))


@encode_weighted.fingerprint
def _steps(**inputs: Any) -> str | None:
    """What keys have beside the texts: prompts that change with the steps, which once were read as weights, or AND."""
    texts = [text for text in inputs.values() if isinstance(text, str)]
    read = any(prompt_schedules.changes(text) or len(prompt_schedules.joined(text)) > 1 for text in texts)
    return "schedules are read" if read else None


@node(version=1, on="device")
def encode_prompts(
    model: Annotated[Model | TextEncoder, Uses("text_encoder")],
    prompt: Annotated[str, Multiline(), Doc("What the picture should show, with or without weights.")],
    negative_prompt: Annotated[str | None, Multiline(), Doc("None is the absent prompt, not the empty one.")] = None,
    references: References = None,
    ctx: Context = INERT,
) -> Prompts:
    """Encode a prompt and a negative one: as `encode_weighted` where either holds marks, else as `encode_prompt`.

    Marks are weights, `[word]`, what changes with the steps, AND and BREAK. Families that know none of them (FLUX) get
    the texts as they are, with a warning.

    In ComfyUI: `CLIPTextEncode`, `TextEncodeQwenImageEdit`.

    Raises:
        ValueError: A text is longer than 100,000 characters.
    """
    texts = (prompt, negative_prompt)
    if family(model_of(model).family).reads_marks and any(map(prompt_marks.marked, texts)):
        return encode_weighted.fn(model, prompt, negative_prompt, ctx=ctx)
    return Prompts(*(encode_prompt.fn(model, text, references=references, ctx=ctx) for text in texts))
