"""Rules on plans: every rule accepts valid plans, and refuses each change that breaks it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .cloud import Folder
from .plan_rules import RULES, as_list, resources, statements

pytestmark = [pytest.mark.infra, pytest.mark.timeout(900)]

EVERYTHING: dict[str, Any] = {
    "services": ["tracking", "registry-api", "infer"],
    "load_balancer": {"domain": "draw.example.org", "zone_id": "Z123"},
    "schedule": {"start": "08:00", "stop": "19:00"},
}
PASSWORD = "must-not-appear-anywhere"

# Rule → a change that breaks it: file, text, replacement. All are applied to one plan, which every rule must refuse.
MUTATIONS = {
    "roles_have_least_privilege": ("schedule.tf", '"arn:${format(local.arn_suffix, "rds")}:db:${var.name}"', '"*"'),
    "execution_role_reads_one_env_file": (
        "modules/fargate-service/iam.tf",
        '"${var.env_file.bucket_arn}/${var.env_file.key}"',
        '"${var.env_file.bucket_arn}/*"',
    ),
    "postgres_accepts_security_groups_only": (
        "security_groups.tf",
        'PostgreSQL from ${each.key}"\n  referenced_security_group_id = aws_security_group.service[each.key].id',
        '"\n  cidr_ipv4 = "203.0.113.7/32"',
    ),
    "ingress_is_limited_to_allowed_cidrs": (
        "security_groups.tf",
        "cidr_ipv4         = each.value.cidr",
        'cidr_ipv4 = "0.0.0.0/0"',
    ),
    "database_is_private_encrypted_and_protected": (
        "database.tf",
        "storage_encrypted               = true",
        "storage_encrypted = false",
    ),
    "buckets_are_private_versioned_and_encrypted": (
        "storage.tf",
        "block_public_policy     = true",
        "block_public_policy = false",
    ),
    "egress_is_limited_to_aws_database_and_services": (
        "security_groups.tf",
        """  from_port         = 443
  to_port           = 443""",
        "from_port = 0\n to_port = 65535",
    ),
    "plan_contains_no_secrets": ("services.tf", 'DB_PORT         = "5432"', 'DB_PORT = "5432", HTPASSWD = "ana:x"'),
    "images_are_scanned_and_immutable": ("images.tf", '"IMMUTABLE"', '"MUTABLE"'),
    "log_groups_have_retention": ("cluster.tf", "retention_in_days = var.log_days", ""),
    "http_only_redirects_to_https": ("load_balancer.tf", "ELBSecurityPolicy-TLS13-1-2-2021-06", "ELBSecurityPolicy-2016-08"),
}


@pytest.fixture(scope="module")
def plans(initialised: Path, moto: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path]]:
    """Name → (plan, folder) of valid plans, and of one with all mutations."""
    result = {}
    for name, variables in {
        "default": {},
        "infer alone": {"services": ["tracking", "infer"]},
        "anchor": {"services": ["tracking", "registry-api"], "anchor_retention_days": 365},
        "everything": EVERYTHING,
        "everything, env file": EVERYTHING | {"secrets": "env-file", "db_password": PASSWORD},
        "mutated": EVERYTHING | {"secrets": "env-file", "db_password": PASSWORD},
    }.items():
        folder = Folder(tmp_path_factory.mktemp("plan") / "infra", moto)
        shutil.copytree(initialised, folder.path, symlinks=True)
        for file, old, new in MUTATIONS.values() if name == "mutated" else ():
            folder.change(file, old, new)
        result[name] = folder.plan(**variables), folder.path
    return result


VALID = ("default", "everything", "everything, env file")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("plan", VALID)
def test_a_valid_plan_passes_the_rule(plans, plan, rule):
    if rule.__name__ == "execution_role_reads_one_env_file" and "env file" not in plan:
        assert [address for address, _ in resources(plans[plan][0], "aws_iam_role_policy") if "env_file" in address] == []
        return
    assert rule(plans[plan][0]) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_fails_on_a_mutated_plan(plans, rule):
    assert rule(plans["mutated"][0])


def _set(values: dict[str, Any], path: str, new: Any) -> None:
    """Sets the value at a path such as `a.0.b`."""
    *parents, last = path.split(".")
    target: Any = values
    for key in parents:
        target = target[int(key)] if key.isdigit() else target[key]
    target[int(last) if last.isdigit() else last] = new


def _without_tls_only(policy: str) -> str:
    document = json.loads(policy)
    for statement in document["Statement"]:
        statement["Condition"] = {"Bool": {"aws:SecureTransport": "true"}}
    return json.dumps(document)


DATABASE = "database_is_private_encrypted_and_protected"
BUCKETS = "buckets_are_private_versioned_and_encrypted"
EGRESS = "egress_is_limited_to_aws_database_and_services"

# A change that breaks one condition: rule, resource type, part of the address, path in the values, new value.
CONDITIONS: list[tuple[str, str, str, str, Any]] = [
    (DATABASE, "aws_db_instance", "", "publicly_accessible", True),
    (DATABASE, "aws_db_instance", "", "storage_encrypted", False),
    (DATABASE, "aws_db_instance", "", "deletion_protection", False),
    (DATABASE, "aws_db_instance", "", "skip_final_snapshot", True),
    (DATABASE, "aws_db_instance", "", "backup_retention_period", 0),
    (DATABASE, "aws_db_instance", "", "engine_version", "16.4"),
    (DATABASE, "aws_db_parameter_group", "", "parameter.0.value", "0"),
    (
        BUCKETS,
        "aws_s3_bucket_public_access_block",
        "artifacts",
        "block_public_acls",
        False,
    ),
    (
        BUCKETS,
        "aws_s3_bucket_public_access_block",
        "artifacts",
        "ignore_public_acls",
        False,
    ),
    (
        BUCKETS,
        "aws_s3_bucket_public_access_block",
        "artifacts",
        "restrict_public_buckets",
        False,
    ),
    (
        BUCKETS,
        "aws_s3_bucket_versioning",
        "artifacts",
        "versioning_configuration.0.status",
        "Suspended",
    ),
    (
        BUCKETS,
        "aws_s3_bucket_server_side_encryption_configuration",
        "artifacts",
        "rule",
        [],
    ),
    (
        BUCKETS,
        "aws_s3_bucket_lifecycle_configuration",
        "artifacts",
        "rule.0.noncurrent_version_expiration",
        [],
    ),
    (BUCKETS, "aws_s3_bucket_policy", "artifacts", "policy", _without_tls_only),
    (
        BUCKETS,
        "aws_s3_bucket_ownership_controls",
        "artifacts",
        "rule.0.object_ownership",
        "ObjectWriter",
    ),
    (
        "images_are_scanned_and_immutable",
        "aws_ecr_repository",
        "tracking",
        "image_scanning_configuration.0.scan_on_push",
        False,
    ),
    (
        EGRESS,
        "aws_vpc_security_group_egress_rule",
        "to_aws",
        "ip_protocol",
        "-1",
    ),
    (
        EGRESS,
        "aws_vpc_security_group_egress_rule",
        "to_database",
        "cidr_ipv4",
        "0.0.0.0/0",
    ),
    ("http_only_redirects_to_https", "aws_lb_listener", "http", "default_action.0.type", "forward"),
]


@pytest.mark.parametrize(("rule", "kind", "part", "path", "new"), CONDITIONS)
def test_the_rule_fails_on_each_broken_condition(plans, rule, kind, part, path, new):
    plan = copy.deepcopy(plans["everything"][0])
    check = next(each for each in RULES if each.__name__ == rule)
    address, values = next((address, values) for address, values in resources(plan, kind) if part in address)
    if callable(new):
        new = new(values[path])
    if "rule.0.noncurrent" in path:
        for each in values["rule"]:
            each["noncurrent_version_expiration"] = []
    else:
        _set(values, path, new)
    assert check(plan), f"{address}: {path} = {new} was not noticed"


def test_every_rule_has_a_mutation():
    assert {rule.__name__ for rule in RULES} == set(MUTATIONS)


def test_the_password_is_in_no_plan(plans):
    shown, folder = plans["everything, env file"]
    assert PASSWORD not in json.dumps(shown)
    assert PASSWORD.encode() not in (folder / "plan").read_bytes()


def test_an_api_without_the_other_has_no_settings_for_it(plans):
    services = plans["infer alone"][0]["output_changes"]["services"]["after"]
    assert {name for each in ("environment", "secret_names") for name in services["infer"][each] if "REGISTRY" in name} == set()
    assert {address.split('"')[1] for address, _ in resources(plans["infer alone"][0], "aws_service_discovery_service")} == {
        "tracking"
    }


def test_the_anchor_of_decisions_cannot_be_deleted(plans):
    plan = plans["anchor"][0]
    [(_, bucket)] = [each for each in resources(plan, "aws_s3_bucket") if "anchor" in each[0]]
    [(_, lock)] = resources(plan, "aws_s3_bucket_object_lock_configuration")
    assert (bucket["object_lock_enabled"], bucket["force_destroy"]) == (True, False)
    assert [(each["mode"], each["days"]) for each in lock["rule"][0]["default_retention"]] == [("COMPLIANCE", 365)]
    allowed = {}
    for address, statement in statements(plan):
        if "anchor" in json.dumps(statement) and statement["Effect"] == "Allow":
            allowed[address.split('"')[1]] = allowed.get(address.split('"')[1], set()) | set(as_list(statement["Action"]))
    assert allowed == {
        "registry-api": {"s3:PutObject", "s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions"}
    }
    environment = plan["output_changes"]["services"]["after"]["registry-api"]["environment"]
    assert "ATELIER_REGISTRY_ANCHOR_BUCKET" in environment
    assert resources(plans["everything"][0], "aws_s3_bucket_object_lock_configuration") == []


def test_services_accept_their_callers_only(plans):
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
def test_a_task_gets_exactly_the_variables_of_its_service(plans, plan, service):
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
        from atelier_infer.settings import PREFIX, Settings

        required |= {f"{PREFIX}EVENTS_URL", f"{PREFIX}REGISTRY_URL", f"{PREFIX}REGISTRY_TOKEN"}
    names = {PREFIX + name.upper(): field.is_required() for name, field in Settings.model_fields.items()}
    return set(names) | {each for each in required if not each.startswith(PREFIX)}, required | {
        name for name, required in names.items() if required
    }


def test_the_database_accepts_security_groups_of_services_only(plans):
    rules = plans["everything"][0]["configuration"]["root_module"]["resources"]
    [rule] = [each for each in rules if each["address"] == "aws_vpc_security_group_ingress_rule.database"]
    assert "aws_security_group.service" in rule["expressions"]["referenced_security_group_id"]["references"]
    [names] = [
        each["for_each_expression"] for each in rules if each["address"] == "aws_vpc_security_group_ingress_rule.database"
    ]
    assert names["references"] == ["local.uses_database"]
