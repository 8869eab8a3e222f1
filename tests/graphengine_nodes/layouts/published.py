"""Names and shapes of published checkpoints, by the rules of the code that wrote them: counts and widths are facts.

The rules are those of the public constructors: latent-diffusion's `UNetModel` and autoencoder, OpenAI's and OpenCLIP's
text transformers, T5's encoder, and black-forest-labs' `Flux`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Shapes = dict[str, tuple[int, ...]]


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def layer(name: str, *shape: int) -> Shapes:
    """A layer with a bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def unet(
    width: int = 320,
    mult: Sequence[float] = (1, 2, 4, 4),
    depths: Sequence[int] = (1, 1, 1, 0),
    middle: int = 1,
    context: int = 768,
    linear: bool = False,
    channels: int = 4,
    adm: int = 0,
    layers: int = 2,
) -> Shapes:
    """`UNetModel`: blocks are counted through on each side, a level ends where the size changes."""
    time = 4 * width
    found = layer("time_embed.0", time, width) | layer("time_embed.2", time, time)
    if adm:
        found |= layer("label_emb.0.0", time, adm) | layer("label_emb.0.2", time, time)
    found |= layer("input_blocks.0.0", width, channels, 3, 3)
    widths, ch, block = [width], width, 1

    def resnet(name: str, before: int, after: int) -> Shapes:
        made = layer(f"{name}.in_layers.0", before) | layer(f"{name}.in_layers.2", after, before, 3, 3)
        made |= layer(f"{name}.emb_layers.1", after, time) | layer(f"{name}.out_layers.0", after)
        made |= layer(f"{name}.out_layers.3", after, after, 3, 3)
        return made | (layer(f"{name}.skip_connection", after, before, 1, 1) if before != after else {})

    def transformer(name: str, ch: int, depth: int) -> Shapes:
        kernel = () if linear else (1, 1)
        made = layer(f"{name}.norm", ch) | layer(f"{name}.proj_in", ch, ch, *kernel)
        for number in range(depth):
            inner = f"{name}.transformer_blocks.{number}"
            for attn, width in (("attn1", ch), ("attn2", context)):
                made[f"{inner}.{attn}.to_q.weight"] = (ch, ch)
                made[f"{inner}.{attn}.to_k.weight"] = made[f"{inner}.{attn}.to_v.weight"] = (ch, width)
                made |= layer(f"{inner}.{attn}.to_out.0", ch, ch)
            made |= layer(f"{inner}.ff.net.0.proj", 8 * ch, ch) | layer(f"{inner}.ff.net.2", ch, 4 * ch)
            for norm in ("norm1", "norm2", "norm3"):
                made |= layer(f"{inner}.{norm}", ch)
        return made | layer(f"{name}.proj_out", ch, ch, *kernel)

    for level, times in enumerate(mult):
        for _ in range(layers):
            found |= resnet(f"input_blocks.{block}.0", ch, int(times * width))
            ch = int(times * width)
            if depths[level]:
                found |= transformer(f"input_blocks.{block}.1", ch, depths[level])
            widths.append(ch)
            block += 1
        if level < len(mult) - 1:
            found |= layer(f"input_blocks.{block}.0.op", ch, ch, 3, 3)
            widths.append(ch)
            block += 1
    found |= resnet("middle_block.0", ch, ch) | transformer("middle_block.1", ch, middle)
    found |= resnet("middle_block.2", ch, ch)
    block = 0
    for level, times in reversed(list(enumerate(mult))):
        for number in range(layers + 1):
            found |= resnet(f"output_blocks.{block}.0", ch + widths.pop(), int(times * width))
            ch = int(times * width)
            if depths[level]:
                found |= transformer(f"output_blocks.{block}.1", ch, depths[level])
            if level and number == layers:
                found |= layer(f"output_blocks.{block}.{2 if depths[level] else 1}.conv", ch, ch, 3, 3)
            block += 1
    return found | layer("out.0", ch) | layer("out.2", 4, ch, 3, 3)


