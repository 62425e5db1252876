"""Plans of the variants that the rules are tried on, and the changes that each rule must refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from .cloud import Folder

Plans = dict[str, tuple[dict[str, Any], Path]]
"""Name → (plan, folder)."""

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


def make_plans(initialised: Path, moto: str, tmp_path_factory: pytest.TempPathFactory) -> Plans:
    """Name → (plan, folder) of valid plans, and of one with all mutations."""
    result: Plans = {}
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "infer alone": {"services": ["tracking", "infer"]},
        "anchor": {"services": ["tracking", "registry-api"], "anchor_retention_days": 365},
        "everything": EVERYTHING,
        "everything, env file": EVERYTHING | {"secrets": "env-file", "db_password": PASSWORD},
        "mutated": EVERYTHING | {"secrets": "env-file", "db_password": PASSWORD},
    }
    for name, variables in variants.items():
        folder = Folder(tmp_path_factory.mktemp("plan") / "infra", moto)
        shutil.copytree(initialised, folder.path, symlinks=True)
        for file, old, new in MUTATIONS.values() if name == "mutated" else ():
            folder.change(file, old, new)
        result[name] = folder.plan(**variables), folder.path
    return result
