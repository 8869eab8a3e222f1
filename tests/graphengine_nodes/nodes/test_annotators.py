"""Annotators draw what their library draws, also on awkward pictures; their files decide keys and are checked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.nodes.annotator_kinds import KINDS, NETWORKS
from graphengine_nodes.nodes.preprocessors import BY_TYPE
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import annotators as testing_annotators

import graphengine
from graphengine import Graph, ModelError
from tests.graphengine_nodes.cases import awkward


def of_kind(kind: str) -> Any:
    """A parameter that is slow where the networks' files are large."""
    large = sum(testing_annotators.SIZES[network] for network in KINDS[kind].networks) > 50
    return pytest.param(kind, marks=pytest.mark.slow if large else ())


@pytest.fixture(scope="session")
def annotators(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of all networks' files, those of a kind made when they are asked for.

    With this seed, OpenPose sees few people, whose hands take long.
    """
    folder = tmp_path_factory.mktemp("annotators")
    return lambda kind: testing_annotators.annotator(folder, kind, seed=1)


def other() -> PIL.Image.Image:
    return awkward().transpose(PIL.Image.Transpose.ROTATE_180)


# --- every kind -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [of_kind(kind) for kind in KINDS])
def test_kinds_with_networks(kind: str, annotators: Callable[[str], Path]) -> None:
    """Of the same size, the same again, each picture of a batch as it is alone, each network loaded once."""
    annotator = std.load_annotator(kind, annotators(kind))
    store.clear()
    before = store.loads.copy()
    found = std.annotate(images.from_pil(awkward(), other()), annotator, 64)
    assert found.pixels.shape == (2, 45, 67, 3)
    assert found.pixels.dtype == torch.float32
    assert 0 <= found.pixels.min() <= found.pixels.max() <= 1
    assert found.pixels.std() > 0.01, "nothing was drawn, so that nothing would be compared"
    alone = std.annotate(images.from_pil(other()), annotator, 64)
    assert torch.equal(found.pixels[1], alone.pixels[0])
    assert not torch.equal(found.pixels[0], found.pixels[1])
    loads = {key[0]: count for key, count in (store.loads - before).items() if isinstance(key, tuple)}
    assert loads == dict.fromkeys(KINDS[kind].networks, 1)
    assert store.size() > 1_000_000 * sum(testing_annotators.SIZES[n] for n in KINDS[kind].networks) * 0.9 - 1_000_000


@pytest.mark.parametrize(
    ("ctype", "options", "kind"),
    [
        ("pidinet", {}, "pidinet"),
        ("pidinet", {"safe": True}, "pidinet-safe"),
        ("lineart", {}, "lineart"),
        ("lineart", {"coarse": True}, "lineart-coarse"),
        ("depth", {}, "depth"),
        pytest.param("soft", {}, "hed", marks=pytest.mark.slow),
        pytest.param("soft", {"safe": True}, "hed-safe", marks=pytest.mark.slow),
        pytest.param("scribble", {}, "scribble", marks=pytest.mark.slow),
        pytest.param("normal", {}, "normal", marks=pytest.mark.slow),
        pytest.param("pose", {}, "pose", marks=pytest.mark.slow),
        pytest.param("pose", {"hands": True}, "pose-hands", marks=pytest.mark.slow),
        pytest.param("pose", {"face": True}, "pose-face", marks=pytest.mark.slow),
        pytest.param("pose", {"hands": True, "face": True}, "pose-hands-face", marks=pytest.mark.slow),
    ],
)
def test_the_nodes_by_their_types(
    ctype: str, options: dict[str, Any], kind: str, annotators: Callable[[str], Path]
) -> None:
    """In a graph, each is its annotator; pose loads no more than it was asked for."""
    folder, picture = annotators(kind), images.from_pil(awkward())
    if ctype != "depth":
        options = options | {"resolution": 64}
    with Graph() as g:
        g.output("image", BY_TYPE[ctype](picture, source=folder, **options))
    expected = std.annotate(picture, std.load_annotator(kind, folder), options.get("resolution", 512))
    store.clear()
    before = store.loads.copy()
    assert torch.equal(g().pixels, expected.pixels)
    assert {key[0] for key in store.loads - before if isinstance(key, tuple)} == set(KINDS[kind].networks)


# --- the library as the oracle ----------------------------------------------------------------------------------------


def detector(kind: str, folder: Path) -> Callable[..., PIL.Image.Image]:
    """controlnet-aux's own detector, from its own reading of the files."""
    import controlnet_aux as aux

    found: Callable[..., PIL.Image.Image]
    if kind.startswith("pose"):
        from controlnet_aux import open_pose

        files = {name: str(folder / NETWORKS[name].files[0]) for name in KINDS[kind].networks}
        found = open_pose.OpenposeDetector(
            open_pose.Body(files["body"]),
            open_pose.Hand(files["hand"]) if "hand" in files else None,
            open_pose.Face(files["face"]) if "face" in files else None,
        )
    elif kind.startswith("lineart"):
        fine = NETWORKS[kind].files[0]  # only the one that is asked for is there
        found = aux.LineartDetector.from_pretrained(folder, filename=fine, coarse_filename=fine)
    else:
        known = {"pidinet": aux.PidiNetDetector, "normal": aux.NormalBaeDetector, "midas": aux.MidasDetector}
        found = known.get(kind.removesuffix("-safe"), aux.HEDdetector).from_pretrained(folder)
    return found


OPTIONS: dict[str, dict[str, bool]] = {
    "hed-safe": {"safe": True},
    "pidinet-safe": {"safe": True},
    "scribble": {"scribble": True},
    "lineart-coarse": {"coarse": True},
    "pose-hands": {"include_hand": True},
    "pose-face": {"include_face": True},
    "pose-hands-face": {"include_hand": True, "include_face": True},
}


@pytest.mark.parametrize("kind", [of_kind(kind) for kind in KINDS if kind != "depth"])
def test_equals_the_librarys_detector(kind: str, annotators: Callable[[str], Path]) -> None:
    folder = annotators(kind)
    side = 64 if kind.startswith("pose") else 128
    drawn = detector(kind, folder)(awkward(), detect_resolution=side, image_resolution=side, **OPTIONS.get(kind, {}))
    assert min(drawn.size) == side
    expected = np.asarray(drawn.resize((67, 45), PIL.Image.Resampling.LANCZOS).convert("RGB"))
    found = std.annotate(images.from_pil(awkward()), std.load_annotator(kind, folder), side)
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.slow
def test_the_default_resolution_is_the_librarys(annotators: Callable[[str], Path]) -> None:
    folder = annotators("pidinet")
    expected = detector("pidinet", folder)(awkward()).resize((67, 45), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(std.pidinet(images.from_pil(awkward()), folder)), np.asarray(expected))


def test_depth_equals_transformers_own(annotators: Callable[[str], Path]) -> None:
    from transformers import DPTForDepthEstimation, DPTImageProcessor

    folder = annotators("depth")
    network = DPTForDepthEstimation.from_pretrained(folder)
    inputs = DPTImageProcessor.from_pretrained(folder)(images=awkward(), return_tensors="pt")
    with torch.no_grad():
        depth = network(**inputs).predicted_depth
    depth = torch.nn.functional.interpolate(depth[None], size=(45, 67), mode="bicubic", align_corners=False)[0, 0]
    expected = (depth / depth.max()).clamp(0, 1)
    found = std.depth(images.from_pil(awkward()), folder).pixels[0]
    assert torch.equal(found, expected[..., None].repeat(1, 1, 3))
    assert expected.std() > 0.05


@pytest.mark.slow
def test_midas_at_the_same_time_in_threads(annotators: Callable[[str], Path]) -> None:
    """Its layers leave what they gave in one place for all."""
    annotator = std.load_annotator("midas", annotators("midas"))
    pictures = [images.from_pil(picture) for picture in (awkward(), other())]
    expected = [std.annotate(picture, annotator, 64).pixels for picture in pictures]
    found: dict[int, torch.Tensor] = {}

    def run(index: int) -> None:
        found[index] = std.annotate(pictures[index % 2], annotator, 64).pixels

    threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index % 2]) for index in range(6))


