"""Names of layers in LoRA files: those of diffusers and transformers, and of the code that a model was published with.

All names are written with underscores for dots, as `graphengine_nodes.weights.lora_names` compares them. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from graphengine_nodes.families.lora_families import changes_flux as changes_flux
from graphengine_nodes.families.lora_families import changes_unet as changes_unet
from graphengine_nodes.layouts import chroma, flux2, stable_diffusion_3, wan, z_image
from graphengine_nodes.layouts.names import Names
from graphengine_nodes.weights.lora_names import Place


def squashed(path: str) -> str:
    """A layer's path as LoRAs' names are compared."""
    return path.replace(".", "_")


def own_places(paths: Iterable[str]) -> dict[str, Place]:
    """Where each path itself belongs; the projections out of attention are called `to_out` in old files."""
    found = {}
    for path in paths:
        found[squashed(path)] = Place((path,))
        if path.endswith(".to_out.0"):
            found.setdefault(squashed(path.removesuffix(".0")), Place((path,)))
    return found


def clip_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of CLIP's layers, with and without `text_model`; old files call its projections as a UNet's."""
    found = {}
    for path in paths:
        inner = squashed(path.removeprefix("text_model."))
        old = re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", inner)
        for name in (inner, old):
            found[name] = found[f"text_model_{name}"] = Place((path,))
    return found


# --- UNets ------------------------------------------------------------------------------------------------------------

OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a UNet's layers, also in the original code, which counts blocks through."""
    found = own_places(paths)
    starts = _original_starts(paths)
    for path in paths:
        if (outer := OUTER.get(path)) is not None:
            found[squashed(outer)] = Place((path,))
        for start, original in starts.items():
            if path.startswith(f"{start}."):
                leaf = path.removeprefix(f"{start}.")
                leaf = RESNET.get(leaf, leaf) if ".resnets." in f"{start}." else leaf
                found[squashed(f"{original}.{leaf}")] = Place((path,))
    for path in paths:  # a sampler is one convolution
        if path.endswith((".downsamplers.0.conv", ".upsamplers.0.conv")):
            found[squashed(starts[path.removesuffix(".conv")])] = Place((path,))
    return found


def _original_starts(paths: Sequence[str]) -> dict[str, str]:
    """The original code's names of a UNet's resnets, attentions and samplers, by diffusers'."""
    blocks = sorted({match[0] for path in paths if (match := re.match(r"\w+_blocks?\.(\d+\.)?(?=\w+s\.\d)", path))})
    inside = {
        block: sorted({match[1] for path in paths if (match := re.match(rf"{re.escape(block)}(\w+s\.\d+)\.", path))})
        for block in blocks
    }
    found = {}
    for side, original, count in (("down_blocks.", "input_blocks", 1), ("up_blocks.", "output_blocks", 0)):
        for block in sorted((b for b in blocks if b.startswith(side)), key=lambda b: int(b.split(".")[1])):
            has = set(inside[block])
            for index in range(sum(name.startswith("resnets.") for name in has)):
                found[f"{block}resnets.{index}"] = f"{original}.{count}.0"
                if f"attentions.{index}" in has:
                    found[f"{block}attentions.{index}"] = f"{original}.{count}.1"
                count += 1
            if "downsamplers.0" in has:
                found[f"{block}downsamplers.0"] = f"{original}.{count}.0.op"
                count += 1
            if "upsamplers.0" in has:
                slot = 2 if "attentions.0" in has else 1
                found[f"{block}upsamplers.0"] = f"{original}.{count - 1}.{slot}.conv"
    middle = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
    return found | {f"mid_block.{name}": f"middle_block.{number}" for name, number in middle.items()}


# --- FLUX -------------------------------------------------------------------------------------------------------------

FLUX_OUTER = {
    "img_in": ("x_embedder",),
    "img_in.proj": ("x_embedder",),  # in OneTrainer's files, as OMI defines it
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}

