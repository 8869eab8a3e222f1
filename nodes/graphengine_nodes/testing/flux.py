"""Small FLUX models made on the spot, for tests of nodes.

They need no download and a second or less; their weights are drawn from a seed, so that two calls make the same. Their
pictures are patterns without a meaning that every part of the model moves.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from graphengine_nodes.testing.sd import original_vae_name
from graphengine_nodes.weights.files import TINY

__all__ = ["flux_controlnet", "flux_lora", "flux_model", "flux_single_file"]

WIDTH = 32
"""Of the text encoders' embeddings and of the transformer."""


def flux_model(folder: Path, seed: int = 0, guidance: bool = True) -> Path:
    """A model whose latents have the real shape: 16 channels at 1/8 of the size, packed two by two.

    Args:
        guidance: With an embedding of the guidance scale, as dev has it; without, as schnell.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

    generator = torch.Generator().manual_seed(seed)
    words = CLIPTokenizer.from_pretrained(TINY / "model" / "tokenizer", local_files_only=True)
    pieces = _pieces()
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
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=_random(vae, generator, 0.2),
        text_encoder=_random(CLIPTextModel(clip), generator, 0.3),
        tokenizer=words,
        text_encoder_2=_random(T5EncoderModel(t5), generator, 0.3),
        tokenizer_2=pieces,
        transformer=_random(FluxTransformer2DModel(**_shape(), guidance_embeds=guidance), generator, 0.12),
    ).save_pretrained(folder)
    (folder / "defaults.json").write_text(json.dumps({"steps": 2, "width": 64, "height": 64}))
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


def flux_single_file(file: Path, model: Path, whole: bool = False, width: int = 3072, prefix: str = "") -> Path:
    """A checkpoint with the names of the original code, in half precision; diffusers reads only those of FLUX's width.

    Its transformer has one double and one single block with random weights: about 1 GB at that width.

    Args:
        model: A folder whose VAE and text encoders are in it too, if it is a whole one.
        prefix: What the names of the transformer begin with, such as `model.diffusion_model.`.
    """
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{prefix}{name}": torch.randn(shape, generator=generator, dtype=torch.bfloat16)
        for name, shape in _original_shapes(width).items()
    }
    if whole:
        vae = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
        clip, t5 = (load_file(model / name / "model.safetensors") for name in ("text_encoder", "text_encoder_2"))
        for name, tensor in vae.items():  # whose attention is made of convolutions there
            as_convolution = "attentions" in name and tensor.ndim == 2
            tensors[f"vae.{original_vae_name(name, 4)}"] = tensor[:, :, None, None] if as_convolution else tensor
        start = "text_encoders.clip_l.transformer.text_model."
        tensors |= {start + name.removeprefix("text_model."): tensor for name, tensor in clip.items()}
        tensors |= {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in t5.items()}
    save_file(tensors, file)
    return file


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


def _pieces() -> Any:
    """T5's tokenizer with a vocabulary of letters, and of 64 instead of 512 tokens."""
    from transformers import T5Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=64)


def _random(module: Any, generator: Any, std: float) -> Any:
    """A module with random weights; those of norms around 1."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(1 + drawn if "norm" in name and name.endswith("weight") and drawn.ndim == 1 else drawn)
    return module.eval()
