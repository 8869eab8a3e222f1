"""Models load from folders, single files and the hub; damaged and foreign files are refused with a sentence."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.store.store import WeightStore, store
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import TINY

from graphengine import Graph, ModelError, NodeError
from tests.graphengine_nodes import cases


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model's folder to damage."""
    shutil.copytree(TINY / "model", tmp_path / "model")
    return tmp_path / "model"


def latent(model: std.Model) -> torch.Tensor:
    return std.sample(model, std.encode_prompt(model, cases.PROMPT), seed=1, steps=2).samples


class Harm:
    """What a pickle runs when it is read."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.witness,)


# --- where models come from -------------------------------------------------------------------------------------------


def test_a_single_file_is_the_same_model(tmp_path: Path) -> None:
    expected = latent(std.load_model("tiny"))
    given = std.load_model(testing.single_file(tmp_path / "given.safetensors"), config=TINY / "model")
    assert torch.equal(latent(given), expected)
    picture = std.Image(torch.rand(1, 64, 64, 3))
    mean = std.encode_image(given, picture).mean
    assert torch.equal(mean, std.encode_image(std.load_model("tiny"), picture).mean)
    start = std.Latent(expected, given.family)
    folder = std.decode_latent(std.load_model("tiny"), start).pixels
    assert torch.equal(std.decode_latent(given, start).pixels, folder)
    shutil.copytree(TINY / "model", tmp_path / "named", ignore=shutil.ignore_patterns("*.safetensors"))
    file = testing.single_file(tmp_path / "named.safetensors")
    assert std.load_model(file) == given  # its configurations from the folder of its stem's name
    assert given.source == "given.safetensors"
    assert std.load_model(file, config="tiny") == given


def test_a_single_file_without_configurations(tmp_path: Path) -> None:
    file = testing.single_file(tmp_path / "alone.safetensors", configurations=False)
    with pytest.raises(
        ModelError, match=r"alone\.safetensors: its \w+ has widths of no published model, .*give config"
    ):
        std.load_model(file)
    with pytest.raises(ModelError, match=r"has no model_index\.json; config must be a model's folder"):
        std.load_model(file, config=tmp_path)
    with pytest.raises(ModelError, match="is a folder with its own configurations; leave config out"):
        std.load_model(TINY / "model", config=TINY / "model")


def test_variants_and_shards(copy: Path) -> None:
    unet = copy / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    expected = latent(std.load_model("tiny"))
    weights.rename(unet / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(latent(std.load_model(copy)), expected)
    from diffusers import UNet2DConditionModel

    shutil.rmtree(unet)
    UNet2DConditionModel.from_pretrained(TINY / "model" / "unet").save_pretrained(unet, max_shard_size="8MB")
    assert (unet / "diffusion_pytorch_model.safetensors.index.json").is_file()
    assert torch.equal(latent(std.load_model(copy)), expected)
    shard = sorted(unet.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=f"there is no file .*{shard.name}"):
        std.load_model(copy)


def test_a_replaced_vae_changes_only_its_part(models: Path, copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.bias"] += 0.25
    save_file(tensors, file)
    plain = std.load_model("tiny")
    for source in (copy, copy / "vae"):
        other = std.replace_vae(plain, source)
        assert other.digest("vae") != plain.digest("vae")
        assert other.digest("denoiser") == plain.digest("denoiser")
        assert other.digest("text_encoder") == plain.digest("text_encoder")
        start = std.Latent(latent(plain), plain.family)
        assert not torch.equal(std.decode_latent(other, start).pixels, std.decode_latent(plain, start).pixels)
    config = json.loads((copy / "vae" / "config.json").read_text())
    config["latent_channels"] = 16
    (copy / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="latents of 16 channels at 1/8 of the size; tiny needs 4 at 1/8"):
        std.replace_vae(plain, copy)


def test_precision(models: Path) -> None:
    half = std.load_model("tiny", precision="bfloat16")
    found = latent(half)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), latent(std.load_model("tiny")), atol=0.5)
    with store.component(half, "unet", "cpu") as unet:
        assert unet.dtype == torch.bfloat16


def test_a_models_own_defaults(copy: Path) -> None:
    (copy / "defaults.json").write_text('{"steps": 3, "guidance_scale": 1.0, "width": 64}')
    model = std.load_model(copy)
    made = std.sample(model, std.encode_prompt(model, "a red circle")).samples
    said = std.sample(
        std.load_model("tiny"), std.encode_prompt(model, "a red circle"), steps=3, guidance_scale=1.0, width=64
    )
    assert torch.equal(made, said.samples)
    assert model.digest("denoiser") != std.load_model("tiny").digest("denoiser")
    (copy / "defaults.json").unlink()
    assert std.load_model(copy).setting("steps") == 50  # the family's


def test_a_file_that_changed_after_it_was_loaded(copy: Path) -> None:
    model = std.load_model(copy)
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    changed = pytest.raises(ModelError, match="has changed since it was loaded; load it again")
    with changed, WeightStore().component(model, "vae", "cpu"):
        pass
    assert std.load_model(copy).digest("vae") != model.digest("vae")


# --- what is missing or damaged ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["./missing", "missing.safetensors", "/missing/folder"])
def test_a_missing_path(source: str) -> None:
    with pytest.raises(ModelError, match=rf"there is no model {source}; give a folder .* embedded tiny"):
        std.load_model(source)


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="there is no model nobody/nothing: it is no path on this machine and the hub"):
        std.load_model("nobody/nothing")
    with pytest.raises(ModelError, match="no ControlNet nobody/nothing"):
        std.load_controlnet("nobody/nothing")


def test_a_hub_id_is_looked_up_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def snapshot(name: str, local_files_only: bool = False, **_: Any) -> str:
        calls.append(local_files_only)
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    files._snapshot.cache_clear()
    with Graph() as graph:
        text = graph.input("text", str)
        graph.output("text", std.encode_prompt(std.load_model("some/model"), text))
    for word in ("a", "b", "c"):
        graph(text=word)
    assert calls == [True]  # in the cache on this machine: no network
    copy.rename(copy.with_name("moved"))
    with pytest.raises(ModelError):
        std.load_model("some/model")
    assert len(calls) > 1, "a removed folder was not looked up again"
    files._snapshot.cache_clear()


@pytest.mark.parametrize(
    "missing",
    ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/tokenizer.json", "scheduler", "vae"],
)
def test_a_download_that_was_interrupted_goes_on(copy: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def snapshot(name: str, local_files_only: bool = False, **_: Any) -> str:
        calls.append(local_files_only)
        if not local_files_only:
            (copy.parent / "kept").rename(copy / missing)
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files._snapshot.cache_clear()
    (copy / missing).rename(copy.parent / "kept")
    assert std.load_model("some/model") == std.load_model("tiny")
    assert calls == [True, False]
    files._snapshot.cache_clear()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_half_written_weights(copy: Path, part: str) -> None:
    file = next((copy / part).glob("*.safetensors"))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=rf"{file.name} is cut short: \d+ bytes of \d+; copy it again"):
        std.load_model(copy)
    for rest in (b"", b"short", data[:100], b"\xff" * 400, struct.pack("<Q", 4) + b"nope" + bytes(50)):
        file.write_bytes(rest)
        with pytest.raises(ModelError, match=rf"{file.name} is (cut short or )?no safetensors file"):
            std.load_model(copy)


def test_missing_parts(copy: Path) -> None:
    for name in ("vae/diffusion_pytorch_model.safetensors", "unet/config.json", "scheduler", "model_index.json"):
        path = copy / name
        kept = path.rename(path.with_name("kept"))
        with pytest.raises(ModelError, match=r"incomplete, copy it again"):
            std.load_model(copy)
        kept.rename(path)
    (copy / "unet" / "config.json").write_text("{half")
    with pytest.raises(ModelError, match=r"unet/config\.json is damaged"):
        std.load_model(copy)


def test_weights_that_do_not_fit_their_configuration(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps(config | {"block_out_channels": [64, 96, 160]}))
    with pytest.raises(ModelError, match="the weights do not fit the configuration beside them"):
        latent(std.load_model(copy))
    (copy / "unet" / "config.json").write_text(json.dumps(config))
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.bias"]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"1 tensors are missing, the first is conv_in\.bias"):
        latent(std.load_model(copy))
    (copy / "vae" / "config.json").write_text('{"_class_name": "AutoencoderTiny", "block_out_channels": [1, 1, 1, 1]}')
    model = std.load_model(copy)
    with pytest.raises(ModelError, match="is a AutoencoderTiny; vae must be a AutoencoderKL"):
        std.encode_image(model, std.Image(torch.zeros(1, 64, 64, 3)))


def test_a_foreign_model(copy: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (copy / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    with pytest.raises(ModelError, match=r"holds a LTXPipeline; known families are .*stable_diffusion_xl"):
        std.load_model(copy)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"a\.safetensors is no checkpoint of a known family"):
        std.load_model(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"a\.safetensors is no LoRA"):
        std.load_lora(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="holds a UNet2DConditionModel, not a known ControlNet"):
        std.load_controlnet(TINY / "model" / "unet")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"scaling_factor": None}, "scaling_factor is None, but must be a number; leave it out for diffusers' default"),
        ({"scaling_factor": "x"}, "scaling_factor is 'x', but must be a number"),
        ({"shift_factor": [1]}, r"shift_factor is \[1\], but must be a number or null"),
    ],
)
def test_a_vae_that_says_no_scale_is_told_with_its_file(copy: Path, values: dict[str, Any], what: str) -> None:
    file = copy / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    model = std.load_model(str(copy))
    with pytest.raises(ModelError, match=f"{file}: {what}"):
        std.decode_latent(model, std.Latent(torch.zeros(1, 4, 8, 8), model.family))


@pytest.mark.parametrize("channels", [5, 7, 8])
def test_models_that_follow_something_else(copy: Path, channels: int) -> None:
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": channels}))
    (copy / "model_index.json").write_text('{"_class_name": "StableDiffusionInstructPix2PixPipeline"}')
    with pytest.raises(ModelError, match=rf"takes {channels} channels; only those with 4 .* or 9 .* are known"):
        std.load_model(copy)


def changed(model: Path, part: str, values: dict[str, Any]) -> None:
    """Write values into a part's configuration."""
    (file,) = (model / part).glob("*config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_size_may_be_height_and_width(copy: Path) -> None:
    changed(copy, "unet", {"sample_size": [16, 24]})
    (copy / "defaults.json").unlink()
    model = std.load_model(copy)
    assert (model.setting("width"), model.setting("height")) == (192, 128)


@pytest.mark.parametrize(
    ("part", "values"),
    [("unet", {"sample_size": "a"}), ("vae", {"block_out_channels": 7}), ("vae", {"block_out_channels": None})],
)
def test_configurations_that_cannot_be_used(copy: Path, part: str, values: dict[str, Any]) -> None:
    changed(copy, part, values)
    with pytest.raises(ModelError, match=r"model: its configurations cannot be used \(.*\); copy them again"):
        std.load_model(copy)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"block_out_channels": 5}),
        ("text_encoder", {"hidden_size": "x"}),
        ("text_encoder", {"num_attention_heads": 7}),
        ("text_encoder", {"hidden_act": "zz"}),
    ],
)
def test_configurations_of_which_nothing_can_be_built(copy: Path, part: str, values: dict[str, Any]) -> None:
    changed(copy, part, values)
    with pytest.raises(ModelError, match=rf"{part}/config\.json describes no \w+ that can be built: .+"):
        latent(std.load_model(copy))


