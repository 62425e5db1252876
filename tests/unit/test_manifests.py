"""A digest is the identity of what is registered: it must not change by itself, and must change with every value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from atelier_contracts.manifests import AdapterManifest, BundleManifest, Manifest, outdated_format

ADAPTER = {
    "bundle_digest": "a" * 64,
    "weights_sha256": "b" * 64,
    "layers": {"unet.x.to_q": {"rank": 4, "alpha": 2.5}},
    "run_id": "rün",
    "dataset_digest": None,
    "git_revision": None,
}
BUNDLE = {
    "family": "sd",
    "base": "small",
    "revision": None,
    "source_digest": "c" * 64,
    "opset": 20,
    "latent_channels": 4,
    "latent_scale": 0.18215,
    "vae_factor": 8,
    "size_multiple_px": 64,
    "native_size_px": 512,
    "prediction_type": "epsilon",
    "text_encoders": {"text_encoder": {"graph": "t.onnx", "tokenizer": "t.json", "tokens": 77, "pad_token_id": 0}},
    "lora": {"unet": {"attention": {"x.to_q": (4, 6, 1)}}, "text_encoder": {}},
    "files": {"unet.onnx": "d" * 64},
}


@pytest.mark.parametrize(
    ("manifest", "digest"),
    [
        (AdapterManifest(**ADAPTER), "043247d9136c88b31c7643fcf0be0ed83214d613dcb12fe1f58e6491f90b0f38"),
        (BundleManifest(**BUNDLE), "f6a49c3ea6a22d36bc712c1f9b07a5d6f1c6a6dda5b2c33f3964923ef885dd18"),
    ],
)
def test_a_release_does_not_change_the_digest_of_what_is_registered(manifest: Manifest, digest: str) -> None:
    assert manifest.digest() == digest
    assert type(manifest).model_validate_json(manifest.model_dump_json(indent=2)).digest() == digest


def test_a_new_field_does_not_change_the_digest_of_what_is_registered() -> None:
    class Later(AdapterManifest):
        mood: str | None = None

    file = AdapterManifest(**ADAPTER).model_dump_json()
    assert Later.model_validate_json(file).digest() == AdapterManifest(**ADAPTER).digest()
    assert Later(**ADAPTER, mood="calm").digest() != AdapterManifest(**ADAPTER).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"layers": {"unet.x.to_q": {"rank": 4, "alpha": 2.0}}},
        {"layers": {"unet.x.to_k": {"rank": 4, "alpha": 2.5}}},
        {"bundle_digest": "e" * 64},
        {"weights_sha256": "e" * 64},
        {"dataset_digest": "e" * 64},
        {"style": {"title": "Ink"}},
        {"preview_sha256": "e" * 64},
        {"style": {"recommended": {"steps": 30}}},
        {"imported_from": {"file": "x", "sha256": "f" * 64, "naming": "kohya", "network": "lora", "max_error": 0.0}},
    ],
)
def test_every_value_changes_the_digest(change: dict[str, Any]) -> None:
    assert AdapterManifest(**ADAPTER | change).digest() != AdapterManifest(**ADAPTER).digest()


def test_only_format_1_is_reported_as_outdated() -> None:
    assert "import WEIGHTS --base BASE" in (outdated_format(json.dumps({"format": 1})) or "")
    assert [outdated_format(text) for text in ('{"format": 2}', "[]", "nonsense", '{"format": "1"}')] == [None] * 4
