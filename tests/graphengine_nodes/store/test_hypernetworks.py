"""Hypernetworks equal the same networks written out in an attention processor of diffusers."""

from __future__ import annotations

import functools
import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
import torch.nn.functional as F
from graphengine_nodes.store import hypernetworks
from graphengine_nodes.store.store import WeightStore, store
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights.files import TINY

from graphengine import Graph, ModelError, NodeError, load
from tests.graphengine_nodes import cases

STEPS, SIZE = 2, 64

KINDS: dict[str, dict[str, Any]] = {
    "linear": {"activation": "linear"},
    "none": {"activation": None, "structure": (1, 1.5, 3, 1)},
    "relu": {},
    "swish": {"activation": "swish", "activate_output": True},
    "dropout": {"activation": "tanh", "dropout": 0.3, "structure": (1, 2, 2, 1), "activate_output": True},
    "norm": {"activation": "elu", "layer_norm": True, "dropout": 0.1, "structure": (1, 2, 1, 1)},
    "pictures": {"widths": (96,)},
}
FUNCTIONS: dict[Any, Any] = {
    None: lambda x: x,
    "linear": lambda x: x,
    "relu": F.relu,
    "swish": F.hardswish,
    "tanh": torch.tanh,
    "elu": F.elu,
}


# --- the oracle -------------------------------------------------------------------------------------------------------


def forward(tensors: dict[str, torch.Tensor], facts: dict[Any, Any], x: torch.Tensor) -> torch.Tensor:
    """A network, its places counted as the WebUI counts them when it builds one."""
    structure, place = facts["layer_structure"], 0
    for index in range(len(structure) - 1):
        x = F.linear(x, tensors[f"linear.{place}.weight"], tensors[f"linear.{place}.bias"])
        place += 1
        last = index == len(structure) - 2
        if facts["activation_func"] not in (None, "linear") and not (last and not facts["activate_output"]):
            x = FUNCTIONS[facts["activation_func"]](x)
            place += 1
        if facts["is_layer_norm"]:
            weight, bias = tensors[f"linear.{place}.weight"], tensors[f"linear.{place}.bias"]
            x = F.layer_norm(x, (len(bias),), weight, bias)
            place += 1
        if facts["dropout_structure"][index + 1] > 0:
            place += 1
    return x


class Processor:
    """Attention with hypernetworks: [(facts, multiplier)], one after the other."""

    def __init__(self, networks: list[tuple[dict[Any, Any], float]]) -> None:
        self.networks = networks

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **others: Any) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        for_keys = for_values = context
        for facts, multiplier in self.networks:
            if context.shape[-1] in facts:
                keys, values = facts[context.shape[-1]]
                for_keys = for_keys + forward(keys, facts, for_keys) * multiplier
                for_values = for_values + forward(values, facts, for_values) * multiplier

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0], x.shape[1], attn.heads, -1).transpose(1, 2)

        found = F.scaled_dot_product_attention(
            heads(attn.to_q(hidden_states)), heads(attn.to_k(for_keys)), heads(attn.to_v(for_values))
        )
        found = found.transpose(1, 2).reshape(hidden_states.shape)
        result: torch.Tensor = attn.to_out[0](found)
        return result


@functools.cache
def pipeline() -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def reference(*networks: tuple[Path, float], lora: Path | None = None) -> torch.Tensor:
    """The latents of diffusers' own pipeline with these networks."""
    pipe = pipeline()
    if lora is not None:
        pipe.load_lora_weights(lora, adapter_name="lora")
        pipe.set_adapters(["lora"], [0.7])
    pipe.unet.set_attn_processor(Processor([(torch.load(file, weights_only=True), m) for file, m in networks]))
    found: torch.Tensor = pipe(
        cases.PROMPT,
        num_inference_steps=STEPS,
        width=SIZE,
        height=SIZE,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
    ).images
    pipe.unload_lora_weights()
    return found


def model(*networks: tuple[Path, float], lora: Path | None = None) -> std.Model:
    found = std.load_model("tiny")
    for file, multiplier in networks:
        found = std.apply_hypernetwork(found, std.load_hypernetwork(file), multiplier)
    return found if lora is None else std.apply_lora(found, std.load_lora(lora), 0.7)


