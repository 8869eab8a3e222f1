"""What holds for every family that is a record: nothing is computed twice, loaded twice or mixed up, and what the
record says of its denoiser's arguments is true.

A model of `MODELS` is asked for everything; what it makes of a prompt alone stands for its other tasks.
"""

from __future__ import annotations

import inspect
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store.store import store

from graphengine import Graph, Reuse, run
from tests.graphengine_nodes.families.flow import cases

MODELS = tuple(dict.fromkeys(case["model"] for case in cases.cases() if case["task"] == ""))


def sampled(model: std.Model, text: std.Conditioning, seed: Any = 3, **given: Any) -> torch.Tensor:
    """The latents of a prompt alone."""
    return std.sample(model, text, seed=seed, steps=2, width=64, height=64, **given).samples


@pytest.mark.parametrize("name", MODELS)
def test_a_record_samples_without_its_text_encoders(name: str, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(models / name, folder)
    model = std.load_model(folder)
    text = std.encode_prompt(model, cases.PROMPT)
    expected = sampled(model, text)
    store.forget(model)
    for weights in folder.glob("text_encoder*/*.safetensors"):
        weights.unlink()
    assert torch.equal(sampled(model, text), expected)
    store.forget(model)


@pytest.mark.parametrize("name", MODELS)
def test_threads_and_a_lora_beside_do_not_disturb_each_other(name: str, models: Path) -> None:
    plain = std.load_model(models / name)
    changed = std.apply_lora(plain, std.load_lora(models / f"{name}.safetensors"))
    text = std.encode_prompt(plain, cases.PROMPT)
    asked = [(model, seed) for seed in (3, 4, 5) for model in (plain, changed)]

    def picture(one: tuple[std.Model, int]) -> torch.Tensor:
        model, seed = one
        latent = std.sample(model, text, seed=seed, steps=2, width=64, height=64)
        return std.decode_latent(model, latent).pixels

    expected = [picture(one) for one in asked]
    assert not torch.equal(expected[0], expected[1])
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(picture, asked * 2))
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 2, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_new_seed_or_prompt_computes_what_it_must_and_loads_nothing(name: str, models: Path) -> None:
    with Graph() as graph:
        prompt = graph.input("prompt", str, "a red circle")
        seed = graph.input("seed", int, 1)
        model = std.load_model(models / name)
        text = std.encode_prompt(model, prompt)
        latent = std.sample(model, text, seed=seed, steps=2, width=64, height=64)
        graph.output("image", std.decode_latent(model, latent))

    def computed(**inputs: Any) -> set[str]:
        found = run(graph, inputs=inputs)
        return {node for node, reuse in found.reuse.items() if reuse is Reuse.COMPUTED} - {"load_model"}

    every = {"encode_prompt", "sample", "decode_latent"}
    computed()
    loads = sum(store.loads.values())
    assert computed(seed=2) == {"sample", "decode_latent"}
    assert computed(prompt="a blue square") == every
    assert sum(store.loads.values()) == loads


@pytest.mark.parametrize("name", MODELS)
def test_calls_of_one_batch_are_their_single_ones_but_for_rounding(name: str, models: Path) -> None:
    model = std.load_model(models / name)
    texts = [std.encode_prompt(model, text) for text in ("a red circle", "a tall blue tree in the snow")]
    singles = [sampled(model, text, seed) for text, seed in zip(texts, (3, 4), strict=True)]
    kind: Any = family(model.family)
    if texts[0].embeds.shape != texts[1].embeds.shape and not kind.record.text.ragged:
        with pytest.raises(ValueError, match="prompts of different lengths cannot be sampled together"):
            sampled(model, texts, [3, 4])
        texts = [texts[0], std.encode_prompt(model, "a circle red")]
        singles[1] = sampled(model, texts[1], 4)
    both = sampled(model, texts, [3, 4])
    assert torch.allclose(both, torch.cat(singles), atol=2e-4)
    assert not torch.allclose(singles[0], singles[1], atol=1e-2)


class Calls:
    """Watches the calls of a model's denoiser."""

    def __init__(self, kind: Flow, model: std.Model) -> None:
        with store.component(model, kind.denoiser, "cpu") as module:
            self.cls = type(module)
        self.parameters = list(inspect.signature(self.cls.forward).parameters)[1:]

    def of(self, monkeypatch: pytest.MonkeyPatch, sample: Any) -> list[dict[str, Any]]:
        """The arguments of each call while `sample` runs."""
        seen: list[dict[str, Any]] = []
        forward = self.cls.forward

        def watched(module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(dict(zip(self.parameters, args, strict=False)) | kwargs)
            return forward(module, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(self.cls, "forward", watched)
            sample()
        return seen


@pytest.mark.parametrize("name", MODELS)
def test_the_axes_of_a_denoisers_arguments_are_those_of_its_record(
    name: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = std.load_model(models / name)
    kind: Any = family(model.family)
    text = std.encode_prompt(model, cases.PROMPT)
    calls = Calls(kind, model)
    one = calls.of(monkeypatch, lambda: sampled(model, text))
    three = calls.of(monkeypatch, lambda: sampled(model, text, [3, 4, 5]))
    assert len(one) == len(three) > 0
    axes, said = kind.record.axes, set()
    for alone, together in zip(one, three, strict=True):
        for argument, value in alone.items():
            if value is None or isinstance(value, (bool, str, int, float, dict)):
                continue
            said.add(argument)
            axis, joined = axes[argument], together[argument]
            if axis.by == "state":
                continue
            if axis.by == "rows":
                assert joined.shape[axis.axis] == 3 * value.shape[axis.axis], argument
                others = [n for n in range(value.ndim) if n != axis.axis]
                assert [joined.shape[n] for n in others] == [value.shape[n] for n in others], argument
            elif axis.by == "list":
                assert len(joined) == 3 * len(value), argument
            elif isinstance(value, torch.Tensor):
                assert axis.by == "shared", argument
                assert torch.equal(joined, value), argument
            else:
                assert joined == value, argument
    assert said <= set(axes)


def test_what_belongs_to_a_prompt_is_not_kept_with_the_absent_one(tmp_path: Path) -> None:
    """The absent prompt is encoded once for each text encoder: no other prompt may stand for it."""
    from graphengine_nodes.testing.sd3 import sd3_model

    model = std.load_model(sd3_model(tmp_path / "sd3"))
    text = std.encode_prompt(model, "", prompt_2="a tree", clip_skip=1)
    plain = std.encode_prompt(model, "")
    assert not torch.equal(text.embeds, plain.embeds)
    assert torch.equal(text.negative.embeds, plain.embeds)
    assert torch.equal(std.encode_prompt(model, None, prompt_2="a tree").embeds, plain.embeds)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"attention_kwargs": {"scale": 0.5}}, "the attention's scale is that of LoRAs"),
        ({"attention_kwargs": 5}, "attention_kwargs is 5, but must be a dictionary"),
        ({"max_sequence_length": 64}, "encode_prompt's max_sequence_length says it"),
        ({"text_encoder_out_layers": [1]}, "text_encoder_out_layers cannot be given: prompts are encoded before"),
        ({"caption_upsample_temperature": 0.5}, "cannot be given: prompts are encoded before"),
    ],
)
def test_arguments_that_would_do_nothing_or_disturb_others_are_refused(
    arguments: dict[str, Any], sentence: str, models: Path
) -> None:
    model = std.load_model(models / "flux2-dev")
    text = std.encode_prompt(model, cases.PROMPT)
    with pytest.raises(ValueError, match=sentence):
        sampled(model, text, arguments=arguments)
