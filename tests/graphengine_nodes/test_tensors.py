"""Tensors of torch: written to disk, sent to workers, saved with workflows, as they are or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphengine_nodes  # noqa: F401 - promises the type
import numpy as np
import pytest
import torch

from graphengine import Graph, load, load_pack, loads, node, run, save
from graphengine.cache import DiskStore, Store
from graphengine.cache.store import WORTH_WRITING
from graphengine.declare import registry
from graphengine.errors import NotStorable
from graphengine.events import Reuse
from graphengine.service.start import local_workers
from graphengine.service.workers.pool import WorkerRunner
from graphengine.values.canonical import NotData, canonical
from graphengine.values.socket_types import SocketType, parse_type, socket_type, type_name


def kind() -> SocketType[Any]:
    found = socket_type(torch.Tensor)
    assert found is not None
    return found


def round_trip(value: torch.Tensor) -> torch.Tensor:
    assert kind().encode is not None
    assert kind().decode is not None
    return kind().decode(kind().encode(value))  # type: ignore[no-any-return, misc]


def dtypes() -> list[torch.dtype]:
    """Those that a tensor can be made of from bytes."""
    found = []
    for name in dir(torch):
        dtype = getattr(torch, name)
        if isinstance(dtype, torch.dtype) and not name.startswith(("q", "bit")) and dtype not in found:
            try:
                with warnings.catch_warnings(action="ignore"):
                    torch.zeros(dtype.itemsize, dtype=torch.uint8).view(dtype).clone()
            except (RuntimeError, TypeError):
                continue
            found.append(dtype)
    return found


def bits(value: torch.Tensor) -> list[int]:
    return value.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", dtypes(), ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    content = torch.arange(24 * dtype.itemsize, dtype=torch.uint8)
    flat = content.remainder(2).view(dtype) if dtype is torch.bool else content.view(dtype)
    cube = flat.reshape(2, 3, 4)
    values = [flat, cube, flat[:0], cube[:, :0], flat[5], cube.transpose(0, 2), cube[:, ::2], flat[:1].expand(3)]
    for value in values:
        found = round_trip(value)
        assert (found.dtype, found.shape, found.device) == (value.dtype, value.shape, value.device)
        assert bits(found) == bits(value)
        assert not found.requires_grad
        view = kind().view
        assert view is not None
        assert str(dtype).removeprefix("torch.") in str(view(value))


def test_the_dtypes_that_matter_are_among_them() -> None:
    assert {torch.float32, torch.bfloat16, torch.bool, torch.complex128, torch.int64} <= set(dtypes())


def test_what_is_more_than_its_numbers() -> None:
    leaf = torch.ones(2, requires_grad=True)
    assert round_trip(leaf).requires_grad
    turned = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert torch.equal(round_trip(turned), turned)
    assert torch.equal(round_trip(turned.imag), turned.imag)  # its sign is kept apart
    columns = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert round_trip(columns).stride() == columns.stride()
    part = torch.arange(1000.0)[3:5]
    assert kind().encode is not None
    assert len(kind().encode(part)) < 500  # type: ignore[misc]
    with torch.inference_mode():
        made = torch.ones(3)
    assert torch.equal(round_trip(made), torch.ones(3))


def with_attribute() -> torch.Tensor:
    value = torch.ones(1)
    value.name_of_mine = 1  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.ones(2, requires_grad=True) * 2, "a history of autograd .* tensor.detach"),
        (torch.eye(3).to_sparse(), "sparse .*to_dense"),
        (torch.ones(2, device="meta"), "without data"),
        (torch.nn.Parameter(torch.ones(2)), "is a Parameter"),
        (with_attribute(), "has attributes .name_of_mine."),
    ],
)
def test_what_would_lose_something_is_refused_with_the_remedy(value: torch.Tensor, why: str) -> None:
    with pytest.raises(NotStorable, match=why):
        round_trip(value)
    with pytest.raises(NotData):
        canonical(value)
    view = kind().view
    assert view is not None
    assert view(value)


@node
def same_tensor(value: torch.Tensor) -> torch.Tensor:
    return value + 0


@pytest.mark.parametrize(
    "value", [torch.ones(2, requires_grad=True) * 2, torch.nn.Parameter(torch.ones(2)), np.array([object])]
)
def test_a_literal_without_a_form_is_computed_with_all_the_same(value: Any) -> None:
    @node
    def name(value: Any) -> str:
        return type(value).__name__

    with Graph() as g:
        g.output("name", name(value))
    assert run(g)["name"] == type(value).__name__


def test_views_say_dtype_shape_and_range() -> None:
    view = kind().view
    assert view is not None
    shown = {
        "tensor float32 [2] 1..2": torch.tensor([1.0, 2.0]),
        "tensor bool [1] 1..1": torch.tensor([True]),
        "tensor uint16 [] 7..7": torch.tensor(7, dtype=torch.uint16),
        "tensor bfloat16 [0]": torch.zeros(0, dtype=torch.bfloat16),
        "tensor complex64 [1]": torch.zeros(1, dtype=torch.complex64),
        "tensor float8_e4m3fn [1] 1.5..1.5": torch.tensor([1.5]).to(torch.float8_e4m3fn),
        "tensor float32 [1] nan..nan": torch.tensor([float("nan")]),
    }
    for text, value in shown.items():
        found = view(value)
        assert getattr(found, "text", None) == text


def test_damaged_bytes_are_refused() -> None:
    assert kind().encode is not None
    assert kind().decode is not None
    content = kind().encode(torch.ones(2, 3))  # type: ignore[misc]
    for wrong in (content.replace(b"float32", b"float64"), content.replace(b"float32", b"no_type"), content[:-1], b""):
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever safetensors raises: the store takes it as a miss
            kind().decode(wrong)  # type: ignore[misc]


# --- on disk, in files, on workers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    first: torch.Tensor
    both: list[torch.Tensor]
    name: str = ""


@node
def paired(size: int) -> Pair:
    time.sleep(WORTH_WRITING)  # what takes less is not written
    return Pair(torch.arange(size, dtype=torch.bfloat16), [torch.tensor(1.5), torch.zeros(0, 2)], "a")


def test_a_dataclass_of_tensors_is_read_back_from_disk(tmp_path: Path) -> None:
    reuse: list[Reuse] = []

    def once() -> Pair:
        with Graph() as g:
            g.output("pair", paired(5))
        result = run(g, store=Store(disk=DiskStore(tmp_path)))
        reuse.extend(result.reuse.values())
        assert isinstance(result["pair"], Pair)
        return result["pair"]

    first, second = once(), once()
    assert reuse == [Reuse.COMPUTED, Reuse.DISK]
    assert second.first.dtype is torch.bfloat16
    assert second.first.tolist() == first.first.tolist()
    assert [(t.tolist(), t.shape) for t in second.both] == [(1.5, torch.Size([])), ([], torch.Size([0, 2]))]


def test_a_literal_and_a_declared_input_are_saved(tmp_path: Path) -> None:
    value = torch.linspace(0, 1, 6).reshape(2, 3).to(torch.bfloat16)
    with Graph() as g:
        g.output("out", same_tensor(value.T))
    save(g, tmp_path / "flow.yaml")
    again = load(tmp_path / "flow.yaml")
    assert again.key == g.key
    assert torch.equal(run(again)["out"], value.T)
    assert parse_type("list[tensor]") == list[torch.Tensor]
    assert type_name(torch.Tensor) == "tensor"
    text = "version: 1\ninputs: {x: {type: tensor}}\nnodes: {a: {node: collect, from: {items: [inputs.x]}}}\n"
    flow = loads(text + "outputs: {a: a}\n")
    assert torch.equal(flow.run(inputs={"x": value})["a"][0], value)


def test_an_output_is_written_as_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert kind().save is not None
    (file,) = kind().save(torch.arange(3), tmp_path / "out", {})  # type: ignore[misc]
    assert load_file(file)["tensor"].tolist() == [0, 1, 2]


SOURCE = """
from dataclasses import dataclass
import torch
from graphengine import node

