"""Names of devices: what torch could mean passes, whatever this machine has; what nothing could be called does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphengine import Graph, WorkflowError, node
from graphengine.service.start import local_workers
from graphengine.system.devices import DEVICE_TYPES, check_device


@node
def one() -> int:
    return 1


def test_every_kind_of_torch_passes() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.device("foo")
    named = re.search(r"one of (.*) device type", str(told.value))
    assert named is not None
    assert set(named[1].split(", ")) <= set(DEVICE_TYPES)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:17", "mps", "xpu", "xpu:1"])
def test_names_of_devices_that_this_machine_lacks_pass(name: str) -> None:
    assert check_device(name) == name
    assert [worker.device for worker in local_workers([name])] == [name]


@pytest.mark.parametrize("name", ["foo", "", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "0", "cpu\n"])
@pytest.mark.parametrize("use", [check_device, lambda name: local_workers([name]), lambda name: _run(name)])
def test_what_can_be_no_device_is_refused(name: str, use: Callable[[str], Any]) -> None:
    with pytest.raises(RuntimeError):
        torch.device(name)
    with pytest.raises(WorkflowError, match=r"there is no device .*devices are called cpu, cuda:0"):
        use(name)


def _run(device: str) -> Any:
    with Graph() as graph:
        one()
    return graph.run(device=device)
