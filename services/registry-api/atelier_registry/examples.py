"""Example values for OpenAPI, about one made-up model."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example

PROMOTE: dict[str, Example] = {
    "champion": {"summary": "make it the version that pictures are drawn with", "value": {"reason": "lowest validation loss"}},
    "another": {"summary": "any other alias", "value": {"alias": "candidate", "reason": "to be looked at by the class"}},
}
ROLL_BACK: dict[str, Example] = {
    "previous": {"summary": "to the version before", "value": {"reason": "hands came out wrong"}},
    "named": {"summary": "to a named version", "value": {"reason": "hands came out wrong", "version": 3}},
}
DECISION: dict[str, Any] = {
    "id": 12,
    "at": "2026-03-01T09:30:00Z",
    "actor": "ana",
    "action": "promote",
    "model": "pencil",
    "alias": "champion",
    "from_version": 3,
    "to_version": 4,
    "reason": "lowest validation loss",
}
VERSION: dict[str, Any] = {
    "model": "pencil",
    "version": 4,
    "kind": "adapter",
    "status": "READY",
    "created_at": "2026-03-01T09:12:44.120000Z",
    "description": "",
    "aliases": ["champion"],
    "tags": {"atelier.kind": "adapter"},
    "run_id": "7f0c9d2a4b5e4f6d8a1b2c3d4e5f6071",
}
MODEL: dict[str, Any] = {
    "name": "pencil",
    "description": "pencil drawings",
    "aliases": {"champion": 4},
    "latest_version": VERSION,
}
DETAIL: dict[str, Any] = VERSION | {
    "run": {
        "id": "7f0c9d2a4b5e4f6d8a1b2c3d4e5f6071",
        "name": "pencil rank 8",
        "status": "FINISHED",
        "params": {"rank": "8", "learning_rate": "0.0001"},
        "metrics": {"validation_loss": 0.1312},
    },
    "lineage": {
        "run_id": "7f0c9d2a4b5e4f6d8a1b2c3d4e5f6071",
        "bundle_digest": "3b" * 32,
        "dataset_digest": "9e" * 32,
        "git_revision": "1c2f7a9",
        "weights_sha256": "d4" * 32,
    },
    "evidence": {
        "format": 1,
        "output_finite": True,
        "onnx_max_error": 1.4e-06,
        "validation_loss": 0.1312,
        "base_validation_loss": 0.1466,
        "validation_digest": "70" * 32,
        "validation_images": 24,
    },
    "problems": [],
}


def of(example: Any) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint in OpenAPI: this example of a good answer."""
    return {200: {"content": {"application/json": {"example": example}}}}
