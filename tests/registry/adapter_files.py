"""The files of an adapter that every version in the tests has."""

from __future__ import annotations

import hashlib

from atelier_contracts.manifests import AdapterManifest, Evidence
from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE

WEIGHTS = "weights"
WEIGHTS_SHA256 = hashlib.sha256(WEIGHTS.encode()).hexdigest()
ADAPTER = AdapterManifest(
    bundle_digest="b" * 64,
    weights_sha256=WEIGHTS_SHA256,
    layers={"unet.down.0.to_q": {"rank": 4, "alpha": 4.0}},
    run_id="run",
    dataset_digest="d" * 64,
    git_revision="1c2f7a9",
)
EVIDENCE = Evidence(
    weights_sha256=WEIGHTS_SHA256,
    output_finite=True,
    onnx_max_error=1.4e-6,
    validation_loss=0.13,
    base_validation_loss=0.15,
    validation_digest="e" * 64,
    validation_images=24,
)
FILES = {ADAPTER_FILE: ADAPTER.model_dump_json(), EVIDENCE_FILE: EVIDENCE.model_dump_json()}
