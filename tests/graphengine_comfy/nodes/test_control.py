"""LoRAs, ControlNets and the shift of flow models reach sampling."""

from __future__ import annotations

import graphengine_comfy as comfy
import graphengine_nodes as std
import pytest
import torch
from graphengine_comfy.nodes.loaders import Checkpointed
from graphengine_nodes.nodes import images

from tests.graphengine_comfy.nodes.test_sampling import encode, picture, sample
from tests.graphengine_nodes import cases


def test_the_blueprint_lora_makes_blueprints(tiny: Checkpointed) -> None:
    text = "a red house on a white background"
    changed = comfy.LoraLoader(model=tiny.MODEL, clip=tiny.CLIP, lora_name="tiny-blueprint")
    found = picture(tiny, sample(tiny, text, model=changed.MODEL)).mean((0, 1))
    assert found[2] > found[0] + 0.1
    alone = comfy.LoraLoaderModelOnly(model=tiny.MODEL, lora_name="tiny-blueprint", strength_model=0.0)
    assert alone == tiny.MODEL
    assert changed.MODEL.digest() != tiny.MODEL.digest()


def test_control_edges_are_followed(tiny: Checkpointed) -> None:
    control = std.canny(images.from_pil(cases.picture()))
    net = comfy.ControlNetLoader(control_net_name="tiny-canny")
    text = "a yellow square on a blue background"
    positive, negative = encode(tiny, text), encode(tiny, "")
    steered = comfy.ControlNetApplyAdvanced(positive=positive, negative=negative, control_net=net, image=control)

    def near(found: torch.Tensor) -> float:
        edges = std.canny(std.Image(found[None])).pixels[..., 0]
        around = torch.nn.functional.max_pool2d(edges[None], 5, 1, 2)[0, 0]
        return float(around[control.pixels[0, ..., 0] > 0].mean())

    told = {"steps": 10, "seed": 2}
    free = near(picture(tiny, sample(tiny, positive=positive, negative=negative, **told)))
    both = sample(tiny, positive=steered.positive, negative=steered.negative, **told)
    assert near(picture(tiny, both)) > max(0.5, free + 0.1)
    legacy = comfy.ControlNetApply(conditioning=positive, control_net=net, image=control)
    assert torch.equal(sample(tiny, positive=legacy, negative=negative, **told).samples, both.samples)
    with pytest.raises(ValueError, match="positive and negative"):
        sample(tiny, positive=steered.positive, negative=negative, **told)


def test_a_shift_is_for_flow_models_alone(tiny: Checkpointed) -> None:
    with pytest.raises(ValueError, match="flow-matching"):
        sample(tiny, model=comfy.ModelSamplingSD3(model=tiny.MODEL, shift=3.0))


def test_a_soft_mask_says_when_each_place_begins(tiny: Checkpointed) -> None:
    begun = sample(tiny, "a red circle on a blue background")
    ramp = torch.linspace(0, 1, 128).expand(1, 128, 128)
    masked = comfy.SetLatentNoiseMask(samples=begun, mask=std.Mask(ramp.contiguous()))
    told = {"latent_image": masked, "seed": 5, "steps": 8}
    changed = comfy.DifferentialDiffusion(model=tiny.MODEL)
    found = sample(tiny, "a green tree", model=changed, **told)
    change = (found.samples - begun.samples).abs().mean((0, 1, 2))
    assert change[0] < 0.2 * change[-4:].mean()  # which begins at the last step only
    assert change[-4:].mean() > 2 * change[1:5].mean()
    assert (found.samples - sample(tiny, "a green tree", **told).samples).abs().max() > 0.05


def test_what_a_model_predicts_can_be_said(tiny: Checkpointed) -> None:
    same = comfy.ModelSamplingDiscrete(model=tiny.MODEL, sampling="v_prediction", zsnr=True)
    assert torch.equal(sample(tiny, model=same).samples, sample(tiny).samples)
    with pytest.raises(ValueError, match="lcm is not followed"):
        comfy.ModelSamplingDiscrete(model=tiny.MODEL, sampling="lcm")
    rescaled = comfy.RescaleCFG(model=tiny.MODEL, multiplier=0.7)
    assert (sample(tiny, model=rescaled).samples - sample(tiny).samples).abs().max() > 1e-3


def test_controlnets_that_read_pictures_leave_a_vae_alone() -> None:
    _, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="tiny")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    net = comfy.ControlNetLoader(control_net_name="tiny-canny")
    image = comfy.EmptyImage(width=64, height=64, color=0xFFFFFF)
    steered = comfy.ControlNetApplyAdvanced(positive=prompt, negative=prompt, control_net=net, image=image, vae=vae)
    assert len(steered.positive.entries[0].controls) == 1