def vae(
    width: int = 128,
    mult: Sequence[int] = (1, 2, 4, 4),
    channels: int = 4,
    quant: bool = True,
    layers: int = 2,
    attention: bool = True,
) -> Shapes:
    """`Encoder` and `Decoder` of an autoencoder: the decoder counts its levels from the picture, too."""

    def resnet(name: str, before: int, after: int) -> Shapes:
        made = layer(f"{name}.norm1", before) | layer(f"{name}.conv1", after, before, 3, 3)
        made |= layer(f"{name}.norm2", after) | layer(f"{name}.conv2", after, after, 3, 3)
        return made | (layer(f"{name}.nin_shortcut", after, before, 1, 1) if before != after else {})

    def mid(side: str, ch: int) -> Shapes:
        made = resnet(f"{side}.mid.block_1", ch, ch) | resnet(f"{side}.mid.block_2", ch, ch)
        if attention:
            made |= layer(f"{side}.mid.attn_1.norm", ch)
            for name in ("q", "k", "v", "proj_out"):
                made |= layer(f"{side}.mid.attn_1.{name}", ch, ch, 1, 1)
        return made

    ch = width * mult[0]
    found = layer("encoder.conv_in", width, 3, 3, 3)
    ch = width
    for level, times in enumerate(mult):
        for number in range(layers):
            found |= resnet(f"encoder.down.{level}.block.{number}", ch, times * width)
            ch = times * width
        if level < len(mult) - 1:
            found |= layer(f"encoder.down.{level}.downsample.conv", ch, ch, 3, 3)
    found |= mid("encoder", ch) | layer("encoder.norm_out", ch) | layer("encoder.conv_out", 2 * channels, ch, 3, 3)
    found |= layer("decoder.conv_in", ch, channels, 3, 3) | mid("decoder", ch)
    for level, times in reversed(list(enumerate(mult))):
        for number in range(layers + 1):
            found |= resnet(f"decoder.up.{level}.block.{number}", ch, times * width)
            ch = times * width
        if level:
            found |= layer(f"decoder.up.{level}.upsample.conv", ch, ch, 3, 3)
    found |= layer("decoder.norm_out", ch) | layer("decoder.conv_out", 3, ch, 3, 3)
    if quant:
        found |= layer("quant_conv", 2 * channels, 2 * channels, 1, 1)
        found |= layer("post_quant_conv", channels, channels, 1, 1)
    return found


def clip(
    width: int = 768, layers: int = 12, vocabulary: int = 49408, positions: bool = False, inner: int | None = None
) -> Shapes:
    """OpenAI's text transformer as transformers names it."""
    found: Shapes = {"embeddings.token_embedding.weight": (vocabulary, width)}
    found["embeddings.position_embedding.weight"] = (77, width)
    if positions:
        found["embeddings.position_ids"] = (1, 77)
    for number in range(layers):
        name = f"encoder.layers.{number}"
        for one in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= layer(f"{name}.self_attn.{one}", width, width)
        found |= layer(f"{name}.mlp.fc1", inner or 4 * width, width) | layer(
            f"{name}.mlp.fc2", width, inner or 4 * width
        )
        found |= layer(f"{name}.layer_norm1", width) | layer(f"{name}.layer_norm2", width)
    return prefixed("text_model.", found | layer("final_layer_norm", width))


def open_clip(width: int, layers: int, vocabulary: int = 49408, inner: int | None = None) -> Shapes:
    """OpenCLIP's text tower in its own names."""
    found: Shapes = {"token_embedding.weight": (vocabulary, width), "positional_embedding": (77, width)}
    found |= {"text_projection": (width, width), "logit_scale": ()} | layer("ln_final", width)
    for number in range(layers):
        name = f"transformer.resblocks.{number}"
        found |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
        found |= layer(f"{name}.attn.out_proj", width, width)
        found |= layer(f"{name}.mlp.c_fc", inner or 4 * width, width)
        found |= layer(f"{name}.mlp.c_proj", width, inner or 4 * width)
        found |= layer(f"{name}.ln_1", width) | layer(f"{name}.ln_2", width)
    return found


