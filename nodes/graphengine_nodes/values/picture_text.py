"""Texts in picture files that other tools read: the WebUI's `parameters`, and EXIF comments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath

PARAMETERS = "parameters"
"""The name under which other tools look for the settings of a picture, as `Pack.parameters` gives them."""
SUFFIXES = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})
"""Endings of files of weights."""


def parameters(
    *,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    width: int | None = None,
    height: int | None = None,
    model: str | None = None,
    model_hash: str | None = None,
    folder_hash: str | None = None,
    strength: float | None = None,
    clip_skip: int | None = None,
    loras: tuple[tuple[str, float, float], ...] = (),
    lora_hashes: Mapping[str, str] | None = None,
) -> str:
    """The text of the PNG chunk `parameters`, as the WebUI of AUTOMATIC1111 writes it and galleries read it.

    The prompt (with `<lora:name:scale>` at its end), a line `Negative prompt:`, and a line of `Name: value`. What is
    None is left out. Names are written without the suffix of a file.

    Args:
        sampler, schedule: As the WebUI names them: `DPM++ 2M`, `Karras`.
        model_hash: The first 10 digits of the SHA-256 of a checkpoint file.
        folder_hash: In its place the hash of a folder's files, which other tools do not know.
        clip_skip: The layers left out; the WebUI counts the layer that is read: one more.
        loras: Each with its scales for the denoiser and for the text encoders, which the WebUI writes first where they
            differ.
        lora_hashes: By name, as `lora_hash` in `settings` makes them.
    """
    tags = "".join(
        f" <lora:{short_name(name)}:{text:g}>" if text == scale else f" <lora:{short_name(name)}:{text:g}:{scale:g}>"
        for name, scale, text in loras
    )
    hashes = ", ".join(f"{short_name(name)}: {digest}" for name, digest in (lora_hashes or {}).items())
    lines = [f"{prompt or ''}{tags}"]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    facts = {
        "Steps": steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{guidance_scale:g}" if guidance_scale is not None else None,
        "Seed": seed,
        "Size": f"{width}x{height}" if width and height else None,
        "Model hash": model_hash,
        "Model folder hash": folder_hash,
        "Model": short_name(model) if model else None,
        "Denoising strength": f"{strength:g}" if strength is not None else None,
        "Clip skip": clip_skip + 1 if clip_skip else None,
        "Lora hashes": hashes or None,
    }
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items() if value is not None))
    return "\n".join(lines)


def short_name(source: str) -> str:
    """The name of weights as other tools write it: without the suffix of a file, and without folders."""
    name = PurePath(source)
    return name.stem if name.suffix.lower() in SUFFIXES else source


def _quoted(value: str) -> str:
    """Quote values with commas, colons or line breaks, as JSON."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ',:\n"') else value


_PAIR = re.compile(r'\s*([\w][\w \-/+.()]*?):\s*("(?:\\.|[^"\\])*"|\{[^{}]*\}|[^,]*)\s*(?:,|$)')
"""A name with its value, which may be quoted, or an object in JSON."""


def read_parameters(text: str) -> tuple[str, str, dict[str, str]]:
    """Read a text that `parameters`, or the WebUI, has written.

    Returns:
        The prompt, the negative prompt (empty where there is none), and the settings by name.
    """
    lines = text.strip().split("\n")
    facts: dict[str, str] = {}
    if re.match(r"\s*Steps: *\d", lines[-1]):
        for name, value in _PAIR.findall(lines.pop()):
            facts[name] = _unquoted(value.strip())
    start = next((n for n, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:")
    return "\n".join(lines[:start]).strip(), negative.strip(), facts


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value.strip('"')
    return value


# --- EXIF, where a JPEG or a WebP keeps texts -------------------------------------------------------------------------


def exif_with_comment(comment: str | None, note: str | None = None) -> bytes:
    """EXIF bytes, for PIL's `save(exif=...)`, with a text as UserComment.

    Args:
        comment: Written as ASCII where it is, else as UTF-16: what every reader of EXIF understands.
        note: A text for graphengine alone, as MakerNote in UTF-8.
    """
    import PIL.Image
    from PIL import ExifTags

    exif = PIL.Image.Exif()
    exif.endian = ">"  # the byte order of UTF-16 that all readers know
    ifd = exif.get_ifd(ExifTags.IFD.Exif)
    if comment is not None:
        text = b"ASCII\0\0\0" + comment.encode() if comment.isascii() else b"UNICODE\0" + comment.encode("utf-16-be")
        ifd[ExifTags.Base.UserComment] = text
    if note is not None:
        ifd[ExifTags.Base.MakerNote] = note.encode()
    return exif.tobytes()
