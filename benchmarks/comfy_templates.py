"""How many of ComfyUI's templates ask only for families that are here: `python -m benchmarks.comfy_templates WHEEL`.

Takes wheels, or folders of unpacked ones, of the package that has the templates' JSON; nothing is fetched:

    pip download --no-deps comfyui-workflow-templates-json==0.1.123
    python -m benchmarks.comfy_templates comfyui_workflow_templates_json-0.1.123-py3-none-any.whl

A template is local if the index does not call it closed and its nodes name files of models. Files are told by their
names, by `FILES`; what no line there knows is not here, and is listed. `usage` is the count in the index.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from email import message_from_string
from pathlib import Path
from typing import Any, NamedTuple

import graphengine_nodes
from graphengine_nodes.families.lookup import families

from benchmarks.table import show

FILES: tuple[tuple[str, str], ...] = (
    # Denoisers and checkpoints: the family, its variant after a colon, and after a space what a variant must take.
    (r"(checkpoints|diffusion_models)/flux1?[.-].*fill", "flux:fill"),
    (r"(checkpoints|diffusion_models)/flux1-(canny|depth)-dev", "flux:control"),
    (r"(checkpoints|diffusion_models)/flux1-.*kontext", "flux references"),
    (r"(checkpoints|diffusion_models)/flux1-(dev|schnell|krea)", "flux"),
    (r"diffusion_models/flux-2-klein-9b-kv", ""),  # keeps keys and values of references between steps
    (r"diffusion_models/flux-2-klein", "flux2 references"),
    (r"diffusion_models/flux2_dev", "flux2:dev references"),
    (r"diffusion_models/z_image", "z_image"),
    (r"diffusion_models/qwen_image_2\.1", "qwen_image_21"),
    (r"diffusion_models/qwen_image_layered", ""),
    (r"diffusion_models/(qwen_image_edit_25|FireRed-Image-Edit)", "qwen_image:edit_plus"),  # FireRed: a fine-tune
    (r"diffusion_models/qwen_image_edit_fp8", "qwen_image:edit"),
    (r"diffusion_models/qwen_image_(2512_)?(fp8|bf16)", "qwen_image"),
    (r"diffusion_models/Chroma1-HD", "chroma"),
    (r"diffusion_models/wan2\.[12]_(t2v|i2v|ti2v|flf2v)", "wan"),
    (r"checkpoints/sd3", "stable_diffusion_3"),
    (r"checkpoints/sd_xl_refiner", "stable_diffusion_xl_refiner"),
    (r"checkpoints/sd_xl_(base|turbo)", "stable_diffusion_xl"),
    (r"checkpoints/(v1-5|sd15|dreamshaper)", "stable_diffusion"),
    # ControlNets. Those of VideoX-Fun for Qwen-Image and patches of DiffSynth are of no class of diffusers.
    (r"controlnet/Qwen-Image-InstantX-ControlNet", "qwen_image controlnet"),
    (r"controlnet/sd3\.5_large_controlnet", "stable_diffusion_3 controlnet"),
    (r"model_patches/Z-Image-.*Fun-Controlnet", "z_image controlnet"),
    # VAEs and text encoders: a family that has it; further parts.
    (r"vae/(ae|vae-ft-mse).*", "stable_diffusion"),  # FLUX.1's (also Z-Image's and Chroma's), SD's
    (r"vae/qwen_image_vae", "qwen_image"),
    (r"vae/qwen_image_2\.1_vae", "qwen_image_21"),
    (r"vae/(flux2-vae|full_encoder_small_decoder)\.", "flux2"),
    (r"vae/wan_?2", "wan"),
    (r"(text_encoders|clip)/(clip_[lg]|t5xxl_fp)[._0-9a-z]*\.safetensors", "stable_diffusion_xl"),
    (r"text_encoders/qwen_3_4b", "z_image"),
    (r"text_encoders/qwen_3_8b", "flux2"),
    (r"text_encoders/mistral_3_small_flux2", "flux2:dev"),
    (r"text_encoders/qwen_2\.5_vl_7b", "qwen_image"),
    (r"text_encoders/qwen3vl_8b_(fp8|int8|bf16)", "qwen_image_21"),
    (r"text_encoders/umt5_xxl", "wan"),
    (r"text_encoders/.*_pe_", "*"),  # writes the prompt anew, behind a switch: the picture's model needs none
    (r"style_models/flux1-redux", "std.load_redux"),
    (r"clip_vision/sigclip_vision_patch14_384", "std.load_redux"),
    (r"clip_vision/clip_vision_h", "stable_diffusion"),
    (r"upscale_models/", "*"),  # spandrel
    (r"loras/(.*diffsynth|flux1-(canny|depth))", ""),  # which make a model follow pictures
    (r"loras/", "*"),  # of the family of the model that they change
)
"""Patterns of `directory/file` as templates name them, the first one that fits counts; and the family that must be
here, or the node (`std.`): `*` where nothing must, empty where nothing here will do."""

UNREAD = re.compile(r"convrot|nvfp4|fp4_mixed|w4a8|gptq|mxfp8")
"""Small formats of files that are not read: see docs/guides/what-loads.md."""

MODELS = ("checkpoints", "diffusion_models")
"""Directories of the models that a template is named by."""


class Template(NamedTuple):
    """A template of the index: its name, how often it was used, and the files that its nodes name."""

    name: str
    usage: int
    closed: bool
    files: frozenset[str]

    @property
    def missing(self) -> list[str]:
        """The files whose family is not here."""
        return sorted(file for file in self.files if not here(family_of(file)))


def family_of(file: str) -> str:
    """What must be here for a file, as `FILES` says; empty for files that nothing here is for."""
    return next((needed for pattern, needed in FILES if re.match(pattern, file, re.IGNORECASE)), "")


def here(needed: str) -> bool:
    """Whether there is a family, of the variant and with the task that are asked for; or a node."""
    name, _, task = needed.partition(" ")
    name, _, variant = name.partition(":")
    if needed == "*":
        return True
    if name.startswith("std."):
        return hasattr(graphengine_nodes, name.removeprefix("std."))
    known = families()
    if name not in known:
        return False
    record: Any = getattr(known[name], "record", None)
    if record is None:
        return not variant
    if variant and variant not in record.variants:
        return False
    held = [record.variants[variant]] if variant else record.variants.values()
    return not task or any(task in asked.split("+") for one in held for asked in one.tasks)


def read(paths: list[Path]) -> tuple[dict[str, Any], list[str]]:
    """The JSON files of the templates by their names without suffix, and the names and versions of the packages."""
    found: dict[str, Any] = {}
    versions = []
    for name, text in texts(paths):
        if name.endswith(".dist-info/METADATA"):
            about = message_from_string(text)
            versions.append(f"{about['Name']} {about['Version']}")
        else:
            found[name.rpartition("/")[2].removesuffix(".json")] = json.loads(text)
    return found, versions


def texts(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """Names and texts of the templates and of the packages' metadata, in wheels or folders."""
    wanted = re.compile(r".*/templates/[^/]+\.json|.*\.dist-info/METADATA")
    for path in paths:
        if path.is_file():
            with zipfile.ZipFile(path) as wheel:
                for name in wheel.namelist():
                    if wanted.fullmatch(name):
                        yield name, wheel.read(name).decode("utf-8")
        else:
            for file in sorted(path.rglob("*")):
                if file.is_file() and wanted.fullmatch(file.as_posix()):
                    yield file.as_posix(), file.read_text("utf-8")