# --- files ------------------------------------------------------------------------------------------------------------


def test_another_file_in_the_same_place_is_another_network(tmp_path: Path) -> None:
    """What is remembered is remembered of the file's content, in a workflow file beside it too."""
    testing_annotators.annotator(tmp_path / "networks", "pidinet")
    images.from_pil(awkward()).save(tmp_path / "photo.png")
    (tmp_path / "edges.yaml").write_text(
        "version: 1\n"
        "nodes:\n"
        "  photo: {node: load_image, with: {path: photo.png}}\n"
        "  edges: {node: pidinet, from: {image: photo}, with: {source: ./networks, resolution: 64}}\n"
        "outputs: {edges: edges}\n"
    )
    before = graphengine.load(tmp_path / "edges.yaml")()
    (tmp_path / "networks" / "table5_pidinet.pth").unlink()
    testing_annotators.annotator(tmp_path / "networks", "pidinet", seed=1)
    after = graphengine.load(tmp_path / "edges.yaml")()
    assert before.size == after.size == (67, 45)
    assert not torch.equal(before.pixels, after.pixels)


def test_a_repository_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the file that is wanted is looked for, and no network is used for what lies there."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--lllyasviel--Annotators", "0" * 40
    folder = testing_annotators.annotator(repository / "snapshots" / commit, "pidinet")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    picture = images.from_pil(awkward())
    assert torch.equal(std.pidinet(picture, resolution=64).pixels, std.pidinet(picture, folder, resolution=64).pixels)
    assert std.load_annotator("pidinet", "lllyasviel/Annotators").source == "lllyasviel/Annotators"


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    picture = images.from_pil(awkward())
    with pytest.raises(ModelError, match=r"scribble wants the file ControlNetHED\.pth in .*here, which does not hold"):
        std.scribble(picture, tmp_path / "here")
    for name in ("body_pose_model.pth", "hand_pose_model.pth"):
        (tmp_path / "here" / name).touch()
    with pytest.raises(ModelError, match=r"wants the file facenet\.pth in .*here"):
        std.pose(picture, tmp_path / "here", hands=True, face=True)
    assert [name for name, _ in std.load_annotator("pose", tmp_path / "here").files] == ["body_pose_model.pth"]
    with pytest.raises(ModelError, match=r"wants the file model\.safetensors in .*here"):
        std.depth(picture, tmp_path / "here")
    with pytest.raises(ModelError, match=r"no folder .*nowhere, give one or a hub id"):
        std.hed(picture, tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"scannet\.pt: lllyasviel/Annotators .* without a network give a folder that"):
        std.normal(picture)


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_files_that_are_not_what_they_should_be(tmp_path: Path, annotators: Callable[[str], Path]) -> None:
    picture, file = images.from_pil(awkward()), tmp_path / "table5_pidinet.pth"

    def refused(match: str) -> None:
        with pytest.raises(ModelError, match=match):
            std.pidinet(picture, tmp_path, resolution=64)

    torch.save({"state_dict": Payload(tmp_path / "ran")}, file)
    refused(r"table5_pidinet\.pth is damaged or holds more than tensors, which could run code: it is not read")
    assert not (tmp_path / "ran").exists()
    whole = (annotators("pidinet") / file.name).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(r"table5_pidinet\.pth is damaged")
    file.write_bytes(b"")
    refused(r"table5_pidinet\.pth is damaged")
    torch.save([torch.zeros(1)], file)
    refused("holds no tensors by name")
    file.write_bytes((annotators("lineart") / "sk_model.pth").read_bytes())
    refused(r"tensors are missing, the first is .*; the weights are incomplete or of another model")


