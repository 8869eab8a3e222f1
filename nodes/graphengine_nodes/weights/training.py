"""The training of denoisers, as files of their weights tell it: names of tensors, noise schedules, and texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphengine import ModelError
from graphengine_nodes.weights.headers import Header, HeaderAndMetadata, read_number

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a denoiser may predict: the noise, the velocity between noise and picture, or the picture."""

ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
"""What models predict of which `modelspec.architecture` says it."""

SAID = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
"""How `modelspec.prediction_type` says it."""

NO_SIGNAL = 1e-6
"""The signal at the last step of a schedule without any: some files have 4e-8 in place of 0."""


def check_noise(header: Header, path: Path) -> None:
    """Refuse a denoiser that was trained with noise levels which no scheduler here has.

    Raises:
        ModelError: It was.
    """
    if marker := next((name for name in header if name.startswith("edm_")), None):
        raise ModelError(f"{path} was trained with the noise levels of EDM ({marker}), which no scheduler here has")


def prediction_in(headers: HeaderAndMetadata, path: Path) -> str | None:
    """What a denoiser predicts by its file; None where the file says nothing.

    Raises:
        ModelError: It says what is not known, or two things.
    """
    header, metadata = headers
    found: dict[str, str] = {}
    if "v_pred" in header:
        found["the tensor v_pred"] = "v_prediction"
    if said := metadata.get("modelspec.prediction_type"):
        known = SAID.get(said.strip().lower())
        if known is None:
            raise ModelError(
                f"{path} says modelspec.prediction_type {said!r:.60}: give prediction_type, one of "
                f"{', '.join(PREDICTIONS)}"
            )
        found["modelspec.prediction_type"] = known
    elif known := ARCHITECTURES.get(metadata.get("modelspec.architecture", "")):
        found["modelspec.architecture"] = known
    velocity = _flag(metadata, "ss_v_parameterization")
    if velocity is not None:
        found["ss_v_parameterization"] = "v_prediction" if velocity else "epsilon"
    if len(set(found.values())) > 1:
        told = ", ".join(f"{where} says {what}" for where, what in found.items())
        raise ModelError(f"{path} contradicts itself on what it predicts ({told}): give prediction_type")
    return next(iter(found.values()), None)


def zero_snr_in(headers: HeaderAndMetadata, path: Path) -> bool | None:
    """Whether a denoiser was trained down to no signal by its file; None where the file says nothing.

    Raises:
        ModelError: It cannot be read.
    """
    header, metadata = headers
    if "ztsnr" in header:
        return True
    last = read_number(path, header, "alphas_cumprod", -1) if "alphas_cumprod" in header else None
    if last is not None and last < NO_SIGNAL:
        return True
    return _flag(metadata, "ss_zero_terminal_snr")


def old_words(headers: HeaderAndMetadata) -> set[str]:
    """The settings that were read from files always, whatever the scheduler's configuration says: keys depend on it."""
    header, metadata = headers
    said = "v_pred" in header or "modelspec.prediction_type" in metadata
    said = said or metadata.get("modelspec.architecture", "") in ARCHITECTURES
    return {*(["prediction_type"] if said else ()), *(["zero_snr"] if "ztsnr" in header else ())}


def configured(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings as the configuration of a scheduler has them."""
    return {
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "zero_snr": bool(scheduler.get("rescale_betas_zero_snr", False)),
    }


def _flag(metadata: Mapping[str, str], name: str) -> bool | None:
    """What kohya's trainer wrote of a switch."""
    return {"true": True, "1": True, "false": False, "0": False}.get(str(metadata.get(name, "")).strip().lower())
