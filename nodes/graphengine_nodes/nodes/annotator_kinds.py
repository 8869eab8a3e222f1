"""Annotators: networks of controlnet-aux and transformers that draw control pictures, and the files they come from.

The files are pickles; only tensors are read from them. controlnet-aux is imported by the first drawing: that takes
seconds, and warns about other libraries.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError, open_file, warnings_as

if TYPE_CHECKING:
    import PIL.Image
    import torch

    Draw = Callable[[Sequence[Any], PIL.Image.Image, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class AnnotatorNetwork:
    """A network: how it is read, and the names of its files.

    Attributes:
        load: Reads the network from its files, ready to compute on the CPU.
        files: The file names under which the network is published.
    """

    load: Callable[..., Any]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnnotatorKind:
    """A kind of control picture: its networks, and the function that draws it.

    Attributes:
        draw: Takes networks, a picture and a resolution; returns float32 [H, W, 3] in 0..1, of the picture's size.
        networks: Keys of `NETWORKS`.
    """

    draw: Draw
    networks: tuple[str, ...]


# --- reading networks -------------------------------------------------------------------------------------------------


def aux(name: str) -> Any:
    """A module of controlnet-aux."""
    with warnings_as("ignore"):
        return importlib.import_module(f"controlnet_aux.{name}")


def _normal_network() -> Any:
    aux("normalbae.nets.submodules.encoder").print = lambda *args, **kwargs: None  # it prints what it builds
    arguments = types.SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
    with warnings_as("ignore"):  # it imports more of its own code
        return aux("normalbae").NNET(arguments)


def _midas_network() -> Any:
    with warnings_as("ignore"):  # timm has renamed what is inside
        return aux("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")


MAKERS: Mapping[str, Callable[[], Any]] = {
    "hed": lambda: aux("hed").ControlNetHED_Apache2(),
    "pidinet": lambda: aux("pidi.model").pidinet(),
    "lineart": lambda: aux("lineart").Generator(3, 1, 3),
    "lineart-coarse": lambda: aux("lineart").Generator(3, 1, 3),
    "normal": _normal_network,
    "midas": _midas_network,
    "body": lambda: aux("open_pose.body").bodypose_model(),
    "hand": lambda: aux("open_pose.hand").handpose_model(),
    "face": lambda: aux("open_pose.face").FaceNet(),
}
"""Builders of controlnet-aux's networks without weights, as its detectors build them."""


def _load_aux(name: str, file: Path) -> Any:
    """A network of controlnet-aux with the tensors of a file."""
    import torch

    from graphengine_nodes.weights.reading import fill

    with torch.device("meta"):
        network = MAKERS[name]()
    return fill(network, _named(read_pickled(file), network), file).float().eval()


def read_pickled(file: Path) -> dict[str, Any]:
    """Read the tensors of a `.pth` file; nothing else in it is unpickled.

    Raises:
        ModelError: It is damaged, or holds more than tensors.
    """
    import torch

    try:
        with open_file(file) as data:
            found = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{file} is damaged or holds more than tensors, which could run code: it is not read"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{file} is damaged or no file of weights ({error!s:.200}); copy it again") from None
    for inner in ("state_dict", "model"):
        found = found[inner] if isinstance(found, dict) and isinstance(found.get(inner), dict) else found
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no tensors by name; it is of another program")
    return {name: tensor for name, tensor in found.items() if isinstance(name, str)}


