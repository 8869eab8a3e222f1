"""Small tokenizers made on the spot, with the special tokens and chat templates of the families' real ones.

Words of the families' system messages are one token each, as in the real vocabularies: the pipelines cut the
message off by a number of tokens (Qwen-Image 34, its edit models 64). Other words are spelled in pieces of bytes.
"""

from __future__ import annotations

import functools
import json
import string
from typing import Any

from graphengine_nodes.weights.files import TINY

__all__ = ["clip_words", "letters", "qwen_words"]

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
QWEN_PADS = ("<|image_pad|>", "<|video_pad|>")

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
"""The shape of Qwen's chat template; one picture is one `<|image_pad|>`, which processors repeat."""

SYSTEM = (
    "system\nuser\nassistant\nPicture 1: 2: 3: \n"
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate.\n"
    "Comprehend and analyze the provided prompt."
)
"""The words of the system messages of Qwen-Image and its edit models."""


def qwen_words() -> Any:
    """The tokenizer of Qwen2 to Qwen3 with a small vocabulary, its chat template, and the tokens for pictures."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _bytes_and_words()
    words = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        eos_token="<|im_end|>",
        extra_special_tokens=[*QWEN_SPECIAL, *QWEN_PADS],
        chat_template=CHAT,
        model_max_length=2048,
    )
    words.image_token, words.video_token = QWEN_PADS
    return words


@functools.cache
def _bytes_and_words() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """A vocabulary of all bytes and of the words of the system messages, and how they are put together."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    trained = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    trained.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        [SYSTEM],
        trainers.BpeTrainer(
            vocab_size=2000,
            min_frequency=1,
            show_progress=False,
            initial_alphabet=alphabet,
            special_tokens=list(QWEN_SPECIAL[:1]),
        ),
    )
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], tuple((first, second) for first, second in model["merges"])


def clip_words(pad: str | None = None) -> Any:
    """The embedded model's tokenizer, which is CLIP's with a small vocabulary.

    Args:
        pad: The padding token, if it is another: SDXL's and SD3's second tokenizers pad with `!`.
    """
    from transformers import CLIPTokenizer

    more = {} if pad is None else {"pad_token": pad}
    return CLIPTokenizer.from_pretrained(TINY / "model" / "tokenizer", local_files_only=True, **more)


def letters(length: int = 64) -> Any:
    """T5's tokenizer with a vocabulary of letters.

    Args:
        length: How many tokens it takes, where the pipeline leaves that to the tokenizer; real ones take 512.
    """
    from transformers import T5Tokenizer

    marks = string.ascii_letters + string.digits + string.punctuation
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((mark, -3.0) for mark in marks)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=length)
