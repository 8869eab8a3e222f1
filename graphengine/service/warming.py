"""Warming: models that every worker of a service loads before its first job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from graphengine.api import load
from graphengine.declare import registry
from graphengine.declare.definition import NodeDef
from graphengine.declare.shipped import shipped
from graphengine.errors import GraphEngineError, ModelError, NodeError, WorkflowError, as_exception, text_of
from graphengine.graph.combine import subgraph
from graphengine.graph.data import GraphData
from graphengine.graph.elements import Link
from graphengine.pack import pack_of
from graphengine.planning.inputs import bind_inputs
from graphengine.planning.plan import take_plan
from graphengine.service.workers.loading import Weights
from graphengine.system.threads import start
from graphengine.values.socket_types import socket_type
from graphengine.workflow.files import from_document

LOOK = 0.1
"""Seconds between looks whether all workers have loaded all models."""


class Loads(Protocol):
    """A backend, as warming sees it."""

    def load(self, name: str, weights: Sequence[Weights]) -> None:
        """Have every worker load weights."""

    def not_loaded(self) -> dict[str, str]:
        """The workers that have not, with the reason."""


class Warming:
    """Has a backend's workers load models, on a thread of its own.

    A model that cannot be found or loaded stops nothing: jobs run all the same, and load what they need.

    Args:
        backend: The backend, or a function that gives it.
        names: Models as jobs name them, or workflows, whose models are meant.
        workflow: Returns the workflow of a name, or None if there is none.
        folders: Where relative paths start, the first where there is such a file; last the current folder.
        on_warm: Called with a sentence once every worker has loaded all models.
        on_warning: Called with a sentence about each model that cannot be found.
    """

    def __init__(
        self,
        backend: Loads,
        names: Sequence[str],
        workflow: Callable[[str], GraphData | None],
        folders: Sequence[Path],
        on_warm: Callable[[str], object],
        on_warning: Callable[[str], object],
    ) -> None:
        self._backend, self._names, self._workflow = backend, list(dict.fromkeys(names)), workflow
        self._folders, self._on_warm, self._on_warning = folders, on_warm, on_warning
        self._unknown: dict[str, str] = {}
        self._asked = self._is_warm = False
        self._closing = threading.Event()

    def start(self) -> None:
        """Begin."""
        start(self._work, "graphengine-warming")

    def close(self) -> None:
        """Look no longer."""
        self._closing.set()

    def lacks(self) -> str:
        """Why not every worker has loaded every model; empty once all have, whatever becomes of them later."""
        if self._is_warm:
            return ""
        if self._unknown:
            return "; ".join(self._unknown.values())
        if not self._asked:
            return "the models of --warm are being looked up"
        return "; ".join(f"{worker}: {why}" for worker, why in self._backend.not_loaded().items())

    def _work(self) -> None:
        for name in self._names:
            try:
                self._backend.load(name, weights_of(name, self._workflow(name), self._folders))
            except BaseException as error:  # of a pack, a file that is no workflow
                self._unknown[name] = f"{name} cannot be loaded: {_sentence(as_exception(error))}"
                self._on_warning(self._unknown[name])
        self._asked = True
        while not self._unknown and not self._closing.wait(LOOK):
            if not self._backend.not_loaded():
                self._is_warm = True
                self._on_warm(f"every worker has loaded {', '.join(self._names)}")
                return


def _sentence(error: Exception) -> str:
    """An error in one line."""
    cause = error.__cause__ if isinstance(error, NodeError) and isinstance(error.__cause__, Exception) else error
    own = "" if isinstance(cause, GraphEngineError | OSError) else f"{type(cause).__name__}: "
    return own + " ".join(text_of(cause).split())


# --- from names to weights --------------------------------------------------------------------------------------------


def shipped_workflow(name: str) -> GraphData | None:
    """The workflow that a pack ships under a name, or None.

    Raises:
        WorkflowError: It cannot be read.
    """
    file = shipped().get(name)
    return None if file is None else load(file)


def weights_of(name: str, graph: GraphData | None, folders: Sequence[Path] = ()) -> list[Weights]:
    """The weights that a name stands for.

    Args:
        name: That of a workflow, or of a model as jobs name it.
        graph: The workflow; None for a model.
        folders: Where a model's relative path may start, before the current folder.

    Raises:
        GraphEngineError: The model cannot be found, or its files cannot be read; the workflow has none that is known
            before it runs.
    """
    if graph is not None:
        found = _weights_in(graph)
        if not found:
            raise WorkflowError(f"the workflow {name} computes with no model that is known before it runs")
        return found
    whys: list[str] = []
    for pack in dict.fromkeys(map(pack_of, registry.modules())):
        definition = registry.find(f"{pack.name}.{pack.model}") if pack.model else None
        if definition is not None:
            try:
                return _weights_called(name, definition, folders)
            except Exception as error:
                whys.append(f"{definition.full_name}: {_sentence(error)}")
    raise ModelError("; ".join(whys) or "no pack that is installed here loads models")


def _weights_called(name: str, definition: NodeDef[..., Any], folders: Sequence[Path]) -> list[Weights]:
    """The weights of a model that a node finds."""
    socket = next(iter(definition.sockets))
    base = next((folder for folder in folders if (folder / name).exists()), Path.cwd())
    document = {"version": 1, "nodes": {"model": {"node": definition.full_name, "with": {socket: name}}}}
    (value,) = _references(from_document(document, name=name, base=base)).values()
    return [Weights(one) for one in (value if isinstance(value, tuple) else [value]) if _is_loadable(one)]


def _weights_in(graph: GraphData) -> list[Weights]:
    """The weights that the nodes of a graph compute with which it has by itself, with the defaults of its inputs."""
    known, found = _references(graph), list[Weights]()
    for node in graph.nodes.values():
        if isinstance(node.kind, NodeDef) and node.kind.on == "device":
            for socket, link in node.links:
                if link.node in known:
                    value = known[link.node]
                    value = getattr(value, link.port) if link.port else value
                    weights = Weights(value, node.kind.sockets[socket].uses)
                    if _is_loadable(value) and weights not in found:
                        found.append(weights)
    return found


def _references(graph: GraphData) -> dict[str, Any]:
    """By node the references to weights that a graph makes with the defaults of its inputs.

    Raises:
        GraphEngineError: An input without a default decides about one, or one cannot be made.
    """
    makers = [id for id, node in graph.nodes.items() if isinstance(node.kind, NodeDef) and node.kind.makes_reference]
    part = subgraph(graph, [Link(id) for id in makers])
    plan = take_plan(part, bind_inputs(part, {}), None)
    plan.assign(makers)
    return {id: value for id, (value, _) in plan.references.items()}


def _is_loadable(value: Any) -> bool:
    """Whether a value is a reference to weights that a worker holds in memory."""
    known = socket_type(type(value))
    return known is not None and known.needs is not None and pack_of(type(value).__module__).load is not None
