"""LoRA files of every format and spelling change each layer by what the format defines, computed here by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store.changes import shared_clone
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.weights.files import TINY, Location
from graphengine_nodes.weights.lora_forms import ChangedLayer, applied
from safetensors.torch import save_file

from graphengine import ModelError

Made = tuple[dict[str, torch.Tensor], torch.Tensor]
"""The tensors of one layer in a file, by the ends of their names, and the change of its weight at strength 1."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    xl_model(folder / "xl")
    flux_model(folder / "flux")
    return {
        "stable_diffusion": TINY / "model",
        "stable_diffusion_xl": folder / "xl",
        "flux": folder / "flux",
    }


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Callable[[str, str], Any]:
    known: dict[tuple[str, str], Any] = {}

    def module(name: str, component: str) -> Any:
        if (name, component) not in known:
            location = Location(folders[name] / component)
            known[name, component] = family(name).load(component, location, torch.float32)
        return shared_clone(known[name, component])

    return module


def random(*shape: int, std: float = 0.2) -> torch.Tensor:
    """Random numbers; each test begins with the same."""
    return torch.randn(shape) * std


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# --- the formats, by hand ---------------------------------------------------------------------------------------------


def plain(weight: torch.Tensor, rank: int = 4, alpha: float | None = 2.0) -> Made:
    """LoRA, and LoCon for convolutions: up @ down * alpha / rank."""
    out, columns, *kernel = weight.shape
    down, up = random(rank, columns, *kernel), random(out, rank, *(1,) * len(kernel))
    change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    tensors = {"lora_down.weight": down, "lora_up.weight": up}
    if alpha is None:
        return tensors, change
    return {**tensors, "alpha": torch.tensor(alpha)}, change * alpha / rank


def tucker(weight: torch.Tensor) -> Made:
    """LoCon with a core: up, core and down one after the other."""
    out, columns, *kernel = weight.shape
    down, core, up = random(3, columns, 1, 1), random(3, 3, *kernel), random(out, 3, 1, 1)
    change = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], core, down[:, :, 0, 0])
    tensors = {"lora_down.weight": down, "lora_mid.weight": core, "lora_up.weight": up, "alpha": torch.tensor(2.0)}
    return tensors, change * 2 / 3


def loha(weight: torch.Tensor) -> Made:
    """LoHa: the product of two low-rank matrices, element by element."""
    out, columns = weight.shape[0], weight[0].numel()
    a1, b1, a2, b2 = random(out, 3), random(3, columns), random(out, 3), random(3, columns)
    tensors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(2.0)}
    return tensors, ((a1 @ b1) * (a2 @ b2)).reshape(weight.shape) * 2 / 3


def loha_tucker(weight: torch.Tensor) -> Made:
    """LoHa of convolutions: each factor with a core."""
    out, columns, *kernel = weight.shape
    a1, b1, t1 = random(3, out), random(3, columns), random(3, 3, *kernel)
    a2, b2, t2 = random(3, out), random(3, columns), random(3, 3, *kernel)
    first, second = (torch.einsum("xykl,xo,yi->oikl", t, a, b) for t, a, b in ((t1, a1, b1), (t2, a2, b2)))
    names = ("hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2")
    tensors = dict(zip(names, (a1, b1, t1, a2, b2, t2), strict=True))
    return {**tensors, "alpha": torch.tensor(1.0)}, first * second / 3


