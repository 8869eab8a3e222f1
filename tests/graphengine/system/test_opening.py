"""Files are opened at once, only if they are regular, and below their roots whatever becomes of links on the way."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphengine import FileError, WorkflowError, load
from graphengine.cache.tree import from_tree, to_tree
from graphengine.declare.sockets import File
from graphengine.keys.files import fingerprint, resolve
from graphengine.system.opening import (
    DEEPEST,
    NotRegular,
    Outside,
    check_folder,
    library_path,
    open_file,
    read_file,
    rooted,
    roots_of,
    write_file,
)  # fmt: skip

needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A root `in` with `sub/a.txt`, and `out/a.txt` and `out/w.yaml` outside of it."""
    for name, text in (("in/sub", "inside"), ("out", "secret")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text(text)
    return tmp_path


@pytest.fixture(params=["folder", "file"])
def swapped(request: pytest.FixtureRequest, places: Path) -> Path:
    """A path that was allowed, in whose way a link then led out of the root."""
    path = resolve("sub/a.txt", File("text"), places / "in", [places / "in"])
    assert isinstance(path, Path)
    assert path.read_text() == "inside"
    if request.param == "folder":
        (places / "in" / "sub").rename(places / "in" / "old")
        (places / "in" / "sub").symlink_to(places / "out")
    else:
        path.unlink()
        Path(path).symlink_to(places / "out" / "a.txt")
    return path


@needs_fifos
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "fifo", tmp_path / "socket", tmp_path, Path("/dev/zero")):
        for confined in (path, rooted(path, ["/"])):
            with pytest.raises(NotRegular, match="it is no regular file"):
                open_file(confined)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "nothing")
    with pytest.raises(NotRegular):
        rooted(tmp_path / "fifo", ["/"]).write_text("x")
    with pytest.raises(FileError, match="it is no regular file"):
        fingerprint(tmp_path / "fifo")


def test_a_swapped_link_changes_nothing(swapped: Path) -> None:
    for reading in (read_file, Path.read_bytes, Path.read_text, open_file):
        with pytest.raises(Outside, match="outside the allowed folders"):
            reading(swapped)
    with pytest.raises(Outside), library_path(swapped):
        pass
    with pytest.raises(FileError, match="outside the allowed folders"):
        fingerprint(swapped)


def test_nothing_is_written_through_a_swapped_link(swapped: Path, places: Path) -> None:
    with pytest.raises(Outside):
        swapped.write_text("x")
    with pytest.raises(Outside):
        swapped.open("ab")
    with pytest.raises(Outside):
        write_file(swapped, b"x")
    assert (places / "out" / "a.txt").read_text() == "secret"
    assert os.listdir(places / "out") == ["a.txt"]


def test_what_is_swapped_while_it_is_opened_is_never_read(places: Path) -> None:
    """The folder is a link out of the root half of the time, while it is opened over and over."""
    path, stop = rooted(places / "in" / "way" / "a.txt", [places / "in"]), threading.Event()

    def swap() -> None:
        for number in range(10**9):
            if stop.is_set():
                return
            link = places / "in" / f"link{number % 2}"
            link.symlink_to(places / ("out" if number % 2 else "in/sub"))
            os.replace(link, places / "in" / "way")

    thread = threading.Thread(target=swap)
    thread.start()
    read = set()
    try:
        for _ in range(3000):
            with contextlib.suppress(OSError):
                read.add(path.read_text())
    finally:
        stop.set()
        thread.join()
    assert read <= {"inside"}


def test_links_within_the_root_are_followed(places: Path) -> None:
    (places / "in" / "link").symlink_to(places / "in" / "sub")
    path = resolve("link/a.txt", File("text"), places / "in", [places / "in"])
    assert isinstance(path, Path)
    assert read_file(path) == b"inside"
    with library_path(path) as name, open(name) as file:
        assert file.read() == "inside"


def test_a_confined_path_stays_confined(places: Path) -> None:
    roots = (str(places / "in"),)
    path = rooted(places / "in", roots)
    for more in (path / "sub", path.joinpath("x"), (path / "sub").parent, path.with_name("out"), path.absolute()):
        assert roots_of(more) == roots
    assert roots_of(from_tree(to_tree(path, lambda name, content: None), lambda name: b"")) == roots
    assert roots_of(places) is None
    assert path == places / "in"
    assert hash(path) == hash(places / "in")
    with pytest.raises(Outside):
        read_file(path / ".." / "out" / "a.txt")


