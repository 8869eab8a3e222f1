"""Stand-ins: of the module's class, over its memory, with what pipelines read of it; unused they change no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from graphengine_nodes.families.stand_in import stand_in
from graphengine_nodes.testing import sdxl as testing_xl


def through(module: Any, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = testing_xl.xl_model(tmp_path_factory.mktemp("xl") / "xl")
    found = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    found.set_progress_bar_config(disable=True)
    return found


def latents(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 3}
    found: torch.Tensor = pipe("a red circle", generator=generator, output_type="latent", **size).images
    return found


def test_it_is_of_the_class_and_over_the_same_memory(pipe: Any) -> None:
    unet = pipe.unet
    made = stand_in(unet, through)
    assert isinstance(made, type(unet))
    assert (type(made).__name__, type(made).__module__) == (type(unet).__name__, type(unet).__module__)
    assert type(stand_in(unet, through)) is type(made)
    mine, theirs = dict(made.named_parameters()), dict(unet.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(mine[name] is theirs[name] for name in theirs)
    assert made.add_embedding is unet.add_embedding
    assert made.encoder_hid_proj is unet.encoder_hid_proj
    assert (made.config, made.dtype, made.device) == (unet.config, unet.dtype, unet.device)


def test_a_pipeline_with_it_makes_the_same_bits(pipe: Any) -> None:
    plain = latents(pipe)
    calls = []

    def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(module)
        return module(*args, **kwargs)

    with_it = diffusers.StableDiffusionXLPipeline(**{**pipe.components, "unet": stand_in(pipe.unet, counted)})
    with_it.set_progress_bar_config(disable=True)
    assert torch.equal(latents(with_it), plain)
    assert calls == [pipe.unet] * 3
    assert torch.equal(latents(pipe), plain)


def test_it_answers_from_when_it_was_made(pipe: Any) -> None:
    unet = diffusers.UNet2DConditionModel.from_config(pipe.unet.config)
    made = stand_in(unet, through)
    unet.register_to_config(sample_size=99)
    unet.double()
    assert (made.config.sample_size, made.dtype) == (pipe.unet.config.sample_size, torch.float32)


def test_hooks_of_the_module_act_once(pipe: Any) -> None:
    unet = diffusers.UNet2DConditionModel.from_config(pipe.unet.config).eval()
    unet.load_state_dict(pipe.unet.state_dict())
    apply_layerwise_casting(unet, storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    called = []
    unet.register_forward_pre_hook(lambda module, args: called.append(module))
    made = stand_in(unet, through)
    inputs = {
        "sample": torch.ones(1, 4, 8, 8),
        "timestep": 5,
        "encoder_hidden_states": torch.ones(1, 7, unet.config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": torch.ones(1, 48), "time_ids": torch.ones(1, 6)},
    }
    with torch.no_grad():
        found, direct = made(**inputs).sample, unet(**inputs).sample
    assert torch.equal(found, direct)
    assert len(called) == 2


def test_it_holds_several_controlnets(pipe: Any) -> None:
    net = diffusers.ControlNetModel.from_unet(pipe.unet)
    several = diffusers.models.controlnets.MultiControlNetModel([stand_in(net, through), net])
    assert [type(one).__name__ for one in several.nets] == ["ControlNetModel"] * 2
    assert stand_in(several, through).nets is several.nets


def test_a_context_for_caches_is_the_modules() -> None:
    transformer = diffusers.FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    )
    with stand_in(transformer, through).cache_context("cond"):
        pass