@pytest.mark.parametrize("values", [{"beta_schedule": "x"}, {"num_train_timesteps": "x"}, {"beta_start": None}])
def test_schedulers_whose_configuration_cannot_be_used(copy: Path, values: dict[str, Any]) -> None:
    changed(copy, "scheduler", values)
    with pytest.raises(ValueError, match=r"the configuration of the model's DDIMScheduler cannot be used: .+"):
        latent(std.load_model(copy))


@pytest.mark.parametrize(
    "entry", [{"data_offsets": ["x", "y"], "shape": [1]}, {"data_offsets": [0, None], "shape": [1]},
              {"data_offsets": [0, 4]}, {"data_offsets": [0, 4], "shape": "z"}],
)  # fmt: skip
def test_headers_that_are_none(tmp_path: Path, entry: dict[str, Any]) -> None:
    header = json.dumps({"unet.attn2.to_k.lora_A.weight": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for load in (std.load_model, std.load_lora):
        with pytest.raises(ModelError, match=r"its header cannot be read"):
            load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["harm.ckpt", "harm.pt", "harm.bin"])
def test_a_pickle_is_not_opened(tmp_path: Path, copy: Path, name: str) -> None:
    witness = tmp_path / "executed"
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Harm(witness)))
    pickle.loads(file.read_bytes())
    assert witness.exists(), "the trap itself does not work"
    witness.unlink()
    for load in (std.load_model, std.load_lora):
        with pytest.raises(ModelError, match=rf"{name} is a pickle, .* not opened; convert it to safetensors"):
            load(file)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.bin is a pickle"):
        std.load_model(copy)
    # Nor when it only says that it is safetensors.
    shutil.copy(file, weights)
    with pytest.raises(ModelError, match="no safetensors file"):
        std.load_model(copy)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("load", "given", "message"),
    [
        (std.load_controlnet, "tiny", "tiny is an embedded model; the embedded ControlNet is called tiny-canny"),
        (std.load_lora, "tiny-canny", "tiny-canny is an embedded ControlNet; the embedded LoRA is called"),
        (std.load_model, "tiny-blueprint", "tiny-blueprint is an embedded LoRA; the embedded model is called tiny"),
    ],
)
def test_an_embedded_name_of_another_kind(load: Any, given: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(given)


def test_text_in_a_graph_is_no_path_beside_the_process(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine finds no such path from the graph's folder; the process's own folder must not matter."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert std.load_model("model").source == "model"  # a plain call takes it
    with Graph() as graph:
        loaded = std.load_model(graph.input("source", str))
    given = {"source": "model"}
    with pytest.raises(NodeError, match="there is no model model: it is no path"):
        graph.run(want=loaded, inputs=given, base=tmp_path / "empty", roots=[tmp_path / "empty"])
    assert graph.run(want=loaded, inputs=given, base=tmp_path, roots=[tmp_path]).source == "model"


def test_a_folder_called_tiny_does_not_hide_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    with Graph() as graph:
        graph.output("model", std.load_model("tiny"))
    assert graph().source == "tiny"


def test_that_nobody_else_will_find_what_was_loaded_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(files, "_locations", {})
    files._warn.cache_clear()
    std.load_model("tiny")
    (record,) = caplog.records
    where = tmp_path / "file" / "cache" / "weights"
    assert record.getMessage().startswith(f"{where} cannot be written (Not a directory): other processes, ")
