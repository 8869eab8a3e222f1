"""Model parts: two denoisers as one, where a family has one for much and one for little noise (Wan 2.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from graphengine import Doc, ModelError, Range, node
from graphengine_nodes.families.lookup import family
from graphengine_nodes.nodes.parts import config_of
from graphengine_nodes.values.references import LoRA
from graphengine_nodes.values.types import Denoiser, Model


@node(version=1)
def pair_denoisers(
    high: Annotated[Denoiser, Doc("For the steps with much noise; it decides the settings and the scheduler too.")],
    low: Annotated[Denoiser, Doc("For the steps with little noise.")],
    boundary_ratio: Annotated[
        float | None,
        Range(0, 1, 0.005),
        Doc("How much noise is much, as a part of all: high denoises down to it. Default: as in the published model."),
    ] = None,
) -> Denoiser:
    """Make one denoiser of two, which are in files of their own: Wan 2.2 14B's, for `join_model`.

    Raises:
        ModelError: The family's models have one denoiser; the two are of different kinds, precisions or options; one is
            a pair already; both are the same, or their names say the contrary.
    """
    kind = family(high.model.family)
    second, first = kind.lora_names.second, kind.lora_names.parts["denoiser"]
    bodies = high.model, low.model
    if not second:
        raise ModelError(f"{high.source} is of a {kind.name} model, which has one denoiser for all steps")
    for body in bodies:
        if second in dict(body.components):
            raise ModelError(f"{body.source} has two denoisers already; give load_denoiser files with one")
    configs = [config_of(body, first) for body in bodies]
    if low.model.family != kind.name or configs[0] is None or _shape(configs[0]) != _shape(configs[1]):
        raise ModelError(f"{high.source} and {low.source} are of different kinds: a pair is built alike")
    for what in ("precision", "options"):
        if getattr(high.model, what) != getattr(low.model, what):
            raise ModelError(f"{high.source} and {low.source} differ in their {what}; a pair has the same")
    components = dict(high.model.components)
    components[second] = low.model.component(first)
    named = [name for name in kind.parts["denoiser"] if name in components]
    ratio = high.model.setting("boundary_ratio") if boundary_ratio is None else boundary_ratio
    settings = dict(high.model.settings) | kind.paired_settings(configs[0], ratio, high.source)
    if components[second] == components[first] and low.model.loras == high.model.loras:
        raise ModelError(f"high and low are both {high.source}; give the one for much noise and the one for little")
    if _says(high.source, "low") or _says(low.source, "high"):
        raise ModelError(f"high is {high.source} and low is {low.source}: by their names they are to be swapped")
    return Denoiser(
        replace(
            high.model,
            components=tuple((name, components[name]) for name in named),
            settings=tuple(sorted(settings.items())),
            loras=(*_for(high.model, "high"), *_for(low.model, "low")),
        ),
        high.families,
    )


def _says(source: str, noise: str) -> bool:
    """Whether a denoiser's name says that it is for much noise (`high`) or for little (`low`), and nothing else."""
    words = source.lower().replace("\\", "/").rpartition("/")[2].replace("-", "_")
    said = {one for one in ("high", "low") if f"{one}_noise" in words or f"{one}noise" in words}
    return said == {noise}


def _shape(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a configuration says of the network, without where and when it was written."""
    return None if config is None else {name: value for name, value in config.items() if not name.startswith("_")}


def _for(model: Model, noise: str) -> list[tuple[LoRA, float]]:
    return [(replace(lora, noise=noise), scale) for lora, scale in model.loras]
