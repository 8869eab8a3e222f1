"""Blending for masked image to image, on any image-to-image pipeline of diffusers.

Before every step the original, with fresh noise of that step's level, is blended in outside the mask; after the last
step, without noise. A mask between 0 and 1 mixes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.arguments import repeat
from graphengine_nodes.families.family import Repaint

if TYPE_CHECKING:
    import torch

Layout = Callable[["torch.Tensor"], "torch.Tensor"]


class Blending:
    """Blends the original into the latents of a pipeline that is about to run.

    Args:
        pipeline: It starts from latents; made for one call, and changed here.
        generators: What it draws from.
        count: How many pictures it makes.
        pack, unpack: To the pipeline's own layout of latents from [n, C, h, w], and back.
    """

    def __init__(
        self, pipeline: Any, repaint: Repaint, generators: Any, count: int, pack: Layout, unpack: Layout
    ) -> None:
        self.repaint, self.generators, self.count = repaint, generators, count
        self.pack, self.unpack = pack, unpack
        self.times: Any = ()
        self._pipeline = weakref.ref(pipeline)  # the pipeline refers to this object: a circle would keep weights alive
        # The pipelines call nothing before the first step.
        pipeline.get_timesteps, pipeline.prepare_latents = self.get_timesteps, self.prepare_latents

    @property
    def pipeline(self) -> Any:
        """The pipeline that is running."""
        return self._pipeline()

    def get_timesteps(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the pipeline's method: keep its timesteps."""
        self.times, steps = type(self.pipeline).get_timesteps(self.pipeline, *args, **kwargs)
        return self.times, steps

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the pipeline's method: blend its noised start for the first step."""
        prepared = type(self.pipeline).prepare_latents(self.pipeline, *args, **kwargs)
        if isinstance(prepared, tuple):
            latents, *others = prepared
            return self._blended(latents, self.times[0]), *others
        return self._blended(prepared, self.times[0])

    def after(self, step: int, latents: torch.Tensor) -> torch.Tensor:
        """Blend the latents of a step for the next step, or after the last step for decoding."""
        return self._blended(latents, self.times[step + 1] if step + 1 < self.pipeline.num_timesteps else None)

    def _blended(self, latents: torch.Tensor, time: torch.Tensor | None) -> torch.Tensor:
        import torch

        ours = self.unpack(latents)
        kept, weight = (repeat(batch, self.count).to(ours) for batch in (self.repaint.kept, self.repaint.weight))
        weight = weight[:, :, None] if kept.ndim == 5 else weight  # latents of videos have an axis of frames
        return self.pack(torch.lerp(kept if time is None else self._noised(kept, time), ours, weight))

    def _noised(self, kept: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        scheduler, times = self.pipeline.scheduler, time.repeat(self.count)
        noise = randn_tensor(kept.shape, generator=self.generators, device=kept.device, dtype=kept.dtype)
        found: torch.Tensor
        if hasattr(scheduler, "scale_noise"):  # flow matching
            found = scheduler.scale_noise(kept, times, noise)
        else:
            found = scheduler.add_noise(kept, noise, times)
        return found
