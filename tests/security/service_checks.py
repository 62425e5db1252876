"""What must be true of registry-api and infer after each attack."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ..integration.containers import port_of
from .services import MODEL, PORTS, Services


def services_run_on(services: Services) -> None:
    found, services.started = services.started, services.process_ids()
    if found != services.started:
        for service in PORTS:
            services.servers[service].port = port_of(services.servers[service].name, PORTS[service])
            services.servers[service].wait()
    assert services.started == found, "a service was killed and came back"


def champion_stays(services: Services) -> None:
    told = services.request("registry-api", "rita", "GET", f"/models/{MODEL}/aliases/champion", Cache_Control="no-cache").json
    asked = f"/api/2.0/mlflow/registered-models/alias?name={MODEL}&alias=champion"
    found = services.request("tracking", "rita", "GET", asked).json["model_version"]
    assert (told["version"], told["problem"], found["version"]) == (2, None, "2")
    assert found["run_id"] == services.names["run_2"]


def image_stays(services: Services) -> None:
    assert np.array_equal(np.frombuffer(services.pixels(), np.uint8), np.frombuffer(services.image, np.uint8))


def cache_stays(services: Services) -> None:
    """Nothing was changed or removed; what came is an adapter."""
    before, services.cache = set(services.cache.splitlines()), services.in_cache()
    after = set(services.cache.splitlines())
    assert before <= after
    assert all(re.search(r"  adapters/[0-9a-f]{64}/[a-z_]+\.(json|safetensors)$", line) for line in after - before)


CHECKS: dict[str, Callable[[Services], None]] = {
    "services": services_run_on,
    "champion": champion_stays,
    "image": image_stays,
    "cache": cache_stays,
}
"""What a row's `after` names."""
