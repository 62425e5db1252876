"""Requests made from each service's OpenAPI document, as each role: every answer is as the document says, and none is a 5xx.

They run after everything else (conftest.py): a promoter's requests may promote and retire.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .service_checks import CHECKS
from .services import Services

EXAMPLES = 8
"""Requests of each kind for each operation and role; the default tier tries registry-api with more."""


@pytest.mark.parametrize("service", ["registry-api", "infer"])
@pytest.mark.parametrize("user", ["rita", "theo", "pia", "ada"])
def test_responses_conform_to_the_openapi_document(services: Services, tmp_path: Path, service: str, user: str) -> None:
    """Streams that do not end are left out."""
    server = services.servers[service]
    (tmp_path / "openapi.json").write_bytes(services.request(service, user, "GET", "/openapi.json").body)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(tmp_path / "openapi.json"), "--url", server.uri),
        *("--header", f"Authorization: Bearer {server.logins[user]}", "--exclude-path", "/events"),
        *("--max-examples", str(EXAMPLES), "--seed", "7", "--no-color", "--request-timeout", "60"),
        *("--phases", "examples,fuzzing", "--suppress-health-check", "all", "--generation-database", "none"),
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", process.stdout)
    assert counted, process.stdout[-3000:]
    assert counted[1] == counted[2]
    assert int(counted[1]) > 20
    for check in CHECKS if user in ("rita", "theo") else ("services",):
        CHECKS[check](services)
