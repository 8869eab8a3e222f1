"""The files of models by ComfyUI's folder names: where they are, which there are, and one of them by its name.

The folders lie in the folder that the environment's GRAPHENGINE_MODELS names, which `serve --models` sets, or several
with the system's separator of paths. `extra_model_paths.yaml` there names further ones, as ComfyUI's does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graphengine_nodes.weights import files

from graphengine import ModelError, nearest, read_file, rooted

VARIABLE = "GRAPHENGINE_MODELS"
"""The variable of the environment with the folders of models."""

FOLDERS: dict[str, tuple[str, ...]] = {
    "checkpoints": ("checkpoints",),
    "diffusion_models": ("diffusion_models", "unet"),
    "text_encoders": ("text_encoders", "clip"),
    "vae": ("vae",),
    "loras": ("loras",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "upscale_models": ("upscale_models",),
    "embeddings": ("embeddings",),
    "tokenizers": ("tokenizers",),
}
"""ComfyUI's names of its folders of models, and the folders of each."""

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".bin", ".pth", ".gguf")
"""What the names of files of weights end in."""

EMBEDDED = {"checkpoints": files.EMBEDDED["model"][0], "controlnet": files.EMBEDDED["ControlNet"][0]}
EMBEDDED |= {"loras": files.EMBEDDED["LoRA"][0]}
"""What the standard pack ships, so that a machine without models has something to choose."""

DEEPEST = 8
"""Most folders inside one another that are looked through."""


def roots() -> list[Path]:
    """The folders that hold ComfyUI's folders."""
    return [Path(one).expanduser() for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]


def places(folder: str) -> list[Path]:
    """The folders that hold the files of one of ComfyUI's folders, the first counts where two files have one name.

    Raises:
        ModelError: `extra_model_paths.yaml` cannot be read.
    """
    found = []
    for root in roots():
        found += [root / name for name in FOLDERS[folder]]
        found += _extra(root, folder)
    return list(dict.fromkeys(found))


def choices(folder: str) -> list[str]:
    """The names that a loader takes for a folder of ComfyUI's (`checkpoints`, `loras`, ...), sorted: what is embedded
    first, then files and folders in diffusers layout, by their paths in it with `/`."""
    found = {name: None for place in places(folder) for name in _names(place)}
    embedded = [EMBEDDED[folder]] if folder in EMBEDDED else []
    return [*embedded, *sorted(found, key=str.lower)]


def tokenizers(family: str) -> Path | None:
    """The folder `tokenizers/FAMILY` among the models: of the family's published models the folders `tokenizer`,
    `tokenizer_2`, ..., which files of text encoders do not hold; with `model_index.json` the
    configurations beside them count too. None if there is none."""
    for place in places("tokenizers"):
        if (place / family).is_dir():
            return Path(rooted(place / family, [place.resolve(), *(root.resolve() for root in roots())]))
    return None


def find(folder: str, name: str) -> str | Path:
    """The file or folder of a name among the choices; the name itself of what is embedded.

    Raises:
        ModelError: There is none of this name.
    """
    if name == EMBEDDED.get(folder):
        return name
    wanted = name.replace("\\", "/")  # as ComfyUI writes names on Windows
    for place in places(folder):
        if wanted in _names(place):
            return rooted(place / wanted, [place.resolve(), *(root.resolve() for root in roots())])
    near = nearest(name, choices(folder))
    advice = f"did you mean {' or '.join(near)}?" if near else "choose one that is there"
    where = f"in the folder {FOLDERS[folder][0]} of the models" if roots() else f"since {VARIABLE} names no folder"
    raise ModelError(f"there is no {name!r:.120} {where}; {advice}")


def _names(place: Path) -> list[str]:
    """The paths of the files of weights, and of folders in diffusers layout, inside a folder."""
    return list(_walk(place, place, DEEPEST)) if place.is_dir() else []


def _walk(folder: Path, top: Path, depth: int) -> Iterator[str]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        name = entry.relative_to(top).as_posix()
        if entry.name.startswith(".") or not _inside(entry, top):
            continue
        if entry.is_dir():
            if any((entry / said).is_file() for said in ("model_index.json", "config.json")):
                yield name
            elif depth:
                yield from _walk(entry, top, depth - 1)
        elif entry.suffix.lower() in SUFFIXES:
            yield name


def _inside(entry: Path, top: Path) -> bool:
    """Whether a file lies in its folder, or elsewhere among the models, once symbolic links are followed."""
    real = entry.resolve()
    return any(real.is_relative_to(root.resolve()) for root in (top, *roots()))


def _extra(root: Path, folder: str) -> list[Path]:
    """Further folders, by `extra_model_paths.yaml`."""
    file = root / "extra_model_paths.yaml"
    if not file.is_file():
        return []
    import yaml

    try:
        data = yaml.safe_load(read_file(file).decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{file} cannot be read: {' '.join(str(error).split()):.200}") from None
    sections = data.values() if isinstance(data, dict) else ()
    return [place for one in sections if isinstance(one, dict) for place in _of_section(root, one, folder)]


def _of_section(root: Path, section: dict[str, Any], folder: str) -> Sequence[Path]:
    base = root / Path(str(section.get("base_path", "."))).expanduser()
    lines = [line for name in {folder, *FOLDERS[folder]} for line in str(section.get(name) or "").splitlines()]
    return [base / line.strip() for line in lines if line.strip()]
