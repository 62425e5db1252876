"""What must hold of a plan, each rule as a function that lists what breaks it."""

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
    """Address and values of every resource of a kind, wherever its module is."""

    def walk(module: dict[str, Any]) -> Iterator[Resource]:
        for each in module.get("resources", []):
            if each["mode"] == "managed" and each["type"] == kind:
                yield each["address"], each["values"]
        for child in module.get("child_modules", []):
            yield from walk(child)

    return list(walk(plan["planned_values"]["root_module"]))


def statements(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of every policy of a role."""
    for address, values in resources(plan, "aws_iam_role_policy"):
        if not values.get("policy"):
            yield address, {"Effect": "unknown before apply", "Action": [], "Resource": []}
            continue
        for statement in json.loads(values["policy"])["Statement"]:
            yield address, statement


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def no_role_may_more_than_it_needs(plan: Plan) -> list[str]:
    """`*` is a resource of the ECR token alone, and never an action; every policy can be read in the plan."""
    found = []
    for address, statement in statements(plan):
        actions, targets = as_list(statement.get("Action", [])), as_list(statement.get("Resource", []))
        if statement["Effect"] != "Allow":
            found.append(f"{address}: {statement['Effect']}")
        if any(action.endswith("*") for action in actions):
            found.append(f"{address}: actions {actions}")
        for target in targets:
            everything = target == "*" or target.split(":", 5)[-1] in ("*", "secret:*", "repository/*", "log-group:*")
            if everything and actions != ["ecr:GetAuthorizationToken"]:
                found.append(f"{address}: {actions} on {target}")
    for kind in ("aws_iam_role_policy_attachment", "aws_iam_policy_attachment", "aws_iam_user"):
        found += [f"{address}: {kind}" for address, _ in resources(plan, kind)]
    return found


def the_env_file_role_reads_one_object(plan: Plan) -> list[str]:
    """Each execution role: s3:GetBucketLocation on the bucket, s3:GetObject on exactly its file, nothing else in S3."""
    found, seen = [], 0
    for address, values in resources(plan, "aws_iam_role_policy"):
        if not address.endswith(".env_file[0]"):
            continue
        seen += 1
        service = address.split('"')[1]
        may = {tuple(as_list(each["Action"])): each["Resource"] for each in json.loads(values["policy"])["Statement"]}
        bucket = may.get(("s3:GetBucketLocation",))
        if set(may) != {("s3:GetBucketLocation",), ("s3:GetObject",)} or may[("s3:GetObject",)] != f"{bucket}/{service}.env":
            found.append(f"{address}: {may}")
        if "*" in str(may.values()) or "artifacts" in str(bucket):
            found.append(f"{address}: {may}")
    execution = [address for address, _ in resources(plan, "aws_iam_role") if address.endswith(".execution")]
    if seen != len(execution):
        found.append(f"{seen} policies for {len(execution)} execution roles")
    others = [each for address, each in statements(plan) if ".execution" in address and "s3:" in str(each.get("Action"))]
    return found + [f"an execution role reads S3 elsewhere: {each}" for each in others]


def _ingress(plan: Plan) -> Iterator[tuple[str, int, int, list[str]]]:
    """Address, ports and sources by address of each way in; a rule that names a security group has no such source."""
    for address, values in resources(plan, "aws_vpc_security_group_ingress_rule"):
        every = values["ip_protocol"] == "-1"
        sources = [each for each in (values.get("cidr_ipv4"), values.get("cidr_ipv6"), values.get("prefix_list_id")) if each]
        yield address, 0 if every else values["from_port"], 65535 if every else values["to_port"], sources
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


def nobody_outside_reaches_postgres(plan: Plan) -> list[str]:
    """5432 is open to security groups alone."""
    return [f"{address}: {sources}" for address, first, last, sources in _ingress(plan) if first <= 5432 <= last and sources]


def only_the_allowed_addresses_come_in(plan: Plan) -> list[str]:
    """From outside to the services' own ports, from allowed_cidrs."""
    allowed = [ipaddress.ip_network(each) for each in plan["variables"]["allowed_cidrs"]["value"]]
    ports = {(80, 80), (443, 443), (8001, 8001), (8002, 8002)}
    return [
        f"{address}: {first}-{last} from {source}"
        for address, first, last, sources in _ingress(plan)
        for source in sources
        if (first, last) not in ports or not any(ipaddress.ip_network(source).subnet_of(each) for each in allowed)
    ]


def the_database_is_private_encrypted_and_kept(plan: Plan) -> list[str]:
    """RDS: no public address, encrypted, backups, TLS only, protected, a snapshot at its end."""
    found = []
    for address, values in resources(plan, "aws_db_instance"):
        wanted = {
            "publicly_accessible": False,
            "storage_encrypted": True,
            "deletion_protection": True,
            "skip_final_snapshot": False,
        }
        found += [f"{address}: {name} is {values.get(name)}" for name, value in wanted.items() if values.get(name) is not value]
        if values["backup_retention_period"] < 1 or not values["engine_version"].startswith("17"):
            found.append(f"{address}: backups {values['backup_retention_period']}, engine {values['engine_version']}")
    for address, values in resources(plan, "aws_db_parameter_group"):
        if not any(each["name"] == "rds.force_ssl" and each["value"] == "1" for each in values["parameter"]):
            found.append(f"{address}: clients may come without TLS")
    return found if resources(plan, "aws_db_instance") else ["there is no database"]


def buckets_are_closed_versioned_and_encrypted(plan: Plan) -> list[str]:
    """S3: no public access, versions, encryption, TLS only, old versions expire."""
    names = {address.split('"')[1] for address, _ in resources(plan, "aws_s3_bucket")}
    good: dict[str, Callable[[dict[str, Any]], bool]] = {
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
    found = []
    for kind, is_good in good.items():
        guarded = {address.split('"')[1] for address, values in resources(plan, kind) if is_good(values)}
        found += [f"bucket {name} lacks {kind}" for name in sorted(names - guarded)]
    return found if names else ["there is no bucket"]


def _tls_only(policy: list[dict[str, Any]]) -> bool:
    return any(
        each["Effect"] == "Deny"
        and each["Principal"] == "*"
        and each["Action"] == "s3:*"
        and len(each["Resource"]) == 2
        and each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for each in policy
    )


def services_reach_aws_the_database_and_each_other_alone(plan: Plan) -> list[str]:
    """Egress: port 443 of any address, since AWS's own interfaces have public ones; all else to security groups alone."""
    found = []
    for address, values in resources(plan, "aws_vpc_security_group_egress_rule"):
        sources = [each for each in (values.get("cidr_ipv4"), values.get("cidr_ipv6"), values.get("prefix_list_id")) if each]
        ports = (values["from_port"], values["to_port"])
        if values["ip_protocol"] != "tcp" or (sources and ports != (443, 443)):
            found.append(f"{address}: {values['ip_protocol']} {ports} to {sources}")
    found += [
        f"{address}: an egress block" for address, values in resources(plan, "aws_security_group") if values.get("egress")
    ]
    found += [address for address, values in resources(plan, "aws_security_group_rule") if values["type"] == "egress"]
    return found if resources(plan, "aws_vpc_security_group_egress_rule") else ["there is no egress rule"]


def no_secret_is_written_down(plan: Plan) -> list[str]:
    """No variable that sounds like a secret is in clear text, and no password of the database has a value in the plan."""
    services = plan["output_changes"]["services"]["after"]
    found = [
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
        found += [f"{address}: {name} has a value" for address, values in resources(plan, kind) if values.get(name)]
    return found


def images_are_scanned_and_never_replaced(plan: Plan) -> list[str]:
    """ECR: immutable tags, a scan at each push, a clean-up for each repository."""
    found = []
    for address, values in resources(plan, "aws_ecr_repository"):
        if values["image_tag_mutability"] != "IMMUTABLE" or not values["image_scanning_configuration"][0]["scan_on_push"]:
            found.append(f"{address}: {values['image_tag_mutability']}, scan {values['image_scanning_configuration']}")
    cleaned = {address.split('"')[1] for address, _ in resources(plan, "aws_ecr_lifecycle_policy")}
    return found + [
        f"{address}: no clean-up"
        for address, _ in resources(plan, "aws_ecr_repository")
        if address.split('"')[1] not in cleaned
    ]


def logs_end_some_day(plan: Plan) -> list[str]:
    """Every log group has a retention."""
    return [address for address, values in resources(plan, "aws_cloudwatch_log_group") if not values.get("retention_in_days")]


def clear_text_is_only_redirected(plan: Plan) -> list[str]:
    """A balancer's listeners: TLS 1.2 at least, or a redirect to it."""
    found = []
    for address, values in resources(plan, "aws_lb_listener"):
        redirects = values["default_action"][0]["type"] == "redirect"
        if not (redirects if values["protocol"] == "HTTP" else "TLS13-1-2" in (values.get("ssl_policy") or "")):
            found.append(f"{address}: {values['protocol']} {values.get('ssl_policy')}")
    return found


RULES = (
    no_role_may_more_than_it_needs,
    the_env_file_role_reads_one_object,
    nobody_outside_reaches_postgres,
    only_the_allowed_addresses_come_in,
    the_database_is_private_encrypted_and_kept,
    buckets_are_closed_versioned_and_encrypted,
    services_reach_aws_the_database_and_each_other_alone,
    no_secret_is_written_down,
    images_are_scanned_and_never_replaced,
    logs_end_some_day,
    clear_text_is_only_redirected,
)
