"""Example values for OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example

PROMOTE: dict[str, Example] = {
    "champion": {"summary": "the version that infer serves by default", "value": {"reason": "lowest validation loss"}},
    "another": {"summary": "any other alias", "value": {"alias": "candidate", "reason": "for review by the class"}},
}
ROLL_BACK: dict[str, Example] = {
    "previous": {"summary": "to the previous version", "value": {"reason": "wrong proportions"}},
    "named": {"summary": "to a named version", "value": {"reason": "wrong proportions", "version": 3}},
}
REASON: dict[str, Example] = {"reason": {"summary": "why", "value": {"reason": "reviewed by the class"}}}
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
    "outcome": "done",
    "done_at": "2026-03-01T09:30:00.180000Z",
    "forced": False,
    "approved_by": None,
    "adapter_digest": "5c" * 32,
    "chain_entry": 27,
    "chain_hash": "a7" * 32,
    "verdicts": [
        {
            "rule": "onnx_error",
            "passed": True,
            "reason": "ONNX differs from torch by 1.4e-06; at most 0.001 is allowed",
            "numbers": {"onnx_max_error": 1.4e-06, "at_most": 0.001},
            "binding": False,
        }
    ],
}
EDIT_STYLE: dict[str, Example] = {
    "edit": {
        "summary": "a title, other recommended steps",
        "value": {"reason": "sharper lines", "style": {"title": "Pencil", "recommended": {"steps": 30}}},
    },
    "take back": {"summary": "an edit is taken back", "value": {"reason": "as trained", "style": {"title": None}}},
}
_DESCRIPTION: dict[str, Any] = {
    "title": "Pencil",
    "description": None,
    "author": None,
    "licence": "CC-BY-4.0",
    "trigger_words": ["pencil sketch"],
    "tags": [],
}
STYLE: dict[str, Any] = {
    "model": "pencil",
    "version": 4,
    "style": _DESCRIPTION | {"recommended": {"scale": 0.8, "steps": 30, "scheduler": None, "guidance_scale": None}},
    "sources": {
        "licence": "version",
        "recommended.scale": "version",
        "recommended.steps": "edit",
        "title": "edit",
        "trigger_words": "version",
    },
    "edits": {
        "title": "Pencil",
        "description": None,
        "author": None,
        "licence": None,
        "trigger_words": None,
        "tags": None,
        "recommended": {"scale": None, "steps": 30, "scheduler": None, "guidance_scale": None},
    },
    "decision": 14,
    "preview": "/models/pencil/versions/4/preview",
    "problem": None,
}
STYLE_DECISION: dict[str, Any] = DECISION | {
    "id": 14,
    "action": "style",
    "alias": None,
    "from_version": None,
    "to_version": None,
    "reason": "sharper lines",
    "verdicts": [],
    "adapter_digest": None,
    "style": {"before": dict.fromkeys(STYLE["edits"]), "after": STYLE["edits"]},
}
ALIAS: dict[str, Any] = {
    "model": "pencil",
    "alias": "champion",
    "version": 4,
    "since": "2026-03-01T09:30:00.180000Z",
    "decision": 12,
    "adapter_digest": "5c" * 32,
    "problem": None,
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
    "run": None,
}
MODEL: dict[str, Any] = {
    "name": "pencil",
    "description": "pencil drawings",
    "aliases": {"champion": 4},
    "latest_version": VERSION,
    "problems": [],
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
        "imported_from": None,
    },
    "evidence": {
        "weights_sha256": "d4" * 32,
        "format": 1,
        "output_finite": True,
        "onnx_max_error": 1.4e-06,
        "validation_loss": 0.1312,
        "base_validation_loss": 0.1466,
        "validation_digest": "70" * 32,
        "validation_images": 24,
    },
    "style": _DESCRIPTION | {"recommended": {"scale": 0.8, "steps": None, "scheduler": None, "guidance_scale": None}},
    "preview": "/models/pencil/versions/4/preview",
    "problems": [],
}
IMAGES: dict[str, Any] = {
    "images": [
        {
            "key": "validation",
            "step": 480,
            "path": "/models/pencil/versions/4/image?path=images%2Fvalidation%25step%25480%25timestamp%251%250a.png",
        }
    ]
}
CURVE: dict[str, Any] = {"metric": "ema_loss", "points": [{"step": 1, "value": 0.31}, {"step": 480, "value": 0.14}]}
GENERATE: dict[str, Example] = {
    "two": {
        "summary": "candidate and champion",
        "value": {"versions": [3, 4], "images": [{"prompt": "a cat", "seed": 7, "steps": 8}]},
    }
}
GENERATED: dict[str, Any] = {"results": [{"version": 3, "staged": None, "problem": "infer does not answer (ConnectionError)"}]}
COMPARISON: dict[str, Any] = {
    "left": DETAIL,
    "right": DETAIL | {"version": 5, "aliases": []},
    "params": {"rank": {"left": "8", "right": "16", "difference": None}},
    "metrics": {"validation_loss": {"left": 0.1312, "right": 0.1275, "difference": -0.0037}},
    "losses_comparable": True,
}
SUBSCRIBER: dict[str, Any] = {
    "name": "ci",
    "url": "https://ci.example.com/hooks/atelier",
    "models": ["pencil"],
    "aliases": None,
    "last_event_id": 41,
    "pending_events": 1,
    "failed_attempts": 3,
    "problem": "answered 502",
    "next_attempt_at": "2026-03-01T09:30:08Z",
    "last_delivered_at": "2026-02-27T16:04:00.310000Z",
}


def of(example: Any) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint in OpenAPI, with an example of a successful one."""
    return {200: {"content": {"application/json": {"example": example}}}}