def test_files_are_written_with_the_rights_of_any_new_file(places: Path) -> None:
    (places / "in" / "any").touch()
    for file in (rooted(places / "in" / "new.txt", [places / "in"]), places / "other.txt"):
        write_file(file, b"new")
        write_file(file, b"newer")
        assert file.read_bytes() == b"newer"
        assert file.stat().st_mode == (places / "in" / "any").stat().st_mode
    assert sorted(os.listdir(places / "in")) == ["any", "new.txt", "sub"]


@needs_fifos
def test_a_folder_for_a_library_holds_only_files(places: Path) -> None:
    check_folder(places / "in")
    (places / "in" / "sub" / "nowhere").symlink_to("nothing")
    check_folder(places / "in")
    os.mkfifo(places / "in" / "sub" / "fifo")
    with pytest.raises(NotRegular) as caught:
        check_folder(places / "in")
    assert str(caught.value.filename).endswith("fifo")


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """More folders inside each other than Python calls functions."""
    (tmp_path / "deep").mkdir()
    place = os.open(tmp_path / "deep", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)  # Python's own way recurses


@pytest.mark.skipif(os.mkdir not in os.supports_dir_fd, reason="this system opens nothing below a descriptor")
def test_a_deep_folder_is_a_sentence(deep: Path) -> None:
    with pytest.raises(FileError, match=f"more than {DEEPEST} folders inside each other"):
        fingerprint(deep)
    with pytest.raises(FileError, match="cannot be looked through: there are more than"):
        resolve(deep, File("weights"), deep.parent, [deep.parent])
    with pytest.raises(OSError, match="inside each other"):
        check_folder(deep)


def test_roots_confine_workflows_used_as_nodes_and_files_of_values(places: Path) -> None:
    node = "nodes: {l: {workflow: %s}}\noutputs: {o: l.o}\n"
    (places / "out" / "w.yaml").write_text("version: 1\nnodes: {}\nsecret: hunter\n")
    (places / "in" / "link.yaml").symlink_to(places / "out" / "w.yaml")
    for name in ("../out/w.yaml", "link.yaml", "../out/a.txt", str(places / "out" / "w.yaml")):
        (places / "in" / "s.yaml").write_text("version: 1\n" + node % name)
        graph = load(places / "in" / "s.yaml", roots=[places / "in"])
        text = " ".join(map(str, graph.problems()))
        assert "outside the allowed folders" in text or "absolute path" in text
        assert "hunter" not in text
    with pytest.raises(WorkflowError, match="outside the allowed folders"):
        load(places / "in" / "link.yaml", roots=[places / "in"])
    load(places / "out" / "w.yaml", roots=[places / "in"], anywhere=True)
    load("text_to_image", roots=[places / "in"])


@needs_fifos
def test_no_fifo_hangs_whoever_reads_it(tmp_path: Path) -> None:
    """In the place of every sort of file that nodes and commands open, each in a process that would hang for ever."""
    program = """
import os, sys
from pathlib import Path
from graphengine import GraphEngineError, load
from graphengine.declare import registry
import graphengine_nodes as std
from graphengine_nodes.nodes import images, upscale
from graphengine_nodes.store import hypernetworks
from graphengine_nodes.weights import files as checkpoints, reading as loading
folder = Path(sys.argv[1])
for name in ("a.yaml", "a.png", "a.safetensors", "a.pt", "config.json", "model_index.json", "pack.py"):
    os.mkfifo(folder / name)
tries = [
    lambda: load(folder / "a.yaml"), lambda: std.load_image(folder / "a.png"),
    lambda: std.load_model(folder), lambda: std.load_model(folder / "a.safetensors"), lambda: std.load_lora(folder),
    lambda: std.load_hypernetwork(folder / "a.pt"), lambda: std.load_controlnet(folder),
    lambda: checkpoints.read_json(folder / "config.json"), lambda: hypernetworks.read(folder / "a.pt"),
    lambda: loading.read_tensors(folder / "a.safetensors"), lambda: upscale._tensors(folder / "a.safetensors"),
    lambda: upscale._tensors(folder / "a.pt"),
]
for number, attempt in enumerate(tries):
    try:
        attempt()
    except GraphEngineError as error:
        print(number, error)
    else:
        raise SystemExit(f"{number} was read")
(failure,) = registry.load_folder(folder)
print(failure)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("no regular file") + done.stdout.count("is no file") >= 10, done.stdout
