"""Values are shown in a session as one short line each, pictures as pictures."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from graphengine_nodes import sample
from graphengine_nodes.values.references import LoRA, Model
from graphengine_nodes.values.types import Conditioning, Image, Latent, Mask, Posterior, RandomState

from graphengine.declare.node_help import help_of, wrapped
from graphengine.errors import NodeError, shorten
from graphengine.show.notebook import named, row

PICTURE = Image(torch.tensor([0.25, 0.5, 1.0]).expand(1, 4, 6, 3))
VALUES = [
    (PICTURE, "<Image [1, 4, 6, 3] 0.25..1>"),
    (Mask(torch.zeros(2, 4, 6)), "<Mask [2, 4, 6] 0..0>"),
    (Mask(torch.zeros(0, 4, 6)), "<Mask [0, 4, 6]>"),
    (Latent(torch.tensor([-3.14159, 2.5]).reshape(1, 1, 1, 2), "sd"), "<Latent [1, 1, 1, 2] -3.14..2.5 sd>"),
    (Conditioning(torch.full((1, 77, 768), 2.0), "sd", absent=True), "<Conditioning [1, 77, 768] 2..2 sd absent>"),
    (Posterior(torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8), "sd", {}), "<Posterior [1, 4, 8, 8] 1..1 sd>"),
    (RandomState("cpu", bytes(5000)), "<RandomState cpu>"),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_one_short_line(value: object, text: str) -> None:
    assert repr(value) == text
    assert repr({"a": value}) == f"{{'a': {text}}}"


def test_a_model_is_one_short_line() -> None:
    settings = (("factor", 8), ("height", 128), ("width", 128), ("guidance_scale", 3.5))
    components = tuple((name, "f" * 32) for name in ("tokenizer", "text_encoder", "unet", "scheduler", "vae"))
    model = Model("sd", components, settings, source="tiny")
    assert repr(model) == "<Model sd from tiny>"
    lora = LoRA("0123456789abcdef", ("denoiser",), source="style")
    more = replace(model, precision="float16", loras=((lora, 0.5), (replace(lora, source=""), 1.0)))
    more = more.with_options(compile=True)
    assert repr(more) == "<Model sd from tiny, float16, LoRA style x 0.5, LoRA 0123456789ab x 1, compile=True>"


def test_errors_shorten_tensors() -> None:
    inputs = {
        "x": torch.zeros(1, 4, 64, 64), "xs": [np.zeros((512, 512, 3))] * 9, "n": 3, "many": list(range(10_000)),
        "text": "line\n" * 99,
    }  # fmt: skip
    message = str(NodeError("n", "p.n", inputs, ValueError("wrong")))
    assert "x=<Tensor [1, 4, 64, 64] float32>, xs=[<ndarray [512, 512, 3] float64>, " in message
    assert "n=3" in message
    assert max(map(len, message.split("\n"))) < 420
    assert message.count("\n") == 1


def test_a_short_text_is_all_there() -> None:
    assert shorten("a" * 60) == repr("a" * 60)
    assert len(shorten("a" * 600)) == 80


def test_lists_and_dictionaries_of_pictures_show_themselves() -> None:
    shown = row([PICTURE, Mask(torch.zeros(1, 4, 6))])
    assert shown is not None
    assert shown.count("<img") == 2
    assert row([]) is row([PICTURE, 3]) is row(["text"]) is None
    both = named({"image": PICTURE, "<count>": 3})
    assert both is not None
    assert "<b>image</b>" in both
    assert "<b>&lt;count&gt;</b><pre>3</pre>" in both
    assert named({"a": 1}) is None


def test_help_shows_the_parameters() -> None:
    text = str(inspect.signature(sample))
    assert text.startswith("(model: Model, positive: Conditioning | list[Conditioning], *, ")
    assert "steps: int | None = None" in text
    assert "arguments: dict[str, Any] | None = None" in text
    assert "Annotated" not in text
    assert "ctx" not in text
    assert text.endswith(" -> Latent")


def test_help_of_nodes_wraps_at_words() -> None:
    lines = help_of(sample, 60).split("\n")
    start = lines.index("Inputs:")
    assert max(map(len, lines[start:])) <= 60
    assert any(line.startswith("  seed: int") for line in lines)
    assert list(wrapped("name  ", "three words here", "", 20)) == ["name  three words", "      here"]
