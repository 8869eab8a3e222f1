"""Models that every worker loads before its first job: found by their names, loaded on each worker, and told of."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest

from graphengine import Graph, GraphEngineError, Store, run
from graphengine.service.warming import Warming, shipped_workflow, weights_of
from graphengine.service.workers.calls import CallReport, JobPolicy
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.loading import Weights
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from tests.graphengine.sample import until as until_within
from tests.graphengine.service.conftest import PACK


def until(condition: Callable[[], object]) -> None:
    until_within(condition, 600)  # a machine under load imports torch for a minute


class Warmed:
    """Two workers that load books, and what was told of that."""

    def __init__(self, *names: str, count: int = 2) -> None:
        self.handles = [LocalWorker(f"w{n}", threads=1, packs=(str(PACK),)) for n in range(count)]
        self.warm: list[str] = []
        self.warnings: list[str] = []
        self.runner = WorkerRunner(self.handles, on_warning=self.warnings.append)
        self.warming = Warming(
            self.runner, names, lambda name: None, (), self.warm.append, self.warnings.append
        )  # fmt: skip
        self.warming.start()

    def states(self) -> list[str]:
        return [status.state for status in self.runner.status()]

    def held(self) -> list[int]:
        return [status.held for status in self.runner.status()]

    def read(self, title: str) -> CallReport:
        """Read a book in a job; returns the report of the call."""
        graph, reports = Graph(), list[CallReport]()
        graph.add("pack.book", "book", title=title)
        graph.add("pack.read", "read", book=graph.link("book"))
        run(graph, "read", store=Store(), runner=self.runner.of(JobPolicy(on_computed=reports.append)))
        return reports[0]

    def close(self) -> None:
        self.warming.close()
        self.runner.close()


@pytest.fixture
def warmed(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Warmed] = []

    def make(*names: str, **options: Any) -> Warmed:
        made.append(Warmed(*names, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_each_worker_loads_before_it_is_given_calls_and_the_first_job_loads_nothing(
    warmed: Any, tmp_path: Path
) -> None:
    title = f"when {tmp_path / 'now'}"
    service = warmed(title, "Emma")
    until(lambda: service.warming.lacks() == f"w0: it loads {title}; w1: it loads {title}")
    assert service.states() == ["loading", "loading"]
    assert (service.held(), service.warm) == ([0, 0], [])
    (tmp_path / "now").touch()
    until(lambda: service.warm)
    assert service.warm == [f"every worker has loaded {title}, Emma"]
    assert (service.warming.lacks(), service.held(), service.states()) == ("", [2, 2], ["ready", "ready"])
    assert [service.read(name).loads for name in (title, "Emma")] == [0, 0]
    assert [status.loads for status in service.runner.status()] == [2, 2]
    assert service.warnings == []


def test_a_worker_that_is_started_again_loads_again_before_it_computes(warmed: Any) -> None:
    service = warmed("Emma", count=1)
    until(lambda: service.warm)
    os.kill(service.handles[0].process.pid, signal.SIGKILL)
    until(lambda: service.runner.status()[0].deaths == 1)
    assert service.warming.lacks() == "", "it was ready once; whether a worker is usable now is another question"
    assert service.read("Emma").loads == 0
    assert service.held() == [1]


def test_what_cannot_be_loaded_is_told_once_and_jobs_run(warmed: Any) -> None:
    service = warmed("torn Emma", "Ulysses", count=1)
    why = "torn Emma: torn Emma has no pages"
    until(lambda: service.warming.lacks() == f"w0: it does not hold {why}")
    until(lambda: service.warnings == [f"worker w0 does not hold {why}"])
    assert (service.read("Ulysses").loads, service.read("Persuasion").loads, service.warm) == (0, 1, [])


def test_models_that_do_not_fit_together_are_told(warmed: Any) -> None:
    service = warmed("Emma", "Ulysses", "Persuasion", count=1)
    why = "Emma: it does not fit into the memory together with the other models"
    until(lambda: service.warming.lacks() == f"w0: it does not hold {why}")
    until(lambda: service.warnings == [f"worker w0 does not hold {why}"])


def test_a_model_that_ends_its_worker_is_not_loaded_again(warmed: Any) -> None:
    service = warmed("deadly Emma", "Ulysses", count=1)
    until(lambda: service.warming.lacks() == "w0: it does not hold deadly Emma: it was ended by SIGKILL")
    assert (service.read("Ulysses").loads, service.runner.status()[0].deaths) == (0, 1)
    lost = "worker w0 was lost while it loaded deadly Emma, which it is not to load again: it was ended by SIGKILL"
    until(lambda: service.warnings == [lost])


def test_models_of_a_worker_that_computes_already_come_after_its_call(warmed: Any) -> None:
    service = warmed(count=1)
    until(lambda: service.states() == ["ready"])
    assert service.read("Emma").loads == 1
    service.runner.load("Ulysses", weights_of("Ulysses", None))
    until(lambda: not service.runner.not_loaded())
    assert (service.read("Ulysses").loads, service.held()) == (0, [2])


# --- names ------------------------------------------------------------------------------------------------------------


def needs_of(weights: list[Weights]) -> frozenset[str]:
    return frozenset(digest for one in weights for digest in one.needs())


def test_a_model_is_found_by_its_name_or_path_in_the_order_of_the_folders(tmp_path: Path) -> None:
    by_name = needs_of(weights_of("tiny", None, (tmp_path,)))
    assert by_name == std.load_model("tiny").needs()
    folder = Path(std.__file__).parent / "tiny" / "model"
    (tmp_path / "mine").symlink_to(folder)
    (by_path,) = weights_of("mine", None, (tmp_path / "none", tmp_path))
    assert by_path.needs() == by_name
    assert by_path.reference.source.endswith("mine")


def test_a_workflow_stands_for_what_its_nodes_compute_with() -> None:
    found = weights_of("text_to_image", shipped_workflow("text_to_image"))
    model = std.load_model("tiny")
    assert {one.part for one in found} == {"text_encoder", "denoiser", "vae"}
    assert needs_of(found) == model.needs()
    assert shipped_workflow("tiny") is None


def test_only_what_a_workflow_computes_with_is_loaded() -> None:
    with Graph() as graph:
        model = std.load_model("tiny")
        std.encode_prompt(std.offload_model(model, "model"), "a red circle")
    (one,) = weights_of("mine", graph)
    assert (one.reference.option("offload"), one.part) == ("model", "text_encoder")


@pytest.mark.parametrize(
    ("name", "words"),
    [("tniy.safetensors", "std.load_model: there is no file or folder"), ("tniy", "did you mean tiny")],
)
def test_a_model_that_nobody_knows_is_an_error_with_the_nearest_name(name: str, words: str) -> None:
    with pytest.raises(GraphEngineError, match=words):
        weights_of(name, None)


def test_a_workflow_whose_model_an_input_must_give_or_that_has_none_is_an_error() -> None:
    with Graph() as graph:
        std.encode_prompt(std.load_model(graph.input("source", str)), "a red circle")
    with pytest.raises(GraphEngineError, match="needs the input source"):
        weights_of("asks", graph)
    with pytest.raises(GraphEngineError, match="computes with no model that is known before it runs"):
        weights_of("empty", Graph())


def test_an_unknown_model_is_told_and_never_warm() -> None:
    told: list[str] = []
    warming = Warming(InlineRunner(), ["tniy"], shipped_workflow, (), told.append, told.append)
    assert warming.lacks() == "the models of --warm are being looked up"
    warming.start()
    until(lambda: told)
    assert told == [warming.lacks()]
    assert told[0].startswith("tniy cannot be loaded: ")


# --- in this process --------------------------------------------------------------------------------------------------


def test_inline_loads_in_this_process() -> None:
    from graphengine_nodes.store.store import store

    runner = InlineRunner()
    warm: list[str] = []
    warming = Warming(runner, ["tiny"], shipped_workflow, (), warm.append, pytest.fail)
    warming.start()
    until(lambda: warm)
    before = store.loads.copy()
    with Graph() as graph:
        model = std.load_model("tiny")
        text = std.encode_prompt(model, "a red circle")
        latent = std.sample(model, text, seed=1, steps=1, width=64, height=64)
        graph.output("image", std.decode_latent(model, latent))
    run(graph, store=Store(), runner=runner.of(JobPolicy()))
    assert store.loads == before, "the job has loaded nothing"
    assert std.load_model("tiny").needs() <= store.digests("cpu")
    runner.close()


def test_inline_tells_what_it_cannot_load(caplog: pytest.LogCaptureFixture) -> None:
    runner = InlineRunner()
    runner.load("torn Emma", weights_of("torn Emma", None))
    why = "it does not hold torn Emma: torn Emma has no pages"
    until(lambda: runner.not_loaded() == {"this process": why})
    until(lambda: "this process does not hold torn Emma: torn Emma has no pages" in caplog.text)
    runner.close()
