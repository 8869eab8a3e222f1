"""Single files load without a folder of configurations, and compute what the folder that they were made of computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.lookup import family
from graphengine_nodes.layouts import contents
from graphengine_nodes.store.store import store
from graphengine_nodes.testing.flux import flux_model, flux_single_file
from graphengine_nodes.testing.sd import single_file
from graphengine_nodes.testing.sdxl import xl_model, xl_refiner
from graphengine_nodes.weights import files, vocabulary
from graphengine_nodes.weights.files import TINY
from graphengine_nodes.weights.headers import Header
from safetensors.torch import load_file, save_file

from graphengine import ModelError, load, rooted, roots_of

from ..layouts import published

KINDS = ("stable_diffusion", "stable_diffusion 2.x", "stable_diffusion_xl", "flux dev", "flux schnell", "flux alone")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders that the files are made of, by the beginning of the kind."""
    root = tmp_path_factory.mktemp("folders")
    flux_model(root / "schnell", guidance=False)
    dev = flux_model(root / "dev")
    xl = xl_model(root / "xl")
    for folder in (dev, root / "schnell"):
        (folder / "defaults.json").unlink()
    one = shutil.copytree(TINY / "model", root / "one", ignore=shutil.ignore_patterns("defaults.json"))
    return {
        "stable_diffusion": one,
        "stable_diffusion 2.x": one,
        "stable_diffusion_xl": xl,
        "flux dev": dev,
        "flux schnell": root / "schnell",
        "flux alone": dev,
    }


def made(kind: str, folder: Path, file: Path, **options: Any) -> Path:
    """The single file of a folder."""
    if "flux" in kind:
        whole = kind != "flux alone"
        return flux_single_file(file, folder, whole, prefix="model.diffusion_model." if whole else "", **options)
    return single_file(file, folder, open_clip="2.x" in kind, **options)


