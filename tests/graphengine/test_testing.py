"""What is shipped for users' own tests."""

from collections import Counter

import pytest

from graphengine import Graph, Kind, NodeError, Reuse, Store
from graphengine.testing import Recorder
from tests.graphengine.sample import add, fail, inc


def test_a_recorder_tells_why_each_node_did_or_did_not_run() -> None:
    store, recorder = Store(), Recorder()
    with Graph() as g:
        out = add(inc(1), inc(2))
    g.run(want=out, store=store, listeners=[recorder])
    assert recorder.why == dict.fromkeys(["inc", "inc_2", "add"], Reuse.COMPUTED)
    assert recorder.computed == Counter({"tests.inc": 2, "tests.add": 1})
    recorder.clear()
    g.set("inc_2", "x", 3)
    g.run(want=out, store=store, listeners=[recorder])
    assert recorder.why == {"inc": Reuse.MEMORY, "inc_2": Reuse.COMPUTED, "add": Reuse.COMPUTED}
    assert recorder.counts(Reuse.MEMORY) == Counter({"tests.inc": 1})
    assert [e.kind for e in recorder.events][:1] == [Kind.RUN_STARTED]
    assert len(recorder.of(Kind.RUN_FINISHED)) == 1


def test_a_recorder_tells_what_failed() -> None:
    recorder = Recorder()
    with Graph() as g:
        out = fail(inc(1))
    with pytest.raises(NodeError):
        g.run(want=out, store=Store(), listeners=[recorder])
    assert recorder.failed == {"fail": "ValueError: no 2"}
    assert recorder.why == {"inc": Reuse.COMPUTED}
