"""Rules on plans: every rule accepts valid plans, and refuses each change that breaks it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from .plan_rules import RULES, resources
from .plan_variants import MUTATIONS, Plans

pytestmark = [pytest.mark.infra, pytest.mark.timeout(900)]
VALID = ("default", "everything", "everything, env file")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("plan", VALID)
def test_a_valid_plan_passes_the_rule(plans: Plans, plan: Any, rule: Any) -> None:
    if rule.__name__ == "execution_role_reads_one_env_file" and "env file" not in plan:
        assert [address for address, _ in resources(plans[plan][0], "aws_iam_role_policy") if "env_file" in address] == []
        return
    assert rule(plans[plan][0]) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_fails_on_a_mutated_plan(plans: Plans, rule: Any) -> None:
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
def test_the_rule_fails_on_each_broken_condition(plans: Plans, rule: Any, kind: Any, part: Any, path: Any, new: Any) -> None:
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


def test_every_rule_has_a_mutation() -> None:
    assert {rule.__name__ for rule in RULES} == set(MUTATIONS)
