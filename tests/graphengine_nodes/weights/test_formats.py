"""Files of weights as people have them mean what their formats define, or are refused: never a wrong picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store.store import WeightStore
from graphengine_nodes.testing.flux import flux_lora, flux_model, flux_single_file
from graphengine_nodes.testing.sd import lora as lora_of
from graphengine_nodes.testing.sd import single_file
from graphengine_nodes.weights.files import TINY, Location
from graphengine_nodes.weights.lora_forms import ChangedLayer
from safetensors.torch import load_file, save_file

from graphengine import ModelError, NodeError
from tests.graphengine_nodes import cases

FP8 = torch.float8_e4m3fn
Tensors = dict[str, torch.Tensor]


def latent(model: std.Model, **options: Any) -> torch.Tensor:
    options = {"seed": 1, "steps": 2} | options
    return std.sample(model, std.encode_prompt(model, cases.PROMPT), **options).samples


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


# --- fp8 and int8 with scales -----------------------------------------------------------------------------------------


def quantized(tensors: Tensors, spelling: str, rows: bool, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    """Matrices in a small type with scales beside them, and the same weights rounded alike in a plain file."""
    small, plain = {}, {}
    largest = 448.0 if dtype == FP8 else 127.0
    for name, weight in tensors.items():
        if not name.endswith(".weight") or weight.ndim != 2:
            small[name] = plain[name] = weight
            continue
        scale = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()).float() / largest
        values = weight / scale
        small[name] = values.to(dtype) if dtype == FP8 else values.round().to(dtype)
        small[name.removesuffix("weight") + spelling] = scale
        plain[name] = small[name].float() * scale
    return small, plain


@pytest.mark.parametrize(
    ("spelling", "rows", "dtype"),
    [("scale_weight", False, FP8), ("weight_scale", False, FP8), ("weight_scale", True, FP8),
     ("weight_scale", True, torch.int8), ("scale_weight", False, torch.int8)],
)  # fmt: skip
def test_scaled_weights_of_a_single_file_are_multiplied_out(
    tmp_path: Path, spelling: str, rows: bool, dtype: torch.dtype
) -> None:
    small, plain = quantized(load_file(single_file(tmp_path / "given.safetensors")), spelling, rows, dtype)
    marker = {"scaled_fp8": torch.zeros(2, dtype=FP8)} if spelling == "scale_weight" else {}
    marker["model.diffusion_model.out.2.scale_input"] = torch.ones(())
    save_file(small | marker, tmp_path / "small.safetensors")
    save_file(plain, tmp_path / "plain.safetensors")
    models = [std.load_model(tmp_path / f"{name}.safetensors", config=TINY / "model") for name in ("small", "plain")]
    got, wanted = map(latent, models)
    assert difference(got, wanted) < 1e-5
    assert difference(wanted, latent(std.load_model("tiny"))) > 1e-5  # the weights were rounded


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_scaled_weights_of_a_folder_are_multiplied_out(tmp_path: Path, part: str) -> None:
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    latents = []
    for n in range(2):
        folder = tmp_path / str(n)
        shutil.copytree(TINY / "model", folder)
        file = folder / part / f"{stem}.safetensors"
        save_file(quantized(load_file(file), "weight_scale", False, FP8)[n], file, {"format": "pt"})
        model = std.load_model(folder)
        start = std.encode_image(model, std.Image(torch.full((1, 64, 64, 3), 0.25)))
        latents.append(latent(model, latent=start, strength=1.0))
    assert difference(*latents) < 1e-5


def test_scaled_weights_of_a_transformer_and_of_t5_are_multiplied_out(tmp_path: Path) -> None:
    flux_model(tmp_path / "0")
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder_2", "model")):
        for n in range(2):
            file = tmp_path / str(n) / part / f"{stem}.safetensors"
            save_file(quantized(load_file(file), "scale_weight", False, FP8)[n], file, {"format": "pt"})
    one, other = (latent(std.load_model(tmp_path / str(n)), width=64, height=64) for n in range(2))
    assert difference(one, other) < 1e-4


@pytest.mark.parametrize(
    ("layout", "rows", "dtype"),
    [("folder", True, FP8), ("file", False, FP8), ("flux folder", True, torch.int8), ("flux file", True, FP8)],
)
def test_scaled_weights_stay_small_where_float8_is_asked_for(
    tmp_path: Path, layout: str, rows: bool, dtype: torch.dtype
) -> None:
    source = flux_model(tmp_path / "source") if "flux" in layout else TINY / "model"
    part = "transformer" if "flux" in layout else "unet"
    models = []
    for n, name in enumerate(("small", "plain")):
        if "folder" in layout:
            shutil.copytree(source, tmp_path / name)
            file = tmp_path / name / part / "diffusion_pytorch_model.safetensors"
            save_file(quantized(load_file(file), "weight_scale", rows, dtype)[n], file, {"format": "pt"})
            models.append(std.load_model(tmp_path / name))
            continue
        file = tmp_path / f"{name}.safetensors"
        whole = flux_single_file(file, source) if "flux" in layout else single_file(file)
        save_file(quantized(load_file(whole), "weight_scale", rows, dtype)[n], file)
        models.append(std.load_model(file, config=source))
    small, plain = models
    asked = std.quantize_model(small, "float8")
    got, wanted = (latent(model, width=64, height=64) for model in (asked, plain))
    assert difference(got, wanted) < 1e-5
    weights = WeightStore()
    with weights.component(plain, part, "cpu") as module:
        matrices = {name for name, one in module.named_modules() if type(one) is torch.nn.Linear}
        full = weights.size()
        many = sum(module.get_submodule(name).weight.nbytes for name in matrices)
    weights.clear()
    with weights.component(asked, part, "cpu") as module:
        one = weights.size()
        assert one < full - 0.6 * many  # a quarter, and a scale for each row of these narrow matrices
        lora = _lora(tmp_path / "lora.safetensors", source, part)
        with weights.component(std.apply_lora(asked, lora, 0.5), part, "cpu") as changed:
            own = sum(p.nbytes for p in changed.parameters()) - sum(p.nbytes for p in module.parameters())
            assert weights.size() - own <= 1.05 * one
        assert torch.equal(latent(asked, width=64, height=64), got)
    with_lora = (latent(std.apply_lora(model, lora, 0.5), width=64, height=64) for model in (asked, plain))
    assert difference(*with_lora) < 1e-5


def _lora(file: Path, source: Path, part: str) -> std.LoRA:
    made = flux_lora(file, seed=1) if part == "transformer" else lora_of(file, seed=1, model=source)
    return std.load_lora(made)


REFUSED: dict[str, tuple[Callable[[Tensors, str], Tensors], str]] = {
    "nf4": (lambda t, name: {f"{name}.weight.absmax": torch.ones(4)}, r"quantized as bitsandbytes .*weight\.absmax"),
    "nvfp4": (lambda t, name: {f"{name}.weight_scale_2": torch.ones(())}, r"NVFP4, MXFP8.*weight_scale_2"),
    "gptq": (lambda t, name: {f"{name}.qweight": torch.ones(4)}, r"GPTQ or AWQ"),
    "blocks": (lambda t, name: {f"{name}.weight_scale": torch.ones(3, 5)}, r"has the shape \[3, 5\]"),
    "no weight": (lambda t, name: {"nothing.weight_scale": torch.ones(())}, r"the scale of nothing\.weight, which is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_small_formats_are_refused_by_name(tmp_path: Path, case: str) -> None:
    more, sentence = REFUSED[case]
    tensors = load_file(single_file(tmp_path / "given.safetensors"))
    matrices = (n for n, t in tensors.items() if n.startswith("model.diffusion_model.") and t.ndim == 2)
    name = next(n for n in matrices if n.endswith(".weight")).removesuffix(".weight")
    save_file(tensors | more(tensors, name), tmp_path / "other.safetensors")
    with pytest.raises((ModelError, NodeError), match=sentence):
        latent(std.load_model(tmp_path / "other.safetensors", config=TINY / "model"))


# What is told by the header and by descriptions of layers, before anything is read.
def described(**told: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)


def scaled(weight: torch.Tensor, dtype: torch.dtype = FP8) -> Tensors:
    return {"weight": (weight / weight.abs().max()).to(dtype), "weight_scale": weight.abs().max()}


FORMS: dict[str, tuple[Callable[[torch.Tensor], Tensors], str]] = {
    "int8 without": (lambda w: {"weight": w.to(torch.int8)}, r"holds whole numbers \(I8\) with no scale beside it"),
    "int64": (lambda w: {"weight": w.to(torch.int64)}, r"weight holds whole numbers \(I64\) with no scale"),
    "uint8": (lambda w: scaled(w, torch.uint8), r"weight holds whole numbers \(U8\) with a scale beside it, as"),
    "marker": (lambda w: {"weight": w.to(FP8), "MARKER": torch.zeros(2).to(FP8)}, r"marked as scaled \(.*lacks its sc"),
    "no scale": (
        lambda w: {"weight": w.to(FP8), "comfy_quant": described(format="float8_e4m3fn")}, r"weight lacks its scale",
    ),
    "rotated": (
        lambda w: scaled(w, torch.int8) | {"comfy_quant": described(format="int8_tensorwise", convrot=True)},
        r"a form that is not read: .* has format int8_tensorwise, convrot True; float8_e4m3fn, float8_e5m2, int8",
    ),
    "groups": (
        lambda w: scaled(w) | {"comfy_quant": described(format="float8_e4m3fn_blockwise")}, r"float8_e4m3fn_blockwise;",
    ),
    "torn": (lambda w: scaled(w) | {"comfy_quant": torch.zeros(3, dtype=torch.uint8)}, r"comfy_quant, which says how"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_small_numbers_in_another_form_are_refused_when_they_are_loaded(tmp_path: Path, case: str, layout: str) -> None:
    more, sentence = FORMS[case]
    folder = shutil.copytree(TINY / "model", tmp_path / "model")
    whole = single_file(tmp_path / "whole.safetensors")
    source = whole if layout == "file" else folder
    file = whole if layout == "file" else folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    weight = next(n for n in tensors if n.endswith("attn1.to_q.weight"))
    start = "model.diffusion_model." if layout == "file" else ""
    made = more(tensors.pop(weight)).items()
    tensors |= {f"{start}scaled_fp8" if n == "MARKER" else weight.removesuffix("weight") + n: t for n, t in made}
    save_file(tensors, file)
    with pytest.raises(ModelError, match=sentence):
        std.load_model(source, config=TINY / "model" if layout == "file" else None)


@pytest.mark.parametrize("where", ["tensors", "metadata"])
def test_layers_that_are_described_as_scaled_are_read(tmp_path: Path, where: str) -> None:
    tensors = load_file(single_file(tmp_path / "given.safetensors"))
    name = next(n for n in tensors if n.endswith("attn1.to_q.weight")).removesuffix(".weight")
    told = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    small = {f"{name}.{n}": t for n, t in scaled(tensors[f"{name}.weight"]).items()}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": {name: told}})}
    beside = {f"{name}.comfy_quant": described(**told)} if where == "tensors" else {}
    save_file(tensors | small | beside, tmp_path / "small.safetensors", metadata if where == "metadata" else {})
    plain = small[f"{name}.weight"].float() * small[f"{name}.weight_scale"]
    save_file(tensors | {f"{name}.weight": plain}, tmp_path / "plain.safetensors")
    one, other = (std.load_model(tmp_path / f"{n}.safetensors", config=TINY / "model") for n in ("small", "plain"))
    assert torch.equal(latent(one), latent(other))
    metadata = {"_quantization_metadata": json.dumps({"layers": {name: {"format": "nvfp4"}}})}
    save_file(tensors | small, tmp_path / "other.safetensors", metadata)
    with pytest.raises(ModelError, match=r"in a form that is not read: .*to_q has format nvfp4"):
        std.load_model(tmp_path / "other.safetensors", config=TINY / "model")


# --- LoRAs ------------------------------------------------------------------------------------------------------------


def strengths(
    tmp_path: Path, component: str, ranks: Callable[[int], int], alphas: Callable[[int], float | None]
) -> set[float]:
    """How strongly each layer of a kohya LoRA is applied, divided by alpha / rank of that layer."""
    stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
    weights = load_file(TINY / "model" / component / f"{stem}.safetensors")
    ends = ("to_q.weight", "to_out.0.weight", "ff.net.2.weight", "q_proj.weight", "out_proj.weight", "fc1.weight")
    generator, tensors, wanted = torch.Generator().manual_seed(0), {}, {}
    for n, name in enumerate(sorted(name for name in weights if name.endswith(ends))):
        rank, alpha = ranks(n), alphas(n)
        out, inside = weights[name].shape[:2]
        down, up = torch.randn(rank, inside, generator=generator), torch.randn(out, rank, generator=generator)
        layer = name.removesuffix(".weight")
        start = "lora_unet_" if component == "unet" else "lora_te_text_model_"
        key = start + layer.removeprefix("text_model.").replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
        wanted[layer.removeprefix("text_model.")] = (up @ down) * (1 if alpha is None else alpha / rank)
    file = tmp_path / "layers.safetensors"
    save_file(tensors, file)
    kind = family("stable_diffusion")
    module = kind.load(component, Location(TINY / "model" / component), torch.float32)
    kind.add_loras(component, module, [("x", file, 1.0)])
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, ChangedLayer):
            change = wanted[name.removeprefix("text_model.")]
            found[name] = float((layer.get_delta_weight("x").reshape(change.shape) * change).sum() / (change**2).sum())
    assert len(found) == len(wanted)
    return {round(ratio, 3) for ratio in found.values()}


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize(
    ("ranks", "alphas"),
    [
        (lambda n: 4, lambda n: 1.0 + n % 4), (lambda n: 2 + n % 3 * 2, lambda n: 2.0 + n % 3 * 2),
        (lambda n: 2 + n % 3 * 2, lambda n: 1.0), (lambda n: 2 + n % 3 * 2, lambda n: None),
        (lambda n: 4, lambda n: 2.0),
    ],
    ids=["alphas differ", "resized", "ranks differ", "no alpha", "uniform"],
)  # fmt: skip
def test_each_layer_of_a_lora_has_its_own_alpha_over_rank(
    tmp_path: Path, component: str, ranks: Callable[[int], int], alphas: Callable[[int], float | None]
) -> None:
    assert strengths(tmp_path, component, ranks, alphas) == {1.0}


# --- what a denoiser was trained to predict ---------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model's folder whose scheduler is configured so; what is not given is that of a model of noise."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / f"configured {' '.join(changes)}"
        changes = PLAIN | changes
        shutil.copytree(TINY / "model", folder, dirs_exist_ok=True)
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    return make


EULER = "EulerDiscreteScheduler"
PLAIN = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
V = {"prediction_type": "v_prediction"}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("names", "metadata", "inputs", "changes"),
    [
        (["v_pred"], {}, {}, V), (["v_pred", "ztsnr"], {}, {}, V | ZERO), (["ztsnr"], {}, {}, ZERO),
        ([], {"modelspec.prediction_type": "v"}, {}, V), ([], {"modelspec.prediction_type": "epsilon"}, {}, {}),
        ([], {}, {"prediction_type": "v_prediction", "zero_snr": True}, V | ZERO),
        (["v_pred"], {}, {"prediction_type": "epsilon"}, {}),
        ([], {"modelspec.prediction_type": "unheard of"}, {"prediction_type": "v_prediction"}, V),
        ([], {"modelspec.prediction_type": "V "}, {}, V),
        ([], {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "1"}, {}, V | ZERO),
        ([], {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "False"}, {}, {}),
        (["alphas_cumprod"], {}, {}, ZERO),
    ],
)  # fmt: skip
def test_a_file_is_sampled_as_it_was_trained(
    tmp_path: Path, trained: Callable[..., Path], names: list[str], metadata: dict[str, str],
    inputs: dict[str, Any], changes: dict[str, Any],
) -> None:  # fmt: skip
    tensors = load_file(single_file(tmp_path / "plain.safetensors"))
    markers = {name: torch.tensor([]) for name in names}
    if "alphas_cumprod" in names:
        markers["alphas_cumprod"] = torch.linspace(0.999, 0.0, 1000)
    save_file(tensors | markers, tmp_path / "marked.safetensors", metadata)
    marked = std.load_model(tmp_path / "marked.safetensors", config=trained(), **inputs)
    wanted = std.load_model(tmp_path / "plain.safetensors", config=trained(**changes))
    assert torch.equal(latent(marked, scheduler=EULER), latent(wanted, scheduler=EULER))
    plain = std.load_model(tmp_path / "plain.safetensors", config=trained())
    assert torch.equal(latent(marked, scheduler=EULER), latent(plain, scheduler=EULER)) == (not changes)


def test_a_model_that_was_not_trained_to_no_signal() -> None:
    """Said of one whose configuration says the contrary: the spacing stays the configuration's."""
    found = std.load_model("tiny", zero_snr=False)
    options = {"scheduler_options": {"rescale_betas_zero_snr": False}}
    assert torch.equal(latent(found, scheduler=EULER), latent(std.load_model("tiny"), scheduler=EULER, **options))
    assert not torch.equal(latent(found, scheduler=EULER), latent(std.load_model("tiny"), scheduler=EULER))
    assert torch.isfinite(latent(found, scheduler="LMSDiscreteScheduler")).all()


