"""Model families: each is one module that says how its models load, encode, sample and decode.

Nodes never branch on the family. A new family is a new module in this folder with a `FAMILY` in it; nothing else is
edited. Family modules import no torch at their top: loading a model's reference needs none.

The families of today are records of data (`record`) over one body (`flow`); Stable Diffusion and SDXL have a body of
their own (`unet`). What both share is in `pipelines` (loading, running a pipeline) and `arguments` (what pipelines are
given, VAEs). These have no `FAMILY`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved
from graphengine_nodes.families.family import Family, Sampled, SampleRequest, SamplingOptions
from graphengine_nodes.families.lookup import families, family

__all__ = ["Family", "SampleRequest", "Sampled", "SamplingOptions", "families", "family"]

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine_nodes.families")
