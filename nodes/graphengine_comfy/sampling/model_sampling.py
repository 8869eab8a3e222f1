"""Noise levels of a model: its sigmas, the timesteps it was trained at, what it predicts.

A sigma is the standard deviation of the noise beside a picture of scale 1: a noisy latent is `latent + sigma * noise`
for models that predict noise or velocity (Karras et al. 2022, variance exploding), and `(1 - sigma) * latent + sigma *
noise`
for flow matching. Both kinds have the same methods, so tables of sigmas and samplers do not ask which one they have.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import torch

Prediction = Literal["epsilon", "v_prediction", "sample"]

LEAST_SIGNAL = 4.8973451890853435e-08
"""What is left of the picture (alpha bar) at the last timestep of a model with zero terminal SNR, where 0 would make
the sigma infinite; it gives the largest sigma that ComfyUI has, 4518.6."""


@dataclass(frozen=True)
class DiscreteSampling:
    """Noise levels of a model that was trained at whole timesteps: SD 1.x, SD 2.x, SDXL.

    The defaults are those of SD 1.x and SDXL.

    Attributes:
        prediction: What the model predicts: `epsilon` (the noise), `v_prediction` or `sample` (the picture).
        beta_start: Variance that the first training step adds.
        beta_end: Variance that the last training step adds.
        beta_schedule: `scaled_linear`, whose square roots are evenly spread, or `linear`.
        count: Number of training timesteps.
        zero_snr: Whether betas are rescaled so that nothing of the picture is left at the last one (Lin et al. 2023).
    """

    prediction: Prediction = "epsilon"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    count: int = 1000
    zero_snr: bool = False

    flow = False

    @functools.cached_property
    def sigmas(self) -> torch.Tensor:
        """The sigma of each training timestep, rising: float32 of shape `(count,)`."""
        import torch

        if self.beta_schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.count, dtype=torch.float64)
        else:
            betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.count, dtype=torch.float64) ** 2
        signal = torch.cumprod(1 - betas, dim=0)
        if self.zero_snr:
            root = signal.sqrt()
            signal = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
            signal[-1] = LEAST_SIGNAL
        return ((1 - signal) / signal).sqrt().float()

    @property
    def sigma_min(self) -> float:
        """The least sigma that the model knows."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The largest sigma that the model knows."""
        return float(self.sigmas[-1])

    def position(self, sigma: float) -> float:
        """The training timestep whose sigma is nearest, by the logarithm: a whole number."""
        return float((self.sigmas.log() - math.log(sigma)).abs().argmin())

    def sigma(self, position: torch.Tensor) -> torch.Tensor:
        """Sigmas at timesteps that need not be whole: the logarithm is interpolated."""
        import torch

        at = position.float().clamp(0, self.count - 1)
        low, share, logs = at.floor().long(), at.frac(), self.sigmas.log()
        return torch.exp((1 - share) * logs[low] + share * logs[at.ceil().long()])

    def timestep(self, sigma: float) -> float:
        """The timestep that the model is given at a sigma; at 0 the first one."""
        return self.position(max(sigma, self.sigma_min))

    def sigma_at_percent(self, percent: float) -> float:
        """The sigma at a share of the whole denoising, 0 to 1, by which nodes limit a ControlNet or conditioning.

        At 0 and below it is infinite (everything lies behind the start), at 1 and above 0.
        """
        import torch

        if percent <= 0:
            return math.inf
        return 0.0 if percent >= 1 else float(self.sigma(torch.tensor((1 - percent) * (self.count - 1))))

    def model_input(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """A noisy latent as the model takes it: of variance 1."""
        return x / math.sqrt(1 + sigma**2)

    def denoised(self, output: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The picture's latent that the model's output means."""
        if self.prediction == "epsilon":
            return x - sigma * output
        if self.prediction == "v_prediction":
            return x / (1 + sigma**2) - output * sigma / math.sqrt(1 + sigma**2)
        return output

    def noisy(self, latent: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """A latent with noise of a sigma."""
        return latent + sigma * noise

    def begin(self, latent: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """What sampling begins at: as `noisy`, but from the model's largest sigma on noise of variance 1 + sigma**2."""
        return latent + noise * self.begin_scale(sigma)

    def begin_scale(self, sigma: float) -> float:
        """The standard deviation of what sampling begins at, over an empty latent."""
        whole = sigma > self.sigma_max or math.isclose(sigma, self.sigma_max, rel_tol=1e-5)
        return math.sqrt(1 + sigma**2) if whole else sigma

    def end(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The latent that sampling hands on when its last sigma is not 0: with its noise, as it is."""
        return x


@dataclass(frozen=True)
class FlowSampling:
    """Noise levels of a flow-matching model: FLUX, SD3, Qwen-Image, Z-Image, AuraFlow, Wan.

    A sigma is the share of noise, 0 to 1, and shifted: `shift * t / (1 + (shift - 1) * t)` (Esser et al. 2024).

    Attributes:
        shift: The ratio by which it is shifted; 1 is not at all. FLUX's own number is its logarithm: see `flux`.
        count: Number of sigmas in the model's table, from which some schedulers pick.
    """

    shift: float = 1.0
    count: int = 1000

    flow = True
    prediction = "flow_prediction"

    @classmethod
    def flux(cls, mu: float = 1.15) -> FlowSampling:
        """Of FLUX and models like it, whose shift is given as its logarithm and whose table is longer."""
        return cls(math.exp(mu), 10000)

    @functools.cached_property
    def sigmas(self) -> torch.Tensor:
        """The model's table of sigmas, rising: float32 of shape `(count,)`."""
        import torch

        return self.sigma(torch.arange(1, self.count + 1, dtype=torch.float64) / self.count).float()

    @property
    def sigma_min(self) -> float:
        """The least sigma of the table."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The largest sigma, 1."""
        return float(self.sigmas[-1])

    def position(self, sigma: float) -> float:
        """The position of a sigma, 0 to 1: itself, so that `sigma` shifts it once more, as in ComfyUI."""
        return sigma

    def sigma(self, position: torch.Tensor) -> torch.Tensor:
        """Sigmas at positions from 0 to 1."""
        return self.shift * position / (1 + (self.shift - 1) * position)

    def timestep(self, sigma: float) -> float:
        """The timestep that diffusers' pipelines are given at a sigma: 1000 times as much."""
        return 1000 * sigma

    def sigma_at_percent(self, percent: float) -> float:
        """The sigma at a share of the whole denoising, 0 to 1: 1 at the start and 0 at the end."""
        import torch

        return float(self.sigma(torch.tensor(1 - min(max(percent, 0.0), 1.0), dtype=torch.float64)))

    def model_input(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """A noisy latent as the model takes it: as it is."""
        return x

    def denoised(self, output: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The picture's latent that the model's output, a velocity from picture to noise, means."""
        return x - sigma * output

    def noisy(self, latent: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """A latent with noise of a sigma."""
        return (1 - sigma) * latent + sigma * noise

    def begin(self, latent: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """What sampling begins at."""
        return self.noisy(latent, noise, sigma)

    def begin_scale(self, sigma: float) -> float:
        """The standard deviation of what sampling begins at, over an empty latent."""
        return sigma

    def end(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The latent that sampling hands on when its last sigma is not 0: of the picture's own scale."""
        return x / (1 - sigma)


ModelSampling = DiscreteSampling | FlowSampling
"""Noise levels of a model, of either kind."""


def of_scheduler(config: Mapping[str, Any], shift: float | None = None) -> ModelSampling:
    """Noise levels that a model's scheduler configuration in diffusers' form describes.

    Args:
        config: Of `scheduler_config.json`, with `_class_name`.
        shift: In place of a flow model's own shift. ComfyUI has a fixed one for each family (see `FAMILY_SHIFTS`),
            where the configuration may say that it depends on the picture's size.

    Raises:
        ValueError: The configuration describes what ComfyUI's names have no meaning for.
    """
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction":
        return FlowSampling(float(shift or config.get("shift") or 1.0))
    if config.get("trained_betas") is not None:
        raise ValueError("the model's scheduler lists its own betas; samplers of ComfyUI need linear or scaled_linear")
    schedule, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type") or "epsilon"
    if schedule not in ("scaled_linear", "linear"):
        raise ValueError(f"samplers of ComfyUI need linear or scaled_linear betas; the model's are {schedule!r}")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"the model predicts {prediction!r}; ComfyUI's samplers know epsilon, v_prediction and sample")
    return DiscreteSampling(
        cast(Prediction, prediction),
        float(config.get("beta_start", 0.0001)),
        float(config.get("beta_end", 0.02)),
        schedule,
        int(config.get("num_train_timesteps", 1000)),
        bool(config.get("rescale_betas_zero_snr", False)),
    )


FAMILY_SHIFTS: Mapping[str, FlowSampling] = {
    "flux_dev": FlowSampling.flux(1.15),
    "flux_schnell": FlowSampling(1.0),
    "flux2": FlowSampling.flux(2.02),
    "chroma": FlowSampling.flux(1.15),
    "qwen_image": FlowSampling.flux(1.15),
    "qwen_image_21": FlowSampling.flux(0.69),
    "stable_diffusion_3": FlowSampling(3.0),
    "auraflow": FlowSampling(1.73),
    "z_image": FlowSampling(3.0),
    "wan": FlowSampling(8.0),
}
"""Noise levels that ComfyUI gives the flow-matching families when no node of a workflow changes them. FLUX dev, SD3 and
AuraFlow are checked by ComfyUI's own numbers; the others are as its configurations state them."""


def shifted(sampling: ModelSampling, shift: float) -> FlowSampling:
    """The same flow model with another shift, as the nodes ModelSamplingSD3 and ModelSamplingAuraFlow set it.

    Raises:
        ValueError: The model does not denoise by flow matching, or the shift is not above 0.
    """
    if not isinstance(sampling, FlowSampling):
        raise ValueError("a shift is for flow-matching models (SD3, FLUX, Z-Image, ...); this model predicts noise")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"a shift is a number above 0, not {shift:g}")
    return replace(sampling, shift=float(shift), count=1000)


def flux_mu(width: int, height: int, max_shift: float = 1.15, base_shift: float = 0.5) -> float:
    """FLUX's shift for a picture's size, as the node ModelSamplingFlux sets it: linear in the number of image tokens.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        max_shift: At 4096 tokens, 1024 x 1024 pixels.
        base_shift: At 256 tokens, 256 x 256 pixels.

    Returns:
        The logarithm of the shift, for `FlowSampling.flux`.
    """
    tokens = width * height / 256
    return base_shift + (max_shift - base_shift) * (tokens - 256) / (4096 - 256)
