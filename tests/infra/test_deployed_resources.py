"""What one `up` creates on moto: who reaches what, and where secrets are."""

from __future__ import annotations

import json

import pytest
from atelier_infra.environment.stack import read_stack
from atelier_infra.secrets import env_files

from .cloud import REGION
from .deployment import Environment, container

pytestmark = [pytest.mark.infra, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def deployed(env: Environment) -> Environment:
    env.run("init", "--region", REGION, "--allow", "203.0.113.7", "--user", "ana")
    env.run("up", "--yes")
    env.run("up", "--yes")  # the second leaves a backup of the state
    return env


def test_no_secret_is_in_the_state(deployed: Environment) -> None:
    manager = deployed.cloud.client("secretsmanager")
    password = manager.get_secret_value(SecretId="atelier/database")["SecretString"]
    logins = json.loads(manager.get_secret_value(SecretId="atelier/tracking")["SecretString"])
    assert len(password) == 40 and password.isalnum()
    assert logins == {
        name: env_files.read(deployed.folder.path / "secrets" / "tracking.env")[name] for name in ("HTPASSWD", "ROLES")
    }
    for state in (deployed.folder.path / name for name in ("terraform.tfstate", "terraform.tfstate.backup")):
        assert password not in state.read_text()
        assert not any(line.split()[3] in state.read_text() for line in login_lines(deployed))
        assert logins["HTPASSWD"][:20] not in state.read_text()


def login_lines(env: Environment) -> list[str]:
    return (env.folder.path / "secrets" / "logins").read_text().splitlines()[1:]


def test_the_database_is_private_and_open_to_tracking_only(deployed: Environment) -> None:
    [database] = deployed.cloud.client("rds").describe_db_instances()["DBInstances"]
    assert (database["PubliclyAccessible"], database["StorageEncrypted"], database["DeletionProtection"]) == (False, True, True)
    ec2 = deployed.cloud.client("ec2")
    groups = {each["GroupName"].rsplit("-", 1)[0]: each for each in ec2.describe_security_groups()["SecurityGroups"]}
    [postgres] = groups["atelier-database"]["IpPermissions"]
    assert (postgres["FromPort"], postgres["ToPort"], postgres["IpRanges"], postgres["Ipv6Ranges"]) == (
        5432,
        5432,
        [],
        [],
    )
    assert [each["GroupId"] for each in postgres["UserIdGroupPairs"]] == [groups["atelier-tracking"]["GroupId"]]
    [http] = groups["atelier-tracking"]["IpPermissions"]
    assert (http["FromPort"], http["ToPort"], [each["CidrIp"] for each in http["IpRanges"]]) == (
        80,
        80,
        ["203.0.113.7/32"],
    )
    routes = ec2.describe_route_tables(Filters=[{"Name": "association.main", "Values": ["true"]}])["RouteTables"]
    private = {each["SubnetId"] for each in ec2.describe_subnets()["Subnets"] if "private" in str(each.get("Tags"))}
    assert private == {each["SubnetIdentifier"] for each in database["DBSubnetGroup"]["Subnets"]}
    assert not any(
        route.get("GatewayId", "").startswith("igw")
        for table in routes
        if table["VpcId"] == database["DBSubnetGroup"]["VpcId"]
        for route in table["Routes"]
    )


def test_the_bucket_is_private(deployed: Environment) -> None:
    s3 = deployed.cloud.client("s3")
    bucket = f"atelier-artifacts-123456789012-{REGION}"
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == [bucket]
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    [denied] = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (denied["Effect"], denied["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]


def test_the_task_gets_secrets_by_reference(deployed: Environment) -> None:
    definition, stack = container(deployed), read_stack(json.loads(deployed.folder.terraform("output", "-json").stdout))
    tracking = stack.services["tracking"]
    assert sorted(each["name"] for each in definition["environment"]) == tracking.environment
    assert (
        {each["name"] for each in definition["secrets"]}
        == {*tracking.secret_names, *tracking.from_manager}
        == {"DB_PW", "HTPASSWD", "ROLES"}
    )
    manager = deployed.cloud.client("secretsmanager")
    arns = {each["Name"]: each["ARN"] for each in manager.list_secrets()["SecretList"]}
    assert {each["name"]: each["valueFrom"] for each in definition["secrets"]} == {
        "DB_PW": arns["atelier/database"],
        "HTPASSWD": f"{arns['atelier/tracking']}:HTPASSWD::",
        "ROLES": f"{arns['atelier/tracking']}:ROLES::",
    }
    values = {each["name"]: each["value"] for each in definition["environment"]}
    [database] = deployed.cloud.client("rds").describe_db_instances()["DBInstances"]
    assert (values["DB_ENDPOINT"], values["DB_TLS_MODE"]) == (database["Endpoint"]["Address"], "require")
    assert "NET_BIND_SERVICE" not in definition["linuxParameters"]["capabilities"]["drop"]


def test_roles_have_the_planned_policies_only(deployed: Environment) -> None:
    iam = deployed.cloud.client("iam")
    for role, names in {
        "atelier-tracking-execution": ["image-log-secrets"],
        "atelier-tracking-task": ["own-data"],
    }.items():
        assert iam.list_role_policies(RoleName=role)["PolicyNames"] == names
        assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
