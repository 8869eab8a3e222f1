"""The Pipe class for text to image: pictures from prompts alone."""

from __future__ import annotations

from typing import Any, ClassVar

import graphengine_nodes as std
from graphengine_nodes.values.types import Latent

from multigen.pipes.base import BasePipe
from multigen.pipes.building import PipeCall

__all__ = ["Prompt2ImPipe"]


class Prompt2ImPipe(BasePipe):
    """A picture from a prompt."""

    _task: ClassVar[str | None] = ""

    def setup(self, width: int = 768, height: int = 768, guidance_scale: float = 7.5, **args: Any) -> None:  # type: ignore[override]
        """Set the parameters: size in pixels, guidance, and those of `BasePipe.setup`."""
        height = args.pop("heigth", height)  # as it is documented
        super().setup(guidance_scale=guidance_scale, **args)
        self.pipe_params |= {"width": width, "height": height}

    def _latent(self, call: PipeCall) -> Latent:
        size = {name: call.given[name] for name in ("width", "height") if call.given.get(name) is not None}
        return std.sample(call.model, call.positive, **size, **call.common)
