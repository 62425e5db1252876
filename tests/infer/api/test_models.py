"""/models."""

from __future__ import annotations

from pathlib import Path

import pytest
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.styles import Style

from ..conftest import Service


def test_models_shows_what_is_loaded(
    service: Service, adapter: tuple[Path, AdapterManifest], bundle: tuple[Path, BundleManifest]
) -> None:
    reported = service.client.get("/models").json()
    assert reported.pop("cache_mib") > 0
    memory = reported.pop("memory")
    assert set(memory["used_mib"]) == {
        "process", "profiling", "bundles", "adapters", "concatenated_adapters", "images", "uploads", "arena"
    }  # fmt: skip
    assert memory["free_mib"] == pytest.approx(memory["limit_mib"] - sum(memory["used_mib"].values()), abs=1)
    assert reported == {
        "model": "sketches",
        "scheduler": "ddim",
        "provider": "cpu",
        "adapters_mib": 0.0,
        "aliases": {
            "champion": {
                "target_version": 1,
                "serving_version": 1,
                "adapter_digest": adapter[1].digest(),
                "reverted_version": None,
                "problem": None,
            }
        },
        "canary": None,
        "adapters": [
            {
                "version": 1,
                "style": Style().model_dump(mode="json"),
                "preview": None,
                "adapter_digest": adapter[1].digest(),
                "bundle_digest": bundle[1].digest(),
                "rank": 2,
                "size_mib": 0.0,
            }
        ],
        "bundles": [{"bundle_digest": bundle[1].digest(), "base_model": "tiny/base", "native_size_px": 32}],
        "admitted_images": 0,
        "cache_limit_mib": 16384,
    }
