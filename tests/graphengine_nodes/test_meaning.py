"""Pictures show what the prompt names, not only the right shape."""

from __future__ import annotations

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images

from tests.graphengine_nodes import cases


@pytest.fixture(scope="module")
def model() -> std.Model:
    return std.load_model("tiny")


def picture(model: std.Model, prompt: str, **inputs: object) -> torch.Tensor:
    """[H, W, 3]."""
    latent = std.sample(model, std.encode_prompt(model, prompt), steps=12, **inputs)  # type: ignore[arg-type]
    return std.decode_latent(model, latent).pixels[0]


def test_a_red_circle_on_a_blue_background(model: std.Model) -> None:
    found = picture(model, "a large red circle in the middle on a blue background", seed=3)
    middle, border = found[56:72, 56:72].mean((0, 1)), torch.cat([found[:6], found[-6:]]).mean((0, 1))
    assert middle[0] > middle[2] + 0.3
    assert border[2] > border[0] + 0.3


def test_the_colours_are_the_prompts(model: std.Model) -> None:
    found = picture(model, "a yellow square on a green background", seed=3)
    border = torch.cat([found[:6], found[-6:]]).mean((0, 1))
    assert border[1] > max(border[0], border[2]) + 0.1


def edges_near(found: torch.Tensor, control: torch.Tensor) -> float:
    """The part of the control's edge pixels that have an edge within two pixels."""
    edges = std.canny(std.Image(found[None])).pixels[..., 0]
    near = torch.nn.functional.max_pool2d(edges[None], 5, 1, 2)[0, 0]
    wanted = control[0, ..., 0] > 0
    return float(near[wanted].mean())


def test_control_edges_are_followed(model: std.Model) -> None:
    control = std.canny(images.from_pil(cases.picture()))
    steered = std.apply_controlnet(std.load_controlnet("tiny-canny"), control)
    prompt = "a yellow square on a blue background"
    followed = [edges_near(picture(model, prompt, control=steered, seed=seed), control.pixels) for seed in (1, 2)]
    free = [edges_near(picture(model, prompt, seed=seed), control.pixels) for seed in (1, 2)]
    assert min(followed) > 0.5
    assert sum(followed) > sum(free) + 0.5


def test_outside_the_mask_next_to_nothing_changes(model: std.Model) -> None:
    before = images.from_pil(cases.picture())
    mask = std.mask_from_image(images.from_pil(cases.mask()))
    latent = std.inpaint(model, std.encode_prompt(model, "a large red circle"), before, mask, seed=2, steps=12)
    after = std.decode_latent(model, latent).pixels[0]
    change = (after - before.pixels[0]).abs().mean(-1)
    inside = mask.values[0] > 0
    far = torch.nn.functional.max_pool2d(mask.values[None], 33, 1, 16)[0, 0] == 0  # the VAE looks a little around
    assert change[far].mean() < 0.05
    assert change[inside].mean() > 3 * change[far].mean()


def test_strength_says_how_much_is_left(model: std.Model) -> None:
    before = images.from_pil(cases.picture())
    start = std.encode_image(model, before)

    def change(strength: float) -> float:
        found = picture(model, "a green tree on a white background", latent=start, strength=strength, seed=2)
        return float((found - before.pixels[0]).abs().mean())

    assert change(0.2) < change(0.6) < change(1.0)


def test_the_blueprint_lora_makes_blueprints(model: std.Model) -> None:
    changed = std.apply_lora(model, std.load_lora("tiny-blueprint"), 1.0)
    mean = picture(changed, "a red house on a white background", seed=1).mean((0, 1))
    assert mean[2] > mean[0] + 0.15, "a blueprint is blue, whatever the prompt's colours"
