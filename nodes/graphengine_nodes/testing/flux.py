"""Small FLUX models made on the spot, for tests of nodes.

They need no download and a second or less; their weights are drawn from a seed, so that two calls make the same. Their
pictures are patterns without a meaning that every part of the model moves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphengine_nodes.testing import small, tokenizers
from graphengine_nodes.testing.sd import configurations_of, original_vae
from graphengine_nodes.weights.files import TINY

__all__ = ["flux_controlnet", "flux_lora", "flux_model", "flux_redux", "flux_single_file"]

WIDTH = 32
"""Of the text encoders' embeddings and of the transformer."""


VARIANTS = {"": ("", 64), "kontext": ("Kontext", 64), "fill": ("Fill", 384), "control": ("Control", 128)}
"""Kinds of FLUX.1: what stands in the pipeline's name, and the channels that the transformer takes: latents, and beside
them for `fill` the picture without what is masked (64) and the mask (256), for `control` the control picture (64)."""


def flux_model(folder: Path, seed: int = 0, guidance: bool = True, variant: str = "") -> Path:
    """A model whose latents have the real shape: 16 channels at 1/8 of the size, packed two by two.

    Args:
        guidance: With an embedding of the guidance scale, as dev has it; without, as schnell.
        variant: One of `VARIANTS`: which pipeline it is for, and what the transformer takes beside latents. Kontext
            differs by its pipeline alone, which resizes pictures to about 1024 x 1024 (not with `_auto_resize=False`).
    """
    import diffusers
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

    generator = torch.Generator().manual_seed(seed)
    words = CLIPTokenizer.from_pretrained(TINY / "model" / "tokenizer", local_files_only=True)
    pieces = tokenizers.letters()
    clip = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(pieces),
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=2,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    shift = {"use_dynamic_shifting": True, "shift": 3.0} if guidance else {"shift": 1.0}
    kind, channels = VARIANTS[variant]
    shape = _shape() | {"in_channels": channels, "guidance_embeds": guidance}
    shape["out_channels"] = None if channels == 64 else 64
    vae = _random(vae, generator, 0.2)
    text_encoder = _random(CLIPTextModel(clip), generator, 0.3)
    text_encoder_2 = _random(T5EncoderModel(t5), generator, 0.3)
    transformer = _random(FluxTransformer2DModel(**shape), generator, 0.12)
    getattr(diffusers, f"Flux{kind}Pipeline")(
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=small.faded(vae) if variant else vae,
        text_encoder=text_encoder,
        tokenizer=words,
        text_encoder_2=text_encoder_2,
        tokenizer_2=pieces,
        transformer=small.sharpened(transformer) if variant else transformer,
    ).save_pretrained(folder)
    (folder / "defaults.json").write_text(json.dumps({"steps": 2, "width": 64, "height": 64}))
    return folder


def flux_redux(folder: Path, seed: int = 0) -> Path:
    """A prior of Redux for `flux_model`: SigLIP's image encoder, which makes 16 tokens of a picture, and the embedder.

    It has no text encoders, as published. Its pipeline then takes embeddings of FLUX's own width (4096) for granted:
    for these small models hand it `flux_model`'s text encoders and tokenizers.
    """
    import torch
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from diffusers.pipelines.flux.pipeline_flux_prior_redux import FluxPriorReduxPipeline
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    generator = torch.Generator().manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    FluxPriorReduxPipeline(
        image_encoder=_random(SiglipVisionModel(vision), generator, 0.2),
        feature_extractor=SiglipImageProcessor(size={"height": 32, "width": 32}),
        image_embedder=_random(ReduxImageEncoder(WIDTH, WIDTH), generator, 0.2),
    ).save_pretrained(folder)
    return folder


