"""Digests of models for keys, and of the weights they need, part by part; the family names the components of a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphengine_nodes.families.lookup import family
from graphengine_nodes.values.references import OPTIONS, SETTINGS, LoRA, Model, check_data, digest_of


def model_needs(model: Model, part: str | None = None) -> frozenset[str]:
    """Digests of the weights that must be in memory to compute with a model, or with one part of it."""
    stems = family(model.family).stems
    return frozenset(model.component(name) for name in model_components(model, part) if stems[name] is not None)


def model_components(model: Model, part: str | None = None) -> list[str]:
    """The names of the components that a model, or one part of it, computes with."""
    held = dict(model.components)  # of a model's part, some are not there
    return [name for inside in _wanted(model, part).values() for name in inside if name in held]


def model_digest(model: Model, part: str | None = None) -> str:
    """The digest of a model, or of one part of it, for keys; see `Model.digest`.

    Raises:
        ValueError: The family's models have no such part.
        NotData: There is an object of this process in it.
    """
    wanted = _wanted(model, part)
    used = {component for inside in wanted.values() for component in inside}
    check_data(model.source, *(digest for name, digest in model.components if name in used))
    embeddings = [[name, one.weights] for name, one in model.embeddings if "text_encoder" in wanted]
    adapters = [[one.weights, scale] for one, scale in model.ip_adapters if "denoiser" in wanted]
    return digest_of(
        {
            "family": model.family,
            "components": {name: digest for name, digest in model.components if name in used},
            # Only the sampler depends on the default number of steps.
            "settings": {n: v for n, v in model.settings if wanted.keys() & set(SETTINGS.get(n, ("denoiser",)))},
            "precision": model.precision,
            "loras": {name: [_of_lora(*applied) for applied in model.loras_of(name)] for name in wanted},
            "hypernetworks": [[h.weights, m] for h, m in model.hypernetworks if "denoiser" in wanted],
            "options": [[o, value] for o, value in model.options if wanted.keys() & set(OPTIONS[o])],
            **({"embeddings": embeddings} if embeddings else {}),  # models without any have their digests of before
            **({"ip_adapters": adapters} if adapters else {}),
        }
    )


def _of_lora(lora: LoRA, scale: float) -> list[Any]:
    # Where changes may be left out, it is told: else the result of such a run would hide an error of another.
    told = ["partial"] if lora.partial else []
    return [lora.weights, scale, *told, *([f"noise {lora.noise}"] if lora.noise else [])]


def _wanted(model: Model, part: str | None) -> dict[str, Sequence[str]]:
    """The components of one part, or of all, and of the parts that these need besides."""
    kind = family(model.family)
    names = sorted(kind.parts) if part is None else sorted(set(part.split("+")))
    for name in names:
        if name not in kind.parts:
            raise ValueError(f"a {model.family} model has no part {name!r}; its parts are {', '.join(kind.parts)}")
    names = sorted({*names, *(needed for name in names for needed in kind.needs.get(name, ()))})
    return {name: kind.parts[name] for name in names}
