"""Headers of safetensors files: whole ones are read, and of damaged ones it is said what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from graphengine_nodes.weights.headers import LONGEST, once_for_a_file, read_headers
from safetensors.torch import save_file

from graphengine import ModelError, rooted


def entry(start: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": [(end - start) // 4], "data_offsets": [start, end]}


def saved(file: Path, text: str, data: int = 0) -> Path:
    file.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + bytes(data))
    return file


def test_a_header_is_read_once_with_its_texts(tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": {"modelspec.title": "x"}, "b": entry(8, 16), "a": entry(0, 8)})
    found = read_headers(saved(tmp_path / "a.safetensors", text, 16))
    assert found.metadata == {"modelspec.title": "x"}
    assert {name: one["shape"] for name, one in found.header.items()} == {"a": [2], "b": [2]}


def test_a_file_as_safetensors_writes_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    kinds = [
        torch.float64,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.uint8,
        torch.bool,
        torch.int64,
    ]
    save_file(
        {str(kind): torch.zeros(3, 5).to(kind) for kind in kinds} | {"scalar": torch.zeros(())},
        tmp_path / "a.safetensors",
    )
    assert len(read_headers(tmp_path / "a.safetensors").header) == len(kinds) + 1


@pytest.mark.parametrize(
    ("text", "data", "said"),
    [
        (f'{{"a": {json.dumps(entry(0, 8))}, "a": {json.dumps(entry(0, 8))}}}', 8, "its header names a twice"),
        (json.dumps({"a": entry(0, 8), "b": entry(4, 12)}), 12, "the tensor b lies over another one"),
        (json.dumps({"a": entry(0, 8), "b": entry(12, 20)}), 20, "the tensor b does not follow the one before it"),
        (json.dumps({"a": entry(0, 8)}), 20, "it has 12 bytes after its last tensor"),
        (json.dumps({"a": entry(0, 8)}), 4, "is cut short: 73 bytes of 77"),
        (json.dumps({"a": entry(0, 8, "F4")}), 8, "its tensor a is of the type F4, which is not read"),
        (json.dumps({"a": entry(0, 8) | {"shape": [3]}}), 8, "its header cannot be read"),
        (json.dumps({"a": entry(0, 8) | {"shape": [-1, -2]}}), 8, "its header cannot be read"),
        ("nope", 8, "its header cannot be read"),
        ("[1]", 8, "its header cannot be read"),
        ("[" * 10000, 8, "its header cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, data: int, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_headers(saved(tmp_path / "a.safetensors", text, data))
    assert said in str(caught.value)
    assert ("copy it again" in str(caught.value)) == ("cut short" in said)


def test_a_header_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with file.open("wb") as target:
        target.write(struct.pack("<Q", LONGEST + 1))
        target.truncate(LONGEST + 100)  # as a sparse file: it takes no room
    with pytest.raises(ModelError, match="no header is longer than 100,000,000"):
        read_headers(file)


def test_what_was_read_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, reads = tmp_path / "a.safetensors", list[Path]()
    save_file({"one": torch.zeros(2)}, file)

    @once_for_a_file
    def names(path: Path) -> list[str]:
        reads.append(path)
        return sorted(read_headers(path).header)

    assert names(file) == names(file) == ["one"]
    assert len(reads) == 1
    save_file({"two": torch.zeros(2)}, tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").rename(file)
    assert names(file) == ["two"]
    assert len(reads) == 2
    file.write_bytes(b"no header")
    for _ in range(2):
        with pytest.raises(ModelError):
            names(file)
    assert len(reads) == 4  # errors are not remembered
    (tmp_path / "roots").mkdir()
    save_file({"three": torch.zeros(2)}, file)
    assert names(file) == ["three"]
    with pytest.raises(ModelError, match="cannot be read"):
        names(rooted(file, [tmp_path / "roots"]))
