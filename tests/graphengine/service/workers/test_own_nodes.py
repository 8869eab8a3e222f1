"""What workers have of a script's nodes and values: packs that it loaded, arrays and dataclasses; not its own nodes."""

from pathlib import Path

import numpy as np
import pytest

from graphengine import Graph, NodeError, load_pack, node, run
from graphengine.declare import registry
from graphengine.service.start import local_workers
from graphengine.service.workers.pool import WorkerRunner

SOURCE = """
from dataclasses import dataclass
import enum
import numpy as np
from graphengine import node

class Mode(enum.Enum):
    SUM = "sum"
    MEAN = "mean"

@dataclass
class Job:
    mode: Mode
    scale: np.float32 = np.float32(1)

@dataclass
class Answer:
    job: Job
    array: np.ndarray

@node(on="device")
def solve(job: Job, array: np.ndarray) -> Answer:
    return Answer(job, getattr(array, job.mode.value)(axis=0) * job.scale)
"""


@node(on="device")
def own(x: int) -> int:
    return x


def test_a_pack_of_the_program_goes_to_its_workers_with_values_of_its_classes(tmp_path: Path) -> None:
    file = tmp_path / "own_pack_of_workers.py"
    file.write_text(SOURCE)
    solve = load_pack(file)["solve"]
    runner = WorkerRunner(local_workers(["cpu"], threads=1))
    try:
        with Graph() as g:
            job = solve.fn.__globals__["Job"](solve.fn.__globals__["Mode"].MEAN, np.float32(2))
            g.output("answer", solve(job, np.arange(6.0).reshape(2, 3)))
        answer = run(g, runner=runner)["answer"]
        assert answer.job == job
        assert type(answer.job.scale) is np.float32
        assert answer.array.tolist() == [3.0, 5.0, 7.0]

        with Graph() as h:
            h.output("x", own(1))
        with pytest.raises(NodeError, match=r"a worker has the installed packs and those it is given"):
            run(h, runner=runner)
    finally:
        runner.close()
        registry._registry.folders.pop(file.stem)
        registry._forget(f"{registry.FOLDERS}.{file.stem}")
