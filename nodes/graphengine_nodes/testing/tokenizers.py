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

__all__ = ["clip_words", "letters", "mistral_processor", "qwen_words"]

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

MISTRAL_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
MISTRAL_PICTURES = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
MISTRAL_CHAT = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% set ends = {'system': ('[SYSTEM_PROMPT]', '[/SYSTEM_PROMPT]'), 'user': ('[INST]', '[/INST]')}[message.role] %}"
    "{{ ends[0] }}{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '[IMG]' }}{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ ends[1] }}{% endfor %}"
)
"""The shape of the chat template of Mistral Small 3."""

SYSTEM = (
    "system\nuser\nassistant\nPicture 1: 2: 3: \n"
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate.\n"
    "Comprehend and analyze the provided prompt.\n"
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
"""The words of the system messages of Qwen-Image, its edit models, 2.1, and FLUX.2 dev."""


def qwen_words() -> Any:
    """The tokenizer of Qwen2 to Qwen3 with a small vocabulary, its chat template, and the tokens for pictures."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _bytes_and_words()
    words: Any = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),  # type: ignore[arg-type] # pairs, as its own files give it
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


def mistral_processor() -> Any:
    """The processor of Mistral Small 3, by which FLUX.2 dev makes tokens of a chat; padding stands on the left."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PixtralImageProcessor, PixtralProcessor, PreTrainedTokenizerFast
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    vocabulary, merges = _bytes_and_words()
    spelled = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
    pieces = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    spelled.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])
    spelled.decoder = decoders.ByteLevel()
    spelled.add_special_tokens([AddedToken(token, special=True) for token in (*MISTRAL_SPECIAL, *MISTRAL_PICTURES)])
    fast: Any = PreTrainedTokenizerFast
    words = fast(
        tokenizer_object=spelled,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
    )
    pictures = PixtralImageProcessor(size={"longest_edge": 64}, patch_size=8)
    return PixtralProcessor(pictures, words, patch_size=8, spatial_merge_size=2, chat_template=MISTRAL_CHAT)


def clip_words(pad: str | None = None) -> Any:
    """The embedded model's tokenizer, which is CLIP's with a small vocabulary.

    Args:
        pad: The padding token, if it is another: SDXL's and SD3's second tokenizers pad with `!`.
    """
    from transformers import CLIPTokenizer

    more: dict[str, Any] = {} if pad is None else {"pad_token": pad}
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
