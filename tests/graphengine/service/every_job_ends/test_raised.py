"""Every job ends at once, with one sentence, whatever code of a pack raises: also what is no Exception."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine import Graph
from graphengine.declare import registry
from graphengine.errors import NodeError, Raised, as_exception, text_of
from graphengine.service import local_service
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.submit import submit
from graphengine.service.previews import preview_png
from graphengine.service.service import Service
from tests.graphengine.service.conftest import RAY

RAISING = Path(__file__).parent / "raising"
NAMES = ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "Own")

pytestmark = [pytest.mark.skipif(RAY, reason="of this machine"), pytest.mark.process]


@pytest.fixture(scope="module", autouse=True)
def raising_nodes() -> None:
    """The nodes of `raising/raising.py`."""
    assert registry.load_folder(RAISING) == []


def serve(folder: Path, told: list[str]) -> Any:
    """A service as the command line starts it, with one worker."""
    return local_service(
        folder / "q.sqlite", devices=["cpu"], workers=1, threads=1, packs=[str(RAISING)], store=folder / "store",
        on_warning=told.append,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What was said of workers."""
    return []


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Iterator[Service]:
    """One for all tests: each leaves it as it was."""
    with serve(tmp_path_factory.mktemp("service"), told) as service:
        yield service


def of(node: str, **inputs: Any) -> Graph:
    """A graph of one node."""
    graph = Graph()
    graph.output("y", graph.add(f"raising.{node}", "n", **inputs))
    return graph


def then(first: str, **inputs: Any) -> Graph:
    """A graph of a node that makes a value, and another that takes it."""
    graph = Graph()
    graph.output("y", graph.add("raising.takes", "n", value=graph.add(f"raising.{first}", "v", **inputs)))
    return graph


def ended(service: Service, *graphs: Graph, **options: Any) -> list[Job]:
    """The jobs of graphs when they have ended; others are still computed after them."""
    jobs = [submit(service.queue, graph, **options) for graph in graphs]
    found = service.wait(*jobs, timeout=600)
    (after,) = service.wait(submit(service.queue, of("fine", x=1)), timeout=600)
    assert after.state is State.DONE
    return found


def said(job: Job) -> str:
    """The first line of what a job failed with; it has failed at the first try."""
    assert (job.state, job.attempt) == (State.FAILED, 1)
    return str(job.error).splitlines()[0]


@pytest.mark.parametrize("node", ["here", "thread", "device", "waits"])
def test_a_node_that_raises_what_is_no_exception_fails_its_job(service: Service, node: str, told: list[str]) -> None:
    jobs = ended(service, *(of(node, name=name) for name in NAMES))
    assert [said(job) for job in jobs] == [f"node n (raising.{node}) failed: {name}: 0" for name in NAMES]
    (speechless,) = ended(service, of(node, name="Speechless"))
    assert "Speechless" in said(speechless)
    assert told == []


@pytest.mark.parametrize("first", ["makes", "makes_on_device"])
@pytest.mark.parametrize("where", ["encode", "decode", "size", "needs", "repr"])
def test_a_type_that_raises_what_is_no_exception_fails_the_job(
    service: Service, first: str, where: str, told: list[str]
) -> None:
    for name, job in zip(NAMES, ended(service, *(then(first, where=where, name=name) for name in NAMES)), strict=True):
        assert said(job).startswith("node ")
        assert ("ValueError: 0" if where == "repr" else f"{name}: 0") in said(job)
    assert told == []


@pytest.mark.parametrize("first", ["makes", "makes_on_device"])
@pytest.mark.parametrize("where", ["encode", "decode", "needs"])
def test_a_type_that_lacks_memory_fails_its_job_and_slows_nobody(
    service: Service, first: str, where: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[int] = []
    monkeypatch.setattr(service._caution, "met", lambda running, now: met.append(running))
    (job,) = ended(service, then(first, where=where, name="MemoryError"))
    assert said(job).startswith("node ")
    assert "MemoryError: 0" in said(job) or "more memory than any worker has (0)" in said(job)
    assert (met, told) == ([], [])


def test_an_output_that_lacks_memory_fails_its_job_and_slows_nobody(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[int] = []
    monkeypatch.setattr(service._caution, "met", lambda running, now: met.append(running))
    (job,) = ended(service, of("makes", where="save", name="MemoryError"), out=tmp_path)
    assert (said(job), met) == ("0", [])


def test_a_type_that_raises_where_it_is_saved_fails_the_job(service: Service, tmp_path: Path) -> None:
    jobs = ended(service, *(of("makes", where="save", name=name) for name in NAMES), out=tmp_path)
    assert [said(job) for job in jobs] == [f"{name}: 0" for name in NAMES]
    assert list(tmp_path.iterdir()) == []


def test_an_exact_job_fails_where_a_pack_raises_what_is_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAISING_ENVIRONMENT", "1")
    with serve(tmp_path, []) as service:
        jobs = [submit(service.queue, of("fine", x=1), exact=exact) for exact in (True, False)]
        exact, plain = service.wait(*jobs, timeout=600)
    assert said(exact).endswith("no worker can say how it computes, which an exact job must know: SystemExit: 0")
    assert said(plain) == "node n (raising.fine) failed: SystemExit: 0"


@pytest.mark.parametrize(("times", "state"), [(1, State.DONE), (99, State.FAILED)])
def test_what_lacks_memory_in_a_helper_goes_to_another(
    service: Service, tmp_path: Path, times: int, state: State
) -> None:
    mark = tmp_path / "mark"
    (job,) = ended(service, of("lacks_memory", mark=str(mark), times=times))
    assert job.state is state, job.error
    if times == 1:
        assert len(mark.read_bytes()) == 2
    else:
        assert "raising.lacks_memory needs more memory than any worker has" in said(job)


def test_a_worker_whose_pipe_a_node_closes_has_ended_itself(service: Service, told: list[str]) -> None:
    before = len(told)
    (job,) = ended(service, of("closes_files", x=1))
    assert "3 workers were lost while they computed raising.closes_files: it ended with exit code 4" in said(job)
    assert len(told) - before == 3


def test_what_is_no_exception_becomes_one() -> None:
    error = as_exception(SystemExit("bye"))
    assert isinstance(error, Raised)
    assert (str(error), type(error.__cause__)) == ("SystemExit: bye", SystemExit)
    kept = ValueError()
    assert as_exception(kept) is kept
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C, on this thread
        as_exception(KeyboardInterrupt())


def test_an_exception_that_ends_who_asks_is_told_by_its_class() -> None:
    class Speechless(BaseException):
        def __str__(self) -> str:
            raise Speechless

    assert text_of(Speechless()) == "Speechless"
    assert str(NodeError("n", "t", {}, Speechless())).startswith("node n (t) failed: Speechless: Speechless")


def test_a_value_that_cannot_be_looked_at_has_no_preview() -> None:
    value = registry.find("raising.makes").fn("view", "SystemExit")  # type: ignore[union-attr]
    assert preview_png(value) is None
