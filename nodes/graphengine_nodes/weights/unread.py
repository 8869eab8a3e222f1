"""Tensors in files of weights that no component has a place for and that change no picture, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNREAD = {
    r"^(first_stage_model\.)?model_ema\.": (
        "moving averages of the weights, beside the weights themselves",
        "Stable Diffusion 1.x with everything that its training kept (`full`), VAEs of the same training",
    ),
    r"^((sqrt_|log_)?(alphas|one_minus_alphas)_cumprod(_prev)?|sqrt_recip(m1)?_alphas_cumprod|betas|lvlb_weights|logvar"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12]))$": (
        "the noise schedule of the training, which the scheduler's configuration gives",
        "Stable Diffusion 1.x and 2.x with the original code's names",
    ),
    r"^scale_factor$": (
        "the scale of latents, which is compared with that of the VAE's configuration",
        "models that were trained by the original code with a scale by the spread of latents (`scale_by_std`)",
    ),
    r"^denoiser\.sigmas$": (
        "the noise levels of the training, which the scheduler's configuration gives",
        "SDXL with the original code's names",
    ),
    r"^(v_pred|ztsnr|edm_(vpred\.)?[\w.]+)$": (
        "markers of how the denoiser was trained: `load_model` reads or refuses them",
        "NoobAI-XL with velocity prediction; CosXL and Playground 2.5, which are refused",
    ),
    r"(^|\.)position_ids$": (
        "the numbers 0, 1, 2, ...",
        "text encoders written by transformers before 4.31",
    ),
    r"(^|\.)logit_scale$": ("the temperature of CLIP's training", "SDXL, SD 2.x, ComfyUI's FLUX, whole CLIP models"),
    r"^(vision_model|visual_projection|visual)\b": ("the picture side of CLIP", "whole CLIP models"),
    r"^(text_model\.)?text_projection(\.weight)?$": (
        "the projection to CLIP's space, which only SDXL's second text encoder reads",
        "folders whose text encoder was written with its projection",
    ),
    r"(^|\.)attn_mask$": ("the causal mask, which is computed", "OpenCLIP"),
    r"(^|\.)(rotary_emb\.)?inv_freq$": ("frequencies of rotary embeddings, which are computed", "language models"),
    r"(^|\.)norm_final\.weight$": ("a norm that the transformer does not compute", "Z-Image as ComfyUI writes it"),
    r"(^|\.)num_batches_tracked$": ("a counter of training in batch norms", "FLUX.2's VAE"),
    r"(^|\.)(decoder\.(block\.\d+\.layer\.|final_layer_norm\.|embed_tokens\.)|lm_head\.)": (
        "the decoder of T5, and what predicts tokens: only the encoder reads prompts",
        "whole T5 models, language models",
    ),
    r"^dec\.(blk\.|output_norm\.)|^output\.weight$": ("the decoder of T5", "whole T5 models as GGUF"),
    r"(^|\.)(encoder\.embed_tokens|shared)\.weight$": (
        "the embeddings of T5, which stand there twice",
        "T5 as ComfyUI and older versions of transformers write it",
    ),
    r"^(first_stage_model\.|vae\.)?loss\.": ("the discriminator of a VAE's training", "VAEs of the original code"),
    r"(^|\.)(spiece_model|tokenizer_json|tekken_model)$": ("the bytes of a tokenizer", "text encoders for ComfyUI"),
}
"""Patterns of names, and for each what the tensors are and files that have them."""


def without_place(names: Iterable[str]) -> list[str]:
    """The names of tensors, of those that a component has no place for, that may not be left out; sorted."""
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in UNREAD))