def templates(found: Mapping[str, Any], kind: str) -> list[Template]:
    """The templates of a kind (`image`, `video`) in the index."""
    listed = [entry for group in found["index"] if group["type"] == kind for entry in group["templates"]]
    return [
        Template(
            entry["name"],
            entry.get("usage", 0),
            entry.get("openSource") is False,
            frozenset(files_of(found[entry["name"]])) if entry["name"] in found else frozenset(),
        )
        for entry in {entry["name"]: entry for entry in listed}.values()
    ]


def files_of(workflow: Mapping[str, Any]) -> Iterator[str]:
    """The files of models that the nodes of a workflow and of its subgraphs name, as `directory/file`."""
    for graph in (workflow, *workflow.get("definitions", {}).get("subgraphs", [])):
        for node in graph.get("nodes", []):
            for model in node.get("properties", {}).get("models") or []:
                yield f"{model['directory']}/{model['name']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path, help="wheels, or folders of unpacked ones")
    parser.add_argument("--type", default="image", help="of the index's groups: image, video, ...")
    given = parser.parse_args()
    found, versions = read(given.packages)
    listed = templates(found, given.type)
    local = [one for one in listed if one.files and not one.closed]
    ours = [one for one in local if not one.missing]
    readable = [one for one in ours if not any(UNREAD.search(file) and family_of(file) != "*" for file in one.files)]
    print(", ".join(versions))
    used = sum(one.usage for one in local) or 1

    def row(what: str, chosen: list[Template], shared: bool = False) -> tuple[str, int, int, str]:
        usage = sum(one.usage for one in chosen)
        return what, len(chosen), usage, f"{usage / used:.0%}" if shared else ""

    rows = [
        row(f"all {given.type} templates", listed),
        row("closed: they call services", [one for one in listed if one.closed]),
        row("open, without any model", [one for one in listed if not one.closed and not one.files]),
        row("local: with files of models", local, shared=True),
        row("of the local ones, all their models' families are here", ours, shared=True),
        row("of these, no file is in a small format that is not read", readable, shared=True),
    ]
    show(f"ComfyUI's {given.type} templates", ("templates", "how many", "usage", "of the local usage"), rows)
    counts: Counter[str] = Counter()
    usage: Counter[str] = Counter()
    for one in ours:
        for name in {family_of(file) for file in one.files if file.startswith(MODELS)}:
            counts[name] += 1
            usage[name] += one.usage
    by_family = [(name, counts[name], usage[name]) for name in sorted(usage, key=lambda name: -usage[name])]
    show("Here, by the family of their denoisers", ("family", "templates", "usage"), by_family)
    others = sorted((one for one in local if one.missing), key=lambda one: -one.usage)
    rest = [(one.name, one.usage, ", ".join(one.missing)) for one in others]
    show("Not here", ("template", "usage", "files of no family that is here"), rest)


if __name__ == "__main__":
    main()