def picture(model: std.Model) -> torch.Tensor:
    size = 64 if model.family == "flux" else None
    text = std.encode_prompt(model, "a red circle", max_sequence_length=16 if model.family == "flux" else None)
    return std.decode_latent(model, std.sample(model, text, seed=1, steps=2, width=size, height=size)).pixels


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_a_folder_is_the_model_that_it_was_made_of(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[kind]
    file = made(kind, folder, tmp_path / "alone.safetensors")
    if kind == "flux alone":
        with pytest.raises(
            ModelError, match=r"alone\.safetensors holds no text_encoder: give config, a model's folder"
        ):
            std.load_model(file, tokenizer=folder)
        return
    expected, given = std.load_model(folder), std.load_model(file, tokenizer=folder)
    assert given.family == expected.family
    assert given.settings == expected.settings
    for name in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2"):
        if name in dict(expected.components):
            with store.component(given, name, "cpu") as one, store.component(expected, name, "cpu") as other:
                ours, theirs = one.state_dict(), other.state_dict()
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    # The last bits depend on where in a cache line a file has its tensors.
    assert torch.allclose(picture(given), picture(expected), atol=1e-3)


def test_another_process_finds_what_was_written(folders: dict[str, Path], tmp_path: Path) -> None:
    file = made("stable_diffusion", folders["stable_diffusion"], tmp_path / "alone.safetensors")
    model = std.load_model(file, tokenizer=TINY / "model" / "tokenizer")
    expected = picture(model)
    files._locations.clear()
    store.clear()
    assert torch.equal(picture(model), expected)
    again = std.load_model(file, tokenizer=TINY / "model")
    assert again == model


def test_a_component_that_the_file_lacks(folders: dict[str, Path], tmp_path: Path) -> None:
    """SDXL without its text encoders: the UNet tells the family, the folder has the weights, or a sentence says it."""
    xl = folders["stable_diffusion_xl"]
    tensors = load_file(single_file(tmp_path / "whole.safetensors", xl))
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("conditioner.")}
    file = tmp_path / "bare.safetensors"
    save_file(bare, file, {"config": json.dumps({"unet": json.loads((xl / "unet" / "config.json").read_text())})})
    given, expected = std.load_model(file, config=xl), std.load_model(xl)
    assert given.family == "stable_diffusion_xl"
    assert given.component("text_encoder_2") == expected.component("text_encoder_2")
    assert torch.allclose(picture(given), picture(expected), atol=1e-3)
    shutil.copytree(xl, tmp_path / "light", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(
        ModelError, match=r"bare\.safetensors holds no text_encoder, and .*light no weights of one: give"
    ):
        std.load_model(file, config=tmp_path / "light")
    vae = {name: t for name, t in tensors.items() if not name.startswith("first_stage_model.")}
    save_file(vae, tmp_path / "no_vae.safetensors", {"config": json.dumps({"unet": {"norm_num_groups": 8}})})
    with pytest.raises(ModelError, match=r"holds no vae, and .*light no weights of one: give config, a model's folder"):
        std.load_model(tmp_path / "no_vae.safetensors", config=tmp_path / "light")


def test_what_is_unknown_in_a_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    tensors = load_file(single_file(tmp_path / "plain.safetensors"))
    strange = "model.diffusion_model.input_blocks.1.0.lora_up.weight"
    save_file(tensors | {strange: torch.ones(2)}, tmp_path / "strange.safetensors")
    with pytest.raises(ModelError, match=rf"strange\.safetensors: nothing is known about the tensor {strange}"):
        std.load_model(tmp_path / "strange.safetensors", config=TINY / "model")
    scaled = {"model.diffusion_model.out.2.absmax": torch.ones(2)}
    save_file(tensors | scaled, tmp_path / "nf4.safetensors")
    with pytest.raises(ModelError, match=r"nf4\.safetensors is quantized as bitsandbytes"):
        std.load_model(tmp_path / "nf4.safetensors", config=TINY / "model")


def test_what_is_no_model_is_said_to_be_what_it_is(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape).half() for name, shape in published.vae(width=8, layers=1).items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(
        ModelError, match=r"vae\.safetensors is no checkpoint of a known family .*; it holds a vae without"
    ):
        std.load_model(tmp_path / "vae.safetensors")
    attention = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    sizes = {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(8, 8)}
    outer = {f"model.diffusion_model.{name}.weight": torch.zeros(8, 4, 3, 3) for name in ("input_blocks.0.0", "out.2")}
    save_file({**sizes, **outer, attention: torch.zeros(8, 1024)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors: this is an unCLIP model of Stable Diffusion 2\.1"):
        std.load_model(tmp_path / "other.safetensors")


def test_a_refiner_in_one_file_is_that_of_its_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = xl_refiner(tmp_path / "refiner")
    (tmp_path / "alone").mkdir()
    file = single_file(tmp_path / "alone" / "refiner.safetensors", folder)
    expected, given = std.load_model(folder), std.load_model(file, tokenizer=folder)
    assert given.family == expected.family == "stable_diffusion_xl_refiner"
    assert given.settings == expected.settings
    base = std.load_model(folders["stable_diffusion_xl"])
    begun = std.sample(base, std.encode_prompt(base, "a house"), end=0.5, steps=4, seed=5)
    ends = [
        std.sample(one, std.encode_prompt(one, "a house"), latent=begun, start=0.5, steps=4, seed=5).samples
        for one in (expected, given)
    ]
    assert torch.allclose(*ends, atol=1e-3)


def test_configurations_of_another_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of another family, and of a model of the same family with other widths."""
    file = made("stable_diffusion", folders["stable_diffusion"], tmp_path / "alone.safetensors")
    xl = folders["stable_diffusion_xl"]
    for node in (std.load_model, std.load_denoiser, std.load_vae, std.load_text_encoder):
        with pytest.raises(ModelError, match=r"is a stable_diffusion model, and the .* of a stable_diffusion_xl model"):
            node(file, config=xl)
    widths = {
        "unet": ("block_out_channels", [64, 96, 160]),
        "text_encoder": ("hidden_size", 768),
        "vae": ("latent_channels", 16),
    }
    for part, (name, value) in widths.items():
        other = shutil.copytree(folders["stable_diffusion"], tmp_path / f"other {part}")
        place = other / part / "config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | {name: value}))
        with pytest.raises(ModelError, match=rf"alone\.safetensors is no {part} as .*: {name} is .* by its header"):
            std.load_model(file, config=other)
    alone = tmp_path / "encoder.safetensors"
    save_file(load_file(folders["stable_diffusion"] / "text_encoder" / "model.safetensors"), alone)
    with pytest.raises(ModelError, match=r"encoder\.safetensors is no text_encoder as .*: hidden_size is 128 by its"):
        std.load_text_encoder(alone, config=tmp_path / "other text_encoder")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_scale_of_latents_that_a_file_says_is_that_of_its_vae(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = load_file(single_file(tmp_path / "plain.safetensors"))
    place = TINY / "model" / "vae" / "config.json"
    scale = float(json.loads(place.read_text()).get("scaling_factor", 0.18215))
    file = tmp_path / "scaled.safetensors"
    save_file(tensors | {"scale_factor": torch.tensor(scale, dtype=dtype)}, file)
    std.load_model(file, config=TINY / "model")
    save_file(tensors | {"scale_factor": torch.tensor(scale * 1.02, dtype=dtype)}, file)
    for node in (std.load_model, std.load_vae):
        with pytest.raises(ModelError, match=r"was trained on latents of the scale .*, and .*vae/config\.json says"):
            node(file, config=TINY / "model")


def test_stable_diffusion_2_must_say_what_it_predicts(tmp_path: Path) -> None:
    """The shapes of the models that predict noise and of those that predict velocity are the same."""
    shapes = published.prefixed("model.diffusion_model.", published.unet(context=1024, linear=True, width=32, layers=1))
    shapes |= published.prefixed("first_stage_model.", published.vae(width=16, layers=1))
    shapes |= published.prefixed("cond_stage_model.model.", published.open_clip(1024, 2, inner=16))
    said: dict[str, Any] = {"unet": {"attention_head_dim": [1, 1, 2, 2], "norm_num_groups": 16}}
    said["vae"] = {"norm_num_groups": 16}
    file = tmp_path / "second.safetensors"
    save_file({n: torch.zeros(shape).half() for n, shape in shapes.items()}, file, {"config": json.dumps(said)})
    with pytest.raises(
        ModelError, match=r"second\.safetensors does not say what it predicts, .*: give prediction_type"
    ):
        std.load_model(file)
    model = std.load_model(file, prediction_type="v_prediction")
    assert (model.family, model.setting("prediction_type")) == ("stable_diffusion", "v_prediction")
    with store.component(model, "text_encoder", "cpu") as encoder:
        assert encoder.config.num_hidden_layers == 1  # the last of the file's two is not read
    with store.component(model, "tokenizer", "cpu") as words:
        assert words.tokenizer.pad_token_id == 0
    with store.component(model, "scheduler", "cpu") as scheduler:
        assert scheduler["_class_name"] == "DDIMScheduler"


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_of_another_size_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    file = made("stable_diffusion", folders["stable_diffusion"], tmp_path / "alone.safetensors")
    with pytest.raises(
        ModelError, match=r"a text encoder for 968 tokens, but the tokenizer in .* has 49408; give token"
    ):
        std.load_model(file)
    with pytest.raises(ModelError, match=r"holds no tokenizer of a stable_diffusion model \(CLIPTokenizer\)"):
        std.load_model(file, tokenizer=tmp_path)
    with pytest.raises(ModelError, match="is a folder with its own tokenizers; leave tokenizer out"):
        std.load_model(TINY / "model", tokenizer=TINY / "model")


def test_what_fills_prompts_up_is_what_the_encoders_were_trained_with(tmp_path: Path) -> None:
    """The end token for OpenAI's, `!` for OpenCLIP's, as the published folders say it."""
    whole = {what: shapes for what, _, _, shapes in published.files()}
    found = {}
    for what in ("SD 1.5 pruned, EMA only", "SD 2.1 base", "SDXL base", "FLUX.1 dev"):
        header: Header = {name: {"dtype": "F16", "shape": list(shape)} for name, shape in whole[what].items()}
        held = contents.read(header, {}, tmp_path)
        kind = family(held.family or "")
        folders = {name: kind.packaged_tokenizer(name, held) for name in kind.tokenizers}
        found[what] = [
            f and json.loads((f / "tokenizer_config.json").read_text())["pad_token"] for f in folders.values()
        ]
    end = "<|endoftext|>"
    assert list(found.values()) == [[end], ["!"], [end, "!"], [end, None]]


def test_t5s_tokenizer_must_be_given(folders: dict[str, Path], tmp_path: Path) -> None:
    dev = folders["flux dev"]
    file = made("flux dev", dev, tmp_path / "alone.safetensors")
    with pytest.raises(
        ModelError, match=r"alone\.safetensors needs a tokenizer_2, which no package here holds: give tok"
    ):
        std.load_model(file)
    with pytest.raises(ModelError, match=r"but the tokenizer in .*clip-tokenizer-openai has 49408"):
        std.load_model(file, tokenizer=dev / "tokenizer_2")


def test_a_shipped_workflow_takes_a_file_alone(tmp_path: Path) -> None:
    """With CLIP's own vocabulary: no folder of configurations, no tokenizer, no network."""
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = shutil.copytree(TINY / "model", tmp_path / "folder", ignore=shutil.ignore_patterns("defaults.json"))
    words = CLIPTokenizer.from_pretrained(vocabulary.clip_tokenizer(), local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    torch.manual_seed(0)
    encoder.resize_token_embeddings(len(words), mean_resizing=False)
    for name in ("bos", "eos", "pad"):
        setattr(encoder.config, f"{name}_token_id", getattr(words, f"{name}_token_id"))
    encoder.save_pretrained(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    words.save_pretrained(folder / "tokenizer")
    (tmp_path / "alone").mkdir()
    file = single_file(tmp_path / "alone" / "my_model.safetensors", folder)
    graph = load("text_to_image")
    inputs: dict[str, Any] = {"prompt": "two green houses", "steps": 2, "seed": 3}
    found, expected = (graph(model=str(model), **inputs).pixels for model in (file, folder))
    assert float(expected.std()) > 0.05
    assert torch.allclose(found, expected, atol=1e-3)


def test_configurations_are_found_where_files_are_held_to_roots(folders: dict[str, Path], tmp_path: Path) -> None:
    """A file inside the roots of a run has its configurations in the user's cache, which is in no root."""
    file = made("stable_diffusion", folders["stable_diffusion"], tmp_path / "alone.safetensors")
    given = std.load_model(rooted(file, [tmp_path]), tokenizer=TINY / "model")
    files._locations.clear()
    location = files.locate(given.component("unet"), "the file")
    assert roots_of(location.path) == (str(tmp_path),)
    assert files.read_json(location.folder / "config.json")["cross_attention_dim"] == 128


# --- the makers of test files -----------------------------------------------------------------------------------------


def shapes_of(file: Path) -> published.Shapes:
    return {name: tuple(entry["shape"]) for name, entry in files.read_header(file).items()}


def test_makers_write_published_layouts(folders: dict[str, Path], tmp_path: Path) -> None:
    """All names and shapes are those of the code that wrote the published files, at other widths."""
    unet: dict[str, Any] = {"width": 64, "mult": (1, 1.5, 2), "depths": (0, 1, 1), "context": 128, "layers": 1}
    found = shapes_of(single_file(tmp_path / "one.safetensors"))
    expected = published.prefixed("model.diffusion_model.", published.unet(**unet))
    vae = published.vae(width=16, mult=(1, 2, 4, 6), layers=1, attention=False)
    expected |= published.prefixed("first_stage_model.", vae) | published.NOISE
    text = published.clip(128, 4, 968, positions=True, inner=384)
    assert found == expected | published.prefixed("cond_stage_model.transformer.", text)
    second = shapes_of(single_file(tmp_path / "two.safetensors", open_clip=True))
    text = published.open_clip(128, 5, 968, inner=384)
    assert second == expected | published.prefixed("cond_stage_model.model.", text)

    unet = {"width": 16, "mult": (1, 2), "depths": (0, 2), "middle": 2, "context": 80, "layers": 1}
    found = shapes_of(single_file(tmp_path / "xl.safetensors", folders["stable_diffusion_xl"]))
    expected = published.prefixed("model.diffusion_model.", published.unet(**unet, linear=True, adm=96))
    vae = published.vae(width=8, mult=(1, 1, 2, 2), layers=1, attention=False)
    expected |= published.prefixed("first_stage_model.", vae) | {"denoiser.sigmas": (1000,)}
    text = published.clip(32, 4, 968, positions=True, inner=64)
    expected |= published.prefixed("conditioner.embedders.0.transformer.", text)
    assert found == expected | published.prefixed("conditioner.embedders.1.model.", published.open_clip(48, 4, 968, 96))

    flux = published.flux(True, width=32, double=1, single=1, head=16, texts=32, pooled=32)
    file = made("flux dev", folders["flux dev"], tmp_path / "flux.safetensors")
    expected = published.prefixed("model.diffusion_model.", flux)
    expected |= published.prefixed("vae.", published.vae(8, (1, 1, 1, 1), 16, quant=False, layers=1))
    expected |= published.prefixed("text_encoders.clip_l.transformer.", published.clip(32, 2, 968, inner=64))
    expected |= {"text_encoders.clip_l.transformer.text_projection.weight": (32, 32)}
    expected |= {"text_encoders.clip_l.logit_scale": (), "text_encoders.t5xxl.logit_scale": ()}
    t5 = published.t5(32, 2, 4, 64, 98, 8)
    assert shapes_of(file) == expected | published.prefixed("text_encoders.t5xxl.transformer.", t5)
    assert shapes_of(made("flux alone", folders["flux dev"], tmp_path / "bare.safetensors")) == flux
