"""Files of IP-Adapters: every tensor of the published ones is accounted for, and others are refused by a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from graphengine_nodes.testing import ip_adapters as testing
from graphengine_nodes.weights.ip_adapter_files import read_adapter_file

from graphengine import ModelError

Shapes = Mapping[str, tuple[int, ...]]


def header_only(file: Path, shapes: Shapes) -> Path:
    """A safetensors file with these tensors, whose numbers take no room on the disk."""
    entries, place = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(entries).encode()
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + place)
    return file


def projection(words: int, clip: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"proj.weight": (4 * words, clip), "proj.bias": (4 * words,)}
    return {f"image_proj.{n}": s for n, s in (found | {"norm.weight": (words,), "norm.bias": (words,)}).items()}


def resampler(words: int, inner: int, clip: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"latents": (1, 16, inner), "proj_in.weight": (inner, clip)}
    found |= {"proj_in.bias": (inner,), "proj_out.weight": (words, inner), "proj_out.bias": (words,)}
    found |= {"norm_out.weight": (words,), "norm_out.bias": (words,)}
    for n in range(4):
        found |= {f"layers.{n}.0.norm{k}.{end}": (inner,) for k in (1, 2) for end in ("weight", "bias")}
        found |= {f"layers.{n}.0.to_q.weight": (768, inner), f"layers.{n}.0.to_kv.weight": (1536, inner)}
        found |= {f"layers.{n}.0.to_out.weight": (inner, 768), f"layers.{n}.1.0.weight": (inner,)}
        found |= {f"layers.{n}.1.0.bias": (inner,), f"layers.{n}.1.1.weight": (4 * inner, inner)}
        found |= {f"layers.{n}.1.3.weight": (inner, 4 * inner)}
    return {f"image_proj.{name}": shape for name, shape in found.items()}


def attention(words: int, widths: list[int]) -> dict[str, tuple[int, ...]]:
    return {f"ip_adapter.{2 * n + 1}.to_{k}_ip.weight": (w, words) for n, w in enumerate(widths) for k in "kv"}


FULL = {
    **{f"image_proj.proj.0.{end}": shape for end, shape in (("weight", (1280, 1280)), ("bias", (1280,)))},
    **{f"image_proj.proj.2.{end}": shape for end, shape in (("weight", (768, 1280)), ("bias", (768,)))},
    **{f"image_proj.proj.3.{end}": (768,) for end in ("weight", "bias")},
}
SD = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
XL = [640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10


def xlabs(words: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"proj.weight": (words * 4096, 768), "proj.bias": (words * 4096,)}
    found |= {"norm.weight": (4096,), "norm.bias": (4096,)}
    found = {f"ip_adapter_proj_model.{name}": shape for name, shape in found.items()}
    for place in range(19):
        for side in "kv":
            name = f"double_blocks.{place}.processor.ip_adapter_double_stream_{side}_proj"
            found |= {f"{name}.weight": (3072, 4096), f"{name}.bias": (3072,)}
    return found


PUBLISHED: dict[str, tuple[dict[str, tuple[int, ...]], tuple[object, ...]]] = {
    "ip-adapter_sd15": (projection(768, 1024) | attention(768, SD), ("plain", "stable_diffusion", 1024, 16)),
    "ip-adapter_sd15_vit-G": (projection(768, 1280) | attention(768, SD), ("plain", "stable_diffusion", 1280, 16)),
    "ip-adapter-plus_sd15": (resampler(768, 768, 1280) | attention(768, SD), ("plus", "stable_diffusion", 1280, 16)),
    "ip-adapter-full-face_sd15": (FULL | attention(768, SD), ("full", "stable_diffusion", 1280, 16)),
    "ip-adapter_sdxl": (projection(2048, 1280) | attention(2048, XL), ("plain", "stable_diffusion_xl", 1280, 70)),
    "ip-adapter_sdxl_vit-h": (projection(2048, 1024) | attention(2048, XL), ("plain", "stable_diffusion_xl", 1024, 70)),
    "ip-adapter-plus_sdxl_vit-h": (
        resampler(2048, 1280, 1280) | attention(2048, XL),
        ("plus", "stable_diffusion_xl", 1280, 70),
    ),
    "flux-ip-adapter": (xlabs(4), ("plain", "flux", 768, 19)),
    "flux-ip-adapter-v2": (xlabs(16), ("plain", "flux", 768, 19)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_a_published_adapter_is_accounted_for(name: str, tmp_path: Path) -> None:
    shapes, (kind, family, width, layers) = PUBLISHED[name]
    found = read_adapter_file(header_only(tmp_path / "adapter.safetensors", shapes))
    assert (found.kind, found.families, found.width, len(found.layers)) == (kind, (family,), width, layers)
    with pytest.raises(
        ModelError, match=r"holds 1 tensors that nothing is known about, the first is image_proj\.extra"
    ):
        read_adapter_file(header_only(tmp_path / "more.safetensors", shapes | {"image_proj.extra": (1,)}))


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
def test_made_adapters_have_the_names_of_published_ones(kind: str, tmp_path: Path) -> None:
    assert read_adapter_file(testing.ip_adapter(tmp_path / "made.safetensors", kind)).kind == kind


PLAIN = PUBLISHED["ip-adapter_sd15"][0]
INSTANTX = {f"ip_adapter.{n}.to_{k}_ip.weight": (3072, 4096) for n in range(57) for k in "kv"} | {
    "image_proj.proj.0.weight": (2304, 1152), "image_proj.norm.weight": (4096,)
}  # fmt: skip
REFUSED: dict[str, tuple[Shapes, str]] = {
    "faceid": (PLAIN | {"ip_adapter.1.to_k_lora.down.weight": (128, 320)}, "kind FaceID, which reads faces by the"),
    "faceid-plus": (
        {"image_proj.perceiver_resampler.proj_in.weight": (768, 1280)} | attention(768, SD),
        "kind FaceID, which reads faces by the program insightface",
    ),
    "faceid-portrait": (
        {"image_proj.proj.0.weight": (1024, 512), "image_proj.norm.weight": (768,)} | attention(768, SD),
        "kind FaceID",
    ),
    "instantx": (INSTANTX, "for FLUX as InstantX makes them, which reads pictures by SigLIP: diffusers has no place"),
    "flux-bias": (
        {
            name: shape
            for name, shape in xlabs(4).items()
            if name != "double_blocks.2.processor.ip_adapter_double_stream_k_proj.bias"
        },
        "is damaged: its layers beside attention 2 are not whole",
    ),
    "flux-words": (xlabs(8), "makes 8 words of a picture; only adapters that make 4 are known"),
    "another": ({"lora_unet_x.lora_up.weight": (1, 1)}, "is no IP-Adapter: it holds no image_proj and ip_adapter, but"),
    "half": (
        {name: shape for name, shape in PLAIN.items() if not name.startswith("ip_adapter.3.to_k")},
        "is damaged: its layers beside attention 3 are not whole",
    ),
    "gap": (
        {name: shape for name, shape in PLAIN.items() if not name.startswith("ip_adapter.3.")},
        "is damaged: its layers beside attention 3 are not whole",
    ),
    "widths": (projection(1024, 1024) | attention(768, SD), "makes words of 1024 numbers, its layers read others"),
    "words": (
        PLAIN | {"image_proj.proj.weight": (16 * 768, 1024)},
        "makes 16 words of a picture; only adapters that make 4 are known",
    ),
    "kind": ({"image_proj.x": (1,)} | attention(768, SD), "is an IP-Adapter of an unknown kind"),
    "strange": (PLAIN | {"ip_adapter.2.to_k_ip.weight": (1, 1)}, "the first is ip_adapter.2.to_k_ip.weight"),
    "outside": (PLAIN | {"unet.x": (1,)}, "the first is unet.x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_known_adapter_is_refused_by_a_sentence(name: str, tmp_path: Path) -> None:
    shapes, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence):
        read_adapter_file(header_only(tmp_path / "adapter.safetensors", shapes))
