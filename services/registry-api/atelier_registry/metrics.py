"""Metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from atelier_contracts.promotion import Decision
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "atelier_registry_"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Metrics:
    """Uses a collector registry of its own, so that two services in one process stay separate."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            f"{PREFIX}request_seconds",
            "Duration of requests by route, method and status",
            ["route", "method", "status"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._decisions = Counter(
            f"{PREFIX}decisions", "Entries in the chain, by action and outcome", ["action", "outcome"], registry=self._registry
        )

    def add_gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Registers a value that is read at each scrape."""
        Gauge(f"{PREFIX}{name}", help, registry=self._registry).set_function(read)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request that has ended. `route` is its path's pattern, so that paths create no new series."""
        self._requests.labels(route, method, str(status)).observe(seconds)

    def count_decision(self, decision: Decision) -> None:
        """Counts a new entry of a decision."""
        self._decisions.labels(decision.action, decision.outcome).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