FLUX_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    # XLabs' attention processors: 1 is the picture's, 2 the text's.
    "qkv1": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "qkv2": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "proj1": ("attn.to_out.0",),
    "proj2": ("attn.to_add_out",),
}

FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
    "qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "proj": ("proj_out",),
}


def flux_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a FLUX transformer's layers, also in the original code, which has some of them in one piece."""
    names = {name: tuple(there) for name, there in FLUX_OUTER.items()}
    for index in _numbers(paths, "transformer_blocks"):
        names |= {
            f"double_blocks.{index}.{name}": tuple(f"transformer_blocks.{index}.{path}" for path in there)
            for name, there in FLUX_DOUBLE.items()
        }
    for index in _numbers(paths, "single_transformer_blocks"):
        names |= {
            f"single_blocks.{index}.{name}": tuple(f"single_transformer_blocks.{index}.{path}" for path in there)
            for name, there in FLUX_SINGLE.items()
        }
    known = set(paths)
    for name, there in [(name, there) for name, there in names.items() if len(there) > 1]:
        names |= {f"{name}.{index}": (path,) for index, path in enumerate(there)}  # OneTrainer's, as OMI defines it
    found = {squashed(name): Place(there) for name, there in names.items() if known.issuperset(there)}
    if "norm_out.linear" in known:
        found["final_layer_adaLN_modulation_1"] = Place(("norm_out.linear",), swapped=True)
    for name in [name for name in found if name.endswith(("query_norm", "key_norm"))]:
        found[f"{name}_scale"] = found[name]
    return own_places(paths) | found


def _numbers(paths: Sequence[str], block: str) -> list[int]:
    inside = [path.removeprefix(f"{block}.") for path in paths if path.startswith(f"{block}.")]
    return sorted({int(path.partition(".")[0]) for path in inside})


# --- transformers by the tables of their layouts ----------------------------------------------------------------------


def _by_names(names: Names, paths: Sequence[str]) -> dict[str, Place]:
    """The names of a transformer's layers, of diffusers and of the code that it was published with.

    Layers that are one there may have a name each, with a number: OneTrainer's, as OMI defines it.
    """
    known, found = set(paths), own_places(paths)
    for name, there in names.layers(lambda blocks: max(_numbers(paths, blocks.new), default=-1) + 1).items():
        if not known.issuperset(there):
            continue
        place = Place(there, swapped=name in names.swapped)
        found[squashed(name)] = place
        if "norm" in name:
            found[squashed(f"{name}.scale")] = place
        if len(there) > 1:
            found |= {squashed(f"{name}.{index}"): Place((path,)) for index, path in enumerate(there)}
    return found


def z_image_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a Z-Image transformer's layers."""
    return _by_names(z_image.NAMES, paths)


def qwen_image_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a Qwen-Image transformer's layers, which are diffusers' everywhere, but for two of 2.1 in one."""
    found = own_places(paths)
    for path in paths:
        if path.endswith(".img_mlp.gate_layer"):
            block = path.removesuffix("gate_layer")
            found[squashed(f"{block}gate_up")] = Place((path, f"{block}proj"))
    return found


def flux2_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a FLUX.2 transformer's layers."""
    return _by_names(flux2.NAMES, paths)


def chroma_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a Chroma transformer's layers, most of which are FLUX.1's."""
    return flux_places(paths) | _by_names(chroma.NAMES, paths)


def stable_diffusion_3_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a Stable Diffusion 3 transformer's layers."""
    found = _by_names(stable_diffusion_3.NAMES, paths)
    blocks = max(_numbers(paths, "transformer_blocks"), default=-1) + 1
    last = f"joint_blocks_{blocks - 1}_context_block_adaLN_modulation_1"
    if last in found:
        found[last] = Place(found[last].paths, swapped=True)
    return found


def wan_places(paths: Sequence[str]) -> dict[str, Place]:
    """The names of a Wan transformer's layers."""
    return _by_names(wan.NAMES, paths)
