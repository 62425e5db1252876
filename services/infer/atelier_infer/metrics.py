"""Metrics of `GET /metrics`, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

IMAGE_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
STEP_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
PREFIX = "atelier_infer_"


class _Memory(Collector):
    def __init__(self, usage: Callable[[], Mapping[str, int]]) -> None:
        self._usage = usage

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(f"{PREFIX}memory_bytes", "Memory in use by purpose", labels=["part"])
        for part, nbytes in self._usage().items():
            family.add_metric([part], nbytes)
        yield family


class Metrics:
    """Has a registry of its own, so that two services in one process do not share metrics."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._images = self._counter("images", "Images by outcome", "version", "alias", "outcome")
        self._canary_assignments = self._counter("canary_assignments", "Requests by who serves them", "assignment")
        self._canary_fallbacks = self._counter("canary_fallbacks", "Requests that the canary failed and the champion served")
        self._webhooks = self._counter("webhooks", "Webhooks by outcome", "outcome")
        self._image_duration = self._histogram(
            "image_duration_seconds", "From an image's first step to its pixels", IMAGE_BUCKETS_S, "version", "alias"
        )
        self._step_duration = self._histogram("step_duration_seconds", "Duration of a step", STEP_BUCKETS_S)
        self._step_rows = self._histogram("step_rows", "Batch rows of a step", (1, 2, 4, 6, 8, 12, 16, 32))
        self._step_images = self._histogram("step_images", "Images in a step", (1, 2, 3, 4, 6, 8, 16))

    def add_gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """`read` is called at each scrape."""
        Gauge(PREFIX + name, help, registry=self._registry).set_function(read)

    def add_memory(self, limit_bytes: int, usage: Callable[[], Mapping[str, int]]) -> None:
        """`usage` returns bytes by purpose."""
        Gauge(f"{PREFIX}memory_limit_bytes", "Memory that the service may use", registry=self._registry).set(limit_bytes)
        self._registry.register(_Memory(usage))

    def step(self, rows: int, images: int, seconds: float) -> None:
        self._step_duration.observe(seconds)
        self._step_rows.observe(rows)
        self._step_images.observe(images)

    def image(self, version: str, alias: str | None, outcome: str, seconds: float | None) -> None:
        """One image.

        Args:
            version: a number, `base`, or `blend` for all blends, to bound the number of time series.
            alias: that led to the version.
            outcome: see `job.ImageOutcome`.
            seconds: from its first step to its pixels.
        """
        self._images.labels(version, alias or "", outcome).inc()
        if seconds is not None:
            self._image_duration.labels(version, alias or "").observe(seconds)

    def canary_assignment(self, assignment: str) -> None:
        """See `canary.Assignment`."""
        self._canary_assignments.labels(assignment).inc()

    def canary_fallback(self) -> None:
        self._canary_fallbacks.inc()

    def webhook(self, outcome: str) -> None:
        """`delivered` or `failed`."""
        self._webhooks.labels(outcome).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help, labels, registry=self._registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, help, labels, buckets=buckets, registry=self._registry)
