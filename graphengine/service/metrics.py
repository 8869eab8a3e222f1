"""Metrics of a service for Prometheus: events are counted as they come, states are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graphengine.errors import FileError
from graphengine.events import Kind
from graphengine.service.job_events import JobEvent, JobEventKind
from graphengine.service.service import Service

WAITS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics(Collector):
    """The metrics of a service, in `registry`.

        metrics = Metrics(service)
        metrics.serve(9100)

    Jobs by state are counts of the queue, whichever service ran them; `total` counts from the service's start.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.registry = registry = CollectorRegistry()
        of_node = ("node", "worker", "device")
        self.ended = Counter("graphengine_jobs_ended", "Jobs that ended here, by state.", ["state"], registry=registry)
        self.lost = Counter("graphengine_jobs_lost", "Attempts at jobs that were lost.", registry=registry)
        self.job_waits = Histogram(
            "graphengine_job_wait_seconds", "From submitted to begun.", buckets=WAITS, registry=registry
        )
        self.call_waits = Histogram(
            "graphengine_call_wait_seconds", "From ready to given to a worker.", buckets=WAITS, registry=registry
        )
        self.seconds = Counter("graphengine_node_seconds", "Seconds of workers.", of_node, registry=registry)
        self.calls = Counter("graphengine_node_calls", "Calls that workers computed.", of_node, registry=registry)
        self.values = Counter("graphengine_values", "Values of nodes, by how they came.", ["reuse"], registry=registry)
        self.joined = Histogram(
            "graphengine_batch_size", "Calls that were computed together, one entry a call.", buckets=SIZES,
            registry=registry,
        )  # fmt: skip
        registry.register(self)
        service.subscribe(self._hear)

    def serve(self, port: int) -> None:
        """Serve the metrics on a port of 127.0.0.1.

        Raises:
            FileError: The port is taken.
        """
        try:
            start_http_server(port, "127.0.0.1", self.registry)
        except OSError as error:
            raise FileError(f"metrics cannot be served on port {port}: {error.strerror}; take another one") from None

    def _hear(self, event: JobEvent) -> None:
        facts = event.facts
        match event.kind:
            case JobEventKind.RUNNING:
                self.job_waits.observe(max(0.0, facts["waited"]))
            case JobEventKind.DONE | JobEventKind.FAILED | JobEventKind.CANCELLED:
                self.ended.labels(str(event.kind)).inc()
            case JobEventKind.LOST:
                self.lost.inc()
            case JobEventKind.COMPUTED:
                labels = facts["type"], facts["worker"], facts["device"]
                self.seconds.labels(*labels).inc(facts["seconds"])
                self.calls.labels(*labels).inc()
                self.call_waits.observe(max(0.0, facts["waited"]))
                self.joined.observe(facts["together"])
            case Kind.NODE_FINISHED if event.event is not None and event.event.reuse is not None:
                self.values.labels(event.event.reuse.value).inc()

    def collect(self) -> Iterable[Metric]:
        """The states now."""
        jobs = GaugeMetricFamily("graphengine_jobs", "Jobs in the queue's file.", labels=["state"])
        for state, count in self.service.queue.counts().items():
            jobs.add_metric([state.value], count)
        yield jobs
        of_worker = ["worker", "device"]
        up = GaugeMetricFamily("graphengine_worker_up", "Whether a worker is ready or computing.", labels=of_worker)
        held = GaugeMetricFamily("graphengine_models_held", "Models in a worker's memory.", labels=of_worker)
        free = GaugeMetricFamily(
            "graphengine_memory_free_bytes", "What a worker can load before it lets go of models.", labels=of_worker
        )
        loads = CounterMetricFamily("graphengine_model_loads", "Models that a worker loaded.", labels=of_worker)
        deaths = CounterMetricFamily("graphengine_worker_deaths", "How often a worker was lost.", labels=of_worker)
        for status in self.service.backend.status() if self.service.active else ():
            labels = [status.name, status.device]
            up.add_metric(labels, status.state in ("ready", "computing"))
            held.add_metric(labels, status.held)
            if status.free is not None:
                free.add_metric(labels, status.free)
            loads.add_metric(labels, status.loads)
            deaths.add_metric(labels, status.deaths)
        yield from (up, held, free, loads, deaths)