def latent(with_them: std.Model) -> torch.Tensor:
    text = std.encode_prompt(with_them, cases.PROMPT)
    return std.sample(with_them, text, seed=1, steps=STEPS, guidance_scale=7.5, width=SIZE, height=SIZE).samples


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return latent(std.load_model("tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hypernetworks")
    return {
        name: testing.hypernetwork(folder / f"{name}.pt", seed=index, **arguments)
        for index, (name, arguments) in enumerate(KINDS.items())
    }


# --- what they do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_written_out_one(kind: str, files: dict[str, Path], plain: torch.Tensor) -> None:
    found = latent(model((files[kind], 0.8)))
    assert torch.equal(found, reference((files[kind], 0.8)))
    assert not torch.allclose(found, plain, atol=1e-3)


def test_several_and_a_lora_at_once(files: dict[str, Path], tmp_path: Path) -> None:
    both = (files["relu"], 0.8), (files["norm"], -0.5)
    found = latent(model(*both))
    assert torch.equal(found, reference(*both))
    assert not torch.equal(found, latent(model(*both[::-1]))), "they follow one another"
    lora = testing.lora(tmp_path / "noise.safetensors", seed=1)
    assert torch.equal(latent(model(*both, lora=lora)), reference(*both, lora=lora))


def test_without_effect_it_is_the_model_itself(
    files: dict[str, Path], plain: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert torch.equal(latent(model((files["relu"], 0.0))), plain)
    assert torch.equal(latent(std.clear_hypernetworks(model((files["relu"], 1.0)))), plain)
    assert not caplog.records
    foreign = testing.hypernetwork(tmp_path / "foreign.pt", widths=(320, 768))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(latent(model((foreign, 1.0))), plain)
    assert "foreign.pt is for another model and changes nothing: its networks are for contexts 320, 768" in caplog.text


def test_the_shared_unet_stays_as_it_is(files: dict[str, Path], plain: torch.Tensor) -> None:
    own = WeightStore()
    changed = model((files["relu"], 1.0))
    with own.component(changed, "unet", "cpu") as clone, own.component(std.load_model("tiny"), "unet", "cpu") as base:
        assert clone is not base
        assert not hasattr(base, "hypernetworks")
        assert not any(module._forward_pre_hooks for module in base.modules())
        mine = {p.data_ptr() for name, p in clone.named_parameters() if not name.startswith("hypernetworks")}
        assert mine == {p.data_ptr() for p in base.parameters()}
    latent(changed)
    assert torch.equal(latent(std.load_model("tiny")), plain)


def test_keys_hold_the_files_and_multipliers(files: dict[str, Path]) -> None:
    plain, one, other = std.load_model("tiny"), model((files["relu"], 1.0)), model((files["norm"], 1.0))
    assert len({m.digest("denoiser") for m in (plain, one, other, model((files["relu"], 0.5)))}) == 4
    assert one.digest("text_encoder") == plain.digest("text_encoder")
    assert one.digest("vae") == plain.digest("vae")


def test_half_precision(files: dict[str, Path]) -> None:
    """The networks compute in the UNet's numbers, whatever the file has."""
    half = std.apply_hypernetwork(std.load_model("tiny", precision="bfloat16"), std.load_hypernetwork(files["norm"]))
    with store.component(half, "unet", "cpu") as unet:
        assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    assert bool(torch.isfinite(latent(half)).all())


def test_files_of_the_first_trainers(files: dict[str, Path], tmp_path: Path) -> None:
    """They name their two layers otherwise and say nothing else."""
    found = torch.load(files["linear"], weights_only=True)
    names = {"linear.0.": "linear1.", "linear.1.": "linear2."}

    def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {names[name[:9]] + name[9:]: tensor for name, tensor in tensors.items()}

    old = {width: tuple(map(renamed, pair)) for width, pair in found.items() if isinstance(width, int)}
    torch.save(old, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(latent(model((tmp_path / "old.pt", 0.8))), latent(model((files["linear"], 0.8))))


def test_in_a_graph(files: dict[str, Path], tmp_path: Path) -> None:
    with Graph() as graph:
        source = graph.input("source", Path)
        changed = std.apply_hypernetwork(std.load_model("tiny"), std.load_hypernetwork(source), 0.8)
        text = std.encode_prompt(changed, cases.PROMPT)
        sampled = std.sample(changed, text, seed=1, steps=STEPS, guidance_scale=7.5, width=SIZE, height=SIZE)
        graph.output("latent", sampled)
    graph.save(tmp_path / "hypernetwork.yaml")
    found = load(tmp_path / "hypernetwork.yaml").run(inputs={"source": files["relu"]})["latent"]
    assert torch.equal(found.samples, latent(model((files["relu"], 0.8))))


# --- what is refused --------------------------------------------------------------------------------------------------


class Evil:
    """A pickle of it writes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.write_text, (self.file, "owned")


def poisoned(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Files that run code when pickle reads them, in each of the layouts that torch knows, and what they write."""
    made = {}
    for name in ("zip", "legacy", "pickle", "old_pickle"):
        file, trace = folder / f"{name}.pt", folder / f"{name}.txt"
        data = {128: ({}, {}), "evil": Evil(trace)}
        if name.endswith("pickle"):
            file.write_bytes(pickle.dumps(data, protocol=2 if name == "old_pickle" else 5))
        else:
            torch.save(data, file, _use_new_zipfile_serialization=name == "zip")
        made[name] = file, trace
    return made


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 5")
@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle", "old_pickle"])
def test_a_pickle_payload_is_refused_and_not_run(layout: str, tmp_path: Path) -> None:
    file, trace = poisoned(tmp_path)[layout]
    with pytest.raises(ModelError, match=rf"{layout}\.pt holds code that would run when it is read") as error:
        std.load_hypernetwork(file)
    assert "\n" not in str(error.value)
    # And should one pass by that look, torch refuses it too.
    with pytest.raises(ModelError, match="which could run code: it is not opened"):
        hypernetworks.read(file)
    assert not trace.exists()
    if layout.endswith("pickle"):  # the payload is a real one
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert trace.read_text() == "owned"


def test_code_of_torch_itself_is_refused_when_it_is_read(tmp_path: Path) -> None:
    """What only torch can tell: functions among the names that tensors need."""
    file = tmp_path / "torch.pt"
    torch.save({128: ({}, {}), "evil": Setting()}, file)
    known = std.load_hypernetwork(file)
    with pytest.raises(ModelError, match=r"torch\.pt holds something else than tensors and numbers"):
        latent(std.apply_hypernetwork(std.load_model("tiny"), known))
    assert torch.get_default_dtype() == torch.float32


class Setting:
    """A pickle of it changes torch when it is read."""

    def __reduce__(self) -> Any:
        return torch.set_default_dtype, (torch.float64,)


def damaged(folder: Path, whole: bytes) -> list[tuple[Path, str]]:
    def written(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    return [
        (written("empty.pt", b""), "is no hypernetwork"),
        (written("text.pt", b"hello"), "is no hypernetwork"),
        (written("cut.pt", whole[: len(whole) // 2]), "is no hypernetwork"),
        (written("begun.pt", b"\x80\x02"), "is damaged or no hypernetwork"),
        (folder / "other.zip", "is no hypernetwork"),
        (folder / "nowhere.pt", "there is no hypernetwork"),
        (folder, "there is no hypernetwork"),
    ]


def test_a_damaged_file(files: dict[str, Path], tmp_path: Path) -> None:
    for file, message in damaged(tmp_path, files["relu"].read_bytes()):
        with pytest.raises(ModelError, match=message):
            std.load_hypernetwork(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"step": 1}, "no networks for contexts of any width"),
        (lambda f: [1, 2], "no networks for contexts of any width"),
        (lambda f: f | {"activation_func": "magic"}, "nothing is known about the activation function magic"),
        (lambda f: f | {"activation_func": 3}, "cannot be used|can be used"),
        (lambda f: f | {128: f[96]}, "a layer for 128 numbers takes 96"),
        (lambda f: f | {128: ({}, {})}, "a network for 128 numbers"),
        (lambda f: f | {128: f[128][:1]}, "can be used"),
        (lambda f: f | {128: 7}, "can be used"),
        (lambda f: f | {128: ({"linear.0.weight": f[128][0]["linear.0.weight"]},) * 2}, "can be used: .*bias"),
        (lambda f: f | {128: ({"conv.weight": torch.zeros(1)},) * 2}, "nothing is known about its conv"),
    ],
)
def test_a_file_of_something_else(change: Any, message: str, files: dict[str, Path], tmp_path: Path) -> None:
    torch.save(change(torch.load(files["relu"], weights_only=True)), tmp_path / "other.pt")
    with pytest.raises(ModelError, match=message):
        latent(model((tmp_path / "other.pt", 1.0)))


def test_a_file_that_changed_since_it_was_loaded(files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "one.pt"
    file.write_bytes(files["relu"].read_bytes())
    changed = model((file, 0.3))
    file.write_bytes(files["norm"].read_bytes())
    with pytest.raises(ModelError, match=r"one\.pt has changed since it was loaded"):
        latent(changed)


def test_a_pickle_in_a_graph_fails_as_a_node(tmp_path: Path) -> None:
    file, trace = poisoned(tmp_path)["zip"]
    with Graph() as graph:
        graph.output("hypernetwork", std.load_hypernetwork(file))
    with pytest.raises(NodeError, match="holds code that would run"):
        graph.run()
    assert not trace.exists()
