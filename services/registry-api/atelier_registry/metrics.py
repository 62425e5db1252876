"""What `GET /metrics` says, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from atelier_contracts.promotion import Decision
from atelier_contracts.tokens import Role
from fastapi import APIRouter, Depends, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from atelier_registry.api.auth import needs
from atelier_registry.problems import documented

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Metrics:
    """A registry of its own, so that two services in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix = "atelier_registry_"
        self._requests = Histogram(
            f"{prefix}request_seconds",
            "Seconds of a request by route, method and status",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._decisions = Counter(
            f"{prefix}decisions", "Entries in the chain, by action and outcome", ["action", "outcome"], registry=self._registry
        )

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"atelier_registry_{name}", help, registry=self._registry).set_function(read)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request that has ended. `route` is the pattern of its path, so that addresses make no new series."""
        self._requests.labels(route, method, str(status)).observe(seconds)

    def decision(self, decision: Decision) -> None:
        """A decision that has a new entry."""
        self._decisions.labels(decision.action, decision.outcome).inc()

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


def metrics_router(metrics: Metrics) -> APIRouter:
    """The endpoint."""
    router = APIRouter(tags=["health"], dependencies=[Depends(needs(Role.reader))])

    @router.get(
        "/metrics",
        response_class=Response,
        responses=documented() | {200: {"content": {"text/plain": {}}, "description": "text"}},
    )
    def exposition() -> Response:
        """Prometheus' text format: requests by route, decisions, changed files, the state of the chain."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
