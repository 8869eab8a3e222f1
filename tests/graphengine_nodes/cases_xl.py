"""Cases of the oracle tests of Stable Diffusion XL: plain data, as in `cases`.

The reference process must know nothing of graphengine, so this module imports only `cases`.
"""

from __future__ import annotations

from typing import Any

if __package__:
    from tests.graphengine_nodes import cases as common
else:  # the reference process
    import cases as common

ONE, TWO = [(0.8, 0.0, 1.0)], [(0.8, 0.0, 1.0), (0.6, 0.0, 0.6)]


def _case(name: str, kind: str = "text", **changes: Any) -> dict[str, Any]:
    plain = {"family": "stable_diffusion_xl", "model": "xl", "side": 64, "guidance": 5.0}
    return common.case(name, kind, **(plain | changes))


def cases() -> list[dict[str, Any]]:
    """Every case; names are unique."""
    # Of an Euler scheduler's configuration, which SDXL's models have, diffusers cannot make that one.
    schedulers = [name for name in common.SCHEDULERS if name != "EDMEulerScheduler"]
    found = [_case(f"text {scheduler}", scheduler=scheduler) for scheduler in schedulers]
    for scheduler in common.SEVERAL:
        found += [
            _case(f"three seeds {scheduler}", scheduler=scheduler, seeds=[5, 7, 9]),
            _case(f"image {scheduler}", "image", scheduler=scheduler, strength=0.75),
            _case(f"image, all {scheduler}", "image", scheduler=scheduler, strength=1.0, seeds=[1, 2]),
            _case(f"inpaint {scheduler}", "inpaint", scheduler=scheduler, strength=0.75),
            _case(f"inpaint, all {scheduler}", "inpaint", scheduler=scheduler, strength=1.0, seeds=[1, 2]),
            _case(f"nine channels {scheduler}", "inpaint", scheduler=scheduler, model="xl-nine", strength=1.0),
            _case(f"nine channels, part {scheduler}", "inpaint", scheduler=scheduler, model="xl-nine", strength=0.75),
            _case(f"control {scheduler}", scheduler=scheduler, controls=ONE, seeds=[3, 4]),
            _case(f"control image {scheduler}", "image", scheduler=scheduler, controls=[(0.8, 0.0, 0.7)], strength=0.8),
            _case(f"control inpaint {scheduler}", "inpaint", scheduler=scheduler, controls=ONE, strength=0.8),
            _case(f"one LoRA {scheduler}", scheduler=scheduler, loras=[("xl-noise", 0.7)]),
        ]
    for guidance in (0.0, 1.0, 7.5):
        found += [
            _case(f"guidance {guidance}", guidance=guidance, negative="green"),
            _case(f"guidance {guidance} image", "image", guidance=guidance, strength=0.75),
            _case(f"guidance {guidance} inpaint", "inpaint", guidance=guidance),
        ]
    for kind in ("text", "image", "inpaint"):
        strength = None if kind == "text" else 0.75
        found += [
            _case(f"rescale {kind}", kind, rescale=0.6, strength=strength),
            _case(f"two controls {kind}", kind, controls=TWO, strength=strength, seeds=[1, 2]),
            _case(f"guess {kind}", kind, controls=ONE, guess=True, strength=strength),
            _case(f"guess, two {kind}", kind, controls=TWO, guess=True, strength=strength),
            _case(f"clip skip {kind}", kind, clip_skip=1, strength=strength, negative="a tree"),
            _case(f"two LoRAs {kind}", kind, loras=[("xl-noise", 0.7), ("xl-words", -0.4)], strength=strength),
            _case(f"half {kind}", kind, precision="float16", strength=strength, steps=4),
            _case(f"bfloat16 {kind}", kind, precision="bfloat16", strength=strength, steps=4),
            _case(f"a caller's look {kind}", kind, fade=True, strength=strength),
            *[
                _case(
                    f"one generator {kind} {name}", kind, one=True, seeds=[5, 6, 7], scheduler=name, strength=strength
                )
                for name in ("DDIMScheduler", "EulerAncestralDiscreteScheduler")
            ],
        ]
    sizes = {"original_size": (32, 96), "target_size": (64, 80), "crops_coords_top_left": (8, 16)}
    unwanted = {"negative_original_size": (16, 16), "negative_target_size": (64, 64)}
    return [
        *found,
        _case("image, its own strength", "image", steps=10),
        _case("inpaint, its own strength", "inpaint"),
        _case("rescale control inpaint", "inpaint", rescale=0.6, controls=ONE, strength=0.75),
        _case("sizes", arguments=sizes),
        _case("sizes, unwanted ones", arguments=sizes | unwanted),
        _case("sizes, control", arguments=sizes, controls=ONE),
        _case("sizes, image", "image", arguments=sizes | unwanted, strength=0.75),
        _case("sizes, inpaint", "inpaint", arguments=sizes, strength=0.75),
        _case("the first part", arguments={"denoising_end": 0.6}, steps=5),
        _case("the last part", "image", arguments={"denoising_start": 0.4}, steps=5),
        _case("score", "image", model="xl-score", strength=0.75),
        _case("score, another", "image", model="xl-score", strength=0.75, arguments={"aesthetic_score": 2.0}),
        _case("score, inpaint", "inpaint", model="xl-score", strength=0.75),
        _case("eta", arguments={"eta": 0.7}, scheduler="DDIMScheduler"),
        _case("latents", latents=3),
        _case("negative", negative="a green tree"),
        _case("empty negative", negative=""),
        _case("empty prompt", prompt=""),
        _case("long prompt", prompt=f"{common.PROMPT} " * 30),
        _case("absent and not zeros", model="xl-read"),
        _case("absent and not zeros, empty", model="xl-read", negative=""),
        _case("clip skip 2", clip_skip=2),
        _case("second prompt", prompt_2="a house"),
        _case("second prompts", prompt_2="a house", negative="green", negative_prompt_2="blue"),
        _case("two prompts", prompt=[common.PROMPT, "a green tree"], seeds=[1, 2]),
        _case("other sides", size=(96, 64)),
        _case("odd levels", size=(72, 88)),
        _case("trailing", spacing="trailing", scheduler="DDIMScheduler"),
        _case("moments", model="xl-moments"),
        _case("moments, image", "image", model="xl-moments", strength=0.75),
        _case("moments, inpaint", "inpaint", model="xl-moments", strength=0.75),
        _case("LoRAs, other order", loras=[("xl-words", -0.4), ("xl-noise", 0.7)]),
        _case("LoRA in kohya's names", loras=[("xl-kohya", 0.9)]),
        _case("LoRA, words of both", loras=[("xl-words", 1.3)], negative="green"),
        _case("control of another size", controls=ONE, control_sizes=[(48, 80)], size=(64, 64)),
        _case("all at once", "image", loras=[("xl-noise", 0.5)], controls=TWO, seeds=[8, 9], strength=0.6),
    ]
