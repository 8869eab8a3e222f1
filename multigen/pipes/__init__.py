"""The Pipe classes: each holds a prebuilt graph and its parameters."""

from multigen.pipes.control import CIm2ImPipe, CInpaintingPipe, Cond2ImPipe
from multigen.pipes.image import Im2ImPipe
from multigen.pipes.kinds import ModelType, add_scheduler, get_diffusion_scheduler_names
from multigen.pipes.masked import InpaintingPipe, MaskedIm2ImPipe
from multigen.pipes.pictures import Pictures, canny_processor, sobel_processor
from multigen.pipes.text import Prompt2ImPipe

__all__ = [
    "CIm2ImPipe",
    "CInpaintingPipe",
    "Cond2ImPipe",
    "Im2ImPipe",
    "InpaintingPipe",
    "MaskedIm2ImPipe",
    "ModelType",
    "Pictures",
    "Prompt2ImPipe",
    "add_scheduler",
    "canny_processor",
    "get_diffusion_scheduler_names",
    "sobel_processor",
]
