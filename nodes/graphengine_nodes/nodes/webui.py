"""Graphs made of the settings that the WebUI of AUTOMATIC1111 writes into its pictures, as far as nodes exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphengine import Graph, fingerprint
from graphengine_nodes.families import sampler_names
from graphengine_nodes.nodes.embeddings import apply_embedding
from graphengine_nodes.nodes.latents import decode_latent
from graphengine_nodes.nodes.loras import apply_lora, load_lora
from graphengine_nodes.nodes.models import load_model
from graphengine_nodes.nodes.prompts import encode_prompt, encode_weighted
from graphengine_nodes.nodes.sampling import sample
from graphengine_nodes.values.picture_text import SUFFIXES, read_parameters
from graphengine_nodes.weights.files import EMBEDDED

Find = Callable[[str, frozenset[str], Callable[[Path], bool]], "Path | None"]
"""`find(name, suffixes, fits)` looks for a file with that name before one of the suffixes, which `fits`."""

AUTOMATIC = {
    "DPM++ 2M": "Karras", "DPM++ SDE": "Karras", "DPM++ 2S a": "Karras", "DPM2": "Karras", "DPM2 a": "Karras",
    "DPM++ 2M SDE": "Exponential", "DPM++ 3M SDE": "Exponential",
}  # fmt: skip
"""What the schedule type `Automatic` is in the WebUI, where it is not the sampler's even steps (`Uniform`)."""

_TAG = re.compile(r"<(\w+):([^>:]+)((?::[^>:]*)*)>")
_TAKEN = {
    "Steps", "Sampler", "Schedule type", "CFG scale", "Distilled CFG Scale", "Seed", "Size", "Model", "Model hash",
    "Model folder hash", "Clip skip", "Lora hashes", "TI hashes",
}  # fmt: skip
_TELLS_NOTHING = {"Version", "Hashes", "VAE hash", "Module 1", "Module 2", "Module 3"}
"""Settings that change no picture, or repeat others."""


class _Reading:
    """What was read so far, and what could not be taken over."""

    def __init__(self, text: str, find: Find) -> None:
        self.prompt, self.negative, self.facts = read_parameters(text)
        self.find = find
        self.left_out: list[str] = []

    def number(self, name: str, kind: type = int) -> Any:
        """A setting as a number; None, and a sentence, if it is none."""
        text = self.facts.get(name)
        if text is None:
            return None
        try:
            return kind(text)
        except ValueError:
            self.left_out.append(f"{name} {text:.40} is no number; the model's own is taken")
            return None


def graph_of_parameters(text: str, find: Find) -> tuple[Graph, list[str]]:
    """Make a graph of the text `parameters` in a picture.

    Everything that was read is a declared input with what was read as its default: `model` has none if no file of that
    name (and hash, where there is one) is found.

    Args:
        text: The text.
        find: Finds the files that it names.

    Returns:
        The graph, and a sentence for each thing that could not be taken over.
    """
    read = _Reading(text, find)
    loras, embeddings = _tags(read), _embeddings(read)
    graph = Graph("WebUI")
    with graph:
        model: Any = load_model(_input(graph, "model", str, _model(read)))
        for n, (name, path, scale, text_scale) in enumerate(loras, 1):
            source = _input(graph, f"lora_{n}", str, path or f"the picture was made with the LoRA {name}")
            model = apply_lora(model, load_lora(source), graph.input(f"lora_{n}_scale", float, scale), text_scale)
        for n, (name, path) in enumerate(embeddings, 1):
            source = _input(graph, f"embedding_{n}", str, path or f"the picture was made with the embedding {name}")
            model = apply_embedding(model, name, source)
        prompt = graph.input("prompt", str, read.prompt)
        negative = graph.input("negative_prompt", str, read.negative)
        seed = graph.input("seed", int, _seed(read))
        guidance, distilled = read.number("CFG scale", float), read.number("Distilled CFG Scale", float)
        if distilled is None:
            skip = graph.input("clip_skip", int, max(0, (read.number("Clip skip") or 1) - 1))
            both = encode_weighted(model, prompt, negative, clip_skip=skip)
            conditions: dict[str, Any] = {"positive": both.positive, "negative": both.negative}
        else:  # FLUX, whose prompts have no weights
            guidance = distilled
            conditions = {"positive": encode_prompt(model, prompt)}
        width, height = _size(read)
        latent = sample(
            model,
            **conditions,
            seed=seed,
            steps=graph.input("steps", int | None, read.number("Steps")),
            guidance_scale=graph.input("guidance_scale", float | None, guidance),
            scheduler=graph.input("scheduler", str | None, _sampler(read)),
            width=graph.input("width", int | None, width),
            height=graph.input("height", int | None, height),
        )
        graph.output("image", decode_latent(model, latent))
    _tell_the_rest(read)
    return graph, read.left_out


def _seed(read: _Reading) -> int:
    """The seed; where the text has none, that is said."""
    seed: int | None = read.number("Seed")
    if seed is None:
        read.left_out.append("the seed is not in the settings: 0 is taken, which makes another picture")
    return seed or 0