def t5(
    width: int = 4096, layers: int = 24, heads: int = 64, inner: int = 10240, vocabulary: int = 32128, head: int = 64
) -> Shapes:
    """The encoder of T5 1.1, with its embeddings twice, as ComfyUI writes it."""
    found: Shapes = {"shared.weight": (vocabulary, width), "encoder.embed_tokens.weight": (vocabulary, width)}
    for number in range(layers):
        name = f"encoder.block.{number}.layer"
        for one in ("q", "k", "v"):
            found[f"{name}.0.SelfAttention.{one}.weight"] = (heads * head, width)
        found[f"{name}.0.SelfAttention.o.weight"] = (width, heads * head)
        found |= {f"{name}.{n}.layer_norm.weight": (width,) for n in (0, 1)}
        found |= {f"{name}.1.DenseReluDense.{one}.weight": (inner, width) for one in ("wi_0", "wi_1")}
        found[f"{name}.1.DenseReluDense.wo.weight"] = (width, inner)
    found["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
    return found | {"encoder.final_layer_norm.weight": (width,)}


def flux(
    guidance: bool,
    width: int = 3072,
    double: int = 19,
    single: int = 38,
    head: int = 128,
    texts: int = 4096,
    pooled: int = 768,
    channels: int = 64,
) -> Shapes:
    """`Flux` of black-forest-labs: Fill takes a picture and a mask beside the latents, Canny and Depth a picture."""
    found = layer("img_in", width, channels) | layer("txt_in", width, texts)
    embedders = {"time_in": 256, "vector_in": pooled} | ({"guidance_in": 256} if guidance else {})
    for name, inner in embedders.items():
        found |= layer(f"{name}.in_layer", width, inner) | layer(f"{name}.out_layer", width, width)

    def norms(name: str) -> Shapes:
        return {f"{name}.{kind}_norm.scale": (head,) for kind in ("query", "key")}

    for number in range(double):
        for side in ("img", "txt"):
            name = f"double_blocks.{number}.{side}"
            found |= layer(f"{name}_mod.lin", 6 * width, width) | layer(f"{name}_attn.qkv", 3 * width, width)
            found |= norms(f"{name}_attn.norm") | layer(f"{name}_attn.proj", width, width)
            found |= layer(f"{name}_mlp.0", 4 * width, width) | layer(f"{name}_mlp.2", width, 4 * width)
    for number in range(single):
        name = f"single_blocks.{number}"
        found |= layer(f"{name}.linear1", 7 * width, width) | layer(f"{name}.linear2", width, 5 * width)
        found |= norms(f"{name}.norm") | layer(f"{name}.modulation.lin", 3 * width, width)
    return found | layer("final_layer.linear", 64, width) | layer("final_layer.adaLN_modulation.1", 2 * width, width)


# --- whole files ------------------------------------------------------------------------------------------------------

SCHEDULE = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)
NOISE: Shapes = dict.fromkeys(SCHEDULE, (1000,))

V1 = unet()
V2 = unet(context=1024, linear=True)
XL_SIZES = {"mult": (1, 2, 4), "depths": (0, 2, 10), "middle": 10, "context": 2048, "linear": True, "adm": 2816}
XL = unet(mult=(1, 2, 4), depths=(0, 2, 10), middle=10, context=2048, linear=True, adm=2816)
REFINER = unet(384, depths=(0, 4, 4, 0), middle=4, context=1280, linear=True, adm=2560)


def stable_diffusion(denoiser: Shapes, positions: bool = True, texts: bool = True, loss: bool = False) -> Shapes:
    found = prefixed("model.diffusion_model.", denoiser) | prefixed("first_stage_model.", vae())
    if loss:
        found |= {
            "first_stage_model.loss.logvar": (),
            "first_stage_model.loss.discriminator.main.0.weight": (64, 3, 4, 4),
        }
    return found | (prefixed("cond_stage_model.transformer.", clip(positions=positions)) if texts else {})


def averages(shapes: Shapes) -> Shapes:
    """Moving averages: their names are those of the weights, without dots."""
    kept = {name for name in shapes if name.startswith("model.")}
    found: Shapes = {"model_ema.decay": (), "model_ema.num_updates": ()}
    return found | {f"model_ema.{name.removeprefix('model.').replace('.', '')}": shapes[name] for name in kept}


def xl(denoiser: Shapes = XL, positions: bool = True, sigmas: bool = True) -> Shapes:
    found = prefixed("model.diffusion_model.", denoiser) | prefixed("first_stage_model.", vae())
    found |= prefixed("conditioner.embedders.0.transformer.", clip(positions=positions))
    found |= prefixed("conditioner.embedders.1.model.", open_clip(1280, 32))
    return found | ({"denoiser.sigmas": (1000,)} if sigmas else {})


def comfy_flux(guidance: bool) -> Shapes:
    found = prefixed("model.diffusion_model.", flux(guidance))
    found |= prefixed("vae.", vae(channels=16, quant=False))
    found |= prefixed("text_encoders.clip_l.transformer.", clip())
    found |= {
        "text_encoders.clip_l.transformer.text_projection.weight": (768, 768),
        "text_encoders.clip_l.logit_scale": (),
    }
    return found | prefixed("text_encoders.t5xxl.transformer.", t5()) | {"text_encoders.t5xxl.logit_scale": ()}