def _named(tensors: dict[str, Any], network: Any) -> dict[str, Any]:
    """Tensors by the network's own names: files may say `module.` before them, or leave out the first part."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    known = network.state_dict()
    short = {name.partition(".")[2]: name for name in known}
    return {name if name in known else short.get(name, name): tensor for name, tensor in tensors.items()}


def _load_dpt(weights: Path, config: Path, preprocessor: Path) -> Any:
    """A DPT with its image processor beside it, as `processor`."""
    import torch
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    from graphengine_nodes.weights import files, reading

    facts = files.read_json(config)
    if facts.get("model_type") != "dpt":
        raise ModelError(f"{config} is of a {facts.get('model_type', 'model of no type')}; depth wants a dpt")
    with torch.device("meta"):
        network = DPTForDepthEstimation(DPTConfig.from_dict(facts))
    files.read_header(weights)
    reading.fill(network, reading.read_tensors(weights, torch.float32), weights).eval()
    network.processor = DPTImageProcessor.from_dict(files.read_json(preprocessor))
    return network


# --- drawing ----------------------------------------------------------------------------------------------------------


def _pixels(drawn: PIL.Image.Image, picture: PIL.Image.Image) -> torch.Tensor:
    """Resize a detector's drawing to the picture's size."""
    import PIL.Image

    from graphengine_nodes.nodes.images import from_pil

    return from_pil(drawn.resize(picture.size, PIL.Image.Resampling.LANCZOS)).pixels[0]


def _detect(detector: Any, picture: PIL.Image.Image, resolution: int, **options: bool) -> torch.Tensor:
    """Draw with a detector of controlnet-aux."""
    drawn = detector(picture, detect_resolution=resolution, image_resolution=resolution, **options)
    return _pixels(drawn, picture)


def _hed(networks: Sequence[Any], picture: PIL.Image.Image, resolution: int, **options: bool) -> torch.Tensor:
    return _detect(aux("hed").HEDdetector(*networks), picture, resolution, **options)


def _pidinet(networks: Sequence[Any], picture: PIL.Image.Image, resolution: int, **options: bool) -> torch.Tensor:
    return _detect(aux("pidi").PidiNetDetector(*networks), picture, resolution, **options)


def _lineart(networks: Sequence[Any], picture: PIL.Image.Image, resolution: int) -> torch.Tensor:
    # The detector has a fine and a coarse network; the requested one is put in both places.
    return _detect(aux("lineart").LineartDetector(*networks, *networks), picture, resolution)


def _normal(networks: Sequence[Any], picture: PIL.Image.Image, resolution: int) -> torch.Tensor:
    return _detect(aux("normalbae").NormalBaeDetector(*networks), picture, resolution)


_midas_lock = threading.Lock()
"""A lock: networks of this kind keep the outputs of their layers in one shared place while they compute."""


def _midas(networks: Sequence[Any], picture: PIL.Image.Image, resolution: int) -> torch.Tensor:
    with _midas_lock:
        return _detect(aux("midas").MidasDetector(*networks), picture, resolution)


def _pose(
    networks: Sequence[Any], picture: PIL.Image.Image, resolution: int, hands: bool = False, face: bool = False
) -> torch.Tensor:
    pose, rest = aux("open_pose"), list(networks)
    body = _estimator(pose.Body, rest.pop(0))
    hand = _estimator(pose.Hand, rest.pop(0)) if hands else None
    detector = pose.OpenposeDetector(body, hand, _estimator(pose.Face, rest.pop(0)) if face else None)
    return _detect(detector, picture, resolution, include_hand=hands, include_face=face)


def _estimator(kind: Any, network: Any) -> Any:
    """Wrap a network in one of OpenPose's estimators without its constructor, which would read a file."""
    estimator = kind.__new__(kind)
    estimator.model = network
    return estimator


def _depth(networks: Sequence[Any], picture: PIL.Image.Image, resolution: int) -> torch.Tensor:
    import torch

    (network,) = networks
    inputs = network.processor(images=picture, return_tensors="pt").pixel_values.to(network.device)
    found = network(inputs).predicted_depth[None]
    size = (picture.height, picture.width)
    found = torch.nn.functional.interpolate(found, size=size, mode="bicubic", align_corners=False)[0, 0].cpu()
    found = (found / found.max().clamp(min=1e-6)).clamp(0, 1)
    return found[..., None].repeat(1, 1, 3)


def _aux_network(name: str, file: str) -> AnnotatorNetwork:
    return AnnotatorNetwork(functools.partial(_load_aux, name), (file,))


NETWORKS: Mapping[str, AnnotatorNetwork] = {
    "hed": _aux_network("hed", "ControlNetHED.pth"),
    "pidinet": _aux_network("pidinet", "table5_pidinet.pth"),
    "lineart": _aux_network("lineart", "sk_model.pth"),
    "lineart-coarse": _aux_network("lineart-coarse", "sk_model2.pth"),
    "normal": _aux_network("normal", "scannet.pt"),
    "midas": _aux_network("midas", "dpt_hybrid-midas-501f0c75.pt"),
    "body": _aux_network("body", "body_pose_model.pth"),
    "hand": _aux_network("hand", "hand_pose_model.pth"),
    "face": _aux_network("face", "facenet.pth"),
    "dpt": AnnotatorNetwork(_load_dpt, ("model.safetensors", "config.json", "preprocessor_config.json")),
}

KINDS: Mapping[str, AnnotatorKind] = {
    "hed": AnnotatorKind(_hed, ("hed",)),
    "hed-safe": AnnotatorKind(functools.partial(_hed, safe=True), ("hed",)),
    "scribble": AnnotatorKind(functools.partial(_hed, scribble=True), ("hed",)),
    "pidinet": AnnotatorKind(_pidinet, ("pidinet",)),
    "pidinet-safe": AnnotatorKind(functools.partial(_pidinet, safe=True), ("pidinet",)),
    "lineart": AnnotatorKind(_lineart, ("lineart",)),
    "lineart-coarse": AnnotatorKind(_lineart, ("lineart-coarse",)),
    "normal": AnnotatorKind(_normal, ("normal",)),
    "midas": AnnotatorKind(_midas, ("midas",)),
    "depth": AnnotatorKind(_depth, ("dpt",)),
    "pose": AnnotatorKind(_pose, ("body",)),
    "pose-hands": AnnotatorKind(functools.partial(_pose, hands=True), ("body", "hand")),
    "pose-face": AnnotatorKind(functools.partial(_pose, face=True), ("body", "face")),
    "pose-hands-face": AnnotatorKind(functools.partial(_pose, hands=True, face=True), ("body", "hand", "face")),
}
