"""The documented API of multigen over graphengine: every Pipe class is a thin prebuilt graph."""

from multigen.hints import hints
from multigen.loader import Loader
from multigen.pipes import (
    CIm2ImPipe,
    CInpaintingPipe,
    Cond2ImPipe,
    Im2ImPipe,
    InpaintingPipe,
    MaskedIm2ImPipe,
    ModelType,
    Prompt2ImPipe,
    add_scheduler,
    get_diffusion_scheduler_names,
)
from multigen.prompting import Cfgen
from multigen.sessions import GenSession

__all__ = [
    "CIm2ImPipe",
    "CInpaintingPipe",
    "Cfgen",
    "Cond2ImPipe",
    "GenSession",
    "Im2ImPipe",
    "InpaintingPipe",
    "Loader",
    "MaskedIm2ImPipe",
    "ModelType",
    "Prompt2ImPipe",
    "add_scheduler",
    "get_diffusion_scheduler_names",
    "hints",
]
