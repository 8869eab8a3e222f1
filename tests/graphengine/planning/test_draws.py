"""Numbers drawn for -1 and null: before keys are made, once for each place, and written down wherever it is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest

from graphengine import Drawn, Graph, Range, WorkflowError, node, run
from graphengine.graph.flow import each
from graphengine.planning.inputs import bind_inputs
from graphengine.provenance.describe import describe
from graphengine.provenance.steps import steps
from graphengine.results.record import graph_of
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.request import request_of
from graphengine.service.jobs.submit import files_of, new_job
from graphengine.testing import Recorder

LOW, HIGH = 0, 2**32 - 1


@node(version=1)
def throw_dice(seed: Annotated[int | list[int], Range(0, 2**64 - 1), Drawn()] = 0, sides: int = 6) -> list[int]:
    """The seeds that came."""
    return seed if isinstance(seed, list) else [seed]


@node(version=1)
def throw_small(seed: Annotated[int, Range(10, 12), Drawn()]) -> int:
    """The seed that came."""
    return seed


def dice(**given: Any) -> Graph:
    with Graph() as graph:
        graph.output("seed", throw_dice(**given))
    return graph


def throw_in_graph(seed: Any) -> Graph:
    with Graph() as graph:
        graph.output("seed", throw_small(seed))
    return graph


def of_input(type: Any = int, default: Any = 0) -> Graph:
    with Graph() as graph:
        graph.output("seed", throw_dice(graph.input("seed", type, default)))
    return graph


@pytest.mark.parametrize("value", [-1, None])
def test_a_literal_is_drawn_anew_in_each_run(value: Any) -> None:
    graph = dice(seed=value)
    first, second = graph()[0], graph()[0]
    assert first != second
    assert LOW <= min(first, second) <= max(first, second) <= HIGH
    assert graph.nodes["throw_dice"].args["seed"] is value  # the graph stays as it was written


@pytest.mark.parametrize("value", [-1, None])
def test_an_input_is_drawn_anew_in_each_run(value: Any) -> None:
    graph = of_input()
    assert graph(seed=value) != graph(seed=value)


def test_what_is_left_out_stays_the_default() -> None:
    assert dice()() == [0]
    assert of_input()() == [0]
    assert of_input(int, None)() == [0]  # no value is given to the node
    assert of_input(int, 7)() == [7]
    assert of_input(int, -1)() != of_input(int, -1)()  # -1 is written there


def test_a_list_is_drawn_item_by_item() -> None:
    first, fixed, second = dice(seed=[-1, 5, None])()
    assert fixed == 5
    assert first != second
    first, fixed, second = of_input(list[int], [])(seed=[-1, 5, -1])
    assert fixed == 5
    assert first != second
    with Graph() as graph:
        graph.output("seeds", each([-1, 5, -1], lambda seed: throw_dice(seed)))
    (first,), (fixed,), (second,) = graph()
    assert fixed == 5
    assert first != second


def test_limits_are_kept() -> None:
    with Graph() as graph:
        graph.output("seed", throw_small(-1))
        graph.output("again", throw_small(graph.input("small", int, range=Range(11, 90))))
    for _ in range(20):
        found = graph(small=None)
        assert 10 <= found["seed"] <= 12
        assert 11 <= found["again"] <= 12


def test_only_what_is_marked_is_drawn_and_other_values_are_checked() -> None:
    with Graph() as graph:
        graph.output("seed", throw_dice(3, sides=graph.input("sides", int, 6)))
    assert bind_inputs(graph, {"sides": -1}).given == {"sides": -1}
    assert bind_inputs(graph, {"sides": -1}).drawn == {}
    assert dice(seed=-1).problems() == []
    for wrong in (-2, [-1, -2]):
        with pytest.raises(WorkflowError, match="-2 is outside"):
            dice(seed=wrong)
    with pytest.raises(WorkflowError, match="is not int"):
        throw_in_graph([-1])
    with pytest.raises(WorkflowError, match="-2 is outside"):
        of_input()(seed=-2)


def test_graphs_used_as_nodes_draw_too_and_every_call_of_one_gets_its_number() -> None:
    inner = of_input()
    with Graph() as outer:
        outer.output("a", inner(outer.input("seed", int, 0)))
        outer.output("b", inner(-1))
        outer.output("c", dice(seed=-1)())
        outer.output("d", of_input(int, -1)())
    bound = bind_inputs(outer, {"seed": -1})
    found = outer.run(inputs=bound)
    assert len({tuple(value) for value in found.values()}) == 4
    assert sorted(found.values()) == sorted([number] for number in bound.drawn.values())
    assert "seed" in bound.drawn
    assert len(bound.drawn) == 4


def test_keys_records_and_steps_hold_the_number() -> None:
    with Graph() as graph:
        graph.output("a", throw_dice(-1))
        graph.output("b", throw_dice(graph.input("seed", int, 0)))
    bound = bind_inputs(graph, {"seed": None})
    literal, given = bound.drawn["throw_dice.seed"], bound.drawn["seed"]
    assert graph.run(inputs=bound) == {"a": [literal], "b": [given]}
    recorder = Recorder()
    with Graph() as plain:
        plain.output("a", throw_dice(literal))
        plain.output("b", throw_dice(given))
    plain.run(listeners=[recorder])
    assert not recorder.computed  # the keys are those of these numbers
    record = describe(graph, bound, "a", {})
    assert record["workflow"]["nodes"]["throw_dice"]["with"] == {"seed": literal}
    assert record["inputs"] == {"seed": given}
    assert steps(graph, bound, "a").inputs["seed"] == literal
    again, inputs = graph_of(record, {})
    assert again(**inputs) == {"a": [literal], "b": [given]}


def test_a_graph_that_is_changed_after_it_was_bound_is_bound_anew() -> None:
    graph = dice(seed=-1)
    bound = bind_inputs(graph, {})
    assert graph.run(inputs=bound) == graph.run(inputs=bound)
    graph.set("throw_dice", "seed", 4)
    assert graph.run(inputs=bound) == {"seed": [4]}


def test_a_job_is_drawn_when_it_is_submitted(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue.sqlite")
    with Graph() as graph:
        graph.output("a", throw_dice(-1))
        graph.output("b", throw_dice(graph.input("seed", int, 0)))
    job = new_job(queue, graph, {"seed": -1})
    number = queue.submit(job)[0]
    request = request_of(queue.body(number), files_of(queue))  # what every attempt reads
    first = dict(run(request.graph, inputs=request.inputs))
    assert first == dict(run(request.graph, inputs=request.inputs))
    assert job.facts["inputs"] == {"seed": first["b"][0]}
    assert job.facts["drawn"] == {"throw_dice.seed": first["a"][0], "seed": first["b"][0]}
