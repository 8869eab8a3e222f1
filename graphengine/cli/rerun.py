"""`graphengine rerun`: make a picture or a video again from its record, and say what has changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli.common import Debug, Device, Json, NoCache, Out, Packs, guarded, load_packs
from graphengine.errors import FileError, Problem, Where, WorkflowError
from graphengine.graph.combine import subgraph
from graphengine.graph.selection import link_of
from graphengine.graph.validate import check
from graphengine.results import videos

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData

COMPARED = (".png", videos.SUFFIX)
"""Endings of files that are compared with what is made again: they lose nothing, or say what they were made of."""


@guarded
def command(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE.png", help="A picture or MP4 that graphengine wrote.")],
    out: Out = Path("out"),
    search: Annotated[
        list[Path] | None, typer.Option("--search", metavar="FOLDER", help="Look here for files that it was made from.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="For pictures of other tools: give an input another value."),
    ] = None,
    json: Json = False,
    no_cache: NoCache = False,
    packs: Packs = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Make a picture or a video again, exactly, and say what differs from when it was made.

    Files that it was made from are known by their content: they are looked for in the picture's folder, in the
    current one and in those given with --search.

    A picture of the WebUI, which has settings but no record, is made again as far as nodes exist; what is not taken
    over is said. Models and LoRAs are looked for by their names in the same folders.
    """
    from graphengine.provenance.describe import CHUNK, PARAMETERS
    from graphengine.results.record import graph_of, locate, record_in, texts_of

    texts, folders = texts_of(picture), [picture.absolute().parent, Path.cwd(), *(search or ())]
    if CHUNK not in texts and PARAMETERS in texts:
        load_packs(packs)
        _from_settings(texts[PARAMETERS], picture, folders, set, out, no_cache, device, json)
        return
    record = record_in(texts, picture)
    if set:
        raise WorkflowError("a picture with its record is made again as it was; run its workflow for other values")
    _threads_as_then(record)
    load_packs(packs)
    files, missing = locate(record["files"], folders)
    if missing:
        raise FileError("\n".join(f"{sentence}; name its folder with --search" for sentence in missing))
    graph, inputs = graph_of(record, files)
    _refuse_writing(graph, record["output"])
    check(graph)
    report = _make(graph, inputs, record, picture, out, no_cache, device, json)
    if json:
        import json as json_

        print(json_.dumps(report))


def _threads_as_then(record: Mapping[str, Any]) -> None:
    """Compute with as many threads as the picture was made with, so that sums are rounded in the same way."""
    threads = (record.get("made") or {}).get("threads")
    if isinstance(threads, int) and 0 < threads <= 4096 and "torch" not in sys.modules:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _refuse_writing(graph: GraphData, output: str) -> None:
    """Refuse a graph with nodes that write files, since the picture may come from a stranger."""
    from graphengine.declare.definition import NodeDef

    for part in subgraph(graph, [link_of(graph, output)]).with_parts():
        for id, node in part.nodes.items():
            if isinstance(node.kind, NodeDef) and (
                node.kind.output or any(rule.write for rule in node.kind.files.values())
            ):
                raise WorkflowError(
                    Problem(
                        "writes",
                        f"{node.type} writes files, so it is not run again from a picture",
                        Where(node=id),
                        hint="run the workflow itself",
                    )
                )


def _make(
    graph: GraphData,
    given: Mapping[str, Any],
    record: Mapping[str, Any],
    picture: Path,
    out: Path,
    no_cache: bool,
    device: str | None,
    as_json: bool,
) -> dict[str, Any]:
    from graphengine.cli.execute import Session
    from graphengine.planning.inputs import bind_inputs
    from graphengine.provenance.describe import chunks, describe
    from graphengine.results.outputs import OutputWriter, check_folder
    from graphengine.results.record import differences

    output = record["output"]
    with Session(graph, no_cache) as session:
        check_folder(out, graph)
        writer = OutputWriter(out, _file_stem(record))
        inputs = bind_inputs(graph, given)
        result = session.run(graph, inputs, [output], exact=True, device=device, progress=not as_json)
    ((name, value),) = result.outputs.items()
    item = record.get("item")
    if item is not None and isinstance(value, list) and isinstance(item, int) and 0 <= item < len(value):
        value = [value[item]]
    made = result.made[name]
    now = describe(graph, inputs, output, made, exact=True)
    differs = differences(record, now)

    def text(_: str, part: Any, number: int | None) -> dict[str, str]:
        return chunks(graph, inputs, output, part, made, item=item if number == 0 else number, exact=True)

    files, _ = writer.write(output, value, text)
    same = compare(picture, files)
    if not as_json:
        for sentence in differs:
            print(f"differs: {sentence}", file=sys.stderr)
        if (record.get("made") or {}).get("batch", 1) != 1 and not same:
            print(f"it was made in a batch of {record['made']['batch']}", file=sys.stderr)
        for file in files:
            print(file)
        print("the pixels are the same" if same else _not_the_same(picture, files))
    return {"kind": "rerun", "files": [str(file) for file in files], "same_pixels": same, "differs": differs}


