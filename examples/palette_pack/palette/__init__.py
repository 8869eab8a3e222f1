"""Nodes for the colours of pictures."""

from graphengine import Pack

from .colours import Palette, palette_of, recolour

__pack__ = Pack("palette", distribution="graphengine-palette", libraries=("torch",))
__all__ = ["Palette", "palette_of", "recolour"]
