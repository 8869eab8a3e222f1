"""Old names of modules, functions and classes: they can still be imported for one more version, with a warning.

Keys and stored values hold the old names for good: a key that was made before a move stays the same, and a value that
was written before it can still be read.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

MODULES: dict[str, str] = {
    "graphengine.arrays": "graphengine.values.arrays",
    "graphengine.buffers": "graphengine.values.buffers",
    "graphengine.build": "graphengine.graph.build",
    "graphengine.building": "graphengine.declare.building",
    "graphengine.callables": "graphengine.declare.callables",
    "graphengine.canonical": "graphengine.values.canonical",
    "graphengine.checksum": "graphengine.values.checksum",
    "graphengine.codewalk": "graphengine.keys.code",
    "graphengine.combine": "graphengine.graph.combine",
    "graphengine.content": "graphengine.keys.content",
    "graphengine.context": "graphengine.declare.context",
    "graphengine.definition": "graphengine.declare.definition",
    "graphengine.devices": "graphengine.system.devices",
    "graphengine.display": "graphengine.execution.display",
    "graphengine.draw": "graphengine.show.draw",
    "graphengine.draw_layout": "graphengine.show.layout",
    "graphengine.elements": "graphengine.graph.elements",
    "graphengine.evaluate": "graphengine.execution.run",
    "graphengine.executor": "graphengine.execution.evaluate",
    "graphengine.expand": "graphengine.execution.expand",
    "graphengine.files": "graphengine.keys.files",
    "graphengine.flow": "graphengine.graph.flow",
    "graphengine.graph": "graphengine.graph.data",
    "graphengine.graph_key": "graphengine.graph.graph_hash",
    "graphengine.guard": "graphengine.execution.guard",
    "graphengine.history": "graphengine.results.history",
    "graphengine.inference": "graphengine.graph.type_inference",
    "graphengine.inputs": "graphengine.planning.inputs",
    "graphengine.keys": "graphengine.keys.call_key",
    "graphengine.launch": "graphengine.execution.launcher",
    "graphengine.literals": "graphengine.values.literals",
    "graphengine.metadata": "graphengine.provenance.describe",
    "graphengine.missing_files": "graphengine.graph.missing_files",
    "graphengine.mutation": "graphengine.keys.mutation",
    "graphengine.node_groups": "graphengine.declare.node_groups",
    "graphengine.node_help": "graphengine.declare.node_help",
    "graphengine.notebook": "graphengine.show.notebook",
    "graphengine.opening": "graphengine.system.opening",
    "graphengine.order": "graphengine.graph.order",
    "graphengine.outputs": "graphengine.results.outputs",
    "graphengine.plan": "graphengine.planning.plan",
    "graphengine.private": "graphengine.system.private",
    "graphengine.quiet": "graphengine.warning_filters",
    "graphengine.record": "graphengine.results.record",
    "graphengine.registry": "graphengine.declare.registry",
    "graphengine.report": "graphengine.show.report",
    "graphengine.report_page": "graphengine.show.report_page",
    "graphengine.runner": "graphengine.execution.runner",
    "graphengine.schema": "graphengine.workflow.schema",
    "graphengine.selection": "graphengine.graph.selection",
    "graphengine.service.account": "graphengine.service.job_report",
    "graphengine.service.calls": "graphengine.service.workers.calls",
    "graphengine.service.channel": "graphengine.system.channel",
    "graphengine.service.database": "graphengine.service.jobs.database",
    "graphengine.service.deaths": "graphengine.service.workers.deaths",
    "graphengine.service.document": "graphengine.service.jobs.request",
    "graphengine.service.doing": "graphengine.service.job_activity",
    "graphengine.service.durations": "graphengine.service.scheduling.durations",
    "graphengine.service.fitness": "graphengine.service.workers.compatibility",
    "graphengine.service.happenings": "graphengine.service.job_events",
    "graphengine.service.here": "graphengine.service.socket_server",
    "graphengine.service.inbox": "graphengine.service.workers.in_process_pipe",
    "graphengine.service.inline": "graphengine.service.workers.inline",
    "graphengine.service.job_runner": "graphengine.service.workers.job_runner",
    "graphengine.service.jobs": "graphengine.service.jobs.job",
    "graphengine.service.lease": "graphengine.service.jobs.lease",
    "graphengine.service.limits": "graphengine.service.scheduling.batch_limits",
    "graphengine.service.local": "graphengine.service.workers.process",
    "graphengine.service.posts": "graphengine.service.workers.worker_state",
    "graphengine.service.process_tree": "graphengine.system.process_tree",
    "graphengine.service.queue": "graphengine.service.jobs.queue",
    "graphengine.service.ray_cluster": "graphengine.service.workers.ray_cluster",
    "graphengine.service.ray_workers": "graphengine.service.workers.ray_workers",
    "graphengine.service.results": "graphengine.service.job_results",
    "graphengine.service.running": "graphengine.service.job_run",
    "graphengine.service.schedule": "graphengine.service.scheduling.scheduler",
    "graphengine.service.submit": "graphengine.service.jobs.submit",
    "graphengine.service.tables": "graphengine.service.jobs.tables",
    "graphengine.service.trouble": "graphengine.service.shortages",
    "graphengine.service.wire": "graphengine.service.workers.wire",
    "graphengine.service.worker": "graphengine.service.workers.worker",
    "graphengine.service.workers": "graphengine.service.workers.pool",
    "graphengine.service.written": "graphengine.service.workers.streams",
    "graphengine.shipped": "graphengine.declare.shipped",
    "graphengine.sockets": "graphengine.declare.sockets",
    "graphengine.staging": "graphengine.system.staging",
    "graphengine.steps": "graphengine.provenance.steps",
    "graphengine.task": "graphengine.planning.task",
    "graphengine.terminal": "graphengine.system.terminal",
    "graphengine.threads": "graphengine.system.threads",
    "graphengine.types": "graphengine.values.socket_types",
    "graphengine.validate": "graphengine.graph.validate",
    "graphengine.workflow": "graphengine.workflow.files",
    "graphengine.workflow_copy": "graphengine.workflow.copies",
    "graphengine.workflow_read": "graphengine.workflow.read",
    "graphengine.workflow_write": "graphengine.workflow.write",
    "graphengine.yaml12": "graphengine.workflow.yaml12",
    "graphengine.yaml12_write": "graphengine.workflow.yaml12_write",
    "graphengine_nodes.annotator_kinds": "graphengine_nodes.nodes.annotator_kinds",
    "graphengine_nodes.annotators": "graphengine_nodes.nodes.annotators",
    "graphengine_nodes.changes": "graphengine_nodes.store.changes",
    "graphengine_nodes.checkpoints": "graphengine_nodes.weights.files",
    "graphengine_nodes.control": "graphengine_nodes.nodes.control",
    "graphengine_nodes.devices": "graphengine_nodes.weights.devices",
    "graphengine_nodes.families.inputs": "graphengine_nodes.families.arguments",
    "graphengine_nodes.families.running": "graphengine_nodes.families.pipelines",
    "graphengine_nodes.grid": "graphengine_nodes.nodes.grid",
    "graphengine_nodes.hypernetworks": "graphengine_nodes.store.hypernetworks",
    "graphengine_nodes.images": "graphengine_nodes.nodes.images",
    "graphengine_nodes.latents": "graphengine_nodes.nodes.latents",
    "graphengine_nodes.loading": "graphengine_nodes.weights.reading",
    "graphengine_nodes.masked": "graphengine_nodes.nodes.repaint",
    "graphengine_nodes.masks": "graphengine_nodes.nodes.masks",
    "graphengine_nodes.metadata": "graphengine_nodes.values.picture_text",
    "graphengine_nodes.models": "graphengine_nodes.nodes.models",
    "graphengine_nodes.objects": "graphengine_nodes.store.handed_in",
    "graphengine_nodes.options": "graphengine_nodes.nodes.options",
    "graphengine_nodes.pictures": "graphengine_nodes.values.picture_files",
    "graphengine_nodes.preprocessors": "graphengine_nodes.nodes.preprocessors",
    "graphengine_nodes.previews": "graphengine_nodes.nodes.previews",
    "graphengine_nodes.prompts": "graphengine_nodes.nodes.prompts",
    "graphengine_nodes.references": "graphengine_nodes.values.references",
    "graphengine_nodes.sampling": "graphengine_nodes.nodes.sampling",
    "graphengine_nodes.schedulers": "graphengine_nodes.families.noise_schedulers",
    "graphengine_nodes.settings": "graphengine_nodes.nodes.settings",
    "graphengine_nodes.templates": "graphengine_nodes.nodes.templates",
    "graphengine_nodes.testing": "graphengine_nodes.testing.sd",
    "graphengine_nodes.testing_annotators": "graphengine_nodes.testing.annotators",
    "graphengine_nodes.testing_flux": "graphengine_nodes.testing.flux",
    "graphengine_nodes.testing_xl": "graphengine_nodes.testing.sdxl",
    "graphengine_nodes.types": "graphengine_nodes.values.types",
    "graphengine_nodes.upscale": "graphengine_nodes.nodes.upscale",
    "graphengine_nodes.weighting": "graphengine_nodes.families.prompt_weights",
    "graphengine_nodes.weights": "graphengine_nodes.store.store",
    "multigen.pipes.draws": "multigen.pipes.random_draws",
    "multigen.pipes.watch": "multigen.tracking",
}
"""The old name of each module that moved, and its name now."""

NAMES: dict[str, dict[str, str]] = {
    "graphengine.elements": {"Node": "graphengine.graph.data"},
    "graphengine.evaluate": {
        "bind_inputs": "graphengine.planning.inputs",
        "check_changes": "graphengine.graph.revalidate",
        "folder_of": "graphengine.graph.data",
        "packs_of": "graphengine.graph.order",
        "take_plan": "graphengine.planning.plan",
        "wanted_links": "graphengine.graph.selection",
    },
    "graphengine.executor": {"Drive": "graphengine.execution.evaluate:Evaluation"},
    "graphengine.files": dict.fromkeys(("cache_folder", "home"), "graphengine.system.folders"),
    "graphengine.graph": {
        "Graph": "graphengine.api",
        "building": "graphengine.declare.building",
        "not_building": "graphengine.declare.building",
    },
    "graphengine.keys": {
        **dict.fromkeys(("PLAIN", "NotData", "canonical", "digest", "token"), "graphengine.values.canonical"),
        "graph_key": "graphengine.graph.graph_hash",
        "topological": "graphengine.graph.order",
    },
    "graphengine.cli.cache": {"told": "graphengine.cli.cache:size_text"},
    "graphengine.cli.completion": {"Line": "graphengine.cli.completion:TypedLine"},
    "graphengine.cli.nodes": {
        "facts": "graphengine.declare.node_facts:node_facts",
        "found": "graphengine.cli.nodes:matching",
        "socket_facts": "graphengine.declare.node_facts:socket_facts",
    },
    "graphengine.cli.sheet": {"Cell": "graphengine.cli.sheet:SheetCell"},
    "graphengine.keys.code": {"Walk": "graphengine.keys.code:CodeWalk"},
    "graphengine.keys.content": {
        "Content": "graphengine.keys.content:ContentReader",
        "Layout": "graphengine.keys.content:ClassLayout",
    },
    "graphengine.outputs": {"write_file": "graphengine.system.staging"},
    "graphengine.pack": {
        "Home": "graphengine.pack:Origin",
        "home": "graphengine.pack:origin",
        "libraries": "graphengine.pack:library_versions",
        "read_anew": "graphengine.pack:folder_reloaded",
        "stamp": "graphengine.pack:version_stamp",
    },
    "graphengine.progress.notebook": {"Cell": "graphengine.progress.notebook:NotebookBars"},
    "graphengine.results.outputs": {"Writer": "graphengine.results.outputs:OutputWriter"},
    "graphengine.plan": dict.fromkeys(
        ("default_paths", "holds_paths", "is_default", "literal"), "graphengine.planning.arguments"
    ),
    "graphengine.service.account": {"account": "graphengine.service.job_report:job_page"},
    "graphengine.service.calls": {
        "ATTEMPTS": "graphengine.service.retry:CRASHES",
        "Claims": "graphengine.service.workers.calls:JobPolicy",
        "KILLS": "graphengine.service.retry:KILLS_PER_CRASH",
        "Landed": "graphengine.service.workers.calls:CallReport",
        "how_of": "graphengine.service.workers.calls:environment_digest",
        "stays": "graphengine.service.workers.calls:runs_in_service",
    },
    "graphengine.service.deaths": {
        "Fault": "graphengine.service.retry",
        "SENT": "graphengine.service.retry:KILLING_SIGNALS",
    },
    "graphengine.service.document": {"Request": "graphengine.service.jobs.request:JobRequest"},
    "graphengine.service.doing": {"Doing": "graphengine.service.job_activity:JobActivity"},
    "graphengine.service.fitness": {
        "absent": "graphengine.service.workers.compatibility:missing_device",
        "code": "graphengine.service.workers.compatibility:source_hashes",
        "unfit": "graphengine.service.workers.compatibility:why_incompatible",
    },
    "graphengine.service.here": {
        "Announcer": "graphengine.service.socket_server:SocketServer",
        "LONGEST": "graphengine.service.socket_server:LONGEST_REQUEST",
        "LOOK": "graphengine.service.socket_server:CHECK_SECONDS",
        **dict.fromkeys(("queue_file", "state_folder"), "graphengine.system.folders"),
        **dict.fromkeys(("doing", "hello", "watch"), "graphengine.service.socket_client"),
        "identity": "graphengine.service.identity",
    },
    "graphengine.service.inbox": {"Inbox": "graphengine.service.workers.in_process_pipe:InProcessPipe"},
    "graphengine.service.lease": {
        "DEATHS": "graphengine.service.retry:SERVICES",
        "LONGEST": "graphengine.service.jobs.lease:LONGEST_ERROR",
    },
    "graphengine.service.local": {
        "Lost": "graphengine.service.workers.process:OnLost",
        "Told": "graphengine.service.workers.process:OnMessage",
    },
    "graphengine.service.posts": {
        "OTHERS": "graphengine.service.retry",
        "PACE": "graphengine.service.retry",
        "PAUSE": "graphengine.service.retry:WORKER_PAUSES",
        "Post": "graphengine.service.workers.worker_state:WorkerState",
        "STARTING": "graphengine.service.retry:HELPER_START",
        "STARTS": "graphengine.service.retry",
        "TAKEN": "graphengine.service.retry:ACKNOWLEDGED",
        "USELESS": "graphengine.service.retry:UNUSABLE",
        "Waiting": "graphengine.service.workers.worker_state:PendingCall",
    },
    "graphengine.service.ray_workers": {
        "PATIENCE": "graphengine.service.retry:RAY_START",
        "ray_service": "graphengine.service.start_ray",
    },
    "graphengine.service.running": {"IN_ORDER": "graphengine.service.scheduling.fairness"},
    "graphengine.service.schedule": {
        **dict.fromkeys(("LOADS", "MANY", "OVERTAKINGS"), "graphengine.service.scheduling.fairness"),
        "Worker": "graphengine.service.scheduling.scheduler:WorkerView",
    },
    "graphengine.service.service": {
        "CONCURRENCY": "graphengine.service.scheduling.fairness",
        "LOOK": "graphengine.service.service:JOBS_READ",
        "PATIENCE": "graphengine.service.service:START_SECONDS",
        "SUSPECT": "graphengine.service.retry",
    },
    "graphengine.service.trouble": {
        "ALONE": "graphengine.service.retry:SHORTAGES",
        "Caution": "graphengine.service.shortages:ConcurrencyLimit",
        "PAUSES": "graphengine.service.retry:SHORTAGE_PAUSES",
    },
    "graphengine.service.workers": {
        "ABSENCE": "graphengine.service.workers.pool:SUSPENDED",
        "LULL": "graphengine.service.workers.pool:FOLLOWERS",
    },
    "graphengine.show.report": {"Recorder": "graphengine.show.report:ReportRecorder"},
    "graphengine.system.devices": {"KINDS": "graphengine.system.devices:DEVICE_TYPES"},
    "graphengine.system.threads": {"Waiting": "graphengine.system.threads:LaneCall"},
    "graphengine.values.checksum": {"Walk": "graphengine.values.checksum:ValueWalk"},
    "graphengine.task": dict.fromkeys(("token_of", "value_of"), "graphengine.planning.arguments"),
    "graphengine.workflow": {"load": "graphengine.api", "loads": "graphengine.api"},
    "graphengine.workflow.write": {"Writer": "graphengine.workflow.write:WorkflowWriter"},
    "graphengine.yaml12": {"dump": "graphengine.workflow.yaml12_write"},
    "graphengine_nodes.annotator_kinds": {
        "Kind": "graphengine_nodes.nodes.annotator_kinds:AnnotatorKind",
        "Network": "graphengine_nodes.nodes.annotator_kinds:AnnotatorNetwork",
    },
    "graphengine_nodes.changes": {"Change": "graphengine_nodes.store.changes:ModuleChange"},
    "graphengine_nodes.checkpoints": {"Weights": "graphengine_nodes.weights.files:WeightFiles"},
    "graphengine_nodes.families": {
        **dict.fromkeys(("Components", "Factors", "Repaint", "Step"), "graphengine_nodes.families.family"),
        "Request": "graphengine_nodes.families.family:SampleRequest",
    },
    "graphengine_nodes.families.running": {"run": "graphengine_nodes.families.pipelines:sample_with"},
    "graphengine_nodes.previews": {"stretched": "graphengine_nodes.values.picture_files"},
    "graphengine_nodes.upscale": {"Network": "graphengine_nodes.nodes.upscale:UpscaleNetwork"},
    "graphengine_nodes.weights": {"Store": "graphengine_nodes.store.store:WeightStore"},
    "multigen.pipes.building": {"Call": "multigen.pipes.building:PipeCall"},
    "multigen.pipes.draws": {
        "Draws": "multigen.pipes.random_draws:RandomDraws",
        "draws": "multigen.pipes.random_draws:random_draws",
    },
    "multigen.pipes.weights": {"Weights": "multigen.pipes.weights:PipeWeights"},
}
"""By module, the names that left it or were renamed in it: `module` where a name is now, or `module:new_name`."""

_OLD_MODULES = {new: old for old, new in MODULES.items()}


def _split(place: str, name: str) -> tuple[str, str]:
    """The module and the name that an entry of `NAMES` gives for a name."""
    module, _, renamed = place.partition(":")
    return module, renamed or name


_OLD_NAMES = {_split(new, name): (old, name) for old, names in NAMES.items() for name, new in names.items()}


def place_in_keys(module: str, qualname: str) -> tuple[str, str]:
    """The module and the qualified name under which keys and stored values hold a function or a class: its first ones.

    Args:
        module: The module that it is in now.
        qualname: Its qualified name now.
    """
    top, dot, rest = qualname.partition(".")
    old = _OLD_NAMES.get((module, top))
    if old is None:
        return _OLD_MODULES.get(module, module), qualname
    return _OLD_MODULES.get(old[0], old[0]), old[1] + dot + rest


def home_in_keys(module: str, name: str) -> str:
    """The module under which keys and stored values hold a function or a class (see `place_in_keys`)."""
    return place_in_keys(module, name)[0]


def name_in_keys(cls: type) -> tuple[str, str]:
    """The module and the qualified name of a class, as they stand in keys and stored values."""
    return place_in_keys(cls.__module__, cls.__qualname__)


def place_now(module: str, qualname: str) -> tuple[str, str]:
    """The module and the qualified name, today, of what a key or a stored value calls `qualname` in `module`."""
    top, dot, rest = qualname.partition(".")
    if top not in NAMES.get(module, ()):
        module = MODULES.get(module, module)
    place = NAMES.get(module, {}).get(top)
    if place is None:
        return module, qualname
    new, new_name = _split(place, top)
    return new, new_name + dot + rest


def moved(old: str) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds the names which left it, or were renamed in it, and warns of each."""

    def get(name: str) -> Any:
        place = NAMES.get(old, {}).get(name) or MODULES.get(old)
        if name.startswith("__") or place is None:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        new, new_name = _split(place, name)
        try:
            value = getattr(importlib.import_module(new), new_name)
        except AttributeError:
            raise AttributeError(f"module {old!r} has no attribute {name!r}") from None
        warnings.warn(f"{old}.{name} is {new}.{new_name} now", DeprecationWarning, stacklevel=2)
        return value

    return get
