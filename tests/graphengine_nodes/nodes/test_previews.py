"""Previews use the map of the VAE's folder, else the family's; they are small, and made only where they are shown."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.lookup import families, family
from graphengine_nodes.nodes.previews import factors_of, preview
from graphengine_nodes.store.store import store
from graphengine_nodes.weights.files import TINY

from graphengine import Context


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of `tiny` with another VAE, which says nothing of previews."""
    found = tmp_path / "copy"
    shutil.copytree(TINY / "model", found)
    (found / "vae" / "preview.json").unlink()
    config = json.loads((found / "vae" / "config.json").read_text())
    (found / "vae" / "config.json").write_text(json.dumps(config | {"sample_size": 64}))
    return found


def test_a_vae_without_a_map_is_shown_by_its_familys(copy: Path) -> None:
    plain, tiny = std.load_model(copy), std.load_model("tiny")
    assert factors_of(plain) == family("stable_diffusion").preview != factors_of(tiny)
    assert factors_of(std.replace_vae(plain, "tiny")) == factors_of(tiny)


def test_the_map_is_a_row_for_each_channel_and_the_constant(copy: Path) -> None:
    rows = [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0, 0, 0], [0.1, 0.2, 0.3]]
    (copy / "vae" / "preview.json").write_text(json.dumps({"factors": rows}))
    samples = torch.tensor([1.0, 0.5, -5.0, 7.0]).view(1, 4, 1, 1)
    assert torch.allclose(preview(samples, std.load_model(copy)).pixels, torch.tensor([0.6, 0.45, 0.0]))


def test_the_map_enters_no_key(copy: Path) -> None:
    digest = std.load_model(copy).digest()
    shutil.copy(TINY / "model" / "vae" / "preview.json", copy / "vae")
    assert std.load_model(copy).digest() == digest


DAMAGED = ("{", "[]", "{}", '{"factors": 3}', '{"factors": [[1, 2]]}', '{"factors": [["r", 0, 0]]}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_map_is_told_once_and_left_out(copy: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "vae" / "preview.json").write_text(text)
    model = std.load_model(copy)
    with caplog.at_level(logging.WARNING):
        assert factors_of(model) == factors_of(model) == family("stable_diffusion").preview
    (record,) = caplog.records
    assert "preview.json should hold" in record.getMessage()


@pytest.mark.parametrize(("name", "channels"), [("stable_diffusion", 4), ("stable_diffusion_xl", 4), ("flux", 16)])
def test_every_family_has_a_map(name: str, channels: int) -> None:
    factors = families()[name].preview
    assert len(factors) == channels + 1
    assert all(0.4 < value < 0.6 for value in factors[-1])  # nothing is grey


def test_pictures_are_small_and_finite() -> None:
    model = std.load_model("tiny")
    assert preview(torch.randn(2, 4, 24, 16), model).pixels.shape == (2, 24, 16, 3)
    assert preview(torch.randn(1, 4, 512, 256), model).pixels.shape == (1, 128, 64, 3)
    assert preview(torch.full((1, 4, 8, 8), torch.nan), model).pixels.isfinite().all()


def test_latents_of_other_channels_are_shown_all_the_same() -> None:
    picture = preview(torch.randn(1, 8, 16, 16), std.load_model("tiny")).pixels
    assert picture.shape == (1, 16, 16, 3)
    assert (picture.min(), picture.max()) == (0, 1)


def test_a_vae_that_is_an_object_or_elsewhere_is_no_obstacle() -> None:
    tiny = std.load_model("tiny")
    with store.component(tiny, "vae", "cpu") as vae:
        held = std.replace_component(tiny, "vae", vae)
    assert factors_of(held) == family("stable_diffusion").preview
    elsewhere = replace(tiny, source="far").with_component("vae", "0" * 32)
    assert factors_of(elsewhere) == family("stable_diffusion").preview


class Looking(Context):
    """A context that keeps previews."""

    def __init__(self, watched: bool) -> None:
        self.watched, self.seen = watched, list[Any]()

    def preview(self, value: Any) -> None:
        self.seen.append(value)


@pytest.mark.parametrize("watched", [True, False])
def test_none_are_made_where_nobody_looks(watched: bool) -> None:
    model, context = std.load_model("tiny"), Looking(watched)
    std.sample(model, std.encode_prompt(model, "a red circle"), steps=3, ctx=context)
    assert [type(value) for value in context.seen] == ([std.Image] * 3 if watched else [])
