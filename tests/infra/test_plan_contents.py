"""What valid plans contain: secrets, the anchor, connections between services, their variables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .plan_rules import as_list, resources, statements
from .plan_variants import PASSWORD, Plans

pytestmark = [pytest.mark.infra, pytest.mark.timeout(900)]


def test_the_password_is_in_no_plan(plans: Plans) -> None:
    shown, folder = plans["everything, env file"]
    assert PASSWORD not in json.dumps(shown)
    assert PASSWORD.encode() not in (folder / "plan").read_bytes()


def test_an_api_without_the_other_has_no_settings_for_it(plans: Plans) -> None:
    services = plans["infer alone"][0]["output_changes"]["services"]["after"]
    assert {name for each in ("environment", "secret_names") for name in services["infer"][each] if "REGISTRY" in name} == set()
    assert {address.split('"')[1] for address, _ in resources(plans["infer alone"][0], "aws_service_discovery_service")} == {
        "tracking"
    }


def test_the_anchor_of_decisions_cannot_be_deleted(plans: Plans) -> None:
    plan = plans["anchor"][0]
    [(_, bucket)] = [each for each in resources(plan, "aws_s3_bucket") if "anchor" in each[0]]
    [(_, lock)] = resources(plan, "aws_s3_bucket_object_lock_configuration")
    assert (bucket["object_lock_enabled"], bucket["force_destroy"]) == (True, False)
    assert [(each["mode"], each["days"]) for each in lock["rule"][0]["default_retention"]] == [("COMPLIANCE", 365)]
    allowed: dict[Any, Any] = {}
    for address, statement in statements(plan):
        if "anchor" in json.dumps(statement) and statement["Effect"] == "Allow":
            allowed[address.split('"')[1]] = allowed.get(address.split('"')[1], set()) | set(as_list(statement["Action"]))
    assert allowed == {
        "registry-api": {"s3:PutObject", "s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions"}
    }
    environment = plan["output_changes"]["services"]["after"]["registry-api"]["environment"]
    assert "ATELIER_REGISTRY_ANCHOR_BUCKET" in environment
    assert resources(plans["everything"][0], "aws_s3_bucket_object_lock_configuration") == []


def test_the_anchor_of_decisions_accepts_tls_only(plans: Plans) -> None:
    [(_, bucket)] = [each for each in resources(plans["anchor"][0], "aws_s3_bucket") if "anchor" in each[0]]
    [(_, values)] = [each for each in resources(plans["anchor"][0], "aws_s3_bucket_policy") if "anchor" in each[0]]
    [denied] = json.loads(values["policy"])["Statement"]
    assert (denied["Effect"], denied["Principal"], denied["Action"]) == ("Deny", "*", "s3:*")
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert sorted(denied["Resource"]) == [f"arn:aws:s3:::{bucket['bucket']}", f"arn:aws:s3:::{bucket['bucket']}/*"]


def test_services_accept_their_callers_only(plans: Plans) -> None:
    connections = {
        address.split('"')[1]: values["from_port"]
        for address, values in resources(plans["everything"][0], "aws_vpc_security_group_ingress_rule")
        if ".from_service" in address
    }
    assert connections == {
        "registry-api to tracking": 80,
        "infer to tracking": 80,
        "registry-api to infer": 8002,
        "infer to registry-api": 8001,
    }


@pytest.mark.parametrize("service", ["tracking", "registry-api", "infer"])
@pytest.mark.parametrize("plan", ["everything", "everything, env file"])
def test_a_task_gets_exactly_the_variables_of_its_service(plans: Plans, plan: Any, service: Any) -> None:
    """A mistyped name would be ignored silently, and a missing one would stop the task at start."""
    known, required = variables_of(service)
    described = plans[plan][0]["output_changes"]["services"]["after"][service]
    variables = {*described["environment"], *described["secret_names"], *described["from_manager"]}
    assert variables - known == set()
    assert required - variables == set()


def variables_of(service: str) -> tuple[set[str], set[str]]:
    """(all, required) environment variables of a service."""
    if service == "tracking":
        from atelier_tracking import settings as tracking

        fields = tracking.Settings.model_fields
        required = {"HTPASSWD" if name == "logins" else name.upper() for name, field in fields.items() if field.is_required()}
        return set(tracking.NAMES), required
    # credentials are read by MLflow's client, tokens by the start command of the task
    required = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "ATELIER_TOKENS", "MLFLOW_DISABLE_TELEMETRY"}
    if service == "registry-api":
        from atelier_registry.config.settings import PREFIX, Settings

        required |= {"PGPASSWORD"}  # read by PostgreSQL's client library
        required |= {f"{PREFIX}INFER_URL", f"{PREFIX}INFER_TOKEN"}
    else:
        from atelier_infer.settings import PREFIX, Settings  # type: ignore[assignment]

        required |= {f"{PREFIX}EVENTS_URL", f"{PREFIX}REGISTRY_URL", f"{PREFIX}REGISTRY_TOKEN"}
    names = {PREFIX + name.upper(): field.is_required() for name, field in Settings.model_fields.items()}
    return set(names) | {each for each in required if not each.startswith(PREFIX)}, required | {
        name for name, required in names.items() if required
    }


def test_the_database_accepts_security_groups_of_services_only(plans: Plans) -> None:
    rules = plans["everything"][0]["configuration"]["root_module"]["resources"]
    [rule] = [each for each in rules if each["address"] == "aws_vpc_security_group_ingress_rule.database"]
    assert "aws_security_group.service" in rule["expressions"]["referenced_security_group_id"]["references"]
    [names] = [
        each["for_each_expression"] for each in rules if each["address"] == "aws_vpc_security_group_ingress_rule.database"
    ]
    assert names["references"] == ["local.uses_database"]