def _from_settings(
    text: str,
    picture: Path,
    folders: list[Path],
    sets: list[str] | None,
    out: Path,
    no_cache: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Make a picture from the settings that another tool has written into it, as far as a pack reads them."""
    from graphengine.cli.execute import Session, print_drawn
    from graphengine.cli.values import bind_sets
    from graphengine.declare.registry import modules
    from graphengine.pack import PictureSettings, pack_of
    from graphengine.results.outputs import OutputWriter, check_folder, write_outputs
    from graphengine.results.record import find_named

    told = [pack_of(module).parameters for module in modules()]
    reader = next((one.read for one in told if isinstance(one, PictureSettings)), None)
    if reader is None:
        raise FileError(f"{picture} does not carry how it was made, and no pack here reads other tools' settings")
    graph, left_out = reader(text, lambda name, suffixes, fits: find_named(name, suffixes, fits, folders))
    inputs = bind_sets(graph, sets)
    if not as_json:
        for sentence in left_out:
            print(f"left out: {sentence}", file=sys.stderr)
    print_drawn(inputs)
    check_folder(out, graph)
    writer = OutputWriter(out, picture.stem)
    with Session(graph, no_cache) as session:
        result = session.run(graph, inputs, device=device, progress=not as_json)
    write_outputs(graph, inputs, result, writer, show=lambda line: None if as_json else print(line))
    same = compare(picture, writer.files)
    if as_json:
        import json

        facts = {"files": [str(file) for file in writer.files], "same_pixels": same, "left_out": left_out}
        print(json.dumps({"kind": "rerun", **facts, "drawn": dict(inputs.drawn)}))
    else:
        print("the pixels are the same" if same else f"the pixels are not the same{_how_much(picture, writer.files)}")


def _file_stem(record: Mapping[str, Any]) -> str:
    name = str(record.get("name") or "workflow")
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:100]


def compare(picture: Path, files: list[Path]) -> bool:
    """Whether one of the files has exactly the pixels of the picture, or the frames of the video."""
    return any(_difference(picture, file) == 0 for file in files if file.suffix in COMPARED)


def _not_the_same(picture: Path, files: list[Path]) -> str:
    """Say that no file has the pixels of the picture, by how much they differ, and why they may."""
    is_video = videos.is_video(picture)
    if not is_video and any(file.suffix == videos.SUFFIX for file in files):
        return "the whole video was made again; a single frame of it is not compared"
    lossless = is_video or picture.suffix.lower() == ".png"
    lossy = "" if lossless else "; JPEG and WebP (below quality 100) keep them only roughly"
    return f"the pixels are not the same{_how_much(picture, files)}{lossy}"


def _how_much(picture: Path, files: list[Path]) -> str:
    largest = [d for file in files if file.suffix in COMPARED and (d := _difference(picture, file)) is not None]
    return f": they differ by up to {min(largest)} of 255" if largest else " (they are of another size)"


def _difference(one: Path, other: Path) -> int | None:
    """The largest difference of any channel of any pixel, 0 to 255; None if the sizes differ."""
    import PIL.Image
    import PIL.ImageChops

    from graphengine.system.opening import open_file

    of_videos = {videos.is_video(one), videos.is_video(other)}
    if True in of_videos:
        return None if False in of_videos else videos.difference(one, other)
    with open_file(one) as a, open_file(other) as b, PIL.Image.open(a) as first, PIL.Image.open(b) as second:
        if first.size != second.size or first.mode != second.mode:
            return None
        mode = "RGBA" if first.has_transparency_data else "RGB"
        extrema = PIL.ImageChops.difference(first.convert(mode), second.convert(mode)).getextrema()
        return max(int(high) for _, high in extrema)  # type: ignore[misc]
