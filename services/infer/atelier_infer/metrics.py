"""What `GET /metrics` says, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

IMAGE_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
STEP_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


Lot = Literal["champion", "canary", "aside", "unfit"]
"""`champion`, `canary`: whose lot it was, and who began to draw; `aside`, `unfit`: the canary's, but the champion draws, since
the canary takes no requests, or its base cannot draw this size or so many steps."""


class _Memory(Collector):
    def __init__(self, parts: Callable[[], Mapping[str, int]]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = GaugeMetricFamily("atelier_infer_memory_bytes", "Memory that is held, by what it is for", labels=["part"])
        for part, nbytes in self._parts().items():
            found.add_metric([part], nbytes)
        yield found


class Metrics:
    """A registry of its own, so that two services in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix = "atelier_infer_"
        self._images = Counter(
            f"{prefix}images", "Images, and how they ended", ["version", "alias", "outcome"], registry=self._registry
        )
        self._image_seconds = Histogram(
            f"{prefix}image_seconds",
            "Seconds from an image's first step to its pixels",
            ["version", "alias"],
            buckets=IMAGE_BOUNDS_S,
            registry=self._registry,
        )
        self._lots = Counter(f"{prefix}canary_lots", "Requests that drew a lot", ["outcome"], registry=self._registry)
        self._callbacks = Counter(f"{prefix}callbacks", "Callbacks, and how they ended", ["outcome"], registry=self._registry)
        self._redrawn = Counter(
            f"{prefix}canary_redrawn",
            "Requests that failed with the canary and were drawn by the champion",
            registry=self._registry,
        )
        self._seconds = Histogram(f"{prefix}step_seconds", "Seconds of a step", buckets=STEP_BOUNDS_S, registry=self._registry)
        self._rows = Histogram(
            f"{prefix}step_rows", "Rows of a step", buckets=(1, 2, 4, 6, 8, 12, 16, 32), registry=self._registry
        )
        self._together = Histogram(
            f"{prefix}step_images", "Images that shared a step", buckets=(1, 2, 3, 4, 6, 8, 16), registry=self._registry
        )

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"atelier_infer_{name}", help, registry=self._registry).set_function(read)

    def memory(self, limit_bytes: int, parts: Callable[[], Mapping[str, int]]) -> None:
        """The account of memory: its limit, and what is held now by what it is for."""
        Gauge("atelier_infer_memory_limit_bytes", "Memory that the service may use", registry=self._registry).set(limit_bytes)
        self._registry.register(_Memory(parts))

    def stepped(self, rows: int, images: int, seconds: float) -> None:
        """One step."""
        self._seconds.observe(seconds)
        self._rows.observe(rows)
        self._together.observe(images)

    def image(self, version: str, alias: str | None, outcome: str, seconds: float | None) -> None:
        """One image. Versions and aliases are those that the registry has; what no alias led to has an empty one.

        Args:
            version: a number, `base`, or `blend` whatever it is made of.
            alias: what led to the version.
            outcome: see `orders.Outcome`.
            seconds: from its first step to its pixels.
        """
        self._images.labels(version, alias or "", outcome).inc()
        if seconds is not None:
            self._image_seconds.labels(version, alias or "").observe(seconds)

    def traffic_bucket(self, outcome: Lot) -> None:
        """A request that left the version to the service, where there is a canary."""
        self._lots.labels(outcome).inc()

    def callback(self, outcome: str) -> None:
        """A callback that was `delivered` or `given_up`."""
        self._callbacks.labels(outcome).inc()

    def redrawn(self) -> None:
        """The champion drew what the canary failed to."""
        self._redrawn.inc()

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
