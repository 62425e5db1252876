"""Rules on Terraform plans; each function returns the violations it finds."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

Plan = dict[str, Any]
Resource = tuple[str, dict[str, Any]]
SECRET_NAMES = re.compile(r"PW|PASSW(OR)?D|SECRET|TOKENS?$|ACCESS_KEY")


def resources(plan: Plan, kind: str) -> list[Resource]:
    """(address, values) of all resources of a type, in all modules."""

    def walk(module: dict[str, Any]) -> Iterator[Resource]:
        for each in module.get("resources", []):
            if each["mode"] == "managed" and each["type"] == kind:
                yield each["address"], each["values"]
        for child in module.get("child_modules", []):
            yield from walk(child)

    return list(walk(plan["planned_values"]["root_module"]))


def statements(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """(address, statement) of all role policies."""
    for address, values in resources(plan, "aws_iam_role_policy"):
        if not values.get("policy"):
            yield address, {"Effect": "unknown before apply", "Action": [], "Resource": []}
            continue
        for statement in json.loads(values["policy"])["Statement"]:
            yield address, statement


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def roles_have_least_privilege(plan: Plan) -> list[str]:
    """`*` is a resource of ecr:GetAuthorizationToken only, and never an action; the plan shows all policies."""
    violations = []
    for address, statement in statements(plan):
        actions, targets = as_list(statement.get("Action", [])), as_list(statement.get("Resource", []))
        if statement["Effect"] != "Allow":
            violations.append(f"{address}: {statement['Effect']}")
        if any(action.endswith("*") for action in actions):
            violations.append(f"{address}: actions {actions}")
        for target in targets:
            everything = target == "*" or target.split(":", 5)[-1] in ("*", "secret:*", "repository/*", "log-group:*")
            if everything and actions != ["ecr:GetAuthorizationToken"]:
                violations.append(f"{address}: {actions} on {target}")
    for kind in ("aws_iam_role_policy_attachment", "aws_iam_policy_attachment", "aws_iam_user"):
        violations += [f"{address}: {kind}" for address, _ in resources(plan, kind)]
    return violations


def execution_role_reads_one_env_file(plan: Plan) -> list[str]:
    """Each execution role has s3:GetBucketLocation on the bucket, s3:GetObject on its own file, and nothing else in S3."""
    violations, count = [], 0
    for address, values in resources(plan, "aws_iam_role_policy"):
        if not address.endswith(".env_file[0]"):
            continue
        count += 1
        service = address.split('"')[1]
        allowed = {tuple(as_list(each["Action"])): each["Resource"] for each in json.loads(values["policy"])["Statement"]}
        bucket = allowed.get(("s3:GetBucketLocation",))
        if (
            set(allowed) != {("s3:GetBucketLocation",), ("s3:GetObject",)}
            or allowed[("s3:GetObject",)] != f"{bucket}/{service}.env"
        ):
            violations.append(f"{address}: {allowed}")
        if "*" in str(allowed.values()) or "artifacts" in str(bucket):
            violations.append(f"{address}: {allowed}")
    execution = [address for address, _ in resources(plan, "aws_iam_role") if address.endswith(".execution")]
    if count != len(execution):
        violations.append(f"{count} policies for {len(execution)} execution roles")
    others = [each for address, each in statements(plan) if ".execution" in address and "s3:" in str(each.get("Action"))]
    return violations + [f"an execution role reads S3 elsewhere: {each}" for each in others]


def _ingress(plan: Plan) -> Iterator[tuple[str, int, int, list[str]]]:
    """(address, first port, last port, source ranges) of all ingress rules; a source that is a security group has no range."""
    for address, values in resources(plan, "aws_vpc_security_group_ingress_rule"):
        all_ports = values["ip_protocol"] == "-1"
        sources = [each for each in (values.get("cidr_ipv4"), values.get("cidr_ipv6"), values.get("prefix_list_id")) if each]
        yield address, 0 if all_ports else values["from_port"], 65535 if all_ports else values["to_port"], sources
    for address, values in resources(plan, "aws_security_group"):
        for rule in values.get("ingress") or []:
            yield (
                address,
                rule["from_port"],
                rule["to_port"],
                [*(rule.get("cidr_blocks") or []), *(rule.get("ipv6_cidr_blocks") or [])],
            )
    for address, values in resources(plan, "aws_security_group_rule"):
        if values["type"] == "ingress":
            yield (
                address,
                values["from_port"],
                values["to_port"],
                [*(values.get("cidr_blocks") or []), *(values.get("ipv6_cidr_blocks") or [])],
            )


def postgres_accepts_security_groups_only(plan: Plan) -> list[str]:
    """No address range reaches port 5432."""
    return [f"{address}: {sources}" for address, first, last, sources in _ingress(plan) if first <= 5432 <= last and sources]


def ingress_is_limited_to_allowed_cidrs(plan: Plan) -> list[str]:
    """Address ranges are within allowed_cidrs and reach the ports of services only."""
    allowed = [ipaddress.ip_network(each) for each in plan["variables"]["allowed_cidrs"]["value"]]
    ports = {(80, 80), (443, 443), (8001, 8001), (8002, 8002)}
    return [
        f"{address}: {first}-{last} from {source}"
        for address, first, last, sources in _ingress(plan)
        for source in sources
        if (first, last) not in ports or not any(ipaddress.ip_network(source).subnet_of(each) for each in allowed)  # type: ignore[arg-type]
    ]


def database_is_private_encrypted_and_protected(plan: Plan) -> list[str]:
    """RDS: private, encrypted, backed up, TLS only, protected from deletion, with a final snapshot."""
    violations = []
    for address, values in resources(plan, "aws_db_instance"):
        wanted = {
            "publicly_accessible": False,
            "storage_encrypted": True,
            "deletion_protection": True,
            "skip_final_snapshot": False,
        }
        violations += [
            f"{address}: {name} is {values.get(name)}" for name, value in wanted.items() if values.get(name) is not value
        ]
        if values["backup_retention_period"] < 1 or not values["engine_version"].startswith("17"):
            violations.append(f"{address}: backups {values['backup_retention_period']}, engine {values['engine_version']}")
    for address, values in resources(plan, "aws_db_parameter_group"):
        if not any(each["name"] == "rds.force_ssl" and each["value"] == "1" for each in values["parameter"]):
            violations.append(f"{address}: accepts clients without TLS")
    return violations if resources(plan, "aws_db_instance") else ["there is no database"]


def buckets_are_private_versioned_and_encrypted(plan: Plan) -> list[str]:
    """S3: private, versioned, encrypted, TLS only; old versions expire."""
    names = {address.split('"')[1] for address, _ in resources(plan, "aws_s3_bucket")}
    checks: dict[str, Callable[[dict[str, Any]], bool]] = {
        "aws_s3_bucket_public_access_block": lambda each: all(
            each[name] for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
        ),
        "aws_s3_bucket_versioning": lambda each: each["versioning_configuration"][0]["status"] == "Enabled",
        "aws_s3_bucket_server_side_encryption_configuration": lambda each: bool(each["rule"]),
        "aws_s3_bucket_lifecycle_configuration": lambda each: any(
            rule["noncurrent_version_expiration"] for rule in each["rule"]
        ),
        "aws_s3_bucket_policy": lambda each: _tls_only(json.loads(each["policy"] or '{"Statement": []}')["Statement"]),
        "aws_s3_bucket_ownership_controls": lambda each: each["rule"][0]["object_ownership"] == "BucketOwnerEnforced",
    }
    violations = []
    for kind, is_valid in checks.items():
        guarded = {address.split('"')[1] for address, values in resources(plan, kind) if is_valid(values)}
        violations += [f"bucket {name} lacks {kind}" for name in sorted(names - guarded)]
    return violations if names else ["there is no bucket"]


def _tls_only(policy: list[dict[str, Any]]) -> bool:
    return any(
        each["Effect"] == "Deny"
        and each["Principal"] == "*"
        and each["Action"] == "s3:*"
        and len(each["Resource"]) == 2
        and each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for each in policy
    )


def egress_is_limited_to_aws_database_and_services(plan: Plan) -> list[str]:
    """Egress: port 443 to any address, because the APIs of AWS have public ones; other ports to security groups only."""
    violations = []
    for address, values in resources(plan, "aws_vpc_security_group_egress_rule"):
        sources = [each for each in (values.get("cidr_ipv4"), values.get("cidr_ipv6"), values.get("prefix_list_id")) if each]
        ports = (values["from_port"], values["to_port"])
        if values["ip_protocol"] != "tcp" or (sources and ports != (443, 443)):
            violations.append(f"{address}: {values['ip_protocol']} {ports} to {sources}")
    violations += [
        f"{address}: an egress block" for address, values in resources(plan, "aws_security_group") if values.get("egress")
    ]
    violations += [address for address, values in resources(plan, "aws_security_group_rule") if values["type"] == "egress"]
    return violations if resources(plan, "aws_vpc_security_group_egress_rule") else ["there is no egress rule"]


def plan_contains_no_secrets(plan: Plan) -> list[str]:
    """Variables with names of secrets are not in clear text, and the plan has no value of the database password."""
    services = plan["output_changes"]["services"]["after"]
    violations = [
        f"{service}: {name} in clear text"
        for service, each in services.items()
        for name in each["environment"]
        if SECRET_NAMES.search(name)
    ]
    for kind, name in (
        ("aws_db_instance", "password"),
        ("aws_secretsmanager_secret_version", "secret_string"),
        ("aws_db_instance", "password_wo"),
    ):
        violations += [f"{address}: {name} has a value" for address, values in resources(plan, kind) if values.get(name)]
    return violations


def images_are_scanned_and_immutable(plan: Plan) -> list[str]:
    """ECR: immutable tags, scan on push, a lifecycle policy for each repository."""
    violations = []
    for address, values in resources(plan, "aws_ecr_repository"):
        if values["image_tag_mutability"] != "IMMUTABLE" or not values["image_scanning_configuration"][0]["scan_on_push"]:
            violations.append(f"{address}: {values['image_tag_mutability']}, scan {values['image_scanning_configuration']}")
    cleaned = {address.split('"')[1] for address, _ in resources(plan, "aws_ecr_lifecycle_policy")}
    return violations + [
        f"{address}: no lifecycle policy"
        for address, _ in resources(plan, "aws_ecr_repository")
        if address.split('"')[1] not in cleaned
    ]


def log_groups_have_retention(plan: Plan) -> list[str]:
    """All log groups have a retention."""
    return [address for address, values in resources(plan, "aws_cloudwatch_log_group") if not values.get("retention_in_days")]


def http_only_redirects_to_https(plan: Plan) -> list[str]:
    """Listeners of a load balancer use TLS 1.2 or later, or redirect to it."""
    violations = []
    for address, values in resources(plan, "aws_lb_listener"):
        redirects = values["default_action"][0]["type"] == "redirect"
        if not (redirects if values["protocol"] == "HTTP" else "TLS13-1-2" in (values.get("ssl_policy") or "")):
            violations.append(f"{address}: {values['protocol']} {values.get('ssl_policy')}")
    return violations


RULES = (
    roles_have_least_privilege,
    execution_role_reads_one_env_file,
    postgres_accepts_security_groups_only,
    ingress_is_limited_to_allowed_cidrs,
    database_is_private_encrypted_and_protected,
    buckets_are_private_versioned_and_encrypted,
    egress_is_limited_to_aws_database_and_services,
    plan_contains_no_secrets,
    images_are_scanned_and_immutable,
    log_groups_have_retention,
    http_only_redirects_to_https,
)
