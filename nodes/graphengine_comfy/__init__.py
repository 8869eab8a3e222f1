"""ComfyUI's node names, value types and file formats, as a pack over the standard pack.

Importing it imports neither torch nor diffusers; a node does when it runs.
"""

from __future__ import annotations

from graphengine import Pack
from graphengine_comfy.formats import COMFYUI

__pack__ = Pack(name="comfy", distribution="graphengine", formats=(COMFYUI,))
