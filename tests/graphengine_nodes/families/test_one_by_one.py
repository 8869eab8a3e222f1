"""Several pictures of pipelines that make one in a call: they come out even, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing import sd3, z_image

from tests.graphengine_nodes.families.flow import cases

PICTURE = images.from_pil(cases.picture())
EDGES = images.from_pil(cases.edges())
MASK = std.mask_from_image(images.from_pil(cases.mask()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> std.Model:
    return std.load_model(z_image.z_image_model(tmp_path_factory.mktemp("z_image") / "model"))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return std.load_controlnet(z_image.z_image_controlnet(tmp_path_factory.mktemp("net") / "painter", inpaint=True))


def batch(*pictures: std.Image) -> std.Image:
    return std.Image(torch.cat([one.pixels for one in pictures]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": 4}, "4 prompts for 2 pictures; give one, or one for each picture"),
        ({"negatives": 3}, "3 prompts for 2 pictures; give one, or one for each picture"),
        ({"edges": 4}, "4 control pictures for 2 pictures"),
        ({"edges": 3, "seeds": 4}, "3 control pictures for 4 pictures"),
        ({"masks": 4, "pictures": 3, "seeds": 4}, "3 pictures to paint over for 4 pictures"),
        ({"masks": 3, "pictures": 4, "seeds": 4}, "3 masks for 4 pictures"),
    ],
)
def test_what_does_not_come_out_even_is_refused(
    given: dict[str, int], message: str, model: std.Model, net: Any
) -> None:
    text = std.encode_prompt(model, cases.PROMPT)

    def count(name: str) -> int:
        return given.get(name, 1)

    masks = std.Mask(torch.cat([MASK.values] * count("masks")))
    with pytest.raises(ValueError, match=message):
        std.inpaint(
            model,
            [text] * count("prompts"),
            batch(*[PICTURE] * count("pictures")),
            masks,
            negative=[text] * given["negatives"] if "negatives" in given else None,
            control=std.apply_controlnet(net, batch(*[EDGES] * count("edges"))),
            seed=list(range(given.get("seeds", 2))),
            steps=2,
        )


def test_a_control_picture_of_another_size_is_brought_to_that_of_the_picture(model: std.Model, net: Any) -> None:
    text, other = std.encode_prompt(model, cases.PROMPT), images.from_pil(cases.edges().resize((70, 50)))
    given: dict[str, Any] = {"seed": 1, "steps": 2}
    control = std.apply_controlnet(net, other)
    found = std.inpaint(model, text, PICTURE, MASK, control=control, **given).samples
    fitted = images.from_pil(cases.edges().resize((70, 50)).resize((64, 64), PIL.Image.Resampling.LANCZOS))
    expected = std.inpaint(model, text, PICTURE, MASK, control=std.apply_controlnet(net, fitted), **given).samples
    assert torch.equal(found, expected)


def test_several_runs_in_two_parts_are_the_whole_runs(tmp_path: Path) -> None:
    model = std.load_model(sd3.sd3_model(tmp_path / "model"))
    control = std.apply_controlnet(std.load_controlnet(sd3.sd3_controlnet(tmp_path / "net")), EDGES)
    text = std.encode_prompt(model, cases.PROMPT)
    given: dict[str, Any] = {"control": control, "seed": [1, 2], "steps": 2}
    whole = std.sample(model, text, width=64, height=64, **given)
    half = std.sample(model, text, width=64, height=64, end=0.5, **given)
    assert half.reached is not None
    assert torch.equal(std.sample(model, text, latent=half, start=0.5, **given).samples, whole.samples)


def test_each_picture_has_its_own_or_the_next_in_order(model: std.Model, net: Any) -> None:
    texts = [std.encode_prompt(model, prompt) for prompt in (cases.PROMPT, "a tree")]

    def latents(text: Any, picture: std.Image, edges: std.Image, seed: Any) -> torch.Tensor:
        control = std.apply_controlnet(net, edges)
        return std.inpaint(model, text, picture, MASK, control=control, seed=seed, steps=2).samples

    found = latents(texts, batch(PICTURE, EDGES), batch(EDGES, PICTURE), [1, 2, 3, 4])
    made = [
        latents(texts[prompt], one, other, seed)
        for prompt, one, other, seed in (
            (0, PICTURE, EDGES, 1),
            (0, EDGES, PICTURE, 2),
            (1, PICTURE, EDGES, 3),
            (1, EDGES, PICTURE, 4),
        )
    ]
    assert torch.equal(found, torch.cat(made))
