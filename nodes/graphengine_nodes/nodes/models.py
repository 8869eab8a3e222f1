"""Models: nodes that make references to weights. They read configurations and headers only, and import no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from graphengine import Choices, Doc, File, ModelError, node
from graphengine_nodes.nodes.model_files import (
    Opened,
    check_components,
    check_pair,
    check_scale,
    components_in,
    noted,
    opened,
    present,
    settings_of,
    training,
)
from graphengine_nodes.nodes.part_files import controlnet_folder, controlnet_in
from graphengine_nodes.values.types import ControlNet, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.training import (
    PREDICTIONS,
)

PRECISIONS = ("float32", "float16", "bfloat16")

EMBEDDED_NAMES = tuple(name for name, _ in files.EMBEDDED.values())

Precision = Annotated[
    str | None,
    Choices(*PRECISIONS),
    Doc("Type of the numbers to compute with; default: float32 on a CPU, float16 on a GPU."),
]
Revision = Annotated[str | None, Doc("Branch, tag or commit of a hub id; default: the main branch.")]
Variant = Annotated[str | None, Doc("Variant of a folder's weight files, such as fp16; default: the plain ones.")]
Predicts = Annotated[
    str | None,
    Choices(*PREDICTIONS),
    Doc("What the denoiser was trained to predict; default: as its files say."),
]
ZeroSnr = Annotated[
    bool | None,
    Doc("Whether the denoiser was trained with zero terminal SNR; default: as its files say."),
]


@node(version=1)
def load_model(
    source: Annotated[
        str | Path,
        File("weights", names=True, known=EMBEDDED_NAMES),
        Doc("`tiny`, a folder in diffusers layout, a .safetensors file, or a hub id."),
    ],
    config: Annotated[
        str | Path | None,
        File("folder", names=True),
        Doc("For a single file: a diffusers folder with configurations, tokenizers and what the file lacks."),
    ] = None,
    precision: Precision = None,
    revision: Revision = None,
    variant: Variant = None,
    prediction_type: Predicts = None,
    zero_snr: ZeroSnr = None,
    tokenizer: Annotated[
        str | Path | None,
        File("folder", names=True),
        Doc("For a single file: a folder with its tokenizer, or a model's folder with its tokenizers."),
    ] = None,
) -> Model:
    """Make a reference to a model; its weights are read when a node computes with them.

    The configurations of a single file come from `config`, else from the folder named as the file without its suffix,
    else from the folder that the file is in. Components that the file lacks (a FLUX file often holds the denoiser
    alone) are read from there too. Without such a folder, configurations follow from the names and shapes in the file's
    header; CLIP's tokenizer is that of the package `clip-anytorch`, T5's must be given by `tokenizer`.

    A file with one denoiser of two (Wan 2.2) is no whole model: see `load_denoiser` and `pair_denoisers`.

    Every tensor of a single file is accounted for before any is read: one that is known to nothing is an error.

    A denoiser's file says by tensors named `v_pred` and `ztsnr`, by the end of `alphas_cumprod`, or in its header by
    `modelspec.prediction_type` or kohya's `ss_v_parameterization` and `ss_zero_terminal_snr`, that it was trained to
    predict velocity, and down to no signal; without these the scheduler's configuration decides.

    In ComfyUI: `CheckpointLoaderSimple`, `DiffusersLoader`.

    Raises:
        ModelError: There is no such model, its family is unknown, or its files are incomplete, cut short or pickles; a
            tensor of a single file is unknown, or a component that it lacks is nowhere.
    """
    found = opened(source, config, revision, variant, tokenizer)
    return _model(found, variant, precision, training(found, prediction_type, zero_snr, variant))


def _model(found: Opened, variant: str | None, precision: str | None, trained: Mapping[str, Any]) -> Model:
    """The reference; notes where each component lies."""
    check_pair(found)
    names = present(found)
    if found.derived:
        check_components(found, names)  # of what is missing there is no configuration either
    settings = settings_of(found) | dict(trained)
    check_scale(found)
    components = components_in(found, names, variant)
    return Model(found.kind.name, components, tuple(sorted(settings.items())), precision, source=found.source)


@node(version=1)
def load_controlnet(
    source: Annotated[
        str | Path,
        File("weights", names=True, known=EMBEDDED_NAMES),
        Doc("`tiny-canny`, a folder in diffusers layout, a .safetensors file, or a hub id."),
    ],
    precision: Precision = None,
    config: Annotated[
        str | Path | None,
        File("folder", names=True),
        Doc("For a single file: the folder with its config.json; default: beside it, else by its header."),
    ] = None,
) -> ControlNet:
    """Make a reference to a ControlNet; its weights are read when a node computes with them.

    In ComfyUI: `ControlNetLoader`, `DiffControlNetLoader`.

    Raises:
        ModelError: There is no such ControlNet, or its files are incomplete, cut short or pickles.
    """
    path = files.find(source, "ControlNet")
    if path.is_dir():
        if config is not None:
            raise ModelError(f"{path} is a folder with its own configuration; leave config out")
        kind, location, described = controlnet_folder(path)
    else:
        kind, location, described = controlnet_in(path, config)
    digest = noted(kind, "controlnet", location)
    return ControlNet(kind.name, digest, precision, files.name_of(source), kind.modes_of(described))