def flux_controlnet(folder: Path, seed: int = 0, modes: int | None = None) -> Path:
    """A ControlNet of InstantX's kind, which sees an encoded picture; it follows nothing.

    Args:
        modes: A union of so many kinds of control pictures, chosen by `control_mode`.
    """
    import torch
    from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel

    net = _random(FluxControlNetModel(**_shape(), num_mode=modes), torch.Generator().manual_seed(seed), 0.12)
    with torch.no_grad():
        net.controlnet_x_embedder.weight.mul_(3)  # or the control picture moves next to nothing
    net.save_pretrained(folder)
    return folder


def flux_lora(
    file: Path, seed: int = 0, parts: tuple[str, ...] = ("transformer",), rank: int = 4, kohya: bool = False
) -> Path:
    """A LoRA with random weights on the attention of the `transformer`, the `text_encoder`, or both.

    Args:
        kohya: With the names that kohya's trainer writes, and an alpha of half the rank.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, original, rows in _attention(part):
            down = torch.randn(rank, WIDTH, generator=generator) * 0.2
            up = torch.randn(rows, rank, generator=generator) * 0.2
            if kohya:
                tensors |= {f"{original}.lora_down.weight": down, f"{original}.lora_up.weight": up}
                tensors[f"{original}.alpha"] = torch.tensor(rank / 2)
            else:
                for target, rows_of_one in zip(name, torch.split(up, rows // len(name)), strict=True):
                    tensors[f"{part}.{target}.lora_A.weight"] = down.clone()
                    tensors[f"{part}.{target}.lora_B.weight"] = rows_of_one.clone()
    save_file(tensors, file)
    return file


def flux_single_file(
    file: Path,
    model: Path,
    whole: bool = False,
    width: int | None = None,
    prefix: str = "",
    configurations: bool = True,
) -> Path:
    """A folder's transformer as a checkpoint with the names of the original code; a whole one as ComfyUI writes it.

    Args:
        model: The folder, whose VAE and text encoders are in the file too, if it is a whole one.
        width: A transformer of one double and one single block of this width with random weights in half precision in
            place of the folder's. diffusers reads none but those of FLUX's own, 3072: about 1 GB.
        prefix: What the names of the transformer begin with, such as `model.diffusion_model.`.
        configurations: The folder's configurations are in the file's metadata, since no shape tells how many heads and
            groups small text encoders and VAEs have.
    """
    import torch
    from safetensors.torch import load_file, save_file

    if width is None:
        transformer = _original(load_file(model / "transformer" / "diffusion_pytorch_model.safetensors"))
    else:
        generator = torch.Generator().manual_seed(0)
        shapes = _original_shapes(width).items()
        transformer = {n: torch.randn(shape, generator=generator, dtype=torch.bfloat16) for n, shape in shapes}
    tensors = {f"{prefix}{name}": tensor for name, tensor in transformer.items()}
    if whole:
        tensors |= {f"vae.{name}": tensor for name, tensor in original_vae(model / "vae").items()}
        clip, t5 = (load_file(model / name / "model.safetensors") for name in ("text_encoder", "text_encoder_2"))
        start = "text_encoders.clip_l.transformer."
        tensors |= {f"{start}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in clip.items()}
        tensors[f"{start}text_projection.weight"] = torch.eye(WIDTH)
        t5["encoder.embed_tokens.weight"] = t5["shared.weight"].clone()
        tensors |= {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in t5.items()}
        tensors |= {f"text_encoders.{name}.logit_scale": torch.tensor(4.6) for name in ("clip_l", "t5xxl")}
    said = configurations_of(model)
    if width is not None:
        del said["transformer"]
    save_file(tensors, file, {"config": json.dumps(said)} if configurations else None)
    return file


def _original(tensors: dict[str, Any]) -> dict[str, Any]:
    """A transformer's tensors with the original code's names: queries, keys and values in one piece."""
    import torch

    outer = {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    for new, old in (("timestep", "time_in"), ("guidance", "guidance_in"), ("text", "vector_in")):
        outer |= {
            f"time_text_embed.{new}_embedder.linear_{n}": f"{old}.{side}_layer" for n, side in ((1, "in"), (2, "out"))
        }
    double = {"norm1.linear": "img_mod.lin", "attn.to_out.0": "img_attn.proj", "ff.net.0.proj": "img_mlp.0"}
    double |= {"ff.net.2": "img_mlp.2", "norm1_context.linear": "txt_mod.lin", "attn.to_add_out": "txt_attn.proj"}
    double |= {"ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2"}
    norms = {"attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm"}
    norms |= {"attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm"}
    single = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
    single_norms = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
    joined = {"attn.to_q": ("img_attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"])}
    joined["attn.add_q_proj"] = ("txt_attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"])
    of_single = {"attn.to_q": ("linear1", ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"])}
    found = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer in outer:
            halves = tensor.chunk(2)
            found[f"{outer[layer]}.{kind}"] = (
                torch.cat([halves[1], halves[0]]) if layer == "norm_out.linear" else tensor
            )
            continue
        place, number, inner = layer.split(".", 2)
        one = place == "single_transformer_blocks"
        block = f"{'single' if one else 'double'}_blocks.{number}"
        plain, scales, pieces = (single, single_norms, of_single) if one else (double, norms, joined)
        if inner in plain:
            found[f"{block}.{plain[inner]}.{kind}"] = tensor
        elif inner in scales:
            found[f"{block}.{scales[inner]}.scale"] = tensor
        elif inner in pieces:
            whole, parts = pieces[inner]
            found[f"{block}.{whole}.{kind}"] = torch.cat([tensors[f"{place}.{number}.{part}.{kind}"] for part in parts])
    return found


def _original_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a transformer of one double and one single block, by the original code's names."""
    layers = {"img_in": (width, 64), "txt_in": (width, 4096), "final_layer.linear": (64, width)}
    layers["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, inner in (("time_in", 256), ("guidance_in", 256), ("vector_in", 768)):
        layers |= {f"{name}.in_layer": (width, inner), f"{name}.out_layer": (width, width)}
    for side in ("double_blocks.0.img", "double_blocks.0.txt"):
        layers |= {f"{side}_mod.lin": (6 * width, width), f"{side}_attn.qkv": (3 * width, width)}
        layers |= {f"{side}_attn.proj": (width, width), f"{side}_mlp.0": (4 * width, width)}
        layers[f"{side}_mlp.2"] = (width, 4 * width)
    single = "single_blocks.0"
    layers |= {f"{single}.modulation.lin": (3 * width, width), f"{single}.linear1": (7 * width, width)}
    layers[f"{single}.linear2"] = (width, 5 * width)
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in layers.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    for place in ("double_blocks.0.img_attn.norm", "double_blocks.0.txt_attn.norm", f"{single}.norm"):
        found |= {f"{place}.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    return found


def _attention(part: str) -> list[tuple[list[str], str, int]]:
    """Layers that a LoRA changes: diffusers' names, the name of all of them together in kohya's file, the rows."""
    if part == "transformer":
        block = "transformer_blocks.0.attn"
        double = "lora_unet_double_blocks_0"
        return [
            ([f"{block}.to_q", f"{block}.to_k", f"{block}.to_v"], f"{double}_img_attn_qkv", 3 * WIDTH),
            ([f"{block}.to_out.0"], f"{double}_img_attn_proj", WIDTH),
            ([f"{block}.to_add_out"], f"{double}_txt_attn_proj", WIDTH),
        ]
    found: list[tuple[list[str], str, int]] = []
    for layer in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            path = f"text_model.encoder.layers.{layer}.self_attn.{name}"
            found.append(([path], f"lora_te1_{path.replace('.', '_')}", WIDTH))
    return found


def _shape() -> dict[str, Any]:
    """What a transformer and a ControlNet have in common."""
    return {
        "in_channels": 64,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": WIDTH // 2,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "axes_dims_rope": (4, 6, 6),
    }


def _random(module: Any, generator: Any, std: float) -> Any:
    """A module with random weights; those of norms around 1."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(1 + drawn if "norm" in name and name.endswith("weight") and drawn.ndim == 1 else drawn)
    return module.eval()