def _input(graph: Graph, name: str, kind: type, value: str | Path) -> Any:
    """A declared input for a file: with the path as its default, or without one and with a text that says what it is.

    Args:
        value: The path, an embedded name, or the text.
    """
    if isinstance(value, Path):
        return graph.input(name, kind, str(value))
    return graph.input(name, kind, value) if value in _EMBEDDED else graph.input(name, kind, help=value)


_EMBEDDED = frozenset(name for name, _ in EMBEDDED.values())


def _model(read: _Reading) -> Path | str:
    """The model's file, an embedded name, or what to say of the model that is not found."""
    name, digest = read.facts.get("Model"), read.facts.get("Model hash", "").lower()
    if name is None:
        return "the picture does not say with which model it was made"
    if name in _EMBEDDED:
        return name

    def fits(file: Path) -> bool:
        return not digest or fingerprint(file).startswith(digest)

    found = read.find(name, SUFFIXES, fits)
    told = f"{name} (hash {digest})" if digest else name
    return found or f"the picture was made with the model {told}, of which no file is found"


def _tags(read: _Reading) -> list[tuple[str, Path | str | None, float, float | None]]:
    """Take the tags `<lora:name:scale>` and `<lora:name:text scale:scale>` out of the prompt.

    Returns:
        Each LoRA's name, file, scale, and scale for text encoders where that differs. The WebUI reads none in the
        negative prompt.
    """
    found: list[tuple[str, Path | str | None, float, float | None]] = []

    def take(match: re.Match[str]) -> str:
        kind, name, rest = match[1], match[2], [part for part in match[3].split(":") if part]
        scales = [_scale(part) for part in rest]
        if kind not in ("lora", "lyco"):
            read.left_out.append(f"{match[0]:.80} is no LoRA and is left out")
        elif None in scales or len(scales) > 2:
            read.left_out.append(f"{match[0]:.80} has other settings than strengths and is left out")
        else:
            path = name if name in _EMBEDDED else read.find(name, SUFFIXES, lambda file: True)
            text, scale = (scales or [1.0])[0] or 0.0, (scales or [1.0])[-1] or 0.0
            found.append((name, path, scale, text if text != scale else None))
        return ""

    read.prompt = _TAG.sub(take, read.prompt).strip()
    return found


def _embeddings(read: _Reading) -> list[tuple[str, Path | None]]:
    """The embeddings of both prompts with their files; the prompts name them as `embedding:name` afterwards, where the
    WebUI has the name alone."""
    found: list[tuple[str, Path | None]] = []
    for part in filter(None, read.facts.get("TI hashes", "").split(",")):
        name = part.partition(":")[0].strip()
        if not re.fullmatch(r"[\w.-]+", name):
            read.left_out.append(f"the embedding {name:.60}, whose name no prompt can hold here, is left out")
            continue
        word = re.compile(rf"(?<![\w.:-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
        read.prompt, read.negative = (word.sub(f"embedding:{name}", text) for text in (read.prompt, read.negative))
        found.append((name, read.find(name, SUFFIXES, lambda file: True)))
    return found


def _scale(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _sampler(read: _Reading) -> str | None:
    """The sampler with its schedule, as `sample` takes it; None, and a sentence, if there is no such."""
    name, schedule = read.facts.get("Sampler"), read.facts.get("Schedule type", "Uniform")
    if name is None:
        return None
    if schedule == "Automatic":
        schedule = AUTOMATIC.get(name, "Uniform")
    whole = name if schedule == "Uniform" else f"{name} {schedule}"
    if sampler_names.find(whole) is not None or whole in sampler_names.CLASSES:
        return whole
    if f"{name}Scheduler" in sampler_names.CLASSES:  # as graphengine writes those without a name of the WebUI
        return f"{name}Scheduler"
    if sampler_names.find(name) is not None:
        read.left_out.append(f"the schedule type {schedule:.40} is not known; that of {name} is taken")
        return name
    read.left_out.append(f"the sampler {name:.40} is not known; the model's own is taken")
    return None


def _size(read: _Reading) -> tuple[int | None, int | None]:
    text = read.facts.get("Size", "")
    if match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text):
        return int(match[1]), int(match[2])
    if text:
        read.left_out.append(f"Size {text:.40} cannot be read; the model's own is taken")
    return None, None


def _tell_the_rest(read: _Reading) -> None:
    """Say which settings no node has taken."""
    facts: Mapping[str, str] = read.facts
    for name, value in facts.items():
        if name == "Denoising strength" and not any(other.startswith("Hires") for other in facts):
            read.left_out.append("Denoising strength: the picture that it began with is not in the file")
        elif name not in _TAKEN and name not in _TELLS_NOTHING and name != "RNG":
            read.left_out.append(f"{name}: {value:.60} is not taken over")
    if facts.get("RNG") != "CPU" and "Version" in facts:
        read.left_out.append("the WebUI drew its noise on a GPU, which gives other noise for the same seed")
