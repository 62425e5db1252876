"""docs/reference/registry-api: every endpoint, metric and exit status is documented as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atelier_contracts.promotion import Decision
from atelier_registry.api import schemas
from atelier_registry.models import views

from ..conftest import Api

FOLDER = Path(__file__).parents[3] / "docs/reference/registry-api"
REFERENCE = (FOLDER / "api.md").read_text()


def test_every_endpoint_is_documented_with_valid_examples(api: Api) -> None:
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in api.get("/openapi.json").json()["paths"].items()
        for method, operation in methods.items()
    }
    documented = dict(
        re.findall(
            r"^### `(.+?)`$(.*?)(?=^###? |\Z)",
            REFERENCE.split("\n## Endpoints\n")[1].split("\n## ")[0],
            re.MULTILINE | re.DOTALL,
        )
    )
    assert set(documented) == set(operations)
    for title, text in documented.items():
        method, path = title.split()
        [(command, kind, answer)] = re.findall(r"```sh\n(curl .*?)```.*?```(json|text)\n(.*?)```", text, re.DOTALL)
        assert ("-X POST" in command) == (method == "POST")
        assert re.search(re.sub(r"\{\w+\}", "[^/]+", path) + r"\b", command)
        assert ("Authorization" in command or "$AUTH" in command) == ("security" in operations[title])
        if kind == "json":
            validate(api, operations[title], answer)
        else:
            assert "application/json" not in operations[title]["responses"]["200"]["content"]


def validate(api: Api, operation: dict[str, Any], answer: str) -> None:
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    kind = Decision if schema == "Decision" else getattr(schemas, schema, None) or getattr(views, schema)
    kind.model_validate_json(answer)


def test_every_metric_is_documented(api: Api) -> None:
    names = set(re.findall(r"^# TYPE (\w+)", api.get("/metrics").text, re.MULTILINE))
    listed = set(re.findall(r"^\| `(atelier_registry_\w+)`", (FOLDER / "metrics.md").read_text(), re.MULTILINE))
    assert {name for name in names if not name.endswith("_created")} == listed


def test_every_exit_status_is_documented() -> None:
    from atelier_registry.cli import output

    statuses = re.findall(r"^\| (\d) \|", (FOLDER / "commands.md").read_text(), re.MULTILINE)
    assert [int(status) for status in statuses] == list(range(output.BROKEN + 1))


def test_every_rule_is_documented() -> None:
    from atelier_registry.decisions.rules import evidence_rules, infer_rules, version_rules

    source = "".join(Path(module.__file__).read_text() for module in (version_rules, evidence_rules, infer_rules))
    names = set(re.findall(r'rule="(\w+)"', source)) | {"metric:NAME", "tag:KEY"}
    listed = re.findall(r"^\| `([\w:]+)` \|", (FOLDER / "policy.md").read_text(), re.MULTILINE)
    assert names == set(listed)
