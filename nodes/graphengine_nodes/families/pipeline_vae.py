"""The VAE that a pipeline gets: without weights where it only reads the configuration, and handing out the posteriors
of pictures that were encoded before.

A picture all of whose numbers are NaN stands for such a picture, so that a pipeline draws from the posterior where it
would encode, and scales by its own formula: no family needs a pipeline of its own for image to image.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.family import signed
from graphengine_nodes.values.types import Latent, Posterior

if TYPE_CHECKING:
    import torch


class PipelineVAE:
    """Makes the VAE for one call of a pipeline.

    Args:
        cls: The VAE's class.
        config: Its configuration.
        device, dtype: What the pipeline is to believe of it.
        real: The VAE with its weights, which encodes all other pictures; None where the pipeline encodes none.
        statistics: Modules of `real` whose weights the pipeline reads.
        seed: Where the pipeline draws from the real VAE's posteriors with torch's global generator: what a generator of
            their own begins at in its place, so that nothing else that draws in the process changes the picture.
    """

    def __init__(
        self,
        cls: type,
        config: Mapping[str, Any],
        device: str,
        dtype: torch.dtype,
        real: Any = None,
        statistics: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        self.cls, self.config, self.device, self.dtype = cls, config, device, dtype
        self.real, self.statistics, self.seed = real, statistics or {}, seed

    def made(self, start: Posterior | Latent | None = None, exact: Mapping[str, Any] | None = None) -> Any:
        """The module, which hands out `start` in place of pictures of NaN.

        Args:
            exact: Entries of the configuration in place of its own if `start` is a latent, which is in the denoiser's
                scale already: with them the pipeline's scaling changes no bit.
        """
        config = {**self.config, **(exact or {})} if isinstance(start, Latent) else self.config
        module = copy.copy(_shell(self.cls, json.dumps(config, sort_keys=True, default=list)))
        state = vars(module)
        state["_pipeline_device"], state["_pipeline_dtype"] = self.device, self.dtype
        state["encode"] = _Encoder(start, self.real, self.device, self.seed)
        state["_modules"] = {**state["_modules"], **self.statistics}
        return module


class _Encoder:
    """The VAE's `encode`: the stored posteriors in turn for pictures of NaN, the real VAE for all others."""

    def __init__(self, start: Posterior | Latent | None, real: Any, device: str, seed: int | None = None) -> None:
        self.start, self.real, self.device, self.given = start, real, device, 0
        self.seed = seed
        self.generator: Any = None

    def __call__(self, pictures: torch.Tensor, return_dict: bool = True) -> Any:
        import torch

        if self.start is None or not bool(torch.isnan(pictures).all()):
            if self.real is None:
                raise RuntimeError("this pipeline was not expected to encode a picture, and has no weights to do so")
            encoded = self.real.encode(pictures)
            if self.seed is not None:
                self._draw_by_seed(encoded.latent_dist, self.seed, pictures.device)
            return encoded if return_dict else (encoded.latent_dist,)
        held = self.start.samples if isinstance(self.start, Latent) else self.start.mean
        rows = [(self.given + index) % len(held) for index in range(len(pictures))]
        self.given += len(pictures)
        if isinstance(self.start, Latent):
            found: Any = _Exact(_rows(held, rows).to(pictures))
        else:
            from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

            moments = torch.cat([_rows(held, rows), _rows(self.start.logvar, rows)], dim=1)
            found = DiagonalGaussianDistribution(moments.to(self.device))
        return SimpleNamespace(latent_dist=found) if return_dict else (found,)

    def _draw_by_seed(self, distribution: Any, seed: int, device: Any) -> None:
        """Make a posterior draw from a generator of ours where it is given none."""
        import torch

        if self.generator is None:
            self.generator = torch.Generator(device).manual_seed(signed(seed))
        draw, own = distribution.sample, self.generator
        distribution.sample = lambda generator=None: draw(own if generator is None else generator)


def _rows(batch: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Rows of a batch; `cat` keeps the memory layout, on which a convolution's last bits depend."""
    import torch

    return torch.cat([batch[row : row + 1] for row in rows])


class _Exact:
    """A distribution that is one value: nothing is drawn from it."""

    def __init__(self, samples: torch.Tensor) -> None:
        self.samples = samples

    def sample(self, generator: Any = None) -> torch.Tensor:
        return self.samples

    def mode(self) -> torch.Tensor:
        return self.samples


@functools.lru_cache(maxsize=32)
def _shell(kind: type, config: str) -> Any:
    """A VAE without weights: what pipelines read of it is computed by its class from the configuration."""
    import torch

    cls = _class_over(kind)
    with torch.device("meta"):
        made = cls.from_config(json.loads(config))
    made.eval().requires_grad_(False)
    state = vars(made)
    state["_modules"], state["_parameters"], state["_buffers"] = {}, {}, {}
    return made


@functools.cache
def _class_over(cls: type) -> Any:
    def device(self: Any) -> Any:
        import torch

        return torch.device(vars(self).get("_pipeline_device", "meta"))

    def dtype(self: Any) -> Any:
        import torch

        return vars(self).get("_pipeline_dtype", torch.float32)

    return type(cls.__name__, (cls,), {"device": property(device), "dtype": property(dtype), "__module__": __name__})


def private(module: Any) -> Any:
    """Clone a module's structure over the very same parameters and buffers, for one call: of a VAE that keeps state in
    its modules while it works, or of a ControlNet to which a pipeline adds modules."""
    made: dict[int, Any] = {}

    def clone(one: Any) -> Any:
        if id(one) not in made:
            made[id(one)] = twin = object.__new__(type(one))
            vars(twin).update(vars(one))
            parts = vars(one)["_modules"].items()
            vars(twin)["_modules"] = {name: None if part is None else clone(part) for name, part in parts}
        return made[id(one)]

    return clone(module)
