from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from graphengine_comfy.formats.class_facts import InputFacts, classes_in, facts_of
from graphengine_comfy.formats.ui_format import widget_values

from graphengine import Choices, Drawn, NodeDef, Range
from tests.graphengine_comfy.formats.workflows import OBJECT_INFO


class Kind(enum.Enum):
    SOFT = "soft"
    HARD = "hard"


def facts(function: Any) -> dict[str, InputFacts]:
    return {fact.name: fact for fact in facts_of(NodeDef(function))}


def test_plain_values_and_choices_have_widgets() -> None:
    def example(
        image: list[bytes],
        width: Annotated[int, Range(8, 64)],
        seed: int,
        start: Annotated[int, Drawn()] = 3,
        text: str = "x",
        name: str | None = None,
        path: str | Path = "a.png",
        kind: Kind = Kind.HARD,
        side: Literal["left", "right"] = "right",
        method: Annotated[str, Choices("a", "b")] = "b",
        on: bool = True,
    ) -> str:
        return ""

    found = facts(example)
    assert {name: (fact.default, fact.extra) for name, fact in found.items() if fact.widget} == {
        "width": (8, 0), "seed": (0, 1), "start": (3, 1), "text": ("x", 0), "path": ("a.png", 0), "kind": ("hard", 0),
        "side": ("right", 0), "method": ("b", 0), "on": (True, 0),
    }  # fmt: skip
    assert not found["image"].widget
    assert not found["name"].widget


def test_inputs_of_a_choice_stand_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def ResizeImageMaskNode(
        input: list[bytes],
        resize_type: Literal["scale dimensions", "scale longer dimension"],
        resize_type_width: int = 512,
        resize_type_height: int = 512,
        resize_type_crop: str = "center",
        resize_type_longer_size: int = 1024,
        scale_method: str = "area",
    ) -> str:
        return ""

    monkeypatch.setattr("graphengine_comfy.formats.class_facts.PACK", NodeDef(ResizeImageMaskNode).pack)
    found = facts_of(NodeDef(ResizeImageMaskNode))
    assert [fact.name for fact in found] == ["input", "resize_type", "scale_method"]
    values = widget_values(found, {"widgets_values": ["scale longer dimension", 2048, "lanczos"]})
    assert values == {
        "resize_type": "scale longer dimension", "resize_type.longer_size": 2048, "scale_method": "lanczos",
    }  # fmt: skip


def test_facts_are_read_from_object_info() -> None:
    known = classes_in(OBJECT_INFO)
    sampler = known("Sampler")
    assert sampler is not None
    assert [fact.name for fact in sampler if fact.widget] == ["seed", "steps", "cfg", "sampler", "denoise"]
    assert [fact.extra for fact in sampler if fact.widget] == [1, 0, 0, 0, 0]
    assert known("Nothing") is None