def files() -> Iterator[tuple[str, str | None, set[str], Shapes]]:
    """Published files: what each is, its family, the components in it, and its tensors."""
    whole = {"unet", "vae", "text_encoder"}
    v1 = stable_diffusion(V1)
    yield "SD 1.5 pruned, EMA only", "stable_diffusion", whole, v1 | NOISE
    yield "SD 1.5 with averages and schedule", "stable_diffusion", whole, v1 | NOISE | averages(v1)
    yield "SD 1.4 with the loss of its VAE", "stable_diffusion", whole, stable_diffusion(V1, loss=True) | NOISE
    yield "SD 1.5 without text encoder", "stable_diffusion", {"unet", "vae"}, stable_diffusion(V1, texts=False)
    yield "SD 1.5 of kohya's trainer", "stable_diffusion", whole, stable_diffusion(V1)
    old = {n.replace("transformer.text_model.", "transformer."): s for n, s in v1.items()}
    yield "SD 1.x of an old trainer", "stable_diffusion", whole, old
    yield "SD 1.5 inpainting", "stable_diffusion", whole, stable_diffusion(unet(channels=9)) | NOISE
    yield "Instruct pix2pix", "stable_diffusion", whole, stable_diffusion(unet(channels=8)) | NOISE
    second = prefixed("model.diffusion_model.", V2) | prefixed("first_stage_model.", vae())
    v2 = second | prefixed("cond_stage_model.model.", open_clip(1024, 24))
    yield "SD 2.1 base", "stable_diffusion", whole, v2 | NOISE
    yield "SD 2.1 with velocity prediction and averages", "stable_diffusion", whole, v2 | NOISE | averages(v2)
    mask: Shapes = {"cond_stage_model.model.attn_mask": (77, 77)}
    yield "SD 2.0 with its mask", "stable_diffusion", whole, v2 | NOISE | mask
    turbo = second | prefixed("conditioner.embedders.0.model.", open_clip(1024, 24))
    yield "SD-Turbo", "stable_diffusion", whole, turbo
    whole = whole | {"text_encoder_2"}
    yield "SDXL base", "stable_diffusion_xl", whole, xl()
    yield "SDXL of kohya's trainer (Illustrious)", "stable_diffusion_xl", whole, xl(positions=False, sigmas=False)
    yield (
        "NoobAI with velocity prediction",
        "stable_diffusion_xl",
        whole,
        xl(sigmas=False) | {"v_pred": (), "ztsnr": ()},
    )
    plain = unet(channels=9, **XL_SIZES)  # type: ignore[arg-type]
    yield "SDXL inpainting", "stable_diffusion_xl", whole, xl(plain)
    bare = {name: s for name, s in xl().items() if not name.startswith("conditioner.")}
    yield "SDXL without text encoders", "stable_diffusion_xl", {"unet", "vae"}, bare
    edited = unet(channels=8, **XL_SIZES)  # type: ignore[arg-type]
    yield (
        "CosXL edit",
        "stable_diffusion_xl",
        whole,
        xl(edited) | {"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()},
    )
    yield "Playground 2.5", "stable_diffusion_xl", whole, xl() | {"edm_mean": (4,), "edm_std": (4,)}
    refiner = prefixed("model.diffusion_model.", REFINER) | prefixed("first_stage_model.", vae())
    refiner |= prefixed("conditioner.embedders.0.model.", open_clip(1280, 32)) | {"denoiser.sigmas": (1000,)}
    yield "SDXL refiner", "stable_diffusion_xl_refiner", {"unet", "vae", "text_encoder_2"}, refiner
    yield "FLUX.1 dev", "flux", {"transformer"}, flux(True)
    yield "FLUX.1 schnell", "flux", {"transformer"}, flux(False)
    yield "FLUX.1 Fill", "flux", {"transformer"}, flux(True, channels=384)
    yield "FLUX.1 Canny", "flux", {"transformer"}, flux(True, channels=128)
    yield "FLUX.1 dev of ComfyUI, alone", "flux", {"transformer"}, prefixed("model.diffusion_model.", flux(True))
    yield (
        "FLUX.1 schnell of ComfyUI, whole",
        "flux",
        {"transformer", "vae", "text_encoder", "text_encoder_2"},
        comfy_flux(False),
    )
    small = {f"{name.removesuffix('.weight')}.scale_weight": () for name in flux(True) if name.endswith(".qkv.weight")}
    yield "FLUX.1 dev in scaled fp8", "flux", {"transformer"}, flux(True) | small | {"scaled_fp8": (0,)}
    yield "a VAE of the original code", None, {"vae"}, vae() | averages({}) | {"loss.logvar": ()}
    yield "FLUX.1's VAE", None, {"vae"}, vae(channels=16, quant=False)
    yield "CLIP L for ComfyUI", None, {""}, clip() | {"text_projection.weight": (768, 768), "logit_scale": ()}
    picture: Shapes = {"vision_model.post_layernorm.weight": (1024,), "visual_projection.weight": (768, 1024)}
    yield (
        "CLIP L, whole",
        None,
        {""},
        clip(positions=True) | picture | {"logit_scale": (), "text_projection.weight": (768, 768)},
    )
    decoder: Shapes = {"lm_head.weight": (32128, 4096), "decoder.block.0.layer.0.layer_norm.weight": (4096,)}
    yield "T5 1.1, whole", None, {""}, t5() | decoder
    yield "T5 for ComfyUI", None, {""}, t5() | {"spiece_model": (791656,)}