def test_a_scheduler_that_cannot_begin_without_signal_is_refused(tmp_path: Path) -> None:
    model = std.load_model("tiny", zero_snr=True)
    with pytest.raises(ValueError, match=r"where LMSDiscreteScheduler cannot begin; take EulerDiscreteScheduler"):
        latent(model, scheduler="LMSDiscreteScheduler")


@pytest.mark.parametrize(
    ("name", "metadata", "sentence"),
    [
        ("edm_vpred.sigma_max", {}, r"safetensors was trained with the noise levels of EDM \(edm_vpred\.sigma_max\)"),
        (
            "betas",
            {"modelspec.prediction_type": "flow"},
            r"marked\.safetensors says modelspec\.prediction_type 'flow': give prediction_type, one of epsilon",
        ),
    ],
)
def test_what_a_file_says_and_is_not_known_is_refused(
    tmp_path: Path, name: str, metadata: dict[str, str], sentence: str
) -> None:
    tensors = load_file(single_file(tmp_path / "plain.safetensors"))
    save_file(tensors | {name: torch.tensor([1.0])}, tmp_path / "marked.safetensors", metadata)
    with pytest.raises(ModelError, match=sentence):
        std.load_model(tmp_path / "marked.safetensors", config=TINY / "model")


@pytest.mark.parametrize(
    ("name", "metadata", "sentence"),
    [
        ("v_pred", {"modelspec.prediction_type": "epsilon"}, r"v_pred says v_pred.*, modelspec\.prediction_type says"),
        ("betas", {"modelspec.prediction_type": "v", "ss_v_parameterization": "False"}, "ss_v_parameterization says"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, name: str, metadata: dict[str, str], sentence: str
) -> None:
    file = tmp_path / "marked.safetensors"
    save_file(load_file(single_file(tmp_path / "plain.safetensors")) | {name: torch.tensor([1.0])}, file, metadata)
    with pytest.raises(ModelError, match=rf"contradicts itself on what it predicts .*{sentence}.*: give prediction"):
        std.load_model(file, config=TINY / "model")
    model = std.load_model(file, config=TINY / "model", prediction_type="epsilon")
    assert model.setting("prediction_type") == "epsilon"


@pytest.mark.parametrize(
    ("load", "names", "metadata", "changes"),
    [
        ("shards", ["v_pred", "ztsnr"], {}, V | ZERO), ("model", [], {"ss_v_parameterization": "True"}, V),
        ("denoiser", [], {"modelspec.prediction_type": "v_prediction"}, V), ("unet", ["v_pred"], {}, V),
        ("shards", [], {"modelspec.prediction_type": "epsilon"}, {}),
    ],
)  # fmt: skip
def test_a_folder_is_sampled_as_its_denoisers_files_say(
    trained: Callable[..., Path], load: str, names: list[str], metadata: dict[str, str], changes: dict[str, Any]
) -> None:
    wanted = latent(std.load_model(trained(**changes)), scheduler=EULER)
    folder = trained()
    mark(folder, names, metadata, shards=load == "shards")
    model = std.load_model(folder)
    if load in ("denoiser", "unet"):
        model = std.join_model(std.load_denoiser(folder / "unet" if load == "unet" else folder), model, model)
    assert torch.equal(latent(model, scheduler=EULER), wanted)
    assert bool(changes) == bool({name for name, _ in model.settings} & {"prediction_type", "zero_snr"})


def test_a_folder_that_says_what_its_scheduler_says_keeps_its_settings(trained: Callable[..., Path]) -> None:
    folder = trained(**V, **ZERO)
    before = std.load_model(folder)
    mark(folder, ["v_pred", "ztsnr"], {})
    assert std.load_model(folder).settings == before.settings


def test_a_folder_whose_denoiser_was_trained_otherwise_is_refused(trained: Callable[..., Path]) -> None:
    folder = trained()
    mark(folder, ["edm_mean", "edm_std"], {}, shards=True)
    for load, source in ((std.load_model, folder), (std.load_denoiser, folder / "unet")):
        with pytest.raises(ModelError, match=r"was trained with the noise levels of EDM \(edm_mean\)"):
            load(source)


def mark(folder: Path, names: list[str], metadata: dict[str, str], shards: bool = False) -> None:
    """Write markers into the files of a folder's UNet; into the second of two, and the texts into the first."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights, markers = load_file(file), {name: torch.zeros(1) for name in names}
    if not shards:
        save_file(weights | markers, file, metadata)
        return
    file.unlink()
    (one, *first), places = sorted(weights), {}
    for number, part in enumerate(({n: weights[n] for n in first}, {one: weights[one], **markers}), 1):
        name = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file(part, file.with_name(name), metadata if number == 1 else {})
        places |= dict.fromkeys(part, name)
    index = file.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": places}))


def test_a_flow_matching_family_has_no_prediction_type(tmp_path: Path) -> None:
    flux_model(tmp_path / "flux")
    with pytest.raises(ModelError, match="is a flux model, which matches flows: leave prediction_type and zero"):
        std.load_model(tmp_path / "flux", prediction_type="v_prediction")


# --- every tensor has a place, or a reason ----------------------------------------------------------------------------

UNREAD = {
    "text_encoder": ["text_model.embeddings.position_ids", "logit_scale", "text_projection.weight",
                     "vision_model.embeddings.class_embedding", "visual_projection.weight"],
    "vae": ["loss.logvar", "loss.discriminator.main.0.weight"],
}  # fmt: skip


@pytest.mark.parametrize("part", UNREAD)
def test_tensors_that_published_files_hold_beside_the_weights_are_left_out(tmp_path: Path, part: str) -> None:
    folder = with_tensors(tmp_path, part, UNREAD[part])
    assert torch.equal(latent(std.load_model(folder)), latent(std.load_model("tiny")))
    picture = std.Image(torch.full((1, 64, 64, 3), 0.25))
    means = [std.encode_image(std.load_model(model), picture).mean for model in (folder, "tiny")]
    assert torch.equal(*means)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path, part: str) -> None:
    folder = with_tensors(tmp_path, part, ["adapter.0.weight", "zebra.bias"])
    model = std.load_model(folder)
    picture = std.Image(torch.full((1, 64, 64, 3), 0.25))
    with pytest.raises(ModelError, match=r"2 tensors have no place in the \w+ that .* first is adapter\.0\.weight"):
        std.encode_image(model, picture) if part == "vae" else latent(model)


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_t5s_embeddings_may_stand_there_twice_but_not_differ(tmp_path: Path, layout: str) -> None:
    folder = flux_model(tmp_path / "flux")
    inside = folder / "text_encoder_2" / "model.safetensors"
    whole = flux_single_file(tmp_path / "whole.safetensors", folder, True) if layout == "file" else inside
    start = "text_encoders.t5xxl.transformer." if layout == "file" else ""
    tensors = load_file(whole)
    name, shared = f"{start}encoder.embed_tokens.weight", tensors[f"{start}shared.weight"]

    def encoded() -> torch.Tensor:
        model = std.load_model(whole, config=folder) if layout == "file" else std.load_model(folder)
        return std.encode_prompt(model, "a house", max_sequence_length=16).embeds

    wanted = encoded()
    save_file(tensors | {name: shared.clone()}, whole, {"format": "pt"})
    assert torch.allclose(encoded(), wanted, atol=1e-5)
    save_file(tensors | {name: shared * 1.5}, whole, {"format": "pt"})
    with pytest.raises(ModelError, match=r"encoder\.embed_tokens\.weight and .*shared\.weight differ, which are one"):
        encoded()


def with_tensors(folder: Path, part: str, names: list[str]) -> Path:
    """A copy of the embedded model, with further tensors in one part's file."""
    shutil.copytree(TINY / "model", folder / "model")
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    file = folder / "model" / part / f"{stem}.safetensors"
    save_file(load_file(file) | {name: torch.ones(2) for name in names}, file, {"format": "pt"})
    return folder / "model"