@dataclass
class Job:
    weights: torch.Tensor
    scale: torch.Tensor

@node(on="device")
def solve(job: Job, values: list[torch.Tensor]) -> Job:
    return Job(job.weights * 2, sum(values).to(torch.bfloat16) * job.scale)
"""


def test_tensors_go_to_workers_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "pack_of_tensors.py"
    file.write_text(SOURCE)
    solve = load_pack(file)["solve"]
    runner = WorkerRunner(local_workers(["cpu"], threads=1))
    try:
        job = solve.fn.__globals__["Job"](torch.arange(6).reshape(2, 3).T, torch.tensor(3.0, dtype=torch.bfloat16))
        with Graph() as g:
            g.output("job", solve(job, [torch.ones(2), torch.ones(2)]))
        found = run(g, runner=runner)["job"]
        assert torch.equal(found.weights, job.weights * 2)
        assert (found.scale.dtype, found.scale.tolist()) == (torch.bfloat16, [6.0, 6.0])
    finally:
        runner.close()
        registry._registry.folders.pop(file.stem)
        registry._forget(f"{registry.FOLDERS}.{file.stem}")


def test_the_promise_of_tensors_imports_no_torch() -> None:
    code = (
        "import sys, graphengine_nodes\n"
        "from graphengine.values.socket_types import type_names\n"
        "print('tensor' in type_names(), 'torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True False"


def test_the_name_in_files_is_known_before_the_first_value() -> None:
    code = (
        "import numpy, torch, graphengine_nodes\n"
        "from graphengine.values.socket_types import type_name\n"
        "print(type_name(list[torch.Tensor]), type_name(numpy.ndarray | None))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "list[tensor] array | null"


def test_a_program_that_never_names_the_pack_stores_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import time, torch\n"
        "from graphengine.cache.store import WORTH_WRITING\n"
        "from graphengine import Graph, node, run\n"
        "from graphengine.cache import DiskStore, Store\n"
        "@node\n"
        "def made(n: int) -> list[torch.Tensor]:\n"
        "    time.sleep(WORTH_WRITING)\n"
        "    return [torch.ones(n)]\n"
        "for _ in range(2):\n"
        "    with Graph() as g:\n"
        "        g.output('made', made(3))\n"
        "    print(*(reuse.name for reuse in run(g, store=Store(disk=DiskStore('store'))).reuse.values()))\n"
    )
    found = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["COMPUTED", "DISK"]
