"""What `GET /metrics` says, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STEP_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class Metrics:
    """A registry of its own, so that two services in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix = "atelier_infer_"
        self._pictures = Counter(
            f"{prefix}pictures", "Pictures by version and how they ended", ["version", "outcome"], registry=self._registry
        )
        self._seconds = Histogram(f"{prefix}step_seconds", "Seconds of a step", buckets=STEP_BOUNDS_S, registry=self._registry)
        self._rows = Histogram(
            f"{prefix}step_rows", "Rows of a step", buckets=(1, 2, 4, 6, 8, 12, 16, 32), registry=self._registry
        )
        self._together = Histogram(
            f"{prefix}step_pictures", "Pictures that shared a step", buckets=(1, 2, 3, 4, 6, 8, 16), registry=self._registry
        )

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"atelier_infer_{name}", help, registry=self._registry).set_function(read)

    def stepped(self, rows: int, pictures: int, seconds: float) -> None:
        """One step."""
        self._seconds.observe(seconds)
        self._rows.observe(rows)
        self._together.observe(pictures)

    def picture(self, version: str, outcome: str) -> None:
        """One picture: `drawn`, `unsound` (blank or not finite), `failed`, `cancelled`."""
        self._pictures.labels(version, outcome).inc()

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
