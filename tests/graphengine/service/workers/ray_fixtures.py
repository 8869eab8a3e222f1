"""A Ray cluster of two nodes on one machine that share no cache; a plugin of the runs that `test_ray.py` starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine.service.workers.process import Handle
from graphengine.service.workers.ray_cluster import joined
from graphengine.service.workers.ray_workers import RayWorker
from tests.graphengine.service.conftest import PACK, Workers


class TwoNodes:
    """The cluster; each node has a resource of its own, `one` and `two`, by which tests place workers.

    Args:
        folder: Where its nodes keep their caches, each its own.
    """

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._cluster = Cluster()
        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 10}
        self._add("one", include_dashboard=False, _system_config=quick)
        self._second = self._add("two")
        self.address: str = self._cluster.address

    def _add(self, name: str, **more: Any) -> Any:
        return self._cluster.add_node(num_cpus=3, resources={name: 100}, env_vars=self._caches(name), **more)

    def _caches(self, name: str) -> dict[str, str]:
        return {"GRAPHENGINE_CACHE": str(self._folder / name)}

    def load(self, source: str | Path) -> None:
        """Load a model once on each node, as `docs/ray.md` says."""
        code = "import sys; from graphengine_nodes import load_model; load_model(sys.argv[1])"
        for name in ("one", "two"):
            command = [sys.executable, "-c", code, str(source)]
            subprocess.run(command, env=os.environ | self._caches(name), check=True)

    def kill_second(self) -> None:
        """As if its plug were pulled."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def start_second(self) -> None:
        """Start it again."""
        self._second = self._add("two")

    def close(self) -> None:
        """End it."""
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    nodes = TwoNodes(tmp_path_factory.mktemp("nodes"))
    with joined(nodes.address):
        yield nodes
    nodes.close()


@pytest.fixture
def actors(cluster: TwoNodes) -> Workers:
    """Makes workers, on both nodes in turn."""

    def make(count: int, store: str | None) -> list[Handle]:
        return [on(("one", "two")[n % 2], f"w{n}", store) for n in range(count)]

    return make


def on(node: str, name: str, store: str | None = None, **more: Any) -> RayWorker:
    """A worker on one of the nodes."""
    return RayWorker(name, 0, store=store, packs=(str(PACK),), options={"resources": {node: 1}}, **more)