def test_pictures_that_are_too_long(annotators: Callable[[str], Path]) -> None:
    annotator = std.load_annotator("depth", annotators("depth"))
    assert std.annotate(std.Image(torch.zeros(1, 1, 1, 3)), annotator).size == (1, 1)
    with pytest.raises(ValueError, match="a picture of 340 x 20 is too long for a network; crop it to 16 to 1 or less"):
        std.annotate(std.Image(torch.zeros(1, 20, 340, 3)), annotator)


def test_references_are_written_and_read(annotators: Callable[[str], Path]) -> None:
    from graphengine.values.socket_types import socket_type

    kind = socket_type(std.Annotator)
    assert kind is not None
    assert kind.encode is not None
    assert kind.decode is not None
    annotator = std.load_annotator("lineart", annotators("lineart"))
    assert kind.decode(kind.encode(annotator)) == annotator
    others = [std.load_annotator(k, annotators(k)) for k in ("lineart-coarse", "pidinet", "pidinet-safe")]
    assert len({one.digest() for one in (annotator, *others)}) == 4


# --- imports ----------------------------------------------------------------------------------------------------------


def test_the_library_is_imported_when_it_is_used_and_says_nothing(annotators: Callable[[str], Path]) -> None:
    code = f"""
import sys
import graphengine_nodes as std
assert "torch" not in sys.modules
import torch
picture = std.Image(torch.rand(1, 45, 67, 3))
for preprocess in (std.canny, std.sobel, std.as_is):
    preprocess(picture)
std.load_annotator("pidinet", {str(annotators("pidinet"))!r})
assert "controlnet_aux" not in sys.modules
std.pidinet(picture, {str(annotators("pidinet"))!r}, resolution=64)
assert "controlnet_aux" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_normal_does_not_tell_what_it_builds(
    annotators: Callable[[str], Path], capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    store.clear()
    for kind in ("normal", "midas"):
        std.annotate(images.from_pil(awkward()), std.load_annotator(kind, annotators(kind)), 64)
    assert capsys.readouterr().out == ""
    assert [str(warning.message) for warning in recwarn] == []