def lokr(weight: torch.Tensor) -> Made:
    """LoKr of two whole matrices: alpha says nothing."""
    out, columns, *kernel = weight.shape
    first, second = random(4, 2), random(out // 4, columns // 2, *kernel)
    change = torch.einsum("ab,cd...->acbd...", first, second).reshape(weight.shape)
    return {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(1.0)}, change


def lokr_factors(weight: torch.Tensor) -> Made:
    """LoKr of two low-rank matrices: alpha / rank."""
    out, columns, *kernel = weight.shape
    a, b = random(4, 3), random(3, 2)
    c, d = random(out // 4, 3), random(3, weight[0].numel() // 2)
    second = (c @ d).reshape(out // 4, columns // 2, *kernel)
    change = torch.einsum("ab,cd...->acbd...", a @ b, second).reshape(weight.shape)
    tensors = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d, "alpha": torch.tensor(2.0)}
    return tensors, change * 2 / 3


def lokr_tucker(weight: torch.Tensor) -> Made:
    """LoKr of convolutions whose second matrix has a core."""
    out, columns, *kernel = weight.shape
    first, a, b, core = random(4, 2), random(3, out // 4), random(3, columns // 2), random(3, 3, *kernel)
    second = torch.einsum("xykl,xo,yi->oikl", core, a, b)
    change = torch.einsum("ab,cdkl->acbdkl", first, second).reshape(weight.shape)
    tensors = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": core, "alpha": torch.tensor(2.0)}
    return tensors, change * 2 / 3


def full(weight: torch.Tensor) -> Made:
    """A whole difference."""
    change = random(*weight.shape)
    return {"diff": change}, change


def beside_full(weight: torch.Tensor, inner: Callable[[torch.Tensor], Made] = plain) -> Made:
    """Another form and a whole difference of the same layer: both are added."""
    (tensors, change), (more, difference) = inner(weight), full(weight)
    return tensors | more, change + difference


def dora(weight: torch.Tensor, inner: Callable[[torch.Tensor], Made] = plain, on_input: bool = False) -> Made:
    """DoRA over another form: the changed weight's rows (or columns) get the magnitude as their norm."""
    tensors, change = inner(weight)
    new = weight + change
    axes = [axis for axis in range(weight.ndim) if axis != int(on_input)]
    norm = torch.linalg.vector_norm(new, dim=axes, keepdim=True)
    magnitude = torch.linalg.vector_norm(weight, dim=axes, keepdim=True) * (1 + random(*norm.shape, std=0.3))
    return {**tensors, "dora_scale": magnitude}, new * magnitude / norm - weight


LINEAR: dict[str, Callable[[torch.Tensor], Made]] = {
    "plain": plain,
    "no alpha": lambda weight: plain(weight, alpha=None),
    "loha": loha,
    "lokr": lokr,
    "lokr of factors": lokr_factors,
    "full": full,
    "plain beside full": beside_full,
    "lokr beside full": lambda weight: beside_full(weight, lokr_factors),
    "dora": dora,
    "dora of plain beside full": lambda weight: dora(weight, beside_full),
    "dora of columns": lambda weight: dora(weight, on_input=True),
    "loha with dora": lambda weight: dora(weight, loha),
    "lokr with dora of columns": lambda weight: dora(weight, lokr_factors, on_input=True),
}

CONVOLUTIONS = LINEAR | {"tucker": tucker, "loha with cores": loha_tucker, "lokr with a core": lokr_tucker}


# --- files ------------------------------------------------------------------------------------------------------------


def underscored(prefix: str) -> Callable[[str], str]:
    return lambda path: prefix + path.replace(".", "_")


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda path: prefix + path


def write(file: Path, layers: dict[str, dict[str, torch.Tensor]], **metadata: str) -> Path:
    """Write a LoRA's file: by the name of each layer its tensors, by the ends of their names."""
    tensors = {f"{name}.{end}": t.contiguous() for name, ends in layers.items() for end, t in ends.items()}
    save_file(tensors, file, metadata or None)
    return file


def peft(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same factors with peft's names."""
    names = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    return {names.get(end, end): tensor for end, tensor in tensors.items()}


def check(
    module: Any, name: str, component: str, file: Path, changes: dict[str, torch.Tensor], scale: float = 1.0
) -> None:
    """Put a LoRA in, and compare every layer's output with that of the weight changed by hand."""
    before = {path: module.get_submodule(path) for path in changes}
    family(name).add_loras(component, module, [("one", file, scale)])
    changed = {path for path, layer in module.named_modules() if isinstance(layer, ChangedLayer)}
    assert changed == set(changes)
    for path, change in changes.items():
        layer, base = module.get_submodule(path), before[path]
        wide = base.weight.ndim == 4
        x = torch.randn((2, base.in_channels, 6, 6) if wide else (2, 3, base.in_features))
        bias = 0 if base.bias is None else base.bias.reshape(-1, *(1,) * (2 if wide else 0))
        with torch.no_grad():
            found, expected = layer(x), applied(x, base.weight + change, base) + bias
            close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
            assert torch.allclose(found, expected, **close), path
            assert torch.allclose(layer.get_delta_weight("one"), change, rtol=1e-4, atol=1e-5), path
            assert not torch.allclose(found, base(x), **close), path


ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")


def chosen(module: Any, *ends: str, count: int = 4) -> dict[str, torch.Tensor]:
    """Some layers whose paths have these ends, with their weights."""
    found = {n.removesuffix(".weight"): p.detach() for n, p in module.named_parameters() if n.endswith(ends)}
    return dict(list(found.items())[:count])


@pytest.mark.parametrize("form", LINEAR)
@pytest.mark.parametrize(
    ("name", "component", "ends", "spelled"),
    [
        ("stable_diffusion", "unet", (*ATTENTION, "ff.net.2.weight"), underscored("lora_unet_")),
        ("stable_diffusion", "text_encoder", ("q_proj.weight", "fc1.weight"), underscored("lora_te_text_model_")),
        ("stable_diffusion_xl", "unet", ATTENTION, dotted("unet.")),
        ("flux", "text_encoder", ("q_proj.weight", "fc1.weight"), underscored("lora_te1_text_model_")),
        ("stable_diffusion_xl", "text_encoder_2", ("q_proj.weight", "fc2.weight"), underscored("lora_te2_text_model_")),
        ("flux", "transformer", ("attn.to_q.weight", "ff.net.2.weight", "proj_out.weight"), dotted("transformer.")),
        ("flux", "text_encoder_2", ("SelfAttention.q.weight", "wo.weight"), underscored("lora_te3_")),
    ],
)
def test_every_format_in_every_component(
    name: str,
    component: str,
    ends: tuple[str, ...],
    spelled: Callable[[str], str],
    form: str,
    load: Any,
    tmp_path: Path,
) -> None:
    module = load(name, component)
    made = {path: LINEAR[form](weight) for path, weight in chosen(module, *ends, count=6).items()}
    strip = {path: path.removeprefix("text_model.") for path in made}
    file = write(tmp_path / "a.safetensors", {spelled(strip[path]): tensors for path, (tensors, _) in made.items()})
    check(module, name, component, file, {path: change for path, (_, change) in made.items()})


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_every_format_in_convolutions(form: str, load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    ends = ("conv1.weight", "conv_shortcut.weight", "downsamplers.0.conv.weight", "proj_in.weight")
    made = {path: CONVOLUTIONS[form](weight) for path, weight in chosen(module, *ends, count=8).items()}
    spelled = underscored("lora_unet_")
    file = write(tmp_path / "a.safetensors", {spelled(path): tensors for path, (tensors, _) in made.items()})
    check(module, "stable_diffusion", "unet", file, {path: change for path, (_, change) in made.items()})


@pytest.mark.parametrize(
    "spelled",
    [
        *(underscored(prefix) for prefix in ("lora_unet_", "lycoris_")),
        *map(dotted, ("unet.", "", "base_model.model.", "diffusion_model.", "base_model.model.unet.")),
    ],
)
def test_spellings_of_a_unet(spelled: Callable[[str], str], load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    made = {path: plain(weight) for path, weight in chosen(module, *ATTENTION).items()}
    file = write(tmp_path / "a.safetensors", {spelled(path): peft(tensors) for path, (tensors, _) in made.items()})
    check(module, "stable_diffusion", "unet", file, {path: change for path, (_, change) in made.items()})


@pytest.mark.parametrize(
    ("name", "component", "spelled"),
    [
        *(
            (name, component, dotted(start + prefix + "transformer." * inner))
            for name, component, prefix in (
                ("stable_diffusion", "text_encoder", "clip_l."),
                ("stable_diffusion_xl", "text_encoder", "clip_l."),
                ("stable_diffusion_xl", "text_encoder_2", "clip_g."),
                ("flux", "text_encoder", "clip_l."),
                ("flux", "text_encoder_2", "t5."),
                ("flux", "text_encoder_2", "t5xxl."),
            )
            for start, inner in (("", False), ("", True), ("text_encoders.", True))
        ),
        ("stable_diffusion", "text_encoder", dotted("text_encoder.")),
        ("stable_diffusion_xl", "text_encoder_2", dotted("text_encoder_2.")),
        ("flux", "text_encoder_2", dotted("text_encoder_2.")),
    ],
)
def test_spellings_of_text_encoders(
    name: str, component: str, spelled: Callable[[str], str], load: Any, tmp_path: Path
) -> None:
    """Of diffusers, of OneTrainer (as OMI defines it) and of ComfyUI."""
    module = load(name, component)
    ends = ("q_proj.weight", "fc1.weight", "SelfAttention.q.weight", "wo.weight")
    made = {path: plain(weight) for path, weight in chosen(module, *ends).items()}
    file = write(tmp_path / "a.safetensors", {spelled(path): peft(tensors) for path, (tensors, _) in made.items()})
    check(module, name, component, file, {path: change for path, (_, change) in made.items()})


def test_attention_processors_of_old_diffusers(load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    tensors, changes = {}, {}
    for path, weight in chosen(module, *ATTENTION).items():
        made, changes[path] = plain(weight, alpha=None)
        head, _, leaf = path.removesuffix(".0").rpartition(".")
        tensors[f"unet.{head}.processor.{leaf}_lora"] = {
            "down.weight": made["lora_down.weight"],
            "up.weight": made["lora_up.weight"],
        }
    check(module, "stable_diffusion", "unet", write(tmp_path / "a.safetensors", tensors), changes)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
@pytest.mark.parametrize("spelled", [underscored("lora_unet_"), dotted("diffusion_model.")])
def test_original_names_of_a_unet(
    name: str, spelled: Callable[[str], str], load: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    from graphengine_nodes.testing.sd import _unet_names

    module, original = load(name, "unet"), _unet_names(folders[name])
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    weights = {path: layer.weight.detach() for path, layer in module.named_modules() if isinstance(layer, layers)}
    made = {path: plain(weight, rank=2) for path, weight in weights.items()}
    tensors = {spelled(original(f"{path}.weight").removesuffix(".weight")): made[path][0] for path in made}
    check(module, name, "unet", write(tmp_path / "a.safetensors", tensors), {path: made[path][1] for path in made})


# --- FLUX: layers that are one in the file ----------------------------------------------------------------------------

FUSED = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{name}_proj" for name in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.img_mlp.0": ["transformer_blocks.0.ff.net.0.proj"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "double_blocks.0.img_mod.lin": ["transformer_blocks.0.norm1.linear"],
    "single_blocks.0.linear1": [
        f"single_transformer_blocks.0.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "single_blocks.0.modulation.lin": ["single_transformer_blocks.0.norm.linear"],
    "final_layer.linear": ["proj_out"],
    "img_in": ["x_embedder"],
    "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
}
"""The original code's layers, and those of diffusers that have their rows."""


def fused(module: Any, form: Callable[[torch.Tensor], Made], spelled: Callable[[str], str]) -> Any:
    """A file's layers with the original code's names, and the changes of diffusers' layers."""
    layers, changes = {}, {}
    for name, paths in FUSED.items():
        weights = [module.get_submodule(path).weight.detach() for path in paths]
        layers[spelled(name)], change = form(torch.cat(weights))
        changes |= dict(zip(paths, torch.split(change, [len(weight) for weight in weights]), strict=True))
    weight = module.norm_out.linear.weight.detach()
    first, second = weight.chunk(2)  # scale and shift, which the original code has the other way round
    layers[spelled("final_layer.adaLN_modulation.1")], change = form(torch.cat([second, first]))
    changes["norm_out.linear"] = torch.cat([*reversed(change.chunk(2))])
    return layers, changes


@pytest.mark.parametrize("form", LINEAR)
def test_every_format_in_flux_layers_of_the_original_code(form: str, load: Any, tmp_path: Path) -> None:
    module = load("flux", "transformer")
    layers, changes = fused(module, LINEAR[form], underscored("lora_unet_"))
    check(module, "flux", "transformer", write(tmp_path / "a.safetensors", layers), changes)


@pytest.mark.parametrize(
    "spelled", [dotted(prefix) for prefix in ("diffusion_model.", "", "base_model.model.", "transformer.")]
)
def test_spellings_of_the_original_code_of_flux(spelled: Callable[[str], str], load: Any, tmp_path: Path) -> None:
    module = load("flux", "transformer")
    layers, changes = fused(module, lambda weight: plain(weight, rank=3, alpha=2.0), spelled)
    file = write(tmp_path / "a.safetensors", {name: peft(tensors) for name, tensors in layers.items()})
    check(module, "flux", "transformer", file, changes)


def test_parts_of_fused_layers_with_a_name_each(load: Any, tmp_path: Path) -> None:
    """OneTrainer's names, as OMI defines them."""
    module = load("flux", "transformer")
    parted = {f"{name}.{n}": p for name, paths in FUSED.items() for n, p in enumerate(paths) if len(paths) > 1}
    parted["img_in.proj"] = "x_embedder"
    made = {name: plain(module.get_submodule(path).weight.detach()) for name, path in parted.items()}
    layers = {f"transformer.{name}": tensors for name, (tensors, _) in made.items()}
    changes = {parted[name]: change for name, (_, change) in made.items()}
    check(module, "flux", "transformer", write(tmp_path / "a.safetensors", layers), changes)


def test_factors_of_blocks_are_parted(load: Any, tmp_path: Path) -> None:
    """Converters write diffusers' three LoRAs as one with blocks on the diagonal, of three times the rank."""
    module = load("flux", "transformer")
    name = "double_blocks.0.img_attn.qkv"
    made = [plain(module.get_submodule(path).weight.detach(), rank=2, alpha=None) for path in FUSED[name]]
    down = torch.cat([tensors["lora_down.weight"] for tensors, _ in made])
    block_diag: Any = torch.block_diag
    up = block_diag(*[tensors["lora_up.weight"] for tensors, _ in made])
    file = write(tmp_path / "a.safetensors", {f"lora_unet_{name.replace('.', '_')}": {
        "lora_down.weight": down, "lora_up.weight": up
    }})  # fmt: skip
    check(module, "flux", "transformer", file, dict(zip(FUSED[name], [change for _, change in made], strict=True)))
    form = module.get_submodule(FUSED[name][0]).lora_changes["one"].form
    assert form.down.weight.shape[0] == 2


def test_attention_processors_of_xlabs(load: Any, tmp_path: Path) -> None:
    module = load("flux", "transformer")
    double, single = "double_blocks.0.processor", "single_blocks.0.processor"
    layers = {
        f"{double}.qkv_lora1": FUSED["double_blocks.0.img_attn.qkv"],
        f"{double}.qkv_lora2": FUSED["double_blocks.0.txt_attn.qkv"],
        f"{double}.proj_lora1": ["transformer_blocks.0.attn.to_out.0"],
        f"{double}.proj_lora2": ["transformer_blocks.0.attn.to_add_out"],
        f"{single}.qkv_lora": FUSED["single_blocks.0.linear1"][:3],
        f"{single}.proj_lora": ["single_transformer_blocks.0.proj_out"],
    }
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    changes: dict[str, torch.Tensor] = {}
    for name, paths in layers.items():
        weights = [module.get_submodule(path).weight.detach() for path in paths]
        made, change = plain(torch.cat(weights), alpha=None)
        tensors[name] = {"down.weight": made["lora_down.weight"], "up.weight": made["lora_up.weight"]}
        changes |= dict(zip(paths, torch.split(change, [len(weight) for weight in weights]), strict=True))
    check(module, "flux", "transformer", write(tmp_path / "a.safetensors", tensors), changes)


# --- what else a file says --------------------------------------------------------------------------------------------


def test_alpha_and_rank_of_each_layer(load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    weights = chosen(module, *ATTENTION, "conv1.weight", count=9)
    made = {path: plain(w, rank=2 + n % 3, alpha=1.0 + n % 4) for n, (path, w) in enumerate(weights.items())}
    spelled = underscored("lora_unet_")
    file = write(tmp_path / "a.safetensors", {spelled(path): tensors for path, (tensors, _) in made.items()})
    check(module, "stable_diffusion", "unet", file, {path: change for path, (_, change) in made.items()})


@pytest.mark.parametrize("root", [False, True])
def test_configuration_of_peft_in_the_header(root: bool, load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    made = {path: plain(weight, rank=4, alpha=None) for path, weight in chosen(module, *ATTENTION).items()}
    told = {"unet.r": 4, "unet.lora_alpha": 6, "unet.alpha_pattern": {"to_q": 3}, "unet.use_rslora": root}
    layers = {f"unet.{path}": peft(tensors) for path, (tensors, _) in made.items()}
    file = write(tmp_path / "a.safetensors", layers, lora_adapter_metadata=json.dumps(told))
    divisor = 2 if root else 4
    changes = {path: change * (3 if path.endswith("to_q") else 6) / divisor for path, (_, change) in made.items()}
    check(module, "stable_diffusion", "unet", file, changes)


def test_alphas_of_peft_for_other_formats(load: Any, tmp_path: Path) -> None:
    """peft divides LoKr's alpha by the rank that its configuration tells, also where both matrices are whole."""
    module = load("stable_diffusion", "unet")
    layers, changes = {}, {}
    for path, weight in chosen(module, *ATTENTION).items():
        (tensors, change), rank = (lokr(weight), 8) if path.endswith("to_q") else (loha(weight), 3)
        tensors.pop("alpha")
        layers[f"base_model.model.{path}"] = tensors
        changes[path] = change * 6 / rank if rank == 8 else change * 3 / 2 * 6 / rank
    file = write(tmp_path / "adapter_model.safetensors", layers)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "alpha": 6}))
    check(module, "stable_diffusion", "unet", file, changes)


@pytest.mark.parametrize("alpha", [torch.tensor(float("nan")), torch.ones(2)])
def test_an_alpha_that_is_no_number_is_refused(alpha: torch.Tensor, load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    [(path, weight)] = chosen(module, "to_q.weight", count=1).items()
    file = write(tmp_path / "a.safetensors", {f"unet.{path}": {**plain(weight)[0], "alpha": alpha}})
    with pytest.raises(ModelError, match=r"a\.safetensors is damaged: unet\..*alpha is no number"):
        family("stable_diffusion").add_loras("unet", module, [("one", file, 1.0)])


def test_configuration_of_peft_beside_the_file(load: Any, tmp_path: Path) -> None:
    import graphengine_nodes as std

    module = load("stable_diffusion", "unet")
    made = {path: plain(weight, rank=4, alpha=None) for path, weight in chosen(module, *ATTENTION).items()}
    layers = {f"base_model.model.{path}": peft(tensors) for path, (tensors, _) in made.items()}
    file = write(tmp_path / "adapter_model.safetensors", layers)
    alone = std.load_lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "use_rslora": True}))
    assert std.load_lora(tmp_path).weights != alone.weights
    check(module, "stable_diffusion", "unet", file, {path: change * 4 for path, (_, change) in made.items()})


def test_magnitudes_of_peft_are_of_rows(load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    layers, changes = {}, {}
    for path, weight in chosen(module, "to_q.weight", "conv1.weight", count=12).items():
        tensors, changes[path] = dora(weight, lambda weight: plain(weight, alpha=None))
        magnitude = tensors.pop("dora_scale")
        magnitude = magnitude.flatten() if weight.ndim == 2 else magnitude.transpose(0, 1)
        layers[f"unet.{path}"] = peft(tensors) | {"lora_magnitude_vector": magnitude}
    check(module, "stable_diffusion", "unet", write(tmp_path / "a.safetensors", layers), changes)


def test_strength_of_dora(load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    [(path, weight)] = chosen(module, "to_q.weight", count=1).items()
    tensors, _ = dora(weight)
    change = tensors["lora_up.weight"] @ tensors["lora_down.weight"] * 2 / 4
    new = weight + 0.5 * change
    factor = 0.5 * (tensors["dora_scale"] / new.norm(dim=1, keepdim=True) - 1) + 1
    file = write(tmp_path / "a.safetensors", {f"unet.{path}": tensors})
    check(module, "stable_diffusion", "unet", file, {path: new * factor - weight}, scale=0.5)


def test_biases_and_norms(load: Any, tmp_path: Path) -> None:
    original, module = load("stable_diffusion", "unet"), load("stable_diffusion", "unet")
    conv, norm, linear = "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.norm1", "time_embedding.linear_1"
    shifts = {path: random(*original.get_submodule(path).bias.shape) for path in (conv, norm, linear)}
    grown = random(*original.get_submodule(norm).weight.shape)
    nought = {end: t * 0 for end, t in plain(original.get_submodule(linear).weight.detach())[0].items()}
    spelled = underscored("lora_unet_")
    layers = {
        spelled(conv): {"diff_b": shifts[conv]},
        spelled(norm): {"w_norm": grown, "b_norm": shifts[norm]},
        spelled(linear): {**nought, "diff_b": shifts[linear]},
    }
    family("stable_diffusion").add_loras("unet", module, [("one", write(tmp_path / "a.safetensors", layers), 0.5)])
    with torch.no_grad():
        for path in (conv, linear):
            base, changed = original.get_submodule(path), module.get_submodule(path)
            x = torch.randn(1, base.in_channels, 6, 6) if path == conv else torch.randn(1, base.in_features)
            shift = shifts[path].reshape(-1, *(1,) * (2 if path == conv else 0)) * 0.5
            assert torch.allclose(changed(x), base(x) + shift, atol=1e-5)
    assert torch.allclose(module.get_submodule(norm).weight, original.get_submodule(norm).weight + grown * 0.5)
    assert torch.allclose(module.get_submodule(norm).bias, original.get_submodule(norm).bias + shifts[norm] * 0.5)


@pytest.mark.parametrize("offload", ["sequential", "group"])
@pytest.mark.parametrize("form", ["plain", "loha", "lokr of factors", "full", "dora", "dora of columns"])
def test_weights_that_come_in_pieces(form: str, offload: str, load: Any, tmp_path: Path) -> None:
    """Offload, from the CPU to the CPU; the layers of the original code of FLUX are parts of one."""
    from graphengine_nodes.store.changes import OFFLOADERS

    module = load("flux", "transformer")
    layers, _ = fused(module, LINEAR[form], underscored("lora_unet_"))
    layers |= {"lora_unet_txt_in": {"diff_b": random(*module.context_embedder.bias.shape)}}
    family("flux").add_loras("transformer", module, [("one", write(tmp_path / "a.safetensors", layers), 0.7)])
    call = {
        "hidden_states": torch.randn(1, 4, 64),
        "encoder_hidden_states": torch.randn(1, 3, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.ones(1),
        "guidance": torch.ones(1),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(3, 3),
    }
    with torch.no_grad():
        expected = module(**call).sample
        OFFLOADERS[offload]("cpu").apply(module)
        assert torch.equal(module(**call).sample, expected)


def test_several_follow_one_another(load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    [(path, weight)] = chosen(module, "to_q.weight", count=1).items()
    made = [form(weight) for form in (plain, dora, loha)]
    files = [write(tmp_path / f"{n}.safetensors", {f"unet.{path}": tensors}) for n, (tensors, _) in enumerate(made)]
    family("stable_diffusion").add_loras("unet", module, [(f"l{n}", file, 1.0) for n, file in enumerate(files)])
    x = torch.randn(2, 3, weight.shape[1])
    with torch.no_grad():
        expected = torch.nn.functional.linear(x, weight + sum(change for _, change in made))
        assert torch.allclose(module.get_submodule(path)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "float8"])
@pytest.mark.parametrize("form", ["plain", "dora", "loha", "lokr", "full"])
def test_layers_that_are_quantized(form: str, kind: str, load: Any, tmp_path: Path) -> None:
    from graphengine_nodes.store.changes import torchao
    from graphengine_nodes.weights.cast_layers import cast_layers

    module = load("stable_diffusion", "unet")
    if kind == "int8":
        torchao().quantize_(module, torchao().Int8WeightOnlyConfig())
    else:
        cast_layers(module, torch.float8_e4m3fn)
        assert module.dtype == torch.float32
    layers = {path: module.get_submodule(path) for path in chosen(module, *ATTENTION)}
    weights = {path: (w.weight.dequantize() if kind == "int8" else w.weight.float()) for path, w in layers.items()}
    made = {path: LINEAR[form](weight) for path, weight in weights.items()}
    file = write(tmp_path / "a.safetensors", {f"unet.{path}": tensors for path, (tensors, _) in made.items()})
    family("stable_diffusion").add_loras("unet", module, [("one", file, 1.0)])
    with torch.no_grad():
        for path, weight in weights.items():
            layer, x = module.get_submodule(path), torch.randn(2, 3, weight.shape[1])
            bias = 0 if layer.bias is None else layer.bias.float()
            expected = torch.nn.functional.linear(x, weight + made[path][1]) + bias
            assert torch.allclose(layer(x), expected, rtol=1e-3, atol=1e-3)


# --- the bits of diffusers --------------------------------------------------------------------------------------------


def diffusers_latents(folder: Path, file: Path, dtype: torch.dtype) -> torch.Tensor:
    """The latents of diffusers' own pipeline with a LoRA at strength 0.7."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(file, adapter_name="one")
    pipe.set_adapters(["one"], [0.7])
    call = {"num_inference_steps": 1, "width": 64, "height": 64, "guidance_scale": 3.5, "output_type": "latent"}
    found: torch.Tensor = pipe("a red circle", generator=torch.Generator().manual_seed(1), **call).images
    if folder.name == "flux":
        found = pipe._unpack_latents(found, 64, 64, pipe.vae_scale_factor)
    return found


@pytest.mark.parametrize(
    ("name", "spelling", "precision", "kept"),
    [
        ("stable_diffusion", "kohya with convolutions", "float32", torch.float16),
        ("stable_diffusion_xl", "original names", "bfloat16", torch.float32),
        ("flux", "kohya", "float32", torch.bfloat16),
        ("flux", "diffusers", "bfloat16", torch.float32),
    ],
)
def test_plain_ones_are_those_of_diffusers_bit_for_bit(
    name: str, spelling: str, precision: str, kept: torch.dtype, load: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    import graphengine_nodes as std
    from graphengine_nodes.testing.sd import _unet_names

    if name == "flux":
        module = load(name, "transformer")
        weights = chosen(module, "attn.to_q.weight", "ff.net.2.weight", count=9)
        layers = {f"transformer.{path}": peft(plain(weight)[0]) for path, weight in weights.items()}
        if spelling == "kohya":
            # diffusers reads those of FLUX's own width alone, and of the outer ones no alpha.
            names = [name for name in FUSED if "_blocks." in name and not name.endswith("linear1")]
            wide = {n: torch.cat([module.get_submodule(p).weight.detach() for p in FUSED[n]]) for n in names}
            layers = {underscored("lora_unet_")(n): plain(weight, rank=3)[0] for n, weight in wide.items()}
    else:
        ends = (*ATTENTION, "conv1.weight", "ff.net.2.weight")
        original = _unet_names(folders[name]) if spelling == "original names" else (lambda path: path)
        layers = {
            underscored("lora_unet_")(original(f"{path}.weight").removesuffix(".weight")): plain(weight, rank=3)[0]
            for path, weight in chosen(load(name, "unet"), *ends, count=99).items()
        }
    file = write(tmp_path / "a.safetensors", {n: {e: t.to(kept) for e, t in ts.items()} for n, ts in layers.items()})
    expected = diffusers_latents(folders[name], file, getattr(torch, precision))
    model = std.apply_lora(std.load_model(folders[name], precision=precision), std.load_lora(file), 0.7)
    text = std.encode_prompt(model, "a red circle")
    found = std.sample(model, text, seed=1, steps=1, width=64, height=64, guidance_scale=3.5).samples
    assert torch.equal(found, expected)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED: dict[str, dict[str, tuple[int, ...]]] = {
    "is an OFT or BOFT": {"oft_blocks": (4, 8, 8), "alpha": ()},
    "is a GLoRA": {"a1.weight": (4, 8), "a2.weight": (8, 4), "b1.weight": (4, 8), "b2.weight": (8, 4)},
    "is an IA3": {"weight": (8,), "on_input": ()},
    "is a LoRA with changes of an embedding table": {"lora_embedding_A": (4, 8), "lora_embedding_B": (8, 4)},
    "is a LoRA with whole weights in place of the model's": {"set_weight": (8, 8)},
    "nothing is known about lora_unet_mid_block_x.weight": {"weight": (8, 8)},
    "is incomplete: beside lora_unet_mid_block_x.lora_down.weight there is no up": {"lora_down.weight": (4, 8)},
    "is incomplete: beside .* there is no lokr w1": {"lokr_w1_a": (4, 8), "lokr_w2": (4, 8)},
    "is incomplete: beside lora_unet_mid_block_x.alpha there is no": {"alpha": ()},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_kinds_that_are_not_read_are_refused_by_name(sentence: str, tmp_path: Path) -> None:
    import graphengine_nodes as std

    file = write(tmp_path / "a.safetensors", {
        "lora_unet_mid_block_x": {end: torch.zeros(shape) for end, shape in REFUSED[sentence].items()}
    })  # fmt: skip
    with pytest.raises(ModelError, match=sentence):
        std.load_lora(file)


L = "lora_unet_mid_block_x"
Q = "text_model_encoder_layers_0_self_attn_q_proj"
Shapes = dict[str, tuple[int, ...]]
LORA: Shapes = {"lora_down.weight": (4, 8), "lora_up.weight": (8, 4)}
LOHA: Shapes = {"hada_w1_a": (8, 4), "hada_w1_b": (4, 8), "hada_w2_a": (8, 4), "hada_w2_b": (4, 8)}
LOKR: Shapes = {"lokr_w1": (4, 4), "lokr_w2": (2, 2)}

UNUSED: dict[str, Shapes] = {
    rf"in two ways, by {L}\.lora_down\.weight \(low-rank\) and by {L}\.hada_w1_a \(loha\)": LORA | LOHA,
    rf"in two ways, by {L}\.lora_down\.weight \(low-rank\) and by {L}\.lokr_w1 \(lokr\)": LORA | LOKR,
    rf"in two ways, by {L}\.hada_w1_a \(loha\) and by {L}\.lokr_w1 \(lokr\)": LOHA | LOKR | {"diff": (8, 8)},
    rf"in two ways, by {L}\.lokr_w1 \(lokr\) and by {L}\.lokr_w1_b \(lokr\)": LOKR | {"lokr_w1_b": (4, 4)},
    rf"in two ways, by {L}\.lokr_w2 \(lokr\) and by {L}\.lokr_t2 \(lokr\)": LOKR | {"lokr_t2": (4, 4, 3, 3)},
    rf"in two ways, by {L}\.dora_scale \(DoRA\) and by {L}\.lora_magnitude_vector \(DoRA\)": LORA
    | {"dora_scale": (8, 1), "lora_magnitude_vector": (8,)},
    rf"beside {L}\.dora_scale there is no change of the weight": {"diff_b": (8,), "dora_scale": (8, 1)},
    rf"beside {L}\.alpha there is no change of the weight": {"diff_b": (8,), "alpha": ()},
    "beside .* there is no hada t2": LOHA | {"hada_t1": (4, 4, 3, 3)},
    rf"{L}\.lora_down\.weight is \[0, 8\]": {"lora_down.weight": (0, 8), "lora_up.weight": (8, 0)},
    rf"{L}\.lokr_w1 is \[4\]": {"lokr_w1": (4,), "lokr_w2": (2, 2)},
}


@pytest.mark.parametrize("sentence", UNUSED)
def test_factors_that_nothing_would_use_are_refused(sentence: str, tmp_path: Path) -> None:
    import graphengine_nodes as std

    shapes = UNUSED[sentence]
    file = write(tmp_path / "a.safetensors", {L: {end: torch.zeros(shape) for end, shape in shapes.items()}})
    with pytest.raises(ModelError, match=sentence):
        std.load_lora(file)


@pytest.mark.parametrize(
    ("name", "component", "first", "second"),
    [
        (
            "stable_diffusion",
            "unet",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
            "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
        ),
        ("stable_diffusion", "text_encoder", f"lora_te_{Q}", f"lora_te1_{Q}"),
        (
            "flux",
            "transformer",
            "transformer.double_blocks.0.img_attn.qkv",
            "transformer.transformer_blocks.0.attn.to_v",
        ),
    ],
)
def test_two_names_of_one_layer_are_refused(
    name: str, component: str, first: str, second: str, load: Any, tmp_path: Path
) -> None:
    module = load(name, component)
    file = write(tmp_path / "a.safetensors", {n: {"diff": torch.ones(4, 4)} for n in (first, second)})
    with pytest.raises(ModelError, match=rf"changes one layer twice, by .*({first}|{second})\.diff and by "):
        family(name).add_loras(component, module, [("one", file, 1.0)])


def test_factors_of_matrices_are_refused_on_norms(load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    file = write(tmp_path / "a.safetensors", {
        "lora_unet_down_blocks_0_resnets_0_norm1": {"w_norm": torch.ones(64), "dora_scale": torch.ones(64)}
    })  # fmt: skip
    with pytest.raises(ModelError, match=r"norm1\.dora_scale changes a matrix, but that layer has none"):
        family("stable_diffusion").add_loras("unet", module, [("one", file, 1.0)])


MAGNITUDES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "one": lambda out, columns: (1,),
    "two rows": lambda out, columns: (2, columns),
    "columns and more": lambda out, columns: (1, columns + 3),
    "rows and fewer": lambda out, columns: (out - 1, 1),
    "a matrix": lambda out, columns: (out, columns),
    "rows and more": lambda out, columns: (out + 3,),
}


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(
    ("name", "component", "layer", "paths"),
    [
        (
            "stable_diffusion",
            "unet",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
            ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"],
        ),
        ("flux", "transformer", "lora_unet_double_blocks_0_img_attn_qkv", FUSED["double_blocks.0.img_attn.qkv"]),
    ],
)
def test_magnitudes_of_another_length_are_refused(
    name: str, component: str, layer: str, paths: list[str], magnitude: str, load: Any, tmp_path: Path
) -> None:
    module = load(name, component)
    weight = torch.cat([module.get_submodule(path).weight.detach() for path in paths])
    tensors = plain(weight)[0] | {"dora_scale": torch.ones(MAGNITUDES[magnitude](*weight.shape))}
    file = write(tmp_path / "a.safetensors", {layer: tensors})
    with pytest.raises(ModelError, match=rf"does not fit this model's {component}: {layer}\.dora_scale is \["):
        family(name).add_loras(component, module, [("one", file, 1.0)])


UNFIT: dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {
    "hada_w2_a": lambda weight: loha(weight)[0] | {"hada_w2_a": random(len(weight), 5)},
    "lokr_w1_a": lambda weight: lokr_factors(weight)[0] | {"lokr_w1_a": random(4, 5)},
    "lokr_w2_a": lambda weight: lokr_factors(weight)[0] | {"lokr_w2_a": random(len(weight) // 4, 5)},
    "lora_mid.weight": lambda weight: plain(weight)[0] | {"lora_mid.weight": torch.eye(4)},
    "hada_t1": lambda weight: {
        **{f"hada_w{n}_a": random(3, len(weight)) for n in "12"},
        **{f"hada_w{n}_b": random(3, weight.shape[1]) for n in "12"},
        **{f"hada_t{n}": random(3, 3) for n in "12"},
    },
    "lokr_t2": lambda weight: {
        "lokr_w1": random(4, 2),
        "lokr_w2_a": random(3, len(weight) // 4),
        "lokr_w2_b": random(3, weight.shape[1] // 2),
        "lokr_t2": random(3, 3),
    },
}


@pytest.mark.parametrize("role", UNFIT)
def test_factors_that_do_not_fit_one_another_are_refused(role: str, load: Any, tmp_path: Path) -> None:
    """Ranks that differ, and cores of layers that are no convolutions."""
    module = load("stable_diffusion", "unet")
    [(path, weight)] = chosen(module, "to_q.weight", count=1).items()
    file = write(tmp_path / "a.safetensors", {f"unet.{path}": UNFIT[role](weight)})
    with pytest.raises(ModelError, match=rf"does not fit this model's unet: unet\..*\.{role} is \["):
        family("stable_diffusion").add_loras("unet", module, [("one", file, 1.0)])


@pytest.mark.parametrize("form", ["plain", "loha", "lokr", "lokr of factors", "full", "plain beside full", "dora"])
def test_factors_of_another_width_are_refused(form: str, load: Any, tmp_path: Path) -> None:
    module = load("stable_diffusion", "unet")
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = write(tmp_path / "wide.safetensors", {f"unet.{path}": LINEAR[form](torch.randn(72, 40))[0]})
    with pytest.raises(ModelError, match=r"wide\.safetensors does not fit this model's unet: unet\..* a layer of \["):
        family("stable_diffusion").add_loras("unet", module, [("one", file, 1.0)])
